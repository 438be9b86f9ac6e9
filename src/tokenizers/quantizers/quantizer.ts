/** @file What every quantizer is to a tokenizer: continuous latents in, codes and ids out. */

import type * as tf from "@tensorflow/tfjs-core";
import type { Tokens } from "../tokenizer.ts";

/** A quantized batch with what training needs. */
export interface Quantized extends Tokens {
  /** The quantizer's weighted share of the training loss. */
  readonly loss: tf.Scalar;
  /** Unweighted parts, and other scalars worth a curve, by name. Entropies in nats. */
  readonly metrics: { readonly [name: string]: tf.Scalar };
}

/** A built quantizer. All methods are traceable. */
export interface Quantizer {
  readonly type: string;
  /** Sizes of the sub-vocabularies, each at most 2^16; the vocabulary is their product. */
  readonly factors: readonly number[];
  /** Channels D of the latents that it takes and of the codes that it gives. */
  readonly width: number;
  /** Whether the encoder should normalise its features once more before it projects them to `width`. */
  readonly preNorm: boolean;

  /** Codes and ids of latents z [B, t, h, w, D]: no losses, no gradient, no change of state. */
  assign(z: tf.Tensor5D): Tokens;
  /**
   * Codes with a straight-through gradient to z, ids, and the losses. Codebook statistics are
   * assigned inside, only when `training`.
   * @param z [B, t, h, w, D]
   * @param step scalar float32: optimizer steps done
   */
  quantize(z: tf.Tensor5D, step: tf.Scalar, training: boolean): Quantized;
  /** Codes of ids: [B, t, h, w, F] int32 to [B, t, h, w, D]. */
  lookup(ids: tf.Tensor5D): tf.Tensor5D;
}
