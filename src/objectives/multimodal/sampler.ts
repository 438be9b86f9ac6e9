/**
 * @file Decoding of a multi-modal language model: the prefix is read in one pass, then tokens are drawn
 * one after the other with keys and values of earlier ones kept on the device. A layout says which
 * modality each slot is of, so a draw is among that modality's ids (and that audio level's), and
 * special tokens are put in as they come.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../../config/errors.ts";
import type { PrefixLm, SlotTensors } from "../../models/prefix-lm.ts";
import {
  type Cache,
  cacheValues,
  keepCache,
  packCache,
  unpackCache,
} from "../../models/transformer.ts";
import type { Compiled, Device } from "../../runtime/device.ts";
import { Random } from "../../runtime/random.ts";
import { scan } from "../../runtime/scan.ts";
import { float32, int32 } from "../../runtime/tensors.ts";
import type { TokenSpace } from "../objective.ts";
import { type DrawConfig, draw, guidanceScale, guide, needsBoth } from "../sampling.ts";
import { fillLayout, type Layout, type Material, type Sizes, vectorRows } from "./layouts.ts";
import { vectorInputs } from "./vectors.ts";
import { splitFactors, type Vocabulary } from "./vocabulary.ts";

/** Slots that one call makes at most where the device has loops: between calls progress is told. */
const MOST_SLOTS = 256;

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
  const compiled = new Map<string, { readonly prefill: Compiled; readonly steps: Compiled }>();

  /** Guide, restrict to the ids of the coming slot, draw: [B or 2B, V] to [B]. */
  function drawNext(
    logits: tf.Tensor2D,
    inputs: { readonly [name: string]: tf.Tensor },
    both: boolean,
  ): tf.Tensor1D {
    const guided = both ? guide(logits, inputs.scale!) : logits; // [B, V]
    const all = tf.tensor1d(
      Int32Array.from({ length: lm.vocabulary }, (_, id) => id),
      "int32",
    );
    const [low, high] = tf.unstack(inputs.range!) as [tf.Scalar, tf.Scalar];
    const inside = tf.logicalAnd(tf.greaterEqual(all, low), tf.less(all, high)); // [V]
    const bias = tf.mul(tf.sub(tf.cast(inside, "float32"), 1), 1e9);
    return draw(tf.add(guided, bias) as tf.Tensor2D, inputs.noise as tf.Tensor1D, sampling).ids;
  }

  /** The functions of one task and batch size: the cache's variables belong to them. */
  function functionsOf(task: number, size: number, both: boolean) {
    const key = `${task}/${size}`;
    const known = compiled.get(key);
    if (known) {
      return known;
    }
    device.activate();
    const total = (both ? 2 : 1) * size;
    const cache: Cache = lm.buildCache(total, layouts[task]!.slots.length);
    const slotsOf = (inputs: { readonly [name: string]: tf.Tensor }): SlotTensors => ({
      ids: inputs.ids as tf.Tensor2D,
      places: inputs.places as tf.Tensor2D,
      roles: inputs.roles as tf.Tensor2D,
      ...(inputs.text_vectors && {
        vectors: {
          table: inputs.text_vectors as tf.Tensor2D,
          rows: inputs.text_rows as tf.Tensor2D,
        },
      }),
    });
    const functions = {
      prefill: device.compile(`multimodal/prefill/${key}`, (inputs) => ({
        logits: lm.prefill(slotsOf(inputs), cache),
      })),
      steps: device.compile(`multimodal/steps/${key}`, (inputs) => {
        const { previous, ...slices } = inputs;
        const made = scan(
          inputs.noise!.shape[0]!,
          { carry: { previous: previous!, ...packCache(cacheValues(cache)) }, slices },
          (_index, { previous: ids, ...entries }, turn) => {
            const slot = {
              ids: tf.expandDims(ids!, 1) as tf.Tensor2D, // [B or 2B, 1]
              places: tf.tile(tf.reshape(turn.place!, [1, 1]), [total, 1]) as tf.Tensor2D,
              roles: tf.onesLike(tf.expandDims(ids!, 1)) as tf.Tensor2D,
            };
            const position = tf.reshape(turn.position!, [1]) as tf.Tensor1D;
            const step = lm.step(slot, position, unpackCache(entries));
            const drawn = drawNext(step.logits, turn, both); // [B]
            const next = tf.where(
              tf.equal(turn.known!, 1),
              turn.given!,
              tf.tile(drawn, [both ? 2 : 1]),
            ); // [B or 2B]
            return { carry: { previous: next, ...packCache(step.cache) }, outputs: { drawn } };
          },
        );
        const { previous: _, ...entries } = made.carry;
        keepCache(cache, unpackCache(entries));
        return { ids: made.outputs.drawn! }; // [n, B]
      }),
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
    const { prefill, steps } = functionsOf(task, size, both);
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
      ...(space.text?.vectors && textVectors(layout, materials, total, hideText)),
    });

    // What comes after the last drawn slot need not be computed.
    const lastDrawn = slots.findLastIndex(({ kind }) => kind !== "special");
    const drawn = slots.length - prefix;
    // Drawn sample after sample: a sample's numbers do not depend on how many others are made.
    const uniforms = new Random(seed, "multimodal/draw").uniforms(size * drawn);
    const most = device.loops ? MOST_SLOTS : 1;
    for (let first = prefix; first < lastDrawn; first += most) {
      const count = Math.min(most, lastDrawn - first);
      const nexts = Array.from({ length: count }, (_, n) => first + n + 1);
      const fixed = nexts.map((next) => slots[next]!.kind === "special");
      const out = await steps({
        previous: int32(
          [total],
          Int32Array.from(sequences, (sequence) => sequence[first]!),
        ),
        place: int32([count], places.slice(first, first + count)),
        position: int32(
          [count],
          nexts.map((next) => next - 1),
        ),
        range: int32(
          [count, 2],
          nexts.flatMap((next, n) => (fixed[n] ? [0, lm.vocabulary] : rangeOf(layout, next))),
        ),
        known: int32([count, total], fixed.flatMap((known) => Array<number>(total).fill(Number(known)))), // biome-ignore format: one call
        given: int32(
          [count, total],
          nexts.flatMap((next) => sequences.map((sequence) => sequence[next]!)),
        ),
        noise: float32(
          [count, size],
          Float32Array.from({ length: count * size }, (_, i) => {
            const next = nexts[Math.floor(i / size)]!;
            return uniforms[(i % size) * drawn + next - prefix]!;
          }),
        ),
        ...(both && {
          scale: float32(
            [count],
            Float32Array.from(nexts, (next) =>
              guidanceScale(sampling, next - prefix, lastDrawn - prefix),
            ),
          ),
        }),
      });
      nexts.forEach((next, n) => {
        for (let b = 0; b < (fixed[n] ? 0 : total); b++) {
          sequences[b]![next] = out.ids!.data[n * size + (b % size)]!;
        }
      });
      onProgress?.(first + count - prefix, lastDrawn - prefix);
    }
    return readOut(layout, sequences.slice(0, size));
  };

  /** The vectors of the samples' texts; the second copies, for guidance, have none. */
  function textVectors(
    layout: Layout,
    materials: readonly Material[],
    total: number,
    hideText: boolean,
  ) {
    const { text: length } = sizes;
    const texts = new Int32Array(total * length).fill(-1);
    const rows = new Int32Array(total * layout.prefix);
    for (const [b, { text }] of hideText ? [] : materials.entries()) {
      texts.set(Int32Array.from(text ?? []), b * length);
      rows.set(vectorRows(layout, text, b, sizes).subarray(0, layout.prefix), b * layout.prefix);
    }
    return vectorInputs(space.text!.vectors!, texts, total, rows);
  }

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
