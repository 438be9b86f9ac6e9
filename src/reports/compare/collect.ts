/** @file A sweep's results as files beside it: a line a run and score. */

import { join } from "node:path";
import { writeFileAtomic } from "../../runtime/files.ts";
import { compare } from "./comparison.ts";
import { csv, parquet } from "./formats.ts";
import { findRuns } from "./runs.ts";
import { runRows } from "./tables.ts";

/** Write trials.csv and trials.parquet into a sweep's folder. Returns their paths. */
export function collectSweep(dir: string): Promise<string[]> {
  const rows = runRows(compare(findRuns([dir])));
  const paths = { csv: join(dir, "trials.csv"), parquet: join(dir, "trials.parquet") };
  writeFileAtomic(paths.csv, csv(rows));
  writeFileAtomic(paths.parquet, parquet(rows));
  return Promise.resolve([paths.csv, paths.parquet]);
}
