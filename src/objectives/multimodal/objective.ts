/**
 * @file One decoder-only language model over text, visual and audio tokens (VideoPoet, Kondratyuk et
 * al. 2024): every task is a sequence whose prefix is given and whose rest is made (layouts.ts).
 *
 * Training alternates between groups of tasks whose sequences have one length (alternating gradient
 * descent, §3.3): a step draws a group by weight, then a task for each sample, so next to nothing is
 * padding. A curriculum may begin with images: their share of steps falls after the first part.
 *
 * The loss is the cross entropy of the outputs, in nats a token, the mean over all outputs of the
 * batch. Guidance hides the text.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../../config/errors.ts";
import { buildPrefixLm, firstPlaces } from "../../models/prefix-lm.ts";
import type { Scope } from "../../models/scope.ts";
import { tokenCount, type TransformerConfig } from "../../models/transformer.ts";
import type { Device } from "../../runtime/device.ts";
import { softmaxCrossEntropy } from "../../runtime/ops.ts";
import { Random } from "../../runtime/random.ts";
import { float32, type HostTensors, int32 } from "../../runtime/tensors.ts";
import type { Objective, TaskMixture, TokenBatch, TokenSpace } from "../objective.ts";
import { checkGuidance } from "../sampling.ts";
import { weightedMean } from "../tokens.ts";
import { type MultimodalConfig, usesAudio, usesText } from "./config.ts";
import {
  fillLayout,
  groupByLength,
  type Layout,
  layTask,
  type Material,
  paddingShares,
  type Sizes,
  taskParts,
  vectorRows,
} from "./layouts.ts";
import { buildGenerator, type GenerateOptions, type Generated } from "./sampler.ts";
import { vectorInputs } from "./vectors.ts";
import { layVocabulary, type Vocabulary } from "./vocabulary.ts";

/** A built multi-modal objective. */
export interface MultimodalObjective extends Objective {
  readonly type: "multimodal";
  readonly tasks: TaskMixture;
  readonly layouts: readonly Layout[];
  readonly sizes: Sizes;
  readonly vocabulary: Vocabulary;
  /** How often each task is drawn, relative to the others. */
  readonly weights: readonly number[];
  /** Shares of padding: as trained, and if all tasks were padded to one length. */
  readonly padding: { readonly grouped: number; readonly single: number };
  /** Make outputs of a task. */
  generator(device: Device): (options: GenerateOptions) => Promise<Generated>;
}

/** Whether an objective is a multi-modal one. */
export function isMultimodal(objective: Objective): objective is MultimodalObjective {
  return objective.type === "multimodal";
}

/** The sizes of a config's sequences over a space. */
export function multimodalSizes(config: MultimodalConfig, space: TokenSpace): Sizes {
  const [t, h, w] = space.grid;
  const frames = space.audio?.frames ?? 0;
  return {
    video: tokenCount(space),
    image: h * w,
    prefixFrames: config.prefix_frames,
    audioFrames: frames,
    audioLevels: space.audio?.levels ?? 0,
    // The sound of the given frames, which last this share of the clip.
    audioPrefix: Math.max(1, Math.floor((frames * config.prefix_frames) / t)),
    audioOrder: config.audio_order,
    text: config.text_length,
    imageEnds: config.image_ends,
  };
}

