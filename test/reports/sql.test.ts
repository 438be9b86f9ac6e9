/** @file SQL over results. Needs DuckDB's package, which is optional. */

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { UserError } from "../../src/config/errors.ts";
import { queryTables } from "../../src/reports/compare/sql.ts";
import { writeMetricsParquet } from "../../src/trainers/logging/metrics.ts";

let hasDuckDb = true;
try {
  createRequire(import.meta.url).resolve("@duckdb/node-api");
} catch {
  hasDuckDb = false;
  console.log(
    "skipped: @duckdb/node-api is not installed (npm install --no-save @duckdb/node-api)",
  );
}

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "tessera-sql-"));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const runs = [
  { run: "a", seed: 0, score: "psnr", value: 20 },
  { run: "b", seed: 1, score: "psnr", value: 24 },
  { run: "c", seed: 0, score: "it's", value: null },
];

test.skipIf(!hasDuckDb)("a query sees the rows, and its answer is numbers and text", async () => {
  const query =
    "select score, count(*) as n, avg(value) as mean, list(run order by run) as runs from runs group by score order by n desc";
  expect(await queryTables({ runs }, query)).toEqual([
    { score: "psnr", n: 2, mean: 22, runs: '["a","b"]' },
    { score: "it's", n: 1, mean: null, runs: '["c"]' },
  ]);
  await expect(queryTables({ runs }, "select nothing from runs")).rejects.toThrow(UserError);
});

test.skipIf(!hasDuckDb)("a run's metrics.parquet can be read by name", async () => {
  mkdirSync(join(dir, "run"));
  const rows = [1, 2, 3].map((step) => ({
    stage: "tokenizer",
    step,
    split: "train",
    loss: 1 / step,
  }));
  writeFileSync(
    join(dir, "run/metrics.jsonl"),
    rows.map((row) => `${JSON.stringify(row)}\n`).join(""),
  );
  const file = join(dir, "run/metrics.parquet");
  writeMetricsParquet(join(dir, "run/metrics.jsonl"), file);
  const query = `select stage, max(step) as last, min(loss) as best from '${file}' group by stage`;
  expect(await queryTables({}, query)).toEqual([{ stage: "tokenizer", last: 3, best: 1 / 3 }]);
});

test.skipIf(hasDuckDb)("without the package the error says what to install", async () => {
  await expect(queryTables({ runs }, "select 1")).rejects.toThrow(/@duckdb\/node-api/);
});
