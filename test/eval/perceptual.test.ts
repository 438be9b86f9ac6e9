/** @file Flicker, LPIPS and FID of clips, inception scores, CLIP's input, sound; and what is said without weights. */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as tf from "@tensorflow/tfjs-core";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bicubicSquare } from "../../src/eval/distribution/bicubic.ts";
import { audioDistance, resample } from "../../src/eval/fad-suite.ts";
import { flickerOf } from "../../src/eval/flicker.ts";
import { buildSuite, type SuiteConfig } from "../../src/eval/registry.ts";
import type { EvalContext } from "../../src/eval/suite.ts";
import { byteCharacters, clipText } from "../../src/models/features/clip-text.ts";
import { Random } from "../../src/runtime/random.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { encodeSafetensors } from "../../src/runtime/safetensors.ts";
import { float32, type HostTensor, sizeOf } from "../../src/runtime/tensors.ts";
import { sym } from "../models/features/formula.ts";
import { blockTokenizer, context, shapes } from "./fakes.ts";
import { golden } from "./golden.ts";

const folder = mkdtempSync(join(tmpdir(), "tessera-perceptual-"));
const saved = { cache: process.env["TESSERA_CACHE"], weights: process.env["TESSERA_WEIGHTS"] };
let device: EvalContext["device"];

const formula = (
  name: string,
  shape: number[],
  seed: number,
  scale: number,
  offset = 0,
): [string, HostTensor] => [name, float32(shape, sym(seed, sizeOf(shape), scale, offset))];

beforeAll(async () => {
  process.env["TESSERA_CACHE"] = folder;
  process.env["TESSERA_WEIGHTS"] = folder;
  device = await openDevice({ type: "cpu" });
});
afterAll(() => {
  for (const [name, value] of Object.entries({
    TESSERA_CACHE: saved.cache,
    TESSERA_WEIGHTS: saved.weights,
  })) {
    if (value === undefined) {
      delete process.env[name];
    } else {
      process.env[name] = value;
    }
  }
  device.dispose();
  rmSync(folder, { recursive: true, force: true });
});

describe("flicker", () => {
  it("is 0 for an exact copy and for a constant offset, and sees a blinking frame", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 36, maxLength: 36 }), fc.nat(50), (clip, offset) => {
        expect(flickerOf(clip, clip, 3).all).toBe(0);
        const brighter = Float32Array.from(clip, (value) => value + offset);
        expect(flickerOf(clip, brighter, 3).all).toBe(0);
      }),
    );
    const still = new Uint8Array(36).fill(100);
    const blinking = still.map((value, i) => (i >= 12 && i < 24 ? value + 6 : value));
    expect(flickerOf(still, blinking, 3)).toEqual({ all: 6, still: 6 });
    const moving = Uint8Array.from({ length: 36 }, (_, i) => i);
    expect(flickerOf(moving, blinking, 3).still).toBeUndefined();
    expect(flickerOf(still, still, 1)).toEqual({ all: 0, still: undefined });
  });
});

const reconstruction = {
  type: "reconstruction",
  split: "validation",
  clips: 4,
  seed: 0,
  rounding: "uint8",
  ssim: [],
  ms_ssim: [],
  lpips: ["alexnet", "vgg16"],
  pictures: 0,
} satisfies SuiteConfig;

/** Clips of a few frames of 32 x 32. */
const small = async (
  levels: number,
  warnings: string[] = [],
  frames = 3,
): Promise<EvalContext> => ({
  ...(await context({
    device,
    batch: 2,
    tokenizer: blockTokenizer(frames, 32, levels),
    dataset: (split) => shapes(split, { frames, height: 32, width: 32, validation_size: 8 }),
  })),
  warn: (text) => void warnings.push(text),
});

