/**
 * @file Tokenizers without a network, the baselines in pixel space. Blocks of pixels become channels
 * (`linear: true`: through one learned linear map each way, the patch embedding of a vision
 * transformer, which reconstructs as well as principal components could), and the quantizer does the
 * rest. With `patch_size` 1, `linear: false` and rounding (fsq with three channels) tokens are the
 * pixels themselves at a chosen depth of colour, as in iGPT (Chen et al. 2020).
 *
 * Clips have 1 + t·n frames: the first frame is repeated in front, so that it fills a patch by itself
 * and is independent of the rest.
 */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, Type } from "../config/schema.ts";
import { dense } from "../models/layers.ts";
import type { Scope } from "../models/scope.ts";
import type { Block } from "../runtime/ops.ts";
import { assembleTokenizer, checkQuantizer, trainingProperties } from "./autoencoder.ts";
import { fold, type Problem, unfold } from "./cnn.ts";
import { quantizerSchema } from "./quantizers/registry.ts";
import type { ClipShape, Tokenizer } from "./tokenizer.ts";

export const schema = closed(
  {
    type: Type.Literal("patches"),
    patch_size: Type.Integer({ minimum: 1, default: 4, description: "Side of a block of pixels." }),
    temporal_patch_size: Type.Integer({
      minimum: 1,
      default: 1,
      description: "Frames of a block. Clips have 1 + this·n frames.",
    }),
    linear: Type.Boolean({
      default: true,
      description:
        "Map blocks to the quantizer's channels and back by a learned matrix. Without it the quantizer gets the pixel values, 3 · patch_size² · temporal_patch_size channels (for fsq through artanh, which its bound undoes).",
    }),
    quantizer: quantizerSchema,
    ...trainingProperties({ l2_weight: 1 }),
  },
  { description: "Blocks of pixels as tokens: linear patches, or the pixels themselves." },
);

/** Pixel values stay clear of ±1, where artanh is infinite. */
const MOST = 1 - 1e-6;

export type PatchesConfig = Static<typeof schema>;

const blockOf = (config: PatchesConfig): Block => [
  config.temporal_patch_size,
  config.patch_size,
  config.patch_size,
];

function gridOf(config: PatchesConfig, { frames, height, width }: ClipShape): Block {
  const [t, h, w] = blockOf(config);
  return [1 + (frames - 1) / t, height / h, width / w];
}

/** Mistakes that show only against other keys or the clips' shape. */
export function check(config: PatchesConfig, clip: ClipShape): Problem[] {
  const problems: Problem[] = [];
  const { patch_size: side, temporal_patch_size: frames, quantizer } = config;
  if ((clip.frames - 1) % frames !== 0) {
    problems.push({
      path: "temporal_patch_size",
      message: `clips of ${clip.frames} frames do not fit blocks of ${frames}: expected 1 + ${frames}·n frames`,
      hint: "use another number of frames, or temporal_patch_size=1",
    });
  }
  if (clip.height % side !== 0 || clip.width % side !== 0) {
    problems.push({
      path: "patch_size",
      message: `blocks of ${side} do not fit clips of ${clip.height}×${clip.width}`,
      hint: "use a patch_size that divides both sides",
    });
  }
  const channels = 3 * side * side * frames;
  const width = widthOf(quantizer);
  if (!config.linear && width !== channels) {
    problems.push({
      path: "linear",
      message: `without it the quantizer gets ${channels} channels, and it has ${width}`,
      hint: "give the quantizer that many channels, or set linear=true",
    });
  }
  return [
    ...problems,
    ...checkQuantizer(quantizer, problems.length ? undefined : gridOf(config, clip)),
  ];
}

/** Channels of the latents that a quantizer takes. */
function widthOf(quantizer: PatchesConfig["quantizer"]): number {
  switch (quantizer.type) {
    case "lfq":
    case "bsq":
      return quantizer.bits;
    case "fsq":
      return quantizer.levels.length;
    case "none":
      return quantizer.kl_weight > 0 ? 2 * quantizer.width : quantizer.width;
    default:
      return quantizer.width;
  }
}

/** Composed: compiled functions have no kernel for it. */
const artanh = (x: tf.Tensor5D): tf.Tensor5D =>
  tf.mul(tf.log(tf.div(tf.add(1, x), tf.sub(1, x))), 0.5);

/** Builds the tokenizer for clips that pass `check`. */
export function build(config: PatchesConfig, clip: ClipShape, scope: Scope): Tokenizer {
  const block = blockOf(config);
  const channels = 3 * block[0] * block[1] * block[2];
  // Rounding bounds its channels by tanh: the pixels themselves are to be rounded.
  const raw = (x: tf.Tensor5D): tf.Tensor5D =>
    config.quantizer.type === "fsq" && !config.linear ? artanh(tf.clipByValue(x, -MOST, MOST)) : x;
  const map = (at: Scope, inputs: number, outputs: number) =>
    config.linear ? dense(at.child("map"), { inputs, outputs }) : (x: tf.Tensor) => x;
  return assembleTokenizer(config, clip, scope, {
    causal: true,
    latents: gridOf(config, clip),
    encoder(at, width) {
      const project = map(at, channels, width);
      return (x) => project(fold(raw(x), block, true)) as tf.Tensor5D;
    },
    decoder(at, width) {
      const project = map(at, width, channels);
      return (z) => unfold(project(z) as tf.Tensor5D, block, true);
    },
  });
}
