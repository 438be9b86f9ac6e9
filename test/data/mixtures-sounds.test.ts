/** @file Mixtures, sounds and Moving MNIST. */

import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { Value } from "typebox/value";
import { describe, expect, test } from "vitest";
import type { Dataset } from "../../src/data/dataset.ts";
import { episode } from "../../src/data/episodes.ts";
import { Loader } from "../../src/data/loader.ts";
import { melPicture } from "../../src/data/mel.ts";
import { mix, quotas, weightsAt } from "../../src/data/mixture.ts";
import * as movingMnist from "../../src/data/moving-mnist.ts";
import { type DatasetConfig, datasets, openDataset } from "../../src/data/registry.ts";
import * as sounds from "../../src/data/sounds.ts";
import { writeMp4 } from "../../src/data/video.ts";
import * as write from "./look-alikes.ts";
import { numbered, temporaryFolder } from "./support.ts";

const root = temporaryFolder("mix");

/** A set whose clips say which item they are. */
function fake(name: string, size: number, frames: number, classes: readonly string[]): Dataset {
  return {
    type: name,
    split: "train",
    size,
    frames,
    height: 8,
    width: 8,
    fps: 8,
    audioRate: 0,
    classes,
    fingerprint: name,
    labelOf: (index) => (index === 0 ? 0 : classes.length - 1), // class 0 is rare
    get: (index, visit) =>
      Promise.resolve({
        id: `${index}/${visit}`,
        clip: new Uint8Array(frames * 192).fill(index),
        label: index === 0 ? 0 : classes.length - 1,
        caption: name,
      }),
    close: () => Promise.resolve(),
  };
}
const shape = { size: 20, over: 0, balanced: false, seed: 1, frames: 3, height: 8, width: 8 };

describe("mixture", () => {
  test("shares hold in every prefix to within one", () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 1, maxLength: 5 }).filter((w) => w.some((x) => x > 0)), // biome-ignore format: one call
        (weights) => {
          const { source } = quotas(weights, 60);
          const total = weights.reduce((a, b) => a + b);
          const counts = weights.map(() => 0);
          for (const [i, k] of source.entries()) {
            counts[k] = counts[k]! + 1;
            for (const [j, weight] of weights.entries()) {
              expect(Math.abs(counts[j]! - (weight / total) * (i + 1))).toBeLessThanOrEqual(1.5);
            }
          }
        },
      ),
    );
  });

  test("all items of a source come once before any comes twice; pictures stand still; labels join", async () => {
    const sources = [
      { name: "videos", dataset: fake("videos", 10, 3, ["run", "walk"]), weight: 3, final: 3 },
      { name: "pictures", dataset: fake("pictures", 4, 1, ["cat", "walk"]), weight: 1, final: 1 },
    ];
    const mixed = mix("train", sources, shape);
    expect(mixed.classes).toEqual(["run", "walk", "cat"]);
    const ids: string[] = [];
    for (const visit of [0, 1]) {
      for (let i = 0; i < mixed.size; i++) {
        const sample = await mixed.get(i, visit);
        ids.push(sample.id);
        expect(sample.clip.length).toBe(3 * 192);
        expect(sample.clip[0]).toBe(sample.clip.at(-1));
        const [source, item] = sample.id.split("/");
        const classes = source === "videos" ? ["run", "walk"] : ["cat", "walk"];
        expect(mixed.classes[sample.label]).toBe(classes[item === "0" ? 0 : 1]);
      }
    }
    const pictures = ids.filter((id) => id.startsWith("pictures/"));
    expect(pictures.length).toBe(10);
    expect(new Set(pictures.slice(0, 4)).size).toBe(4);
    expect(ids.filter((id) => /videos\/\d+\/0/.test(id)).length).toBe(10);
    expect(new Set(ids).size).toBe(ids.length); // every draw is another visit of its item
  });

  test("classes take turns; weights follow their schedule", async () => {
    const one = { name: "a", dataset: fake("a", 10, 3, ["rare", "common"]), weight: 1, final: 1 };
    const balanced = mix("train", [one], { ...shape, balanced: true });
    const labels = await Promise.all(Array.from({ length: 20 }, async (_, i) => (await balanced.get(i, 0)).label)); // biome-ignore format: one call
    expect(labels.filter((label) => label === 0).length).toBe(10);
    const sources = [
      { weight: 1, final: 0 },
      { weight: 1, final: 4 },
    ];
    expect([0, 5, 10, 99].map((visit) => weightsAt(sources, visit, 10))).toEqual([[1, 1], [0.5, 2.5], [0, 4], [0, 4]]); // biome-ignore format: one call
    await expect(async () => mix("train", [{ ...one, dataset: fake("a", 4, 2, []) }], shape)).rejects.toThrow(/clips of 2×8×8/); // biome-ignore format: one call
  });

  test("opens from a config of pictures and videos, the same by any number of workers", async () => {
    const images = join(root.path, "images");
    await write.imageFolder(images);
    const videos = join(root.path, "videos");
    await writeMp4(join(videos, "a.mp4"), numbered(9), 8);
    await writeMp4(join(videos, "b.mp4"), numbered(9), 8);
    const config = (workers: number): DatasetConfig => {
      const sized = { frames: 3, height: 16, width: 16, workers };
      const video = Value.Default(datasets["video-folder"].schema, { type: "video-folder", path: videos, ...sized }); // biome-ignore format: one call
      const image = Value.Default(datasets["video-set"].schema, { type: "video-set", path: images, ...sized, frames: 1 }); // biome-ignore format: one call
      return {
        type: "mixture",
        sources: { video, image: { ...(image as object), layout: { type: "image-folder", split_by: "auto" } } }, // biome-ignore format: one value
        weights: { video: 2 },
        final_weights: {},
        schedule_epochs: 0,
        balance: "none",
        size: 9,
        validation_size: 4,
        frames: 3,
        height: 16,
        width: 16,
      } as unknown as DatasetConfig;
    };
    const bytes = async (workers: number): Promise<string> => {
      const dataset = await openDataset(config(workers), "train", 3);
      const loader = new Loader(dataset, { batch: 4, seed: 3 });
      const batches = [await loader.next(), await loader.next(), await loader.next()];
      await dataset.close();
      return batches.map(({ clips, ids }) => ids.join() + Buffer.from(clips).toString("base64")).join(); // biome-ignore format: one call
    };
    expect(await bytes(2)).toBe(await bytes(0));
  });
});

