/** @file The local launcher under faults: killed, failing, cancelled, changed. Trials are fake, processes real. */

import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { compare } from "../../src/reports/compare/comparison.ts";
import { findRuns } from "../../src/reports/compare/runs.ts";
import { longRows } from "../../src/reports/compare/tables.ts";
import { Random } from "../../src/runtime/random.ts";
import { SweepFolder } from "../../src/sweeps/folder.ts";
import type { Provenance } from "../../src/trainers/provenance.ts";
import {
  account,
  sleep,
  start,
  startedPids,
  status,
  sweepFile,
  temporaryFolder,
  tessera,
  tiny,
  until,
} from "./helpers.ts";

let dir: string;
beforeAll(() => {
  dir = temporaryFolder();
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const grid =
  "seeds: 3\ngrid: {trainer.tokenizer.lr: [1e-3, 2e-3, 3e-3, 4e-3], trainer.tokenizer.batch: [2, 4]}";
const table = (cwd: string) => longRows(compare(findRuns([join(cwd, "results/sweeps/s")])));

test("killed ten times with kill -9, driver and trials, 24 trials end once each with the same table", async () => {
  const calm = join(dir, "calm");
  expect(tessera(calm, "sweep", sweepFile(calm, grid), "--jobs", "3").status).toBe(0);

  const wild = join(dir, "wild");
  const file = sweepFile(wild, grid);
  const random = new Random(1, "test/kills");
  for (let kill = 0; kill < 10; kill++) {
    const before = startedPids(wild).length;
    const driver = start(wild, 12, "sweep", file, "--jobs", "3");
    // Somewhere between the first trial that this driver starts and the end of some.
    await until(() => startedPids(wild).length > before || driver.exitCode !== null);
    await sleep(random.int(250));
    const trials = startedPids(wild).slice(-3);
    driver.kill("SIGKILL");
    for (const pid of trials.filter(() => random.uniform() < 0.6)) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // it has ended
      }
    }
  }
  expect(tessera(wild, "sweep", "resume", "s", "--jobs", "3").status).toBe(0);
  const after = status(wild);
  expect(after).toHaveLength(24);
  expect(after.filter(({ state }) => state !== "finished")).toEqual([]);
  expect(after.some(({ attempts }) => attempts > 1)).toBe(true);
  for (const state of after) {
    expect({ id: state.trial.id, ...account(wild, state) }).toEqual({
      id: state.trial.id,
      ends: 1,
      overlaps: 0,
    });
  }
  expect(table(wild)).toEqual(table(calm));

  // Once more: nothing is left to do, and nothing is done.
  const again = tessera(wild, "sweep", file);
  expect(again.status).toBe(0);
  expect(status(wild).map(({ attempts }) => attempts)).toEqual(after.map((s) => s.attempts));
});

describe("two launchers at one sweep", () => {
  test("share the work, and no trial runs twice", async () => {
    const cwd = join(dir, "two");
    const file = sweepFile(cwd, "seeds: 8");
    const first = start(cwd, 6, "sweep", file, "--jobs", "2");
    const ended = new Promise((done) => first.once("exit", done));
    await until(() => existsSync(join(cwd, "results/sweeps/s/sweep.json")));
    expect(tessera(cwd, "sweep", "resume", "s", "--jobs", "2").status).toBe(0);
    expect(await ended).toBe(0);
    for (const state of status(cwd)) {
      expect(state).toMatchObject({ state: "finished", attempts: 1 });
      expect(account(cwd, state)).toEqual({ ends: 1, overlaps: 0 });
    }
  });
});

