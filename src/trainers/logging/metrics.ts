/**
 * @file metrics.jsonl, the record of a run's curves: one object a line, {stage, step, split, ...}.
 * It holds nothing that depends on the clock, so an interrupted and resumed run ends with the very
 * bytes of an uninterrupted one. metrics.parquet is the same table for SQL and data frames.
 */

import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { parquetWriteBuffer } from "hyparquet-writer";
import { writeFileAtomic } from "../../runtime/files.ts";

/** One line. Numbers that are not finite are written as null. */
export interface MetricsLine {
  readonly stage: string;
  /** Optimizer steps done when the values were taken. */
  readonly step: number;
  readonly split: "train" | "validation";
  readonly [metric: string]: string | number | null;
}

/** All whole lines of a metrics file; a line cut off by a crash is left out. */
export function readMetrics(path: string): MetricsLine[] {
  if (!existsSync(path)) {
    return [];
  }
  const lines: MetricsLine[] = [];
  // What follows the last newline was cut off.
  for (const line of readFileSync(path, "utf8").split("\n").slice(0, -1)) {
    try {
      lines.push(JSON.parse(line) as MetricsLine);
    } catch {
      break; // nothing after a damaged line can be trusted to be in order
    }
  }
  return lines;
}

/** Append one line. */
export function appendMetrics(path: string, line: MetricsLine): void {
  appendFileSync(path, `${JSON.stringify(line)}\n`);
}

/**
 * Keep what a checkpoint vouches for: the lines of other stages, and this stage's up to the
 * checkpoint's step. Later lines will be written again.
 */
export function truncateMetrics(path: string, stage: string, step: number): void {
  const kept = readMetrics(path).filter((line) => line.stage !== stage || line.step <= step);
  writeFileAtomic(path, kept.map((line) => `${JSON.stringify(line)}\n`).join(""));
}

/** Write the table of all metrics: a column for each key, null where a line has no such key. */
export function writeMetricsParquet(jsonl: string, path: string): void {
  const lines = readMetrics(jsonl);
  const names = [...new Set(lines.flatMap((line) => Object.keys(line)))];
  if (lines.length === 0) {
    return;
  }
  const buffer = parquetWriteBuffer({
    columnData: names.map((name) => {
      const data = lines.map((line) => line[name] ?? null);
      const text = data.some((value) => typeof value === "string");
      const type = text ? "STRING" : name === "step" ? "INT32" : "DOUBLE";
      return { name, data, type, nullable: data.includes(null) };
    }),
  });
  writeFileAtomic(path, new Uint8Array(buffer));
}
