/**
 * @file Kernel distance: the squared maximum mean discrepancy of two feature sets under the cubic
 * polynomial kernel k(x, y) = (x·y / d + 1)³ (Bińkowski et al. 2018 as KID; the same on video
 * features is KVD, Unterthiner et al. 2019). Unbiased, so unlike the Fréchet distance its expectation
 * does not depend on the sample count, and it can be a little below zero for equal laws.
 */

import { UserError } from "../../config/errors.ts";

/** A kernel of row i of `x` and row j of `y`. */
export type Kernel = (x: Float64Array, i: number, y: Float64Array, j: number, d: number) => number;

/** exp(-|x - y|² / 2σ²). */
export function gaussianKernel(sigma: number): Kernel {
  return (x, i, y, j, d) => {
    let squares = 0;
    for (let k = 0; k < d; k++) {
      squares += (x[i * d + k]! - y[j * d + k]!) ** 2;
    }
    return Math.exp(-squares / (2 * sigma * sigma));
  };
}

/** The cubic polynomial kernel. */
function cubic(x: Float64Array, i: number, y: Float64Array, j: number, d: number): number {
  let product = 0;
  for (let k = 0; k < d; k++) {
    product += x[i * d + k]! * y[j * d + k]!;
  }
  return (product / d + 1) ** 3;
}

/** Mean of k over pairs of different rows of one set. */
function meanWithin(x: Float64Array, d: number, kernel: Kernel): number {
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
function meanAcross(x: Float64Array, y: Float64Array, d: number, kernel: Kernel): number {
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
 * Which estimate: "unbiased" leaves the pairs of a row with itself out (KVD, KID); "biased" keeps
 * them; "u-statistic" also leaves out pairs of the same index across the sets, which must be equally
 * large.
 */
export type Estimate = "unbiased" | "biased" | "u-statistic";

/** Mean of k(x_i, x_i). */
function meanSelf(x: Float64Array, y: Float64Array, d: number, kernel: Kernel): number {
  const n = x.length / d;
  let sum = 0;
  for (let i = 0; i < n; i++) {
    sum += kernel(x, i, y, i, d);
  }
  return sum / n;
}

/**
 * The estimate over all pairs.
 * @param x [m, d] row-major, m >= 2
 * @param y [n, d], n >= 2
 */
export function kernelDistance(
  x: Float64Array,
  y: Float64Array,
  d: number,
  estimate: Estimate = "unbiased",
  kernel: Kernel = cubic,
): number {
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
  if (estimate === "u-statistic" && m !== n) {
    throw new RangeError(`a U-statistic needs sets of one size, got ${m} and ${n}`);
  }
  let [xx, yy] = [meanWithin(x, d, kernel), meanWithin(y, d, kernel)];
  let xy = meanAcross(x, y, d, kernel);
  if (estimate === "biased") {
    xx = (xx * (m - 1) + meanSelf(x, x, d, kernel)) / m;
    yy = (yy * (n - 1) + meanSelf(y, y, d, kernel)) / n;
  } else if (estimate === "u-statistic") {
    xy = (xy * n - meanSelf(x, y, d, kernel)) / (n - 1);
  }
  const distance = xx + yy - 2 * xy;
  if (!Number.isFinite(distance)) {
    throw new UserError(
      "a kernel distance needs finite features",
      "a model whose training diverged makes NaN pixels: look at its loss curve",
    );
  }
  return distance;
}

/** Rows of a matrix [n, d]. */
function rowsAt(x: Float64Array, indices: ArrayLike<number>, d: number): Float64Array {
  const out = new Float64Array(indices.length * d);
  for (let i = 0; i < indices.length; i++) {
    out.set(x.subarray(indices[i]! * d, (indices[i]! + 1) * d), i * d);
  }
  return out;
}

/** Mean and spread of a kernel distance over subsets. */
export interface SubsetDistance {
  readonly mean: number;
  /** Population deviation over subsets. */
  readonly deviation: number;
  readonly values: readonly number[];
}

/** KID's form: the mean over given subsets of rows (Bińkowski et al. 2018; StyleGAN takes 1000 times it). */
export function kernelDistanceOfSubsets(
  x: Float64Array,
  y: Float64Array,
  d: number,
  subsets: readonly (readonly [ofX: ArrayLike<number>, ofY: ArrayLike<number>])[],
): SubsetDistance {
  const values = subsets.map(([a, b]) => kernelDistance(rowsAt(x, a, d), rowsAt(y, b, d), d));
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
  return { mean, deviation: Math.sqrt(variance), values };
}

/**
 * TF-GAN's form: contiguous blocks of at most `largest` rows, the larger blocks last.
 * @returns the mean over blocks and its standard error
 */
export function kernelDistanceOfBlocks(
  x: Float64Array,
  y: Float64Array,
  d: number,
  largest: number,
): { readonly mean: number; readonly error: number; readonly values: readonly number[] } {
  const blocks = Math.ceil(Math.max(x.length, y.length) / d / largest);
  const edges = (n: number): number[] => {
    const small = Math.floor(n / blocks);
    const larger = n - small * blocks;
    const sizes = Array.from({ length: blocks }, (_, i) => small + (i >= blocks - larger ? 1 : 0));
    return sizes.reduce((list, size) => [...list, list.at(-1)! + size], [0]);
  };
  const [ofX, ofY] = [edges(x.length / d), edges(y.length / d)];
  const values = Array.from({ length: blocks }, (_, i) =>
    kernelDistance(
      x.subarray(ofX[i]! * d, ofX[i + 1]! * d),
      y.subarray(ofY[i]! * d, ofY[i + 1]! * d),
      d,
    ),
  );
  const mean = values.reduce((sum, value) => sum + value, 0) / blocks;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, error: Math.sqrt(squares / (blocks - 1) / blocks), values };
}