describe("failures", () => {
  test("go on by default, are told apart, and are tried again", () => {
    const cwd = join(dir, "fails");
    const result = tessera(
      cwd,
      "sweep",
      sweepFile(cwd, "seeds: 3\nretries: 1", "fail"),
      "--jobs",
      "1",
    );
    expect(result.status).toBe(1);
    const rows = status(cwd);
    expect(rows.map(({ state }) => state)).toEqual(["finished", "failed", "finished"]);
    expect(rows[1]).toMatchObject({ attempts: 2, error: "error: this seed does not work" });
    expect(result.stderr).toContain("error: this seed does not work");
    expect(tessera(cwd, "sweep", "logs", "s", rows[1]!.trial.id).stdout).toContain("does not work");
    const { stdout } = tessera(cwd, "compare", "s", "--runs", "--format", "csv");
    expect(stdout.split("\r\n").filter((line) => line.includes(",failed,"))).toHaveLength(1);

    // Mended, it runs: the fault stood in the trial's program.
    const path = join(cwd, "results/sweeps/s/sweep.json");
    writeFileSync(path, readFileSync(path, "utf8").replace('"fail"', '"plain"'));
    expect(tessera(cwd, "sweep", "resume", "s", "--skip-failed").status).toBe(1);
    expect(tessera(cwd, "sweep", "resume", "s").status).toBe(0);
    expect(status(cwd).map(({ attempts }) => attempts)).toEqual([1, 3, 1]);
  });

  test("--fail-fast stops at the first one", () => {
    const cwd = join(dir, "fast");
    const file = sweepFile(cwd, "seeds: [0, 1, 2, 3, 4]", "fail");
    expect(tessera(cwd, "sweep", file, "--jobs", "1", "--fail-fast").status).toBe(1);
    expect(status(cwd).map(({ state }) => state)).toEqual([
      "finished",
      "failed",
      "pending",
      "pending",
      "pending",
    ]);
  });

  test("want of memory is not just a failure", () => {
    const cwd = join(dir, "memory");
    expect(tessera(cwd, "sweep", sweepFile(cwd, "seeds: 2", "memory")).status).toBe(1);
    const rows = status(cwd);
    expect(rows.map(({ state }) => state)).toEqual(["finished", "out-of-memory"]);
    expect(rows[1]!.error).toContain("JavaScript heap out of memory");
  });
});

test("a signal lets trials save, and resume goes on from there", async () => {
  const cwd = join(dir, "signal");
  const driver = start(cwd, 200, "sweep", sweepFile(cwd, "seeds: 2"), "--jobs", "2");
  const ended = new Promise((done) => driver.once("exit", done));
  await until(() => startedPids(cwd).length === 2);
  driver.kill("SIGTERM");
  expect(await ended).toBe(143);
  const rows = status(cwd);
  expect(rows.map(({ state }) => state)).toEqual(["interrupted", "interrupted"]);
  expect(tessera(cwd, "sweep", "resume", "s").status).toBe(0);
  for (const state of status(cwd)) {
    expect(state).toMatchObject({ state: "finished", attempts: 2 });
    expect(account(cwd, state)).toEqual({ ends: 1, overlaps: 0 });
  }
});

describe("what was submitted is what runs", () => {
  test("editing the files afterwards changes nothing that waits", () => {
    const cwd = join(dir, "frozen");
    const base = join(cwd, "base.yaml");
    const file = sweepFile(cwd, "seeds: 2");
    cpSync(new URL("../trainers/tiny.yaml", import.meta.url).pathname, base);
    writeFileSync(
      file,
      readFileSync(file, "utf8").replace(/experiment: .*/, "experiment: ./base.yaml"),
    );
    // Nothing is run yet: the launcher only prints what it would submit, which freezes the sweep.
    expect(tessera(cwd, "sweep", file, "--launcher", "dry-run").status).toBe(0);
    const folder = SweepFolder.open(join(cwd, "results/sweeps/s"));
    const before = folder.trials().map(({ id }) => id);
    appendFileSync(base, "seed: 7\n");
    writeFileSync(base, readFileSync(base, "utf8").replace("batch: 2", "batch: 6"));
    expect(tessera(cwd, "sweep", "resume", "s").status).toBe(0);
    const rows = status(cwd);
    expect(rows.map(({ trial }) => trial.id)).toEqual(before);
    for (const { trial, state } of rows) {
      expect(state).toBe("finished");
      const config = JSON.parse(readFileSync(join(cwd, trial.dir, "config.json"), "utf8")) as {
        trainer: { tokenizer: { batch: number } };
      };
      expect(config.trainer.tokenizer.batch).toBe(2);
    }
    // Given again, the changed file is not quietly taken, and not quietly ignored.
    const asked = tessera(cwd, "sweep", file);
    expect(asked.status).toBe(2);
    expect(asked.stderr).toMatch(/begun with another plan/);
    expect(asked.stderr.match(/^ {2}\+ /gm)).toHaveLength(2);
    expect(asked.stderr.match(/^ {2}- /gm)).toHaveLength(2);
    expect(tessera(cwd, "sweep", file, "--yes").status).toBe(0);
    expect(status(cwd).map(({ trial }) => trial.id)).not.toEqual(before);
  });
});