describe("LPIPS of clips", () => {
  it("is reported where its weights are, left out with a warning where not", async () => {
    const shapesOf: [number, number[]][] = [
      [0, [64, 3, 11, 11]],
      [3, [192, 64, 5, 5]],
      [6, [384, 192, 3, 3]],
      [8, [256, 384, 3, 3]],
      [10, [256, 256, 3, 3]],
    ];
    const trunk = shapesOf.flatMap(([index, shape], i) => [
      formula(`features.${index}.weight`, shape, i, Math.sqrt(6 / sizeOf(shape.slice(1)))),
      formula(`features.${index}.bias`, [shape[0]!], 50 + i, 0.05),
    ]);
    const heads = shapesOf.map(([, shape], k) =>
      formula(`lin${k}.model.1.weight`, [1, shape[0]!, 1, 1], 90 + k, 0.2, 0.3),
    );
    const write = (name: string, tensors: [string, HostTensor][]): void =>
      writeFileSync(
        join(folder, name),
        encodeSafetensors({ tensors: new Map(tensors), metadata: {} }),
      );
    write("alexnet.safetensors", trunk);
    write("lpips-alex.safetensors", heads);
    const warnings: string[] = [];
    const coarse = await buildSuite(reconstruction, "r").run(await small(3, warnings));
    const fine = await buildSuite(reconstruction, "r").run(await small(64));
    const of = (list: typeof coarse, name: string) => list.find((one) => one.name === `r/${name}`)!;
    expect(of(fine, "lpips").value).toBeLessThan(of(coarse, "lpips").value);
    expect(of(fine, "lpips").protocol["name"]).toBe("lpips:alexnet");
    expect(of(fine, "lpips").protocol["weights_sha256"]).toMatch(/^[0-9a-f]{64}$/);
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain("lpips:vgg16: no score");
    expect(of(fine, "flicker").value).toBeLessThan(of(coarse, "flicker").value);
    expect(coarse.map(({ name }) => name)).not.toContain("r/lpips_vgg16");
    const tiny = { ...(await small(3)), dataset: shapes, tokenizer: blockTokenizer(5, 16, 8) };
    await expect(buildSuite(reconstruction, "r").run(tiny)).rejects.toThrow(/at least 31 x 31/);
  });
});

describe("scores on InceptionV3", () => {
  beforeAll(() => {
    const { layers } = golden<{
      layers: { i: number; name: string; cin: number; cout: number; kernel: [number, number] }[];
    }>("inception_fid_conformance");
    const tensors = layers.flatMap(({ i, name, cin, cout, kernel: [kh, kw] }) => [
      formula(`${name}.conv.weight`, [cout, cin, kh, kw], 5 * i, Math.sqrt(6 / (cin * kh * kw))),
      formula(`${name}.bn.weight`, [cout], 5 * i + 1, 0.1, 1),
      formula(`${name}.bn.bias`, [cout], 5 * i + 2, 0.1),
      formula(`${name}.bn.running_mean`, [cout], 5 * i + 3, 0.1),
      formula(`${name}.bn.running_var`, [cout], 5 * i + 4, 0.5, 1),
    ]);
    const fc = formula("fc.weight", [1008, 2048], 7, 0.3);
    const file = encodeSafetensors({ tensors: new Map([...tensors, fc]), metadata: {} });
    writeFileSync(join(folder, "inception-fid.safetensors"), file);
  });

  it("FID and the inception score of frames are finite, ordered and named", async () => {
    const fid = {
      type: "fid",
      protocol: "pytorch-fid",
      split: "validation",
      clips: 2,
      seed: 0,
      kernel: true,
      neighbours: false,
      extrapolate: false,
      reconstruction: true,
      generation: true,
      floor: false,
      repeats: 1,
      weights: "",
    } satisfies SuiteConfig;
    const coarse = await buildSuite(fid, "fid").run(await small(2, [], 1));
    const fine = await buildSuite(fid, "fid").run(await small(64, [], 1));
    expect(fine.map(({ name }) => name)).toEqual([
      "fid/reconstruction",
      "fid/kernel_reconstruction",
    ]);
    expect(fine[0]!.value).toBeLessThan(coarse[0]!.value);
    expect(fine[0]!.protocol["name"]).toBe("fid:pytorch-fid");
    const inception = {
      type: "inception-score",
      classifier: "inception",
      split: "validation",
      clips: 2,
      seed: 0,
      splits: 2,
      weights: [],
    } satisfies SuiteConfig;
    const [real] = await buildSuite(inception, "is").run(await small(2, [], 1));
    expect(real!.name).toBe("is/real");
    expect(real!.value).toBeGreaterThanOrEqual(1);
    expect(real!.value).toBeLessThanOrEqual(1008);
  });
});

