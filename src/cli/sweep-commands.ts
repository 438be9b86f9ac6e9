/** @file The commands that look after a sweep: resume, status, watch, cancel, logs, collect, worker. */

import { existsSync, readFileSync } from "node:fs";
import type { Command } from "commander";
import { UserError } from "../config/errors.ts";
import type { SweepFolder } from "../sweeps/folder.ts";
import type { QueuedJob } from "../sweeps/slurm/submit.ts";
import type { TrialState } from "../sweeps/state.ts";
import { coloured, print, printJson, say, table } from "./output.ts";
import { launch, type LaunchOptions, launchFlags } from "./sweep-launch.ts";
import { placeOf, progressOf } from "./sweep-view.ts";

const folderHelp = "a sweep's folder, its file, or its name";

async function open(named: string): Promise<SweepFolder> {
  const { SweepFolder: Folder, sweepFolder } = await import("../sweeps/folder.ts");
  return Folder.open(sweepFolder(named));
}

export function addSweepCommands(sweep: Command): void {
  const resume = sweep
    .command("resume")
    .description("run what is missing, with the configs and the code that were frozen")
    .argument("<sweep>", folderHelp)
    .option("--skip-failed", "leave trials alone that have failed before");
  launchFlags(resume);
  resume
    .addHelpText(
      "after",
      "\nExample:\n  tessera sweep resume results/sweeps/quickstart-seeds --jobs 2",
    )
    .action(async (named: string, options: LaunchOptions & { readonly skipFailed?: boolean }) => {
      const { resumeSweep } = await import("../sweeps/begin.ts");
      const folder = await open(named);
      resumeSweep(folder);
      await launch(folder, options, options.skipFailed !== true);
    });

  sweep
    .command("status")
    .description("how each trial stands")
    .argument("<sweep>", folderHelp)
    .option("--json", "print JSON")
    .addHelpText("after", "\nExample:\n  tessera sweep status results/sweeps/quickstart-seeds")
    .action(async (named: string, options: { readonly json?: boolean }) => {
      const folder = await open(named);
      const states = await statesOf(folder);
      if (options.json) {
        printJson(states);
      } else {
        await printStates(folder, states);
      }
    });

  sweep
    .command("watch")
    .description("print the status again and again until nothing runs or waits any more")
    .argument("<sweep>", folderHelp)
    .option("--every <seconds>", "seconds between looks", Number, 5)
    .addHelpText(
      "after",
      "\nExample:\n  tessera sweep watch results/sweeps/quickstart-seeds --every 30",
    )
    .action(async (named: string, { every }: { readonly every: number }) => {
      const folder = await open(named);
      for (;;) {
        const states = await statesOf(folder);
        if (process.stdout.isTTY) {
          process.stdout.write("\u001b[2J\u001b[H");
        }
        await printStates(folder, states);
        const queued = await queueOf(folder);
        const busy = states.some(({ state }) => state === "running");
        if (!busy && queued.size === 0) {
          return;
        }
        await new Promise((done) => setTimeout(done, every * 1000));
      }
    });

  sweep
    .command("cancel")
    .description("let running trials save and stop, on all machines, and start no others")
    .argument("<sweep>", folderHelp)
    .addHelpText(
      "after",
      "\n`tessera sweep resume` takes it back.\n\nExample:\n  tessera sweep cancel results/sweeps/quickstart-seeds",
    )
    .action(async (named: string) => {
      const { cancelSweep } = await import("../sweeps/cancel.ts");
      const folder = await open(named);
      print(await cancelSweep(folder));
    });

  sweep
    .command("logs")
    .description("print what a trial has printed, all attempts")
    .argument("<sweep>", folderHelp)
    .argument("<trial>", "the trial's id, the beginning of it, or its number in the plan")
    .addHelpText("after", "\nExample:\n  tessera sweep logs results/sweeps/quickstart-seeds 0")
    .action(async (named: string, which: string) => {
      const folder = await open(named);
      const trial = folder
        .trials()
        .find(({ id, index }) => id.startsWith(which) || String(index) === which);
      if (trial === undefined) {
        throw new UserError(`the sweep has no trial ${which}`, "`tessera sweep status` lists them");
      }
      const paths = folder.logsOf(trial.id);
      if (paths.length === 0) {
        say(`${trial.id} has not been started`);
      }
      for (const path of paths) {
        say(`== ${path}`);
        print(readFileSync(path, "utf8").trimEnd());
      }
    });

  sweep
    .command("worker")
    .description("work on the trials of one task of a cluster's job; scripts of sweeps call it")
    .argument("<sweep>", folderHelp)
    .requiredOption("--tasks <file>", "the file below slurm/ that lists the tasks")
    .requiredOption("--task <n>", "the task's number", Number)
    .addHelpText(
      "after",
      "\nExit codes: 0 done, 1 a trial failed, 75 saved and to be run again, 130 and 143 stopped.\n\nExample:\n  tessera sweep worker results/sweeps/quickstart-seeds --tasks tasks-000.json --task 0",
    )
    .action(async (named: string, options: { readonly tasks: string; readonly task: number }) => {
      const [{ runWorker }, { tasksOf }, { listenForSignals, StopRequest }] = await Promise.all([
        import("../sweeps/worker.ts"),
        import("../sweeps/slurm/submit.ts"),
        import("../trainers/signals.ts"),
      ]);
      const folder = await open(named);
      const trials = tasksOf(folder, options.tasks)[options.task];
      if (trials === undefined) {
        throw new UserError(
          `${options.tasks} has no task ${options.task}`,
          "see the sweep's slurm/ folder",
        );
      }
      const stop = new StopRequest();
      listenForSignals(stop, (signal) => say(`${signal}: trials are saving and stopping`));
      const { SLURM_JOB_ID, SLURM_ARRAY_JOB_ID, SLURM_ARRAY_TASK_ID } = process.env;
      const job = SLURM_ARRAY_JOB_ID
        ? `${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}`
        : SLURM_JOB_ID;
      process.exitCode = await runWorker(folder, {
        trials,
        launcher: job ? "slurm" : "worker",
        ...(job && { job }),
        stop,
        say: (text) => say(`${new Date().toISOString()} ${text}`),
      });
    });

  sweep
    .command("collect")
    .description("check that every trial is finished and write the sweep's table and page")
    .argument("<sweep>", folderHelp)
    .addHelpText(
      "after",
      "\nWrites trials.csv and trials.parquet (a line a trial and score) into the sweep's folder.\n\nExample:\n  tessera sweep collect results/sweeps/quickstart-seeds",
    )
    .action(async (named: string) => {
      const folder = await open(named);
      const [{ sweepState }, { collectSweep }] = await Promise.all([
        import("../sweeps/state.ts"),
        import("../reports/compare/collect.ts"),
      ]);
      const states = sweepState(folder);
      for (const path of await collectSweep(folder.dir)) {
        print(path);
      }
      const missing = states.filter(({ state }) => state !== "finished" && state !== "pruned");
      if (missing.length > 0) {
        say(`${missing.length} of ${states.length} trials are not finished`);
        process.exitCode = 1;
      }
    });
}

