/** @file The audio tokenizer: shapes, causality, dilation, spectrograms, orders of levels, a short training. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as tf from "@tensorflow/tfjs-core";
import { Ajv } from "ajv";
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { buildSuite } from "../../src/eval/registry.ts";
import { logMelDistance, melBank, siSdr, snr } from "../../src/eval/sound-quality.ts";
import { Scope } from "../../src/models/scope.ts";
import { flattenLevels, unflattenLevels } from "../../src/tokenizers/flatten.ts";
import {
  buildTokenizer,
  checkTokenizer,
  type TokenizerConfig,
  tokenizerSchema,
} from "../../src/tokenizers/registry.ts";
import { spectrogram } from "../../src/models/spectrum.ts";
import { readMetrics } from "../../src/trainers/logging/metrics.ts";
import { trainStage } from "../../src/trainers/loop.ts";
import { tokenizerTask } from "../../src/trainers/tokenizer-stage.ts";
import {
  buildSoundAdversary,
  featureMatching,
  type SoundAdversarialConfig,
} from "../../src/tokenizers/sound-adversarial.ts";
import { context, shapes } from "../eval/fakes.ts";
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

const critics = {
  type: "soundstream",
  adversarial: {
    weight: 0.1,
    feature_weight: 1,
    scales: 2,
    strides: [2, 2],
    base_channels: 4,
    stft_window: 32,
    stft_channels: 4,
    stft_levels: 2,
  },
};

describe("critics of sound", () => {
  const options = full({ ...config, ...critics });
  const adversarial = (options as { adversarial: SoundAdversarialConfig }).adversarial;
  const step = tf.scalar(0);
  const waves = (seed: number) => clips([2, 100, 1, 1, 1], seed);
  const no = () => tf.scalar(0);

  it("are pushed apart on real and made sound, and all of each learns", () => {
    const adversary = buildSoundAdversary(adversarial, 1);
    const parameters = [...adversary.scope.trainable().values()];
    const [real, made] = [waves(1), waves(2)];
    const { value, grads } = tf.variableGrads(
      () => adversary.critic(real, made, step, true).loss,
      parameters,
    );
    // Untrained critics are near zero, where either hinge is one.
    expect(value.dataSync()[0]).toBeGreaterThan(0.5);
    expect(value.dataSync()[0]).toBeLessThan(6);
    const named = [...adversary.scope.trainable()];
    const untouched = named.filter(([, p]) => tf.max(tf.abs(grads[p.name]!)).dataSync()[0] === 0);
    // A shift of all logits helps one hinge as much as it hurts the other while both are active.
    expect(untouched.map(([name]) => name).filter((name) => !name.endsWith("head/bias"))).toEqual(
      [],
    );
    // Three critics: two scales and the spectrogram's.
    const kinds = new Set(named.map(([name]) => /discriminator\/(\w+)\//.exec(name)?.[1]));
    expect(kinds).toEqual(new Set(["scale0", "scale1", "spectrum"]));
  });

  it("follow SoundStream's equations on opinions made by hand", () => {
    const opinion = (logits: number[], feature: number) => ({
      logits: tf.tensor2d(logits, [1, logits.length]),
      features: [tf.fill([1, 2, 1, 1, 1], feature) as tf.Tensor5D],
    });
    const [real, made] = [
      [opinion([0], 1), opinion([0], 4)],
      [opinion([0], 3), opinion([0], 5)],
    ];
    expect(featureMatching(real, made).dataSync()[0]).toBeCloseTo((2 + 1) / 2, 6);
  });

  it("give the sound a gradient, but not before their start; equal sounds match in features", () => {
    const adversary = buildSoundAdversary({ ...adversarial, start: 5 }, 1);
    const real = waves(1);
    const slope = (made: tf.Tensor5D, at: number) =>
      tf
        .grad((x) => adversary.generator(x as tf.Tensor5D, tf.scalar(at), no, real).loss)(made)
        .abs()
        .sum()
        .dataSync()[0]!;
    expect(slope(waves(2), 4)).toBe(0);
    expect(slope(waves(2), 5)).toBeGreaterThan(0);
    const same = adversary.generator(real, step, no, real).metrics["features"]!;
    expect(same.dataSync()[0]).toBe(0);
  });

  it("say what does not fit", () => {
    const sound = { frames: 3, height: 8, width: 8, samples: 20 };
    const [window] = checkTokenizer(options, sound);
    expect(window!.path).toBe("adversarial.stft_window");
    const none = full({ ...config, adversarial: { scales: 0, stft_window: 0 } });
    expect(checkTokenizer(none, clip)[0]!.message).toContain("no critic");
  });

  it("train beside the tokenizer, which the suite then listens to", async () => {
    const shape = { frames: 4, height: 8, width: 8, fps: 8, audio_rate: 400, size: 12, validation_size: 12 }; // biome-ignore format: one object
    const [train, held] = [await shapes("train", shape), await shapes("validation", shape)];
    const dir = temporaryFolder();
    const run = await tinyRun(dir);
    const tokenizer = buildTokenizer(options, { ...clip, samples: 200 }, Scope.root(1));
    const stage = { ...stageOptions, steps: 30, batch: 4, lr: 0.01, checkpoint_every: 30 };
    await trainStage(
      run,
      tokenizerTask(tokenizer, stage, train, held, 1, options as { adversarial: SoundAdversarialConfig }), // biome-ignore format: one call
    );
    const lines = readMetrics(join(dir, "metrics.jsonl")).filter(({ split }) => split === "train");
    for (const name of ["adversarial", "features", "critic_real", "critic_made"]) {
      expect(Number.isFinite(lines.at(-1)![name])).toBe(true);
    }
    expect(lines.at(-1)!["reconstruction"] as number).toBeLessThan(
      lines[0]!["reconstruction"] as number,
    );
    const ctx = await context({
      device: run.device,
      tokenizer,
      dataset: (split) => Promise.resolve(split === "train" ? train : held),
    });
    const suite = buildSuite({ type: "sound", split: "validation", clips: 7, seed: 0 }, "s");
    const scores = new Map((await suite.run(ctx)).map((one) => [one.name, one]));
    expect([...scores.keys()].toSorted()).toEqual(
      ["entropy_kbps", "log_mel", "nominal_kbps", "si_sdr", "snr", "usage"].map((n) => `s/${n}`),
    );
    // 20 frames of three sub-ids of 3 bits in half a second.
    expect(scores.get("s/nominal_kbps")!.value).toBeCloseTo((20 * 9) / 0.5 / 1000, 9);
    expect(scores.get("s/entropy_kbps")!.value).toBeLessThan(0.36);
    expect(scores.get("s/usage")!.value).toBeGreaterThan(0);
    await Promise.all([train.close(), held.close()]);
  });
});

describe("distances of sounds", () => {
  const tone = (hertz: number, loud = 0.5) =>
    Float32Array.from({ length: 1600 }, (_, i) => loud * Math.sin((2 * Math.PI * hertz * i) / 8000)); // biome-ignore format: one call

  it("SI-SDR is blind to loudness and offset, SNR is not, noise lowers both as it must", () => {
    const s = tone(440);
    expect(siSdr(s, s.map((v) => 0.25 * v + 0.1))).toBeGreaterThan(90); // biome-ignore format: one call
    expect(snr(s, s.map((v) => 0.5 * v))).toBeCloseTo(10 * Math.log10(4), 4); // biome-ignore format: one call
    // Noise at right angles to the sound, a tenth as long.
    const noisy = s.map((v, i) => v + 0.05 * Math.cos((2 * Math.PI * 440 * i) / 8000));
    expect(siSdr(s, noisy)).toBeCloseTo(20, 2);
    expect(snr(s, noisy)).toBeCloseTo(20, 2);
    expect(siSdr(s, new Float32Array(1600))).toBe(-100);
  });

  it("log-mel distance: none of equal sounds, 6 dB of half as loud ones, more of other tones", () => {
    const bank = melBank(8000);
    expect(bank.bands.length).toBeGreaterThan(25);
    expect(logMelDistance(tone(440), tone(440), bank)).toBe(0);
    const noise = Float32Array.from(sym(3, 1600));
    const softer = logMelDistance(noise, noise.map((v) => v / 2), bank); // biome-ignore format: one call
    expect(softer).toBeCloseTo(20 * Math.log10(2), 1);
    expect(logMelDistance(tone(440), tone(1760), bank)).toBeGreaterThan(
      logMelDistance(tone(440), tone(466), bank),
    );
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
