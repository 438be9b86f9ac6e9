/**
 * @file How Slurm ended jobs whose workers could no longer say so themselves: killed for want of memory,
 * at the time limit, by scancel. Without this their trials would only be stale.
 */

import type { SweepFolder } from "../folder.ts";
import { Journal, type Outcome } from "../journal.ts";
import { sweepState } from "../state.ts";
import { slurm } from "./submit.ts";

/** What a job's final state means for its trials; other states leave them stale, to be gone on with. */
const meanings: { readonly [state: string]: readonly [Outcome, string] } = {
  OUT_OF_MEMORY: ["out-of-memory", "was ended by Slurm for want of memory"],
  TIMEOUT: ["interrupted", "came to its time limit"],
  CANCELLED: ["interrupted", "was cancelled"],
};

/** Write down how the jobs of stale trials ended, as far as Slurm still knows. */
export async function noteSlurmEnds(folder: SweepFolder): Promise<void> {
  const lost = sweepState(folder).flatMap(({ trial, state, attempts, claim }) =>
    state === "stale" && claim?.launcher === "slurm" && claim.job !== undefined
      ? [{ trial: trial.id, attempt: attempts, job: claim.job }]
      : [],
  );
  if (lost.length === 0) {
    return;
  }
  const states = new Map<string, string>();
  for (const job of new Set(lost.map((one) => one.job))) {
    states.set(job, await jobState(job));
  }
  let journal: Journal | undefined;
  for (const { trial, attempt, job } of lost) {
    const meaning = meanings[states.get(job)!];
    if (meaning !== undefined) {
      const [outcome, words] = meaning;
      journal ??= new Journal(folder.dir);
      journal.append({
        event: "ended",
        trial,
        attempt,
        outcome,
        code: null,
        signal: null,
        seconds: 0,
        error: `job ${job} ${words}`,
      });
    }
  }
}

/** A job's state, of the accounting database or of the controller's memory; "" when neither knows. */
async function jobState(job: string): Promise<string> {
  try {
    const text = await slurm("sacct", ["-n", "-P", "-X", "-o", "State", "-j", job]);
    const state = /^[A-Z_]+/.exec(text.trim())?.[0];
    if (state !== undefined) {
      return state;
    }
  } catch {
    // many clusters keep no accounts, and some forbid asking
  }
  try {
    return (
      /\bJobState=([A-Z_]+)/.exec(await slurm("scontrol", ["show", "job", job, "-o"]))?.[1] ?? ""
    );
  } catch {
    return "";
  }
}
