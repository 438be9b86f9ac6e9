/** @file The first stage: a tokenizer learns to reconstruct clips. */

import * as tf from "@tensorflow/tfjs-core";
import type { Dataset } from "../data/dataset.ts";
import { Loader, stack } from "../data/loader.ts";
import { Random } from "../runtime/random.ts";
import { float32, type HostTensors, uint8 } from "../runtime/tensors.ts";
import type { Tokenizer } from "../tokenizers/tokenizer.ts";
import type { StageOptions } from "./options.ts";
import type { Task } from "./step.ts";

/**
 * Pixels as models see them.
 * @param bytes [B, T, H, W, 3] integers in [0, 255]
 * @returns float32 in [-1, 1]
 */
export function toPixels(bytes: tf.Tensor): tf.Tensor5D {
  return tf.sub(tf.mul(tf.cast(bytes, "float32"), 1 / 127.5), 1) as tf.Tensor5D;
}

/**
 * The items of a held-out batch: the same in every run and at every step, and spread over the split,
 * as a folder's items are sorted by class.
 */
export function heldOutRows(size: number, batch: number, index: number): Uint32Array {
  const order = new Random(0, "validation/order").permutation(size);
  return order.subarray(index * batch, (index + 1) * batch);
}

/** The training of a tokenizer. */
export function tokenizerTask(
  tokenizer: Tokenizer,
  options: StageOptions,
  train: Dataset,
  validation: Dataset,
  seed: number,
): Task {
  const size = options.batch / options.accumulate;
  const shape = [tokenizer.clip.frames, tokenizer.clip.height, tokenizer.clip.width, 3];
  const loader = new Loader(train, { batch: options.batch, seed });
  let position: number | undefined;
  const held = Math.min(size, validation.size);

  return {
    stage: "tokenizer",
    scope: tokenizer.scope,
    options,
    async batches(step) {
      if (position !== step) {
        const perEpoch = loader.batchesPerEpoch;
        loader.resume({ epoch: Math.floor(step / perEpoch), batch: step % perEpoch });
      }
      position = step + 1;
      const { clips } = await loader.next();
      const length = clips.length / options.accumulate;
      return Array.from(
        { length: options.accumulate },
        (_, i): HostTensors => ({
          clips: uint8([size, ...shape], clips.subarray(i * length, (i + 1) * length)),
          step: float32([], [step]),
          ...tokenizer.inputs(size, seed, step * options.accumulate + i),
        }),
      );
    },
    loss(inputs, training) {
      const { loss, metrics } = tokenizer.loss(
        toPixels(inputs["clips"]!),
        inputs["step"] as tf.Scalar,
        training,
        training ? inputs : undefined,
      );
      return { loss, metrics };
    },
    validationBatches: Math.min(options.validate_batches, Math.floor(validation.size / held)),
    async validationBatch(index) {
      const rows = heldOutRows(validation.size, held, index);
      const samples = await Promise.all(Array.from(rows, (row) => validation.get(row, 0)));
      return {
        clips: uint8([held, ...shape], stack(samples).clips),
        // Schedules of the loss are over: held-out losses of all steps are comparable.
        step: float32([], [options.steps]),
      };
    },
  };
}
