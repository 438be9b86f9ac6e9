/** @file Cancelling a sweep: a file that every launcher on every machine looks for. */

import { writeFileAtomic } from "../runtime/files.ts";
import type { SweepFolder } from "./folder.ts";
import { Journal } from "./journal.ts";
import { slurm, submitted } from "./slurm/submit.ts";

/** Ask all launchers to let their trials save and stop. Returns what was done, in words. */
export async function cancelSweep(folder: SweepFolder): Promise<string> {
  writeFileAtomic(folder.cancelPath, `${JSON.stringify({ time: new Date().toISOString() })}\n`);
  new Journal(folder.dir).append({ event: "cancelled" });
  const told = "cancelled: running trials save a checkpoint and stop";
  const jobs = [...submitted(folder).keys()];
  if (jobs.length === 0) {
    return told;
  }
  // Only what waits is taken from the queue: what runs sees the file, saves, and ends by itself.
  await slurm("scancel", ["--state=PENDING", ...jobs]);
  return `${told}; queued tasks of ${jobs.length} arrays are taken from Slurm's queue`;
}
