/**
 * @file Binary spherical quantization: Zhao et al., "Image and Video Tokenization with Binary Spherical
 * Quantization" (ICLR 2025), §4. Lookup-free quantization on the unit sphere: u = z / |z|, and the
 * code of a token of L bits is sign(u) / √L. Bit order, sub-ids and the entropy penalty are those of
 * lfq.ts; the soft bits are p(bit l = 1) = σ(4 u_l / (τ √L)), with τ the inverse of the paper's β.
 */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, Type } from "../../config/schema.ts";
import { buildSigns, signProperties } from "./lfq.ts";
import type { Quantizer } from "./quantizer.ts";

export const schema = closed(
  { type: Type.Literal("bsq"), ...signProperties({ entropy_temperature: 0.1 }) },
  { description: "Binary spherical quantization: signs of latents of length one (BSQ)." },
);

export type BsqConfig = Static<typeof schema>;

/** Builds the quantizer. It has no variables. */
export function build(config: BsqConfig): Quantizer {
  const prepare = (z: tf.Tensor5D): tf.Tensor5D =>
    tf.mul(z, tf.rsqrt(tf.add(tf.sum(tf.square(z), -1, true), 1e-12)));
  return buildSigns("bsq", config, { scale: 1 / Math.sqrt(config.bits), prepare, perToken: true });
}
