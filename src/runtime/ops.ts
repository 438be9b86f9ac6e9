/**
 * @file Operations that TensorFlow.js lacks or has only as long compositions. Models use these;
 * a device that has a kernel of its own for one runs that, any other runs the composition below.
 *
 * All tensors are channel-last. Shapes: B batch, T frames, H height, W width, C channels, N tokens,
 * D features, h heads.
 */

import * as tf from "@tensorflow/tfjs-core";
import { causalBiasValues } from "./attention-bias.ts";
import { runKernel } from "./own-kernels.ts";
import { activeTracer, hasKernel } from "./tracing.ts";

/** Zeros before and after the values of one axis. */
export type Pad = readonly [before: number, after: number];

export interface ConvOptions {
  /** Steps (t, h, w). Default 1. */
  readonly strides?: readonly [number, number, number];
  /** Zeros around (t, h, w). Default none ("valid"). */
  readonly pads?: readonly [Pad, Pad, Pad];
}

/**
 * 3D convolution (cross-correlation) with explicit, possibly one-sided zero padding.
 * @param x [B, T, H, W, Cin]
 * @param kernel [kt, kh, kw, Cin, Cout]
 * @returns [B, T', H', W', Cout], T' = floor((T + pads - kt) / stride) + 1 and so on
 */
export function conv3d(
  x: tf.Tensor5D,
  kernel: tf.Tensor5D,
  options: ConvOptions = {},
): tf.Tensor5D {
  const { strides = [1, 1, 1], pads } = options;
  if (activeTracer()) {
    const none = [0, 0] as const;
    const attrs = { strides, pads: pads ?? [none, none, none] };
    return runKernel("TesseraConv", { x, filter: kernel }, attrs) as tf.Tensor5D;
  }
  const padded = pads ? tf.pad(x, [[0, 0], [...pads[0]], [...pads[1]], [...pads[2]], [0, 0]]) : x;
  return tf.conv3d(padded as tf.Tensor5D, kernel, [...strides], "valid");
}

/**
 * The value of `x`; no gradient flows through. The result is not connected to `x` on the tape at all
 * (the custom gradient has no inputs), so the backward pass holds no chain of zeros for it, and
 * integers derived from `x` (ids for a gather) stay out of the differentiated graph.
 */
export function stopGradient<T extends tf.Tensor>(x: T): T {
  const op = tf.customGrad(() => ({ value: tf.clone(x), gradFunc: () => [] }));
  return op();
}

/** Straight-through estimator: the value of `quantized`, the gradient of `x` (Bengio et al. 2013). */
export function straightThrough<T extends tf.Tensor>(x: T, quantized: T): T {
  return tf.add(x, stopGradient(tf.sub(quantized, x)));
}

/** SiLU (swish): x · sigmoid(x). */
export function silu<T extends tf.Tensor>(x: T): T {
  if (activeTracer()) {
    return runKernel("TesseraSilu", { x }) as T;
  }
  return tf.mul(x, tf.sigmoid(x));
}

/** GELU, the exact form: x · Φ(x) (Hendrycks & Gimpel 2016). */
export function gelu<T extends tf.Tensor>(x: T): T {
  if (activeTracer()) {
    return runKernel("TesseraGelu", { x }) as T;
  }
  return tf.mul(tf.mul(x, 0.5), tf.add(tf.erf(tf.mul(x, Math.SQRT1_2)), 1));
}

export interface GroupNormOptions {
  readonly groups: number;
  readonly epsilon?: number;
  /** Fused activation. Default "none". */
  readonly activation?: "none" | "silu";
}

/**
 * Group normalisation (Wu & He 2018) over all positions and the channels of a group, then
 * scale and shift, then the activation.
 * @param x [B, ..., C] with C divisible by `groups`
 * @param scale [C]
 * @param shift [C]
 */
export function groupNorm<T extends tf.Tensor>(
  x: T,
  scale: tf.Tensor1D,
  shift: tf.Tensor1D,
  { groups, epsilon = 1e-6, activation = "none" }: GroupNormOptions,
): T {
  if (activeTracer()) {
    const attrs = { groups, epsilon, activation };
    return runKernel("TesseraGroupNorm", { x, scale, shift }, attrs) as T;
  }
  const batch = x.shape[0]!;
  const channels = x.shape.at(-1)!;
  const grouped = tf.reshape(x, [batch, -1, groups, channels / groups]); // [B, P, G, C/G]
  const { mean, variance } = tf.moments(grouped, [1, 3], true); // [B, 1, G, 1]
  const normal = tf.mul(tf.sub(grouped, mean), tf.rsqrt(tf.add(variance, epsilon)));
  const y = tf.add(tf.mul(tf.reshape(normal, x.shape), scale), shift) as T;
  return activation === "silu" ? silu(y) : y;
}

