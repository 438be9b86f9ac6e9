/**
 * @file Which trial is next. Trials that share a tokenizer wait while one of them trains it, and the
 * first of each such group goes before the others, so that as many tokenizers as possible are
 * trained side by side and each only once.
 */

import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import type { SweepFolder, TrialRow } from "./folder.ts";

/** The first trial of each stage, then the others; each in the order of the plan. */
export function leadersFirst(trials: readonly TrialRow[]): TrialRow[] {
  const seen = new Set<string>();
  const leaders: TrialRow[] = [];
  const followers: TrialRow[] = [];
  for (const trial of trials) {
    const first = trial.stage === undefined || !seen.has(trial.stage);
    if (trial.stage !== undefined) {
      seen.add(trial.stage);
    }
    (first ? leaders : followers).push(trial);
  }
  return [...leaders, ...followers];
}

/** Has the tokenizer of this stage been trained? */
export function isStageDone(folder: SweepFolder, stage: string): boolean {
  const { cwd, output } = folder.record;
  return existsSync(join(resolve(cwd, output), ".stages", `${stage}.json`));
}

/**
 * Whether a trial may start now.
 * @param running trials that are being worked on, here or elsewhere
 */
export function mayStart(
  folder: SweepFolder,
  trial: TrialRow,
  running: Iterable<TrialRow>,
): boolean {
  const { stage } = trial;
  if (stage === undefined || folder.sweep.command !== undefined) {
    return true;
  }
  for (const other of running) {
    if (other.stage === stage && other.id !== trial.id && !isStageDone(folder, stage)) {
      return false;
    }
  }
  return true;
}