/** Build the language model and its objective in `scope`. */
export function buildMultimodal(
  config: MultimodalConfig,
  model: TransformerConfig,
  space: TokenSpace,
  scope: Scope,
): MultimodalObjective {
  const names = config.tasks.map(({ task }) => task);
  checkSpace(config, space);
  const sizes = multimodalSizes(config, space);
  const { audioFrames, audioLevels } = sizes;
  const vocabulary = layVocabulary(
    space.factors.reduce((product, size) => product * size, 1),
    audioLevels * (space.audio?.codes ?? 0),
    space.text?.size ?? 0,
  );
  const places = {
    text: config.text_length,
    grid: space.grid,
    audio: [audioFrames, audioLevels],
    textWidth: space.text?.vectors?.width ?? 0,
  } as const;
  const first = firstPlaces(places);
  const layouts = names.map((task) => layTask(task, sizes));
  const groups = groupByLength(layouts, config.group_tolerance);
  const weights = config.tasks.map(({ weight }) => weight);
  const lm = buildPrefixLm(model, vocabulary.size, places, scope.child("transformer"));

  const slotPlaces = layouts.map(({ slots }) =>
    Int32Array.from(slots, (slot) => (slot.kind === "special" ? 0 : first[slot.kind] + slot.index)),
  );

  /** Weights under the curriculum: image tasks together get `share` of all steps. */
  function weightsAt(step: number): readonly number[] {
    if (config.image_steps === 0) {
      return weights;
    }
    const share = step < config.image_steps ? config.image_share : 1 - config.image_share;
    const isImage = names.map((task) => taskParts[task].output === "image");
    const sum = (image: boolean) =>
      weights.reduce((total, weight, i) => total + (isImage[i] === image ? weight : 0), 0);
    if (sum(true) === 0 || sum(false) === 0) {
      return weights;
    }
    return weights.map((weight, i) =>
      isImage[i] ? (weight / sum(true)) * share : (weight / sum(false)) * (1 - share),
    );
  }

  const tasks: TaskMixture = {
    names,
    conditionFrames: 1,
    variants: names.map((task) => taskParts[task].variant),
    draw(size, seed, step, training) {
      const random = new Random(seed, `multimodal/tasks/${training ? "train" : "held"}`, step);
      const now = weightsAt(training ? step : Number.POSITIVE_INFINITY);
      const total = (group: (typeof groups)[number]) =>
        group.tasks.reduce((sum, task) => sum + now[task]!, 0);
      const group = groups[pick(groups.map(total), random)]!;
      const inGroup = group.tasks.map((task) => now[task]!);
      return Int32Array.from({ length: size }, () => group.tasks[pick(inGroup, random)]!);
    },
  };

  const materialOf = (batch: TokenBatch, b: number, hideText: boolean): Material => {
    const row = (all: Int32Array | undefined): Int32Array | undefined => {
      const width = (all?.length ?? 0) / batch.size;
      return all?.subarray(b * width, (b + 1) * width);
    };
    const [video, variant] = [row(batch.ids), row(batch.conditions?.ids)];
    const [audio, text] = [row(batch.audio), hideText ? undefined : row(batch.texts)];
    return {
      ...(video && { video }),
      ...(variant && { variant }),
      ...(audio && { audio }),
      ...(text && { text }),
    };
  };

  return {
    type: config.type,
    scope,
    space,
    tasks,
    textLength: config.text_length,
    layouts,
    sizes,
    vocabulary,
    weights,
    padding: paddingShares(layouts, groups, weights),

    inputs(batch, seed, step, training): HostTensors {
      const chosen = batch.conditions?.tasks;
      if (chosen === undefined) {
        throw new RangeError("a batch of a multi-modal objective needs its tasks");
      }
      const group = groups.find((one) => one.tasks.includes(chosen[0]!))!;
      if (chosen.some((task) => !group.tasks.includes(task))) {
        throw new RangeError("the samples of a batch must have tasks of one length group");
      }
      const { size } = batch;
      const length = group.length - 1;
      const count = group.length - group.prefix;
      const ids = new Int32Array(size * length);
      const at = new Int32Array(size * length);
      const roles = new Int32Array(size * length);
      const targets = new Int32Array(size * count);
      const counted = new Float32Array(size * count);
      const sound = new Float32Array(size * count);
      const prefix = new Int32Array(size);
      const vectors = space.text?.vectors;
      const rows = new Int32Array(size * length);
      const random = new Random(seed, "multimodal/text", step);
      for (let b = 0; b < size; b++) {
        const hide = random.uniform() < config.label_dropout && training;
        const task = chosen[b]!;
        const layout = layouts[task]!;
        const material = materialOf(batch, b, hide);
        const sequence = fillLayout(layout, material, vocabulary, space.factors, sizes);
        if (vectors) {
          rows.set(vectorRows(layout, material.text, b, sizes).subarray(0, length), b * length);
        }
        prefix[b] = layout.prefix;
        ids.set(sequence.subarray(0, length), b * length);
        at.set(slotPlaces[task]!.subarray(0, length), b * length);
        roles.fill(1, b * length + layout.prefix, (b + 1) * length);
        for (let i = layout.prefix; i < sequence.length; i++) {
          const to = b * count + i - group.prefix;
          targets[to] = sequence[i]!;
          counted[to] = 1;
          sound[to] = Number(layout.slots[i]!.kind === "audio");
        }
      }
      return {
        ids: int32([size, length], ids),
        places: int32([size, length], at),
        roles: int32([size, length], roles),
        prefix: int32([size], prefix),
        targets: int32([size, count], targets),
        counted: float32([size, count], counted),
        sound: float32([size, count], sound),
        ...(vectors && vectorInputs(vectors, batch.texts ?? new Int32Array(0), size, rows)),
      };
    },

    loss(inputs) {
      const count = inputs.targets!.shape[1]!;
      const logits = lm.logits(
        {
          ids: inputs.ids as tf.Tensor2D,
          places: inputs.places as tf.Tensor2D,
          roles: inputs.roles as tf.Tensor2D,
          ...(inputs.text_vectors && {
            vectors: {
              table: inputs.text_vectors as tf.Tensor2D,
              rows: inputs.text_rows as tf.Tensor2D,
            },
          }),
        },
        inputs.prefix as tf.Tensor1D,
        count,
      ); // [B·count, V]
      const targets = tf.reshape(inputs.targets!, [-1]) as tf.Tensor1D;
      const nats = softmaxCrossEntropy(logits, targets);
      const counted = tf.reshape(inputs.counted!, [-1]);
      const sound = tf.reshape(inputs.sound!, [-1]);
      const hits = tf.cast(tf.equal(tf.cast(tf.argMax(logits, 1), "int32"), targets), "float32");
      return {
        loss: weightedMean(nats, counted),
        metrics: {
          accuracy: weightedMean(hits, counted),
          audio_loss: weightedMean(nats, sound),
          visual_loss: weightedMean(nats, tf.sub(counted, sound)),
          padding: tf.sub(1, tf.mean(counted)),
        },
      };
    },

    sampler() {
      throw new UserError(
        "a multi-modal model needs a task: it does not sample from a class alone",
        `name one of ${names.join(", ")}`,
      );
    },

    generator(device) {
      checkGuidance(config.sampling, config.label_dropout);
      return buildGenerator(device, lm, config.sampling, {
        layouts,
        sizes,
        vocabulary,
        slotPlaces,
        space,
      });
    },
  };
}

