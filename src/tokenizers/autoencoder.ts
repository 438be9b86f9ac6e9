/**
 * @file A tokenizer out of its three parts: encoder, quantizer, decoder, with the training loss that
 * MAGVIT and MAGVIT-v2 share: pixel reconstruction plus the quantizer's own terms.
 */

import * as tf from "@tensorflow/tfjs-core";
import { type Static, type TObject, Type } from "../config/schema.ts";
import type { Layer } from "../models/layers.ts";
import type { Scope } from "../models/scope.ts";
import { adversarialSchema } from "./adversarial.ts";
import {
  checkCnn,
  type CnnConfig,
  type CnnStyle,
  decoder,
  encoder,
  latentGrid,
  type Problem,
} from "./cnn.ts";
import { buildDiffusionDecoder, diffusionDecoderSchema } from "./diffusion-decoder.ts";
import { initSchema } from "./inflation.ts";
import { perceptualSchema } from "./perceptual.ts";
import type { QuantizerConfig } from "./quantizers/registry.ts";
import { checkPyramid } from "./quantizers/spae.ts";
import { buildQuantizer } from "./quantizers/registry.ts";
import type { ClipShape, Tokenizer } from "./tokenizer.ts";

/** The config keys of the training that all tokenizers share. */
export function trainingProperties(defaults: { readonly l2_weight: number }) {
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
    image_share: Type.Number({
      minimum: 0,
      maximum: 1,
      default: 0,
      description:
        "Share of the training steps whose batch are single frames, evenly spread: joint training on images and clips. Needs a tokenizer that takes clips of one frame.",
    }),
    perceptual: Type.Optional(perceptualSchema),
    adversarial: Type.Optional(adversarialSchema),
    diffusion_decoder: Type.Optional(diffusionDecoderSchema),
    init: Type.Optional(initSchema),
  };
}

export type TrainingConfig = Static<TObject<ReturnType<typeof trainingProperties>>>;

/** Everything a config of the family consists of. */
export type AutoencoderConfig = CnnConfig &
  TrainingConfig & { readonly type: string; readonly quantizer: QuantizerConfig };

/** Mistakes that show only against other keys or the clips' shape. */
export function checkAutoencoder(
  config: AutoencoderConfig,
  clip: ClipShape,
  causal: boolean,
): Problem[] {
  const problems = checkCnn(config, clip, causal);
  const fits = problems.length === 0;
  return [
    ...problems,
    ...checkQuantizer(config.quantizer, fits ? latentGrid(config, clip, causal) : undefined),
  ];
}

/** Mistakes of a quantizer's config; against the latent grid as well where that is known. */
export function checkQuantizer(
  quantizer: QuantizerConfig,
  latents: readonly [number, number, number] | undefined,
): Problem[] {
  const problems: Problem[] = [];
  if (quantizer.type === "vq" && quantizer.width % quantizer.groups !== 0) {
    problems.push({
      path: "quantizer.groups",
      message: `${quantizer.groups} groups do not divide a width of ${quantizer.width}`,
      hint: "make quantizer.width a multiple of quantizer.groups",
    });
  }
  if (quantizer.type === "vq" && quantizer.factor_size !== undefined) {
    const { factor_size: base, size, groups } = quantizer;
    const fault =
      (base & (base - 1)) !== 0
        ? `${base} is no power of two`
        : base < size && size % base !== 0
          ? `${base} does not divide a codebook of ${size}`
          : groups > 1
            ? `${groups} groups have their own sub-ids already`
            : undefined;
    if (fault !== undefined) {
      problems.push({
        path: "quantizer.factor_size",
        message: fault,
        hint: "use a power of two that divides size, with one group, or leave it out",
      });
    }
  }
  const pyramid = quantizer.type === "spae" && latents && checkPyramid(quantizer, latents);
  if (pyramid) {
    problems.push({
      path: "quantizer.strides",
      message: pyramid,
      hint: "use strides that divide the latent grid, and square clips",
    });
  }
  return problems;
}

/** Puts a tokenizer of the CNN family together. The config must pass `checkAutoencoder`. */
export function autoencoder(
  config: AutoencoderConfig,
  style: Omit<CnnStyle, "preNorm">,
  clip: ClipShape,
  scope: Scope,
): Tokenizer {
  return assembleTokenizer(config, clip, scope, {
    causal: style.causal,
    latents: latentGrid(config, clip, style.causal),
    encoder: (at, width, preNorm) => encoder(at, config, { ...style, preNorm }, width),
    decoder: (at, width) => decoder(at, config, { ...style, preNorm: false }, width),
  });
}

interface Reconstruction {
  readonly loss: tf.Scalar;
  readonly metrics: { readonly [name: string]: tf.Scalar };
}

