/**
 * @file MAGVIT's 3D-VQ tokenizer: Yu et al., "MAGVIT: Masked Generative Video Transformer" (CVPR
 * 2023), §3.1 and appendix A.1. A 3D CNN with average pooling on the way down and nearest-neighbour
 * repetition plus a convolution on the way up, not causal: every latent sees the whole clip.
 *
 * Clips have s·t frames, with s the total temporal stride. An image is a clip of one frame, so
 * a tokenizer for images has temporal strides of 1 throughout.
 */

import { closed, type Static, Type } from "../config/schema.ts";
import type { Scope } from "../models/scope.ts";
import { autoencoder, checkAutoencoder, trainingProperties } from "./autoencoder.ts";
import { cnnProperties, type Problem } from "./cnn.ts";
import { quantizerSchema } from "./quantizers/registry.ts";
import type { ClipShape, Tokenizer } from "./tokenizer.ts";

export const schema = closed(
  {
    type: Type.Literal("magvit"),
    ...cnnProperties({
      base_channels: 64,
      blocks: 2,
      temporal_strides: [2, 2, 1],
      down: "average-pool",
      up: "nearest-conv",
    }),
    norm_scope: Type.Union([Type.Literal("clip"), Type.Literal("frame")], {
      default: "clip",
      description:
        "What group norms take their statistics of: the whole clip (MAGVIT), or each frame by itself, which an inflated image tokenizer needs to compute what it was trained for.",
    }),
    quantizer: quantizerSchema,
    ...trainingProperties({ l2_weight: 1 }),
  },
  { description: "MAGVIT: non-causal 3D CNN, average pooling, nearest-neighbour up-sampling." },
);

export type MagvitConfig = Static<typeof schema>;

/** Mistakes that show only against other keys or the clips' shape. */
export function check(config: MagvitConfig, clip: ClipShape): Problem[] {
  return checkAutoencoder(config, clip, false);
}

/** Builds the tokenizer for clips that pass `check`. */
export function build(config: MagvitConfig, clip: ClipShape, scope: Scope): Tokenizer {
  return autoencoder(
    config,
    { causal: false, perFrame: config.norm_scope === "frame", frames: 3, adaptiveNorm: false },
    clip,
    scope,
  );
}
