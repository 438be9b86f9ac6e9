/**
 * @file The launcher of this machine: so many trials at a time, each a process of its own, each with
 * its share of cores and GPUs. It may be killed at any moment, and any number of launchers on any
 * number of machines may work on one sweep.
 */

import { availableParallelism } from "node:os";
import pLimit from "p-limit";
import type { StopRequest } from "../trainers/signals.ts";
import type { SweepFolder, TrialRow } from "./folder.ts";
import { Journal } from "./journal.ts";
import { finishedRuns } from "./plan.ts";
import { leadersFirst, mayStart } from "./queue.ts";
import { isCancelled, sweepState, type TrialState } from "./state.ts";
import { type Supervised, supervise } from "./supervisor.ts";
import type { Ending } from "./outcome.ts";
import { guideOf } from "./guide.ts";

export interface LocalOptions {
  /** Trials at a time; as many as cores and GPUs allow when left out. */
  readonly jobs?: number;
  /** Identifiers of the GPUs to use, as CUDA_VISIBLE_DEVICES has them. */
  readonly gpus?: readonly string[];
  /** Stop everything at the first failure. */
  readonly failFast?: boolean;
  /**
   * Take trials up again that have failed before: true takes all, false none; left out, those that
   * the sweep's `retries` still allow.
   */
  readonly retryFailed?: boolean;
  readonly stop: StopRequest;
  /** Told what happens, for people. */
  readonly view: View;
}

/** What a launcher tells while it works. */
export interface View {
  started(trial: TrialRow, attempt: number): void;
  ended(trial: TrialRow, ending: Ending): void;
  /** Once a second. */
  tick(running: readonly TrialRow[]): void;
  say(text: string): void;
}

