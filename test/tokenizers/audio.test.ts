/** @file The audio tokenizer: shapes, causality, dilation, spectrograms, orders of levels, a short training. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as tf from "@tensorflow/tfjs-core";
import { Ajv } from "ajv";
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { Scope } from "../../src/models/scope.ts";
import { flattenLevels, unflattenLevels } from "../../src/tokenizers/flatten.ts";
import {
  buildTokenizer,
  checkTokenizer,
  type TokenizerConfig,
  tokenizerSchema,
} from "../../src/tokenizers/registry.ts";
import { spectrogram } from "../../src/tokenizers/soundstream.ts";
import { readMetrics } from "../../src/trainers/logging/metrics.ts";
import { trainStage } from "../../src/trainers/loop.ts";
import { tokenizerTask } from "../../src/trainers/tokenizer-stage.ts";
import { shapes } from "../eval/fakes.ts";
import { stageOptions, temporaryFolder, tinyRun } from "../trainers/support.ts";
import { clips, sym, useReference, worstError } from "./helpers.ts";

const validate = new Ajv({ strict: false, discriminator: true, useDefaults: true }).compile(
  tokenizerSchema,
);
function full(config: object): TokenizerConfig {
  const copy = structuredClone(config);
  if (!validate(copy)) {
    throw new Error(JSON.stringify(validate.errors));
  }
  return copy as TokenizerConfig;
}
const config = {
  type: "soundstream",
  base_channels: 2,
  strides: [2, 5],
  dilations: [1, 3],
  spectral_windows: [16, 4096],
  quantizer: { type: "rvq", size: 8, width: 4, levels: 3, ema_decay: 0.9 },
};
const clip = { frames: 3, height: 8, width: 8, samples: 47 };
const make = () => buildTokenizer(full(config), clip, Scope.root(1));

beforeAll(useReference);

describe("soundstream", () => {
  it("gives frames of sub-ids and waveforms of the same length back", () => {
    const tokenizer = make();
    expect(tokenizer.modality).toBe("audio");
    expect(tokenizer.grid).toEqual([5, 1, 1]);
    expect(tokenizer.factors).toEqual([8, 8, 8]);
    const x = clips([2, 47, 1, 1, 1]);
    const { ids, codes } = tokenizer.encode(x);
    expect(ids.shape).toEqual([2, 5, 1, 1, 3]);
    expect(tokenizer.decode(codes).shape).toEqual([2, 47, 1, 1, 1]);
    expect(tokenizer.decode(tokenizer.lookup(ids)).dataSync()).toEqual(
      tokenizer.decode(codes).dataSync(),
    );
  });

  it("is causal bit for bit: no frame hears a later sample, no sample a later frame", () => {
    const tokenizer = make();
    const x = clips([1, 47, 1, 1, 1]);
    const before = tokenizer.encode(x);
    for (const at of [10, 25, 40]) {
      const late = tf.concat([tf.zeros([1, at, 1, 1, 1]), tf.ones([1, 47 - at, 1, 1, 1])], 1);
      const after = tokenizer.encode(tf.add(x, late) as tf.Tensor5D);
      const kept = Math.floor(at / 10);
      const early = (z: tf.Tensor5D) => tf.slice(z, 0, [1, kept, 1, 1, z.shape[4]]).dataSync();
      expect(early(after.codes)).toEqual(early(before.codes));
    }
    const last = tf.concat([tf.zeros([1, 4, 1, 1, 4]), tf.ones([1, 1, 1, 1, 4])], 1);
    const shown = (z: tf.Tensor5D) => tf.slice(z, 0, [1, 40, 1, 1, 1]).dataSync();
    const changed = tokenizer.decode(tf.add(before.codes, last) as tf.Tensor5D);
    expect(shown(changed)).toEqual(shown(tokenizer.decode(before.codes)));
  });

  it("has spectrograms of the discrete Fourier transform", () => {
    const n = 8;
    const values = sym(4, n);
    const { length } = values;
    const expected = Array.from({ length: n / 2 + 1 }, (_, k) => {
      let [re, im] = [0, 0];
      for (let i = 0; i < length; i++) {
        const hann = 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / n);
        re += hann * values[i]! * Math.cos((2 * Math.PI * i * k) / n);
        im += hann * values[i]! * Math.sin((2 * Math.PI * i * k) / n);
      }
      return Math.sqrt((re * re + im * im) / n + 1e-5);
    });
    const x = tf.tensor5d(Float32Array.from(values), [1, n, 1, 1, 1]);
    expect(worstError(spectrogram(x, n), expected)).toBeLessThan(1e-5);
  });

  it("reaches every parameter, and asks for sound where there is none", () => {
    const tokenizer = make();
    const parameters = [...tokenizer.scope.trainable().values()];
    const x = clips([2, 47, 1, 1, 1]);
    const { grads } = tf.variableGrads(
      () => tokenizer.loss(x, tf.scalar(0), true).loss,
      parameters,
    );
    const untouched = parameters.filter((p) => tf.max(tf.abs(grads[p.name]!)).dataSync()[0] === 0);
    expect(untouched).toEqual([]);
    const silent = checkTokenizer(full(config), { frames: 3, height: 8, width: 8 });
    expect(silent.map(({ hint }) => hint)[0]).toContain("audio_rate");
  });

  it("learns from the sound of a data set", async () => {
    const options = {
      frames: 4,
      height: 8,
      width: 8,
      fps: 8,
      audio_rate: 200,
      size: 12,
      validation_size: 12,
    };
    const [train, held] = [await shapes("train", options), await shapes("validation", options)];
    const dir = temporaryFolder();
    const run = await tinyRun(dir);
    const tokenizer = buildTokenizer(full(config), { ...clip, samples: 100 }, Scope.root(1));
    const stage = {
      ...stageOptions,
      steps: 40,
      batch: 4,
      lr: 0.01,
      validate_every: 20,
      checkpoint_every: 40,
    };
    await trainStage(run, tokenizerTask(tokenizer, stage, train, held, 1));
    await Promise.all([train.close(), held.close()]);
    const lines = readMetrics(join(dir, "metrics.jsonl"));
    const losses = lines
      .filter(({ split }) => split === "train")
      .map((line) => line["loss"] as number);
    expect(losses.at(-1)).toBeLessThan(0.9 * losses[0]!);
    expect(readFileSync(join(dir, "metrics.jsonl"), "utf8")).toContain('"snr"');
  });
});

describe("orders of levels", () => {
  it("are inverse to each other, and level-major begins with all coarse ids", () => {
    const cases = fc.record({
      frames: fc.integer({ min: 1, max: 20 }),
      levels: fc.integer({ min: 1, max: 6 }),
      order: fc.constantFrom("level-major" as const, "frame-major" as const),
      seed: fc.integer({ min: 1, max: 1000 }),
    });
    fc.assert(
      fc.property(cases, ({ frames, levels, order, seed }) => {
        const ids = Int32Array.from(sym(seed, frames * levels), (v) => Math.floor((v + 1) * 4));
        const sequence = flattenLevels(ids, levels, 8, order);
        expect(unflattenLevels(sequence, frames, levels, 8, order)).toEqual(ids);
        expect(new Set(sequence.map((id) => Math.floor(id / 8))).size).toBe(levels);
      }),
    );
    expect([...flattenLevels([1, 2, 3, 4], 2, 8, "level-major")]).toEqual([1, 3, 10, 12]);
    expect([...flattenLevels([1, 2, 3, 4], 2, 8, "frame-major")]).toEqual([1, 10, 3, 12]);
    expect(() => unflattenLevels([9], 1, 1, 8, "frame-major")).toThrow(RangeError);
    // VideoPoet's clip of 2.125 s: 106 frames of 4 levels of 1024, 424 ids of 4096.
    expect(flattenLevels(new Int32Array(424), 4, 1024, "level-major").at(-1)).toBe(3072);
  });
});
