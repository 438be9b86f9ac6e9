/** @file What the tests of tokenizers share: the goldens' inputs, full configs, and the reference device. */

import { readFileSync } from "node:fs";
import * as tf from "@tensorflow/tfjs-core";
import { openDevice } from "../../src/runtime/registry.ts";
import type { MagvitConfig } from "../../src/tokenizers/magvit.ts";
import type { Magvit2Config } from "../../src/tokenizers/magvit2.ts";
import type { LfqConfig } from "../../src/tokenizers/quantizers/lfq.ts";
import type { VqConfig } from "../../src/tokenizers/quantizers/vq.ts";

export async function useReference(): Promise<void> {
  await openDevice({ type: "reference" });
}

/** A file of test/goldens. */
export function golden<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(`../goldens/${name}`, import.meta.url), "utf8")) as T;
}

/** The goldens' inputs: n numbers in [-1, 1) from mulberry32 outputs of `seed`. */
export function sym(seed: number, n: number): Float64Array {
  return Float64Array.from({ length: n }, (_, i) => {
    const a = (seed + Math.imul(i + 1, 0x6d2b79f5)) | 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (2 * ((t ^ (t >>> 14)) >>> 0)) / 0x100000000 - 1;
  });
}

/** The largest distance between values and the expected ones, which may be fewer (a prefix). */
export function worstError(
  actual: tf.Tensor | ArrayLike<number>,
  expected: ArrayLike<number>,
): number {
  const values = actual instanceof tf.Tensor ? actual.dataSync() : actual;
  if (values.length < expected.length || expected.length === 0) {
    throw new RangeError(`${values.length} values where ${expected.length} are expected`);
  }
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    worst = Math.max(worst, Math.abs(values[i]! - expected[i]!));
  }
  return worst;
}

export const lfqConfig: LfqConfig = {
  type: "lfq",
  bits: 10,
  factor_bits: 10,
  commitment_weight: 0.25,
  entropy_weight: 0.1,
  entropy_diversity: 1,
  entropy_temperature: 0.01,
  entropy_group_bits: 10,
  entropy_anneal_factor: 1,
  entropy_anneal_steps: 2000,
  pre_norm: false,
};

export const vqConfig: VqConfig = {
  type: "vq",
  size: 16,
  width: 4,
  groups: 1,
  distance: "euclidean",
  kmeans_steps: 0,
  learn: "gradient",
  codebook_weight: 1,
  commitment_weight: 0.25,
  ema_decay: 0.99,
  entropy_weight: 0.1,
  entropy_temperature: 0.01,
  data_init: true,
  restart_below: 0.03,
};

const network = {
  padding: "zero" as const,
  base_channels: 4,
  channel_multipliers: [1, 2],
  spatial_strides: [2],
  temporal_strides: [2],
  patch_size: 2,
  temporal_patch_size: 1,
  output_norm: true,
  blocks: 1,
  bottleneck_blocks: 1,
  norm_groups: 2,
  l1_weight: 0,
  l2_weight: 1,
  image_share: 0,
};

/** A tiny MAGVIT-v2: 1 + 2t frames, latents at a quarter of the side. */
export const magvit2Config: Magvit2Config = {
  type: "magvit2",
  adaptive_norm: true,
  down: "strided-conv",
  up: "depth-to-space",
  quantizer: { ...lfqConfig, bits: 6, factor_bits: 4 },
  ...network,
};

/** A tiny MAGVIT: 2t frames, latents at a quarter of the side. */
export const magvitConfig: MagvitConfig = {
  type: "magvit",
  norm_scope: "clip",
  down: "average-pool",
  up: "nearest-conv",
  quantizer: vqConfig,
  ...network,
};

/** A deterministic clip batch in [-1, 1]. */
export function clips(shape: [number, number, number, number, number], seed = 1): tf.Tensor5D {
  const size = shape.reduce((a, b) => a * b, 1);
  return tf.tensor5d(Float32Array.from(sym(seed, size)), shape);
}

/**
 * The largest distance between the gradient of a scalar function and central differences at every
 * element of `at`, relative to the largest slope. The functions run in float32, so `delta` is large.
 */
export function gradientError(
  f: (x: tf.Tensor2D) => tf.Scalar,
  at: tf.Tensor2D,
  delta = 1e-2,
): number {
  const exact = tf
    .grad((x) => f(x as tf.Tensor2D))(at)
    .dataSync();
  const values = Float32Array.from(at.dataSync());
  const slopes = Array.from(values, (value, i) => {
    const probe = (x: number): number => {
      const moved = Float32Array.from(values);
      moved[i] = x;
      return tf.tidy(() => f(tf.tensor2d(moved, at.shape)).dataSync()[0]!);
    };
    return (probe(value + delta) - probe(value - delta)) / (2 * delta);
  });
  return worstError(exact, slopes) / Math.max(...slopes.map(Math.abs));
}
