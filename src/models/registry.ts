/** @file The transformers that an experiment can name under `model`. */

import { component, type Static } from "../config/schema.ts";
import { diffusionTransformerSchema } from "./diffusion-transformer.ts";
import { transformerSchema } from "./transformer.ts";
import { windowTransformerSchema } from "./window-transformer.ts";

export const models = {
  transformer: { schema: transformerSchema },
  "diffusion-transformer": { schema: diffusionTransformerSchema },
  "window-transformer": { schema: windowTransformerSchema },
} as const;
export const modelSchema = component("models", models, "The transformer over tokens or latents.");
export type ModelConfig = Static<typeof modelSchema>;
