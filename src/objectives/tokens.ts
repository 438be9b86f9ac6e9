/** @file Host batches to device tensors, and the losses' common arithmetic over factors. */

import * as tf from "@tensorflow/tfjs-core";
import { tokenCount } from "../models/transformer.ts";
import { sumOverRanks } from "../runtime/collective.ts";
import { softmaxCrossEntropy } from "../runtime/ops.ts";
import type { Random } from "../runtime/random.ts";
import { bool, type HostTensors, int32 } from "../runtime/tensors.ts";
import type { SampleOptions, TaskConditions, TokenBatch, TokenSpace } from "./objective.ts";
import { networkLabel } from "./sampling.ts";

/**
 * `ids` [B, N, F] and `labels` [B] (-1 becomes the null class). Training adds `dropped` [B]: the
 * samples whose label is hidden. Its absence marks a held-out batch.
 */
export function tokenInputs(
  batch: TokenBatch,
  space: TokenSpace,
  dropout: { readonly rate: number; readonly random: Random } | undefined,
): HostTensors {
  const { size } = batch;
  const tokens = tokenCount(space);
  const labels = batch.labels.map((label) => networkLabel(label, space.classes));
  const inputs = {
    ids: int32([size, tokens, space.factors.length], batch.ids),
    labels: int32([size], labels),
  };
  if (dropout === undefined) {
    return inputs;
  }
  const { rate, random } = dropout;
  const dropped = Array.from({ length: size }, () => random.uniform() < rate);
  return { ...inputs, dropped: bool([size], dropped) };
}

/** The labels with the dropped ones replaced by the null class: [B] int32. */
export function keptLabels(
  inputs: { readonly [name: string]: tf.Tensor },
  space: TokenSpace,
): tf.Tensor1D {
  const labels = inputs.labels as tf.Tensor1D;
  if (inputs.dropped === undefined) {
    return labels;
  }
  const none = tf.tensor1d(new Int32Array(labels.size).fill(space.classes), "int32");
  return tf.where(inputs.dropped, none, labels);
}

/**
 * Cross entropy of whole tokens: the factors' entropies summed, since the factors of a token are
 * predicted independently of each other given the input.
 * @param logits for each factor [M, V]
 * @param ids [B, N, F] int32 with B·N = M
 * @returns nats [M]
 */
export function tokenNats(logits: tf.Tensor2D[], ids: tf.Tensor3D, smoothing: number): tf.Tensor1D {
  const targets = splitFactors(ids);
  return tf.addN(
    logits.map((each, f) => softmaxCrossEntropy(each, targets[f]!, smoothing)),
  ) as tf.Tensor1D;
}

/** 1 where the likeliest id of every factor is the target's, else 0: [M] float32. */
export function tokenHits(logits: tf.Tensor2D[], ids: tf.Tensor3D): tf.Tensor1D {
  const targets = splitFactors(ids);
  return logits
    .map((each, f) => {
      const best = tf.cast(tf.argMax(each, 1), "int32");
      return tf.cast(tf.equal(best, targets[f]!), "float32") as tf.Tensor1D;
    })
    .reduce((all, hit) => tf.mul(all, hit));
}

/** The mean of values over the global batch, each counted by its weight; 0 where all weights are 0. */
export function weightedMean(values: tf.Tensor, weight: tf.Tensor): tf.Scalar {
  const total = sumOverRanks(tf.sum<tf.Scalar>(tf.mul(values, weight)));
  return tf.div(total, tf.maximum(sumOverRanks(tf.sum<tf.Scalar>(weight)), 1e-6));
}

/** [B, N, F] to F times [B·N]. */
function splitFactors(ids: tf.Tensor3D): tf.Tensor1D[] {
  const factors = ids.shape[2];
  const flat = tf.reshape(ids, [-1, factors]);
  return factors === 1
    ? [tf.reshape(flat, [-1])]
    : tf.split(flat, factors, 1).map((column) => tf.reshape(column, [-1]) as tf.Tensor1D);
}

/** Throws unless a sampler's condition fits the space and the number of samples. */
export function checkCondition(
  condition: SampleOptions["condition"],
  size: number,
  space: TokenSpace,
): void {
  if (condition === undefined) {
    return;
  }
  const tokens = tokenCount(space);
  const { length: factors } = space.factors;
  const { ids, known } = condition;
  if (known.length !== size * tokens || ids.length !== size * tokens * factors) {
    throw new RangeError(
      `condition: expected ${size} × ${tokens} tokens of ${factors} sub-ids, got ${known.length} known flags and ${ids.length} sub-ids`,
    );
  }
  for (let i = 0; i < ids.length; i++) {
    const limit = space.factors[i % factors]!;
    if (known[Math.floor(i / factors)] && !(ids[i]! >= 0 && ids[i]! < limit)) {
      throw new RangeError(`condition: sub-id ${ids[i]} at index ${i} is not in 0..${limit - 1}`);
    }
  }
}

/** Throws unless the conditions of tasks fit the space; sub-ids outside a condition may be anything. */
export function checkTaskConditions(
  { tasks, ids }: TaskConditions,
  size: number,
  names: readonly string[],
  inside: readonly Uint8Array[],
  space: TokenSpace,
): void {
  const tokens = tokenCount(space);
  const { length: factors } = space.factors;
  if (tasks.length !== size || ids.length !== size * tokens * factors) {
    throw new RangeError(
      `conditions: expected ${size} tasks and ${size} × ${tokens} tokens of ${factors} sub-ids, got ${tasks.length} tasks and ${ids.length} sub-ids`,
    );
  }
  for (const task of tasks) {
    if (names[task] === undefined) {
      throw new RangeError(`conditions: task ${task} is not one of the ${names.length} tasks`);
    }
  }
  for (let i = 0; i < ids.length; i++) {
    const place = Math.floor(i / factors);
    const limit = space.factors[i % factors]!;
    const used = inside[tasks[Math.floor(place / tokens)]!]![place % tokens] === 1;
    if (used && !(ids[i]! >= 0 && ids[i]! < limit)) {
      throw new RangeError(`conditions: sub-id ${ids[i]} at index ${i} is not in 0..${limit - 1}`);
    }
  }
}
