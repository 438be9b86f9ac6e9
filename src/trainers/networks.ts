/** @file The networks of an experiment: built from its config, given the weights of a checkpoint. */

import { UserError } from "../config/errors.ts";
import type { Dataset } from "../data/dataset.ts";
import { Scope } from "../models/scope.ts";
import type { Objective } from "../objectives/objective.ts";
import { buildObjective } from "../objectives/registry.ts";
import { lowTokenizer } from "../tokenizers/low-resolution.ts";
import { buildTokenizer } from "../tokenizers/registry.ts";
import type { Tokenizer } from "../tokenizers/tokenizer.ts";
import { type Checkpoint, latestCheckpoint } from "./checkpoint.ts";
import { clipShape, type Experiment } from "./experiment.ts";
import { type SamplingChanges, withSampling } from "./suite-checks.ts";
import { checkpointDir } from "./loop.ts";
import type { Modalities } from "./modalities.ts";
import { setVariable, valuesOf } from "./packing.ts";
import type { Task } from "./step.ts";

/** The tokenizer of an experiment with its initial weights. */
export function makeTokenizer(config: Experiment, root = Scope.root(config.seed)): Tokenizer {
  return buildTokenizer(config.tokenizer, clipShape(config), root.child("tokenizer"));
}

/** The objective of an experiment with its initial weights; undefined when there is none. */
export function makeObjective(
  config: Experiment,
  tokenizer: Tokenizer,
  dataset: Pick<Dataset, "classes">,
  modalities: Modalities = {},
  root = Scope.root(config.seed),
): Objective | undefined {
  if (config.objective === undefined || config.model === undefined) {
    return undefined;
  }
  const space = {
    grid: tokenizer.grid,
    factors: tokenizer.factors,
    ...(tokenizer.continuous && { latentWidth: tokenizer.width }),
    classes: dataset.classes.length,
    clip: { ...tokenizer.clip, causal: tokenizer.causal },
    ...(config.objective.type === "super-resolution" && {
      low: lowTokenizer(
        config.tokenizer,
        clipShape(config),
        config.objective.factor,
        tokenizer.scope,
      ),
    }),
    ...modalities,
  };
  return buildObjective(config.objective, config.model, space, root.child("transformer"));
}

/**
 * A function that builds the objective of an experiment once more, with other sampling and the weights
 * of a checkpoint: what a suite with `sampling` judges.
 */
export function resampler(
  config: Experiment,
  tokenizer: Tokenizer,
  dataset: Pick<Dataset, "classes">,
  modalities: Modalities,
  weights: Checkpoint,
): (changes: SamplingChanges) => Objective {
  return (changes) => {
    const changed = withSampling(config, changes);
    const objective = makeObjective(changed, tokenizer, dataset, modalities)!;
    loadAveraged(objective.scope, weights);
    return objective;
  };
}

/** Give a network its averaged weights and last statistics. */
export function loadAveraged(scope: Scope, { tensors }: Checkpoint): void {
  const trainable = scope.trainable();
  for (const [name, variable] of scope.variables()) {
    const source = trainable.has(name) ? `ema/${name}` : `model/${name}`;
    setVariable(variable, valuesOf(tensors, source, variable.shape));
  }
}

/**
 * The last checkpoint of a finished stage.
 * @throws UserError when the stage has not come to its end
 */
export function finalCheckpoint(
  runDir: string,
  stage: Task["stage"],
  steps: number,
  warn: (message: string) => void,
): Checkpoint {
  const dir = checkpointDir(runDir, stage);
  const checkpoint = latestCheckpoint(dir, warn);
  if (checkpoint?.step !== steps) {
    throw new UserError(
      `${dir} holds ${checkpoint ? `step ${checkpoint.step}` : "no checkpoint"}, expected step ${steps}`,
      "run the experiment to its end first: `tessera run` with the same config resumes it",
    );
  }
  return checkpoint;
}
