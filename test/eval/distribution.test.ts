/** @file Scores of sets: kernel distances, inception score, precision and recall, limits, resizing, FVD. */

import { mkdtempSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as tf from "@tensorflow/tfjs-core";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { resized, rounded } from "../../src/eval/distribution/extractors.ts";
import { FeatureCache } from "../../src/eval/distribution/feature-cache.ts";
import { FeatureStatistics, frechetDistance } from "../../src/eval/distribution/frechet.ts";
import { inceptionScore } from "../../src/eval/distribution/inception-score.ts";
import { limitOverCounts } from "../../src/eval/distribution/judge.ts";
import {
  gaussianKernel,
  kernelDistance,
  kernelDistanceOfBlocks,
  kernelDistanceOfSubsets,
} from "../../src/eval/distribution/kernel-distance.ts";
import { precisionRecall } from "../../src/eval/distribution/neighbours.ts";
import { videoProtocolNames, videoProtocols } from "../../src/eval/distribution/video-protocols.ts";
import { findWeights, missingWeights } from "../../src/eval/networks/published.ts";
import { buildSuite } from "../../src/eval/registry.ts";
import type { EvalContext } from "../../src/eval/suite.ts";
import { openI3d } from "../../src/models/features/i3d.ts";
import { openLpips } from "../../src/models/features/lpips.ts";
import { Random } from "../../src/runtime/random.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { encodeSafetensors } from "../../src/runtime/safetensors.ts";
import { float32, type HostTensor, sizeOf } from "../../src/runtime/tensors.ts";
import { openWeights } from "../../src/runtime/weight-files/open.ts";
import { mergeWeights } from "../../src/runtime/weight-files/weights.ts";
import { sym } from "../models/features/formula.ts";
import { blockTokenizer, context, shapes } from "./fakes.ts";
import { fracsin, golden } from "./golden.ts";
import { fastDevices } from "../models/features/formula.ts";

/** base @ (I + 0.3 mixing), as the goldens' features. */
function features(n: number, d: number, start: number): Float64Array {
  const base = fracsin(n * d, start);
  const mix = fracsin(d * d, 5000 + start).map((v, i) => 0.3 * v + (i % (d + 1) === 0 ? 1 : 0));
  return Float64Array.from({ length: n * d }, (_, at) => {
    let sum = 0;
    for (let k = 0; k < d; k++) {
      sum += base[Math.floor(at / d) * d + k]! * mix[k * d + (at % d)]!;
    }
    return sum;
  });
}

describe("kernel distances", () => {
  const want = golden<{
    full: { unbiased: number; biased: number; u_statistic: number };
    unequal_64_48: { biased: number };
    tfgan_blocks_bs20: { mean: number; stderr: number; block_values: number[] };
    subsets: number[];
    kid_mean: number;
    kid_std: number;
    rbf_sigma2_unbiased: number;
  }>("kid_kvd");
  const x = features(64, 16, 0);
  const y = features(64, 16, 20_000).map((v) => v * 1.15 + 0.05);

  it("agree with the golden in every form", () => {
    expect(kernelDistance(x, y, 16, "unbiased")).toBeCloseTo(want.full.unbiased, 9);
    expect(kernelDistance(x, y, 16, "biased")).toBeCloseTo(want.full.biased, 9);
    expect(kernelDistance(x, y, 16, "u-statistic")).toBeCloseTo(want.full.u_statistic, 9);
    const fewer = y.subarray(0, 48 * 16);
    expect(kernelDistance(x, fewer, 16, "biased")).toBeCloseTo(want.unequal_64_48.biased, 9);
    expect(() => kernelDistance(x, fewer, 16, "u-statistic")).toThrow(/one size/);
    const rbf = kernelDistance(x, y, 16, "unbiased", gaussianKernel(2));
    expect(rbf).toBeCloseTo(want.rbf_sigma2_unbiased, 9);
  });

  it("agree over subsets and blocks", () => {
    const subsets = [0, 1, 2, 3].map((i) => {
      const places = Array.from({ length: 32 }, (_, k) => i + k);
      return [places.map((k) => (k * 5) % 64), places.map((k) => (k * 7 + 3) % 64)] as const;
    });
    const kid = kernelDistanceOfSubsets(x, y, 16, subsets);
    kid.values.forEach((value, i) => expect(value).toBeCloseTo(want.subsets[i]!, 9));
    expect(kid.mean).toBeCloseTo(want.kid_mean, 9);
    expect(kid.deviation).toBeCloseTo(want.kid_std, 9);
    const blocks = kernelDistanceOfBlocks(x, y, 16, 20);
    expect(blocks.values).toHaveLength(4);
    blocks.values.forEach((value, i) =>
      expect(value).toBeCloseTo(want.tfgan_blocks_bs20.block_values[i]!, 8),
    );
    expect(blocks.mean).toBeCloseTo(want.tfgan_blocks_bs20.mean, 8);
    expect(blocks.error).toBeCloseTo(want.tfgan_blocks_bs20.stderr, 8);
  });
});

describe("inception score", () => {
  const { cases } = golden<{
    cases: { splits: number; scores: number[]; mean: number; std_population: number }[];
  }>("inception_score");
  const logits = fracsin(600, 300).map((v) => v * 6 - 3);

  it.each(cases)("agrees over $splits splits", ({ splits, scores, mean, std_population }) => {
    const found = inceptionScore(logits, 10, splits);
    found.splits.forEach((value, i) => expect(value).toBeCloseTo(scores[i]!, 9));
    expect(found.mean).toBeCloseTo(mean, 9);
    expect(found.deviation).toBeCloseTo(std_population, 9);
  });

  it("is 1 for equal samples, the number of classes for clear and even ones", () => {
    expect(inceptionScore(new Float64Array(40).fill(3), 4, 1).mean).toBeCloseTo(1, 12);
    const clear = Float64Array.from({ length: 16 }, (_, i) => (i % 5 === 0 ? 1000 : 0));
    expect(inceptionScore(clear, 4, 1).mean).toBeCloseTo(4, 9);
    expect(() => inceptionScore(logits, 10, 61)).toThrow(/at least as many/);
    expect(() => inceptionScore(Float64Array.of(1, Number.NaN), 2, 1)).toThrow(/finite/);
  });
});

describe("precision and recall", () => {
  it("are 1 for equal sets, 0 for far ones, and tell a narrow generator from a wide one", () => {
    const random = new Random(1, "pr");
    const real = Float64Array.from(random.normals(200 * 4));
    expect(precisionRecall(real, real, 4)).toEqual({ precision: 1, recall: 1 });
    const far = real.map((v) => v + 100);
    expect(precisionRecall(real, far, 4)).toEqual({ precision: 0, recall: 0 });
    const narrow = Float64Array.from(random.normals(200 * 4)).map((v) => 0.3 * v);
    const { precision, recall } = precisionRecall(real, narrow, 4);
    expect(precision).toBeGreaterThan(0.95);
    expect(recall).toBeLessThan(0.5);
    const swapped = precisionRecall(narrow, real, 4);
    expect(swapped.recall).toBe(precision);
    expect(() => precisionRecall(real, real.subarray(0, 12), 4)).toThrow(/more than 3/);
  });
});

describe("the limit over sample counts", () => {
  it("is the intercept of an exact line, and takes most of a distance's bias away", () => {
    expect(limitOverCounts([64, 128, 256], [5 + 64 / 64, 5 + 64 / 128, 5 + 64 / 256])).toBeCloseTo(
      5,
      12,
    );
    // Two sets of one law: the true distance is 0.
    const d = 8;
    const random = new Random(3, "limit");
    const [a, b] = [0, 1].map(() => Float64Array.from(random.normals(1600 * d)));
    const at = [400, 800, 1600].map((n) => {
      const of = (values: Float64Array) => {
        const statistics = new FeatureStatistics(d);
        statistics.add(values.subarray(0, n * d));
        return statistics.moments("unbiased");
      };
      return frechetDistance(of(a!), of(b!));
    });
    expect(Math.abs(limitOverCounts([400, 800, 1600], at))).toBeLessThan(0.5 * at[2]!);
  });
});

describe("pixels before a network", () => {
  it.each(fastDevices)("are resized as the goldens say on %s", async (type) => {
    const want = golden<{
      input: number[][];
      cases: {
        out: [number, number];
        tf1_legacy: number[][];
        half_pixel_torch_align_false: number[][];
      }[];
      aspect_crop_R8: { value: number[][] };
    }>("resize");
    const device = await openDevice({ type });
    const picture = float32([1, 5, 7, 1], want.input.flat());
    // The goldens are float64's; a device computes in float32, with 24 bits.
    const largest = Math.max(...want.input.flat().map(Math.abs));
    const near = (found: HostTensor, values: number[][]): void =>
      values
        .flat()
        .forEach((value, i) =>
          expect(Math.abs(found.data[i]! - value)).toBeLessThan(1e-6 * largest),
        );
    for (const { out, tf1_legacy, half_pixel_torch_align_false } of want.cases) {
      const run = device.compile(`resize ${out.join()}`, ({ x }) => ({
        legacy: tf.image.resizeBilinear(x as tf.Tensor4D, out, false, false),
        half: tf.image.resizeBilinear(x as tf.Tensor4D, out, false, true),
      }));
      const { legacy, half } = await run({ x: picture });
      near(legacy!, tf1_legacy);
      near(half!, half_pixel_torch_align_false);
    }
    const crop = device.compile("crop", ({ x }) => ({
      y: resized(x as tf.Tensor4D, 8, "half-pixel-crop"),
    }));
    near((await crop({ x: picture })).y!, want.aspect_crop_R8.value);
    device.dispose();
  });

  it("are rounded as each protocol says", () => {
    const decoded = Float32Array.of(-2, -1, 0, 0.5, 0.999, 2);
    const shape = [1, 1, 1, 2, 3];
    expect([...rounded(shape, decoded, "round").data]).toEqual([0, 0, 128, 191, 255, 255]);
    expect([...rounded(shape, decoded, "truncate").data]).toEqual([0, 0, 127, 191, 254, 255]);
    expect(rounded(shape, decoded, "none").data[2]).toBe(127.5);
    expect(() =>
      rounded(
        shape,
        decoded.map(() => Number.NaN),
        "none",
      ),
    ).toThrow(/not finite/);
  });
});

describe("the feature cache", () => {
  it("gives back what was put in, also after a record was cut off", () => {
    const before = process.env["TESSERA_CACHE"];
    process.env["TESSERA_CACHE"] = mkdtempSync(join(tmpdir(), "tessera-cache-"));
    try {
      fc.assert(
        fc.property(
          fc.nat(),
          fc.array(fc.float({ noNaN: true }), { minLength: 3, maxLength: 3 }),
          fc.integer({ min: 1, max: 40 }),
          (salt, values, lost) => {
            const identity = { salt };
            const first = new FeatureCache(3, identity);
            const [a, b] = ["a", "b"].map((text) => FeatureCache.keyOf(Buffer.from(text)));
            const kept = Float32Array.from(values);
            first.put(a!, kept);
            first.put(b!, Float32Array.of(1, 2, 3));
            truncateSync(first.path, statSync(first.path).size - lost);
            const second = new FeatureCache(3, identity);
            expect(second.get(a!)).toEqual(kept);
            expect(second.get(b!)).toBeUndefined();
            second.put(b!, kept);
            expect(new FeatureCache(3, identity).get(b!)).toEqual(kept);
            writeFileSync(first.path, "");
          },
        ),
        { numRuns: 20 },
      );
    } finally {
      process.env["TESSERA_CACHE"] = before;
    }
  });
});

describe("fvd", () => {
  const folder = mkdtempSync(join(tmpdir(), "tessera-fvd-"));
  const path = join(folder, "i3d.safetensors");
  const saved = { cache: process.env["TESSERA_CACHE"], weights: process.env["TESSERA_WEIGHTS"] };
  let device: EvalContext["device"];

  beforeAll(async () => {
    process.env["TESSERA_CACHE"] = folder;
    process.env["TESSERA_WEIGHTS"] = join(folder, "nothing");
    device = await openDevice({ type: "cpu" });
    const { tensors } = golden<{ tensors: { k: number; name: string; shape: number[] }[] }>(
      "i3d_conformance",
    );
    const made = tensors.map(({ k, name, shape }): [string, HostTensor] => {
      const scale = name.endsWith("/w") ? Math.sqrt(6 / sizeOf(shape.slice(0, 4))) : 0.1;
      const offset = name.endsWith("variance") ? 1 : 0;
      return [name, float32(shape, sym(1000 + k, sizeOf(shape), scale, offset))];
    });
    writeFileSync(path, encodeSafetensors({ tensors: new Map(made), metadata: {} }));
  });
  afterAll(() => {
    for (const [name, value] of [
      ["TESSERA_CACHE", saved.cache],
      ["TESSERA_WEIGHTS", saved.weights],
    ] as const) {
      if (value === undefined) {
        delete process.env[name];
      } else {
        process.env[name] = value;
      }
    }
    device.dispose();
  });

  const config = {
    type: "fvd",
    protocol: "tats",
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
    weights: path,
  } as const;

  const nineFrames = (options: { [key: string]: unknown } = {}) =>
    context({
      device,
      batch: 2,
      tokenizer: blockTokenizer(9, 16, 8),
      dataset: (split) => shapes(split, { frames: 9, validation_size: 8, ...options }),
    });

  it("gives distances under its protocol, equal when features come from the cache", async () => {
    const warnings: string[] = [];
    const ctx = { ...(await nineFrames()), warn: (text: string) => void warnings.push(text) };
    const first = await buildSuite(config, "fvd").run(ctx);
    expect(first.map(({ name }) => name)).toEqual([
      "fvd/reconstruction",
      "fvd/kernel_reconstruction",
    ]);
    expect(first[0]!.protocol).toMatchObject({
      name: "fvd:tats",
      bn_epsilon: 1e-5,
      rounding: "truncate",
      weights_sha256: findWeights("i3d", [path])!.sha256,
    });
    expect(first[0]!.value).toBeGreaterThan(0);
    expect(warnings.some((text) => text.includes("2 samples do not fill 400"))).toBe(true);
    const second = await buildSuite(config, "fvd").run(ctx);
    expect(second).toEqual(first);
  });

  it("says why there is no score: weights, frames, wrong and damaged files", async () => {
    const warnings: string[] = [];
    const ctx = { ...(await nineFrames()), warn: (text: string) => void warnings.push(text) };
    expect(await buildSuite({ ...config, weights: "" }, "fvd").run(ctx)).toEqual([]);
    expect(warnings).toEqual([missingWeights("i3d")]);
    await expect(buildSuite({ ...config, weights: "no.pt" }, "fvd").run(ctx)).rejects.toThrow(
      /no weight file no\.pt/,
    );
    const five = await context({ device });
    await expect(buildSuite(config, "fvd").run(five)).rejects.toThrow(/at least 9.*gives 5/);
    await expect(buildSuite({ ...config, protocol: "larp" }, "fvd").run(ctx)).rejects.toThrow(
      /12 to 16/,
    );
    const cut = join(folder, "cut.safetensors");
    const whole = readFileSync(path);
    writeFileSync(cut, whole.subarray(0, 1_000_000));
    await expect(buildSuite({ ...config, weights: cut }, "fvd").run(ctx)).rejects.toThrow(
      /cut off or damaged/,
    );
    const bad = Uint8Array.from(whole);
    new DataView(bad.buffer).setFloat32(bad.length - 4, Number.NaN, true);
    writeFileSync(cut, bad);
    await expect(buildSuite({ ...config, weights: cut }, "fvd").run(ctx)).rejects.toThrow(/NaN/);
  });

  it("can be asked for under every protocol that there is", async () => {
    const ctx = { ...(await nineFrames({ frames: 16 })), tokenizer: blockTokenizer(16, 16, 8) };
    for (const protocol of videoProtocolNames) {
      expect(await buildSuite({ ...config, protocol, weights: "" }, "fvd").run(ctx)).toEqual([]);
    }
  });

  it("documents every protocol's choices, no two alike", () => {
    const texts = Object.values(videoProtocols).map(({ measures, ...choices }) => {
      expect(measures.length).toBeGreaterThan(40);
      return JSON.stringify(choices);
    });
    expect(new Set(texts).size).toBe(texts.length);
  });
});

describe.each(fastDevices)("published numbers on %s", (type) => {
  const i3d = findWeights("i3d", []);
  const alexnet = findWeights("lpips-alexnet", []);
  const want = golden<{
    fvd_zeros_vs_ones: { frames: number[]; run_2025: number[]; run_older: number[] };
    lpips_zeros_vs_ones: { alex_64x64: number };
  }>("published_end_to_end");

  it.skipIf(!i3d)(
    `FVD of zeros against ones (${i3d ? i3d.paths.join() : missingWeights("i3d")})`,
    async () => {
      const device = await openDevice({ type });
      const network = openI3d(openWeights(i3d!.paths[0]!));
      for (const frames of [10, 11, 16]) {
        const run = device.compile(`zeros ${frames}`, ({ x }) => {
          const wide = tf.fill([1, frames, 224, 224, 3], 0);
          return { y: network.logits(tf.add(wide, x!) as tf.Tensor5D) };
        });
        const [zero, one] = [
          await run({ x: float32([], [-1]) }),
          await run({ x: float32([], [1]) }),
        ];
        let distance = 0;
        for (let k = 0; k < 400; k++) {
          distance += (zero.y!.data[k]! - one.y!.data[k]!) ** 2;
        }
        const at = want.fvd_zeros_vs_ones.frames.indexOf(frames);
        expect(distance / want.fvd_zeros_vs_ones.run_2025[at]!).toBeCloseTo(1, 2);
      }
      device.dispose();
    },
  );

  it.skipIf(!alexnet)(
    `LPIPS of zeros against ones (${alexnet ? alexnet.paths.join() : missingWeights("lpips-alexnet")})`,
    async () => {
      const device = await openDevice({ type });
      const lpips = openLpips(
        "alexnet",
        mergeWeights(alexnet!.paths.map((one) => openWeights(one))),
      );
      const run = device.compile("lpips", ({ a, b }) => ({
        y: lpips.distance(a as tf.Tensor4D, b as tf.Tensor4D),
      }));
      const flat = (value: number) =>
        float32([1, 64, 64, 3], new Float32Array(64 * 64 * 3).fill(value));
      const { y } = await run({ a: flat(-1), b: flat(1) });
      expect(y!.data[0]! / want.lpips_zeros_vs_ones.alex_64x64).toBeCloseTo(1, 3);
      device.dispose();
    },
  );
});