describe("without weights", () => {
  it.each<SuiteConfig>([
    {
      type: "clipsim",
      split: "validation",
      clips: 4,
      seed: 0,
      text: "caption",
      sentence: "a {class}",
      weights: "",
      merges: "",
    },
    { type: "fad", split: "validation", clips: 4, seed: 0, weights: "" },
  ])("$type gives no score and one line that says why", async (config) => {
    const warnings: string[] = [];
    const ctx = await small(4, warnings);
    const dataset = async (split: "train" | "validation") => ({
      ...(await ctx.dataset(split)),
      audioRate: 16_000,
    });
    expect(await buildSuite(config, "x").run({ ...ctx, dataset })).toEqual([]);
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain("no score: the weights of");
  });

  it("the audio distance says that there is no sound", async () => {
    const config = {
      type: "fad",
      split: "validation",
      clips: 4,
      seed: 0,
      weights: "",
    } satisfies SuiteConfig;
    await expect(buildSuite(config, "fad").run(await small(4))).rejects.toThrow(/needs sound/);
  });

  it("the video inception score says how many frames it takes", async () => {
    const config = {
      type: "inception-score",
      classifier: "c3d-ucf101",
      split: "validation",
      clips: 4,
      seed: 0,
      splits: 2,
      weights: [],
    } satisfies SuiteConfig;
    await expect(buildSuite(config, "is").run(await small(4))).rejects.toThrow(
      /16 frames.*gives 3/,
    );
  });
});

describe("CLIP's input", () => {
  it("is resized as PyTorch's antialiased bicubic does", async () => {
    const picture = float32(
      [1, 5, 7, 1],
      Array.from({ length: 35 }, (_, i) => (i * 37) % 23),
    );
    device.activate();
    const run = device.compile("bicubic", ({ x }) => ({
      small: bicubicSquare(x as tf.Tensor4D, 4),
      large: bicubicSquare(x as tf.Tensor4D, 9),
    }));
    const { small: four, large } = await run({ x: picture });
    const want = [
      13.26434, 9.56707, 13.880282, 3.497834, 14.310446, 8.941789, 12.685422, 12.558844, 5.254179,
      8.936975, 11.767667, 16.349152, 10.989284, 10.387766, 14.388736, 5.616527,
    ];
    want.forEach((value, i) => expect(four!.data[i]).toBeCloseTo(value, 3));
    const first = [12.355702, 10.593007, 4.451641, 11.706836, 20.383721, 15.93806, 8.695155];
    first.forEach((value, i) => expect(large!.data[i]).toBeCloseTo(value, 3));
  });

  it("is byte-pair encoded: merges by rank, words end apart, bytes all have a symbol", () => {
    const words = clipText([
      ["l", "o"],
      ["lo", "w</w>"],
      ["e", "r</w>"],
      ["n", "e"],
    ]);
    const { ids, end } = words.encode("  Low  lower ", 10);
    const at = (symbol: string): number => {
      const alone = words.encode(symbol, 10);
      return alone.ids[1]!;
    };
    // 512 byte symbols, then merges in order, then the two marks.
    expect(Array.from(ids.subarray(0, end + 1))).toEqual([516, 513, 512, at("w") - 256, 514, 517]);
    expect(end).toBe(5);
    expect(new Set(byteCharacters()).size).toBe(256);
    fc.assert(
      fc.property(fc.string({ unit: "grapheme" }), (text) => {
        const found = words.encode(text, 12);
        expect(found.ids.length).toBe(12);
        expect(found.ids[0]).toBe(516);
        expect(found.ids[found.end]).toBe(517);
        expect([...found.ids].every((id) => id >= 0 && id < 518)).toBe(true);
      }),
    );
  });
});

describe("sound", () => {
  it("is resampled linearly, and its distance is 0 to itself and grows with a shift", () => {
    expect([...resample(Float32Array.of(0, 1, 2, 3), 8000, 16_000)]).toEqual([
      0, 0.5, 1, 1.5, 2, 2.5, 3, 3,
    ]);
    const random = new Random(5, "sound");
    const a = [Float32Array.from(random.normals(300 * 128))];
    const b = [a[0]!.map((value) => value + 1)];
    expect(audioDistance(a, a)).toBeLessThan(1e-6);
    expect(audioDistance(a, b)).toBeCloseTo(128, 2);
  });
});
