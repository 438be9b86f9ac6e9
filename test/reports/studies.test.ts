/** @file Studies: evidence that is committed, its page, and what claims may say of it. */

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { protocolHash } from "../../src/eval/suite.ts";
import { readBenchmarks } from "../../src/reports/benchmarks/schema.ts";
import { claimRuns } from "../../src/reports/benchmarks/verdict.ts";
import { compare } from "../../src/reports/compare/comparison.ts";
import { findRuns } from "../../src/reports/compare/runs.ts";
import {
  allStudies,
  committedRuns,
  readStudy,
  studyOf,
  studyText,
} from "../../src/reports/studies/evidence.ts";
import { notesOf, studyPage } from "../../src/reports/studies/page.ts";
import { tessera } from "../sweeps/helpers.ts";

let root: string;
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "tessera-studies-"));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** A sweep's folder with finished runs as another machine would send it: small files only. */
function sweepAt(
  output: string,
  name: string,
  psnr: { readonly [bits: string]: readonly number[] },
) {
  const dir = join(output, "sweeps", name);
  mkdirSync(dir, { recursive: true });
  const rows: object[] = [];
  for (const [b, [bits, values]] of Object.entries(psnr).entries()) {
    for (const [seed, value] of values.entries()) {
      const id = `${String(b).padStart(12, "a")}-s${seed}`;
      const run = join(output, "study", id);
      mkdirSync(run, { recursive: true });
      const put = (file: string, content: object): void =>
        writeFileSync(join(run, file), JSON.stringify(content));
      const trainer = { tokenizer: { steps: 300 }, transformer: { steps: 200 } };
      put("config.json", { name: "study", seed, trainer, objective: { type: "masked" } });
      put("status.json", { state: "finished" });
      put("provenance.json", {
        git: { commit: "c0ffee", dirty: false },
        device: "cuda: a GPU",
        host: "secret.example",
        cwd: "/home/someone",
      });
      const protocol = { name: "psnr:per-frame", clips: 128 };
      const score = { protocol, protocolHash: protocolHash(protocol), n: 128, better: "higher" };
      put("scores.json", {
        scores: [{ name: "reconstruction/psnr", value, unit: "dB", ...score }],
      });
      const labels = { bits, seed: String(seed) };
      const steps = { tokenizer: 300, transformer: 200 };
      const hash = id.slice(0, 12);
      rows.push({ id, index: rows.length, hash, seed, dir: `results/study/${id}`, labels, steps });
    }
  }
  writeFileSync(join(dir, "trials.jsonl"), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  const sweep = { name, experiment: "@quickstart", seeds: 3, baseline: { bits: "6" } };
  const record = {
    name,
    sweep,
    file: "x.yaml",
    overrides: [],
    output: "results",
    cwd: "/elsewhere",
  };
  writeFileSync(join(dir, "sweep.json"), JSON.stringify(record));
  return dir;
}

test("a study has everything that a comparison needs, and nothing of people's machines", () => {
  const dir = sweepAt(join(root, "one"), "bits", { 6: [20, 21, 22], 12: [23, 24, 26] });
  const found = findRuns([dir]);
  const study = studyOf("bits", [found]);
  const text = studyText(study);
  expect(JSON.parse(text)).toEqual(study);
  expect(text).not.toMatch(/secret|someone/);
  expect(text.split("\n").filter((line) => line.includes('"run"'))).toHaveLength(6);
  expect(study.machines).toEqual([{ commit: "c0ffee", dirty: false, device: "cuda: a GPU" }]);
  expect(study.sweeps[0]!.trials[4]).toMatchObject({
    seed: 1,
    labels: { bits: "12" },
    state: "finished",
    steps: { tokenizer: 300, transformer: 200 },
    machine: 0,
    scores: { "reconstruction/psnr": [24, 128] },
  });
  const file = join(root, "bits.json");
  writeFileSync(file, text);
  const again = compare(findRuns([file]));
  const before = compare(found);
  expect(again.cells).toEqual(before.cells);
  expect(again.baseline).toBe(before.baseline);
  expect(again.groups.map(({ labels }) => labels)).toEqual([{ bits: "6" }, { bits: "12" }]);
});

test("the same sweep from two places is one, each trial from where it finished", () => {
  const [a, b] = [join(root, "first"), join(root, "second")];
  const whole = sweepAt(a, "shared", { 6: [20, 21, 22] });
  const other = sweepAt(b, "shared", { 6: [20, 21, 22] });
  rmSync(join(a, "study", "aaaaaaaaaaa0-s1"), { recursive: true });
  const states = (study: ReturnType<typeof studyOf>) =>
    study.sweeps.flatMap(({ trials }) => trials.map(({ state }) => state));
  expect(states(studyOf("shared", [findRuns([whole])]))).toContain("missing");
  const merged = studyOf("shared", [findRuns([whole]), findRuns([other])]);
  expect(merged.sweeps).toHaveLength(1);
  expect(states(merged)).toEqual(["finished", "finished", "finished"]);
});

test("a committed study stands in for a sweep until the sweep here has finished", () => {
  const output = join(root, "here");
  const dir = sweepAt(output, "half", { 6: [1, 2, 3] });
  const committed = studyOf("half", [findRuns([dir])]);
  const studies = [["results/studies/half.json", committed]] as const;
  expect(claimRuns("half", output, [...studies] as never)?.from).toBe(dir);
  rmSync(join(output, "study", "aaaaaaaaaaa0-s1"), { recursive: true });
  expect(claimRuns("half", output, [...studies] as never)?.from).toBe("results/studies/half.json");
  expect(claimRuns("half", output, [])?.from).toBe(dir);
  expect(claimRuns("other", output, [...studies] as never)).toBeUndefined();
});

describe("the page", () => {
  test("has the means, the differences, the protocols, and keeps what people wrote", () => {
    const dir = sweepAt(join(root, "page"), "bits", { 6: [20, 21, 22], 12: [23, 24, 26] });
    const study = studyOf("bits", [findRuns([dir])]);
    const page = studyPage(study, "results/studies/bits.json", "Bits help.");
    expect(page).toMatch(/\| 12 \| 3 \| \*\*24\.33 \[23\.\d+, 25\.\d+\]\*\* \|/);
    expect(page).toMatch(/Difference to bits=6 .*\n\n.*\n.*\n\| 12 \| 3 \| \+3\.333 \[/);
    expect(page).toMatch(/`psnr:per-frame` \| `[0-9a-f]{12}` \| reconstruction\/psnr \| clips 128/);
    expect(page).toMatch(/6 of 6 trials finished, 3 seeds, 300 tokenizer steps and 200/);
    const file = join(root, "bits.md");
    writeFileSync(file, page);
    expect(notesOf(file)).toBe("Bits help.");
    expect(notesOf(join(root, "none.md"))).toBe("");
    writeFileSync(file, "# by hand");
    expect(() => notesOf(file)).toThrow(/was not written by this command/);
  });

  test("is written by the command, which wants finished trials and spares others' pages", () => {
    const output = join(root, "cli");
    sweepAt(output, "bits", { 6: [20, 21, 22] });
    const to = join(root, "cli-studies");
    const study = (...more: string[]) =>
      tessera(root, "study", "bits", "--output", output, "--to", to, ...more);
    const first = study();
    expect(first).toMatchObject({ status: 0 });
    expect(readStudy(join(to, "bits.json")).sweeps[0]!.trials).toHaveLength(3);
    const compared = tessera(root, "compare", join(to, "bits.json"), "--format", "csv", "--long");
    expect(compared.stdout).toContain("reconstruction/psnr");
    writeFileSync(join(to, "bits.md"), "mine");
    expect(study()).toMatchObject({ status: 2 });
    expect(study("--overwrite").status).toBe(0);
    rmSync(join(output, "study", "aaaaaaaaaaa0-s2"), { recursive: true });
    expect(study().stderr).toMatch(/1 of 3 trials have not finished/);
    expect(study("--partial").status).toBe(0);
  });
});

test("what is committed can be read, and serves the sweeps that it names", () => {
  for (const [path, study] of allStudies()) {
    for (const { name } of study.sweeps) {
      expect(committedRuns(name)?.runs.length, `${path} ${name}`).toBeGreaterThan(0);
    }
    expect(readFileSync(path, "utf8")).not.toMatch(/\/home\/|\/root\/|\/tmp\//);
  }
  const sweeps = [...readBenchmarks().values()].flatMap(({ claims }) => Object.values(claims));
  expect(sweeps.length).toBeGreaterThan(0);
});
