/** @file The objectives that an experiment can name under `objective`. */

import { component, type Static } from "../config/schema.ts";
import type { ModelConfig } from "../models/registry.ts";
import type { Scope } from "../models/scope.ts";
import { buildCausal, causalSchema } from "./causal.ts";
import { buildMasked, maskedSchema } from "./masked.ts";
import type { Objective, TokenSpace } from "./objective.ts";

export const objectives = {
  masked: { schema: maskedSchema, build: buildMasked },
  causal: { schema: causalSchema, build: buildCausal },
} as const;
export const objectiveSchema = component(
  "objectives",
  objectives,
  "What the transformer learns from tokens, and how it makes new ones.",
);
export type ObjectiveConfig = Static<typeof objectiveSchema>;

/** Build the transformer of `model` and the objective over `space`; variables go into `scope`. */
export function buildObjective(
  config: ObjectiveConfig,
  model: ModelConfig,
  space: TokenSpace,
  scope: Scope,
): Objective {
  return config.type === "masked"
    ? buildMasked(config, model, space, scope)
    : buildCausal(config, model, space, scope);
}