const tool = spawnSync("ffmpeg", ["-version"]).status === 0;
if (!tool) {
  process.stdout.write("flac, mp3 and ogg are not tested: there is no ffmpeg tool (apt-get install ffmpeg)\n"); // biome-ignore format: one call
}

describe("few-shot episodes", () => {
  test("ways, shots and queries of held-out classes, the same for a seed", async () => {
    await write.miniImagenet(join(root.path, "mini"));
    const made = Value.Default(datasets["video-set"].schema, { type: "video-set", path: join(root.path, "mini"), frames: 1, height: 16, width: 16, workers: 0 }); // biome-ignore format: one call
    const dataset = await openDataset({ ...(made as object), layout: { type: "mini-imagenet", held_out: "test" } } as DatasetConfig, "validation", 0); // biome-ignore format: one call
    const rule = { ways: 2, shots: 1, queries: 3 };
    const one = episode(dataset, rule, 7, 0);
    expect(one).toEqual(episode(dataset, rule, 7, 0));
    expect(one).not.toEqual(episode(dataset, rule, 7, 1));
    expect([one.support.length, one.query.length]).toEqual([2, 6]);
    expect(new Set([...one.support, ...one.query].map(({ index }) => index)).size).toBe(8);
    for (const { index, way } of [...one.support, ...one.query]) {
      expect((await dataset.get(index, 0)).label).toBe(one.classes[way]);
    }
    expect(() => episode(dataset, { ...rule, ways: 3 }, 0, 0)).toThrow(/2 classes/);
  });
});

describe("sounds", () => {
  const open = (config: object, split: "train" | "validation") =>
    sounds.open(Value.Default(sounds.schema, { type: "sounds", workers: 0, ...config }) as sounds.SoundsConfig, split, 0); // biome-ignore format: one call

  test("ESC-50: folds, classes, waveform and picture", async () => {
    const path = join(root.path, "esc");
    write.esc50(path);
    const config = { path, layout: "esc50", fold: 2, seconds: 0.25, height: 32, width: 16 };
    const [train, held] = [await open(config, "train"), await open(config, "validation")];
    expect([train.size, held.size, held.classes]).toEqual([2, 2, ["dog", "chirping_birds"]]);
    for (let i = 0; i < 2; i++) {
      const { label, clip, audio, caption } = await held.get(i, 0);
      expect(audio!.length).toBe(4000);
      expect(Math.max(...audio!)).toBeCloseTo(20_000 / 32_768, 2);
      expect(caption).toBe(["dog", "chirping birds"][label]);
      // The brightest row of a middle column: high for 4 kHz, low for 500 Hz.
      const column = Array.from({ length: 32 }, (_, row) => clip[(row * 16 + 8) * 3]!);
      const brightest = column.indexOf(Math.max(...column));
      expect([brightest > 16, brightest < 12]).toEqual(label === 0 ? [true, false] : [false, true]);
    }
  });

  test("folders, sound tracks of videos, short and silent ones", async () => {
    const path = join(root.path, "sounds");
    mkdirSync(join(path, "low"), { recursive: true });
    writeFileSync(join(path, "low", "a.wav"), write.sine(300, 1, 8000));
    writeFileSync(join(path, "low", "short.wav"), write.sine(300, 0.1, 8000));
    writeFileSync(join(path, "low", "text.wav"), "no sound");
    const track = { samples: Float32Array.from({ length: 8000 }, (_, i) => Math.sin(i / 4)), rate: 8000 }; // biome-ignore format: one value
    await writeMp4(join(path, "video", "b.mp4"), numbered(8), 8, track);
    await writeMp4(join(path, "video", "mute.mp4"), numbered(8), 8);
    const config = { path, tracks: true, rate: 8000, seconds: 0.5, short: "loop" };
    const all = await open({ ...config, validation_fraction: 0.99 }, "validation");
    expect(all.skipped?.map(({ file }) => file).sort()).toEqual(["low/text.wav", "video/mute.mp4"]);
    const whole = [all, await open({ ...config, validation_fraction: 0.99 }, "train")];
    const samples = await Promise.all(whole.flatMap((set) => Array.from({ length: set.size }, (_, i) => set.get(i, 0)))); // biome-ignore format: one call
    expect(new Set(samples.map(({ id }) => id.split("@")[0]))).toEqual(new Set(["low/a.wav", "low/short.wav", "video/b.mp4"])); // biome-ignore format: one call
    const short = samples.find(({ id }) => id.startsWith("low/short"))!.audio!;
    expect(short[100]).toBeCloseTo(short[900]!, 5); // 0.1 s again and again
    expect(() => melPicture(new Float32Array(0), 8000, 8, 4)).not.toThrow();
  });
});

