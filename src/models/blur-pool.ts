/**
 * @file Anti-aliased down-sampling: Zhang, "Making Convolutional Networks Shift-Invariant Again" (ICML
 * 2019), in 3D as in MAGVIT-v2 (Yu et al., ICLR 2024, §3.2). A binomial low-pass filter and every
 * `stride`-th position of its result, one axis after the other. No parameters.
 */

import * as tf from "@tensorflow/tfjs-core";
import type { Block } from "../runtime/ops.ts";
import { sizeOf } from "../runtime/tensors.ts";
import { type Border, framesBefore, padAxis } from "./borders.ts";
import type { Layer } from "./layers.ts";
import { leadFrames } from "./streaming.ts";

/** Row `taps` of Pascal's triangle over its sum: 1 3 3 1 for four taps. */
export function binomial(taps: number): number[] {
  let row = [1];
  for (let n = 1; n < taps; n++) {
    row = Array.from({ length: n + 1 }, (_, k) => (row[k - 1] ?? 0) + (row[k] ?? 0));
  }
  const sum = row.reduce((a, b) => a + b, 0);
  return row.map((value) => value / sum);
}

/** Σ_k filter[k] · x[stride · i + k] along an axis, for every whole window. */
function filterAxis(
  x: tf.Tensor5D,
  axis: 1 | 2 | 3,
  filter: readonly number[],
  stride: number,
): tf.Tensor5D {
  const shape = [...x.shape];
  const side = shape[axis]!;
  const count = Math.floor((side - filter.length) / stride) + 1;
  const inner = sizeOf(shape.slice(axis + 1));
  // Cut into runs of `stride`: tap k is phase k mod stride of the run floor(k / stride) further on.
  const runs = count + Math.ceil(filter.length / stride) - 1;
  const outer = sizeOf(shape.slice(0, axis));
  let flat = tf.reshape(x, [outer, side, inner]);
  if (side < runs * stride) {
    flat = tf.concat([flat, tf.zeros([outer, runs * stride - side, inner])], 1) as tf.Tensor3D;
  } else if (side > runs * stride) {
    flat = tf.slice(flat, [0, 0, 0], [outer, runs * stride, inner]);
  }
  const cut = tf.reshape(flat, [outer, runs, stride, inner]);
  let sum: tf.Tensor | undefined;
  filter.forEach((weight, k) => {
    const begin = [0, Math.floor(k / stride), k % stride, 0];
    const part = tf.mul(tf.slice(cut, begin, [outer, count, 1, inner]), weight);
    sum = sum ? tf.add(sum, part) : part;
  });
  shape[axis] = count;
  return tf.reshape(sum!, shape as [number, number, number, number, number]);
}

export interface BlurPoolOptions {
  /** Steps (t, h, w); axes of step 1 are left alone. */
  readonly block: Block;
  readonly causal: boolean;
  /** Taps of the filter: 3 to 7. Default 4. */
  readonly taps?: number;
  readonly border?: Border;
}

/** [B, T, H, W, C] to [B, T / t, H / h, W / w, C]; causal: 1 + s·t frames to 1 + t. */
export function blurPool({ block, causal, taps = 4, border = "zero" }: BlurPoolOptions): Layer {
  const filter = binomial(taps);
  return (x) => {
    let y = x;
    for (const axis of [1, 2, 3] as const) {
      const stride = block[axis - 1]!;
      if (stride === 1) {
        continue;
      }
      if (axis === 1 && causal) {
        y = leadFrames(y, taps, stride, (count) => framesBefore(y, count, border));
      } else {
        const side = y.shape[axis];
        const total = Math.max((Math.ceil(side / stride) - 1) * stride + taps - side, 0);
        y = padAxis(y, axis, [Math.floor(total / 2), total - Math.floor(total / 2)], border);
      }
      y = filterAxis(y, axis, filter, stride);
    }
    return y;
  };
}
