/** @file The objectives that an experiment can name under `objective`. */

import { component, type Static } from "../config/schema.ts";
import type { ModelConfig } from "../models/registry.ts";
import type { Scope } from "../models/scope.ts";
import { buildCausal, causalSchema } from "./causal.ts";
import { buildDiffusion, diffusionSchema } from "./diffusion.ts";
import { buildMasked, maskedSchema } from "./masked.ts";
import { multimodalSchema } from "./multimodal/config.ts";
import { buildMultimodal } from "./multimodal/objective.ts";
import { checkText } from "./multimodal/text.ts";
import type { Objective, TokenSpace } from "./objective.ts";
import { needsBoth } from "./sampling.ts";
import { superResolutionSchema } from "./super-resolution/config.ts";
import { buildSuperResolution } from "./super-resolution/objective.ts";

export const objectives = {
  masked: { schema: maskedSchema, build: buildMasked },
  causal: { schema: causalSchema, build: buildCausal },
  multimodal: { schema: multimodalSchema, build: buildMultimodal },
  diffusion: { schema: diffusionSchema, build: buildDiffusion },
  "super-resolution": { schema: superResolutionSchema, build: buildSuperResolution },
} as const;
export const objectiveSchema = component(
  "objectives",
  objectives,
  "What the transformer learns from tokens, and how it makes new ones.",
);
export type ObjectiveConfig = Static<typeof objectiveSchema>;

/** What is wrong with an objective beyond its schema, in the words of the config. */
export function checkObjective(
  config: ObjectiveConfig,
  clip: { readonly frames: number },
): { path: string; message: string; hint: string }[] {
  const problems: { path: string; message: string; hint: string }[] = [];
  if (config.type === "super-resolution") {
    return problems; // its own check knows the grids
  }
  if (needsBoth(config.sampling, true) && config.label_dropout === 0) {
    problems.push({
      path: "objective.sampling.guidance",
      message: `guidance ${config.sampling.guidance} needs a network that was trained without conditions at times, but objective.label_dropout is 0`,
      hint: "set objective.label_dropout=0.1, or objective.sampling.guidance=1",
    });
  }
  if (config.type === "multimodal" && config.text) {
    for (const fault of checkText(config.text)) {
      problems.push({ ...fault, path: `objective.text.${fault.path}` });
    }
  }
  if ("tasks" in config && config.tasks.length > 0) {
    const names: string[] = config.tasks.map(({ task }) => task);
    const twice = names.find((name, i) => names.indexOf(name) !== i);
    if (twice !== undefined) {
      problems.push({
        path: "objective.tasks",
        message: `${twice} stands twice in the mixture`,
        hint: "write it once, with the sum of the weights",
      });
    }
    if (config.type === "masked" && config.condition_frames >= clip.frames) {
      problems.push({
        path: "objective.condition_frames",
        message: `${config.condition_frames} given frames leave nothing to predict of ${clip.frames}`,
        hint: "give fewer frames than a clip has",
      });
    }
  }
  return problems;
}

/** The model that an objective trains, and a preset of it. */
export const modelOf = (
  config: Pick<ObjectiveConfig, "type">,
): { readonly type: ModelConfig["type"]; readonly preset: string } =>
  config.type === "diffusion"
    ? { type: "diffusion-transformer", preset: "@walt-small" }
    : config.type === "super-resolution"
      ? { type: "window-transformer", preset: "@window-small" }
      : { type: "transformer", preset: "@transformer-tiny" };

/** Build the transformer of `model` and the objective over `space`; variables go into `scope`. */
export function buildObjective(
  config: ObjectiveConfig,
  model: ModelConfig,
  space: TokenSpace,
  scope: Scope,
): Objective {
  if (config.type === "diffusion") {
    if (model.type !== "diffusion-transformer") {
      throw new RangeError("a diffusion needs a diffusion-transformer");
    }
    return buildDiffusion(config, model, space, scope);
  }
  if (config.type === "super-resolution") {
    if (model.type !== "window-transformer") {
      throw new RangeError("super-resolution needs a window-transformer");
    }
    return buildSuperResolution(config, model, space, scope);
  }
  if (model.type !== "transformer") {
    throw new RangeError(`the objective ${config.type} needs a transformer over tokens`);
  }
  switch (config.type) {
    case "masked":
      return buildMasked(config, model, space, scope);
    case "causal":
      return buildCausal(config, model, space, scope);
    case "multimodal":
      return buildMultimodal(config, model, space, scope);
  }
}
