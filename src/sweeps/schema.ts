/**
 * @file The schema of a sweep file: which experiments to run, and how. A sweep is a base experiment
 * and a list of points; a point is a set of changes to it. Axes multiply: grid × zip × list ×
 * sample × ablation × seeds.
 */

import type { Check } from "../config/resolve.ts";
import { closed, type Static, Type } from "../config/schema.ts";

const anyValue = Type.Unknown();

/** Changes: a map of dotted keys to values, or overrides as the command line has them. */
const pointSchema = Type.Union([Type.Record(Type.String(), anyValue), Type.Array(Type.String())]);

const axisSchema = Type.Union([Type.Array(anyValue), Type.Record(Type.String(), pointSchema)]);

const dimensionSchema = Type.Union([
  Type.Object({ choice: Type.Array(anyValue, { minItems: 1 }) }, { additionalProperties: false }),
  ...(["uniform", "log_uniform", "int", "log_int"] as const).map((kind) =>
    Type.Object(
      { [kind]: Type.Array(Type.Number(), { minItems: 2, maxItems: 2 }) },
      { additionalProperties: false },
    ),
  ),
]);

const spaceSchema = Type.Record(Type.String(), dimensionSchema, {
  description:
    "Where to draw from, by dotted key: {choice: [...]}, {uniform: [a, b]}, {log_uniform: [a, b]}, {int: [a, b]} or {log_int: [a, b]}, ends included.",
});

const metricSchema = Type.String({
  description:
    'What is looked at: a score\'s name ("reconstruction/psnr"), or a curve ("transformer/validation/loss": stage, split, metric).',
});

const directionSchema = Type.Union([Type.Literal("min"), Type.Literal("max")], {
  default: "min",
  description: "Whether small or large values of the metric are wanted.",
});

const prunerSchema = closed(
  {
    type: Type.Union([Type.Literal("asha"), Type.Literal("median"), Type.Literal("wilcoxon")], {
      description:
        "asha: at each rung only the best 1/eta of all trials that reached it go on; median: a trial worse than the median of the others at the same step stops; wilcoxon: a configuration that is significantly worse than the best one on the seeds they share gets no further seeds.",
    }),
    metric: metricSchema,
    direction: directionSchema,
    warmup: Type.Integer({
      minimum: 0,
      default: 0,
      description: "Steps (asha: the first rung) before which nothing is stopped.",
    }),
    eta: Type.Integer({ minimum: 2, default: 3, description: "asha: keep one of so many." }),
    startup: Type.Integer({
      minimum: 1,
      default: 4,
      description: "median: trials that must have come as far before one is stopped.",
    }),
    p: Type.Number({
      exclusiveMinimum: 0,
      maximum: 0.5,
      default: 0.1,
      description: "wilcoxon: one-sided level of significance.",
    }),
  },
  { description: "Stops trials that have no prospect." },
);

const searchSchema = closed(
  {
    sampler: Type.Union([Type.Literal("random"), Type.Literal("tpe")], {
      default: "tpe",
      description: "How the next point is chosen: at random, or from what the others gave.",
    }),
    space: spaceSchema,
    metric: metricSchema,
    direction: directionSchema,
    trials: Type.Integer({ minimum: 1, description: "Budget: points that are tried." }),
    hours: Type.Optional(
      Type.Number({
        exclusiveMinimum: 0,
        description: "Budget: trial hours spent in all; no new point is tried beyond them.",
      }),
    ),
    target: Type.Optional(
      Type.Number({ description: "No new point is tried once a trial has reached this value." }),
    ),
    startup: Type.Integer({
      minimum: 1,
      default: 8,
      description: "tpe: points drawn at random before the model is used.",
    }),
    seed: Type.Integer({ minimum: 0, default: 0, description: "Seed of the draws." }),
  },
  { description: "Points that are chosen one after the other instead of all beforehand." },
);

