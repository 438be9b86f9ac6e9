import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, test } from "vitest";
import { buildPrefixLm, firstPlaces } from "../../src/models/prefix-lm.ts";
import { Scope } from "../../src/models/scope.ts";
import { cacheValues, keepCache } from "../../src/models/transformer.ts";
import {
  audioOrder,
  fillLayout,
  groupByLength,
  layTask,
  multimodalTasks,
  paddingShares,
  type Sizes,
} from "../../src/objectives/multimodal/layouts.ts";
import { type MultimodalConfig } from "../../src/objectives/multimodal/config.ts";
import { buildMultimodal } from "../../src/objectives/multimodal/objective.ts";
import {
  joinFactors,
  layVocabulary,
  splitFactors,
} from "../../src/objectives/multimodal/vocabulary.ts";
import { vocabularyOf, wordTokenizer } from "../../src/objectives/multimodal/words.ts";
import type { TokenBatch } from "../../src/objectives/objective.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { Random } from "../../src/runtime/random.ts";
import {
  fitSpectral,
  spectralFrames,
  spectralTokenizer,
} from "../../src/tokenizers/spectral-audio.ts";
import { shake, tinyModel, toTensors } from "./support.ts";

const device = await openDevice({ type: "reference" });

/** VideoPoet's own sizes: 17 frames of 128 × 128, 106 × 4 audio tokens, 64 text positions. */
const paper: Sizes = {
  video: 1280,
  image: 256,
  prefixFrames: 1,
  audioFrames: 106,
  audioLevels: 4,
  audioPrefix: 21,
  audioOrder: "level-major",
  text: 64,
  imageEnds: true,
};

describe("the vocabulary", () => {
  test("256 special, 2^18 visual and 4 × 1024 audio ids are 266,496", () => {
    const vocabulary = layVocabulary(2 ** 18, 4 * 1024, 0);
    expect(vocabulary.size).toBe(266_496);
    expect(vocabulary.visual.first).toBe(256);
    expect(vocabulary.audio.first).toBe(256 + 262_144);
  });

  test("two factors of 512 join to one id of 2^18 and split again", () => {
    const random = new Random(1, "ids");
    for (let i = 0; i < 50; i++) {
      const ids = [random.int(512), random.int(512)];
      const joint = joinFactors(ids, 0, [512, 512]);
      expect(joint).toBe(ids[0]! * 512 + ids[1]!);
      expect(splitFactors(joint, [512, 512])).toEqual(ids);
    }
  });
});

describe("layouts", () => {
  test("the sequences of VideoPoet's tasks", () => {
    const lengths = Object.fromEntries(
      multimodalTasks.map((task) => [task, layTask(task, paper).slots.length]),
    );
    // bos task source res, text between marks, outputs between marks, eos
    expect(lengths["T2V"]).toBe(4 + 66 + 1282 + 1);
    expect(lengths["T2I"]).toBe(4 + 66 + 258 + 1);
    expect(lengths["T2AV"]).toBe(4 + 66 + 1282 + 426 + 1);
    expect(lengths["UNC"]).toBe(4 + 1282 + 1);
    expect(lengths["V2A"]).toBe(4 + 1282 + 426 + 1);
    expect(paper.audioFrames * paper.audioLevels).toBe(424);
  });

  test("without its end tokens an image's sequence is a video's beginning", () => {
    const open = layTask("T2I", { ...paper, imageEnds: false });
    const video = layTask("T2V", paper);
    expect(open.slots.slice(open.prefix)).toEqual(
      video.slots.slice(video.prefix, video.prefix + 1 + 256),
    );
  });

  test("audio stands level by level, or frame by frame", () => {
    const sizes = { ...paper, audioFrames: 3, audioLevels: 2 };
    expect(audioOrder(sizes)).toEqual([0, 2, 4, 1, 3, 5]);
    expect(audioOrder({ ...sizes, audioOrder: "frame-major" })).toEqual([0, 1, 2, 3, 4, 5]);
    expect(audioOrder(sizes, 2)).toEqual([0, 2, 1, 3]);
  });

  test("groups of equal lengths pad nothing; one group for all pads much", () => {
    const layouts = multimodalTasks.map((task) => layTask(task, paper));
    const weights = layouts.map(() => 1);
    const groups = groupByLength(layouts, 0);
    expect(groups.flatMap(({ tasks }) => tasks).toSorted((a, b) => a - b)).toEqual([
      ...layouts.keys(),
    ]);
    const { grouped, single } = paddingShares(layouts, groups, weights);
    expect(grouped).toBe(0);
    expect(single).toBeGreaterThan(0.3);
    const one = groupByLength(layouts, 1);
    expect(one).toHaveLength(1);
    expect(paddingShares(layouts, one, weights).grouped).toBeCloseTo(single, 12);
    const some = paddingShares(layouts, groupByLength(layouts, 0.1), weights);
    expect(some.grouped).toBeLessThan(0.1);
  });
});

