/**
 * @file Gumbel-softmax quantization: Jang et al., "Categorical Reparameterization with Gumbel-Softmax"
 * (ICLR 2017), as in the discrete VAE of DALL-E (Ramesh et al. 2021) and the Gumbel variant of VQGAN.
 *
 * A linear map gives each latent K logits l. Training draws codes with weights softmax((l + g) / τ),
 * g standard Gumbel noise from the host; `hard` gives the decoder the code of the largest weight, with
 * the gradient of the soft sum (the straight-through variant). The temperature falls exponentially
 * from `temperature` to `temperature_end` on the step clock. The loss is the divergence of softmax(l)
 * from the uniform prior, log K - H; where training is short, the entropy penalty of MAGVIT on softmax(l)
 * keeps the codes in use. Evaluation takes argmax l.
 */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, Type } from "../../config/schema.ts";
import { dense } from "../../models/layers.ts";
import { type Scope, uniform } from "../../models/scope.ts";
import { embedding, stopGradient } from "../../runtime/ops.ts";
import { Random } from "../../runtime/random.ts";
import { float32 } from "../../runtime/tensors.ts";
import { nearestCodes, scores } from "./codebook.ts";
import { assignmentEntropies, gridOf, type Quantizer, rowsOf, usageMetrics } from "./quantizer.ts";

export const schema = closed(
  {
    type: Type.Literal("gumbel"),
    size: Type.Integer({
      minimum: 2,
      maximum: 65536,
      default: 1024,
      description: "Number K of codes.",
    }),
    width: Type.Integer({ minimum: 1, default: 256, description: "Channels of a code." }),
    logits: Type.Enum(["linear", "distance"], {
      default: "linear",
      description:
        "Logits by a linear map of the latent (DALL-E), or as negative squared distances to the codes over their number of channels, so that near codes are likely ones (Sønderby et al. 2017).",
    }),
    logit_scale: Type.Number({
      exclusiveMinimum: 0,
      default: 1,
      description:
        "Factor of the logits. The noise's spread is fixed at 1.3, so with thousands of codes and logits of spread 1 early draws are nearly random; about 10 makes them say something.",
    }),
    hard: Type.Boolean({
      default: true,
      description:
        "Give the decoder one code with the gradient of the soft sum; false gives it the soft sum.",
    }),
    temperature: Type.Number({
      exclusiveMinimum: 0,
      default: 1,
      description: "Temperature τ at the first step.",
    }),
    temperature_end: Type.Number({
      exclusiveMinimum: 0,
      default: 0.0625,
      description: "Temperature τ after temperature_steps.",
    }),
    temperature_steps: Type.Integer({
      minimum: 1,
      default: 10_000,
      description: "Optimizer steps that the exponential fall of τ takes.",
    }),
    kl_weight: Type.Number({
      minimum: 0,
      default: 5e-4,
      description: "Weight of the divergence of the code distribution from the uniform one, nats.",
    }),
    entropy_weight: Type.Number({
      minimum: 0,
      default: 0,
      description:
        "Weight of the entropy penalty on softmax(l) (confident tokens, evenly used codes), which keeps a large codebook in use where training is short.",
    }),
  },
  { description: "Gumbel-softmax: codes drawn from a softmax (DALL-E's discrete VAE)." },
);

export type GumbelConfig = Static<typeof schema>;

/** Standard Gumbel numbers -log(-log u) of uniform ones. */
function gumbels(uniforms: tf.Tensor): tf.Tensor {
  return tf.neg(tf.log(tf.neg(tf.log(tf.clipByValue(uniforms, 1e-7, 1 - 1e-7)))));
}

/** Builds the quantizer: the map to logits and the codebook in `scope`. */
export function build(config: GumbelConfig, scope: Scope): Quantizer {
  const { size, width } = config;
  const toLogits =
    config.logits === "linear"
      ? dense(scope.child("logits"), { inputs: width, outputs: size })
      : undefined;
  const codebook = scope.param(
    "codebook",
    [size, width],
    uniform(Math.sqrt(3)), // variance 1: codes that the decoder can tell apart from the first step on
  ) as tf.Tensor2D;
  const ratio = Math.log(config.temperature_end / config.temperature);
  const factors = [size];

  const logitsOf = (z: tf.Tensor5D): tf.Tensor2D => {
    const rows = rowsOf(z); // [N, D]
    // The latent's own norm is the same for all codes and falls out of the softmax.
    return toLogits
      ? tf.mul(toLogits(rows), config.logit_scale)
      : tf.mul(scores(rows, codebook), -config.logit_scale / width); // [N, K]
  };
  const lookup = (ids: tf.Tensor5D): tf.Tensor5D =>
    tf.reshape(embedding(codebook, tf.reshape(ids, [-1])), [...gridOf(ids), width]);

  return {
    type: "gumbel",
    factors,
    latentWidth: width,
    width,
    preNorm: false,
    remedy:
      "take logits by distance to few channels (quantizer.logits=distance, width=8, logit_scale=8) with a small quantizer.entropy_weight (0.005), lower the learning rate, or let the temperature fall later (temperature_steps)",

    inputs: (grid, seed, step) => {
      const n = grid.reduce((a, b) => a * b, 1);
      const uniforms = new Random(seed, "gumbel/noise", step).uniforms(n * size);
      return { gumbel: float32([n, size], uniforms) };
    },

    assign(z) {
      const index = tf.argMax(logitsOf(z), 1);
      const ids = tf.reshape<tf.Rank.R5>(index, [...gridOf(z), 1]);
      return { ids, codes: lookup(ids) };
    },

    quantize(z, step, _training, noise) {
      const logits = logitsOf(z);
      const done = tf.minimum(tf.div(step, config.temperature_steps), 1);
      const temperature = tf.mul(tf.exp(tf.mul(done, ratio)), config.temperature);
      const drawn = noise?.["gumbel"] ? tf.add(logits, gumbels(noise["gumbel"])) : logits;
      const soft = tf.softmax(tf.div<tf.Tensor2D>(drawn, temperature)); // [N, K]
      const index = stopGradient(tf.argMax<tf.Tensor1D>(drawn, 1)); // [N]
      let weights: tf.Tensor2D = soft;
      if (config.hard) {
        const hot = tf.oneHot(index, size, 1, 0, "float32") as tf.Tensor2D;
        weights = tf.add(soft, stopGradient(tf.sub(hot, soft)));
      }
      const codes = tf.reshape<tf.Rank.R5>(tf.matMul(weights, codebook), [...gridOf(z), width]);
      const logProbabilities = tf.logSoftmax(logits) as tf.Tensor2D;
      const each = tf.sum(
        tf.mul(tf.exp(logProbabilities), tf.add(logProbabilities, Math.log(size))),
        1,
      );
      const kl = tf.mean<tf.Scalar>(each);
      const ids = tf.reshape<tf.Rank.R5>(index, [...gridOf(z), 1]);
      const metrics: { [name: string]: tf.Scalar } = {
        kl,
        temperature: temperature as tf.Scalar,
        ...usageMetrics(ids, factors),
      };
      let loss = tf.mul<tf.Scalar>(kl, config.kl_weight);
      if (config.entropy_weight > 0) {
        const entropies = assignmentEntropies(logits);
        Object.assign(metrics, entropies);
        const penalty = tf.sub(entropies.sample_entropy, entropies.batch_entropy);
        loss = tf.add(loss, tf.mul(penalty, config.entropy_weight));
      }
      return { codes, ids, loss, metrics };
    },

    lookup,
    indices: (codes) => nearestCodes(codes, codebook),
  };
}
