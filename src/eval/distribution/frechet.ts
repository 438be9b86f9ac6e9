/**
 * @file Fréchet distance between two sets of features taken as Gaussians (Heusel et al. 2017, eq. 6;
 * Unterthiner et al. 2018 for video):
 *
 *   d² = |μ1 - μ2|² + tr Σ1 + tr Σ2 - 2 tr (Σ1 Σ2)^½
 *
 * The last trace is taken in a symmetric form: with Σ1 = L Lᵀ it is the sum of the square roots of the
 * eigenvalues of Lᵀ Σ2 L. This is real and stable where a general matrix square root turns complex:
 * with fewer samples than dimensions.
 */

import { UserError } from "../../config/errors.ts";
import { addProduct, traceOfProductRoot } from "./symmetric.ts";

/** Divide the scatter by N - 1 (TF-GAN, the original FVD, MAGVIT) or by N (StyleGAN-V, cd-FVD, LARP). */
export type CovarianceDivisor = "unbiased" | "biased";

/** Vectors whose products are formed together. */
const bufferRows = 128;

/** A Gaussian fitted to features. */
export interface FeatureMoments {
  readonly count: number;
  /** d values. */
  readonly mean: Float64Array;
  /** d × d values, row-major. */
  readonly covariance: Float64Array;
}

/**
 * Mean and covariance of a stream of feature vectors in float64 and O(d²) memory. Sums are taken
 * about the first vector, so a large common offset costs no digits.
 */
export class FeatureStatistics {
  #count = 0;
  readonly #origin: Float64Array;
  readonly #sum: Float64Array;
  readonly #products: Float64Array;
  /** Centred vectors that are not in the products yet, [d, bufferRows]: vector r is column r. */
  readonly #waiting: Float64Array;
  #waitingCount = 0;

  /** @param dimensions d, the length of a feature vector */
  constructor(readonly dimensions: number) {
    this.#origin = new Float64Array(dimensions);
    this.#sum = new Float64Array(dimensions);
    this.#products = new Float64Array(dimensions * dimensions);
    this.#waiting = new Float64Array(dimensions * bufferRows);
  }

  get count(): number {
    return this.#count;
  }

  /** Add vectors, row-major [n, d]. Throws a UserError when a value is not finite. */
  add(features: Float32Array | Float64Array): void {
    const d = this.dimensions;
    if (features.length % d !== 0) {
      throw new RangeError(`${features.length} values are no whole number of ${d}-d features`);
    }
    for (let from = 0; from < features.length; from += d) {
      for (let i = 0; i < d; i++) {
        const value = features[from + i]!;
        if (!Number.isFinite(value)) {
          throw new UserError(
            `feature ${i} of sample ${this.#count} is ${value}: a Fréchet distance needs finite features`,
            "a model whose training diverged makes NaN pixels: look at its loss curve",
          );
        }
        if (this.#count === 0) {
          this.#origin[i] = value;
        }
        const centred = value - this.#origin[i]!;
        this.#waiting[i * bufferRows + this.#waitingCount] = centred;
        this.#sum[i]! += centred;
      }
      this.#count += 1;
      this.#waitingCount += 1;
      if (this.#waitingCount === bufferRows) {
        this.#flush();
      }
    }
  }

  /** Add the waiting vectors' products to the lower triangle. */
  #flush(): void {
    const d = this.dimensions;
    const [all, w] = [[0, d] as const, this.#waiting];
    const inner = [0, this.#waitingCount] as const;
    addProduct(this.#products, d, w, bufferRows, w, bufferRows, all, all, inner, { lower: true });
    this.#waitingCount = 0;
  }

  /** The fitted Gaussian. Throws a UserError with fewer than two samples. */
  moments(divisor: CovarianceDivisor): FeatureMoments {
    const d = this.dimensions;
    const n = this.#count;
    if (n < 2) {
      throw new UserError(
        `a covariance needs at least 2 samples, got ${n}`,
        "raise the suite's `clips`",
      );
    }
    this.#flush();
    const scale = 1 / (divisor === "unbiased" ? n - 1 : n);
    const covariance = new Float64Array(d * d);
    for (let i = 0; i < d; i++) {
      for (let j = 0; j <= i; j++) {
        const scatter = this.#products[i * d + j]! - (this.#sum[i]! * this.#sum[j]!) / n;
        covariance[i * d + j] = scatter * scale;
        covariance[j * d + i] = scatter * scale;
      }
    }
    return {
      count: n,
      mean: this.#sum.map((sum, i) => this.#origin[i]! + sum / n),
      covariance,
    };
  }
}

/** Fréchet distance of two Gaussians; at least 0 up to rounding, 0 for equal ones. */
export function frechetDistance(a: FeatureMoments, b: FeatureMoments): number {
  const d = a.mean.length;
  if (b.mean.length !== d) {
    throw new UserError(
      `a Fréchet distance compares features of one network, got ${d} and ${b.mean.length} dimensions`,
    );
  }
  let distance = -2 * traceOfProductRoot(a.covariance, b.covariance, d);
  for (let i = 0; i < d; i++) {
    distance += (a.mean[i]! - b.mean[i]!) ** 2;
    distance += a.covariance[i * d + i]! + b.covariance[i * d + i]!;
  }
  return distance;
}
