/**
 * @file Sampling token after token, with the keys and values of earlier tokens kept on the device
 * (Shazeer 2019, §2.3) or computed anew each time. Both give the same tokens; the cache makes a step
 * cost one place instead of N.
 *
 * Given tokens are put in as their turn comes: a token is drawn in view of what precedes it, never
 * of given tokens further on.
 */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, Type } from "../config/schema.ts";
import type { Transformer } from "../models/transformer.ts";
import type { Compiled, Device } from "../runtime/device.ts";
import { Random } from "../runtime/random.ts";
import { float32, type HostTensors, int32 } from "../runtime/tensors.ts";
import type { SampleOptions } from "./objective.ts";
import { draw, drawProperties, guidanceScale, guide, guidedLabels, needsBoth } from "./sampling.ts";
import { checkCondition } from "./tokens.ts";

export const causalSamplingSchema = closed(
  {
    cache: Type.Boolean({
      default: true,
      description: "Keep keys and values of earlier tokens; false computes them anew each step.",
    }),
    ...drawProperties,
  },
  { description: "How new sequences are made." },
);
export type CausalSampling = Static<typeof causalSamplingSchema>;

/** The sampler of `Objective.sampler`: B·N·F sub-ids, row-major. */
export function buildCausalSampler(
  device: Device,
  transformer: Transformer,
  sampling: CausalSampling,
): (options: SampleOptions) => Promise<Int32Array> {
  const { tokens, nullClass, space } = transformer;
  const factors = space.factors.length;
  const both = needsBoth(sampling, nullClass);
  const copies = both ? 2 : 1;
  const step = sampling.cache ? cachedStep : fullStep;

  /** Guide and draw: logits for each factor [B or 2B, V], noise [F, B] to ids [F, B]. */
  function drawAll(
    logits: tf.Tensor2D[],
    inputs: { readonly [name: string]: tf.Tensor },
  ): { ids: tf.Tensor } {
    const uniforms = tf.unstack(inputs.noise!) as tf.Tensor1D[];
    const drawn = logits.map((each, f) => {
      return draw(both ? guide(each, inputs.scale!) : each, uniforms[f]!, sampling).ids;
    });
    return { ids: tf.stack(drawn) };
  }

  /** One place by the cache. The variables belong to one batch size, so the function does too. */
  function cachedStep(size: number): Compiled {
    device.activate();
    const cache = transformer.buildCache(copies * size);
    return device.compile(`causal/step/${size}`, (inputs) => {
      const previous = tf.tile(inputs.previous as tf.Tensor2D, [copies, 1]); // [B or 2B, F]
      const position = inputs.position as tf.Tensor1D;
      const labels = inputs.labels as tf.Tensor1D;
      return drawAll(transformer.causalStep(previous, labels, position, cache), inputs);
    });
  }

  /** One place by the whole sequence: all logits, of which those at `position` are used. */
  function fullStep(size: number): Compiled {
    return device.compile(`causal/full/${size}`, (inputs) => {
      const ids = tf.tile(inputs.ids as tf.Tensor3D, [copies, 1, 1]); // [B or 2B, N, F]
      const logits = transformer.causal(ids, inputs.labels as tf.Tensor1D).map((each, f) => {
        const rows = tf.reshape(each, [copies * size, tokens, space.factors[f]!]);
        return tf.squeeze(tf.gather(rows, inputs.position as tf.Tensor1D, 1), [1]) as tf.Tensor2D;
      });
      return drawAll(logits, inputs);
    });
  }

  const steps = new Map<number, Compiled>();
  return async ({ labels, seed, condition, onProgress }) => {
    checkCondition(condition, labels.length, space);
    const size = labels.length;
    const compiled = steps.get(size) ?? step(size);
    steps.set(size, compiled);
    const ids = new Int32Array(size * tokens * factors);
    // Drawn sample after sample: a sample's numbers do not depend on how many others are made.
    const uniforms = new Random(seed, "causal/draw").uniforms(size * tokens * factors);
    const networkLabels = int32([copies * size], guidedLabels(labels, sampling, nullClass));
    const index = (b: number, n: number, f: number) => (b * tokens + n) * factors + f;

    for (let n = 0; n < tokens; n++) {
      const noise = new Float32Array(factors * size);
      const previous = new Int32Array(size * factors);
      for (let b = 0; b < size; b++) {
        for (let f = 0; f < factors; f++) {
          noise[f * size + b] = uniforms[index(b, n, f)]!;
          previous[b * factors + f] = n === 0 ? 0 : ids[index(b, n - 1, f)]!;
        }
      }
      const seen: HostTensors = sampling.cache
        ? { previous: int32([size, factors], previous) }
        : { ids: int32([size, tokens, factors], ids) };
      const drawn = await compiled({
        ...seen,
        labels: networkLabels,
        position: int32([1], [n]),
        noise: float32([factors, size], noise),
        ...(both && { scale: float32([], [guidanceScale(sampling, n + 1, tokens)]) }),
      });
      for (let b = 0; b < size; b++) {
        const given = condition?.known[b * tokens + n] ? condition.ids : undefined;
        for (let f = 0; f < factors; f++) {
          const at = index(b, n, f);
          ids[at] = given ? given[at]! : drawn.ids!.data[f * size + b]!;
        }
      }
      onProgress?.(n + 1, tokens);
    }
    return ids;
  };
}
