/**
 * @file Published results as data: configs/benchmarks/*.yaml. An entry is a number of a paper with its
 * protocol and what it needs; a claim is a statement that a sweep of ours can test at small scale.
 */

import { loadConfig } from "../../config/resolve.ts";
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

const testSchema = closed({
  score: Type.String({ description: "The score that is compared." }),
  of: selector,
  beats: selector,
  margin: Type.Number({
    default: 0,
    description: "By how much at least, in the score's unit, on its better side.",
  }),
});

const claimSchema = closed({
  statement: Type.String(),
  source: Type.String({ description: "Paper and table or figure." }),
  sweep: Type.String({ description: "The sweep of configs/sweeps that tests it." }),
  scale: Type.String({ description: "How our setting differs from the paper's." }),
  tests: Type.Array(testSchema, {
    description:
      "All must hold: the configuration `of` is better than `beats`, by labels of the sweep's axes.",
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

/** All benchmark files, by name. */
export function readBenchmarks(): Map<string, Benchmark> {
  return new Map(
    componentNames("benchmarks").map((name) => [
      name,
      loadConfig<Benchmark>({ file: `@${name}`, schema: benchmarkSchema, env: {} }).config,
    ]),
  );
}
