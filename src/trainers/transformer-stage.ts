/** @file The third stage: a transformer learns to predict cached tokens. */

import type { Objective } from "../objectives/objective.ts";
import { Random } from "../runtime/random.ts";
import type { StageOptions } from "./options.ts";
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

/** The training of a transformer. */
export function transformerTask(
  objective: Objective,
  options: StageOptions,
  train: TokenCache,
  validation: TokenCache,
  seed: number,
): Task {
  const size = options.batch / options.accumulate;
  const held = Math.min(size, validation.size);
  return {
    stage: "transformer",
    scope: objective.scope,
    options,
    batches(step) {
      const rows = rowsOfStep(train.size, options.batch, seed, step);
      const batches = Array.from({ length: options.accumulate }, (_, i) =>
        objective.inputs(
          tokenBatch(train, rows.subarray(i * size, (i + 1) * size)),
          seed,
          step * options.accumulate + i,
          true,
        ),
      );
      return Promise.resolve(batches);
    },
    loss: (inputs) => objective.loss(inputs),
    validationBatches: Math.min(options.validate_batches, Math.floor(validation.size / held)),
    validationBatch(index) {
      const rows = heldOutRows(validation.size, held, index);
      // Keyed by the batch, not the step: every validation masks the same tokens.
      return Promise.resolve(objective.inputs(tokenBatch(validation, rows), seed, index, false));
    },
  };
}
