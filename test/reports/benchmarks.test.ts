/** @file Published results beside ours: the files, the verdicts, and what a repetition needs. */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Score } from "../../src/eval/suite.ts";
import { type Claim, readBenchmark, readBenchmarks } from "../../src/reports/benchmarks/schema.ts";
import { type ClaimRuns, judgeClaim, judgeEntry } from "../../src/reports/benchmarks/verdict.ts";
import type { ComparedRun } from "../../src/reports/compare/runs.ts";
import { checkRerun, compareRuns } from "../../src/sweeps/rerun.ts";

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "tessera-benchmarks-"));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const put = (name: string, value: unknown): void =>
  writeFileSync(join(dir, name), typeof value === "string" ? value : JSON.stringify(value));

test("names of numbers and claims are unique over all papers", () => {
  const names = [...readBenchmarks().values()].flatMap(({ entries, claims }) => [
    ...Object.keys(entries),
    ...Object.keys(claims),
  ]);
  expect(names.length).toBeGreaterThan(20);
  expect(new Set(names).size).toBe(names.length);
});

describe("a claim", () => {
  /** Trials of one score by the labels of two axes, a value a seed. */
  const study = (
    values: { readonly [labels: string]: readonly number[] },
    better: Score["better"] = "higher",
  ): ClaimRuns => ({
    from: "table",
    runs: Object.entries(values).flatMap(([key, own], c) =>
      own.map((value, seed): ComparedRun => {
        const [quantizer, bits] = key.split(" ") as [string, string];
        return {
          dir: "",
          id: `${c}-s${seed}`,
          experiment: "x",
          configuration: String(c),
          seed,
          state: "finished",
          config: {},
          labels: { quantizer, bits },
          scores: [
            {
              name: "reconstruction/psnr",
              value,
              better,
              n: 64,
              protocol: { name: "psnr" },
              protocolHash: "0123456789ab",
            },
          ],
        };
      }),
    ),
  });
  const claimOf = (test: object): Claim => ({
    statement: "more codes, better pictures",
    source: "a figure",
    sweep: "vocabulary",
    scale: "small",
    tests: [{ score: "reconstruction/psnr", of: {}, margin: 0, relative: false, ...test }],
  });
  const verdict = (test: object, trials: ClaimRuns) => judgeClaim(claimOf(test), trials).verdict;
  const large = { of: { quantizer: "vq", bits: "12" }, beats: { quantizer: "vq", bits: "6" } };
  const two = (own: readonly number[], better?: Score["better"]) =>
    study({ "vq 6": [20, 21, 22], "vq 12": own }, better);

  test("of an order holds, fails, or is undecided by the interval over seeds", () => {
    expect(verdict(large, two([23, 24, 25]))).toBe("holds");
    expect(verdict(large, two([19, 20, 20]))).toBe("fails");
    expect(verdict(large, two([19, 21, 24]))).toBe("undecided");
    expect(verdict(large, two([23, 24, 25], "lower"))).toBe("fails");
    expect(verdict(large, two([23]))).toBe("undecided"); // one seed says nothing
    expect(verdict({ ...large, margin: 5 }, two([23, 24, 25]))).toBe("fails");
    expect(verdict({ ...large, margin: 0.1, relative: true }, two([23, 24, 25]))).toBe("holds");
    expect(verdict({ ...large, better: "lower" }, two([23, 24, 25]))).toBe("fails");
    expect(verdict({ of: large.of, beats: 22.5 }, two([23, 24, 25]))).toBe("holds");
    expect(verdict({ of: large.of, beats: 26 }, two([23, 24, 25]))).toBe("fails");
  });

  test("pairs trials that agree on the axes that it does not name", () => {
    const test = { of: { quantizer: "lfq" }, beats: { quantizer: "vq" } };
    const trials = study({
      "vq 6": [10, 11, 12],
      "vq 12": [30, 31, 32],
      "lfq 6": [11, 12, 13],
      "lfq 12": [31, 32, 33],
      "lfq 14": [0, 0, 0], // has no partner
    });
    const [found] = judgeClaim(claimOf(test), trials).ours;
    expect(found).toMatch(/better by 1 \[1, 1\], 3 seeds, 6 pairs: holds/);
    const turned = { of: { quantizer: "vq" }, beats: { quantizer: "lfq" } };
    const [other] = judgeClaim(claimOf(turned), trials).ours;
    expect(other).toMatch(/: worse by 1 \[1, 1\], 3 seeds, 6 pairs: fails/);
  });

  test("compares two scores of the same trials, or of others", () => {
    const trials = study({ "vq 6": [20, 21, 22], "vq 12": [30, 31, 32] });
    const more = trials.runs.map((run) => ({
      ...run,
      scores: [
        ...run.scores,
        { ...run.scores[0]!, name: "other/psnr", value: 1, protocolHash: "ba9876543210" },
        { ...run.scores[0]!, name: "third/x", value: 1, protocol: { name: "x" } },
      ],
    }));
    const judge = (test: object) => verdict(test, { ...trials, runs: more });
    const same = { of: { bits: "6" }, beats: { bits: "6" } };
    expect(judge({ ...same, against: "other/psnr" })).toBe("holds");
    expect(judge({ ...same, score: "other/psnr", against: "reconstruction/psnr" })).toBe("fails");
    expect(judge({ ...same, against: "third/x" })).toBe("not run"); // of another kind
    expect(judge({ of: {}, equals: {}, within: 1, against: "other/psnr" })).toBe("fails");
  });

  test("of equality holds within its margin only", () => {
    const test = { of: large.of, equals: large.beats, within: 0.5 };
    expect(verdict(test, two([20.1, 20.9, 22.2]))).toBe("holds");
    expect(verdict(test, two([21, 22, 23]))).toBe("fails");
    expect(verdict(test, two([19, 20, 21]))).toBe("fails");
    expect(verdict(test, two([19, 21, 23]))).toBe("undecided");
    expect(verdict({ ...test, within: 0.06, relative: true }, two([21, 22, 23]))).toBe("holds");
    expect(verdict({ ...test, equals: 20 }, two([20.1, 19.8, 20.2]))).toBe("holds");
  });

  test("of a trend is judged by its slope over all places", () => {
    const trend = (is: string, more: object = {}) => ({
      of: { quantizer: "vq" },
      trend: { axis: "bits", is, scale: "linear" },
      ...more,
    });
    const up = study({ "vq 1": [0, 1, 2], "vq 2": [2, 3, 4], "vq 4": [6, 7.3, 8] });
    expect(verdict(trend("better"), up)).toBe("holds");
    expect(verdict(trend("rising", { margin: 1.9 }), up)).toBe("holds");
    expect(verdict(trend("rising", { margin: 3 }), up)).toBe("fails");
    expect(verdict(trend("worse"), up)).toBe("fails");
    expect(verdict(trend("falling"), up)).toBe("fails");
    expect(verdict(trend("flat", { within: 0.1 }), up)).toBe("fails");
    expect(verdict(trend("flat", { within: 3 }), up)).toBe("holds");
    const [exact] = judgeClaim(
      claimOf({ ...trend("better"), trend: { axis: "bits", is: "better", scale: "log2" } }),
      study({ "vq 1": [0, 1], "vq 2": [2, 3], "vq 4": [4, 5] }),
    ).ours;
    expect(exact).toMatch(/\(log2\): better by 2 \[2, 2\] a step, 2 seeds, 3 places: holds/);
    // Two places always lie on a line, and curves of other axes have their own heights.
    expect(verdict(trend("better"), study({ "vq 1": [0, 1], "vq 2": [1, 2] }))).toBe("not run");
    const apart = study({
      "vq 1": [0, 0.1],
      "vq 2": [1, 1.1],
      "lfq 2": [50, 50.1],
      "lfq 3": [51, 51.1],
    });
    const [both] = judgeClaim(claimOf({ ...trend("better"), of: {} }), apart).ours;
    expect(both).toMatch(/better by 1\.?0* \[/);
  });

  test("is not judged on runs that are not there", () => {
    expect(judgeClaim(claimOf(large), undefined)).toMatchObject({
      verdict: "not run",
      missing: "run it: tessera sweep configs/sweeps/vocabulary.yaml",
    });
    const other = { ...large, of: { quantizer: "fsq" } };
    expect(judgeClaim(claimOf(other), two([23])).missing).toContain("quantizer fsq");
    const mixed = two([23, 24, 25]);
    const [first, ...rest] = mixed.runs;
    const foreign = { ...first!, scores: [{ ...first!.scores[0]!, protocolHash: "another" }] };
    const trials = { ...mixed, runs: [foreign, ...rest] };
    expect(verdict({ of: {}, beats: 0 }, trials)).toBe("not run");
  });

  test("says one thing a test, in files too", () => {
    const file = join(dir, "benchmark.yaml");
    const claims = { x: { ...claimOf({ beats: 1, equals: 2 }) } };
    writeFileSync(file, JSON.stringify({ paper: "a paper", claims }));
    expect(() => readBenchmark(file)).toThrow(/one of beats, equals and trend/);
    writeFileSync(
      file,
      JSON.stringify({ paper: "a paper", claims: { x: claimOf({ equals: 2 }) } }),
    );
    expect(() => readBenchmark(file)).toThrow(/without `within`/);
    writeFileSync(file, JSON.stringify({ paper: "a paper", claims: { x: claimOf(large) } }));
    expect(Object.keys(readBenchmark(file).claims)).toEqual(["x"]);
  });
});

test("a published number is compared under its own protocol only", () => {
  put("scores.json", { scores: [{ name: "fvd/fvd", value: 4.5, protocol: { name: "fvd:i3d" } }] });
  const entry = {
    table: "Table 1",
    what: "a model",
    published: 4.3,
    unit: "FVD",
    better: "lower" as const,
    protocol: "theirs",
    needs: ["data", "weights"],
    tolerance: 0.3,
  };
  const ours = { run: dir, score: "fvd/fvd", protocol: "fvd:i3d" };
  expect(judgeEntry(entry)).toMatchObject({ verdict: "not run", missing: "needs data; weights" });
  expect(judgeEntry({ ...entry, ours }).verdict).toBe("reproduced");
  expect(judgeEntry({ ...entry, ours, tolerance: 0.1 }).verdict).toBe("not reproduced");
  const standIn = { ...ours, protocol: "frechet:moving-shapes-v1" };
  expect(judgeEntry({ ...entry, ours: standIn }).missing).toMatch(/measured under fvd:i3d/);
});

describe("repeating a run", () => {
  const git = { commit: "c0ffee", branch: "main", dirty: true, diff_sha256: "no" };
  const here = { node: process.version, os: "linux x", cpu: "another", git };

  test("says why it cannot", () => {
    expect(() => checkRerun(dir)).toThrow(/no provenance.json/);
    put("config.json", {});
    put("provenance.json", { ...here, git: undefined });
    expect(() => checkRerun(dir)).toThrow(/no checkout of git/);
    put("provenance.json", here);
    expect(() => checkRerun(dir)).toThrow(/uncommitted.diff is not there/);
    put("uncommitted.diff", "diff");
    expect(() => checkRerun(dir)).toThrow(/not what the run recorded/);
  });

  test("names what may make the bytes differ", () => {
    put("provenance.json", { ...here, node: "v1.0.0", git: { ...git, dirty: false } });
    const { commit, notes } = checkRerun(dir);
    expect(commit).toBe("c0ffee");
    expect(notes.join(" ")).toMatch(/Node v1.0.0.*another/);
  });

  test("files are compared byte for byte", () => {
    const other = mkdtempSync(join(tmpdir(), "tessera-again-"));
    put("metrics.jsonl", "{}\n");
    writeFileSync(join(other, "metrics.jsonl"), "{}\n");
    writeFileSync(join(other, "scores.json"), "{}");
    expect(compareRuns(dir, other)).toEqual({
      equal: ["metrics.jsonl"],
      different: ["scores.json"],
    });
    rmSync(other, { recursive: true });
  });
});
