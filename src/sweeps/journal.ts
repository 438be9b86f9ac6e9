/**
 * @file What happened in a sweep: `journal/<host>-<pid>-<time>.jsonl`, one file a process. Each
 * process appends to its own file only, so nothing has to be locked and nothing is torn, also on
 * file systems where two machines cannot append to one file. Readers merge all files by time.
 */

import { appendFileSync, mkdirSync, readdirSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import type { Owner } from "../trainers/lock.ts";
import { readLines } from "./folder.ts";

/** How an attempt at a trial ended. */
export type Outcome =
  | "finished"
  | "failed"
  | "out-of-memory"
  /** Stopped with a checkpoint: a signal, a time limit, a cancelled sweep. */
  | "interrupted"
  /** Stopped by the sweep's pruner. */
  | "pruned";

export type Event =
  | {
      readonly event: "started";
      readonly trial: string;
      readonly attempt: number;
      readonly launcher: string;
      readonly job?: string;
      /** The trial's own process, which may outlive the one that started it. */
      readonly child?: Owner;
    }
  | {
      readonly event: "ended";
      readonly trial: string;
      readonly attempt: number;
      readonly outcome: Outcome;
      readonly code: number | null;
      readonly signal: string | null;
      readonly seconds: number;
      readonly error?: string;
    }
  | { readonly event: "reused"; readonly trial: string; readonly dir: string }
  | { readonly event: "skipped"; readonly trial: string; readonly why: string }
  | {
      readonly event: "submitted";
      readonly launcher: string;
      readonly jobs: readonly string[];
      /** The file below slurm/ that says which trials each array task works on. */
      readonly tasks?: string;
      readonly trials: number;
    }
  | { readonly event: "cancelled" | "resumed" | "replanned"; readonly note?: string };

export type Logged = Event & { readonly time: string; readonly host: string; readonly pid: number };

/** This process's part of a journal. */
export class Journal {
  readonly #path: string;

  constructor(readonly dir: string) {
    const folder = join(dir, "journal");
    // Whoever works on a sweep needs all of its folders; copies may lack the empty ones.
    for (const name of ["trials", "asks", "claims", "journal", "logs"]) {
      mkdirSync(join(dir, name), { recursive: true });
    }
    this.#path = join(folder, `${hostname()}-${process.pid}-${Date.now()}.jsonl`);
  }

  append(event: Event): void {
    const line: Logged = {
      time: new Date().toISOString(),
      host: hostname(),
      pid: process.pid,
      ...event,
    };
    appendFileSync(this.#path, `${JSON.stringify(line)}\n`);
  }
}

/** Everything that all processes have written, in the order of their clocks. */
export function readJournal(dir: string): Logged[] {
  let names: string[];
  try {
    names = readdirSync(join(dir, "journal"));
  } catch {
    return [];
  }
  return names
    .filter((name) => name.endsWith(".jsonl"))
    .flatMap((name) => readLines<Logged>(join(dir, "journal", name)))
    .sort((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0));
}
