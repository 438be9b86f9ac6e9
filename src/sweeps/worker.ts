/**
 * @file A worker: what a job of a cluster runs. It works on the trials of its task, side by side, and
 * tells the scheduler by its exit code what to do with the job: 0 done, 75 requeue, 1 a trial failed.
 */

import { execFileSync } from "node:child_process";
import { type StopRequest, exitCodeOf } from "../trainers/signals.ts";
import type { SweepFolder, TrialRow } from "./folder.ts";
import { guideOf } from "./guide.ts";
import { Journal } from "./journal.ts";
import { againCode, type Ending } from "./outcome.ts";
import { mayStart } from "./queue.ts";
import { srunWords } from "./slurm/script.ts";
import { isCancelled, sweepState } from "./state.ts";
import { supervise, type Supervised } from "./supervisor.ts";

export interface WorkerOptions {
  /** The trials of the task; none: trials that a search asks for. */
  readonly trials: readonly string[];
  readonly launcher: string;
  readonly job?: string;
  readonly stop: StopRequest;
  readonly say: (text: string) => void;
}

/** Work on the task's trials until they have ended. Returns the exit code. */
export async function runWorker(folder: SweepFolder, options: WorkerOptions): Promise<number> {
  const journal = new Journal(folder.dir);
  const guide = guideOf(folder, journal);
  const { stop, say } = options;
  const gpus = (process.env["CUDA_VISIBLE_DEVICES"] ?? "").split(",").filter((id) => id !== "");
  const endings: Ending[] = [];
  const running = new Set<Supervised>();
  const { cores, gpus: gpusEach } = folder.sweep.resources;
  const how = { launcher: options.launcher, ...(options.job && { job: options.job }) };

  const one = async (id: string | undefined, place: number): Promise<void> => {
    for (;;) {
      if (stop.signal !== undefined || isCancelled(folder)) {
        return;
      }
      let trial: TrialRow | undefined;
      if (id === undefined) {
        const asked = guide.ask();
        if (asked === "done") {
          return;
        }
        trial = asked === "wait" ? undefined : asked;
      } else {
        trial = folder.trials().find((row) => row.id === id);
      }
      if (trial === undefined) {
        if (id !== undefined) {
          say(`${id} is no longer in the plan`);
          return;
        }
        await second();
        continue;
      }
      const states = sweepState(folder);
      const own = states.find((state) => state.trial.id === trial.id)!;
      if (own.state === "finished" || own.state === "pruned") {
        say(`${trial.id} is ${own.state}`);
        if (id === undefined) {
          continue;
        }
        return;
      }
      const busy = states.filter((state) => state.state === "running").map((state) => state.trial);
      if (own.state === "running" || !mayStart(folder, trial, busy)) {
        await second(); // somebody works on it, or on the tokenizer that it needs
        continue;
      }
      const useless = guide.skip(trial);
      if (useless !== undefined) {
        say(`${trial.id}: not begun, ${useless}`);
        return;
      }
      const share = gpus.slice(place * gpusEach, (place + 1) * gpusEach);
      const supervised = supervise(folder, journal, trial, own.attempts, {
        ...how,
        prefix: srunWords(folder.sweep.resources),
        env: {
          OMP_NUM_THREADS: String(cores),
          ...(gpusEach > 0 && folder.sweep.resources.tasks === 1 && share.length > 0
            ? { CUDA_VISIBLE_DEVICES: share.join(",") }
            : {}),
        },
      });
      if (supervised === undefined) {
        continue;
      }
      say(`started ${trial.id}, attempt ${supervised.attempt}`);
      running.add(supervised);
      const ending = await supervised.ended;
      running.delete(supervised);
      say(`${trial.id}: ${ending.outcome}${ending.error ? `: ${ending.error}` : ""}`);
      endings.push(ending);
      if (id !== undefined) {
        const failed = own.failures + (ending.outcome === "failed" ? 1 : 0);
        if (ending.outcome === "failed" && failed <= folder.sweep.retries) {
          continue;
        }
        return;
      }
    }
  };

  let told = false;
  const tick = setInterval(() => {
    const cancelled = isCancelled(folder);
    if (!told && (stop.signal !== undefined || cancelled)) {
      told = true;
      for (const supervised of running) {
        supervised.stop(stop.signal ?? "SIGTERM");
      }
    }
    for (const supervised of told ? [] : running) {
      const why = guide.prune(supervised.trial);
      if (why !== undefined) {
        say(`${supervised.trial.id}: stopped early, ${why}`);
        supervised.stop("SIGTERM", "pruned");
      }
    }
  }, 500);
  try {
    const tasks = options.trials.length > 0 ? options.trials : [undefined];
    await Promise.all(tasks.map(one));
  } finally {
    clearInterval(tick);
  }
  if (stop.signal === "SIGUSR2" || (stop.signal === undefined && endings.some((e) => e.again))) {
    requeue(say);
    return againCode;
  }
  if (stop.signal !== undefined) {
    return exitCodeOf(stop.signal);
  }
  return endings.some(({ outcome }) => outcome === "failed" || outcome === "out-of-memory") ? 1 : 0;
}

const second = (): Promise<void> => new Promise((done) => setTimeout(done, 1000));

/** Where the cluster does not requeue on the exit code, the job asks for it itself. */
function requeue(say: (text: string) => void): void {
  const { TESSERA_REQUEUE, SLURM_ARRAY_JOB_ID, SLURM_ARRAY_TASK_ID, SLURM_JOB_ID } = process.env;
  if (TESSERA_REQUEUE !== "scontrol") {
    return;
  }
  const job = SLURM_ARRAY_JOB_ID ? `${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}` : SLURM_JOB_ID;
  try {
    execFileSync("scontrol", ["requeue", job!]);
  } catch (error) {
    say(`could not be requeued: ${(error as Error).message}`);
  }
}