/**
 * Layer normalisation (Ba et al. 2016) over the last axis.
 * @param x [..., C]
 * @param scale [C]
 * @param shift [C]
 */
export function layerNorm<T extends tf.Tensor>(
  x: T,
  scale: tf.Tensor1D,
  shift: tf.Tensor1D,
  epsilon = 1e-6,
): T {
  if (activeTracer()) {
    return runKernel("TesseraLayerNorm", { x, scale, shift }, { epsilon }) as T;
  }
  const { mean, variance } = tf.moments(x, -1, true);
  const normal = tf.mul(tf.sub(x, mean), tf.rsqrt(tf.add(variance, epsilon)));
  return tf.add(tf.mul(normal, scale), shift) as T;
}

export interface AttentionOptions {
  /** Query i sees keys up to i + (keys - queries). Default false. */
  readonly causal?: boolean;
  /** Added to the scores before the softmax, broadcast to [B, h, N, M]: 0 keeps, -1e9 hides. */
  readonly bias?: tf.Tensor;
}

/**
 * Scaled dot-product attention (Vaswani et al. 2017, eq. 1).
 * @param query [B, h, N, d]
 * @param key [B, h, M, d]
 * @param value [B, h, M, d]
 * @returns [B, h, N, d]
 */
export function attention(
  query: tf.Tensor4D,
  key: tf.Tensor4D,
  value: tf.Tensor4D,
  { causal = false, bias }: AttentionOptions = {},
): tf.Tensor4D {
  const [, , queries, width] = query.shape;
  if (activeTracer() && !bias) {
    const attrs = { causal, scale: 1 / Math.sqrt(width) };
    return runKernel("TesseraAttention", { query, key, value }, attrs) as tf.Tensor4D;
  }
  const keys = key.shape[2];
  let scores: tf.Tensor = tf.matMul(tf.mul(query, 1 / Math.sqrt(width)), key, false, true); // [B, h, N, M]
  if (bias) {
    scores = tf.add(scores, bias);
  }
  if (causal) {
    scores = tf.add(scores, causalBias(queries, keys));
  }
  return tf.matMul(tf.softmax(scores), value) as tf.Tensor4D;
}

/**
 * A cache with `rows` written at a position of its second but last axis: decoding token after token adds to
 * its keys and values like this. Where a device can, a variable that is assigned the result is written in
 * place. Has no gradient there.
 * @param cache [B, h, N, d]
 * @param rows [B, h, n, d]
 * @param position [1] int32 in [0, N - n]
 * @returns [B, h, N, d]
 */
export function cacheWrite(
  cache: tf.Tensor4D,
  rows: tf.Tensor4D,
  position: tf.Tensor1D,
): tf.Tensor4D {
  if (hasKernel("TesseraCacheWrite")) {
    return runKernel("TesseraCacheWrite", { cache, rows, position }) as tf.Tensor4D;
  }
  const [batch, heads, places] = cache.shape;
  const count = rows.shape[2];
  const index = tf.reshape(tf.range(0, places, 1, "int32"), [places, 1]);
  const own = tf.add(tf.range(0, count, 1, "int32"), position); // [n]: each row's place
  const here = tf.cast(tf.equal(index, own), "float32"); // [N, n]
  const kept = tf.reshape(tf.sub(1, tf.sum(here, 1)), [1, 1, places, 1]);
  const placed =
    count === 1
      ? tf.mul(rows, tf.reshape(here, [1, 1, places, 1]))
      : tf.matMul(tf.tile(tf.reshape(here, [1, 1, places, count]), [batch, heads, 1, 1]), rows);
  return tf.add(tf.mul(cache, kept), placed) as tf.Tensor4D;
}

/**
 * Attention over a cache of which the places up to the queries' own are filled: query i, which stands at
 * `position` + i, sees keys j <= position + i. Has no gradient on devices with a kernel for it.
 * @param query [B, h, n, d]
 * @param keys [B, h, N, d]
 * @param values [B, h, N, d]
 * @param position [1] int32: of the first query
 * @returns [B, h, n, d]
 */
