/**
 * @file Parallel decoding of masked tokens (MaskGIT, Chang et al. 2022, §3.2), with MAGVIT's
 * conditions (Yu et al. 2023, alg. 1).
 *
 * All tokens start undecided but the given ones; parallel-decoding.ts has the loop.
 * Confidence is log p of the drawn id (under the guided logits, before temperature), plus Gumbel
 * noise times a choice temperature that falls linearly to 0. The network, the guidance and the draw
 * run on the device.
 *
 * With COMMIT an undecided token inside the condition is shown to the network as the token of the
 * padded clip, any other as [MASK]; the unconditional half of guidance sees [MASK] for both. With
 * latent masking the tokens inside the condition are given, with a prefix they stand in front.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import { closed, type Static } from "../config/schema.ts";
import type { Transformer } from "../models/transformer.ts";
import type { Device } from "../runtime/device.ts";
import { bool, float32, type HostTensors, int32 } from "../runtime/tensors.ts";
import { beforeInputs, beforeOf, type Conditions, taskLabels } from "./conditioning.ts";
import type { SampleOptions, TaskConditions } from "./objective.ts";
import { decide, decodeInParallel, decodingProperties, emptyCanvas } from "./parallel-decoding.ts";
import { draw, drawProperties, guidanceScale, guide, guidedLabels, needsBoth } from "./sampling.ts";
import { checkCondition, checkTaskConditions } from "./tokens.ts";

export const maskedSamplingSchema = closed(
  {
    ...decodingProperties,
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
  conditions?: Conditions,
): (options: SampleOptions) => Promise<Int32Array> {
  const { tokens, nullClass, space } = transformer;
  const factors = space.factors.length;
  const conditional =
    nullClass > 0 || (conditions?.conditioning ?? "latent-masking") !== "latent-masking";
  const both = needsBoth(sampling, conditional);
  const ignored = sampling.guidance === 0 && sampling.guidance_schedule === "constant";

  /** ids [B or 2B, N, F], masked [B or 2B, N], labels, noise [F, B·N]: drawn ids and their log p. */
  const predict = device.compile("masked/predict", (inputs) => {
    const logits = transformer.bidirectional(
      inputs.ids as tf.Tensor3D,
      inputs.masked as tf.Tensor2D,
      inputs.labels as tf.Tensor1D,
      beforeOf(inputs),
    );
    const noise = tf.unstack(inputs.noise!) as tf.Tensor1D[];
    const draws = logits.map((each, f) => {
      return draw(both ? guide(each, inputs.scale!) : each, noise[f]!, sampling);
    });
    return {
      ids: tf.stack(draws.map((each) => each.ids)), // [F, B·N]
      log_probs: tf.addN(draws.map((each) => each.logProbs)), // [B·N]
    };
  });

  const sample = async (options: SampleOptions): Promise<Int32Array> => {
    const { seed, condition, onProgress } = options;
    const size = options.labels.length;
    checkCondition(condition, size, space);
    const given = taskConditions(options, conditions);
    const labels = given
      ? taskLabels(options.labels, given.tasks, conditions!.names)
      : options.labels;
    const canvas = emptyCanvas(size, space.grid, factors);
    const { ids, undecided } = canvas;
    const inside = (i: number): boolean =>
      given !== undefined &&
      conditions!.inside[given.tasks[Math.floor(i / tokens)]!]![i % tokens] === 1;
    for (let i = 0; i < undecided.length; i++) {
      if (condition?.known[i]) {
        decide(canvas, i, condition.ids);
      } else if (conditions?.conditioning === "latent-masking" && inside(i)) {
        decide(canvas, i, given!.ids);
      }
    }
    const copies = both ? 2 : 1;
    const fixed: HostTensors = {
      labels: int32([copies * size], guidedLabels(labels, sampling, nullClass, conditional)),
      ...(given && doubled(conditions!, given, copies)),
    };

    /** What the network is shown: one row a sample, without its condition where `blind`. */
    const view = (blind: boolean): { seen: Int32Array; masked: Uint8Array } => {
      const seen = ids.slice();
      const masked = undecided.slice();
      if (conditions?.conditioning === "commit" && !blind) {
        for (let i = 0; i < masked.length; i++) {
          if (undecided[i] && inside(i)) {
            masked[i] = 0;
            seen.set(given!.ids.subarray(i * factors, (i + 1) * factors), i * factors);
          }
        }
      }
      return { seen, masked };
    };
    /** Prompts and prefix; the second copy is the unconditional one. */
    function doubled(layout: Conditions, shown: TaskConditions, times: number): HostTensors {
      const tasks = new Int32Array(times * size);
      const tokenIds = new Int32Array(times * shown.ids.length);
      for (let copy = 0; copy < times; copy++) {
        tasks.set(shown.tasks, copy * size);
        tokenIds.set(shown.ids, copy * shown.ids.length);
      }
      return beforeInputs(layout, { tasks, ids: tokenIds }, space, (b) => ignored || b >= size);
    }

    return decodeInParallel(
      canvas,
      sampling,
      { seed, stream: "masked" },
      (step, noise) => {
        const views = both ? [view(false), view(true)] : [view(ignored)];
        return predict({
          ids: int32([copies * size, tokens, factors], join(views.map(({ seen }) => seen))),
          masked: bool([copies * size, tokens], join(views.map(({ masked }) => masked))),
          ...fixed,
          noise,
          ...(both && { scale: float32([], [guidanceScale(sampling, step + 1, sampling.steps)]) }),
        });
      },
      onProgress,
    );
  };

  return conditions?.conditioning === "prefix" ? byTask(sample, tokens * factors) : sample;

  /** The conditions of a request, checked. */
  function taskConditions(
    { conditions: given, labels }: SampleOptions,
    layout: Conditions | undefined,
  ): TaskConditions | undefined {
    if (layout === undefined) {
      if (given !== undefined) {
        throw new UserError(
          "this transformer was trained without conditional tasks",
          "sample by class, or train with objective.tasks",
        );
      }
      return undefined;
    }
    if (given === undefined) {
      const only = layout.names.indexOf("CG");
      if (only < 0) {
        throw new UserError(
          `this transformer needs a task and its condition: it was trained on ${layout.names.join(", ")}`,
          "name one of them; only a model trained on CG can sample from a class alone",
        );
      }
      return {
        tasks: new Int32Array(labels.length).fill(only),
        ids: new Int32Array(labels.length * tokens * factors),
      };
    }
    checkTaskConditions(given, labels.length, layout.names, layout.inside, space);
    return given;
  }
}

