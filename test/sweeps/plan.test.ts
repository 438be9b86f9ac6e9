/** @file Plans: which trials a sweep file means, under which names. */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { loadConfig } from "../../src/config/resolve.ts";
import { parseCondition } from "../../src/sweeps/condition.ts";
import { planSweep, valueAt } from "../../src/sweeps/plan.ts";
import { PointResolver } from "../../src/sweeps/resolver.ts";
import { samplePoints } from "../../src/sweeps/space.ts";
import { checks, type Experiment, experimentSchema } from "../../src/trainers/experiment.ts";

const root = mkdtempSync(join(tmpdir(), "tessera-plan-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const tiny = new URL("../trainers/tiny.yaml", import.meta.url).pathname;

let files = 0;
function plan(yaml: string) {
  const file = join(root, `s${files++}.yaml`);
  writeFileSync(file, `name: s\nexperiment: ${tiny}\n${yaml}\n`);
  return planSweep(file);
}
const labels = (yaml: string) => plan(yaml).trials.map((trial) => trial.labels);

describe("axes", () => {
  test("grid × seeds, the last axis fastest", () => {
    const found = labels("seeds: 2\ngrid: {model.width: [16, 32], model.depth: [1, 2]}");
    expect(found).toHaveLength(8);
    expect(found[0]).toEqual({ "model.width": "16", "model.depth": "1", seed: "0" });
    expect(found[1]).toEqual({ "model.width": "16", "model.depth": "1", seed: "1" });
    expect(found[2]).toEqual({ "model.width": "16", "model.depth": "2", seed: "0" });
    expect(found[7]).toEqual({ "model.width": "32", "model.depth": "2", seed: "1" });
  });

  test("zip advances together, list takes points whole", () => {
    expect(labels("zip: [{model.width: [16, 32], model.heads: [2, 4]}]")).toEqual([
      { "model.width": "16", "model.heads": "2" },
      { "model.width": "32", "model.heads": "4" },
    ]);
    expect(() => plan("zip: [{model.width: [16, 32], model.heads: [2]}]")).toThrow(
      /lists of 2, 1 values cannot advance together/,
    );
    expect(labels("list: [{model.width: 32}, ['~evals.probe']]")).toEqual([
      { "model.width": "32" },
      { point: "~evals.probe" },
    ]);
  });

  test("named points choose components and set their keys", () => {
    const { trials } = plan(`
grid:
  tokenizer.quantizer.bits: [6]
  quantizer:
    lfq: {tokenizer.quantizer: {type: lfq, bits: 4, factor_bits: 3}}
`);
    const config: unknown = JSON.parse(trials[0]!.frozen);
    // The component first, then its key, whatever the order of the axes.
    expect(valueAt(config, "tokenizer.quantizer.bits")).toBe(6);
    expect(valueAt(config, "tokenizer.quantizer.factor_bits")).toBe(3);
  });

  test("an ablation changes one thing at a time from its baseline", () => {
    const { trials } = plan(`
ablation:
  baseline: {model.depth: 2}
  changes:
    wide: {model.width: 32}
    no probe: ["~evals.probe"]
`);
    const read = trials.map(({ frozen, labels: { ablation } }) => {
      const config: unknown = JSON.parse(frozen);
      const of = (key: string) => valueAt(config, key);
      return [ablation, of("model.depth"), of("model.width"), of("evals.probe") !== undefined];
    });
    expect(read).toEqual([
      ["baseline", 2, 16, true],
      ["wide", 2, 32, true],
      ["no probe", 2, 16, false],
    ]);
  });

  test("samples: as many as asked for, inside of the space, the same for a seed", () => {
    for (const method of ["random", "sobol", "latin-hypercube"] as const) {
      const space = {
        a: { log_uniform: [1e-4, 1e-2] },
        b: { int: [1, 4] },
        c: { choice: ["x", "y"] },
        d: { log_int: [1, 1000] },
      } as const;
      const points = samplePoints(space, method, 64, 3);
      expect(points).toEqual(samplePoints(space, method, 64, 3));
      expect(points).not.toEqual(samplePoints(space, method, 64, 4));
      for (const { a, b, d } of points) {
        expect(a).toBeGreaterThanOrEqual(1e-4);
        expect(a).toBeLessThanOrEqual(1e-2);
        expect([1, 2, 3, 4]).toContain(b);
        expect(Number.isInteger(d) && (d as number) >= 1 && (d as number) <= 1000).toBe(true);
      }
      expect(new Set(points.map(({ c }) => c))).toEqual(new Set(["x", "y"]));
      // Half of a log-uniform draw lies below the geometric mean.
      const below = points.filter(({ a }) => (a as number) < 1e-3).length;
      expect(Math.abs(below - 32)).toBeLessThanOrEqual(method === "random" ? 14 : 2);
    }
  });

  test("exclude and where look at the resolved config, repeated points count once", () => {
    const found = plan(`
grid: {model.width: [16, 32, 48], model.heads: [2, 3]}
exclude: [{model.width: 16, model.heads: 3}]
where: ["model.width % model.heads == 0", "model.width < 40 || model.heads == 3"]
`);
    expect(found.trials.map((trial) => trial.labels)).toEqual([
      { "model.width": "16", "model.heads": "2" },
      { "model.width": "32", "model.heads": "2" },
      { "model.width": "48", "model.heads": "3" },
    ]);
    expect(found.excluded).toBe(3);
    expect(plan("list: [{model.width: 32}, {model.width: 32}, {}]").repeated).toBe(1);
  });

  test("trials over one tokenizer share its stage, and seeds do not", () => {
    const { trials } = plan(
      "seeds: 2\ngrid: {tokenizer.quantizer.bits: [4, 6], model.depth: [1, 2]}",
    );
    const stages = new Map<string, Set<string>>();
    for (const { stage, labels: of } of trials) {
      const key = `${of["tokenizer.quantizer.bits"]} ${of["seed"]}`;
      stages.set(key, new Set([...(stages.get(key) ?? []), stage!]));
    }
    expect([...stages.values()].map((set) => set.size)).toEqual([1, 1, 1, 1]);
    expect(new Set([...stages.values()].flatMap((set) => [...set])).size).toBe(4);
  });
});

describe("faults", () => {
  test.each([
    ["grid: {model.width: [15]}", /model/],
    ["grid: {model.widht: [16]}", /widht/],
    ["where: ['model.width %']", /cannot read the condition/],
    ["grid: {model.width: [16]}\nwhere: ['model.width > 20']", /has no trials/],
    ["sample: {points: 3, space: {model.width: {int: [4, 2]}}}", /range \[4, 2\] is empty/],
    ["griid: {}", /unknown key "griid"/],
    ["search: {trials: 2, metric: a/b, space: {model.widht: {int: [1, 2]}}}", /widht/],
  ])("%s", (yaml, message) => {
    expect(() => plan(yaml)).toThrow(message);
  });
});

test("conditions", () => {
  const look = (key: string): unknown => ({ a: 3, "b.c": "x", n: null })[key];
  const holds = (text: string) => parseCondition(text)(look);
  expect(holds("a == 3 && b.c == 'x'")).toBe(true);
  expect(holds("!(a * 2 - 1 == 2 ** 2 + 1)")).toBe(false);
  expect(holds("a % 2 == 1 || nothing == 1")).toBe(true);
  expect(holds("nothing == null && n == null")).toBe(true);
  expect(holds("-a < 0 && a / 2 >= 1.5")).toBe(true);
});

test("a point resolved quickly is the config that the whole way gives", () => {
  const resolver = new PointResolver<Experiment>({
    file: tiny,
    overrides: [],
    schema: experimentSchema,
    checks,
  });
  const point = fc.record(
    {
      "model.width": fc.constantFrom(16, 32),
      "trainer.tokenizer.lr": fc.double({ min: 1e-6, max: 1, noNaN: true }),
      "trainer.tokenizer.schedule": fc.constantFrom("cosine", "linear"),
      "trainer.transformer.checkpoint_every": fc.integer({ min: 1, max: 9 }),
      "tokenizer.quantizer": fc.constant({ type: "lfq", bits: 6, factor_bits: 3 }),
      "tokenizer.quantizer.bits": fc.constantFrom(3, 6),
      seed: fc.nat(99),
    },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(point, (set) => {
      const changes = Object.fromEntries(
        Object.entries(set).sort(([a], [b]) => a.split(".").length - b.split(".").length),
      );
      const whole = loadConfig<Experiment>({
        file: tiny,
        schema: experimentSchema,
        checks,
        set: changes,
      });
      const quick = resolver.resolve({ labels: {}, overrides: [], set });
      expect(quick.config).toEqual(whole.config);
      expect(quick.hash).toBe(whole.hash);
    }),
    { numRuns: 60 },
  );
});
