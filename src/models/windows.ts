/**
 * @file Windows of a (t, h, w) grid: self-attention inside non-overlapping blocks of positions
 * (W.A.L.T, Gupta et al. 2023, §3.2; after Swin, Liu et al. 2021, without the shift).
 */

import * as tf from "@tensorflow/tfjs-core";
import { type Block, depthToSpace3d, spaceToDepth3d } from "../runtime/ops.ts";

/** A window's sides on a grid: 0 is the grid's whole side, and none is longer than that. */
export function windowOn(grid: Block, window: readonly number[]): Block {
  return grid.map((side, axis) => {
    const wanted = window[axis]!;
    return wanted === 0 ? side : Math.min(wanted, side);
  }) as unknown as Block;
}

/**
 * Windows as sequences of their own: [B, t, h, w, C] to [B·W, n, C], n positions a window in the
 * order (t, h, w). The grid's sides must be divisible by the window's.
 */
export function toWindows(x: tf.Tensor5D, window: Block): tf.Tensor3D {
  const channels = x.shape[4];
  const blocks = spaceToDepth3d(x, window); // [B, t', h', w', n·C]
  return tf.reshape(blocks, [-1, window[0] * window[1] * window[2], channels]);
}

/** The inverse of `toWindows`: [B·W, n, C] to [B, t, h, w, C]. */
export function fromWindows(x: tf.Tensor3D, grid: Block, window: Block): tf.Tensor5D {
  const [t, h, w] = grid.map((side, axis) => side / window[axis]!) as [number, number, number];
  const [, positions, channels] = x.shape;
  const blocks = tf.reshape(x, [-1, t, h, w, positions * channels]) as tf.Tensor5D;
  return depthToSpace3d(blocks, window);
}
