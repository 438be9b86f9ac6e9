/**
 * @file Pruners: pure functions that say why a trial should stop, from its curve and those of the
 * others. Values are "smaller is better" here; the caller turns them round.
 *
 * asha     asynchronous successive halving (Li et al. 2020, "A System for Massively Parallel
 *          Hyperparameter Tuning"), the stopping variant: rungs at r·η^k steps; a trial that reaches
 *          a rung goes on if it is among the best 1/η of all that have reached it so far
 * median   Golovin et al. 2017 ("Google Vizier", section 3.1): a trial stops whose best value so far
 *          is worse than the median of the others' running means at the same step
 * wilcoxon a configuration stops getting seeds when it is worse than the best one on the seeds that
 *          both have, by the one-sided signed-rank test
 */

import type { CurvePoint } from "../curves.ts";

/** Rungs that a curve has reached, and its value at each: its best one until then. */
export function rungValues(
  curve: readonly CurvePoint[],
  first: number,
  eta: number,
): { readonly rung: number; readonly value: number }[] {
  const last = curve.at(-1)?.step ?? 0;
  const found: { rung: number; value: number }[] = [];
  for (let rung = first; rung <= last; rung *= eta) {
    // The first look at or after the rung is what is compared.
    const until = curve.find(({ step }) => step >= rung)!.step;
    const value = Math.min(...curve.filter(({ step }) => step <= until).map((p) => p.value));
    found.push({ rung, value });
  }
  return found;
}

/**
 * ASHA's decision at the highest rung that the trial has reached.
 * @param others the curves of all other trials
 */
export function ashaStops(
  curve: readonly CurvePoint[],
  others: readonly (readonly CurvePoint[])[],
  first: number,
  eta: number,
): string | undefined {
  for (const { rung, value } of rungValues(curve, first, eta)) {
    const rivals = others.flatMap((other) => {
      const at = rungValues(other, first, eta).find((entry) => entry.rung === rung);
      return at ? [at.value] : [];
    });
    const all = [...rivals, value].sort((a, b) => a - b);
    // With fewer than η trials at a rung there is no best 1/η yet: the trial goes on.
    const kept = Math.floor(all.length / eta);
    if (all.length >= eta && value > all[kept - 1]!) {
      return `not among the best 1/${eta} of ${all.length} at step ${rung}`;
    }
  }
  return undefined;
}

/** The median rule at the trial's last step. */
export function medianStops(
  curve: readonly CurvePoint[],
  others: readonly (readonly CurvePoint[])[],
  warmup: number,
  startup: number,
): string | undefined {
  const last = curve.at(-1);
  if (last === undefined || last.step <= warmup) {
    return undefined;
  }
  const means = others.flatMap((other) => {
    const until = other.filter(({ step }) => step <= last.step);
    return (other.at(-1)?.step ?? 0) >= last.step && until.length > 0
      ? [until.reduce((sum, { value }) => sum + value, 0) / until.length]
      : [];
  });
  if (means.length < startup) {
    return undefined;
  }
  const sorted = means.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  const median = sorted.length % 2 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
  const best = Math.min(...curve.map(({ value }) => value));
  return best > median
    ? `its best value ${best.toPrecision(4)} is worse than the median ${median.toPrecision(4)} of ${means.length} at step ${last.step}`
    : undefined;
}

/**
 * Whether a configuration deserves no further seed.
 * @param own results by seed, and `best` those of the best configuration
 * @param test the one-sided p-value of "own is larger" from paired differences
 */
export function seedsStop(
  own: ReadonlyMap<number, number>,
  best: ReadonlyMap<number, number>,
  level: number,
  test: (differences: readonly number[]) => number,
): string | undefined {
  const seeds = [...own.keys()].filter((seed) => best.has(seed));
  const p = test(seeds.map((seed) => own.get(seed)! - best.get(seed)!));
  return seeds.length > 0 && p <= level
    ? `worse than the best configuration on ${seeds.length} seeds, p = ${p.toPrecision(2)}`
    : undefined;
}
