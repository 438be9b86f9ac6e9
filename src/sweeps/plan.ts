/**
 * @file The plan of a sweep: its trials, each a frozen config whose hash and seed are its name. The
 * same file gives the same plan; a trial that has finished anywhere below the output folder is found
 * by its name and not run again.
 */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, isAbsolute, join, resolve } from "node:path";
import { UserError } from "../config/errors.ts";
import { loadConfig } from "../config/resolve.ts";
import { type Json, parsePath } from "../config/tree.ts";
import { checks, type Experiment, experimentSchema } from "../trainers/experiment.ts";
import { runId } from "../trainers/run-id.ts";
import { tokenizerStageKey } from "../trainers/stages.ts";
import { parseCondition } from "./condition.ts";
import { joined, type Point, pointsOf, seedsOf } from "./points.ts";
import { type Frozen, PointResolver } from "./resolver.ts";
import { type Space, type Sweep, sweepChecks, sweepSchema } from "./schema.ts";
import { samplePoints } from "./space.ts";

/** One experiment of a sweep. */
export interface Trial {
  /** Its run folder's name: `<first 12 digits of the config's hash>-s<seed>`. */
  readonly id: string;
  readonly index: number;
  /** SHA-256 of the config without its seed: trials of one configuration share it. */
  readonly hash: string;
  readonly seed: number;
  /** Its run folder, relative to the working directory of the sweep. */
  readonly dir: string;
  readonly labels: { readonly [axis: string]: string };
  /** Trials with an equal key share one trained tokenizer; absent where nothing follows it. */
  readonly stage?: string;
  /** Optimizer steps of its stages. */
  readonly steps: { readonly tokenizer: number; readonly transformer: number };
  /** The resolved config as JSON, its evaluations in their order: what a worker is given. */
  readonly frozen: string;
}

export interface Plan {
  readonly sweep: Sweep;
  /** The sweep file as the user named it. */
  readonly file: string;
  readonly trials: readonly Trial[];
  /** The resolved base, where a search will need it. */
  readonly base?: string;
  /** Points left out by `exclude` and `where`, and points that mean the same as an earlier one. */
  readonly excluded: number;
  readonly repeated: number;
}

/** Read a sweep file. */
export function readSweepFile(file: string, overrides: readonly string[] = []): Sweep {
  return loadConfig<Sweep>({ file, overrides, schema: sweepSchema, checks: sweepChecks }).config;
}

/** The experiment's file as `loadConfig` takes it: relative paths start at the sweep file. */
function experimentFile(sweep: Sweep, file: string): string {
  const { experiment } = sweep;
  return experiment.startsWith("@") || file.startsWith("@") || isAbsolute(experiment)
    ? experiment
    : resolve(dirname(file), experiment);
}

/** Resolves the points of a sweep to trials. */
export class Planner {
  readonly #resolver: PointResolver<Experiment>;
  readonly #conditions: readonly ((look: (key: string) => unknown) => boolean)[];

  constructor(
    readonly sweep: Sweep,
    file: string,
    overrides: readonly string[] = [],
  ) {
    this.#resolver = new PointResolver<Experiment>({
      file: experimentFile(sweep, file),
      overrides: [...sweep.overrides, ...overrides],
      schema: experimentSchema,
      checks,
    });
    this.#conditions = sweep.where.map(parseCondition);
  }

  /** The base experiment itself, resolved, as JSON. */
  base(): string {
    return JSON.stringify(this.#resolver.resolve({ labels: {}, set: {}, overrides: [] }).config);
  }

  /** The trial of a point; undefined when the sweep leaves it out. */
  trial(point: Point, index: number): Trial | undefined {
    const frozen = this.#resolver.resolve(point);
    if (this.#isLeftOut(frozen.config, point)) {
      return undefined;
    }
    this.#resolver.check(frozen.config, point);
    return trialOf(frozen, point, index, this.sweep.resources.cores);
  }

  #isLeftOut(config: Experiment, { labels }: Point): boolean {
    const look = (key: string): unknown => valueAt(config, key) ?? labels[key];
    return (
      this.sweep.exclude.some((values) =>
        Object.entries(values).every(
          ([key, value]) =>
            labels[key] === value || JSON.stringify(valueAt(config, key)) === JSON.stringify(value),
        ),
      ) || !this.#conditions.every((holds) => holds(look))
    );
  }
}

