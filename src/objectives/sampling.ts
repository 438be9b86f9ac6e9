/**
 * @file What the samplers share: classifier-free guidance, and drawing ids from logits inside a
 * compiled function with noise that comes in as data.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import { type Static, Type } from "../config/schema.ts";
import { softmaxCrossEntropy } from "../runtime/ops.ts";

/** Config keys of a draw, for the `sampling` nodes of the objectives. */
export const drawProperties = {
  temperature: Type.Number({
    minimum: 0,
    default: 1,
    description: "Logits are divided by it before a token is drawn; 0 takes the likeliest.",
  }),
  top_k: Type.Integer({
    minimum: 0,
    default: 0,
    description: "Draw among the k likeliest ids of each sub-vocabulary only; 0 for all.",
  }),
  top_p: Type.Number({
    exclusiveMinimum: 0,
    maximum: 1,
    default: 1,
    description:
      "Draw among the fewest ids whose probabilities reach p only (nucleus sampling); 1 for all.",
  }),
  guidance: Type.Number({
    minimum: 0,
    default: 1,
    description:
      "Classifier-free guidance scale s: logits = unconditional + s * (conditional - unconditional). 1 is plain conditional sampling, 0 ignores the label; other values cost twice the time. MAGVIT's code counts s - 1.",
  }),
  guidance_schedule: Type.Union(
    [Type.Literal("constant"), Type.Literal("linear"), Type.Literal("power-cosine")],
    {
      default: "constant",
      description:
        "How the scale grows from 1 to s over the share p of steps done: at once, with p, or with (1 - cos(πp^a)) / 2 (MDT, MAGVIT-v2).",
    },
  ),
  guidance_power: Type.Number({
    exclusiveMinimum: 0,
    default: 4,
    description:
      "The power a of the schedule power-cosine; more keeps early steps unguided longer.",
  }),
};
const drawSchema = Type.Object(drawProperties);
export type DrawConfig = Static<typeof drawSchema>;

export type GuidanceConfig = Pick<DrawConfig, "guidance" | "guidance_schedule" | "guidance_power">;

/** Whether sampling needs logits with and without the condition. */
export function needsBoth(config: GuidanceConfig, conditional: boolean | number): boolean {
  const { guidance, guidance_schedule: schedule } = config;
  return Boolean(conditional) && guidance !== 1 && (guidance !== 0 || schedule !== "constant");
}

/** The guidance scale of step `step` (from 1) of `steps`. */
export function guidanceScale(config: GuidanceConfig, step: number, steps: number): number {
  const { guidance, guidance_schedule: schedule, guidance_power: power } = config;
  const progress = Math.min(1, step / steps);
  switch (schedule) {
    case "constant":
      return guidance;
    case "linear":
      return 1 + (guidance - 1) * progress;
    case "power-cosine":
      return 1 + ((guidance - 1) * (1 - Math.cos(Math.PI * progress ** power))) / 2;
  }
}

/**
 * Refuse guidance that the training did not prepare: without dropped conditions the unconditional
 * logits mean nothing.
 */
export function checkGuidance(config: GuidanceConfig, dropout: number): void {
  if (needsBoth(config, true) && dropout === 0) {
    throw new UserError(
      `objective.sampling.guidance is ${config.guidance}, but objective.label_dropout is 0: the network never learned to predict without a condition`,
      "train with label_dropout=0.1, or sample with guidance 1",
    );
  }
}

/**
 * The labels that the network is given: the samples' own, or "no class" where the guidance scale is
 * 0, followed by as many "no class" where both kinds of logits are needed.
 */
export function guidedLabels(
  labels: Int32Array,
  config: GuidanceConfig,
  nullClass: number,
  conditional: boolean | number = nullClass,
): Int32Array {
  const ignored = config.guidance === 0 && config.guidance_schedule === "constant";
  const own = labels.map((label) => (ignored ? nullClass : networkLabel(label, nullClass)));
  if (!needsBoth(config, conditional)) {
    return own;
  }
  const both = new Int32Array(2 * own.length).fill(nullClass);
  both.set(own);
  return both;
}

