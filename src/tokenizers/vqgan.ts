/**
 * @file A tokenizer of single frames: VQGAN (Esser et al., "Taming Transformers for High-Resolution
 * Image Synthesis", CVPR 2021) in the blocks of MAGVIT, as MAGVIT's 2D baseline has it. Every frame is
 * encoded and decoded by itself, so clips may have any number of frames, and an image is a clip of
 * one. A video tokenizer can start from its weights (inflation.ts).
 */

import { closed, type Static, Type } from "../config/schema.ts";
import type { Scope } from "../models/scope.ts";
import {
  autoencoder,
  type AutoencoderConfig,
  checkAutoencoder,
  trainingProperties,
} from "./autoencoder.ts";
import { cnnProperties, type Problem } from "./cnn.ts";
import { quantizerSchema } from "./quantizers/registry.ts";
import type { ClipShape, Tokenizer } from "./tokenizer.ts";

const {
  temporal_strides: _strides,
  temporal_patch_size: _patch,
  ...spatial
} = cnnProperties({
  base_channels: 64,
  blocks: 2,
  temporal_strides: [],
  down: "average-pool",
  up: "nearest-conv",
});

export const schema = closed(
  {
    type: Type.Literal("vqgan"),
    ...spatial,
    adaptive_norm: Type.Boolean({
      default: false,
      description:
        "Adaptive group norm before the residual blocks of each decoder level, steered by the codes.",
    }),
    quantizer: quantizerSchema,
    ...trainingProperties({ l2_weight: 1 }),
  },
  { description: "Frame by frame: a 2D CNN with a quantizer (VQGAN)." },
);

export type VqganConfig = Static<typeof schema>;

/** The config of the 3D family with nothing happening in time. */
function timeless(config: VqganConfig): AutoencoderConfig {
  return {
    ...config,
    temporal_strides: config.spatial_strides.map(() => 1),
    temporal_patch_size: 1,
  };
}

/** Mistakes that show only against other keys or the clips' shape. */
export function check(config: VqganConfig, clip: ClipShape): Problem[] {
  return checkAutoencoder(timeless(config), clip, true).filter(
    ({ path }) => path !== "temporal_strides",
  );
}

/** Builds the tokenizer for clips that pass `check`. */
export function build(config: VqganConfig, clip: ClipShape, scope: Scope): Tokenizer {
  // With kernels of one frame, "causal" only says that the first frame needs no other one.
  const style = { causal: true, perFrame: true, frames: 1, adaptiveNorm: config.adaptive_norm };
  return autoencoder(timeless(config), style, clip, scope);
}
