/**
 * @file Whether two sides of a workload compute the same. A bench of two different computations would say
 * nothing.
 */

import type { Outcome } from "./workloads.ts";

/** The two sides compute different things. */
export class Mismatch extends Error {}

/**
 * Largest difference of a scalar of the first repetition, by its name: relative, but absolute below one,
 * since a tokenizer's small loss is the difference of terms of that order. What is left beside
 * rounding are single bits of codes whose latents are all but zero, so that rounding decides them.
 */
const TOLERANCES: { readonly [name: string]: number } = {
  loss: 1e-4,
  grad_norm: 1e-3,
  reconstruction: 1e-4,
  commitment: 1e-4,
  accuracy: 1e-3,
};

/**
 * The same for later repetitions, which tell whether the updates are the same. Adam divides a gradient
 * by its own size: where one is all but zero, rounding decides the direction of the first updates.
 */
const LATER_TOLERANCES: typeof TOLERANCES = { loss: 2e-3 };

/** Least share of equal tokens: a near tie of two logits may fall either way. */
const EQUAL_IDS = 0.98;

/**
 * Compare the outcomes of one repetition.
 * @param index counted from 0
 * @throws Mismatch
 */
export function checkOutcome(ours: Outcome, theirs: Outcome, index: number): void {
  const tolerances = index === 0 ? TOLERANCES : LATER_TOLERANCES;
  for (const [name, tolerance] of Object.entries(tolerances)) {
    const [a, b] = [ours.scalars[name], theirs.scalars[name]];
    if (a === undefined || b === undefined) {
      continue;
    }
    // Written so that NaN fails.
    if (!(Math.abs(a - b) <= tolerance * Math.max(1, Math.abs(a), Math.abs(b)))) {
      throw new Mismatch(
        `${name} of repetition ${index + 1} is ${a} here and ${b} in the twin, more than ${tolerance} apart: the two do not compute the same`,
      );
    }
  }
  const share = equalShare(ours, theirs);
  if (share !== undefined && !(share >= EQUAL_IDS)) {
    throw new Mismatch(
      `${(100 * share).toFixed(1)} % of the tokens of repetition ${index + 1} are equal, fewer than ${100 * EQUAL_IDS} %: the two do not decode the same`,
    );
  }
}

/** The share of equal tokens; undefined where there are none. */
function equalShare(ours: Outcome, theirs: Outcome): number | undefined {
  const { ids: a } = ours;
  const { ids: b } = theirs;
  if (a === undefined || b === undefined || a.length === 0) {
    return undefined;
  }
  return a.length === b.length ? a.filter((id, i) => id === b[i]).length / a.length : 0;
}

/** The first outcomes of both, in words. */
export function describeCheck(ours: Outcome, theirs: Outcome): string {
  const scalars = ["loss", "grad_norm"]
    .filter((name) => ours.scalars[name] !== undefined)
    .map((name) => {
      const [a, b] = [ours.scalars[name]!, theirs.scalars[name]!];
      return `${name} ${a.toPrecision(7)} and ${b.toPrecision(7)}`;
    });
  const share = equalShare(ours, theirs);
  if (share !== undefined) {
    const different = new Set(ours.ids).size;
    scalars.push(`${(100 * share).toFixed(2)} % of tokens equal, ${different} different ones`);
  }
  return scalars.join(", ");
}
