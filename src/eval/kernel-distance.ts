/**
 * @file Kernel distance: the squared maximum mean discrepancy of two feature sets under the cubic
 * polynomial kernel k(x, y) = (x·y / d + 1)³ (Bińkowski et al. 2018 as KID; the same on video
 * features is KVD, Unterthiner et al. 2019). Unbiased, so unlike the Fréchet distance its expectation
 * does not depend on the sample count, and it can be a little below zero for equal laws.
 */

import { UserError } from "../config/errors.ts";

/** k of row i of `x` and row j of `y`. */
function kernel(x: Float64Array, i: number, y: Float64Array, j: number, d: number): number {
  let product = 0;
  for (let k = 0; k < d; k++) {
    product += x[i * d + k]! * y[j * d + k]!;
  }
  return (product / d + 1) ** 3;
}

/** Mean of k over pairs of different rows of one set. */
function meanWithin(x: Float64Array, d: number): number {
  const n = x.length / d;
  let sum = 0;
  for (let i = 0; i < n; i++) {
    for (let j = i + 1; j < n; j++) {
      sum += kernel(x, i, x, j, d); // symmetric: each unordered pair once
    }
  }
  return (2 * sum) / (n * (n - 1));
}

/** Mean of k over all pairs of a row of `x` and a row of `y`. */
function meanAcross(x: Float64Array, y: Float64Array, d: number): number {
  const [m, n] = [x.length / d, y.length / d];
  let sum = 0;
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      sum += kernel(x, i, y, j, d);
    }
  }
  return sum / (m * n);
}

/**
 * The unbiased estimate over all pairs.
 * @param x [m, d] row-major, m >= 2
 * @param y [n, d], n >= 2
 */
export function kernelDistance(x: Float64Array, y: Float64Array, d: number): number {
  const m = x.length / d;
  const n = y.length / d;
  if (!Number.isInteger(m) || !Number.isInteger(n)) {
    throw new RangeError(
      `${x.length} and ${y.length} values are no whole numbers of ${d}-d features`,
    );
  }
  if (m < 2 || n < 2) {
    throw new UserError(
      `a kernel distance needs at least 2 samples on each side, got ${m} and ${n}`,
      "raise the suite's `clips`",
    );
  }
  const distance = meanWithin(x, d) + meanWithin(y, d) - 2 * meanAcross(x, y, d);
  if (!Number.isFinite(distance)) {
    throw new UserError(
      "a kernel distance needs finite features",
      "a model whose training diverged makes NaN pixels: look at its loss curve",
    );
  }
  return distance;
}
