/**
 * @file Parallel decoding of masked tokens (MaskGIT, Chang et al. 2022, §3.2; MAGVIT, Yu et al.
 * 2023, alg. 1 without conditions).
 *
 * All tokens start hidden but the given ones. A step predicts all hidden tokens, draws an id for
 * each, and keeps the most confident as many as the schedule says; the rest is hidden again.
 * Confidence is log p of the drawn id (under the guided logits, before temperature), plus Gumbel
 * noise times a choice temperature that falls linearly to 0. The network, the guidance and the draw
 * run on the device; what is kept is decided on the host in float64.
 */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, Type } from "../config/schema.ts";
import type { Transformer } from "../models/transformer.ts";
import type { Device } from "../runtime/device.ts";
import { Random } from "../runtime/random.ts";
import { bool, float32, int32 } from "../runtime/tensors.ts";
import { decodingCounts, maskScheduleSchema } from "./mask-schedule.ts";
import type { SampleOptions } from "./objective.ts";
import { draw, drawProperties, guide, guidedLabels, needsBoth } from "./sampling.ts";
import { checkCondition } from "./tokens.ts";

export const maskedSamplingSchema = closed(
  {
    steps: Type.Integer({ minimum: 1, default: 12, description: "Decoding steps K." }),
    schedule: maskScheduleSchema("γ, from the share of steps done to the share still hidden."),
    choice_temperature: Type.Number({
      minimum: 0,
      default: 4.5,
      description:
        "Gumbel noise on the confidence, times (1 - k/K) in step k of K; more makes samples more varied.",
    }),
    ...drawProperties,
  },
  { description: "How new sequences are made." },
);
export type MaskedSampling = Static<typeof maskedSamplingSchema>;

/** The sampler of `Objective.sampler`: B·N·F sub-ids, row-major. */
export function buildMaskedSampler(
  device: Device,
  transformer: Transformer,
  sampling: MaskedSampling,
): (options: SampleOptions) => Promise<Int32Array> {
  const { tokens, nullClass, space } = transformer;
  const factors = space.factors.length;
  const both = needsBoth(sampling, nullClass);

  /** ids [B, N, F], masked [B, N], labels [B or 2B], noise [F, B·N]: drawn ids and their log p. */
  const predict = device.compile("masked/predict", (inputs) => {
    const copies = both ? 2 : 1;
    const ids = tf.tile(inputs.ids as tf.Tensor3D, [copies, 1, 1]);
    const masked = tf.tile(inputs.masked as tf.Tensor2D, [copies, 1]);
    const logits = transformer.bidirectional(ids, masked, inputs.labels as tf.Tensor1D);
    const noise = tf.unstack(inputs.noise!) as tf.Tensor1D[];
    const draws = logits.map((each, f) => {
      return draw(both ? guide(each, sampling.guidance) : each, noise[f]!, sampling);
    });
    return {
      ids: tf.stack(draws.map((each) => each.ids)), // [F, B·N]
      log_probs: tf.addN(draws.map((each) => each.logProbs)), // [B·N]
    };
  });

  return async ({ labels, seed, condition, onProgress }) => {
    checkCondition(condition, labels.length, space);
    const size = labels.length;
    const ids = new Int32Array(size * tokens * factors);
    const masked = new Uint8Array(size * tokens).fill(1);
    if (condition) {
      for (const [i, known] of condition.known.entries()) {
        if (known) {
          masked[i] = 0;
          ids.set(condition.ids.subarray(i * factors, (i + 1) * factors), i * factors);
        }
      }
    }
    const counts = Array.from({ length: size }, (_, b) => {
      const unknown = masked.subarray(b * tokens, (b + 1) * tokens).filter(Boolean).length;
      return decodingCounts(sampling.schedule, unknown, sampling.steps);
    });
    const steps = Math.max(0, ...counts.map((each) => each.length));
    for (let step = 0; step < steps; step++) {
      // Noise is keyed by (seed, step) and drawn sample after sample: a sample's numbers do not
      // depend on how many others are made with it.
      const uniforms = new Random(seed, "masked/draw", step).uniforms(size * tokens * factors);
      const noise = uniforms.map((_, i) => {
        const place = i % (size * tokens); // [B·N, F] as drawn to [F, B·N] as used
        return uniforms[place * factors + Math.floor(i / (size * tokens))]!;
      });
      const drawn = await predict({
        ids: int32([size, tokens, factors], ids),
        masked: bool([size, tokens], masked),
        labels: int32([both ? 2 * size : size], guidedLabels(labels, sampling, nullClass)),
        noise: float32([factors, size * tokens], noise),
      });
      const choice = new Random(seed, "masked/choice", step);
      const amount = sampling.choice_temperature * (1 - Math.min(1, (step + 1) / sampling.steps));
      for (let b = 0; b < size; b++) {
        const confidence = Array.from({ length: tokens }, (_, n) => {
          const gumbel = -Math.log(-Math.log((choice.uint32() + 0.5) / 0x100000000));
          return drawn.log_probs!.data[b * tokens + n]! + amount * gumbel;
        });
        for (const n of mostConfident(confidence, masked, b * tokens, counts[b]![step] ?? 0)) {
          const at = b * tokens + n;
          masked[at] = 0;
          for (let f = 0; f < factors; f++) {
            ids[at * factors + f] = drawn.ids!.data[f * size * tokens + at]!;
          }
        }
      }
      onProgress?.(step + 1, steps);
    }
    return ids;
  };
}

/** The `count` hidden places of a row with the highest confidence; ties go to the earlier one. */
function mostConfident(
  confidence: readonly number[],
  masked: Uint8Array,
  offset: number,
  count: number,
): number[] {
  return [...confidence.keys()]
    .filter((n) => masked[offset + n] === 1)
    .toSorted((a, b) => confidence[b]! - confidence[a]! || a - b)
    .slice(0, count);
}