const queueText = ({ job, state, reason }: QueuedJob): string =>
  `job ${job} ${state.toLowerCase()}${reason && reason !== "None" ? ` (${reason})` : ""}`;

const colours = {
  finished: "green",
  running: "bold",
  failed: "red",
  "out-of-memory": "red",
  stale: "yellow",
  interrupted: "yellow",
  pending: "dim",
  pruned: "dim",
} as const;

/** The trials' states, with what Slurm knows of jobs that ended without a word. */
async function statesOf(folder: SweepFolder): Promise<TrialState[]> {
  const [{ noteSlurmEnds }, { sweepState }] = await Promise.all([
    import("../sweeps/slurm/ends.ts"),
    import("../sweeps/state.ts"),
  ]);
  await noteSlurmEnds(folder);
  return sweepState(folder);
}

/** What Slurm's queue says of trials, where a sweep was submitted to one and the queue can be asked. */
async function queueOf(folder: SweepFolder): Promise<ReadonlyMap<string, QueuedJob>> {
  const { queuedTrials } = await import("../sweeps/slurm/submit.ts");
  try {
    return await queuedTrials(folder);
  } catch (error) {
    say(`the queue could not be asked: ${(error as Error).message}`);
    return new Map();
  }
}

async function printStates(folder: SweepFolder, states: readonly TrialState[]): Promise<void> {
  const queue = await queueOf(folder);
  const { countStates, isCancelled, runDirOf } = await import("../sweeps/state.ts");
  const rows = states.map(({ trial, state, attempts, reused, error, claim }) => {
    const where =
      state === "running"
        ? `${progressOf(runDirOf(folder, trial.dir))}${claim ? ` on ${claim.host}` : ""}`
        : reused
          ? "reused"
          : queue.has(trial.id)
            ? queueText(queue.get(trial.id)!)
            : (error ?? "");
    return [
      String(trial.index),
      trial.id,
      placeOf(trial),
      state,
      attempts > 1 ? `attempt ${attempts}` : "",
      where.slice(0, 100),
    ];
  });
  const text = table(rows, [0]).split("\n");
  text.forEach((line, i) => {
    const { state } = states[i]!;
    print(line.replace(` ${state}`, ` ${coloured(colours[state], state)}`));
  });
  const tally = countStates(states).map(([state, n]) => `${n} ${state}`);
  print(
    `\n${states.length} trials: ${tally.join(", ")}${isCancelled(folder) ? "; cancelled" : ""}`,
  );
  if (existsSync(folder.cancelPath)) {
    say("cancelled: `tessera sweep resume` goes on");
  }
}
