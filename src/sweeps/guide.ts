/**
 * @file What a launcher asks while it works: whether a running trial should stop early, whether one
 * that has not begun should begin at all, and which trial a search wants next. All of it follows from
 * the sweep's folder, so any launcher on any machine comes to it.
 */

import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { wilcoxonSignedRank } from "../eval/statistics/tests.ts";
import { linkNew } from "./claims.ts";
import { curveOf, type CurvePoint, isCurve, resultOf } from "./curves.ts";
import type { SweepFolder, TrialRow } from "./folder.ts";
import type { Journal } from "./journal.ts";
import { Planner, type Trial, withSeed } from "./plan.ts";
import { labelOf, seedsOf } from "./points.ts";
import type { Space } from "./schema.ts";
import { ashaStops, medianStops, seedsStop } from "./search/pruners.ts";
import { type Observation, propose, valuesOf } from "./search/tpe.ts";
import { sweepState } from "./state.ts";

export interface Guide {
  /** A new trial; "wait" while others must end first; "done" when there is none. */
  ask(): TrialRow | "wait" | "done";
  /** Why a running trial should stop now. */
  prune(trial: TrialRow): string | undefined;
  /** Why there is no use in starting this trial. */
  skip(trial: TrialRow): string | undefined;
}

/** The guide of a sweep: its search and its pruner. */
export function guideOf(folder: SweepFolder, journal: Journal): Guide {
  const { pruner, search } = folder.sweep;
  return {
    ask: () => (search ? askNext(folder) : "done"),
    prune(trial) {
      if (!pruner || pruner.type === "wilcoxon") {
        return undefined;
      }
      const sign = pruner.direction === "min" ? 1 : -1;
      const curve = (of: TrialRow): CurvePoint[] =>
        curveOf(folder, of, pruner.metric).map(({ step, value }) => ({
          step,
          value: sign * value,
        }));
      const own = curve(trial);
      if (own.length === 0) {
        return undefined;
      }
      const others = folder
        .trials()
        .flatMap((other) => (other.id === trial.id ? [] : [curve(other)]));
      return pruner.type === "asha"
        ? ashaStops(own, others, Math.max(1, pruner.warmup), pruner.eta)
        : medianStops(own, others, pruner.warmup, pruner.startup);
    },
    skip(trial) {
      if (pruner?.type !== "wilcoxon") {
        return undefined;
      }
      const why = seedHasNoUse(folder, trial, pruner);
      if (why !== undefined) {
        journal.append({ event: "skipped", trial: trial.id, why });
      }
      return why;
    },
  };
}

/** The Wilcoxon pruner: is this trial's configuration out of the running? */
function seedHasNoUse(
  folder: SweepFolder,
  trial: TrialRow,
  { metric, direction, p }: { metric: string; direction: "min" | "max"; p: number },
): string | undefined {
  const sign = direction === "min" ? 1 : -1;
  const byHash = new Map<string, Map<number, number>>();
  for (const { trial: other, state, dir } of sweepState(folder)) {
    const value = state === "finished" ? resultOf(folder, other, metric, dir) : undefined;
    if (value !== undefined) {
      const seeds = byHash.get(other.hash) ?? new Map<number, number>();
      seeds.set(other.seed, sign * value);
      byHash.set(other.hash, seeds);
    }
  }
  const own = byHash.get(trial.hash);
  if (own === undefined) {
    return undefined;
  }
  const mean = (values: ReadonlyMap<number, number>): number =>
    [...values.values()].reduce((a, b) => a + b, 0) / values.size;
  const best = [...byHash.values()].reduce((a, b) => (mean(b) < mean(a) ? b : a));
  return best === own
    ? undefined
    : seedsStop(own, best, p, (d) => wilcoxonSignedRank(d, "greater").p);
}

/** The next trial of a search, decided and written down by whoever is first. */
function askNext(folder: SweepFolder): TrialRow | "wait" | "done" {
  const search = folder.sweep.search!;
  const seeds = seedsOf(folder.sweep);
  const states = sweepState(folder);
  const sign = search.direction === "min" ? 1 : -1;
  const results = states.map(({ trial, state, dir }) => {
    // A pruned trial's curve tells too; of one that failed nothing is known.
    const known = state === "finished" || (state === "pruned" && isCurve(search.metric));
    return known ? resultOf(folder, trial, search.metric, dir) : undefined;
  });
  const hours = states.reduce((sum, { seconds }) => sum + seconds, 0) / 3600;
  const reached = results.some(
    (value) =>
      value !== undefined && search.target !== undefined && sign * value <= sign * search.target,
  );
  const count = states.length;
  if (
    count >= search.trials * seeds.length ||
    (search.hours !== undefined && hours >= search.hours) ||
    reached
  ) {
    return "done";
  }
  const point = Math.floor(count / seeds.length);
  const observed = new Map<number, { unit: readonly number[]; values: number[]; open: boolean }>();
  for (const [i, { state }] of states.entries()) {
    const ask = folder.asked(i) as Asked;
    const entry = observed.get(ask.point) ?? { unit: ask.unit, values: [], open: false };
    const value = results[i];
    if (value !== undefined) {
      entry.values.push(sign * value);
    }
    entry.open ||= value === undefined && (state === "running" || state === "pending");
    observed.set(ask.point, entry);
  }
  const space = search.space as Space;
  const known = observed.get(point);
  const observations: Observation[] = [...observed.values()].flatMap(({ unit, values, open }) =>
    values.length === 0 && !open
      ? []
      : [{ unit, value: values.length > 0 && !open ? average(values) : undefined }],
  );
  const planner = plannerOf(folder);
  const seed = seeds[count % seeds.length];
  // Draws that `exclude` or `where` leave out are drawn again.
  for (let draw = 0; draw < 100; draw++) {
    const n = point + draw * 1_000_003;
    const unit =
      known?.unit ?? propose(space, search.sampler, n, search.seed, search.startup, observations);
    const set = valuesOf(space, unit);
    const labels = Object.fromEntries(Object.entries(set).map(([k, v]) => [k, labelOf(v)]));
    const trial = planner.trial(withSeed({ labels, set, overrides: [] }, seed), count);
    if (trial !== undefined) {
      const asked: Asked = { ...trial, point, unit };
      linkNew(folder.askPath(count), `${JSON.stringify(asked)}\n`);
      return folder.trials().at(-1)!;
    }
  }
  return "done";
}

/** Resolves a search's points on the base that was frozen when the sweep was begun. */
function plannerOf(folder: SweepFolder): Planner {
  const base = resolve(folder.dir, "base.yaml");
  const { sweep, record } = folder;
  return existsSync(base)
    ? new Planner({ ...sweep, experiment: base, overrides: [] }, base)
    : new Planner(sweep, record.file, record.overrides);
}

const average = (values: readonly number[]): number =>
  values.reduce((a, b) => a + b, 0) / values.length;

/** A trial that a search has asked for, with its place in the search space. */
export interface Asked extends Trial {
  readonly point: number;
  readonly unit: readonly number[];
}
