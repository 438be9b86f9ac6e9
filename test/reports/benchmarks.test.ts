/** @file Published results beside ours: the files, the verdicts, and what a repetition needs. */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readBenchmarks } from "../../src/reports/benchmarks/schema.ts";
import { studyRuns } from "../../src/reports/benchmarks/study.ts";
import { judgeClaim, judgeEntry } from "../../src/reports/benchmarks/verdict.ts";
import { csv } from "../../src/reports/compare/formats.ts";
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
  /** Three seeds of two codebooks, as a committed table has them. */
  const study = (large: readonly number[], better = "higher") => {
    const rows = [
      ["6", [20, 21, 22]],
      ["12", large],
    ].flatMap(([bits, values]) =>
      (values as number[]).map((value, seed) => ({
        run: `${String(bits).padStart(12, "0")}-s${seed}`,
        seed,
        state: "finished",
        quantizer: "vq",
        bits: bits as string,
        score: "reconstruction/psnr",
        value,
        better,
        n: 64,
        protocol: "psnr",
        protocol_hash: "0123456789ab",
      })),
    );
    return { runs: studyRuns(csv(rows)), from: "table" };
  };
  const claim = {
    statement: "more codes, better pictures",
    source: "a figure",
    sweep: "vocabulary",
    scale: "small",
    tests: [
      {
        score: "reconstruction/psnr",
        of: { quantizer: "vq", bits: "12" },
        beats: { quantizer: "vq", bits: "6" },
        margin: 0,
      },
    ],
  };

  test("holds, fails, or is undecided by the interval over seeds", () => {
    expect(judgeClaim(claim, study([23, 24, 25])).verdict).toBe("holds");
    expect(judgeClaim(claim, study([19, 20, 20])).verdict).toBe("fails");
    expect(judgeClaim(claim, study([19, 21, 24])).verdict).toBe("undecided");
    expect(judgeClaim(claim, study([23, 24, 25], "lower")).verdict).toBe("fails");
    expect(judgeClaim(claim, study([23])).verdict).toBe("undecided"); // one seed says nothing
    const bold = { ...claim, tests: [{ ...claim.tests[0]!, margin: 5 }] };
    expect(judgeClaim(bold, study([23, 24, 25])).verdict).toBe("fails");
  });

  test("is not judged on runs that are not there", () => {
    expect(judgeClaim(claim, undefined)).toMatchObject({
      verdict: "not run",
      missing: "run it: tessera sweep configs/sweeps/vocabulary.yaml",
    });
    const other = { ...claim, tests: [{ ...claim.tests[0]!, of: { quantizer: "fsq" } }] };
    expect(judgeClaim(other, study([23])).missing).toContain("quantizer fsq");
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
