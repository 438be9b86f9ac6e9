/**
 * @file The optimizer's kernels, for traces of devices that have them (`hasKernel("TesseraAdamW")`):
 * parameters are updated where they are, without being laid end to end and cut apart again.
 */

import type * as tf from "@tensorflow/tfjs-core";
import { runKernel, runKernels } from "./own-kernels.ts";

/** The sum of all squares of all tensors, added up in float64. */
export function sumOfSquares(tensors: readonly tf.Tensor[]): tf.Scalar {
  return runKernel("TesseraSumOfSquares", named("x", tensors)) as tf.Scalar;
}

/** One update of some tensors whose moments lie end to end in vectors. */
export interface AdamWInputs {
  readonly rate: tf.Scalar;
  readonly epsilon: tf.Scalar;
  /** 1 - lr · decay. */
  readonly keep: tf.Scalar;
  /** Factor of the gradients. */
  readonly scale: tf.Scalar;
  /** 1 - decay of the average. */
  readonly averageRate: tf.Scalar;
  /** bool: false counts gradients as zero and leaves the parameters as they are. */
  readonly changes: tf.Tensor;
  /** m, v and, with an average, the average. */
  readonly vectors: readonly tf.Tensor[];
  readonly gradients: readonly tf.Tensor[];
  readonly parameters: readonly tf.Tensor[];
}

/**
 * With g the gradient times `scale`: m + (1 - beta1)(g - m), v + (1 - beta2)(g² - v), keep · p - rate · m /
 * (√v + epsilon) with the new m and v, and the average moved towards the new p.
 */
export function fusedAdamW(
  inputs: AdamWInputs,
  attrs: {
    readonly beta1: number;
    readonly beta2: number;
    readonly decayed: boolean;
    readonly averaged: boolean;
  },
): { readonly vectors: tf.Tensor[]; readonly parameters: tf.Tensor[] } {
  const { rate, epsilon, keep, scale, averageRate, changes, vectors, gradients } = inputs;
  const pairs = gradients.flatMap((gradient, i) => [gradient, inputs.parameters[i]!]);
  const all = runKernels(
    "TesseraAdamW",
    {
      rate,
      epsilon,
      keep,
      scale,
      averageRate,
      changes,
      ...named("vector", vectors),
      ...named("tensor", pairs),
    },
    attrs,
  );
  return { vectors: all.slice(0, vectors.length), parameters: all.slice(vectors.length) };
}

const named = (name: string, tensors: readonly tf.Tensor[]): { [key: string]: tf.Tensor } =>
  Object.fromEntries(tensors.map((tensor, i) => [`${name}${i}`, tensor]));
