/** @file Writes the pages of runs (running and failed ones too), sweeps and benchmarks. */

import { existsSync, mkdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { UserError } from "../config/errors.ts";
import { suggest } from "../config/problems.ts";
import { SweepFolder } from "../sweeps/folder.ts";
import { countStates, sweepState } from "../sweeps/state.ts";
import { benchmarkPage } from "./benchmarks/page.ts";
import { readBenchmarks } from "./benchmarks/schema.ts";
import { claimRuns } from "./benchmarks/verdict.ts";
import { compare } from "./compare/comparison.ts";
import { comparisonPage } from "./compare/page.ts";
import { findRuns } from "./compare/runs.ts";
import { writeFileAtomic } from "../runtime/files.ts";
import { allStudies } from "./studies/evidence.ts";
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

/**
 * Write the page of published numbers and claims.
 * @param names papers in configs/benchmarks; all when empty
 * @throws UserError when a name is none
 */
export function writeBenchmarks(names: readonly string[], out: string): string {
  const all = readBenchmarks();
  for (const name of names) {
    if (!all.has(name)) {
      throw new UserError(
        `there is no configs/benchmarks/${name}.yaml`,
        suggest(name, [...all.keys()], "there are"),
      );
    }
  }
  const chosen = new Map([...all].filter(([name]) => names.length === 0 || names.includes(name)));
  const studies = allStudies();
  const page = benchmarkPage(
    chosen,
    (claim) => claimRuns(claim.sweep, "results", studies),
    dirname(out),
  );
  mkdirSync(dirname(out), { recursive: true });
  writeFileAtomic(out, page);
  return out;
}
