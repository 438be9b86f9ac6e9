/** @file A finished run, opened again: what `tessera eval`, `generate` and reports work with. */

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../config/errors.ts";
import { validateFrozen } from "../config/resolve.ts";
import type { Dataset } from "../data/dataset.ts";
import { openDataset } from "../data/registry.ts";
import type { Scope } from "../models/scope.ts";
import type { Objective } from "../objectives/objective.ts";
import type { Device } from "../runtime/device.ts";
import { openDevice } from "../runtime/registry.ts";
import type { Tokenizer } from "../tokenizers/tokenizer.ts";
import type { Split } from "./context.ts";
import { type Experiment, experimentSchema } from "./experiment.ts";
import type { SamplingChanges } from "./suite-checks.ts";
import { openModalities } from "./modalities.ts";
import {
  finalCheckpoint,
  loadAveraged,
  makeObjective,
  makeTokenizer,
  resampler,
} from "./networks.ts";

/** The networks of a run with their averaged weights, on a device. Close it when done. */
export interface OpenedRun {
  readonly dir: string;
  readonly config: Experiment;
  readonly device: Device;
  readonly tokenizer: Tokenizer;
  /** Absent when the run trains no transformer. */
  readonly objective?: Objective;
  /** The same with other sampling; the caller disposes of its scope. */
  readonly resampled?: (changes: SamplingChanges) => Objective;
  /** The data set of a split, opened on first use. */
  dataset(split: Split): Promise<Dataset>;
  close(): Promise<void>;
}

/** The config of a run folder, valid for this version. */
export function readRunConfig(dir: string): Experiment {
  const path = join(dir, "config.json");
  if (!existsSync(path)) {
    throw new UserError(
      `${dir} is not a run folder: it has no config.json`,
      "give the folder that `tessera run` printed, e.g. results/quickstart/<hash>-s0",
    );
  }
  return validateFrozen<Experiment>(readFileSync(path, "utf8"), experimentSchema, path);
}

/**
 * Open a run folder.
 * @param options.device another device than the run's own
 * @param options.dataset another data set than the run's own, of equal clips
 * @throws UserError when it is no run folder or its training has not come to its end
 */
export async function openRun(
  dir: string,
  options: {
    readonly device?: Experiment["device"];
    readonly dataset?: Experiment["dataset"];
    readonly warn?: (message: string) => void;
    /** Leave the transformer out, which may not be trained yet. */
    readonly tokenizerOnly?: boolean;
  } = {},
): Promise<OpenedRun> {
  const config = readRunConfig(dir);
  const { trainer } = config;
  const warn = options.warn ?? ((message: string) => void process.stderr.write(`${message}\n`));
  const tokenizerState = finalCheckpoint(dir, "tokenizer", trainer.tokenizer.steps, warn);

  const device = await openDevice(options.device ?? config.device);
  const datasets = new Map<Split, Promise<Dataset>>();
  const dataset = (split: Split): Promise<Dataset> => {
    const opened =
      datasets.get(split) ?? openDataset(options.dataset ?? config.dataset, split, config.seed);
    datasets.set(split, opened);
    return opened;
  };
  const scopes: Scope[] = [];
  const close = async (): Promise<void> => {
    for (const scope of scopes) {
      scope.dispose();
    }
    for (const opened of datasets.values()) {
      await opened.then((set) => set.close()).catch(() => undefined);
    }
    device.dispose();
  };
  try {
    const tokenizer = makeTokenizer(config);
    scopes.push(tokenizer.scope);
    loadAveraged(tokenizer.scope, tokenizerState);
    const classes = config.objective ? readClasses(dir) : [];
    const opened = { dir, config, device, tokenizer, dataset, close };
    if (options.tokenizerOnly || config.objective === undefined) {
      return opened;
    }
    const modalities = openModalities(dir, config.objective, device);
    const objective = makeObjective(config, tokenizer, { classes }, modalities)!;
    scopes.push(objective.scope);
    const { steps } = trainer.transformer;
    const weights = finalCheckpoint(dir, "transformer", steps, warn);
    loadAveraged(objective.scope, weights);
    const resampled = resampler(config, tokenizer, { classes }, modalities, weights);
    return { ...opened, objective, resampled };
  } catch (error) {
    await close();
    throw error;
  }
}

/** The class names that a run was trained with, by label. */
export function readClasses(dir: string): readonly string[] {
  const path = join(dir, "classes.json");
  return existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")) as string[]) : [];
}
