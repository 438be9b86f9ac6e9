/**
 * @file Sweeps of real (tiny) trials under real faults, end to end; the tests do the same with fake
 * trials. `npx tsx scripts/check-sweeps.ts kill` kills the driver and trials of a sweep of 24 trials
 * ten times; `... slurm` runs one sweep here and on the Slurm that SLURM_CONF names, with a trial that
 * is warned of its time limit, one that is requeued, one that fails, and a cancellation. Both compare
 * with an undisturbed sweep, score by score.
 */

import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Random } from "../src/runtime/random.ts";
import { SweepFolder } from "../src/sweeps/folder.ts";
import { readJournal } from "../src/sweeps/journal.ts";
import { sweepState, type TrialState } from "../src/sweeps/state.ts";

const root = new URL("..", import.meta.url).pathname;
const program = join(root, "dist/cli/main.js");
const base = join(root, "test/trainers/tiny.yaml");
const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));
const say = (text: string): void => void process.stdout.write(`${text}\n`);

function tessera(cwd: string, ...args: string[]): string {
  const { stdout, stderr, status } = spawnSync(process.execPath, [program, ...args], {
    cwd,
    encoding: "utf8",
  });
  if (status !== 0 && status !== 1) {
    throw new Error(`tessera ${args.join(" ")} ended with ${status}\n${stderr}`);
  }
  return stdout;
}

function folder(name: string, yaml: string): { cwd: string; file: string; dir: string } {
  const cwd = join(work, name);
  mkdirSync(cwd, { recursive: true });
  const file = join(cwd, "sweep.yaml");
  writeFileSync(file, `name: s\nexperiment: ${base}\n${yaml}\n`);
  return { cwd, file, dir: join(cwd, "results/sweeps/s") };
}

const states = (dir: string): TrialState[] => sweepState(SweepFolder.open(dir));

/** Scores and state of every trial, as text. */
function table(cwd: string, dir: string): string {
  return states(dir)
    .map(({ trial, state }) => {
      const path = join(cwd, trial.dir, "scores.json");
      const scores = existsSync(path) ? readFileSync(path, "utf8") : "none";
      return `${trial.id} ${state}\n${scores}`;
    })
    .join("\n");
}

/** How often each trial came to its end. */
function endings(dir: string): Map<string, number> {
  const counts = new Map<string, number>();
  for (const event of readJournal(dir)) {
    if (event.event === "ended" && event.outcome === "finished") {
      counts.set(event.trial, (counts.get(event.trial) ?? 0) + 1);
    }
  }
  return counts;
}

function verdict(same: boolean, what: string): void {
  say(`${same ? "ok  " : "FAIL"} ${what}`);
  process.exitCode = same ? process.exitCode : 1;
}

async function killed(): Promise<void> {
  const grid =
    "seeds: 3\ngrid: {tokenizer.quantizer.bits: [4, 6], model.depth: [1, 2], trainer.transformer.lr: [5e-4, 1e-3]}";
  const calm = folder("calm", grid);
  tessera(calm.cwd, "sweep", calm.file, "--jobs", "2");
  const wild = folder("wild", grid);
  const random = new Random(5, "check/kills");
  let kills = 0;
  for (let round = 0; round < 10; round++) {
    const driver = spawn(process.execPath, [program, "sweep", wild.file, "--jobs", "2"], {
      cwd: wild.cwd,
      stdio: "ignore",
    });
    await sleep(2500 + random.int(5000));
    const pids = readJournal(wild.dir).flatMap((event) =>
      event.event === "started" && event.child ? [event.child.pid] : [],
    );
    driver.kill("SIGKILL");
    for (const pid of pids.slice(-2).filter(() => random.uniform() < 0.6)) {
      try {
        process.kill(pid, "SIGKILL");
        kills += 1;
      } catch {
        // it has ended
      }
    }
  }
  const done = states(wild.dir).filter(({ state }) => state === "finished").length;
  say(`after 10 kills of the driver and ${kills} of trials: ${done} of 24 finished`);
  tessera(wild.cwd, "sweep", "resume", "s", "--jobs", "2");
  verdict(
    states(wild.dir).every(({ state }) => state === "finished"),
    "every trial is finished",
  );
  verdict(
    [...endings(wild.dir).values()].every((n) => n === 1),
    "no trial was finished twice",
  );
  verdict(table(wild.cwd, wild.dir) === table(calm.cwd, calm.dir), "same scores as undisturbed");
  tessera(wild.cwd, "sweep", "resume", "s", "--jobs", "2");
  const attempts = readJournal(wild.dir).filter(({ event }) => event === "started").length;
  say(`${attempts} attempts at 24 trials in all`);
}

