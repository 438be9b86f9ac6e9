/** @file Beginning a sweep, and coming back to it with a file that has changed meanwhile. */

import { existsSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { writeFileAtomic } from "../runtime/files.ts";
import { outputOf, SweepFolder, type SweepRecord, type TrialRow } from "./folder.ts";
import { Journal } from "./journal.ts";
import type { Plan } from "./plan.ts";
import { snapshotCode } from "./snapshot.ts";

/** How a plan differs from the one that a sweep was begun with. */
export interface PlanChange {
  readonly added: readonly TrialRow[];
  /** Planned before and not now. */
  readonly dropped: readonly TrialRow[];
  /** Settings of the sweep besides its trials that are not what they were. */
  readonly settings: readonly string[];
}

/** The folder of a plan's sweep. */
export function folderOf(plan: Plan, output: string = outputOf(plan)): string {
  return join(output, "sweeps", plan.sweep.name);
}

/** What has changed since the sweep in a folder was begun; undefined when there is none yet. */
export function changesOf(plan: Plan, dir: string): PlanChange | undefined {
  if (!existsSync(join(dir, "sweep.json"))) {
    return undefined;
  }
  const folder = SweepFolder.open(dir);
  const before = new Map(folder.trials().map((trial) => [trial.id, trial]));
  const now = new Set(plan.trials.map(({ id }) => id));
  const settings = (["search", "pruner", "resources", "retries", "command"] as const).filter(
    (key) => JSON.stringify(folder.sweep[key]) !== JSON.stringify(plan.sweep[key]),
  );
  return {
    added: plan.trials.filter(({ id }) => !before.has(id)),
    // What a search has asked for is not planned, and not dropped.
    dropped: plan.sweep.search ? [] : [...before.values()].filter(({ id }) => !now.has(id)),
    settings,
  };
}

/** Does the change alter what will be run? */
export function isChanged({ added, dropped, settings }: PlanChange): boolean {
  return added.length + dropped.length + settings.length > 0;
}

/**
 * Begin a sweep, or take over a changed plan: what is frozen is written, and the program copied.
 * Runs and claims that are there already stay.
 */
export function beginSweep(
  plan: Plan,
  options: { readonly overrides?: readonly string[]; readonly output?: string } = {},
): SweepFolder {
  const output = options.output ?? outputOf(plan);
  const dir = folderOf(plan, output);
  const again = existsSync(join(dir, "sweep.json"));
  const record: SweepRecord = {
    name: plan.sweep.name,
    sweep: plan.sweep,
    file: plan.file,
    overrides: options.overrides ?? [],
    output,
    cwd: process.cwd(),
    code: snapshotCode(dir),
    created: new Date().toISOString(),
  };
  if (plan.base !== undefined) {
    writeFileAtomic(resolve(dir, "base.yaml"), `${plan.base}\n`);
  }
  const folder = SweepFolder.create(dir, record, plan.trials);
  if (again) {
    new Journal(dir).append({ event: "replanned" });
  }
  return folder;
}

/** Take back a cancellation and forget how often trials have failed. */
export function resumeSweep(folder: SweepFolder): void {
  rmSync(folder.cancelPath, { force: true });
  new Journal(folder.dir).append({ event: "resumed" });
}
