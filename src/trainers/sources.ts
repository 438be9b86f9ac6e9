/** @file What the stages of a run read: the data sets, and the cached tokens as a task. */

import type { Dataset } from "../data/dataset.ts";
import { openDataset } from "../data/registry.ts";
import { isDiffusion } from "../objectives/diffusion.ts";
import type { Objective } from "../objectives/objective.ts";
import { readConditions } from "./conditions.ts";
import type { RunContext, Split } from "./context.ts";
import type { Experiment } from "./experiment.ts";
import { datasetOfStore, sourceOfStore } from "./from-store.ts";
import { type openModalities, readModalities } from "./modalities.ts";
import { setVariable } from "./packing.ts";
import type { Task } from "./step.ts";
import { latentStatistics, readTokens, tokensPath } from "./tokens.ts";
import { type TokenSource, transformerTask } from "./transformer-stage.ts";

/** The data set of a split, opened on first use. */
export function openOnce(
  datasets: Map<Split, Promise<Dataset>>,
  config: Experiment,
  split: Split,
): Promise<Dataset> {
  let dataset = datasets.get(split);
  if (dataset === undefined) {
    const { store } = config.trainer.tokens;
    dataset =
      store === null
        ? openDataset(config.dataset, split, config.seed)
        : Promise.resolve().then(() => datasetOfStore(store, config, split));
    dataset.catch(() => undefined); // whoever awaits it sees the failure
    datasets.set(split, dataset);
  }
  return dataset;
}

/** The training of a transformer on the tokens that a run has cached. */
export async function transformerStage(
  run: RunContext,
  config: Experiment,
  objective: Objective,
  modalities: ReturnType<typeof openModalities>,
): Promise<Task> {
  const { trainer, seed } = config;
  const { store } = trainer.tokens;
  const source = (split: Split): TokenSource =>
    store === null
      ? {
          tokens: readTokens(tokensPath(run.dir, split)),
          conditions: readConditions(run.dir, split, objective.tasks),
          modalities: readModalities(run.dir, split, modalities),
        }
      : sourceOfStore(run.dir, store, split, config.objective, modalities);
  const tokens = { train: source("train"), validation: source("validation") };
  for (const { modalities: read } of Object.values(tokens)) {
    // A text encoder embeds the captions once.
    await modalities.text?.vectors?.prepare(read?.captions ?? []);
  }
  if (isDiffusion(objective)) {
    const { mean, deviation } = latentStatistics(tokens.train.tokens, objective.width);
    setVariable(objective.mean, mean);
    setVariable(objective.deviation, deviation);
  }
  const { train, validation } = tokens;
  return transformerTask(objective, trainer.transformer, train, validation, seed, run.group);
}