describe("captions", () => {
  const words = wordTokenizer(vocabularyOf(["A red circle moves left", "a blue ring, slowly"]));

  test("are words in lower case, and come back", () => {
    const text = "a blue circle, slowly";
    expect(words.decode(words.encode(text, 9))).toBe(text);
  });

  test("unknown words and long texts are one clear error each", () => {
    expect(() => words.encode("a green circle grows", 9)).toThrow('"green", "grows"');
    expect(() => words.encode("a a a a", 3)).toThrow("4 words, the model takes at most 3");
  });
});

describe("the audio tokenizer", () => {
  const rate = 4000;
  const samples = 4500;
  const tone = (hertz: number) =>
    Float32Array.from(
      { length: samples },
      (_, n) => 0.4 * Math.sin((2 * Math.PI * hertz * n) / rate),
    );
  const config = { window: 256, levels: 2, codes: 16 };
  const waves = [220, 330, 440, 550].map(tone);
  const audio = spectralTokenizer(fitSpectral(waves, config, 0), config, samples);

  test("codes are frames × levels, in range, and the same for the same wave", () => {
    const codes = audio.encode(waves[1]!);
    expect(codes.length).toBe(spectralFrames(samples, 256) * 2);
    expect(Math.max(...codes)).toBeLessThan(16);
    expect(audio.encode(waves[1]!)).toEqual(codes);
  });

  test("a decoded tone has its pitch and its loudness", () => {
    for (const [i, hertz] of [220, 330, 440, 550].entries()) {
      const wave = audio.decode(audio.encode(waves[i]!));
      const middle = wave.slice(1000, 3500);
      const crossings = middle.filter((value, n) => n > 0 && value >= 0 && middle[n - 1]! < 0);
      expect(Math.abs((crossings.length * rate) / middle.length - hertz)).toBeLessThan(12);
      const power = Math.sqrt(
        middle.reduce((sum, value) => sum + value * value, 0) / middle.length,
      );
      expect(Math.abs(power - 0.4 / Math.SQRT2)).toBeLessThan(0.06);
    }
  });
});

describe("the prefix LM", () => {
  const places = { text: 3, grid: [1, 2, 2], audio: [0, 1] } as const;
  const lm = buildPrefixLm(tinyModel, 12, places, Scope.root(3));
  shake(lm.scope);
  const length = 6;
  const slots = (ids: number[]) => ({
    ids: tf.tensor2d(ids, [1, length], "int32"),
    places: tf.tensor2d([0, 1, 2, 0, 4, 5], [1, length], "int32"),
    roles: tf.tensor2d([0, 0, 0, 1, 1, 1], [1, length], "int32"),
  });
  const ids = [1, 5, 7, 2, 9, 4];
  const prefix = tf.tensor1d([3], "int32");
  const rows = (of: number[]) => lm.logits(slots(of), prefix, length).arraySync();
  const changed = (i: number) => ids.map((id, k) => (k === i ? (id + 1) % 12 : id));

  test("the prefix sees itself, outputs see what is before them", () => {
    const base = rows(ids);
    for (let i = 0; i < length; i++) {
      const other = rows(changed(i));
      const differs = base.map((row, k) => row.some((x, v) => Math.abs(x - other[k]![v]!) > 1e-6));
      expect(differs).toEqual(base.map((_, k) => (i < 3 ? true : k >= i)));
    }
  });

  test("prefix and steps through the cache give the logits of the whole pass", () => {
    const cache = lm.buildCache(1, length);
    const base = rows(ids);
    const cut = (of: ReturnType<typeof slots>, from: number, count: number) => ({
      ids: tf.slice(of.ids, [0, from], [1, count]),
      places: tf.slice(of.places, [0, from], [1, count]),
      roles: tf.slice(of.roles, [0, from], [1, count]),
    });
    const all = slots(ids);
    const made = [lm.prefill(cut(all, 0, 3), cache).arraySync()[0]!];
    for (let i = 3; i < length; i++) {
      const position = tf.tensor1d([i], "int32");
      const step = lm.step(cut(all, i, 1), position, cacheValues(cache));
      keepCache(cache, step.cache);
      made.push(step.logits.arraySync()[0]!);
    }
    made.forEach((row, k) =>
      row.forEach((value, v) => expect(value).toBeCloseTo(base[2 + k]![v]!, 4)),
    );
  });
});

