/** @file Launching a sweep from the command line: which launcher, its flags, and what it shows. */

import { type Command, InvalidArgumentError, Option } from "commander";
import type { SweepFolder } from "../sweeps/folder.ts";
import type { TrialState } from "../sweeps/state.ts";
import { print, say } from "./output.ts";
import { sweepView } from "./sweep-view.ts";

export interface LaunchOptions {
  readonly launcher?: "local" | "slurm" | "dry-run";
  readonly jobs?: number;
  readonly gpus?: string;
  readonly failFast?: boolean;
  readonly partition?: string;
  readonly account?: string;
  readonly qos?: string;
  readonly sbatch?: readonly string[];
  readonly atOnce?: number;
  readonly pack?: number;
  readonly setup?: string;
}

const count = (text: string): number => {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) {
    throw new InvalidArgumentError("expected an integer of at least 1");
  }
  return value;
};

/** The flags of every command that launches. */
export function launchFlags(command: Command): void {
  command
    .addOption(
      new Option("--launcher <name>", "where the trials run")
        .choices(["local", "slurm", "dry-run"])
        .default("local"),
    )
    .option("--jobs <n>", "local: trials at a time; by default as cores and GPUs allow", count)
    .option("--gpus <list>", "local: GPUs to use, e.g. 0,1; by default all that nvidia-smi lists")
    .option("--fail-fast", "stop everything at the first failure")
    .option("--keep-going", "go on after failures (the default)")
    .option("--partition <name>", "slurm: partition")
    .option("--account <name>", "slurm: account")
    .option("--qos <name>", "slurm: quality of service")
    .option("--sbatch <options...>", "slurm: further options of sbatch, e.g. --constraint=h100")
    .option("--at-once <n>", "slurm: array tasks that run at once", count)
    .option("--pack <n>", "slurm: trials that share a job and run side by side in it", count)
    .option("--setup <line>", "slurm: a shell line before the worker, e.g. 'module load nodejs'");
}

/** Work on a sweep with the launcher that was asked for. */
export async function launch(
  folder: SweepFolder,
  options: LaunchOptions,
  retryFailed?: boolean,
): Promise<void> {
  if (options.launcher === "slurm" || options.launcher === "dry-run") {
    await launchSlurm(folder, options);
    return;
  }
  const [{ runLocal }, { listenForSignals, StopRequest, exitCodeOf }] = await Promise.all([
    import("../sweeps/local.ts"),
    import("../trainers/signals.ts"),
  ]);
  const stop = new StopRequest();
  const unlisten = listenForSignals(stop, (signal) =>
    say(`${signal}: trials are saving and stopping (once more to leave at once)`),
  );
  const view = sweepView(folder);
  try {
    const states = await runLocal(folder, {
      ...(options.jobs !== undefined && { jobs: options.jobs }),
      gpus: await gpusOf(folder, options.gpus),
      failFast: options.failFast === true,
      ...(retryFailed !== undefined && { retryFailed }),
      stop,
      view,
    });
    view.close();
    summary(folder, states);
    process.exitCode = stop.signal === undefined ? exitCodeFor(states) : exitCodeOf(stop.signal);
  } finally {
    view.close();
    unlisten();
  }
}

function exitCodeFor(states: readonly TrialState[]): number {
  return states.some(({ state }) => state === "failed" || state === "out-of-memory") ? 1 : 0;
}

/** What is done, what is not, and what to type next. */
export function summary(folder: SweepFolder, states: readonly TrialState[]): void {
  const left = states.filter(({ state }) => state !== "finished" && state !== "pruned");
  for (const { trial, state, error } of left.filter((s) => s.error !== undefined).slice(0, 10)) {
    say(`${trial.id}  ${state}: ${error}`);
  }
  const done = states.filter(({ state }) => state === "finished").length;
  print(`${done} of ${states.length} trials finished: ${folder.dir}`);
  print(
    left.length > 0
      ? `go on: tessera sweep resume ${folder.dir}`
      : `compare: tessera compare ${folder.dir}`,
  );
}

/** The GPUs to share out: as asked, or all that the driver lists, where trials want any. */
async function gpusOf(folder: SweepFolder, asked: string | undefined): Promise<string[]> {
  if (folder.sweep.resources.gpus === 0) {
    return [];
  }
  if (asked !== undefined) {
    return asked.split(",").map((id) => id.trim());
  }
  const { UserError } = await import("../config/errors.ts");
  const { execa } = await import("execa");
  const { stdout, failed } = await execa(
    "nvidia-smi",
    ["--query-gpu=index", "--format=csv,noheader"],
    {
      reject: false,
    },
  );
  const found = failed ? [] : (stdout ?? "").split("\n").filter((line) => line.trim() !== "");
  const { gpus, tasks } = folder.sweep.resources;
  if (found.length < gpus * tasks) {
    throw new UserError(
      `trials want ${gpus * tasks} GPUs each, and this machine shows ${found.length}`,
      "name them with --gpus 0,1,..., or set resources.gpus in the sweep file",
    );
  }
  return found.map((line) => line.trim());
}

/** Submit to Slurm and return, or only show what would be submitted. */
async function launchSlurm(folder: SweepFolder, options: LaunchOptions): Promise<void> {
  const { prepare, submit } = await import("../sweeps/slurm/submit.ts");
  const slurmOptions = {
    ...(options.partition !== undefined && { partition: options.partition }),
    ...(options.account !== undefined && { account: options.account }),
    ...(options.qos !== undefined && { qos: options.qos }),
    ...(options.sbatch && { extra: options.sbatch }),
    ...(options.atOnce !== undefined && { atOnce: options.atOnce }),
    ...(options.setup !== undefined && { setup: options.setup }),
    pack: options.pack ?? 1,
  };
  if (options.launcher === "dry-run") {
    for (const { path, script, tasks, after } of prepare(folder, slurmOptions, 1000)) {
      print(`# ${path}: ${tasks.length} tasks${after ? ", after those before" : ""}`);
      print(script);
    }
    say("nothing was submitted");
    return;
  }
  const jobs = await submit(folder, slurmOptions);
  if (jobs.length === 0) {
    print("nothing to submit: all trials are finished, running or queued");
    return;
  }
  print(`submitted ${jobs.map((job) => `array ${job}`).join(", ")}`);
  print(`look: tessera sweep status ${folder.dir}`);
}
