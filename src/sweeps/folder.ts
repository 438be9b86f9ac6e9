/**
 * @file The folder of a sweep, `<output>/sweeps/<name>/`: everything that any process on any machine
 * needs to go on with it. The sweep file, base and code are frozen here when it is begun; what is
 * finished is read from the run folders themselves.
 *
 *   sweep.json      the frozen sweep file, working directory, code, launchers' settings
 *   trials.jsonl    a line a trial: id, labels, hash, ... and where its config lies in configs.jsonl
 *   configs.jsonl   the frozen configs
 *   trials/         a config a trial that has been started: what a worker is given
 *   asks/           trials that a search has chosen, one file each, in their order
 *   claims/         who works on what (claims.ts)
 *   journal/        what happened, a file a process (journal.ts)
 *   logs/           what the trials printed
 *   code/           a copy of the program
 */

import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  realpathSync,
} from "node:fs";
import { basename, dirname, isAbsolute, join, relative, resolve } from "node:path";
import { UserError } from "../config/errors.ts";
import { writeFileAtomic } from "../runtime/files.ts";
import type { Plan, Trial } from "./plan.ts";
import type { Sweep } from "./schema.ts";

/** A trial as trials.jsonl has it: without its config. */
export type TrialRow = Omit<Trial, "frozen">;

/** sweep.json. */
export interface SweepRecord {
  readonly name: string;
  readonly sweep: Sweep;
  /** The sweep file's path and text when the sweep was begun. */
  readonly file: string;
  readonly overrides: readonly string[];
  /** The output folder of the trials, relative to `cwd`. */
  readonly output: string;
  /** The working directory of all trials. */
  readonly cwd: string;
  /** The program: the folder below code/ that trials run from; absent when it was not copied. */
  readonly code?: string;
  readonly created: string;
}

interface IndexedRow extends TrialRow {
  readonly at: number;
  readonly bytes: number;
}

/** A sweep's folder, opened. */
export class SweepFolder {
  readonly #rows: IndexedRow[];
  #asked: TrialRow[] = [];

  private constructor(
    readonly dir: string,
    readonly record: SweepRecord,
  ) {
    this.#rows = readLines<IndexedRow>(join(dir, "trials.jsonl"));
  }

  /** Open a sweep's folder. @throws UserError when it is none */
  static open(dir: string): SweepFolder {
    const path = join(dir, "sweep.json");
    if (!existsSync(path)) {
      throw new UserError(
        `${dir} is not a sweep's folder: it has no sweep.json`,
        "give the folder that `tessera sweep` printed, e.g. results/sweeps/<name>",
      );
    }
    return new SweepFolder(dir, JSON.parse(readFileSync(path, "utf8")) as SweepRecord);
  }

  /** Make, or make anew, a sweep's folder from a plan. */
  static create(dir: string, record: SweepRecord, trials: readonly Trial[]): SweepFolder {
    for (const name of ["trials", "asks", "claims", "journal", "logs"]) {
      mkdirSync(join(dir, name), { recursive: true });
    }
    const configs: string[] = [];
    const rows: string[] = [];
    let at = 0;
    for (const { frozen, ...row } of trials) {
      const bytes = Buffer.byteLength(frozen);
      rows.push(JSON.stringify({ ...row, at, bytes }));
      configs.push(frozen);
      at += bytes + 1;
    }
    writeFileAtomic(join(dir, "configs.jsonl"), configs.map((line) => `${line}\n`).join(""));
    writeFileAtomic(join(dir, "trials.jsonl"), rows.map((line) => `${line}\n`).join(""));
    writeFileAtomic(join(dir, "sweep.json"), `${JSON.stringify(record, null, 2)}\n`);
    return SweepFolder.open(dir);
  }

  /** The output folder where it lies now: two levels up, unless the sweep's folder lies alone. */
  get output(): string {
    const own = resolve(this.dir);
    return basename(dirname(own)) === "sweeps"
      ? dirname(dirname(own))
      : resolve(this.record.cwd, this.record.output);
  }