/** A label as the network knows it; -1, "has no label", is the null class. */
export function networkLabel(label: number, nullClass: number): number {
  if (label >= nullClass || label < -1) {
    // A space without classes takes any label for none: data sets may have labels it does not use.
    if (nullClass === 0) {
      return nullClass;
    }
    throw new RangeError(
      `label ${label} is not one of the ${nullClass} classes 0..${nullClass - 1}`,
    );
  }
  return label === -1 ? nullClass : label;
}

/**
 * Guided logits (Ho & Salimans 2022) of a doubled batch: the conditional half in front.
 * @param logits [2·M, V]
 * @returns [M, V]
 */
export function guide(logits: tf.Tensor2D, scale: number | tf.Tensor): tf.Tensor2D {
  const [conditional, unconditional] = tf.split(logits, 2, 0) as [tf.Tensor2D, tf.Tensor2D];
  return tf.add(unconditional, tf.mul(tf.sub(conditional, unconditional), scale));
}

/**
 * Draw one id a row by inverting the cumulative distribution at a uniform number: one number a row
 * instead of the V that Gumbel noise would take across the boundary to the device.
 * @param logits [M, V]
 * @param uniforms [M] float32 in [0, 1)
 * @returns ids [M] int32 and log p [M] of the drawn ids under softmax(logits), that is before
 * temperature and truncation
 */
export function draw(
  logits: tf.Tensor2D,
  uniforms: tf.Tensor1D,
  config: Pick<DrawConfig, "temperature" | "top_k" | "top_p">,
): { ids: tf.Tensor1D; logProbs: tf.Tensor1D } {
  const ids = config.temperature === 0 ? greedy(logits) : drawIds(logits, uniforms, config);
  return { ids, logProbs: tf.neg(softmaxCrossEntropy(logits, ids)) };
}

function greedy(logits: tf.Tensor2D): tf.Tensor1D {
  return tf.cast(tf.argMax(logits, 1), "int32");
}

function drawIds(
  logits: tf.Tensor2D,
  uniforms: tf.Tensor1D,
  { temperature, top_k, top_p }: Pick<DrawConfig, "temperature" | "top_k" | "top_p">,
): tf.Tensor1D {
  const vocabulary = logits.shape[1];
  let probs = tf.softmax(tf.mul(logits, 1 / temperature)) as tf.Tensor2D; // [M, V]
  if (top_k > 0 && top_k < vocabulary) {
    const { values } = tf.topk(probs, top_k); // [M, k], falling
    probs = keepFrom(probs, tf.slice(values, [0, top_k - 1], [-1, 1]));
  }
  if (top_p < 1) {
    const { values } = tf.topk(probs, vocabulary);
    const total = tf.sum(values, 1, true); // [M, 1], below 1 after top-k
    const before = tf.cumsum(values, 1, true); // what is likelier than each
    const inside = tf.less(before, tf.mul(total, top_p));
    const least = tf.min(tf.where(inside, values, tf.onesLike(values)), 1, true); // [M, 1]
    probs = keepFrom(probs, least as tf.Tensor2D);
  }
  const cumulative = tf.cumsum(probs, 1); // [M, V]
  const total = tf.slice(cumulative, [0, vocabulary - 1], [-1, 1]); // [M, 1], 1 but for rounding
  const level = tf.mul(total, tf.expandDims(uniforms, 1)); // [M, 1], below the total
  // The first id whose cumulative probability exceeds the level has a probability above 0.
  // It is there: a float32 times at most 1 - 2^-24 rounds to less than itself.
  return tf.sum(tf.cast(tf.lessEqual(cumulative, level), "int32"), 1) as tf.Tensor1D; // [M]
}

/** Probabilities below the row's threshold become 0; ties with it stay. */
function keepFrom(probs: tf.Tensor2D, threshold: tf.Tensor): tf.Tensor2D {
  return tf.mul(probs, tf.cast(tf.greaterEqual(probs, threshold), "float32"));
}