test("editing the program afterwards changes nothing that waits", () => {
  // A program of its own, so that it can be edited: linked packages, copied code.
  const root = new URL("../../", import.meta.url).pathname;
  const copy = join(dir, "program");
  mkdirSync(copy);
  for (const name of ["dist", "configs", "build", "native", "package.json", "package-lock.json"]) {
    if (existsSync(join(root, name))) {
      cpSync(join(root, name), join(copy, name), { recursive: true });
    }
  }
  symlinkSync(join(root, "node_modules"), join(copy, "node_modules"));
  const cwd = join(dir, "edited");
  mkdirSync(cwd);
  const own = (...args: string[]) =>
    spawnSync(process.execPath, [join(copy, "dist/cli/main.js"), ...args], {
      cwd,
      encoding: "utf8",
    });
  const file = join(cwd, "sweep.yaml");
  writeFileSync(file, `name: s\nexperiment: ${tiny}\nseeds: 1\noverrides: [evals.probe=null]\n`);
  expect(own("sweep", file, "--launcher", "dry-run").status).toBe(0);
  const part = join(copy, "dist/trainers/run.js");
  writeFileSync(part, `throw new Error("the edited program");\n${readFileSync(part, "utf8")}`);
  expect(own("run", tiny).stderr).toContain("the edited program");
  expect(own("sweep", "resume", "s")).toMatchObject({ status: 0 });
  const [trial] = status(cwd);
  expect(trial).toMatchObject({ state: "finished", attempts: 1 });
  const provenance = JSON.parse(
    readFileSync(join(cwd, trial!.dir, "provenance.json"), "utf8"),
  ) as Provenance;
  expect(provenance.command[0]).toMatch(/results\/sweeps\/s\/code\/[0-9a-f]{16}\/dist/);
});

test("finished trials are reused from wherever they lie below the output folder", () => {
  const cwd = join(dir, "reuse");
  expect(tessera(cwd, "sweep", sweepFile(cwd, "seeds: 2")).status).toBe(0);
  cpSync(join(cwd, "results/tiny"), join(cwd, "results/old/tiny"), { recursive: true });
  rmSync(join(cwd, "results/tiny"), { recursive: true });
  rmSync(join(cwd, "results/sweeps"), { recursive: true });
  expect(tessera(cwd, "sweep", sweepFile(cwd, "seeds: 3")).status).toBe(0);
  const rows = status(cwd);
  expect(rows.map(({ reused, attempts }) => [reused, attempts])).toEqual([
    [true, 0],
    [true, 0],
    [false, 1],
  ]);
  const { stdout } = tessera(cwd, "compare", "s", "--format", "csv", "--runs");
  expect(stdout).toContain("results/old/tiny");
});

test("a sweep whose results were moved is compared, told about and gone on with", () => {
  const before = join(dir, "before");
  expect(tessera(before, "sweep", sweepFile(before, "seeds: 2")).status).toBe(0);
  // One trial is reused: the journal names its folder by a whole path.
  renameSync(join(before, "results/tiny"), join(before, "results/old"));
  expect(tessera(before, "sweep", "resume", "s").status).toBe(0);
  expect(status(before).map(({ reused }) => reused)).toEqual([true, true]);
  const rows = (cwd: string, name: string): unknown =>
    longRows(compare(findRuns([join(cwd, name)])));
  const expected = rows(before, "results/sweeps/s");
  expect(JSON.stringify(expected)).toContain('"seeds":2');

  const after = join(dir, "after");
  mkdirSync(after);
  renameSync(join(before, "results"), join(after, "results"));
  rmSync(before, { recursive: true });
  expect(rows(after, "results/sweeps/s")).toEqual(expected);
  expect(status(after).map(({ state }) => state)).toEqual(["finished", "finished"]);
  rmSync(join(after, "results/old"), { recursive: true });
  expect(tessera(after, "sweep", "resume", "s").status).toBe(0);
  expect(status(after).map(({ state, dir: path }) => [state, path.split("/")[1]])).toEqual([
    ["finished", "tiny"],
    ["finished", "tiny"],
  ]);
  expect(existsSync(join(after, "results/tiny"))).toBe(true);

  // Under another name it can be read, and says why it cannot be gone on with.
  renameSync(join(after, "results"), join(after, "kept"));
  expect(rows(after, "kept/sweeps/s")).toEqual(expected);
  rmSync(join(after, "kept/tiny"), { recursive: true });
  const refused = tessera(after, "sweep", "resume", "kept/sweeps/s");
  expect(refused.status).toBe(2);
  expect(refused.stderr).toContain("the trials write to");
});

test("cancel stops what runs here, and resume takes it back", async () => {
  const cwd = join(dir, "cancel");
  const driver = start(cwd, 60, "sweep", sweepFile(cwd, "seeds: 12"), "--jobs", "2");
  const ended = new Promise((done) => driver.once("exit", done));
  await until(() => startedPids(cwd).length > 0);
  expect(tessera(cwd, "sweep", "cancel", "s").status).toBe(0);
  await ended;
  expect(status(cwd).some(({ state }) => state === "pending")).toBe(true);
  expect(tessera(cwd, "sweep", "resume", "s", "--jobs", "3").status).toBe(0);
  expect(status(cwd).filter(({ state }) => state !== "finished")).toEqual([]);
});
