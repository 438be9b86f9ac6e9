/**
 * @file Position embeddings of a (t, h, w) grid: learned for each token (BERT, MAGVIT), learned and
 * factorised over the axes, or fixed sinusoids (Vaswani et al. 2017, §3.5) of the three coordinates.
 */

import * as tf from "@tensorflow/tfjs-core";
import { constant, normal, type Scope } from "./scope.ts";

export type Positions = "learned" | "factorised" | "sinusoidal";

const SINUSOID_BASE = 10_000;

/**
 * Position embeddings [N, D] of the grid in (t, h, w) order.
 * @param std how loud they start: as loud as the token embeddings they are added to
 */
export function buildPositions(
  scope: Scope,
  positions: Positions,
  width: number,
  grid: readonly [number, number, number],
  std: number,
): () => tf.Tensor2D {
  const [t, h, w] = grid;
  const count = t * h * w;
  if (positions === "learned") {
    const table = scope.param("positions", [count, width], normal(std)) as tf.Tensor;
    return () => table as tf.Tensor2D;
  }
  if (positions === "factorised") {
    const part = normal(std / Math.sqrt(3));
    const frame = scope.param("positions/frame", [t, 1, 1, width], part);
    const row = scope.param("positions/row", [1, h, 1, width], part);
    const column = scope.param("positions/column", [1, 1, w, width], part);
    return () => tf.reshape(tf.add(tf.add(frame, row), column), [count, width]);
  }
  const gain = scope.param("positions/gain", [width], constant(std * Math.SQRT2));
  const values = sinusoids(grid, width);
  return () => tf.mul(tf.tensor2d(values, [count, width]), gain) as tf.Tensor2D;
}

/**
 * Sinusoids of the three coordinates side by side (Vaswani et al. 2017, §3.5, once for each axis):
 * channels are dealt out in pairs (sine, cosine), frames first, then rows, then columns; a last
 * channel without a partner is a sine.
 * @returns [N, D] row-major
 */
export function sinusoids(grid: readonly [number, number, number], width: number): Float32Array {
  const [t, h, w] = grid;
  const pairs = Math.ceil(width / 2);
  const share = [0, 1, 2].map((axis) => Math.floor((pairs + 2 - axis) / 3));
  const values = new Float32Array(t * h * w * width);
  for (let i = 0; i < t * h * w; i++) {
    const coordinates = [Math.floor(i / (h * w)), Math.floor(i / w) % h, i % w];
    let channel = 0;
    for (let axis = 0; axis < 3; axis++) {
      for (let pair = 0; pair < share[axis]!; pair++) {
        const angle = coordinates[axis]! / SINUSOID_BASE ** (pair / share[axis]!);
        values[i * width + channel++] = Math.sin(angle);
        if (channel < width) {
          values[i * width + channel++] = Math.cos(angle);
        }
      }
    }
  }
  return values;
}
