/** @file Writes report.html into a run folder. Works on running and failed runs too, with what is there. */

import { join } from "node:path";
import { writeFileAtomic } from "../runtime/files.ts";
import { runPage } from "./page.ts";
import { readRun } from "./run-folder.ts";
import { tokenUsage } from "./tokens.ts";

/**
 * Write the report of a run: `<dir>/report.html`.
 * @returns the page's path
 * @throws UserError when `dir` is not a run folder
 */
export async function writeReport(dir: string): Promise<string> {
  const run = readRun(dir);
  const path = join(dir, "report.html");
  writeFileAtomic(path, await runPage(run, await tokenUsage(dir)));
  return path;
}