/** The weighted pixel errors. */
function pixelLoss(
  made: tf.Tensor5D,
  real: tf.Tensor5D,
  weights: Pick<TrainingConfig, "l1_weight" | "l2_weight">,
): Reconstruction {
  // The papers weigh errors of pixels in [0, 1]; ours span twice that.
  const error = tf.mul(tf.sub(made, real), 0.5);
  const l2 = tf.mean<tf.Scalar>(tf.square(error));
  let loss = tf.mul<tf.Scalar>(l2, weights.l2_weight);
  if (weights.l1_weight > 0) {
    loss = tf.add(loss, tf.mul(tf.mean(tf.abs(error)), weights.l1_weight));
  }
  const psnr = tf.mul<tf.Scalar>(tf.log(tf.maximum(l2, 1e-10)), -10 / Math.LN10); // of the batch's mean error
  return { loss, metrics: { reconstruction: l2, psnr } };
}

/** The networks around a quantizer. */
export interface Parts {
  readonly causal: boolean;
  /** Default "video". */
  readonly modality?: "video" | "audio";
  /** The reconstruction's loss and metrics; errors of pixels when left out. */
  loss?(made: tf.Tensor5D, real: tf.Tensor5D): Reconstruction;
  /** The latent grid (t, h, w) of a clip. */
  readonly latents: readonly [number, number, number];
  /** Pixels [B, T, H, W, 3] to latents [B, t, h, w, width]. */
  encoder(scope: Scope, width: number, preNorm: boolean): Layer;
  /** Latents [B, t, h, w, width] to pixels. */
  decoder(scope: Scope, width: number): Layer;
}

/** Puts encoder, quantizer and decoder together; their variables go to `scope`. */
export function assembleTokenizer(
  config: Partial<Omit<TrainingConfig, "adversarial">> & {
    readonly type: string;
    readonly quantizer: QuantizerConfig;
  },
  clip: ClipShape,
  scope: Scope,
  { causal, latents, ...parts }: Parts,
): Tokenizer {
  const quantizer = buildQuantizer(config.quantizer, scope.child("quantizer"));
  const encode = parts.encoder(scope.child("encoder"), quantizer.latentWidth, quantizer.preNorm);
  const decodeLatents = parts.decoder(scope.child("decoder"), quantizer.width);
  const diffusion =
    config.diffusion_decoder &&
    buildDiffusionDecoder(config.diffusion_decoder, causal, scope.child("diffusion_decoder"));
  const pixelsOf = (latents: tf.Tensor5D): tf.Tensor5D => {
    const made = decodeLatents(latents);
    return diffusion ? diffusion.decode(made) : made;
  };
  const decode = (codes: tf.Tensor5D): tf.Tensor5D =>
    pixelsOf(quantizer.assemble ? quantizer.assemble(codes) : codes);
  return {
    type: config.type,
    scope,
    clip,
    causal,
    // A diffusion's noise lies in the clip: a piece of it would get other noise.
    ...(diffusion && { streams: false }),
    modality: parts.modality ?? "video",
    continuous: quantizer.type === "none",
    grid: quantizer.tokenGrid?.(latents) ?? latents,
    factors: quantizer.factors,
    width: quantizer.width,
    remedy: quantizer.remedy,
    inputs(clips, seed, step, frames = clip.frames) {
      const [t, h, w] = latents;
      const grid = [clips, frames === clip.frames ? t : 1, h, w] as const;
      const shape = [frames, clip.height, clip.width];
      return {
        ...quantizer.inputs?.(grid, seed, step),
        ...diffusion?.inputs(clips, shape, seed, step),
      };
    },
    encode: (clips) => quantizer.assign(encode(clips)),
    ...(!quantizer.assemble && {
      trainedCodes: (clips: tf.Tensor5D) =>
        quantizer.quantize(encode(clips), tf.scalar(0), false).codes,
    }),
    lookup: (ids) => quantizer.lookup(ids),
    decode,
    ...(quantizer.assemble && {
      decodeLayers: (codes: tf.Tensor5D, layers: number) =>
        pixelsOf(quantizer.assemble!(codes, layers)),
    }),
    ...(quantizer.lexical && {
      lexical: { ...quantizer.lexical, layers: quantizer.lexical.layers(latents[1], latents[2]) },
    }),
    loss(clips, step, training, noise) {
      const quantized = quantizer.quantize(encode(clips), step, training, noise);
      const reconstruction = decodeLatents(quantized.codes); // [B, T, H, W, 3]
      const seen = parts.loss
        ? parts.loss(reconstruction, clips)
        : pixelLoss(reconstruction, clips, { l1_weight: 0, l2_weight: 1, ...config });
      const own = tf.add<tf.Scalar>(quantized.loss, seen.loss);
      // Held-out losses have no noise and leave the diffusion out: they compare with runs without one.
      const denoised =
        diffusion && noise?.["decoder_noise"]
          ? diffusion.loss(clips, reconstruction, noise)
          : undefined;
      return {
        loss: denoised
          ? tf.add<tf.Scalar>(own, tf.mul(denoised, config.diffusion_decoder!.weight))
          : own,
        metrics: {
          ...seen.metrics,
          ...quantized.metrics,
          ...(denoised && { diffusion_loss: denoised }),
        },
        reconstruction,
        ids: quantized.ids,
      };
    },
  };
}
