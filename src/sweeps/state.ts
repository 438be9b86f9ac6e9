/** @file Where each trial of a sweep stands: from its run folder, its claims and the journal. */

import { existsSync } from "node:fs";
import { hostname } from "node:os";
import { isAlive, type Owner } from "../trainers/lock.ts";
import { type Claim, isOwned, latestAttempts, readClaim, serverTime } from "./claims.ts";
import type { SweepFolder, TrialRow } from "./folder.ts";
import { type Logged, type Outcome, readJournal } from "./journal.ts";
import { isFinished } from "./plan.ts";

export type State =
  | "pending"
  | "running"
  /** Whoever worked on it is gone without a word: killed, or its machine was. */
  | "stale"
  | Outcome;

export interface TrialState {
  readonly trial: TrialRow;
  readonly state: State;
  /** The run folder, from the working directory of the sweep. */
  readonly dir: string;
  readonly attempts: number;
  /** Failed attempts since the sweep was last resumed by hand. */
  readonly failures: number;
  /** Finished by an earlier sweep or run. */
  readonly reused: boolean;
  readonly claim?: Claim;
  readonly error?: string;
  /** Seconds of all attempts that have ended. */
  readonly seconds: number;
}

/** What the journal says of one trial. */
interface Told {
  readonly ended: Map<number, Extract<Logged, { event: "ended" }>>;
  /** The trial's own process, by attempt. */
  readonly started: Map<number, Owner>;
  reused?: string;
  skipped?: string;
  failures: number;
  seconds: number;
}

/** Does a trial still run although the process that started it is gone? */
function isOrphan(child: Owner | undefined): boolean {
  return child !== undefined && child.host === hostname() && isAlive(child);
}

/** The states of all trials of a sweep. */
export function sweepState(folder: SweepFolder): TrialState[] {
  const journal = readJournal(folder.dir);
  const told = new Map<string, Told>();
  const of = (trial: string): Told => {
    const entry = told.get(trial) ?? {
      ended: new Map(),
      started: new Map(),
      failures: 0,
      seconds: 0,
    };
    told.set(trial, entry);
    return entry;
  };
  for (const event of journal) {
    if (event.event === "ended") {
      const entry = of(event.trial);
      entry.ended.set(event.attempt, event);
      entry.seconds += event.seconds;
      entry.failures += event.outcome === "failed" ? 1 : 0;
    } else if (event.event === "started" && event.child !== undefined) {
      of(event.trial).started.set(event.attempt, event.child);
    } else if (event.event === "reused") {
      of(event.trial).reused = event.dir;
    } else if (event.event === "skipped") {
      of(event.trial).skipped = event.why;
    } else if (event.event === "resumed") {
      for (const entry of told.values()) {
        entry.failures = 0;
      }
    }
  }
  const attempts = latestAttempts(folder.dir);
  let now: number | undefined;
  return folder.trials().map((trial): TrialState => {
    const entry: Partial<Told> = told.get(trial.id) ?? {};
    const { ended, started, reused, skipped, failures = 0, seconds = 0 } = entry;
    const attempt = attempts.get(trial.id) ?? 0;
    const common = { trial, attempts: attempt, failures, seconds, reused: false };
    const dir = trial.dir;
    if (isFinished(folder.at(dir))) {
      return { ...common, dir, state: "finished", reused: reused !== undefined && attempt === 0 };
    }
    if (reused !== undefined && isFinished(folder.at(reused))) {
      return { ...common, dir: reused, state: "finished", reused: true };
    }
    if (attempt === 0) {
      return skipped === undefined
        ? { ...common, dir, state: "pending" }
        : { ...common, dir, state: "pruned", error: skipped };
    }
    const last = ended?.get(attempt);
    if (last !== undefined) {
      // "finished" without a finished folder: the folder was taken away.
      const state = last.outcome === "finished" ? "pending" : last.outcome;
      return { ...common, dir, state, ...(last.error !== undefined && { error: last.error }) };
    }
    const claim = readClaim(folder.dir, trial.id, attempt);
    now ??= serverTime(folder.dir);
    const owned =
      (claim !== undefined && isOwned(folder.dir, claim, now)) || isOrphan(started?.get(attempt));
    return { ...common, dir, state: owned ? "running" : "stale", ...(claim && { claim }) };
  });
}

/** How many trials are in each state, in the order in which people want to read them. */
export function countStates(states: readonly TrialState[]): [State, number][] {
  const order: State[] = [
    "finished",
    "running",
    "pending",
    "interrupted",
    "stale",
    "pruned",
    "failed",
    "out-of-memory",
  ];
  return order
    .map((state): [State, number] => [state, states.filter((s) => s.state === state).length])
    .filter(([, count]) => count > 0);
}

/** Whether everybody was told to stop. */
export function isCancelled(folder: SweepFolder): boolean {
  return existsSync(folder.cancelPath);
}

/** A trial's run folder as a path from this process's working directory. */
export function runDirOf(folder: SweepFolder, dir: string): string {
  return folder.at(dir);
}
