/** @file What a config may say of super-resolution in token space, and what of it does not fit together. */

import { closed, type Static, Type } from "../../config/schema.ts";
import { checkMultiAxis, type WindowTransformerConfig } from "../../models/window-transformer.ts";
import { maskScheduleSchema } from "../mask-schedule.ts";
import { decodingProperties } from "../parallel-decoding.ts";
import { drawProperties } from "../sampling.ts";

const { temperature, top_k, top_p } = drawProperties;
const scale = (what: string) =>
  Type.Number({
    minimum: 0,
    default: 1,
    description: `Guidance scale of ${what}; 1 is plain conditional sampling, other values cost more passes.`,
  });

const share = (fallback: number, description: string) =>
  Type.Number({ minimum: 0, maximum: 1, default: fallback, description });

export const superResolutionSchema = closed(
  {
    type: Type.Literal("super-resolution", {
      description: "Tokens of large clips from those of small ones (VideoPoet).",
    }),
    factor: Type.Integer({
      minimum: 2,
      default: 2,
      description: "How many times the sides of a small clip are smaller.",
    }),
    mask_schedule: maskScheduleSchema(
      "γ, from a uniform r to the share of hidden tokens in training and validation.",
    ),
    text_length: Type.Integer({
      minimum: 0,
      default: 24,
      description: "Words of a caption at most; 0 trains without captions.",
    }),
    noise: share(
      0.5,
      "Largest share of the small clip's tokens that training draws anew; 0 for none.",
    ),
    low_dropout: share(0.1, "Probability that training hides the small clip, for guidance by it."),
    text_dropout: share(0.1, "Probability that training hides the caption, for guidance by it."),
    student_share: share(
      0,
      "Share of the training samples whose small tokens are partly the generator's output: 0 is teacher forcing, 1 student forcing.",
    ),
    remade: share(
      0.75,
      "Largest share of a student's small tokens that the generator makes; the rest are the true ones.",
    ),
    student_passes: Type.Integer({
      minimum: 1,
      default: 2,
      description: "Passes in which the generator makes them, in a random order.",
    }),
    generators: Type.Array(
      closed({
        width: Type.Integer({ minimum: 1, default: 96, description: "Width of its stream." }),
        depth: Type.Integer({ minimum: 1, default: 3, description: "Number of blocks." }),
        heads: Type.Integer({
          minimum: 1,
          default: 4,
          description: "Heads; they divide the width.",
        }),
      }),
      {
        default: [{}],
        maxItems: 4,
        description:
          "Generators of small clips from captions. The student learns from the first; others are to be tested with. None: only given small clips can be enlarged.",
      },
    ),
    sampling: closed(
      {
        ...decodingProperties,
        temperature,
        top_k,
        top_p,
        low_guidance: scale("the small clip"),
        text_guidance: scale("the caption, for large tokens and in the generators"),
        generator_steps: Type.Integer({
          minimum: 1,
          default: 12,
          description: "Decoding steps of a generator.",
        }),
      },
      { description: "How large and small clips are made." },
    ),
  },
  { description: "Predict the tokens of large clips from small clips and captions." },
);
export type SuperResolutionConfig = Static<typeof superResolutionSchema>;

/** SR: enlarge a given clip's small version. T2V: make a small clip from a caption and enlarge it. */
export const superTasks = ["SR", "T2V"] as const;

interface Problem {
  readonly path: string;
  readonly message: string;
  readonly hint: string;
}

/** Guidance that the training does not prepare. */
export function checkScales(config: SuperResolutionConfig): Problem[] {
  const problems: Problem[] = [];
  const fault = (path: string, message: string, hint: string): void =>
    void problems.push({ path: `objective.${path}`, message, hint });
  const { sampling, text_length } = config;
  if (sampling.low_guidance !== 1 && config.low_dropout === 0) {
    fault(
      "sampling.low_guidance",
      `guidance ${sampling.low_guidance} by the small clip needs a network that was trained without it at times, but objective.low_dropout is 0`,
      "set objective.low_dropout=0.1, or objective.sampling.low_guidance=1",
    );
  }
  if (sampling.text_guidance !== 1 && (config.text_dropout === 0 || text_length === 0)) {
    fault(
      "sampling.text_guidance",
      `guidance ${sampling.text_guidance} by the caption needs a network that was trained with and without captions`,
      "set objective.text_dropout=0.1 and objective.text_length, or objective.sampling.text_guidance=1",
    );
  }
  return problems;
}

/** What does not fit between objective, model and grids, in the words of a config. */
export function checkSuperResolution(
  config: SuperResolutionConfig,
  model: WindowTransformerConfig,
  grid: readonly [number, number, number],
  low: readonly [number, number, number],
): Problem[] {
  const problems: Problem[] = [
    ...checkMultiAxis(model, grid, low).map((each) => ({ ...each, path: `model.${each.path}` })),
    ...checkScales(config),
  ];
  const fault = (path: string, message: string, hint: string): void =>
    void problems.push({ path: `objective.${path}`, message, hint });
  const { generators } = config;
  if (config.student_share > 0 && generators.length === 0) {
    fault(
      "student_share",
      "student forcing learns from a generator's output, and there is no generator",
      "add one to objective.generators, or set objective.student_share=0",
    );
  }
  for (const [i, { width, heads }] of generators.entries()) {
    if (width % heads !== 0) {
      fault(
        `generators[${i}].heads`,
        `${heads} heads do not divide the width ${width}`,
        "change one",
      );
    }
  }
  return problems;
}
