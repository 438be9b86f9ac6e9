/** @file Cancelling a sweep: a file that every launcher on every machine looks for. */

import { writeFileAtomic } from "../runtime/files.ts";
import type { SweepFolder } from "./folder.ts";
import { Journal } from "./journal.ts";

/** Ask all launchers to let their trials save and stop. Returns what was done, in words. */
export function cancelSweep(folder: SweepFolder): Promise<string> {
  writeFileAtomic(folder.cancelPath, `${JSON.stringify({ time: new Date().toISOString() })}\n`);
  new Journal(folder.dir).append({ event: "cancelled" });
  return Promise.resolve("cancelled: running trials save a checkpoint and stop");
}