test.skipIf(!tool)(
  "flac, mp3 and ogg sound as the wav that they were made of, at the same places",
  async () => {
    const path = join(root.path, "coded");
    mkdirSync(path);
    // A chirp: no two places sound alike.
    const wave = Float32Array.from({ length: 32_000 }, (_, i) => 0.5 * Math.sin(0.02 * i + 2e-6 * i * i)); // biome-ignore format: one call
    writeFileSync(join(path, "a.wav"), write.wav(wave, 16_000));
    for (const name of ["a.flac", "a.mp3", "a.ogg"]) {
      execFileSync("ffmpeg", ["-v", "error", "-i", join(path, "a.wav"), join(path, name)]); // biome-ignore format: one call
    }
    for (const sampling of ["start", "centre"]) {
      const config = { type: "sounds", workers: 0, path, seconds: 0.25, sampling, validation_fraction: 0.5 }; // biome-ignore format: one value
      const heard = new Map<string, Float32Array>();
      for (const split of ["validation", "train"] as const) {
        const set = await sounds.open(Value.Default(sounds.schema, config) as sounds.SoundsConfig, split, 0); // biome-ignore format: one call
        for (let i = 0; i < set.size; i++) {
          const { id, audio } = await set.get(i, 0);
          heard.set(id.split("@")[0]!, audio!);
        }
      }
      const wav = heard.get("a.wav")!;
      const error = (name: string): number => {
        const other = heard.get(name)!;
        const power = wav.reduce((sum, v) => sum + v * v, 0);
        return wav.reduce((sum, v, i) => sum + (v - other[i]!) ** 2, 0) / power;
      };
      expect(wav.length).toBe(4000);
      expect(error("a.flac")).toBeLessThan(1e-9);
      for (const name of ["a.mp3", "a.ogg"]) {
        // As the tool decodes it, with the encoder's delay cut off.
        const args = ["-v", "error", "-i", join(path, name), "-f", "f32le", "-"];
        const bytes = execFileSync("ffmpeg", args, { maxBuffer: 2 ** 26 });
        const tool = new Float32Array(new Uint8Array(bytes).buffer);
        const from = sampling === "start" ? 0 : Math.round((tool.length - 4000) / 2);
        const off = heard.get(name)!.map((v, i) => Math.abs(v - tool[from + i]!));
        expect(Math.max(...off), `${name}, ${sampling}`).toBeLessThan(1e-5);
        expect(error(name)).toBeLessThan(0.01); // coding costs a little
      }
    }
  },
);

test("Moving MNIST: two motions, held-out digits, endless training", async () => {
  const path = join(root.path, "mnist");
  write.mnist(path);
  for (const motion of ["tfds", "svg"] as const) {
    const config = Value.Default(movingMnist.schema, { type: "moving-mnist", path, motion, stochastic: motion === "svg", digits: 1, frames: 8, size: 5 }) as movingMnist.MovingMnistConfig; // biome-ignore format: one value
    const train = await movingMnist.open(config, "train", 0);
    const [a, b] = [await train.get(0, 0), await train.get(0, 1)];
    expect(Buffer.compare(a.clip, (await train.get(0, 0)).clip)).toBe(0);
    expect(Buffer.compare(a.clip, b.clip)).not.toBe(0);
    const held = await movingMnist.open(config, "validation", 0);
    const { clip, label } = await held.get(1, 0);
    expect(Buffer.compare((await held.get(1, 5)).clip, clip)).toBe(0);
    const brightest = clip.reduce((most, value) => Math.max(most, value), 0);
    expect(brightest % 10).toBe((200 + label) % 10); // its level is its label
    // The square is whole in every frame.
    for (let t = 0; t < 8; t++) {
      const frame = clip.subarray(t * 64 * 64 * 3, (t + 1) * 64 * 64 * 3);
      expect(frame.filter((value) => value > 100).length / 3).toBeGreaterThanOrEqual(60);
    }
  }
});
