/** @file Searches and pruners: their decisions as pure functions, and a whole search of fake trials. */

import { rmSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { join } from "node:path";
import { wilcoxonSignedRank } from "../../src/eval/statistics/tests.ts";
import { readJournal } from "../../src/sweeps/journal.ts";
import { ashaStops, medianStops, rungValues, seedsStop } from "../../src/sweeps/search/pruners.ts";
import { type Observation, propose, valuesOf } from "../../src/sweeps/search/tpe.ts";
import { status, sweepFile, temporaryFolder, tessera } from "./helpers.ts";

const curve = (...values: number[]) => values.map((value, i) => ({ step: i + 1, value }));

describe("ASHA", () => {
  test("rungs are geometric, and the best value so far counts", () => {
    expect(rungValues(curve(5, 3, 4, 4, 2, 6, 6, 6, 1), 1, 3)).toEqual([
      { rung: 1, value: 5 },
      { rung: 3, value: 3 },
      { rung: 9, value: 1 },
    ]);
  });

  test("a trial goes on in the best third of those that have reached its rung", () => {
    const others = [curve(1, 1), curve(2, 2), curve(3, 3), curve(4, 4), curve(5, 5)];
    expect(ashaStops(curve(1.5, 1.5), others, 2, 3)).toBeUndefined();
    expect(ashaStops(curve(2.5, 2.5), others, 2, 3)).toMatch(/best 1\/3 of 6 at step 2/);
    // Too few to say, and not there yet.
    expect(ashaStops(curve(9, 9), others.slice(0, 1), 2, 3)).toBeUndefined();
    expect(ashaStops(curve(9), others, 2, 3)).toBeUndefined();
  });
});

test("the median rule compares the best value with the others' means at the same step", () => {
  const others = [curve(4, 2, 0), curve(4, 4, 4), curve(6, 6, 6), curve(1)];
  // Means over two steps: 3, 4, 6; the last has not come as far.
  expect(medianStops(curve(9, 4.5), others, 0, 3)).toMatch(/worse than the median 4.000 of 3/);
  expect(medianStops(curve(3.9, 9), others, 0, 3)).toBeUndefined();
  expect(medianStops(curve(9, 9), others, 2, 3)).toBeUndefined();
  expect(medianStops(curve(9, 9), others, 0, 4)).toBeUndefined();
});

test("a configuration that is worse on every seed is given up once that is significant", () => {
  const p = (d: readonly number[]) => wilcoxonSignedRank(d, "greater").p;
  const values = (...all: number[]) => new Map(all.map((value, seed) => [seed, value]));
  const best = values(1, 2, 3, 4);
  expect(seedsStop(values(2, 3.1, 4.2), best, 0.1, p)).toBeUndefined(); // 3 pairs: p = 1/8
  expect(seedsStop(values(2, 3.1, 4.2, 5.3), best, 0.1, p)).toMatch(/4 seeds, p = 0.063/);
  expect(seedsStop(values(0, 3.1, 4.2, 5.3), best, 0.1, p)).toBeUndefined();
});

describe("TPE", () => {
  const space = {
    x: { uniform: [0, 1] },
    y: { log_uniform: [1e-4, 1] },
    kind: { choice: ["a", "b", "c"] },
  } as const;
  const loss = (unit: readonly number[]): number => {
    const { x, y, kind } = valuesOf(space, unit) as { x: number; y: number; kind: string };
    return (x - 0.7) ** 2 + 0.1 * (Math.log10(y) + 2) ** 2 + (kind === "b" ? 0 : 0.3);
  };
  const best = (sampler: "random" | "tpe", seed: number): number => {
    const seen: (Observation & { value: number })[] = [];
    for (let n = 0; n < 60; n++) {
      const unit = propose(space, sampler, n, seed, 10, seen);
      expect(unit.every((u) => u >= 0 && u < 1)).toBe(true);
      seen.push({ unit, value: loss(unit) });
    }
    return Math.min(...seen.map(({ value }) => value));
  };

  test("proposals are a function of seed, number and observations", () => {
    const seen = Array.from({ length: 12 }, (_, n) => {
      const unit = propose(space, "random", n, 0, 10, []);
      return { unit, value: loss(unit) };
    });
    expect(propose(space, "tpe", 12, 0, 10, seen)).toEqual(propose(space, "tpe", 12, 0, 10, seen));
    expect(propose(space, "tpe", 13, 0, 10, seen)).not.toEqual(
      propose(space, "tpe", 12, 0, 10, seen),
    );
  });

  test("finds better points than chance with the same number of trials", () => {
    const seeds = Array.from({ length: 20 }, (_, i) => i);
    const wins = seeds.filter((seed) => best("tpe", seed) < best("random", seed)).length;
    expect(wins).toBeGreaterThanOrEqual(15); // by chance alone: 2 % of the time
  });
});

describe("a search of fake trials", () => {
  let dir: string;
  beforeAll(() => {
    dir = temporaryFolder();
  });
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  const search = (more: string) => `
seeds: 2
search:
  space: {trainer.tokenizer.lr: {log_uniform: [1e-4, 1e-1]}}
  metric: fake/value
  sampler: tpe
  startup: 3
${more}`;

  test("asks for as many points as it may, with all their seeds, and goes on after an end", () => {
    const cwd = join(dir, "budget");
    const file = sweepFile(cwd, search("  trials: 5"));
    expect(tessera(cwd, "sweep", file, "--jobs", "2").status).toBe(0);
    const rows = status(cwd);
    expect(rows).toHaveLength(10);
    expect(rows.every(({ state }) => state === "finished")).toBe(true);
    expect(new Set(rows.map(({ trial }) => trial.hash)).size).toBe(5);
    expect(rows.map(({ trial }) => trial.seed)).toEqual([0, 1, 0, 1, 0, 1, 0, 1, 0, 1]);
    expect(tessera(cwd, "sweep", "resume", "s").status).toBe(0);
    expect(status(cwd)).toHaveLength(10);
  });

  test("ends when the target is reached", () => {
    const cwd = join(dir, "target");
    const file = sweepFile(cwd, search("  trials: 50\n  target: 1000"));
    expect(tessera(cwd, "sweep", file, "--jobs", "1").status).toBe(0);
    expect(status(cwd)).toHaveLength(1);
  });

  test("a pruner stops the hopeless, and says why", () => {
    const cwd = join(dir, "pruned");
    const file = sweepFile(
      cwd,
      `
seeds: 1
grid: {trainer.tokenizer.lr: [1e-3, 1e-3, 2e-3, 3e-3, 9e-2]}
pruner: {type: median, metric: tokenizer/validation/loss, startup: 3, warmup: 2}`,
      "slow",
    );
    const { status: code, stderr } = tessera(cwd, "sweep", file, "--jobs", "1");
    expect(code).toBe(0);
    expect(stderr).toMatch(/stopped early, its best value .* is worse than the median/);
    expect(status(cwd).map(({ state }) => state)).toEqual([
      "finished",
      "finished",
      "finished",
      "pruned",
    ]);
    const ended = readJournal(join(cwd, "results/sweeps/s")).filter((e) => e.event === "ended");
    expect(ended).toHaveLength(4);
  });
});
