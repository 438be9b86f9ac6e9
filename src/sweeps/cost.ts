/**
 * @file What a sweep will cost, estimated: seconds a step and an evaluation that earlier runs took
 * (their timing.jsonl), times the steps of the trials. Without earlier runs, steps only.
 */

import { existsSync, readdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { readLines } from "./folder.ts";
import { finishedRuns, type Plan } from "./plan.ts";

export interface Cost {
  readonly trials: number;
  /** Already finished somewhere below the output folder. */
  readonly finished: number;
  /** Optimizer steps of what is left, each shared tokenizer counted once. */
  readonly steps: { readonly tokenizer: number; readonly transformer: number };
  readonly tokenizers: number;
  /** Seconds of what is left, one trial after the other; undefined without runs to judge by. */
  readonly seconds?: number;
  /** The runs that the estimate is taken from. */
  readonly judgedBy: number;
}

interface Timing {
  readonly stage: string;
  readonly step_seconds?: number;
  readonly seconds?: number;
}

/** Estimate a plan's cost. */
export function costOf(plan: Plan, output: string): Cost {
  const finished = finishedRuns(output);
  const left = plan.trials.filter(({ id }) => !finished.has(id));
  const names = new Set<string>();
  const stages = new Set<string>();
  let tokenizer = 0;
  let transformer = 0;
  for (const trial of left) {
    names.add(basename(dirname(trial.dir)));
    const key = trial.stage ?? trial.id;
    if (!stages.has(key)) {
      stages.add(key);
      tokenizer += trial.steps.tokenizer;
    }
    transformer += trial.steps.transformer;
  }
  const timings = runsOf(output, names, 20).map((dir) =>
    readLines<Timing>(join(dir, "timing.jsonl")),
  );
  const perStep = (stage: string): number =>
    mean(timings.flatMap((rows) => rows.filter((row) => row.stage === stage)).map(stepSeconds));
  const evaluation = mean(
    timings.map((rows) =>
      sum(rows.filter((r) => r.stage === "evaluation").map((r) => r.seconds ?? 0)),
    ),
  );
  const seconds =
    tokenizer * perStep("tokenizer") +
    transformer * perStep("transformer") +
    left.length * evaluation;
  return {
    trials: plan.trials.length,
    finished: plan.trials.length - left.length,
    steps: { tokenizer, transformer },
    tokenizers: stages.size,
    ...(timings.length > 0 && { seconds }),
    judgedBy: timings.length,
  };
}

/** Some runs of these experiments that have times. */
function runsOf(output: string, names: ReadonlySet<string>, most: number): string[] {
  return [...names]
    .filter((name) => existsSync(join(output, name)))
    .flatMap((name) => readdirSync(join(output, name)).map((id) => join(output, name, id)))
    .filter((dir) => existsSync(join(dir, "timing.jsonl")))
    .slice(-most);
}

const stepSeconds = (row: Timing): number => row.step_seconds ?? 0;
const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
const mean = (values: readonly number[]): number =>
  values.length === 0 ? 0 : sum(values) / values.length;