const space = {
  grid: [2, 1, 2],
  factors: [3, 2],
  classes: 0,
  clip: { frames: 5, height: 4, width: 8, causal: true },
  text: wordTokenizer(["a", "b", "c"]),
  audio: { samples: 8, frames: 2, levels: 2, codes: 4, encode: never, decode: never },
} as const;

function never(): never {
  throw new Error("not used");
}

const config = (changes: Partial<MultimodalConfig> = {}): MultimodalConfig => ({
  type: "multimodal",
  tasks: multimodalTasks.map((task) => ({ task, weight: 1 })),
  text_length: 3,
  prefix_frames: 1,
  audio: { window: 16, levels: 2, codes: 4, fit_clips: 1 },
  audio_order: "level-major",
  image_ends: true,
  group_tolerance: 0,
  image_steps: 0,
  image_share: 0.9,
  label_dropout: 0.3,
  sampling: {
    temperature: 1,
    top_k: 0,
    top_p: 1,
    guidance: 1,
    guidance_schedule: "constant",
    guidance_power: 4,
  },
  ...changes,
});
const build = (changes: Partial<MultimodalConfig> = {}) => {
  const objective = buildMultimodal(config(changes), tinyModel, space, Scope.root(2));
  shake(objective.scope);
  return objective;
};

function batchOf(tasks: Int32Array, seed = 1): TokenBatch {
  const random = new Random(seed, "batch");
  const size = tasks.length;
  const ids = () => Int32Array.from({ length: size * 8 }, (_, i) => random.int(i % 2 ? 2 : 3));
  return {
    ids: ids(),
    labels: new Int32Array(size).fill(-1),
    size,
    conditions: { tasks, ids: ids() },
    texts: Int32Array.from({ length: size * 3 }, () => random.int(4) - 1),
    audio: Int32Array.from({ length: size * 4 }, () => random.int(4)),
  };
}

