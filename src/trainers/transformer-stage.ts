/** @file The third stage: a transformer learns to predict cached tokens. */

import type { Objective, TokenBatch } from "../objectives/objective.ts";
import type { Ranks } from "../runtime/collective.ts";
import { Random } from "../runtime/random.ts";
import { type ConditionCaches, conditionBatch } from "./conditions.ts";
import { type ModalityCaches, modalityBatch } from "./modalities.ts";
import type { StageOptions } from "./options.ts";
import { ALONE, rowsOfRank, samplesOfRank } from "./ranks.ts";
import type { Task } from "./step.ts";
import { heldOutRows } from "./tokenizer-stage.ts";
import { type TokenCache, tokenBatch } from "./tokens.ts";

/**
 * The rows of one step: a permutation an epoch, what does not fill a batch is dropped. A cache
 * smaller than a batch is passed through as often as it takes. A pure function of its arguments.
 */
export function rowsOfStep(size: number, batch: number, seed: number, step: number): Uint32Array {
  const passes = Math.ceil(batch / size);
  const perEpoch = Math.floor((passes * size) / batch);
  const epoch = Math.floor(step / perEpoch);
  const order = new Uint32Array(passes * size);
  for (let pass = 0; pass < passes; pass++) {
    const visit = epoch * passes + pass;
    order.set(new Random(seed, "tokens/order", visit).permutation(size), pass * size);
  }
  const first = (step % perEpoch) * batch;
  return order.slice(first, first + batch);
}

/** The tokens of a split and the conditions of its tasks. */
export interface TokenSource {
  readonly tokens: TokenCache;
  /** By change of the clip; empty without tasks. */
  readonly conditions?: ConditionCaches;
  /** Captions and sound. */
  readonly modalities?: ModalityCaches;
}

/** The training of a transformer; with several ranks, one rank's share of each batch. */
export function transformerTask(
  objective: Objective,
  options: StageOptions,
  train: TokenSource,
  validation: TokenSource,
  seed: number,
  ranks: Ranks = ALONE,
): Task {
  samplesOfRank(options, ranks);
  const size = options.batch / options.accumulate;
  const held = Math.min(size, validation.tokens.size);
  const mixture = objective.tasks;

  /** The rows of a split as a batch; its tasks are keyed by `step` like all of the step's noise. */
  const batchOf = (
    { tokens, conditions = new Map(), modalities = {} }: TokenSource,
    rows: Uint32Array,
    step: number,
    training: boolean,
  ): TokenBatch => {
    const batch = tokenBatch(tokens, rows);
    if (mixture === undefined) {
      return batch;
    }
    const tasks = mixture.draw(rows.length, seed, step, training);
    return {
      ...batch,
      conditions: conditionBatch(mixture, conditions, tasks, rows, tokens.length),
      ...modalityBatch(modalities, objective.space, objective.textLength ?? 0, rows),
    };
  };
  return {
    stage: "transformer",
    scope: objective.scope,
    options,
    batches(step) {
      const rows = rowsOfStep(train.tokens.size, options.batch, seed, step);
      const batches = Array.from({ length: options.accumulate }, (_, i) => {
        const key = step * options.accumulate + i;
        const batch = batchOf(train, rows.subarray(i * size, (i + 1) * size), key, true);
        return rowsOfRank(objective.inputs(batch, seed, key, true), size, ranks);
      });
      return Promise.resolve(batches);
    },
    loss: (inputs) => objective.loss(inputs),
    validationBatches: Math.min(
      options.validate_batches,
      Math.floor(validation.tokens.size / held),
    ),
    validationBatch(index) {
      const rows = heldOutRows(validation.tokens.size, held, index);
      // Keyed by the batch, not the step: every validation masks the same tokens.
      const batch = batchOf(validation, rows, index, false);
      return Promise.resolve(objective.inputs(batch, seed, index, false));
    },
  };
}