/** Work on a sweep until nothing is left to do here. Returns the trials' last states. */
export async function runLocal(folder: SweepFolder, options: LocalOptions): Promise<TrialState[]> {
  const journal = new Journal(folder.dir);
  const { stop, view } = options;
  const guide = guideOf(folder, journal);
  noteReused(folder, journal);

  const { cores, gpus: gpusOfRank, tasks } = folder.sweep.resources;
  const gpusEach = gpusOfRank * tasks;
  const freeGpus = [...(options.gpus ?? [])];
  const jobs = options.jobs ?? defaultJobs(cores * tasks, gpusEach, freeGpus.length);
  const retries = folder.sweep.retries;

  const states = sweepState(folder);
  const attempts = new Map(states.map(({ trial, attempts: n }) => [trial.id, n]));
  const failures = new Map(states.map(({ trial, failures: n }) => [trial.id, n]));
  let elsewhere = states.filter(({ state }) => state === "running").map(({ trial }) => trial);
  const queue = leadersFirst(
    states.filter((state) => isWanted(state, options, retries)).map(({ trial }) => trial),
  );
  const running = new Map<string, Supervised>();
  let failed = false;
  let wake = (): void => undefined;
  /** Settles when a trial has ended here, or after a second. */
  const changed = (): Promise<void> =>
    new Promise((done) => {
      const others = wake;
      const timer = setTimeout(done, 1000);
      wake = () => {
        clearTimeout(timer);
        done();
        others();
      };
    });
  const wakeAll = (): void => {
    const call = wake;
    wake = () => undefined;
    call();
  };

  const isStopping = (): boolean =>
    stop.signal !== undefined || isCancelled(folder) || (failed && options.failFast === true);

  /** Trials that somebody else has finished, or left behind. */
  const lookElsewhere = (): void => {
    if (elsewhere.length === 0) {
      return;
    }
    const ids = new Set(elsewhere.map(({ id }) => id));
    elsewhere = [];
    for (const state of sweepState(folder)) {
      if (!ids.has(state.trial.id)) {
        continue;
      }
      attempts.set(state.trial.id, state.attempts);
      if (state.state === "running") {
        elsewhere.push(state.trial);
      } else if (isWanted(state, options, retries)) {
        queue.push(state.trial);
      }
    }
  };

  const next = (): TrialRow | undefined => {
    const busy = [...[...running.values()].map(({ trial }) => trial), ...elsewhere];
    const index = queue.findIndex((trial) => mayStart(folder, trial, busy));
    return index < 0 ? undefined : queue.splice(index, 1)[0];
  };

  const work = async (trial: TrialRow): Promise<void> => {
    const useless = guide.skip(trial);
    if (useless !== undefined) {
      view.say(`${trial.id}: not begun, ${useless}`);
      return;
    }
    const gpus = freeGpus.splice(0, gpusEach);
    const env = {
      OMP_NUM_THREADS: String(cores),
      ...(gpusEach > 0 && { CUDA_VISIBLE_DEVICES: gpus.join(",") }),
    };
    const known = attempts.get(trial.id) ?? 0;
    const supervised = supervise(folder, journal, trial, known, { launcher: "local", env });
    if (supervised === undefined) {
      freeGpus.push(...gpus);
      elsewhere.push(trial);
      return;
    }
    running.set(trial.id, supervised);
    attempts.set(trial.id, supervised.attempt);
    view.started(trial, supervised.attempt);
    const ending = await supervised.ended;
    running.delete(trial.id);
    freeGpus.push(...gpus);
    view.ended(trial, ending);
    if (ending.outcome === "failed") {
      const count = (failures.get(trial.id) ?? 0) + 1;
      failures.set(trial.id, count);
      if (count <= retries) {
        queue.push(trial);
      } else {
        failed = true;
      }
    } else if (ending.outcome === "out-of-memory") {
      failed = true;
    } else if (ending.again && !isStopping()) {
      queue.push(trial);
    }
  };

  let stopped = false;
  let ticks = 0;
  const tick = setInterval(() => {
    ticks += 1;
    // A signal is passed on at once; files are looked at once a second.
    if (!stopped && (stop.signal !== undefined || (ticks % 10 === 0 && isStopping()))) {
      stopped = true;
      for (const supervised of running.values()) {
        supervised.stop(stop.signal === "SIGINT" ? "SIGINT" : "SIGTERM");
      }
      wakeAll();
    }
    if (ticks % 10 !== 0) {
      return;
    }
    for (const supervised of running.values()) {
      const why = stopped ? undefined : guide.prune(supervised.trial);
      if (why !== undefined) {
        view.say(`${supervised.trial.id}: stopped early, ${why}`);
        supervised.stop("SIGTERM", "pruned");
      }
    }
    view.tick([...running.values()].map(({ trial }) => trial));
  }, 100);

  // Each of these loops is one place to work in.
  const place = async (): Promise<void> => {
    while (!isStopping()) {
      let trial = next();
      if (trial === undefined && queue.length === 0) {
        const asked = guide.ask();
        trial = asked === "wait" || asked === "done" ? undefined : asked;
        if (asked === "done" && elsewhere.length === 0) {
          return;
        }
      }
      if (trial === undefined) {
        await changed();
        lookElsewhere();
        continue;
      }
      await work(trial);
      wakeAll();
    }
  };
  const limit = pLimit(jobs);
  try {
    await Promise.all(Array.from({ length: jobs }, () => limit(place)));
    await Promise.all([...running.values()].map(({ ended }) => ended));
  } finally {
    clearInterval(tick);
  }
  return sweepState(folder);
}

/** Is there something to do about this trial? */
function isWanted(
  { state, failures }: TrialState,
  options: Pick<LocalOptions, "retryFailed">,
  retries: number,
): boolean {
  switch (state) {
    case "pending":
    case "interrupted":
    case "stale":
      return true;
    case "failed":
      return options.retryFailed ?? failures <= retries;
    case "out-of-memory":
      return options.retryFailed === true;
    default:
      return false;
  }
}

function defaultJobs(cores: number, gpusEach: number, gpus: number): number {
  const byCores = Math.max(1, Math.floor(availableParallelism() / cores));
  return gpusEach > 0 ? Math.max(1, Math.min(byCores, Math.floor(gpus / gpusEach))) : byCores;
}

/** Write down which trials other sweeps or runs have finished already. */
export function noteReused(folder: SweepFolder, journal: Journal): number {
  const pending = sweepState(folder).filter(({ state }) => state !== "finished");
  if (pending.length === 0) {
    return 0;
  }
  const done = finishedRuns(folder.output);
  let count = 0;
  for (const { trial, state } of pending) {
    const dir = done.get(trial.id);
    if (dir !== undefined && state !== "running") {
      journal.append({ event: "reused", trial: trial.id, dir });
      count += 1;
    }
  }
  return count;
}
