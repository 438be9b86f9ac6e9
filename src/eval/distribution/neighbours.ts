/**
 * @file Precision and recall of a generator (Kynkäänniemi et al. 2019): the share of generated
 * features inside the real manifold, and of real ones inside the generated. A set's manifold is the
 * union of balls around its points that reach to each one's k-th nearest neighbour in the set.
 */

import { UserError } from "../../config/errors.ts";

/** The paper's number of neighbours. */
export const neighbourCount = 3;

export interface PrecisionRecall {
  readonly precision: number;
  readonly recall: number;
}

function squaredDistance(
  a: Float64Array,
  i: number,
  b: Float64Array,
  j: number,
  d: number,
  limit: number,
): number {
  let sum = 0;
  for (let k = 0; k < d; k++) {
    const difference = a[i * d + k]! - b[j * d + k]!;
    sum += difference * difference;
    if (sum > limit && (k & 31) === 31) {
      return sum; // no neighbour any more
    }
  }
  return sum;
}

/** Each point's squared distance to its k-th nearest other point. */
function radii(x: Float64Array, d: number, k: number): Float64Array {
  const n = x.length / d;
  const out = new Float64Array(n);
  const nearest = new Float64Array(k);
  for (let i = 0; i < n; i++) {
    nearest.fill(Number.POSITIVE_INFINITY);
    for (let j = 0; j < n; j++) {
      if (j === i) {
        continue;
      }
      let distance = squaredDistance(x, i, x, j, d, nearest[k - 1]!);
      // Insertion into the sorted k nearest.
      for (let place = 0; place < k && Number.isFinite(distance); place++) {
        if (distance < nearest[place]!) {
          const moved = nearest[place]!;
          nearest[place] = distance;
          distance = moved;
        }
      }
    }
    out[i] = nearest[k - 1]!;
  }
  return out;
}

/** Share of rows of `points` that lie in some ball of `centres`. */
function share(
  points: Float64Array,
  centres: Float64Array,
  reach: Float64Array,
  d: number,
): number {
  const n = points.length / d;
  let inside = 0;
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < reach.length; j++) {
      if (squaredDistance(points, i, centres, j, d, reach[j]!) <= reach[j]!) {
        inside += 1;
        break;
      }
    }
  }
  return inside / n;
}

/**
 * @param real [n, d] row-major
 * @param fake [m, d]
 * @throws UserError when a set has not more than k points
 */
export function precisionRecall(
  real: Float64Array,
  fake: Float64Array,
  d: number,
  k: number = neighbourCount,
): PrecisionRecall {
  if (Math.min(real.length, fake.length) / d <= k) {
    throw new UserError(
      `precision and recall need more than ${k} samples on each side, got ${real.length / d} and ${fake.length / d}`,
      "raise the suite's `clips`",
    );
  }
  return {
    precision: share(fake, real, radii(real, d, k), d),
    recall: share(real, fake, radii(fake, d, k), d),
  };
}
