/** @file The runs to compare: found by folders, sweeps and experiments, read with little more than their scores. */

import { existsSync, readdirSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { UserError } from "../../config/errors.ts";
import { configHash } from "../../config/hash.ts";
import type { Score } from "../../eval/suite.ts";
import { SweepFolder, sweepFolder } from "../../sweeps/folder.ts";
import { finishedRuns, planSweep, readSweepFile } from "../../sweeps/plan.ts";
import type { Sweep } from "../../sweeps/schema.ts";
import { sweepState } from "../../sweeps/state.ts";
import { experimentSchema } from "../../trainers/experiment.ts";
import { type JsonObject, readJson } from "../run-folder.ts";
import { isStudyFile, readStudy, STUDIES, studyRuns } from "../studies/evidence.ts";

/** A run as comparisons see it. */
export interface ComparedRun {
  readonly dir: string;
  readonly id: string;
  readonly experiment: string;
  /** Runs that differ by seed only share it. */
  readonly configuration: string;
  readonly seed: number;
  /** "finished", "running", ..., or "missing" for a planned trial that has no folder. */
  readonly state: string;
  readonly config: JsonObject;
  /** Places on a sweep's axes, without the seed; undefined for a run of no sweep. */
  readonly labels?: { readonly [axis: string]: string };
  /** The sweep that it is a trial of. */
  readonly sweep?: string;
  /** Of all attempts at it, where a sweep's journal tells. */
  readonly seconds?: number;
  readonly scores: readonly Score[];
}

/** What was found, and the baseline that a sweep names. */
export interface Found {
  readonly runs: readonly ComparedRun[];
  readonly baseline?: { readonly [key: string]: unknown };
}

/**
 * Gather runs.
 * @param named run folders, sweeps (folder, file or name), studies' files, or folders with run folders in them
 * @throws UserError when something named holds no run
 */
export function findRuns(named: readonly string[], output = "results"): Found {
  const runs = new Map<string, ComparedRun>();
  let baseline: Found["baseline"];
  for (const name of named) {
    const folder = sweepFolder(name, output);
    const study = [name, join(STUDIES, `${name}.json`)].find(isStudyFile);
    const found: Found = existsSync(join(folder, "sweep.json"))
      ? sweepRuns(folder)
      : study !== undefined
        ? studyRuns(readStudy(study), study)
        : /\.ya?ml$/.test(name) && existsSync(name)
          ? sweepOfFile(name, output)
          : { runs: plain(name) };
    baseline ??= "baseline" in found ? found.baseline : undefined;
    for (const run of found.runs) {
      const key = resolve(run.dir);
      if (!runs.has(key)) {
        runs.set(key, run);
      }
    }
  }
  return { runs: [...runs.values()], ...(baseline && { baseline }) };
}

/** The runs of a sweep, trials without a run among them. */
function sweepRuns(dir: string): Found {
  const folder = SweepFolder.open(dir);
  const { sweep } = folder;
  const runs = sweepState(folder).map(({ trial, state, dir: path, seconds }): ComparedRun => {
    const { seed: _seed, ...labels } = trial.labels;
    const at = folder.at(path);
    const shown = resolve(path) === at ? path : at;
    const common = { sweep: sweep.name, ...(seconds > 0 && { seconds }) };
    return existsSync(join(at, "config.json"))
      ? { ...readRunFolder(at, shown), ...common, state, configuration: trial.hash, labels }
      : {
          ...common,
          dir: shown,
          id: trial.id,
          experiment: basename(dirname(at)),
          configuration: trial.hash,
          seed: trial.seed,
          state: state === "pending" ? "missing" : state,
          config: {},
          labels,
          scores: [],
        };
  });
  return withBaseline(runs, sweep);
}

function plain(name: string): ComparedRun[] {
  if (!existsSync(name) || !statSync(name).isDirectory()) {
    throw new UserError(
      `there is no run, sweep or folder ${name}`,
      "give run folders, a sweep's folder, file or name, or a folder of run folders such as results/quickstart",
    );
  }
  if (existsSync(join(name, "config.json"))) {
    return [readRunFolder(name)];
  }
  const found = readdirSync(name, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && /^[0-9a-f]{12}-s\d+$/.test(entry.name))
    .map((entry) => readRunFolder(join(name, entry.name)));
  if (found.length === 0) {
    throw new UserError(
      `${name} holds no run folders`,
      "give a run folder, a sweep, or results/<experiment>",
    );
  }
  return found;
}

/** A sweep named by a file with another name; or its trials below the output folder, without its own. */
function sweepOfFile(file: string, output: string): Found {
  const sweep = readSweepFile(file);
  const folder = join(output, "sweeps", sweep.name);
  if (existsSync(join(folder, "sweep.json"))) {
    return sweepRuns(folder);
  }
  const { trials } = planSweep(file, sweep);
  const finished = finishedRuns(output);
  const runs = trials.flatMap(({ id, hash, labels: { seed: _seed, ...labels } }): ComparedRun[] => {
    const dir = finished.get(id);
    return dir === undefined
      ? []
      : [{ ...readRunFolder(dir), configuration: hash, labels, sweep: sweep.name }];
  });
  if (runs.length === 0) {
    throw new UserError(
      `no trial of ${file} has finished below ${output}, and the sweep's folder is not there`,
      `tessera sweep ${file}; --output names the folder that holds sweeps/${sweep.name}`,
    );
  }
  return withBaseline(runs, sweep);
}

function withBaseline(runs: readonly ComparedRun[], sweep: Sweep): Found {
  const baseline = sweep.baseline ?? (sweep.ablation ? { ablation: "baseline" } : undefined);
  return { runs, ...(baseline && { baseline }) };
}

/** Read one run folder. */
export function readRunFolder(dir: string, shown = dir): ComparedRun {
  const config = readJson(join(dir, "config.json"));
  const { scores } = readJson(join(dir, "scores.json"));
  const { state } = readJson(join(dir, "status.json"));
  const id = basename(resolve(dir));
  const named = /^([0-9a-f]{12})-s(\d+)$/.exec(id);
  return {
    dir: shown,
    id,
    experiment: typeof config["name"] === "string" ? config["name"] : basename(dirname(dir)),
    configuration: named?.[1] ?? configHash(config, experimentSchema).slice(0, 12),
    seed: typeof config["seed"] === "number" ? config["seed"] : Number(named?.[2] ?? 0),
    state: typeof state === "string" ? state : "unknown",
    config,
    scores: Array.isArray(scores) ? (scores as Score[]) : [],
  };
}
