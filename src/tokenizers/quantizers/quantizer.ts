/** @file What every quantizer is to a tokenizer: continuous latents in, codes and ids out. */

import * as tf from "@tensorflow/tfjs-core";
import { activeRanks, meanOverRanks, sumOverRanks } from "../../runtime/collective.ts";
import type { HostTensors } from "../../runtime/tensors.ts";
import type { Tokens } from "../tokenizer.ts";

/** Batch and latent grid: [B, t, h, w]. */
export type Grid = readonly [b: number, t: number, h: number, w: number];

/** A quantized batch with what training needs. */
export interface Quantized {
  /** What the decoder is given, [B, t, h, w, D], with the gradient that reaches the encoder. */
  readonly codes: tf.Tensor5D;
  /** [B, t', h', w', F] int32 on the token grid. */
  readonly ids: tf.Tensor5D;
  /** The quantizer's weighted share of the training loss. */
  readonly loss: tf.Scalar;
  /**
   * Unweighted parts, and other scalars worth a curve, by name. Entropies in nats. Every quantizer of
   * discrete codes reports `perplexity` and `usage` (see `usageMetrics`).
   */
  readonly metrics: { readonly [name: string]: tf.Scalar };
}

/** Random numbers of one step as tensors, by the names that `inputs` gave them. */
export type Noise = { readonly [name: string]: tf.Tensor };

/** A built quantizer. All methods but `inputs` and `tokenGrid` are traceable. */
export interface Quantizer {
  readonly type: string;
  /** Sizes of the sub-vocabularies, each at most 2^16; the vocabulary is their product. */
  readonly factors: readonly number[];
  /** Channels of the latents that it takes; the encoder projects to this many. */
  readonly latentWidth: number;
  /** Channels D of the codes that it gives. */
  readonly width: number;
  /** Whether the encoder should normalise its features once more before it projects them. */
  readonly preNorm: boolean;
  /** What to change in the config when few codes are in use. */
  readonly remedy: string;

  /** The grid of tokens (t, h, w) that a latent grid becomes; the same one when left out. */
  tokenGrid?(latents: readonly [number, number, number]): readonly [number, number, number];
  /**
   * Random numbers of one training step, drawn on the host: the same seed and step give the same.
   * Left out where there are none.
   */
  inputs?(grid: Grid, seed: number, step: number): HostTensors;
  /** Codes and ids of latents z [B, t, h, w, latentWidth]: no losses, gradients, noise, no change of state. */
  assign(z: tf.Tensor5D): Tokens;
  /**
   * Codes with a gradient to z, ids, and the losses. Codebook statistics are assigned inside, only
   * when `training`.
   * @param z [B, t, h, w, latentWidth]
   * @param step scalar float32: optimizer steps done
   * @param noise what `inputs` drew; without it the quantizer behaves as in evaluation
   */
  quantize(z: tf.Tensor5D, step: tf.Scalar, training: boolean, noise?: Noise): Quantized;
  /** Codes of ids: [B, t', h', w', F] int32 to [B, t', h', w', D]. */
  lookup(ids: tf.Tensor5D): tf.Tensor5D;
  /**
   * The inverse of `lookup`, also for codes that went through bfloat16. Left out by quantizers whose
   * codes do not tell their ids: a sum of several codebooks' codes may be had in several ways.
   */
  indices?(codes: tf.Tensor5D): tf.Tensor5D;
  /**
   * What the decoder is given for the tokens' codes: [B, t', h', w', D] to [B, t, h, w, D]. The codes
   * themselves when left out.
   * @param layers of a pyramid: how many of its layers are looked at; all when left out
   */
  assemble?(codes: tf.Tensor5D, layers?: number): tf.Tensor5D;
  /** Of a pyramid: tokens of each layer in a latent frame of h × w, and its words where it has any. */
  readonly lexical?: {
    layers(h: number, w: number): number[];
    words?(): readonly string[];
  };
}

/** All positions as rows: [B, t, h, w, D] to [N, D]. */
export function rowsOf(z: tf.Tensor5D): tf.Tensor2D {
  return tf.reshape(z, [-1, z.shape[4]]);
}

/** The first four sides of a latent. */
export function gridOf({ shape }: tf.Tensor5D): [number, number, number, number] {
  return [shape[0], shape[1], shape[2], shape[3]];
}

/** How evenly a batch uses the codes of one codebook: exp of the entropy of its id counts. ids: [N]. */
export function perplexityOf(ids: tf.Tensor1D, size: number): tf.Scalar {
  const own = tf.unsortedSegmentSum(tf.onesLike(tf.cast(ids, "float32")), ids, size); // [V]
  const share = tf.div(sumOverRanks(own), ids.shape[0] * activeRanks().world);
  return tf.exp(tf.neg(tf.sum(tf.mul(share, tf.log(tf.add(share, 1e-10))))));
}

/**
 * `perplexity`, the mean over the sub-ids, and `usage`, log(perplexity) as a share of what the batch
 * allows, log(min(tokens, codes)): 1 when codes are used evenly, 0 when all tokens are equal.
 * @param ids [..., F] int32
 */
export function usageMetrics(
  ids: tf.Tensor,
  factors: readonly number[],
): { perplexity: tf.Scalar; usage: tf.Scalar } {
  const rows = tf.reshape(ids, [-1, factors.length]); // [N, F]
  const n = rows.shape[0]!;
  const all = n * activeRanks().world;
  const each = factors.map((size, f) => {
    const column = tf.reshape<tf.Rank.R1>(tf.slice(rows, [0, f], [n, 1]), [n]);
    const perplexity = perplexityOf(column, size);
    const most = Math.max(Math.log(Math.min(all, size)), 1e-6);
    return { perplexity, usage: tf.div<tf.Scalar>(tf.log(perplexity), most) };
  });
  const mean = (values: tf.Scalar[]): tf.Scalar =>
    tf.div(
      values.reduce((a, b) => tf.add(a, b)),
      values.length,
    );
  return {
    perplexity: mean(each.map((one) => one.perplexity)),
    usage: mean(each.map((one) => one.usage)),
  };
}

/** Sum over scalars; there is at least one. */
export function total(values: readonly tf.Scalar[]): tf.Scalar {
  return values.reduce((a, b) => tf.add(a, b));
}

/**
 * Entropies of soft assignments, in nats: the mean of the rows' own entropies and the entropy of
 * their mean.
 * @param logits [N, K]
 */
export function assignmentEntropies(logits: tf.Tensor2D): {
  sample_entropy: tf.Scalar;
  batch_entropy: tf.Scalar;
} {
  const logProbabilities = tf.logSoftmax(logits) as tf.Tensor2D; // [N, K]
  const probabilities = tf.exp(logProbabilities);
  const sum = tf.sum<tf.Scalar>(tf.mul(probabilities, logProbabilities));
  const mean = meanOverRanks(tf.mean(probabilities, 0)); // [K]
  return {
    sample_entropy: tf.div(sum, -logits.shape[0]),
    batch_entropy: tf.neg(tf.sum(tf.mul(mean, tf.log(tf.add(mean, ENTROPY_EPSILON))))),
  };
}

/** Kept inside the logarithm of batch means, as in MAGVIT: the gradient of an unused code stays finite. */
export const ENTROPY_EPSILON = 1e-5;
