/**
 * @file `tessera eval --processes`: each evaluation in a process of its own, several side by side. Every
 * evaluation draws its own clips and noise from the run's seed, so the scores are those of one process.
 */

import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { canonicalJson } from "../config/hash.ts";
import { UserError } from "../config/errors.ts";
import type { Score } from "../eval/suite.ts";
import { writeFileAtomic } from "../runtime/files.ts";
import type { Experiment } from "../trainers/experiment.ts";
import type { StopRequest, StopSignal } from "../trainers/signals.ts";

type Suites = Experiment["evals"];

/** What a process is asked for, as a file. */
export interface Task {
  readonly name: string;
  readonly suite: Suites[string];
  /** Bad input costs this evaluation its scores, not the command its end. */
  readonly mayFail: boolean;
  /** Where pictures go. */
  readonly folder: string;
  /** The file that the scores are written to. */
  readonly result: string;
}

/** The scores of evaluations that have ended, in a file that outlives a killed command. */
export interface Kept {
  get(name: string, suite: Suites[string]): readonly Score[] | undefined;
  set(name: string, suite: Suites[string], scores: readonly Score[]): void;
}

/**
 * Scores kept below a folder, each under its evaluation's name with its config, the run and the code: what was
 * computed of anything else is not taken up.
 */
export function keptScores(folder: string, run: string, code: string): Kept {
  const path = join(folder, "scores.partial.json");
  type Entry = { readonly key: string; readonly scores: readonly Score[] };
  const entries: { [name: string]: Entry } = existsSync(path)
    ? (JSON.parse(readFileSync(path, "utf8")) as { [name: string]: Entry })
    : {};
  const keyOf = (suite: Suites[string]) => canonicalJson({ run, code, suite });
  return {
    get: (name, suite) => (entries[name]?.key === keyOf(suite) ? entries[name].scores : undefined),
    set(name, suite, scores) {
      entries[name] = { key: keyOf(suite), scores };
      mkdirSync(folder, { recursive: true });
      writeFileAtomic(path, `${JSON.stringify(entries, null, 2)}\n`);
    },
  };
}

export interface Spread {
  readonly dir: string;
  readonly processes: number;
  readonly suites: Suites;
  readonly mayFail: ReadonlySet<string>;
  /** Where the tasks' files and the pictures go. */
  readonly folder: string;
  readonly kept: Kept;
  readonly stop: StopRequest;
  /** Called when an evaluation has begun or ended. */
  readonly onChange: (ended: number, running: readonly string[]) => void;
}

/**
 * Scores of all evaluations, in the order of `suites`.
 * @throws UserError if a process does not come to its end; what others have computed by then is kept.
 */
export async function scoresOfProcesses(spread: Spread): Promise<Score[]> {
  const [{ execa }, { default: pLimit }] = await Promise.all([import("execa"), import("p-limit")]);
  const { dir, suites, folder, kept, stop } = spread;
  const parts = join(folder, "parts");
  mkdirSync(parts, { recursive: true });
  const names = Object.keys(suites);
  const running = new Map<string, { kill(signal: StopSignal): boolean }>();
  const scores = new Map<string, readonly Score[]>();
  const failures: string[] = [];
  const tell = () => spread.onChange(scores.size, [...running.keys()]);

  // A signal reaches this process alone unless it came from a terminal.
  const watch = setInterval(() => {
    if (stop.signal !== undefined) {
      for (const child of running.values()) {
        child.kill(stop.signal);
      }
    }
  }, 100);

  const one = async (name: string, index: number): Promise<void> => {
    const suite = suites[name]!;
    const before = kept.get(name, suite);
    if (before !== undefined) {
      scores.set(name, before);
      tell();
      return;
    }
    if (stop.signal !== undefined || failures.length > 0) {
      return;
    }
    const result = join(parts, `${index}.scores.json`);
    const task: Task = { name, suite, mayFail: spread.mayFail.has(name), folder, result };
    const file = join(parts, `${index}.json`);
    writeFileAtomic(file, JSON.stringify(task));
    const args = [...process.execArgv, process.argv[1]!, "eval", dir, "--task", file];
    const child = execa(process.execPath, args, {
      stdio: ["ignore", "ignore", "inherit"],
      reject: false,
    });
    running.set(name, child);
    tell();
    const { exitCode, signal } = await child;
    running.delete(name);
    if (exitCode === 0 && existsSync(result)) {
      const made = JSON.parse(readFileSync(result, "utf8")) as Score[];
      kept.set(name, suite, made);
      scores.set(name, made);
    } else if (stop.signal === undefined) {
      failures.push(`${name} (${signal ?? `exit code ${exitCode}`})`);
    }
    tell();
  };

  const limit = pLimit(spread.processes);
  try {
    await Promise.all(names.map((name, index) => limit(() => one(name, index))));
  } finally {
    clearInterval(watch);
  }
  stop.check();
  if (failures.length > 0) {
    throw new UserError(
      `no scores of ${failures.join(", ")}`,
      "The messages are above. With --out FOLDER the same command goes on from the evaluations that have ended.",
    );
  }
  return names.flatMap((name) => scores.get(name)!);
}
