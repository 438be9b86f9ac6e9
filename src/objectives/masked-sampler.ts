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
import { bool, type HostTensors, int32 } from "../runtime/tensors.ts";
import { beforeInputs, beforeOf, type Conditions, taskLabels } from "./conditioning.ts";
import type { SampleOptions, TaskConditions } from "./objective.ts";
import {
  decide,
  decodingProperties,
  emptyCanvas,
  parallelDecoder,
  type Shown,
} from "./parallel-decoding.ts";
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

  /**
   * The canvas [B, N] as the network is shown it: with COMMIT an undecided token inside the condition is that of the
   * padded clip, but where `blind`.
   */
  function view(
    { ids, undecided }: Shown,
    blind: boolean,
    { inside, condition_ids: given }: { readonly [name: string]: tf.Tensor },
  ): Shown {
    if (!inside || blind) {
      return { ids, undecided };
    }
    const put = tf.expandDims(tf.logicalAnd(undecided, inside), 2);
    return {
      ids: tf.where(put, given!, ids) as tf.Tensor3D,
      undecided: tf.logicalAnd(undecided, tf.logicalNot(inside)) as tf.Tensor2D,
    };
  }

  const decode = parallelDecoder(
    device,
    "masked/decode",
    sampling,
    (shown, noise, scale, beside) => {
      const views = both
        ? [view(shown, false, beside), view(shown, true, beside)]
        : [view(shown, ignored, beside)];
      const logits = transformer.bidirectional(
        tf.concat(views.map(({ ids }) => ids)) as tf.Tensor3D, // [B or 2B, N, F]
        tf.concat(views.map(({ undecided }) => undecided)) as tf.Tensor2D,
        beside.labels as tf.Tensor1D,
        beforeOf(beside),
      );
      const uniforms = tf.unstack(noise) as tf.Tensor1D[];
      const draws = logits.map((each, f) => {
        return draw(both ? guide(each, scale!) : each, uniforms[f]!, sampling);
      });
      return {
        ids: draws.map(({ ids }) => ids),
        logProbs: tf.addN(draws.map(({ logProbs }) => logProbs)), // [B·N]
      };
    },
  );

  const sample = async (options: SampleOptions): Promise<Int32Array> => {
    const { seed, condition, onProgress } = options;
    const size = options.labels.length;
    checkCondition(condition, size, space);
    const given = taskConditions(options, conditions);
    const labels = given
      ? taskLabels(options.labels, given.tasks, conditions!.names)
      : options.labels;
    const canvas = emptyCanvas(size, space.grid, factors);
    const { undecided } = canvas;
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
    const committed = given !== undefined && conditions!.conditioning === "commit";
    const fixed: HostTensors = {
      labels: int32([copies * size], guidedLabels(labels, sampling, nullClass, conditional)),
      ...(given && doubled(conditions!, given, copies)),
      ...(committed && {
        inside: bool(
          [size, tokens],
          Array.from({ length: size * tokens }, (_, i) => inside(i)),
        ),
        condition_ids: int32([size, tokens, factors], given.ids),
      }),
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

    return decode(canvas, {
      seed,
      stream: "masked",
      steps: sampling.steps,
      beside: fixed,
      ...(both && { scales: (step) => guidanceScale(sampling, step + 1, sampling.steps) }),
      ...(onProgress && { onProgress }),
    });
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
