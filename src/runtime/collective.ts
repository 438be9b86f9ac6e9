/**
 * @file Sums over the ranks of a data-parallel training, for whoever writes a loss: a statistic of the whole
 * batch (counts of a codebook, the mean assignment that an entropy is taken of, the number of masked tokens)
 * must be one of the *global* batch, or the loss is another one than on a single device.
 *
 * The gradient of a sum over ranks is the sum over ranks of the gradients: with it, and with the parameters'
 * gradients averaged over ranks at the end, value and gradient of the loss equal those of one device that
 * sees the whole batch. Outside of a data-parallel training everything here is the identity.
 */

import * as tf from "@tensorflow/tfjs-core";
import { runKernel, runKernels } from "./own-kernels.ts";
import { hasKernel } from "./tracing.ts";

/** A process's place among those that train together. */
export interface Ranks {
  readonly rank: number;
  readonly world: number;
}

const ALONE: Ranks = { rank: 0, world: 1 };
let joined = ALONE;
let together = false;

/** Set by the device that has joined a group. */
export function setRanks(ranks: Ranks = ALONE): void {
  joined = ranks;
}

/** The ranks that the function being traced runs on at once: one, unless inside `acrossRanks`. */
export const activeRanks = (): Ranks =>
  together && hasKernel("TesseraAllReduce") ? joined : ALONE;

/** Trace a part of a function that all ranks call at the same time, each with its part of the batch. */
export function acrossRanks<T>(body: () => T): T {
  const before = together;
  together = true;
  try {
    return body();
  } finally {
    together = before;
  }
}

/** The sum of a float32 tensor over all ranks. */
export function sumOverRanks<T extends tf.Tensor>(x: T): T {
  return activeRanks().world === 1 ? x : (runKernel("TesseraAllReduce", { x }) as T);
}

/** The mean of a float32 tensor over all ranks. */
export function meanOverRanks<T extends tf.Tensor>(x: T): T {
  const { world } = activeRanks();
  return world === 1 ? x : tf.div<T>(sumOverRanks(x), world);
}

/**
 * Rows of the global batch, whose rows are those of rank 0, then those of rank 1, and so on.
 * @param rows [N, D] of this rank
 * @param index [K] float32, rows of the global batch of N · world
 * @returns [K, D]
 */
export function rowsOverRanks(rows: tf.Tensor2D, index: tf.Tensor1D): tf.Tensor2D {
  const { rank, world } = activeRanks();
  if (world === 1) {
    return tf.gather(rows, tf.cast(index, "int32"));
  }
  const n = rows.shape[0];
  const local = tf.sub(index, rank * n);
  const here = tf.cast(
    tf.logicalAnd(tf.greaterEqual(local, 0), tf.less(local, n)),
    "float32",
  ) as tf.Tensor1D;
  const within = tf.cast(tf.clipByValue(local, 0, n - 1), "int32") as tf.Tensor1D;
  return sumOverRanks(tf.mul(tf.gather(rows, within), tf.expandDims(here, 1)) as tf.Tensor2D);
}

/** Values of one exchange: 6 Mi, 24 MiB of float32. */
const BUCKET = 6 * 2 ** 20;

/**
 * Means of gradients over all ranks, in exchanges of about 24 MiB. The last tensors go first: the backward
 * pass makes their gradients first, and the device sends them while it computes the others.
 */
export function averageOverRanks(gradients: readonly (tf.Tensor | null)[]): (tf.Tensor | null)[] {
  if (activeRanks().world === 1) {
    return [...gradients];
  }
  const result: (tf.Tensor | null)[] = gradients.map(() => null);
  let bucket: number[] = [];
  let size = 0;
  const send = (): void => {
    const inputs = Object.fromEntries(bucket.map((i, k) => [`x${k}`, gradients[i]!]));
    const means = bucket.length > 0 ? runKernels("TesseraAllReduceMean", inputs) : [];
    for (const [k, i] of bucket.entries()) {
      result[i] = means[k]!;
    }
    [bucket, size] = [[], 0];
  };
  for (let i = gradients.length - 1; i >= 0; i--) {
    const gradient = gradients[i];
    if (!gradient) {
      continue; // the loss does not depend on it, on any rank
    }
    if (bucket.length > 0 && size + gradient.size > BUCKET) {
      send();
    }
    bucket.push(i);
    size += gradient.size;
  }
  send();
  return result;
}
