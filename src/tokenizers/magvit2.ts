/**
 * @file MAGVIT-v2's tokenizer: Yu et al., "Language Model Beats Diffusion: Tokenizer is Key to Visual
 * Generation" (ICLR 2024), §3. A causal 3D CNN: strided convolutions on the way down, with the
 * temporal ones last, depth to space on the way up, and lookup-free quantization.
 *
 * Clips have 1 + s·t frames, with s the total temporal stride, and give 1 + t latent frames. Latent
 * frame i sees pixels up to frame s·i alone, so an image gets the tokens that it would get as the
 * first frame of a clip. Norms take their statistics frame by frame to keep this exact.
 */

import { closed, type Static, Type } from "../config/schema.ts";
import type { Scope } from "../models/scope.ts";
import { autoencoder, checkAutoencoder, trainingProperties } from "./autoencoder.ts";
import { cnnProperties, type Problem } from "./cnn.ts";
import { quantizerSchema } from "./quantizers/registry.ts";
import type { ClipShape, Tokenizer } from "./tokenizer.ts";

export const schema = closed(
  {
    type: Type.Literal("magvit2"),
    ...cnnProperties({
      base_channels: 128,
      blocks: 4,
      temporal_strides: [1, 2, 2],
      down: "strided-conv",
      up: "depth-to-space",
    }),
    adaptive_norm: Type.Boolean({
      default: true,
      description:
        "Adaptive group norm before the residual blocks of each decoder level, steered by the codes.",
    }),
    quantizer: quantizerSchema,
    ...trainingProperties({ l2_weight: 5 }),
  },
  { description: "MAGVIT-v2: causal 3D CNN, strided convolutions, depth-to-space up-sampling." },
);

export type Magvit2Config = Static<typeof schema>;

/** Mistakes that show only against other keys or the clips' shape. */
export function check(config: Magvit2Config, clip: ClipShape): Problem[] {
  return checkAutoencoder(config, clip, true);
}

/** Builds the tokenizer for clips that pass `check`. */
export function build(config: Magvit2Config, clip: ClipShape, scope: Scope): Tokenizer {
  return autoencoder(
    config,
    { causal: true, perFrame: true, frames: 3, adaptiveNorm: config.adaptive_norm },
    clip,
    scope,
  );
}