describe("the multi-modal objective", () => {
  const objective = build();

  test("a step's tasks are of one length, all tasks come, and validation drops no text", () => {
    const seen = new Set<number>();
    for (let step = 0; step < 80; step++) {
      const tasks = objective.tasks.draw(4, 3, step, true);
      const lengths = new Set(Array.from(tasks, (task) => objective.layouts[task]!.slots.length));
      expect(lengths.size).toBe(1);
      tasks.forEach((task) => seen.add(task));
      const inputs = objective.inputs(batchOf(tasks), 3, step, true);
      expect([...inputs["counted"]!.data].reduce((sum, x) => sum + x, 0)).toBe(
        tasks.reduce((sum, task) => {
          const { slots, prefix } = objective.layouts[task]!;
          return sum + slots.length - prefix;
        }, 0),
      );
    }
    expect(seen.size).toBe(multimodalTasks.length);
    const tasks = Int32Array.of(0, 0);
    const held = objective.inputs(batchOf(tasks), 3, 0, false);
    const other = objective.inputs(batchOf(tasks), 3, 9, false);
    expect(held).toEqual(other);
  });

  test("the curriculum begins with images and then turns to videos", () => {
    const { tasks } = build({ image_steps: 100 });
    const share = (from: number) => {
      let images = 0;
      for (let step = from; step < from + 100; step++) {
        images += Number(multimodalTasks[tasks.draw(1, 0, step, true)[0]!] === "T2I");
      }
      return images / 100;
    };
    expect(share(0)).toBeGreaterThan(0.8);
    expect(share(100)).toBeLessThan(0.2);
  });

  test("the loss is the cross entropy of the outputs alone: prefix targets have no say", () => {
    const tasks = Int32Array.of(4, 4, 4);
    const inputs = toTensors(objective.inputs(batchOf(tasks), 0, 0, false));
    const { loss, metrics } = objective.loss(inputs);
    const { slots, prefix } = objective.layouts[4]!;
    expect(inputs["targets"]!.shape).toEqual([3, slots.length - prefix]);
    expect(metrics["padding"]!.dataSync()[0]).toBe(0);
    expect(loss.dataSync()[0]).toBeGreaterThan(0);
  });

  test.each(multimodalTasks)("%s: outputs are of the right size and in range", async (task) => {
    const index = multimodalTasks.indexOf(task);
    const materials = [0, 1].map((i) => ({
      video: batchOf(Int32Array.of(0), i).ids,
      variant: batchOf(Int32Array.of(0), i + 5).ids,
      audio: Int32Array.of(0, 1, 2, 3),
      text: Int32Array.of(i, 2),
    }));
    const generate = objective.generator(device);
    const made = await generate({ task: index, materials, seed: 4 });
    expect(made).toEqual(await generate({ task: index, materials, seed: 4 }));
    const tokens = task === "T2I" ? 2 : 4;
    const expected = task === "V2A" ? 0 : 2 * tokens * 2;
    expect(made.visual?.length ?? 0).toBe(expected);
    made.visual?.forEach((id, i) => expect(id).toBeLessThan(i % 2 ? 2 : 3));
    const sound = ["T2AV", "V2A", "AVC"].includes(task);
    expect(made.audio?.length ?? 0).toBe(sound ? 2 * 4 : 0);
    made.audio?.forEach((code) => expect(code >= 0 && code < 4).toBe(true));
  });

  test("greedy decoding takes the likeliest ids of the whole pass", async () => {
    const greedy = build({ sampling: { ...config().sampling, temperature: 0 } });
    const task = multimodalTasks.indexOf("T2AV");
    const text = Int32Array.of(1, 0, 2);
    const made = await greedy.generator(device)({ task, materials: [{ text }], seed: 0 });
    const { layouts, sizes, vocabulary } = greedy;
    const layout = layouts[task]!;
    const material = { text, video: made.visual!, audio: made.audio! };
    const sequence = fillLayout(layout, material, vocabulary, space.factors, sizes);
    // The same weights by the same names: the model behind the objective.
    const places = { text: 3, grid: space.grid, audio: [2, 2] } as const;
    const scope = Scope.root(2);
    const lm = buildPrefixLm(tinyModel, vocabulary.size, places, scope.child("transformer"));
    shake(scope);
    const first = firstPlaces(places);
    const length = sequence.length;
    const row = (values: number[]) => tf.tensor2d(values, [1, length], "int32");
    const logits = lm
      .logits(
        {
          ids: row([...sequence]),
          places: row(
            layout.slots.map((slot) =>
              slot.kind === "special" ? 0 : first[slot.kind] + slot.index,
            ),
          ),
          roles: row(layout.slots.map((_, i) => Number(i >= layout.prefix))),
        },
        tf.tensor1d([layout.prefix], "int32"),
        length,
      )
      .arraySync();
    for (const [i, slot] of layout.slots.entries()) {
      const range =
        slot.kind === "special" || i < layout.prefix ? undefined : vocabulary[slot.kind];
      const level = slot.kind === "audio" ? slot.index % 2 : 0;
      const low = (range?.first ?? 0) + 4 * level;
      const high = slot.kind === "audio" ? low + 4 : low + (range?.size ?? 0);
      const allowed = logits[Math.max(0, i - 1)]!.slice(low, high);
      const best = range ? low + allowed.indexOf(Math.max(...allowed)) : sequence[i];
      expect(sequence[i]).toBe(best);
    }
  });

  test("guidance 0 does not look at the text; a hair from the ends the doubled pass agrees", async () => {
    const of = (guidance: number) =>
      build({ sampling: { ...config().sampling, guidance } }).generator(device);
    const request = (word: number) => ({
      task: 0,
      materials: [{ text: Int32Array.of(word) }],
      seed: 3,
    });
    expect(await of(0)(request(0))).toEqual(await of(0)(request(1)));
    expect(await of(1 + 1e-6)(request(1))).toEqual(await of(1)(request(1)));
    expect(await of(1e-6)(request(1))).toEqual(await of(0)(request(1)));
    expect(() =>
      build({ label_dropout: 0, sampling: { ...config().sampling, guidance: 2 } }).generator(
        device,
      ),
    ).toThrow("label_dropout is 0");
  });

  test("tasks that the data or the tokenizer cannot serve are refused", () => {
    const { audio: _, ...silent } = space;
    expect(() => buildMultimodal(config(), tinyModel, silent, Scope.root(0))).toThrow("sound");
    const { text: __, ...mute } = space;
    expect(() => buildMultimodal(config(), tinyModel, mute, Scope.root(0))).toThrow("text");
    const blurred = { ...space, clip: { ...space.clip, causal: false } };
    expect(() => buildMultimodal(config(), tinyModel, blurred, Scope.root(0))).toThrow("causal");
  });
});
