/**
 * @file One attempt at one trial, watched: take the claim, start the trial as a process of its own,
 * show a heartbeat, stop it when asked to, and write down how it ended. Launchers differ only in who
 * calls this where.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, existsSync, openSync, readFileSync, rmSync, statSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { ownerOf, readOwner } from "../trainers/lock.ts";
import { beat, heartbeatSeconds, latestAttempts, takeClaim } from "./claims.ts";
import { type Ending, outcomeOf, readOomCount } from "./outcome.ts";
import type { SweepFolder, TrialRow } from "./folder.ts";
import type { Journal, Outcome } from "./journal.ts";
import { trialCommand } from "./command.ts";
import { isFinished } from "./plan.ts";

export interface Supervised {
  readonly trial: TrialRow;
  readonly attempt: number;
  /** Ask the trial to save and stop; SIGUSR2 asks for another turn. */
  stop(signal: "SIGTERM" | "SIGINT" | "SIGUSR2", as?: Outcome): void;
  readonly ended: Promise<Ending>;
}

export interface SuperviseOptions {
  readonly launcher: string;
  readonly job?: string;
  /** Added to the trial's environment: GPUs, threads, ranks. */
  readonly env?: { readonly [name: string]: string };
  /** Words before the command, such as `srun ...`. */
  readonly prefix?: readonly string[];
}

/**
 * Claim a trial and start it.
 * @param attempt the attempt that is known to be over; the next one is claimed
 * @returns undefined when another process has claimed it first
 */
export function supervise(
  folder: SweepFolder,
  journal: Journal,
  trial: TrialRow,
  attempt: number,
  options: SuperviseOptions,
): Supervised | undefined {
  const { launcher, job } = options;
  const how = { launcher, ...(job !== undefined && { job }) };
  const mine = attempt + 1;
  if (!takeClaim(folder.dir, trial.id, mine, how)) {
    return undefined;
  }
  const runDir = folder.at(trial.dir);
  releaseLock(runDir);
  const begin = performance.now();
  const ooms = readOomCount();
  const log = openSync(folder.logPath(trial.id, mine), "a");
  const { prefix = [] } = options;
  const ranks = prefix.length > 0 ? 1 : folder.sweep.resources.tasks;
  const [program, ...words] = [...prefix, ...trialCommand(folder, trial, ranks)];
  const child: ChildProcess = spawn(program!, words, {
    cwd: folder.cwd,
    stdio: ["ignore", log, log],
    env: {
      ...process.env,
      ...options.env,
      // Between us and a trial of srun stands Slurm, which ends it when we are gone.
      ...(prefix.length > 0 ? {} : { TESSERA_SUPERVISOR: String(process.pid) }),
      TESSERA_SWEEP: folder.dir,
      TESSERA_TRIAL: trial.id,
    },
  });
  closeSync(log);
  journal.append({
    event: "started",
    trial: trial.id,
    attempt: mine,
    ...how,
    ...(child.pid !== undefined && { child: ownerOf(child.pid) }),
  });

  let asked: Outcome | undefined;
  const heartbeat = setInterval(() => {
    beat(folder.dir, trial.id, mine);
    if (latestAttempts(folder.dir).get(trial.id) !== mine) {
      child.kill("SIGKILL"); // this process was taken for gone, and another one has the trial
    }
  }, heartbeatSeconds * 1000);

  const ended = new Promise<Ending>((done) => {
    const finish = (code: number | null, signal: NodeJS.Signals | null, fault?: Error): void => {
      clearInterval(heartbeat);
      const ending = outcomeOf({
        code,
        signal,
        asked,
        finished: isFinished(runDir),
        status: readStatusError(runDir),
        log: tail(folder.logPath(trial.id, mine)),
        oomKills: readOomCount() - ooms,
        ...(fault && { fault }),
      });
      const seconds = (performance.now() - begin) / 1000;
      journal.append({
        event: "ended",
        trial: trial.id,
        attempt: mine,
        outcome: ending.outcome,
        code,
        signal,
        seconds: Math.round(seconds * 1000) / 1000,
        ...(ending.error !== undefined && { error: ending.error }),
      });
      done(ending);
    };
    child.once("error", (fault) => finish(null, null, fault));
    child.once("exit", finish);
  });

  return {
    trial,
    attempt: mine,
    ended,
    stop(signal, as) {
      asked ??= as ?? "interrupted";
      child.kill(signal);
    },
  };
}

/**
 * A run folder's lock whose owner lives on another machine cannot be checked by the run itself. The
 * claim that we hold says that the owner's heartbeat has ended, so the lock is void.
 */
function releaseLock(runDir: string): void {
  const path = join(runDir, "lock.json");
  const owner = readOwner(path);
  if (owner !== undefined && owner.host !== hostname()) {
    rmSync(path, { force: true });
  }
}

function readStatusError(runDir: string): string | undefined {
  try {
    const status = JSON.parse(readFileSync(join(runDir, "status.json"), "utf8")) as {
      error?: string;
    };
    return status.error;
  } catch {
    return undefined;
  }
}

/** The last part of a log. */
export function tail(path: string, bytes = 4096): string {
  if (!existsSync(path)) {
    return "";
  }
  const { size } = statSync(path);
  return readFileSync(path)
    .subarray(Math.max(0, size - bytes))
    .toString("utf8");
}