  /**
   * The working directory of trials that are to be run: another than recorded where the results were
   * moved, since configs name the output folder from there.
   * @throws UserError when no working directory leads to where the results lie now
   */
  get cwd(): string {
    const { cwd, output } = this.record;
    const moved = resolve(this.output, relative(join("/", output), "/"));
    const leads = (from: string): boolean =>
      realPath(resolve(from, output)) === realPath(this.output);
    if (leads(cwd)) {
      return cwd;
    }
    if (!isAbsolute(output) && leads(moved)) {
      return moved;
    }
    throw new UserError(
      `the trials write to ${resolve(cwd, output)}, and the sweep lies in ${this.output}`,
      isAbsolute(output)
        ? "compare and report read it as it is; to run more, move it back"
        : `compare and report read it as it is; to run more, let its path end with ${output}`,
    );
  }

  /**
   * Where a run folder lies, as trials and the journal name it. Folders may have been moved, or be
   * mounted elsewhere on another machine, so the sweep's own place counts and not the recorded one.
   */
  at(dir: string): string {
    const { cwd, output } = this.record;
    const recorded = resolve(cwd, dir);
    const below = relative(resolve(cwd, output), recorded);
    return below.startsWith("..") || isAbsolute(below) ? recorded : join(this.output, below);
  }

  get sweep(): Sweep {
    return this.record.sweep;
  }

  /** Planned trials, then those that a search has asked for. */
  trials(): TrialRow[] {
    if (this.sweep.search) {
      for (let n = this.#asked.length; existsSync(this.askPath(n)); n++) {
        const { frozen: _, ...row } = this.asked(n);
        this.#asked.push(row);
      }
    }
    return [...this.#rows, ...this.#asked];
  }

  /** Where the n-th trial of a search is written. */
  askPath(n: number): string {
    return join(this.dir, "asks", `${String(n).padStart(6, "0")}.json`);
  }

  /** The n-th trial of a search. */
  asked(n: number): Trial {
    return JSON.parse(readFileSync(this.askPath(n), "utf8")) as Trial;
  }

  /** The path of a trial's frozen config, written when it is first wanted. */
  configPath(trial: TrialRow): string {
    const path = join(this.dir, "trials", `${trial.id}.json`);
    if (!existsSync(path)) {
      writeFileAtomic(path, `${this.#frozen(trial)}\n`);
    }
    return path;
  }

  #frozen(trial: TrialRow): string {
    const row = this.#rows.find(({ id }) => id === trial.id);
    if (row === undefined) {
      const n = this.#asked.findIndex(({ id }) => id === trial.id);
      return this.asked(n).frozen;
    }
    const bytes = Buffer.alloc(row.bytes);
    const file = openSync(join(this.dir, "configs.jsonl"), "r");
    try {
      readSync(file, bytes, 0, row.bytes, row.at);
    } finally {
      closeSync(file);
    }
    return bytes.toString("utf8");
  }

  /** The log of one attempt at a trial. */
  logPath(id: string, attempt: number): string {
    return join(this.dir, "logs", `${id}.${attempt}.log`);
  }

  /** Logs of all attempts at a trial, the first attempt first. */
  logsOf(id: string): string[] {
    const folder = join(this.dir, "logs");
    return (existsSync(folder) ? readdirSync(folder) : [])
      .filter((name) => name.startsWith(`${id}.`))
      .sort((a, b) => Number(a.split(".").at(-2)) - Number(b.split(".").at(-2)))
      .map((name) => join(this.dir, "logs", name));
  }

  /** Present while the sweep is cancelled: no process starts anything, and running trials stop. */
  get cancelPath(): string {
    return join(this.dir, "cancelled.json");
  }
}

/** A path without links; as it is where nothing is there. */
function realPath(path: string): string {
  return existsSync(path) ? realpathSync(path) : path;
}

/** Objects of a file of JSON lines; a torn last line is left out. */
export function readLines<T>(path: string): T[] {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch {
    return [];
  }
  return text.split("\n").flatMap((line) => {
    if (line === "") {
      return [];
    }
    try {
      return [JSON.parse(line) as T];
    } catch {
      return [];
    }
  });
}

/** The folder of a sweep: what is named if it is one, else `<output>/sweeps/<name>`. */
export function sweepFolder(named: string, output = "results"): string {
  if (existsSync(join(named, "sweep.json"))) {
    return named;
  }
  const byName = join(output, "sweeps", basename(named).replace(/\.ya?ml$/, ""));
  return existsSync(join(byName, "sweep.json")) ? byName : named;
}

/** A plan's output folder: that of its trials, or the default where a search has none yet. */
export function outputOf({ trials }: Pick<Plan, "trials">): string {
  const first = trials[0];
  return first === undefined
    ? "results"
    : ((JSON.parse(first.frozen) as { output: string }).output ?? "results");
}
