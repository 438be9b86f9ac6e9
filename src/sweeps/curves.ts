/** @file The values that searches and pruners look at: a trial's curve so far, and its result. */

import { join } from "node:path";
import { readFileSync } from "node:fs";
import type { Score } from "../eval/suite.ts";
import { type SweepFolder, readLines, type TrialRow } from "./folder.ts";
import { runDirOf } from "./state.ts";

export interface CurvePoint {
  readonly step: number;
  readonly value: number;
}

type Row = { readonly [key: string]: unknown };

/**
 * A curve of a running or finished trial: "stage/split/metric", e.g. "transformer/validation/loss".
 * A metric's name may hold slashes itself.
 */
export function curveOf(folder: SweepFolder, trial: TrialRow, metric: string): CurvePoint[] {
  const [stage, split, ...rest] = metric.split("/");
  const name = rest.join("/");
  return readLines<Row>(join(runDirOf(folder, trial.dir), "metrics.jsonl")).flatMap((row) => {
    const value = row[name];
    return row["stage"] === stage && row["split"] === split && typeof value === "number"
      ? [{ step: Number(row["step"]), value }]
      : [];
  });
}

/** Is the metric a curve ("stage/split/name") and not a score ("suite/name")? */
export function isCurve(metric: string): boolean {
  return /^(tokenizer|transformer)\/(train|validation)\/./.test(metric);
}

/** What a trial has come to: a score of its evaluation, or the last value of a curve. */
export function resultOf(
  folder: SweepFolder,
  trial: TrialRow,
  metric: string,
  dir: string = trial.dir,
): number | undefined {
  if (isCurve(metric)) {
    return curveOf(folder, { ...trial, dir }, metric).at(-1)?.value;
  }
  try {
    const { scores } = JSON.parse(
      readFileSync(join(runDirOf(folder, dir), "scores.json"), "utf8"),
    ) as { scores: readonly Score[] };
    return scores.find(({ name }) => name === metric)?.value;
  } catch {
    return undefined;
  }
}
