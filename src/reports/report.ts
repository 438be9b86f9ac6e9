/** @file Writes report.html into a run folder. Works on running and failed runs too, with what is there. */

import { existsSync } from "node:fs";
import { basename, join } from "node:path";
import { SweepFolder } from "../sweeps/folder.ts";
import { countStates, sweepState } from "../sweeps/state.ts";
import { compare } from "./compare/comparison.ts";
import { comparisonPage } from "./compare/page.ts";
import { findRuns } from "./compare/runs.ts";
import { writeFileAtomic } from "../runtime/files.ts";
import { runPage } from "./page.ts";
import { readRun } from "./run-folder.ts";
import { tokenUsage } from "./tokens.ts";

/**
 * Write the report of a run: `<dir>/report.html`.
 * @returns the page's path
 * @throws UserError when `dir` is not a run folder
 */
export async function writeReport(
  dir: string,
  path: string = join(dir, "report.html"),
): Promise<string> {
  const run = readRun(dir);
  writeFileAtomic(path, await runPage(run, await tokenUsage(dir)));
  return path;
}

/**
 * Write the page of a sweep (`<dir>/report.html`), or of other runs beside each other.
 * @param named sweeps, run folders and folders of runs
 * @param out the page's path; a sweep's folder when left out
 */
export async function writeComparison(named: readonly string[], out: string): Promise<string> {
  const [first] = named;
  const sweep =
    named.length === 1 && first !== undefined && existsSync(join(first, "sweep.json"))
      ? SweepFolder.open(first)
      : undefined;
  const comparison = compare(findRuns(named));
  const states = sweep ? countStates(sweepState(sweep)) : [];
  const page = await comparisonPage(comparison, {
    title: sweep?.record.name ?? named.map((name) => basename(name)).join(" · "),
    folder: join(out, ".."),
    facts: [
      ["runs", String(comparison.groups.reduce((sum, { runs }) => sum + runs.length, 0))],
      ["configurations", String(comparison.groups.length)],
      ...states.map(([state, count]): [string, string] => [state, String(count)]),
      ...(sweep ? ([["begun", sweep.record.created]] as const) : []),
    ],
  });
  writeFileAtomic(out, page);
  return out;
}