export function cachedAttention(
  query: tf.Tensor4D,
  keys: tf.Tensor4D,
  values: tf.Tensor4D,
  position: tf.Tensor1D,
): tf.Tensor4D {
  if (hasKernel("TesseraCachedAttention")) {
    const attrs = { scale: 1 / Math.sqrt(query.shape[3]) };
    return runKernel(
      "TesseraCachedAttention",
      { query, keys, values, position },
      attrs,
    ) as tf.Tensor4D;
  }
  const [count, places] = [query.shape[2], keys.shape[2]];
  const own = tf.add(tf.reshape(tf.range(0, count, 1, "int32"), [count, 1]), position); // [n, 1]
  const hidden = tf.greater(tf.range(0, places, 1, "int32"), own); // [n, N]
  const bias = tf.reshape(tf.mul(tf.cast(hidden, "float32"), -1e9), [1, 1, count, places]);
  return attention(query, keys, values, { bias });
}

/** [N, M]: 0 where query i may see key j, j <= i + M - N, and -1e9 elsewhere. */
export function causalBias(queries: number, keys: number): tf.Tensor2D {
  return tf.tensor2d(causalBiasValues(queries, keys), [queries, keys]);
}

/**
 * Cross entropy of softmax(logits) with integer labels, in nats, one value a row.
 * @param logits [M, V]
 * @param labels [M] int32 in [0, V)
 * @param smoothing the target is (1 - smoothing) one-hot + smoothing / V
 * @returns [M]
 */
export function softmaxCrossEntropy(
  logits: tf.Tensor2D,
  labels: tf.Tensor1D,
  smoothing = 0,
): tf.Tensor1D {
  if (activeTracer()) {
    return runKernel(
      "TesseraSoftmaxCrossEntropy",
      { logits, labels },
      { smoothing },
    ) as tf.Tensor1D;
  }
  const classes = logits.shape[1];
  const hot = tf.oneHot(labels, classes) as tf.Tensor2D; // [M, V]
  const target = smoothing > 0 ? tf.add(tf.mul(hot, 1 - smoothing), smoothing / classes) : hot;
  return tf.neg(tf.sum(tf.mul(target, tf.logSoftmax(logits)), -1));
}

/**
 * Rows of a table by index.
 * @param table [V, D]
 * @param ids any shape, int32 in [0, V)
 * @returns [...ids.shape, D]
 */
export function embedding(table: tf.Tensor2D, ids: tf.Tensor): tf.Tensor {
  return tf.gather(table, tf.cast(ids, "int32"));
}

/** A block's sides (t, h, w). */
export type Block = readonly [number, number, number];

/**
 * Space to depth in 3D: each block of positions becomes channels, ordered (bt, bh, bw, C).
 * @param x [B, T, H, W, C], sides divisible by the block's
 * @returns [B, T/bt, H/bh, W/bw, bt·bh·bw·C]
 */
export function spaceToDepth3d(x: tf.Tensor5D, [bt, bh, bw]: Block): tf.Tensor5D {
  if (activeTracer()) {
    return runKernel("TesseraSpaceToDepth3d", { x }, { block: [bt, bh, bw] }) as tf.Tensor5D;
  }
  const [b, t, h, w, c] = x.shape;
  const split = tf.reshape(x, [b, t / bt, bt, h / bh, bh, (w / bw) * bw * c]);
  // tf.transpose handles up to rank 6, so the width axis is split in a step of its own.
  const rows = tf.transpose(split, [0, 1, 3, 2, 4, 5]); // [B, T', H', bt, bh, W·C]
  const columns = tf.reshape(rows, [b * (t / bt) * (h / bh), bt * bh, w / bw, bw * c]);
  const last = tf.transpose(columns, [0, 2, 1, 3]); // [B·T'·H', W', bt·bh, bw·C]
  return tf.reshape(last, [b, t / bt, h / bh, w / bw, bt * bh * bw * c]);
}

/** The inverse of `spaceToDepth3d`: [B, T, H, W, bt·bh·bw·C] to [B, T·bt, H·bh, W·bw, C]. */
export function depthToSpace3d(x: tf.Tensor5D, [bt, bh, bw]: Block): tf.Tensor5D {
  if (activeTracer()) {
    return runKernel("TesseraDepthToSpace3d", { x }, { block: [bt, bh, bw] }) as tf.Tensor5D;
  }
  const [b, t, h, w, channels] = x.shape;
  const c = channels / (bt * bh * bw);
  const columns = tf.reshape(x, [b * t * h, w, bt * bh, bw * c]);
  const last = tf.transpose(columns, [0, 2, 1, 3]); // [B·T·H, bt·bh, W, bw·C]
  const rows = tf.reshape(last, [b, t, h, bt, bh, w * bw * c]);
  const split = tf.transpose(rows, [0, 1, 3, 2, 4, 5]); // [B, T, bt, H, bh, W·bw·C]
  return tf.reshape(split, [b, t * bt, h * bh, w * bw, c]);
}