/** An index drawn by weight. */
function pick(weights: readonly number[], random: Random): number {
  let level = random.uniform() * weights.reduce((sum, weight) => sum + weight, 0);
  const chosen = weights.findIndex((weight) => (level -= weight) < 0);
  return chosen < 0 ? weights.length - 1 : chosen;
}

/** What a mixture needs of its data and its tokenizer. */
function checkSpace(config: MultimodalConfig, space: TokenSpace): void {
  if (usesAudio(config) && space.audio === undefined) {
    throw new UserError(
      "the task mixture has tasks with sound, but the data set has none",
      "set dataset.audio_rate, or leave T2AV, V2A, A2V and AVC out",
    );
  }
  if (usesText(config) && (space.text?.size ?? 0) === 0) {
    throw new UserError(
      "the task mixture has tasks with text, but the data set has no captions",
      "use a data set with captions, or leave T2V, T2AV, T2I and ST out",
    );
  }
  const prefixed = config.tasks.some(({ task }) => {
    const { visual, output } = taskParts[task];
    return visual === "image" || visual === "prefix" || output === "image";
  });
  if (prefixed && space.clip?.causal === false) {
    throw new UserError(
      "I2V, FP, AVC and T2I take the first latent frames for the first frames, which only a causal tokenizer's are",
      "use a magvit2 tokenizer, or leave these tasks out",
    );
  }
  if (config.prefix_frames >= space.grid[0] && prefixed && space.grid[0] > 1) {
    throw new UserError(
      `objective.prefix_frames is ${config.prefix_frames}, but a clip has ${space.grid[0]} latent frames`,
      "give fewer",
    );
  }
}
