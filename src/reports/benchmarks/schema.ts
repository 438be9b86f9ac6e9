/**
 * @file Published results as data: configs/benchmarks/*.yaml. An entry is a number of a paper with its
 * protocol and what it needs; a claim is a statement that a sweep of ours can test at small scale.
 */

import { type Check, loadConfig } from "../../config/resolve.ts";
import { closed, type Static, Type } from "../../config/schema.ts";
import { componentNames } from "../../config/sources.ts";

const selector = Type.Record(Type.String(), Type.String());

const entrySchema = closed({
  table: Type.String({ description: "Where it is printed." }),
  what: Type.String({ description: "Model, task and metric." }),
  published: Type.Number({ description: "The printed value." }),
  spread: Type.Optional(Type.Number({ minimum: 0, description: "The printed spread, as ±." })),
  unit: Type.String({ description: "e.g. FVD, dB." }),
  better: Type.Union([Type.Literal("higher"), Type.Literal("lower")]),
  protocol: Type.String({ description: "How it was measured, as far as the paper says." }),
  needs: Type.Array(Type.String(), { description: "Data, weights and compute that it takes." }),
  tolerance: Type.Number({
    exclusiveMinimum: 0,
    description: "A value of ours within this distance counts as reproduced.",
  }),
  ours: Type.Optional(
    closed(
      {
        run: Type.String({ description: "A run folder of ours that measured it." }),
        score: Type.String({ description: "The score's name." }),
        protocol: Type.String({
          description: "The name of the protocol that the score must have.",
        }),
      },
      { description: "Where our value is, if there is one under the same protocol." },
    ),
  ),
});

/** Trials by their labels, or a constant. */
const reference = (description: string) =>
  Type.Optional(Type.Union([selector, Type.Number()], { description }));

const testSchema = closed({
  score: Type.String({ description: "The score that is compared." }),
  against: Type.Optional(
    Type.String({
      description:
        "The other score that it is compared with, if that is another one: two settings of one trained network.",
    }),
  ),
  of: Type.Record(Type.String(), Type.String(), {
    description:
      "The trials that the test is of, by labels of the sweep's axes; {} for all. Other axes are averaged over, in pairs.",
  }),
  beats: reference(
    "These trials, or this constant, are worse; paired by seed and by the other axes.",
  ),
  equals: reference(
    "These trials, or this constant, are about equal: within `within` on both sides.",
  ),
  trend: Type.Optional(
    closed(
      {
        axis: Type.String({ description: "The axis, whose labels are numbers." }),
        is: Type.Union(
          [
            Type.Literal("better"),
            Type.Literal("worse"),
            Type.Literal("rising"),
            Type.Literal("falling"),
            Type.Literal("flat"),
          ],
          { description: "Where the score goes along the axis; flat: within `within`." },
        ),
        scale: Type.Union([Type.Literal("linear"), Type.Literal("log2")], {
          default: "linear",
          description: "log2: the slope is a doubling's.",
        }),
      },
      { description: "The score's slope along an axis: least squares for each seed." },
    ),
  ),
  margin: Type.Number({
    default: 0,
    description: "With `beats` and `trend`: by how much at least, in the score's unit.",
  }),
  within: Type.Optional(
    Type.Number({
      exclusiveMinimum: 0,
      description:
        "With `equals` and a flat trend: the margin of equivalence, in the score's unit.",
    }),
  ),
  relative: Type.Boolean({
    default: false,
    description:
      "Differences, margins and slopes are shares of the value compared with (of the mean, for trends): 0.05 is 5 %.",
  }),
  better: Type.Optional(
    Type.Union([Type.Literal("higher"), Type.Literal("lower")], {
      description: "The better side, where the score itself has none or the claim means another.",
    }),
  ),
});

const claimSchema = closed({
  statement: Type.String(),
  source: Type.String({ description: "Paper and table or figure." }),
  sweep: Type.String({ description: "The name of the sweep that tests it." }),
  file: Type.Optional(
    Type.String({ description: "The sweep's file, if it is not configs/sweeps/<sweep>.yaml." }),
  ),
  scale: Type.String({ description: "How our setting differs from the paper's." }),
  tests: Type.Array(testSchema, {
    minItems: 1,
    description: "All must hold. Each has one of `beats`, `equals` and `trend`.",
  }),
});

export const benchmarkSchema = closed(
  {
    paper: Type.String({ description: "Authors, title, venue." }),
    entries: Type.Record(Type.String(), entrySchema, { default: {} }),
    claims: Type.Record(Type.String(), claimSchema, { default: {} }),
  },
  { group: "benchmarks", description: "Published results and claims of one paper." },
);

export type Benchmark = Static<typeof benchmarkSchema>;
export type Entry = Benchmark["entries"][string];
export type Claim = Benchmark["claims"][string];
export type ClaimTest = Claim["tests"][number];

/** Each test says one thing, and what it needs for it. */
const benchmarkChecks: readonly Check<Benchmark>[] = [
  ({ claims }) =>
    Object.entries(claims).flatMap(([name, { tests }]) =>
      tests.flatMap(({ beats, equals, trend, within }, i) => {
        const path = `claims.${name}.tests.${i}`;
        const kinds = [beats, equals, trend].filter((kind) => kind !== undefined).length;
        const needs = equals !== undefined || trend?.is === "flat";
        return [
          ...(kinds === 1 ? [] : [{ path, message: "it has one of beats, equals and trend" }]),
          ...(needs && within === undefined
            ? [{ path, message: "without `within` nothing says how far apart equal values may be" }]
            : []),
        ];
      }),
    ),
];

/** One benchmark file. */
export function readBenchmark(file: string): Benchmark {
  return loadConfig<Benchmark>({
    file,
    schema: benchmarkSchema,
    checks: benchmarkChecks,
    env: {},
  }).config;
}

/** All benchmark files, by name. */
export function readBenchmarks(): Map<string, Benchmark> {
  return new Map(componentNames("benchmarks").map((name) => [name, readBenchmark(`@${name}`)]));
}