/** Prefixes of one length at a time: the samples of each task are made together. */
function byTask(
  sample: (options: SampleOptions) => Promise<Int32Array>,
  length: number,
): (options: SampleOptions) => Promise<Int32Array> {
  return async (options) => {
    const { conditions, condition, labels } = options;
    const tasks = [...new Set(conditions?.tasks ?? [])];
    if (tasks.length < 2) {
      return sample(options);
    }
    const ids = new Int32Array(labels.length * length);
    for (const task of tasks) {
      const rows = [...labels.keys()].filter((b) => conditions!.tasks[b] === task);
      const pick = <T extends Int32Array | Uint8Array>(values: T): T => {
        const width = values.length / labels.length;
        return values.filter((_, i) => rows.includes(Math.floor(i / width))) as T;
      };
      const made = await sample({
        ...options,
        labels: pick(labels),
        conditions: { tasks: pick(conditions!.tasks), ids: pick(conditions!.ids) },
        ...(condition && { condition: { ids: pick(condition.ids), known: pick(condition.known) } }),
      });
      for (const [i, row] of rows.entries()) {
        ids.set(made.subarray(i * length, (i + 1) * length), row * length);
      }
    }
    return ids;
  };
}

function join<T extends Int32Array | Uint8Array>(rows: readonly T[]): T {
  if (rows.length === 1) {
    return rows[0]!;
  }
  const [first, second] = rows as [T, T];
  const all =
    first instanceof Int32Array
      ? new Int32Array(2 * first.length)
      : new Uint8Array(2 * first.length);
  all.set(first);
  all.set(second, first.length);
  return all as T;
}
