/**
 * @file Sampling token after token, with the keys and values of earlier tokens kept on the device
 * (Shazeer 2019, §2.3) or computed anew each time. Both give the same tokens; the cache makes a step
 * cost one place instead of N.
 *
 * Given tokens are put in as their turn comes: a token is drawn in view of what precedes it, never
 * of given tokens further on. Drawing and putting in happen on the device, many places a call where it
 * has loops.
 */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, Type } from "../config/schema.ts";
import {
  cacheValues,
  keepCache,
  packCache,
  type Transformer,
  unpackCache,
} from "../models/transformer.ts";
import type { Compiled, Device } from "../runtime/device.ts";
import { Random } from "../runtime/random.ts";
import { scan } from "../runtime/scan.ts";
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

/** Places that one call makes at most where the device has loops: between calls progress is told. */
const MOST_PLACES = 256;

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
  const calls = device.loops ? Math.ceil(tokens / MOST_PLACES) : tokens;
  const places = Math.ceil(tokens / calls);

  /** Guide and draw: logits for each factor [B or 2B, V], noise [F, B] to ids [B, F]. */
  function drawAll(logits: tf.Tensor2D[], noise: tf.Tensor, scale?: tf.Tensor): tf.Tensor2D {
    const uniforms = tf.unstack(noise) as tf.Tensor1D[];
    const drawn = logits.map((each, f) => {
      return draw(both ? guide(each, scale!) : each, uniforms[f]!, sampling).ids;
    });
    return tf.stack(drawn, 1) as tf.Tensor2D;
  }

  /** The ids [B, F] of a place: those given, where there are some, else those drawn. */
  function decided(drawn: tf.Tensor2D, known: tf.Tensor, given: tf.Tensor): tf.Tensor2D {
    return tf.where(tf.equal(tf.expandDims(known, 1), 1), given, drawn) as tf.Tensor2D;
  }

  /**
   * Some places by the cache. The variables belong to one batch size, so the function does too.
   * Inputs: previous [B, F], first [1], labels [B or 2B]; a place each: noise [n, F, B], known [n, B],
   * given [n, B, F], scale [n].
   */
  function cachedPlaces(size: number): Compiled {
    device.activate();
    const cache = transformer.buildCache(copies * size);
    return device.compile(`causal/places/${size}`, (inputs) => {
      const { noise, known, given, scale } = inputs;
      const made = scan(
        noise!.shape[0]!,
        {
          carry: { previous: inputs.previous!, ...packCache(cacheValues(cache)) },
          slices: { noise: noise!, known: known!, given: given!, ...(scale && { scale }) },
        },
        (index, { previous, ...entries }, turn) => {
          const shown = tf.tile(previous as tf.Tensor2D, [copies, 1]); // [B or 2B, F]
          const position = tf.add(index, inputs.first!) as tf.Tensor1D;
          const labels = inputs.labels as tf.Tensor1D;
          const step = transformer.causalStep(shown, labels, position, unpackCache(entries));
          const drawn = drawAll(step.logits, turn.noise!, turn.scale);
          const ids = decided(drawn, turn.known!, turn.given!);
          return { carry: { previous: ids, ...packCache(step.cache) }, outputs: { ids } };
        },
      );
      const { previous: _, ...entries } = made.carry;
      keepCache(cache, unpackCache(entries));
      return { ids: made.outputs.ids! }; // [n, B, F]
    });
  }

  /** Some places by the whole sequence: all logits, of which those at a place are used. */
  function fullPlaces(size: number): Compiled {
    const numbers = Int32Array.from({ length: tokens }, (_, n) => n);
    return device.compile(`causal/full/${size}`, (inputs) => {
      const { noise, known, given, scale } = inputs;
      const made = scan(
        noise!.shape[0]!,
        {
          carry: { ids: inputs.ids! },
          slices: { noise: noise!, known: known!, given: given!, ...(scale && { scale }) },
        },
        (index, { ids }, turn) => {
          const position = tf.add(index, inputs.first!) as tf.Tensor1D;
          const shown = tf.tile(ids as tf.Tensor3D, [copies, 1, 1]); // [B or 2B, N, F]
          const all = transformer.causal(shown, inputs.labels as tf.Tensor1D);
          const logits = all.map((each, f) => {
            const rowsOf = tf.reshape(each, [copies * size, tokens, space.factors[f]!]);
            return tf.squeeze(tf.gather(rowsOf, position, 1), [1]) as tf.Tensor2D;
          });
          const own = decided(drawAll(logits, turn.noise!, turn.scale), turn.known!, turn.given!);
          const here = tf.equal(tf.tensor3d(numbers, [1, tokens, 1], "int32"), position); // [1, N, 1]
          const put = tf.where(here, tf.expandDims(own, 1), ids!); // [B, N, F]
          return { carry: { ids: put }, outputs: { ids: own } };
        },
      );
      return { ids: made.outputs.ids! }; // [n, B, F]
    });
  }

  const functions = new Map<number, Compiled>();
  return async ({ labels, seed, condition, onProgress }) => {
    checkCondition(condition, labels.length, space);
    const size = labels.length;
    const compiled =
      functions.get(size) ?? (sampling.cache ? cachedPlaces(size) : fullPlaces(size));
    functions.set(size, compiled);
    const ids = new Int32Array(size * tokens * factors);
    // Drawn sample after sample: a sample's numbers do not depend on how many others are made.
    const uniforms = new Random(seed, "causal/draw").uniforms(size * tokens * factors);
    const networkLabels = int32([copies * size], guidedLabels(labels, sampling, nullClass));
    const index = (b: number, n: number, f: number) => (b * tokens + n) * factors + f;

    for (let first = 0; first < tokens; first += places) {
      const count = Math.min(places, tokens - first);
      const noise = new Float32Array(count * factors * size);
      const known = new Int32Array(count * size);
      const given = new Int32Array(count * size * factors);
      const scales = new Float32Array(count);
      const previous = new Int32Array(size * factors);
      for (let b = 0; b < size; b++) {
        for (let n = 0; n < count; n++) {
          known[n * size + b] = Number(condition?.known[b * tokens + first + n] ?? 0);
          for (let f = 0; f < factors; f++) {
            noise[(n * factors + f) * size + b] = uniforms[index(b, first + n, f)]!;
            given[(n * size + b) * factors + f] = condition?.ids[index(b, first + n, f)] ?? 0;
          }
        }
        for (let f = 0; f < factors; f++) {
          previous[b * factors + f] = first === 0 ? 0 : ids[index(b, first - 1, f)]!;
        }
      }
      for (let n = 0; n < count; n++) {
        scales[n] = guidanceScale(sampling, first + n + 1, tokens);
      }
      const seen: HostTensors = sampling.cache
        ? { previous: int32([size, factors], previous) }
        : { ids: int32([size, tokens, factors], ids) };
      const made = await compiled({
        ...seen,
        labels: networkLabels,
        first: int32([1], [first]),
        noise: float32([count, factors, size], noise),
        known: int32([count, size], known),
        given: int32([count, size, factors], given),
        ...(both && { scale: float32([count], scales) }),
      });
      const drawn = made.ids!.data as Int32Array;
      for (let n = 0; n < count; n++) {
        for (let b = 0; b < size; b++) {
          const from = (n * size + b) * factors;
          ids.set(drawn.subarray(from, from + factors), index(b, first + n, 0));
        }
      }
      onProgress?.(first + count, tokens);
    }
    return ids;
  };
}
