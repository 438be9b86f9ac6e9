/**
 * @file A tokenizer out of its three parts: encoder, quantizer, decoder, with the training loss that
 * MAGVIT and MAGVIT-v2 share: pixel reconstruction plus the quantizer's own terms.
 */

import * as tf from "@tensorflow/tfjs-core";
import { type Static, type TObject, Type } from "../config/schema.ts";
import type { Scope } from "../models/scope.ts";
import {
  checkCnn,
  type CnnConfig,
  type CnnStyle,
  decoder,
  encoder,
  latentGrid,
  type Problem,
} from "./cnn.ts";
import type { QuantizerConfig } from "./quantizers/registry.ts";
import { checkPyramid } from "./quantizers/spae.ts";
import { buildQuantizer } from "./quantizers/registry.ts";
import type { ClipShape, Tokenizer } from "./tokenizer.ts";

/** The config keys of the reconstruction loss. */
export function lossProperties(defaults: { readonly l2_weight: number }) {
  return {
    l1_weight: Type.Number({
      minimum: 0,
      default: 0,
      description: "Weight of the mean absolute pixel error, pixels in [0, 1].",
    }),
    l2_weight: Type.Number({
      minimum: 0,
      default: defaults.l2_weight,
      description: "Weight of the mean squared pixel error, pixels in [0, 1].",
    }),
  };
}

export type LossConfig = Static<TObject<ReturnType<typeof lossProperties>>>;

/** Everything a config of the family consists of. */
export type AutoencoderConfig = CnnConfig &
  LossConfig & { readonly type: string; readonly quantizer: QuantizerConfig };

/** Mistakes that show only against other keys or the clips' shape. */
export function checkAutoencoder(
  config: AutoencoderConfig,
  clip: ClipShape,
  causal: boolean,
): Problem[] {
  const problems = checkCnn(config, clip, causal);
  const { quantizer } = config;
  if (quantizer.type === "vq" && quantizer.width % quantizer.groups !== 0) {
    problems.push({
      path: "quantizer.groups",
      message: `${quantizer.groups} groups do not divide a width of ${quantizer.width}`,
      hint: "make quantizer.width a multiple of quantizer.groups",
    });
  }
  if (quantizer.type === "spae" && problems.length === 0) {
    const message = checkPyramid(quantizer, latentGrid(config, clip, causal));
    if (message !== undefined) {
      problems.push({
        path: "quantizer.strides",
        message,
        hint: "use strides that divide the latent grid, and square clips",
      });
    }
  }
  return problems;
}

/** Puts a tokenizer together; its variables go to `scope`. The config must pass `checkAutoencoder`. */
export function autoencoder(
  config: AutoencoderConfig,
  style: Omit<CnnStyle, "preNorm">,
  clip: ClipShape,
  scope: Scope,
): Tokenizer {
  const quantizer = buildQuantizer(config.quantizer, scope.child("quantizer"));
  const parts = { ...style, preNorm: quantizer.preNorm };
  const encode = encoder(scope.child("encoder"), config, parts, quantizer.latentWidth);
  const decodeLatents = decoder(scope.child("decoder"), config, parts, quantizer.width);
  const latents = latentGrid(config, clip, style.causal);
  const decode = (codes: tf.Tensor5D): tf.Tensor5D =>
    decodeLatents(quantizer.assemble ? quantizer.assemble(codes) : codes);
  return {
    type: config.type,
    scope,
    clip,
    causal: style.causal,
    modality: "video",
    continuous: quantizer.type === "none",
    grid: quantizer.tokenGrid?.(latents) ?? latents,
    factors: quantizer.factors,
    width: quantizer.width,
    remedy: quantizer.remedy,
    inputs: (clips, seed, step) => quantizer.inputs?.([clips, ...latents], seed, step) ?? {},
    encode: (clips) => quantizer.assign(encode(clips)),
    lookup: (ids) => quantizer.lookup(ids),
    decode,
    loss(clips, step, training, noise) {
      const quantized = quantizer.quantize(encode(clips), step, training, noise);
      const reconstruction = decodeLatents(quantized.codes); // [B, T, H, W, 3]
      // The papers weigh errors of pixels in [0, 1]; ours span twice that.
      const error = tf.mul(tf.sub(reconstruction, clips), 0.5);
      const l2 = tf.mean<tf.Scalar>(tf.square(error));
      let loss = tf.add<tf.Scalar>(quantized.loss, tf.mul(l2, config.l2_weight));
      if (config.l1_weight > 0) {
        loss = tf.add(loss, tf.mul(tf.mean(tf.abs(error)), config.l1_weight));
      }
      const psnr = tf.mul<tf.Scalar>(tf.log(tf.maximum(l2, 1e-10)), -10 / Math.LN10); // of the batch's mean error
      return {
        loss,
        metrics: { reconstruction: l2, psnr, ...quantized.metrics },
        reconstruction,
        ids: quantized.ids,
      };
    },
  };
}
