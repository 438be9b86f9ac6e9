/**
 * @file The schema of an experiment: everything that one run is made of. The components come from
 * the rooms' registries; a file composes them (docs/config.md).
 */

import type { Check } from "../config/resolve.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import { datasetSchema } from "../data/registry.ts";
import { soundLength } from "../data/shapes/sound.ts";
import { suiteSchema } from "../eval/registry.ts";
import { modelSchema } from "../models/registry.ts";
import { Scope } from "../models/scope.ts";
import { checkTransformer } from "../models/transformer.ts";
import { checkDiffusion } from "../objectives/diffusion.ts";
import { checkObjective, modelOf, objectiveSchema } from "../objectives/registry.ts";
import { checkSuperResolution } from "../objectives/super-resolution/config.ts";
import { type DeviceConfig, deviceSchema } from "../runtime/registry.ts";
import { checkLow, lowShape } from "../tokenizers/low-resolution.ts";
import { buildTokenizer, checkTokenizer, tokenizerSchema } from "../tokenizers/registry.ts";
import type { ClipShape } from "../tokenizers/tokenizer.ts";
import { trainerSchema } from "./options.ts";
import { suiteChecks } from "./suite-checks.ts";

export const experimentSchema = closed({
  name: Type.String({
    pattern: "^[A-Za-z0-9][A-Za-z0-9._-]*$",
    description:
      "Names the experiment's folder under `output`: letters, digits, dot, dash, underscore.",
  }),
  seed: Type.Integer({
    minimum: 0,
    default: 0,
    description: "Every random number of the run follows from it.",
  }),
  device: Type.Unsafe<DeviceConfig>({ ...deviceSchema, default: { type: "cpu" } }),
  dataset: datasetSchema,
  tokenizer: tokenizerSchema,
  model: Type.Optional(modelSchema),
  objective: Type.Optional(objectiveSchema),
  trainer: trainerSchema,
  evals: Type.Record(Type.String(), suiteSchema, {
    default: {},
    description: "Evaluations by a name of your choice, in the order they run.",
  }),
  output: Type.String({
    default: "results",
    semantic: false,
    description: "The folder that holds all run folders.",
  }),
});

export type Experiment = Static<typeof experimentSchema>;

/** The shape of an experiment's clips. */
export function clipShape({ dataset }: Pick<Experiment, "dataset">): ClipShape {
  const { frames, height, width } = dataset;
  const rate = "audio_rate" in dataset ? dataset.audio_rate : 0;
  const fps = "fps" in dataset ? dataset.fps : null;
  const samples = rate > 0 && fps ? soundLength(frames, fps, rate) : 0;
  return { frames, height, width, ...(samples > 0 && { samples }) };
}

/** The cross-field checks of an experiment, for `loadConfig`. */
export const checks: readonly Check<Experiment>[] = [
  ...suiteChecks,
  (config) =>
    checkTokenizer(config.tokenizer, clipShape(config)).map((problem) => ({
      ...problem,
      path: `tokenizer.${problem.path}`,
    })),
  ({ tokenizer, objective }) =>
    "quantizer" in tokenizer &&
    tokenizer.quantizer.type === "none" &&
    objective !== undefined &&
    objective.type !== "diffusion"
      ? [
          {
            path: "objective",
            message: `a ${objective.type} transformer learns ids, and this tokenizer's latents are continuous`,
            hint: "use a quantizer, or an objective over continuous latents (diffusion)",
          },
        ]
      : [],
  ({ tokenizer, objective }) =>
    objective?.type === "diffusion" &&
    !("quantizer" in tokenizer && tokenizer.quantizer.type === "none")
      ? [
          {
            path: "objective",
            message: "diffusion learns continuous latents, and this tokenizer's are quantized",
            hint: "use `quantizer: { type: none }`, or an objective over ids (masked, causal)",
          },
        ]
      : [],
  ({ model, objective }) =>
    model && objective && model.type !== modelOf(objective).type
      ? [
          {
            path: "model",
            message: `the objective ${objective.type} does not train a ${model.type}`,
            hint: `use \`model: '${modelOf(objective).preset}'\``,
          },
        ]
      : [],
  (config) => {
    const { objective, model, tokenizer, trainer } = config;
    if (objective?.type !== "diffusion") {
      return [];
    }
    if (trainer.tokens.store !== null) {
      return [
        {
          path: "trainer.tokens.store",
          message: "token stores hold ids, and a diffusion learns continuous latents",
          hint: "train it from the data set",
        },
      ];
    }
    const clip = clipShape(config);
    if (checkTokenizer(tokenizer, clip).length > 0) {
      return []; // said already
    }
    const { grid, causal } = buildTokenizer(tokenizer, clip, Scope.shapes());
    const fitting = model?.type === "diffusion-transformer" ? model : undefined;
    return checkDiffusion(objective, fitting, grid, { ...clip, causal });
  },
  (config) => {
    const { objective, model, tokenizer, trainer } = config;
    if (objective?.type !== "super-resolution") {
      return [];
    }
    if (trainer.tokens.store !== null) {
      return [
        {
          path: "trainer.tokens.store",
          message:
            "token stores hold no tokens of small clips, and super-resolution learns from them",
          hint: "train it from the data set",
        },
      ];
    }
    const clip = clipShape(config);
    const problems = checkLow(tokenizer, clip, objective.factor);
    if (
      checkTokenizer(tokenizer, clip).length > 0 ||
      problems.length > 0 ||
      model?.type !== "window-transformer"
    ) {
      return problems;
    }
    const gridOf = (shape: typeof clip) => buildTokenizer(tokenizer, shape, Scope.shapes()).grid;
    const small = lowShape(clip, objective.factor)!;
    return checkSuperResolution(objective, model, gridOf(clip), gridOf(small));
  },
  ({ tokenizer, trainer }) =>
    tokenizer.type === "onnx" && trainer.tokenizer.steps > 0
      ? [
          {
            path: "trainer.tokenizer.steps",
            message: "an external tokenizer cannot be trained",
            hint: "set trainer.tokenizer.steps=0",
          },
        ]
      : [],
  ({ model }) =>
    model ? checkTransformer(model).map((p) => ({ ...p, path: `model.${p.path}` })) : [],
  ({ objective, dataset }) => (objective ? checkObjective(objective, dataset) : []),
  ({ model, objective }) =>
    (model === undefined) === (objective === undefined)
      ? []
      : [
          {
            path: model ? "model" : "objective",
            message: model
              ? "a model without an objective trains nothing"
              : "an objective needs a model",
            hint: model ? "add `objective: '@masked'`" : "add `model: '@transformer-tiny'`",
          },
        ],
  (config) =>
    (["tokenizer", "transformer"] as const).flatMap((stage) => {
      const { batch, accumulate } = config.trainer[stage];
      return batch % accumulate === 0
        ? []
        : [
            {
              path: `trainer.${stage}.accumulate`,
              message: `${accumulate} micro-batches do not divide a batch of ${batch}`,
              hint: "`batch` counts all of a step's micro-batches together",
            },
          ];
    }),
];
