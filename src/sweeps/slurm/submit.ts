/**
 * @file Submitting a sweep to Slurm: arrays of tasks, chunked to what the cluster allows, in two waves
 * so that trials over one tokenizer come after the one that trains it. Submitting returns at once.
 */

import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { execa } from "execa";
import { UserError } from "../../config/errors.ts";
import { writeFileAtomic } from "../../runtime/files.ts";
import { sweepProgram } from "../command.ts";
import type { SweepFolder, TrialRow } from "../folder.ts";
import { Journal, readJournal } from "../journal.ts";
import { noteReused } from "../local.ts";
import { leadersFirst } from "../queue.ts";
import { sweepState } from "../state.ts";
import { batchScript, quoted, type SlurmOptions } from "./script.ts";

/** One sbatch call: its script, and which trials each array task works on. */
export interface Submission {
  readonly script: string;
  readonly path: string;
  readonly tasks: readonly (readonly string[])[];
  /** The wave before must have ended. */
  readonly after: boolean;
}

/** Trials that a submission takes: not finished, and not in anybody's hands. */
function waiting(folder: SweepFolder, queued: ReadonlySet<string>): TrialRow[] {
  return sweepState(folder)
    .filter(({ state }) => !["finished", "running", "pruned"].includes(state))
    .map(({ trial }) => trial)
    .filter(({ id }) => !queued.has(id));
}

/** Group into lists of n. */
function chunks<T>(items: readonly T[], n: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / n) }, (_, i) =>
    items.slice(i * n, (i + 1) * n),
  );
}

/** Write the scripts of all that is to be done. */
export function prepare(
  folder: SweepFolder,
  options: SlurmOptions,
  maxArray: number,
  queued: ReadonlySet<string> = new Set(),
): Submission[] {
  const { sweep, record } = folder;
  const { search, resources } = sweep;
  if (resources.tasks > 1 && options.pack > 1) {
    throw new UserError(
      "trials of several processes cannot be packed into one job",
      "leave out --pack, or set resources.tasks to 1",
    );
  }
  const trials = waiting(folder, queued);
  const seen = new Set<string>();
  const isLeader = ({ stage }: TrialRow): boolean => {
    const first = stage === undefined || !seen.has(stage);
    seen.add(stage ?? "");
    return first;
  };
  const leaders = leadersFirst(trials).filter(isLeader);
  const followers = trials.filter((trial) => !leaders.includes(trial));
  // A search's tasks ask for their trials themselves.
  const waves: string[][][] = search
    ? [Array.from({ length: Math.ceil(search.trials / options.pack) }, () => [])]
    : [leaders, followers].map((wave) =>
        chunks(
          wave.map(({ id }) => id),
          options.pack,
        ),
      );
  const dir = join(folder.dir, "slurm");
  mkdirSync(dir, { recursive: true });
  let number = readdirSync(dir).filter((name) => name.endsWith(".json")).length;
  for (const trial of trials) {
    folder.configPath(trial); // frozen now, not when the job starts
  }
  return waves.flatMap((wave, w) =>
    chunks(wave, maxArray).map((tasks): Submission => {
      const name = `tasks-${String(number).padStart(3, "0")}`;
      number += 1;
      writeFileAtomic(join(dir, `${name}.json`), `${JSON.stringify({ tasks })}\n`);
      const worker = [
        ...sweepProgram(folder),
        "sweep",
        "worker",
        resolve(folder.dir),
        "--tasks",
        `${name}.json`,
      ];
      const path = join(dir, `${name}.sh`);
      const script = batchScript({
        name: record.name,
        resources,
        cwd: folder.cwd,
        logs: resolve(folder.dir, "logs"),
        tasks: tasks.length,
        worker: worker.map(quoted).join(" "),
        options,
      });
      writeFileAtomic(path, script);
      return { script, path, tasks, after: w > 0 };
    }),
  );
}

