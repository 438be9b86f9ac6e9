/**
 * @file Inception score (Salimans et al. 2016): exp of the mean KL divergence from each sample's
 * class distribution to the mean one. High when samples are each clear and together varied.
 */

import { UserError } from "../../config/errors.ts";

export interface InceptionScore {
  readonly mean: number;
  /** Population deviation over the splits. */
  readonly deviation: number;
  readonly splits: readonly number[];
}

/** Log-softmax of row `row`, into `out`. */
function logSoftmax(logits: Float32Array | Float64Array, row: number, out: Float64Array): void {
  let top = Number.NEGATIVE_INFINITY;
  for (let k = 0; k < out.length; k++) {
    out[k] = logits[row * out.length + k]!;
    top = Math.max(top, out[k]!);
  }
  let sum = 0;
  for (const value of out) {
    sum += Math.exp(value - top);
  }
  const normaliser = top + Math.log(sum);
  for (let k = 0; k < out.length; k++) {
    out[k]! -= normaliser;
  }
}

/** The score of rows [from, to). */
function scoreOf(logits: Float32Array | Float64Array, d: number, from: number, to: number): number {
  const mean = new Float64Array(d);
  const logs = new Float64Array(d);
  let entropy = 0; // Σ_n Σ_k p log p
  for (let row = from; row < to; row++) {
    logSoftmax(logits, row, logs);
    for (let k = 0; k < d; k++) {
      const p = Math.exp(logs[k]!);
      mean[k]! += p / (to - from);
      entropy += p * logs[k]!;
    }
  }
  let cross = 0;
  for (const p of mean) {
    cross += p > 0 ? p * Math.log(p) : 0;
  }
  return Math.exp(entropy / (to - from) - cross);
}

/**
 * The score of logits [n, classes], row-major, over consecutive splits of equal size (the remainder
 * goes to the last ones as numpy.array_split's goes to the first: sizes differ by at most one).
 * @throws UserError when a logit is not finite or a split would be empty
 */
export function inceptionScore(
  logits: Float32Array | Float64Array,
  classes: number,
  splits: number,
): InceptionScore {
  const n = logits.length / classes;
  if (n < splits) {
    throw new UserError(
      `an inception score of ${splits} splits needs at least as many samples, got ${n}`,
      "raise `clips` or lower `splits`",
    );
  }
  if (!logits.every((value) => Number.isFinite(value))) {
    throw new UserError(
      "an inception score needs finite logits",
      "a model whose training diverged makes NaN pixels: look at its loss curve",
    );
  }
  const edges = Array.from({ length: splits + 1 }, (_, i) => Math.floor((i * n) / splits));
  const scores = edges.slice(1).map((to, i) => scoreOf(logits, classes, edges[i]!, to));
  const mean = scores.reduce((sum, value) => sum + value, 0) / splits;
  const variance = scores.reduce((sum, value) => sum + (value - mean) ** 2, 0) / splits;
  return { mean, deviation: Math.sqrt(variance), splits: scores };
}
