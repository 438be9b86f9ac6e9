/**
 * @file Index back-propagation quantization: Shi et al., "Scalable Image Tokenization with Index
 * Backpropagation Quantization" (2024), §3. The code of a latent is the one with the largest inner
 * product; the choice is a one-hot vector whose gradient is that of softmax(z·C), so every code gets a
 * gradient at every step and the whole codebook moves along with the encoder.
 *
 * Losses: the distance between the latent and its code through the differentiable choice (which
 * teaches both), the codebook and commitment terms of vector quantization, and the entropy penalty of
 * MAGVIT on the same softmax.
 */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, Type } from "../../config/schema.ts";
import { type Scope, uniform } from "../../models/scope.ts";
import { embedding, stopGradient } from "../../runtime/ops.ts";
import { nearestCodes } from "./codebook.ts";
import { assignmentEntropies, gridOf, type Quantizer, rowsOf, usageMetrics } from "./quantizer.ts";

export const schema = closed(
  {
    type: Type.Literal("ibq"),
    size: Type.Integer({
      minimum: 2,
      maximum: 65536,
      default: 1024,
      description: "Number K of codes.",
    }),
    width: Type.Integer({ minimum: 1, default: 256, description: "Channels of a code." }),
    commitment_weight: Type.Number({
      minimum: 0,
      default: 0.25,
      description: "Weight of the commitment loss, which moves latents to their codes.",
    }),
    quantization_weight: Type.Number({
      minimum: 0,
      default: 1,
      description:
        "Weight of the two terms that move codes: the codebook loss, and the distance through the differentiable choice.",
    }),
    entropy_weight: Type.Number({
      minimum: 0,
      default: 0.05,
      description: "Weight of the entropy penalty (confident tokens, evenly used codes).",
    }),
    entropy_temperature: Type.Number({
      exclusiveMinimum: 0,
      default: 0.01,
      description: "Temperature of the softmax in the entropy penalty.",
    }),
  },
  { description: "Index back-propagation: a codebook with gradients to every code (IBQ)." },
);

export type IbqConfig = Static<typeof schema>;

/** Builds the quantizer with its codebook in `scope`. */
export function build(config: IbqConfig, scope: Scope): Quantizer {
  const { size, width } = config;
  const codebook = scope.param("codebook", [size, width], uniform(1 / size)) as tf.Tensor2D;
  const factors = [size];
  const logitsOf = (z: tf.Tensor5D) => tf.matMul(rowsOf(z), codebook, false, true) as tf.Tensor2D;
  const lookup = (ids: tf.Tensor5D): tf.Tensor5D =>
    tf.reshape(embedding(codebook, tf.reshape(ids, [-1])), [...gridOf(ids), width]);

  return {
    type: "ibq",
    factors,
    latentWidth: width,
    width,
    preNorm: false,
    remedy: "raise quantizer.entropy_weight, or make the codebook smaller",

    assign(z) {
      const ids = tf.reshape<tf.Rank.R5>(tf.argMax(logitsOf(z), 1), [...gridOf(z), 1]);
      return { ids, codes: lookup(ids) };
    },

    quantize(z) {
      const rows = rowsOf(z);
      const logits = logitsOf(z); // [N, K]
      const soft = tf.softmax(logits);
      const index = stopGradient(tf.argMax<tf.Tensor1D>(logits, 1));
      const hot = tf.oneHot(index, size, 1, 0, "float32") as tf.Tensor2D;
      const chosen = tf.add<tf.Tensor2D>(soft, stopGradient(tf.sub(hot, soft))); // [N, K]
      const codes = tf.matMul(chosen, codebook); // [N, D]
      const direct = embedding(codebook, index) as tf.Tensor2D; // without a gradient to the choice
      const commitment = tf.mean<tf.Scalar>(tf.squaredDifference(rows, stopGradient(direct)));
      const moving = tf.mean<tf.Scalar>(tf.squaredDifference(stopGradient(rows), direct));
      const double = tf.mean<tf.Scalar>(tf.squaredDifference(rows, codes));
      let loss = tf.add<tf.Scalar>(
        tf.mul(commitment, config.commitment_weight),
        tf.mul(tf.add(moving, double), config.quantization_weight),
      );
      const ids = tf.reshape<tf.Rank.R5>(index, [...gridOf(z), 1]);
      const metrics: { [name: string]: tf.Scalar } = {
        commitment,
        ...usageMetrics(ids, factors),
      };
      if (config.entropy_weight > 0) {
        const entropies = assignmentEntropies(tf.div(logits, config.entropy_temperature));
        Object.assign(metrics, entropies);
        const penalty = tf.sub(entropies.sample_entropy, entropies.batch_entropy);
        loss = tf.add(loss, tf.mul(penalty, config.entropy_weight));
      }
      return { codes: tf.reshape<tf.Rank.R5>(codes, z.shape), ids, loss, metrics };
    },

    lookup,
    indices: (codes) => nearestCodes(codes, codebook),
  };
}