/** Submit what is to be done. Returns the jobs. */
export async function submit(folder: SweepFolder, options: SlurmOptions): Promise<string[]> {
  const cluster = await clusterFacts();
  const journal = new Journal(folder.dir);
  noteReused(folder, journal);
  const queued = new Set((await queuedTrials(folder)).keys());
  const submissions = prepare(folder, options, cluster.maxArray, queued);
  const jobs: string[] = [];
  let wave: string[] = [];
  let first: string[] = [];
  for (const { path, tasks, after } of submissions) {
    if (after && first.length === 0) {
      first = wave;
      wave = [];
    }
    const job = (
      await slurm("sbatch", [
        "--parsable",
        ...(first.length > 0 ? [`--dependency=afterany:${first.join(":")}`] : []),
        `--export=ALL,TESSERA_REQUEUE=${cluster.requeues ? "exit" : "scontrol"}`,
        path,
      ])
    )
      .trim()
      .split(";")[0]!;
    jobs.push(job);
    wave.push(job);
    journal.append({
      event: "submitted",
      launcher: "slurm",
      jobs: [job],
      tasks: path.replace(/^.*\//, "").replace(/\.sh$/, ".json"),
      trials: tasks.flat().length,
    });
  }
  return jobs;
}

/** What the cluster's configuration says. */
export async function clusterFacts(): Promise<{ maxArray: number; requeues: boolean }> {
  const text = await slurm("scontrol", ["show", "config"]);
  const value = (name: string): string =>
    new RegExp(`^${name}\\s*=\\s*(.*)$`, "m").exec(text)?.[1]?.trim() ?? "";
  return {
    // MaxArraySize is one more than the largest index.
    maxArray: Math.max(1, (Number(value("MaxArraySize")) || 1001) - 1),
    requeues: value("RequeueExit").split(",").includes("75"),
  };
}

/** Run a command of Slurm. */
export async function slurm(command: string, args: readonly string[]): Promise<string> {
  try {
    const { stdout } = await execa(command, args);
    return stdout;
  } catch (error) {
    const { code, stderr } = error as { code?: string; stderr?: string };
    throw new UserError(
      code === "ENOENT"
        ? `Slurm's command ${command} is not here`
        : `${command} ${args.join(" ")}: ${stderr || (error as Error).message}`,
      code === "ENOENT"
        ? "submit from a login node of the cluster; --launcher dry-run writes the scripts anywhere"
        : undefined,
    );
  }
}

/** A job of the queue that works, or will work, on trials. */
export interface QueuedJob {
  /** `<array job>_<task>`. */
  readonly job: string;
  readonly state: string;
  readonly reason: string;
}

/** Trials that jobs in the queue will work on, with their jobs. */
export async function queuedTrials(folder: SweepFolder): Promise<Map<string, QueuedJob>> {
  const found = new Map<string, QueuedJob>();
  const submissions = submitted(folder);
  if (submissions.size === 0) {
    return found;
  }
  const text = await slurm("squeue", [
    "--noheader",
    "--array",
    "--states=PENDING,RUNNING,REQUEUED,COMPLETING,CONFIGURING,SUSPENDED",
    "--format=%F|%K|%T|%r",
  ]);
  for (const line of text.split("\n")) {
    const [array = "", task = "", state = "", reason = ""] = line.trim().split("|");
    const file = submissions.get(array);
    if (file === undefined) {
      continue;
    }
    for (const trial of tasksOf(folder, file)[Number(task)] ?? []) {
      found.set(trial, { job: `${array}_${task}`, state, reason });
    }
  }
  return found;
}

/** The sweep's array jobs, with the files of their tasks. */
export function submitted(folder: SweepFolder): Map<string, string> {
  const jobs = new Map<string, string>();
  for (const event of readJournal(folder.dir)) {
    if (event.event === "submitted" && event.tasks !== undefined) {
      for (const job of event.jobs) {
        jobs.set(job, event.tasks);
      }
    }
  }
  return jobs;
}

/** The trials of each array task. */
export function tasksOf(folder: SweepFolder, file: string): string[][] {
  const path = join(folder.dir, "slurm", file);
  return existsSync(path)
    ? (JSON.parse(readFileSync(path, "utf8")) as { tasks: string[][] }).tasks
    : [];
}
