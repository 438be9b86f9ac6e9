/** @file The options of training: one schema for the stages, with each stage's own defaults. */

import { type Static, Type } from "../config/schema.ts";

interface StageDefaults {
  readonly steps: number;
  readonly batch: number;
  readonly lr: number;
  readonly beta2: number;
  readonly weight_decay: number;
}

function stageSchema(what: string, defaults: StageDefaults) {
  return Type.Object(
    {
      steps: Type.Integer({
        minimum: 0,
        default: defaults.steps,
        description: "Optimizer steps.",
      }),
      batch: Type.Integer({
        minimum: 1,
        default: defaults.batch,
        description: `${what} an optimizer step, over all of its micro-batches.`,
      }),
      accumulate: Type.Integer({
        minimum: 1,
        default: 1,
        description: "Micro-batches a step; they divide `batch`. More need less memory.",
      }),
      lr: Type.Number({
        exclusiveMinimum: 0,
        default: defaults.lr,
        description: "Peak learning rate.",
      }),
      schedule: Type.Union(
        [Type.Literal("cosine"), Type.Literal("linear"), Type.Literal("constant")],
        { default: "cosine", description: "Decay of the learning rate after the warm-up." },
      ),
      warmup: Type.Integer({
        minimum: 0,
        default: 50,
        description: "Steps of linear warm-up of the learning rate.",
      }),
      final_lr_ratio: Type.Number({
        minimum: 0,
        maximum: 1,
        default: 0.05,
        description: "Last learning rate as a share of `lr` (cosine and linear).",
      }),
      beta1: Type.Number({
        minimum: 0,
        exclusiveMaximum: 1,
        default: 0.9,
        description: "AdamW: decay of the first moment.",
      }),
      beta2: Type.Number({
        minimum: 0,
        exclusiveMaximum: 1,
        default: defaults.beta2,
        description: "AdamW: decay of the second moment.",
      }),
      epsilon: Type.Number({
        exclusiveMinimum: 0,
        default: 1e-8,
        description: "AdamW: added to the root of the second moment.",
      }),
      weight_decay: Type.Number({
        minimum: 0,
        default: defaults.weight_decay,
        description:
          "AdamW: decoupled decay of tensors of rank 2 and more, times the learning rate.",
      }),
      clip_norm: Type.Number({
        minimum: 0,
        default: 1,
        description: "Largest norm of the whole gradient; 0 never clips.",
      }),
      ema_decay: Type.Number({
        minimum: 0,
        exclusiveMaximum: 1,
        default: 0.999,
        description:
          "Decay of the moving average of the weights that validation and evaluation use; it ramps up from 0.1. 0 uses the last weights.",
      }),
      validate_every: Type.Integer({
        minimum: 1,
        default: 200,
        description: "Steps between validations; the last step is always validated.",
      }),
      validate_batches: Type.Integer({
        minimum: 0,
        default: 8,
        description:
          "Held-out micro-batches a validation, always the same ones; fewer when the split is smaller. 0 never validates.",
      }),
      log_every: Type.Integer({
        minimum: 1,
        default: 20,
        description: "Steps a line of metrics; it holds their means.",
      }),
      checkpoint_every: Type.Integer({
        minimum: 1,
        default: 200,
        semantic: false,
        description: "Steps between checkpoints; the last step always has one.",
      }),
    },
    { additionalProperties: false, default: {}, description: `Training on ${what.toLowerCase()}.` },
  );
}

export const trainerSchema = Type.Object(
  {
    tokenizer: stageSchema("Clips", {
      steps: 1000,
      batch: 8,
      lr: 1e-3,
      beta2: 0.99,
      weight_decay: 0,
    }),
    tokens: Type.Object(
      {
        store: Type.Union([Type.String({ minLength: 1 }), Type.Null()], {
          default: null,
          description:
            "Folder of a token store (`tessera data tokenize`) to train from: its tokenizer and tokens are taken, no tokenizer is trained and no video decoded. The config must describe the store's tokenizer.",
        }),
        batch: Type.Integer({ minimum: 1, default: 16, description: "Clips encoded at a time." }),
        train_clips: Type.Integer({
          minimum: 0,
          default: 0,
          description: "Training clips whose tokens are cached; 0 takes the whole split.",
        }),
        validation_clips: Type.Integer({
          minimum: 0,
          default: 0,
          description: "Held-out clips whose tokens are cached; 0 takes the whole split.",
        }),
      },
      {
        additionalProperties: false,
        default: {},
        description: "The cache of tokens that the transformer learns from.",
      },
    ),
    transformer: stageSchema("Token sequences", {
      steps: 1000,
      batch: 32,
      lr: 5e-4,
      beta2: 0.98,
      weight_decay: 0.05,
    }),
    evaluation: Type.Object(
      {
        batch: Type.Integer({ minimum: 1, default: 16, description: "Clips a batch." }),
      },
      { additionalProperties: false, default: {}, description: "The evaluation of all suites." },
    ),
    samples: Type.Object(
      {
        count: Type.Integer({
          minimum: 0,
          default: 8,
          description:
            "Held-out clips that are reconstructed, and clips that are generated, to look at.",
        }),
      },
      { additionalProperties: false, default: {}, description: "Pictures and clips to look at." },
    ),
  },
  {
    additionalProperties: false,
    default: {},
    group: "trainers",
    description: "How the stages of a run are trained.",
  },
);

export type TrainerOptions = Static<typeof trainerSchema>;
export type StageOptions = TrainerOptions["tokenizer"];