async function slurm(): Promise<void> {
  // Long enough to be met in the act; the last point cannot be trained.
  const yaml = `overrides: [trainer.tokenizer.steps=150, trainer.transformer.steps=150, trainer.tokenizer.checkpoint_every=50]
seeds: 2
list: [{model.width: 16}, {model.width: 32}, {tokenizer.quantizer.bits: 6}, {trainer.transformer.lr: 1.0e+38}]
resources: {hours: 0.2}`;
  const here = folder("local", yaml);
  tessera(here.cwd, "sweep", here.file, "--jobs", "2");
  const there = folder("slurm", yaml);
  say(tessera(there.cwd, "sweep", there.file, "--launcher", "slurm").trim());
  const running = (): TrialState[] => states(there.dir).filter(({ state }) => state === "running");
  const jobOf = (state: TrialState): string => state.claim?.job ?? "";
  const until = async (holds: () => boolean): Promise<void> => {
    for (let i = 0; i < 1200 && !holds(); i++) {
      await sleep(250);
    }
  };
  const training = (state: TrialState): boolean =>
    existsSync(join(there.cwd, state.dir, "checkpoints"));
  await until(() => running().some(training));
  const warned = running().find(training)!;
  spawnSync("scancel", ["--signal=USR2", "--batch", jobOf(warned)]);
  say(`${warned.trial.id}: job ${jobOf(warned)} was warned of its end (SIGUSR2)`);
  await until(() => running().some((s) => training(s) && s.trial.id !== warned.trial.id));
  const requeued = running().find((s) => training(s) && s.trial.id !== warned.trial.id)!;
  spawnSync("scontrol", ["requeue", jobOf(requeued)]);
  say(`${requeued.trial.id}: job ${jobOf(requeued)} was requeued, as by a preemption`);
  await until(() => states(there.dir).filter(({ state }) => state === "finished").length >= 2);
  say(tessera(there.cwd, "sweep", "cancel", "s").trim());
  await until(() => running().length === 0);
  const left = states(there.dir).filter(({ state }) => state !== "finished").length;
  say(`cancelled with ${left} of 8 trials not finished`);
  await until(() => spawnSync("squeue", ["--noheader"], { encoding: "utf8" }).stdout.trim() === "");
  say(tessera(there.cwd, "sweep", "resume", "s", "--launcher", "slurm").trim());
  await until(() =>
    states(there.dir).every(({ state }) => state === "finished" || state === "failed"),
  );
  await until(() => spawnSync("squeue", ["--noheader"], { encoding: "utf8" }).stdout.trim() === "");
  say(tessera(there.cwd, "sweep", "status", "s").trim());
  verdict(
    table(there.cwd, there.dir) === table(here.cwd, here.dir),
    "same scores as on this machine",
  );
  verdict(
    states(there.dir).filter(({ state }) => state === "failed").length === 2,
    "the two trials that cannot be trained failed, here and there",
  );
  for (const { trial } of [warned, requeued]) {
    const state = states(there.dir).find((s) => s.trial.id === trial.id)!;
    verdict(
      state.state === "finished" && state.attempts > 1,
      `${trial.id} went on in attempt ${state.attempts}`,
    );
  }
  verdict(
    [...endings(there.dir).values()].every((n) => n === 1),
    "no trial was finished twice",
  );
}

const work = mkdtempSync(join(tmpdir(), "tessera-check-"));
say(`in ${work}`);
await (process.argv[2] === "slurm" ? slurm() : killed());