function trialOf(
  { config: resolved, hash }: Frozen<Experiment>,
  point: Point,
  index: number,
  cores: number,
): Trial {
  const config = withThreads(resolved, cores);
  const stage = config.objective === undefined ? undefined : tokenizerStageKey(config);
  const id = runId(hash, config.seed);
  return {
    id,
    index,
    hash,
    seed: config.seed,
    dir: join(config.output, config.name, id),
    labels: point.labels,
    ...(stage !== undefined && { stage }),
    steps: {
      tokenizer: config.trainer.tokenizer.steps,
      transformer: config.objective === undefined ? 0 : config.trainer.transformer.steps,
    },
    frozen: JSON.stringify(config),
  };
}

/**
 * A device that would take all cores takes the trial's share of them. Every launcher then gives the
 * trial the same number of threads, on which the last bits of its results depend.
 */
function withThreads(config: Experiment, cores: number): Experiment {
  return "threads" in config.device && config.device.threads === 0
    ? { ...config, device: { ...config.device, threads: cores } as Experiment["device"] }
    : config;
}

/** The value of a config's dotted key; undefined where there is none. */
export function valueAt(config: unknown, key: string): unknown {
  return (parsePath(key) ?? [key]).reduce<unknown>(
    (node, name) =>
      typeof node === "object" && node !== null
        ? (node as { [key: string]: Json })[name]
        : undefined,
    config,
  );
}

/** A point with its seed, which is an axis like the others. */
export function withSeed(point: Point, seed: number | undefined): Point {
  return seed === undefined
    ? point
    : joined(point, { labels: { seed: String(seed) }, set: { seed }, overrides: [] });
}

/**
 * Plan a sweep.
 * @param overrides changes to the base experiment, after the file's own
 * @throws UserError when a point's config is not valid, or no trial is left
 */
export function planSweep(
  file: string,
  sweep: Sweep = readSweepFile(file),
  overrides: readonly string[] = [],
): Plan {
  const planner = new Planner(sweep, file, overrides);
  const seeds = seedsOf(sweep);
  const trials = new Map<string, Trial>();
  let excluded = 0;
  let repeated = 0;
  // A search chooses its points later, one after the other.
  const points = sweep.search ? [] : pointsOf(sweep);
  for (const point of points) {
    for (const seed of seeds) {
      const trial = planner.trial(withSeed(point, seed), trials.size);
      if (trial === undefined) {
        excluded += 1;
      } else if (trials.has(trial.id)) {
        repeated += 1;
      } else {
        trials.set(trial.id, trial);
      }
    }
  }
  if (trials.size === 0 && !sweep.search) {
    throw new UserError(
      `the sweep ${sweep.name} has no trials: all ${excluded} points are left out`,
      "look at `exclude` and `where`",
    );
  }
  const base = sweep.search ? planner.base() : undefined;
  if (sweep.search) {
    // A key that is not there should be told now, not when the first trial is asked for.
    const { space, seed } = sweep.search;
    const [set = {}] = samplePoints(space as Space, "random", 1, seed);
    planner.trial({ labels: {}, set, overrides: [] }, 0);
  }
  return {
    sweep,
    file,
    trials: [...trials.values()],
    excluded,
    repeated,
    ...(base !== undefined && { base }),
  };
}

/** Run folders below the output folder that have finished, by id. */
export function finishedRuns(output: string): Map<string, string> {
  const found = new Map<string, string>();
  const visit = (dir: string, depth: number): void => {
    let entries: string[];
    try {
      entries = readdirSync(dir, { withFileTypes: true })
        .filter((entry) => entry.isDirectory() && !entry.name.startsWith("."))
        .map((entry) => entry.name);
    } catch {
      return;
    }
    for (const name of entries) {
      if (/^[0-9a-f]{12}-s\d+$/.test(name)) {
        if (!found.has(name) && isFinished(join(dir, name))) {
          found.set(name, join(dir, name));
        }
      } else if (depth > 0 && name !== "sweeps") {
        visit(join(dir, name), depth - 1);
      }
    }
  };
  visit(output, 3);
  return found;
}

/** Has this run folder come to its end? */
export function isFinished(dir: string): boolean {
  if (!existsSync(join(dir, "scores.json"))) {
    return false;
  }
  try {
    const { state } = JSON.parse(readFileSync(join(dir, "status.json"), "utf8")) as {
      state: string;
    };
    return state === "finished";
  } catch {
    return false;
  }
}
