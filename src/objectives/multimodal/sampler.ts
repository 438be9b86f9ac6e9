/**
 * @file Decoding of a multi-modal language model: the prefix is read in one pass, then tokens are drawn
 * one after the other with keys and values of earlier ones kept on the device. A layout says which
 * modality each slot is of, so a draw is among that modality's ids (and that audio level's), and
 * special tokens are put in as they come.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../../config/errors.ts";
import type { PrefixLm, SlotTensors } from "../../models/prefix-lm.ts";
import type { Cache } from "../../models/transformer.ts";
import type { Compiled, Device } from "../../runtime/device.ts";
import { Random } from "../../runtime/random.ts";
import { float32, int32 } from "../../runtime/tensors.ts";
import type { TokenSpace } from "../objective.ts";
import { type DrawConfig, draw, guidanceScale, guide, needsBoth } from "../sampling.ts";
import { fillLayout, type Layout, type Material, type Sizes } from "./layouts.ts";
import { splitFactors, type Vocabulary } from "./vocabulary.ts";

export interface GenerateOptions {
  /** Index of the task. */
  readonly task: number;
  /** What each sample is given. */
  readonly materials: readonly Material[];
  readonly seed: number;
  readonly onProgress?: (done: number, total: number) => void;
}

/** What a task made. */
export interface Generated {
  /** [B, n, F] sub-ids: all tokens of a clip, or of its first latent frame for images. */
  readonly visual?: Int32Array;
  /** [B, frames, levels] codes. */
  readonly audio?: Int32Array;
}

interface Parts {
  readonly layouts: readonly Layout[];
  readonly sizes: Sizes;
  readonly vocabulary: Vocabulary;
  readonly slotPlaces: readonly Int32Array[];
  readonly space: TokenSpace;
}