export const sweepSchema = closed(
  {
    name: Type.String({
      pattern: "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      description: "Names the sweep's folder, <output>/sweeps/<name>.",
    }),
    experiment: Type.String({
      description: 'The base: "@name" of configs/experiments, or a path relative to this file.',
    }),
    overrides: Type.Array(Type.String(), {
      default: [],
      description: "Changes to the base for all trials, as on the command line.",
    }),
    seeds: Type.Optional(
      Type.Union([Type.Integer({ minimum: 1 }), Type.Array(Type.Integer({ minimum: 0 }))], {
        description:
          "Seeds of every point: a count n for 0..n-1, or a list. The base's own if unset.",
      }),
    ),
    grid: Type.Record(Type.String(), axisSchema, {
      default: {},
      description:
        "Every combination. An axis is a dotted key with its values, or a name of your choice with named points.",
    }),
    zip: Type.Array(Type.Record(Type.String(), Type.Array(anyValue)), {
      default: [],
      description: "Keys whose lists advance together; each item of this list is one axis.",
    }),
    list: Type.Array(
      Type.Union([
        closed({ labels: Type.Record(Type.String(), Type.String()), set: pointSchema }),
        ...pointSchema.anyOf,
      ]),
      {
        default: [],
        description:
          "Points written out: one axis. Each is a set of changes, or {labels: {axis: text}, set: changes} to say where it stands in tables.",
      },
    ),
    ablation: Type.Optional(
      closed(
        {
          baseline: Type.Optional(pointSchema),
          changes: Type.Record(Type.String(), pointSchema),
        },
        {
          description:
            "One change at a time from a baseline; the baseline itself is a point, and what comparisons refer to.",
        },
      ),
    ),
    sample: Type.Optional(
      closed(
        {
          method: Type.Union(
            [Type.Literal("random"), Type.Literal("sobol"), Type.Literal("latin-hypercube")],
            { default: "sobol", description: "How points are spread over the space." },
          ),
          points: Type.Integer({ minimum: 1, description: "How many." }),
          seed: Type.Integer({ minimum: 0, default: 0, description: "Seed of the draws." }),
          space: spaceSchema,
        },
        { description: "Points spread over a space, all known beforehand: one axis." },
      ),
    ),
    exclude: Type.Array(Type.Record(Type.String(), anyValue), {
      default: [],
      description: "Trials whose resolved config has all of these values are left out.",
    }),
    where: Type.Array(Type.String(), {
      default: [],
      description:
        'Conditions that a resolved config must meet, e.g. "model.width % model.heads == 0".',
    }),
    baseline: Type.Optional(
      Type.Record(Type.String(), anyValue, {
        description:
          "What comparisons refer to: labels of axes, or keys of the config. The ablation's baseline if unset.",
      }),
    ),
    search: Type.Optional(searchSchema),
    pruner: Type.Optional(prunerSchema),
    resources: closed(
      {
        cores: Type.Integer({ minimum: 1, default: 1, description: "Processor cores a trial." }),
        gpus: Type.Integer({ minimum: 0, default: 0, description: "GPUs a trial." }),
        memory_gb: Type.Optional(
          Type.Number({ exclusiveMinimum: 0, description: "Memory a trial, for Slurm." }),
        ),
        hours: Type.Number({
          exclusiveMinimum: 0,
          default: 24,
          description: "Slurm's time limit of one job; a trial that needs more is requeued.",
        }),
        nodes: Type.Integer({ minimum: 1, default: 1, description: "Slurm: nodes a trial." }),
        tasks: Type.Integer({
          minimum: 1,
          default: 1,
          description:
            "Processes a trial (data parallel), each with `cores` and `gpus`: over all nodes by srun, on this machine by `tessera run --devices`.",
        }),
        gpu_type: Type.Optional(
          Type.String({ description: "Slurm: kind of GPU, as in gpu:h100:1." }),
        ),
      },
      { description: "What one trial needs." },
    ),
    retries: Type.Integer({
      minimum: 0,
      default: 0,
      description: "How often a failed trial is tried again at once.",
    }),
    command: Type.Optional(
      Type.Array(Type.String(), {
        minItems: 1,
        description:
          "Another program for each trial instead of `tessera run`; {config}, {dir}, {id} and {seed} are filled in. It must write {dir}/scores.json.",
      }),
    ),
  },
  {
    group: "sweeps",
    description: "A sweep: a base experiment, points, seeds, and how to run them.",
  },
);

export type Sweep = Static<typeof sweepSchema>;
export type PointConfig = Static<typeof pointSchema>;
export type Dimension =
  | { readonly choice: readonly unknown[] }
  | { readonly uniform: readonly [number, number] }
  | { readonly log_uniform: readonly [number, number] }
  | { readonly int: readonly [number, number] }
  | { readonly log_int: readonly [number, number] };
export type Space = { readonly [key: string]: Dimension };
export type Pruner = NonNullable<Sweep["pruner"]>;
export type Search = NonNullable<Sweep["search"]>;

const spaceProblems = (space: unknown, at: string) =>
  Object.entries(space as Space).flatMap(([key, dimension]) => {
    const [kind, value] = Object.entries(dimension)[0]! as [string, readonly number[]];
    if (kind === "choice") {
      return [];
    }
    const [low, high] = value as readonly [number, number];
    const path = `${at}["${key}"]`;
    const faults: string[] = [];
    if (!(low < high)) {
      faults.push(`the range [${low}, ${high}] is empty`);
    }
    if (kind.startsWith("log") && low <= 0) {
      faults.push("a logarithmic range begins above 0");
    }
    if (kind.endsWith("int") && !(Number.isInteger(low) && Number.isInteger(high))) {
      faults.push("an integer range has integer ends");
    }
    return faults.map((message) => ({ path, message }));
  });

/** Cross-field checks of a sweep file. */
export const sweepChecks: readonly Check<Sweep>[] = [
  ({ zip }) =>
    zip.flatMap((group, i) => {
      const lengths = Object.values(group).map((values) => values.length);
      return new Set(lengths).size > 1
        ? [
            {
              path: `zip.${i}`,
              message: `lists of ${lengths.join(", ")} values cannot advance together`,
              hint: "give all keys of a zip equally many values, or put them in `grid`",
            },
          ]
        : [];
    }),
  ({ sample }) => (sample ? spaceProblems(sample.space, "sample.space") : []),
  ({ search }) => (search ? spaceProblems(search.space, "search.space") : []),
];
