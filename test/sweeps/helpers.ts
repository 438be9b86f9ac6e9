/** @file Sweeps of fake trials, run by the built program. */

import { type ChildProcess, spawn, spawnSync, type SpawnSyncReturns } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SweepFolder } from "../../src/sweeps/folder.ts";
import { readJournal } from "../../src/sweeps/journal.ts";
import { sweepState, type TrialState } from "../../src/sweeps/state.ts";

const root = new URL("../../", import.meta.url).pathname;
export const program = join(root, "dist/cli/main.js");
export const fake = join(root, "test/sweeps/fake-trial.mjs");
export const tiny = join(root, "test/trainers/tiny.yaml");

export function temporaryFolder(): string {
  if (!existsSync(program)) {
    throw new Error("dist/ is missing: `npm test` builds it first, or run `npm run build`");
  }
  return mkdtempSync(join(tmpdir(), "tessera-sweeps-"));
}

/** Write a sweep of fake trials into a folder and return its file. */
export function sweepFile(dir: string, yaml: string, mode = "plain"): string {
  mkdirSync(dir, { recursive: true });
  const file = join(dir, "sweep.yaml");
  const command = JSON.stringify([process.execPath, fake, "{config}", "{dir}", mode]);
  writeFileSync(file, `name: s\nexperiment: ${tiny}\ncommand: ${command}\n${yaml}\n`);
  return file;
}

export function tessera(cwd: string, ...args: string[]): SpawnSyncReturns<string> {
  return spawnSync(process.execPath, [program, ...args], {
    cwd,
    encoding: "utf8",
    env: { ...process.env, NO_COLOR: "1" },
  });
}

/** Start a command and go on. Its trials take `steps` steps of 15 ms. */
export function start(cwd: string, steps: number, ...args: string[]): ChildProcess {
  const env = { ...process.env, FAKE_STEPS: String(steps) };
  return spawn(process.execPath, [program, ...args], { cwd, stdio: "ignore", env });
}

/** The trials that have been started so far, by their processes. */
export function startedPids(cwd: string): number[] {
  return readJournal(join(cwd, "results/sweeps/s")).flatMap((event) =>
    event.event === "started" && event.child ? [event.child.pid] : [],
  );
}

/** Wait until something holds, half a minute at most. */
export async function until(holds: () => boolean): Promise<void> {
  for (let i = 0; !holds(); i++) {
    if (i > 3000) {
      throw new Error("what was waited for did not come");
    }
    await sleep(10);
  }
}

/** The states of the sweep in a folder. */
export function status(cwd: string): TrialState[] {
  return sweepState(SweepFolder.open(join(cwd, "results/sweeps/s")));
}

/** How often a trial came to its end, and whether two processes were ever at it at once. */
export function account(cwd: string, { trial }: TrialState): { ends: number; overlaps: number } {
  const lines = (name: string): number => {
    const path = join(cwd, trial.dir, name);
    return existsSync(path) ? readFileSync(path, "utf8").trim().split("\n").length : 0;
  };
  return { ends: lines("ends"), overlaps: lines("overlaps") };
}

export const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));