/** See `MultimodalObjective.generator`. */
export function buildGenerator(
  device: Device,
  lm: PrefixLm,
  sampling: DrawConfig,
  { layouts, sizes, vocabulary, slotPlaces, space }: Parts,
): (options: GenerateOptions) => Promise<Generated> {
  const compiled = new Map<string, { readonly prefill: Compiled; readonly step: Compiled }>();

  /** Guide, restrict to the ids of the coming slot, draw: [B or 2B, V] to [B]. */
  function drawNext(
    logits: tf.Tensor2D,
    inputs: { readonly [name: string]: tf.Tensor },
    both: boolean,
  ): { ids: tf.Tensor } {
    const guided = both ? guide(logits, inputs.scale!) : logits; // [B, V]
    const all = tf.tensor1d(
      Int32Array.from({ length: lm.vocabulary }, (_, id) => id),
      "int32",
    );
    const [low, high] = tf.unstack(inputs.range!) as [tf.Scalar, tf.Scalar];
    const inside = tf.logicalAnd(tf.greaterEqual(all, low), tf.less(all, high)); // [V]
    const bias = tf.mul(tf.sub(tf.cast(inside, "float32"), 1), 1e9);
    const { ids } = draw(
      tf.add(guided, bias) as tf.Tensor2D,
      inputs.noise as tf.Tensor1D,
      sampling,
    );
    return { ids };
  }

  /** The functions of one task and batch size: the cache's variables belong to them. */
  function functionsOf(task: number, size: number, both: boolean) {
    const key = `${task}/${size}`;
    const known = compiled.get(key);
    if (known) {
      return known;
    }
    device.activate();
    const cache: Cache = lm.buildCache((both ? 2 : 1) * size, layouts[task]!.slots.length);
    const slotsOf = (inputs: { readonly [name: string]: tf.Tensor }): SlotTensors => ({
      ids: inputs.ids as tf.Tensor2D,
      places: inputs.places as tf.Tensor2D,
      roles: inputs.roles as tf.Tensor2D,
    });
    const functions = {
      prefill: device.compile(`multimodal/prefill/${key}`, (inputs) => ({
        logits: lm.prefill(slotsOf(inputs), cache),
      })),
      step: device.compile(`multimodal/step/${key}`, (inputs) =>
        drawNext(lm.step(slotsOf(inputs), inputs.position as tf.Tensor1D, cache), inputs, both),
      ),
    };
    compiled.set(key, functions);
    return functions;
  }

  /** The ids that a slot may hold: [low, high). */
  function rangeOf(layout: Layout, slot: number): [number, number] {
    const { kind, ...rest } = layout.slots[slot]!;
    if (kind === "visual") {
      return [vocabulary.visual.first, vocabulary.visual.first + vocabulary.visual.size];
    }
    const codes = vocabulary.audio.size / sizes.audioLevels;
    const level = (rest as { readonly index: number }).index % sizes.audioLevels;
    const first = vocabulary.audio.first + level * codes;
    return [first, first + codes];
  }

  return async ({ task, materials, seed, onProgress }) => {
    const layout = layouts[task];
    if (layout === undefined) {
      throw new UserError(`the model has no task ${task}: it was trained on ${layouts.length}`);
    }
    const { slots, prefix } = layout;
    const size = materials.length;
    const hasText = slots.some(({ kind }) => kind === "text");
    const both = needsBoth(sampling, hasText);
    const hideText = sampling.guidance === 0 && sampling.guidance_schedule === "constant";
    const copies = both ? 2 : 1;
    const total = copies * size;
    const { prefill, step } = functionsOf(task, size, both);
    const fill = (material: Material, blind: boolean): Int32Array => {
      const { text: _, ...blinded } = material;
      const shown = blind ? blinded : material;
      return fillLayout(layout, shown, vocabulary, space.factors, sizes);
    };
    const sequences = Array.from({ length: total }, (_, b) =>
      fill(materials[b % size]!, b >= size || hideText),
    );
    const places = slotPlaces[task]!;
    const repeated = (values: ArrayLike<number>, times: number): Int32Array => {
      const all = new Int32Array(times * values.length);
      for (let i = 0; i < times; i++) {
        all.set(values, i * values.length);
      }
      return all;
    };
    const given = new Int32Array(total * prefix);
    sequences.forEach((sequence, b) => given.set(sequence.subarray(0, prefix), b * prefix));
    await prefill({
      ids: int32([total, prefix], given),
      places: int32([total, prefix], repeated(places.subarray(0, prefix), total)),
      roles: int32([total, prefix], new Int32Array(total * prefix)),
    });

    // What comes after the last drawn slot need not be computed.
    const lastDrawn = slots.findLastIndex(({ kind }) => kind !== "special");
    const drawn = slots.length - prefix;
    // Drawn sample after sample: a sample's numbers do not depend on how many others are made.
    const uniforms = new Random(seed, "multimodal/draw").uniforms(size * drawn);
    for (let slot = prefix; slot < lastDrawn; slot++) {
      const next = slot + 1;
      const free = slots[next]!.kind !== "special";
      const out = await step({
        ids: int32(
          [total, 1],
          Int32Array.from(sequences, (sequence) => sequence[slot]!),
        ),
        places: int32([total, 1], new Int32Array(total).fill(places[slot]!)),
        roles: int32([total, 1], new Int32Array(total).fill(1)),
        position: int32([1], [slot]),
        range: int32([2], free ? rangeOf(layout, next) : [0, lm.vocabulary]),
        noise: float32(
          [size],
          Float32Array.from({ length: size }, (_, b) => uniforms[b * drawn + next - prefix]!),
        ),
        ...(both && {
          scale: float32([], [guidanceScale(sampling, next - prefix, lastDrawn - prefix)]),
        }),
      });
      if (free) {
        for (let b = 0; b < total; b++) {
          sequences[b]![next] = out.ids!.data[b % size]!;
        }
      }
      onProgress?.(next - prefix, lastDrawn - prefix);
    }
    return readOut(layout, sequences.slice(0, size));
  };

  /** The outputs of sequences, as tokenizers take them. */
  function readOut({ slots, prefix }: Layout, sequences: readonly Int32Array[]): Generated {
    const factors = space.factors.length;
    const made = (kind: "visual" | "audio") =>
      [...slots.entries()].filter(([i, slot]) => i >= prefix && slot.kind === kind);
    const visualSlots = made("visual");
    const audioSlots = made("audio");
    const visual = new Int32Array(sequences.length * visualSlots.length * factors);
    const audio = new Int32Array(sequences.length * audioSlots.length);
    const codes = sizes.audioLevels > 0 ? vocabulary.audio.size / sizes.audioLevels : 1;
    for (const [b, sequence] of sequences.entries()) {
      for (const [i, slot] of visualSlots) {
        const id = sequence[i]! - vocabulary.visual.first;
        const { index } = slot as { readonly index: number };
        visual.set(splitFactors(id, space.factors), (b * visualSlots.length + index) * factors);
      }
      for (const [i, slot] of audioSlots) {
        const { index } = slot as { readonly index: number };
        const code = (sequence[i]! - vocabulary.audio.first) % codes;
        audio[b * audioSlots.length + index] = code;
      }
    }
    return {
      ...(visualSlots.length > 0 && { visual }),
      ...(audioSlots.length > 0 && { audio }),
    };
  }
}
