/** @file What every quantizer promises: goldens, round trips, gradients, noise, state, and both devices. */

import * as tf from "@tensorflow/tfjs-core";
import { Ajv } from "ajv";
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { Scope } from "../../src/models/scope.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { float32, type HostTensors } from "../../src/runtime/tensors.ts";
import * as bsq from "../../src/tokenizers/quantizers/bsq.ts";
import * as fsq from "../../src/tokenizers/quantizers/fsq.ts";
import { drawLevels } from "../../src/tokenizers/quantizers/rvq.ts";
import {
  buildQuantizer,
  type QuantizerConfig,
  quantizerSchema,
} from "../../src/tokenizers/quantizers/registry.ts";
import * as vq from "../../src/tokenizers/quantizers/vq.ts";
import {
  clips,
  golden,
  gradientError,
  sym,
  useReference,
  vqConfig,
  worstError,
} from "./helpers.ts";

interface Golden {
  vq: { z: number[][]; codebook: number[][] };
  vq_cosine: { indices: number[]; commitment_mse: number };
  lfq: { x: number[][] };
  bsq: {
    quantized: number[][];
    commit_mse: number;
    sample_entropy_beta1: number;
    avg_entropy_beta1: number;
  };
  fsq: {
    z: number[][];
    levels: number[];
    [bound: string]: unknown;
  };
  fsq_symmetry_preserving: { codes: number[][]; level_indices: number[][] };
}
interface FsqGolden {
  bounded: number[][];
  codes: number[][];
  indices: number[];
}

const g = golden<Golden>("quantizers.json");
const validate = new Ajv({ strict: false, discriminator: true, useDefaults: true }).compile(
  quantizerSchema,
);
/** A full config from the keys that matter. */
function full(config: object): QuantizerConfig {
  const copy = structuredClone(config);
  if (!validate(copy)) {
    throw new Error(JSON.stringify(validate.errors));
  }
  return copy as QuantizerConfig;
}
const build = (config: object, scope = Scope.root(3)) => buildQuantizer(full(config), scope);
const latent = (rows: number[][]): tf.Tensor5D =>
  tf.tensor5d(rows.flat(), [1, 1, 1, rows.length, rows[0]!.length]);
const value = (x: tf.Tensor | undefined): number => x!.dataSync()[0]!;
const step = (n = 0) => tf.scalar(n);

/** One of each kind, small. */
const family: readonly (readonly [string, object])[] = [
  ["vq", { type: "vq", size: 8, width: 4 }],
  ["vq by cosine", { type: "vq", size: 8, width: 4, distance: "cosine", learn: "ema" }],
  ["vq in groups after k-means", { type: "vq", size: 8, width: 4, groups: 2, kmeans_steps: 2 }],
  ["vq with two sub-ids", { type: "vq", size: 8, width: 4, factor_size: 4 }],
  ["rvq", { type: "rvq", size: 8, width: 4, levels: 3, dropout: 0.5 }],
  ["rvq by gradient", { type: "rvq", size: 8, width: 4, levels: 2, learn: "gradient" }],
  ["gumbel", { type: "gumbel", size: 8, width: 4, temperature_steps: 10 }],
  ["gumbel by distance", { type: "gumbel", size: 8, width: 4, logits: "distance", logit_scale: 2, entropy_weight: 0.1 }], // biome-ignore format: one case
  ["lfq", { type: "lfq", bits: 4, factor_bits: 3, entropy_anneal_factor: 3 }],
  ["bsq", { type: "bsq", bits: 4, factor_bits: 4 }],
  ["fsq", { type: "fsq", levels: [4, 3, 5, 2] }],
  ["ibq", { type: "ibq", size: 8, width: 4 }],
  ["spae", { type: "spae", size: 16, width: 4, strides: [2, 1], layer_dropout: 0.5 }],
  ["none", { type: "none", width: 4 }],
  ["none with a prior", { type: "none", width: 2, kl_weight: 0.1 }],
];
const shape: [number, number, number, number, number] = [2, 2, 2, 2, 4];
const noiseOf = (inputs: HostTensors | undefined) =>
  Object.fromEntries(
    Object.entries(inputs ?? {}).map(([name, t]) => [name, tf.tensor(t.data, [...t.shape])]),
  );

beforeAll(useReference);

it("vq with factor_size gives the index of the one codebook as two digits", () => {
  const x = tf.randomNormal<tf.Rank.R5>(shape, 0, 1, "float32", 3);
  const whole = build({ type: "vq", size: 8, width: 4 }).assign(x);
  const parted = build({ type: "vq", size: 8, width: 4, factor_size: 4 });
  expect(parted.factors).toEqual([4, 2]);
  const { ids, codes } = parted.assign(x);
  const digits = [...ids.dataSync()];
  const joined = Array.from(
    whole.ids.dataSync(),
    (_, i) => digits[2 * i]! + 4 * digits[2 * i + 1]!,
  );
  expect(joined).toEqual([...whole.ids.dataSync()]);
  expect(worstError(codes, [...whole.codes.dataSync()])).toBe(0);
});

describe("goldens", () => {
  it("vq by cosine: nearest codes and commitment", () => {
    const scope = Scope.root(0);
    const config = { ...vqConfig, size: 8, distance: "cosine", entropy_weight: 0 } as const;
    const quantizer = vq.build(config, scope);
    scope.variables().get("codebook")!.assign(tf.tensor2d(g.vq.codebook));
    const { ids, metrics } = quantizer.quantize(latent(g.vq.z), step(), false);
    expect([...ids.dataSync()]).toEqual(g.vq_cosine.indices);
    expect(value(metrics["commitment"])).toBeCloseTo(g.vq_cosine.commitment_mse, 6);
  });

  it("bsq: codes, commitment and entropies", () => {
    const sized = { type: "bsq", bits: 4, entropy_temperature: 1, entropy_group_bits: 1 };
    const config = full(sized) as bsq.BsqConfig;
    const x = latent(g.lfq.x);
    const { codes, metrics } = bsq.build(config).quantize(x, step(), true);
    expect(worstError(codes, g.bsq.quantized.flat())).toBeLessThan(1e-6);
    expect(value(metrics["commitment"])).toBeCloseTo(g.bsq.commit_mse, 6);
    expect(value(metrics["sample_entropy"])).toBeCloseTo(g.bsq.sample_entropy_beta1, 5);
    // The constant in our logarithm is worth 1e-5 a value, and there are eight.
    expect(value(metrics["batch_entropy"])).toBeCloseTo(g.bsq.avg_entropy_beta1 - 8e-5, 5);
  });

  it.each([
    ["paper", "official"],
    ["widened", "lucidrains"],
  ] as const)("fsq bounded as in %s: bounds, codes and ids", (bound, name) => {
    const config = full({ type: "fsq", levels: g.fsq.levels, bound }) as fsq.FsqConfig;
    const expected = g.fsq[name] as FsqGolden;
    const bounded = fsq.boundChannels(tf.tensor2d(g.fsq.z), config);
    expect(worstError(bounded, expected.bounded.flat())).toBeLessThan(2e-6);
    const { ids, codes } = fsq.build(config).assign(latent(g.fsq.z));
    expect(worstError(codes, expected.codes.flat())).toBeLessThan(1e-6);
    expect([...ids.dataSync()]).toEqual(expected.indices);
  });

  it("fsq with symmetric levels: codes and level numbers", () => {
    const levels = g.fsq.levels;
    const config = full({ type: "fsq", levels, bound: "symmetric" }) as fsq.FsqConfig;
    const { ids, codes } = fsq.build(config).assign(latent(g.fsq.z));
    expect(worstError(codes, g.fsq_symmetry_preserving.codes.flat())).toBeLessThan(1e-6);
    const expected = g.fsq_symmetry_preserving.level_indices.map((digits) => {
      let place = 1;
      return digits.reduce((sum, digit, d) => {
        const next = sum + digit * place;
        place *= levels[d]!;
        return next;
      }, 0);
    });
    expect([...ids.dataSync()]).toEqual(expected);
  });
});

/** Values as bfloat16 holds them: the upper half of the bits, rounded to even. */
function bfloat16(x: tf.Tensor5D): tf.Tensor5D {
  const bits = new Uint32Array(Float32Array.from(x.dataSync()).buffer);
  const rounded = bits.map((b) => (b + 0x7fff + ((b >>> 16) & 1)) & 0xffff0000);
  return tf.tensor5d(new Float32Array(rounded.buffer), x.shape);
}

describe("ids and codes", () => {
  const cases: readonly (readonly [string, object])[] = [
    ["lfq of 16 bits", { type: "lfq", bits: 16, factor_bits: 16 }],
    ["lfq of 1 bit", { type: "lfq", bits: 1, factor_bits: 1 }],
    ["lfq of 9 bits in parts of 4", { type: "lfq", bits: 9, factor_bits: 4 }],
    ["bsq of 16 bits in parts of 8", { type: "bsq", bits: 16, factor_bits: 8 }],
    ["bsq of 13 bits in parts of 5", { type: "bsq", bits: 13, factor_bits: 5 }],
    // The paper's level sets for 2^8 to 2^16.
    ["fsq [8, 6, 5]", { type: "fsq", levels: [8, 6, 5] }],
    ["fsq [8, 5, 5, 5]", { type: "fsq", levels: [8, 5, 5, 5], bound: "widened" }],
    ["fsq [7, 5, 5, 5, 5] in parts", { type: "fsq", levels: [7, 5, 5, 5, 5], factor_size: 256 }],
    ["fsq [8, 8, 8, 6, 5]", { type: "fsq", levels: [8, 8, 8, 6, 5], bound: "symmetric" }],
    ["fsq [8, 8, 8, 5, 5, 5]", { type: "fsq", levels: [8, 8, 8, 5, 5, 5] }],
    ["fsq [4, 4, 6], symmetric", { type: "fsq", levels: [4, 4, 6], bound: "symmetric" }],
    ["fsq of 256 levels in parts of 16", { type: "fsq", levels: [256, 16, 16], factor_size: 16 }],
    ["fsq of 2^1", { type: "fsq", levels: [2] }],
    ["vq of 2048", { type: "vq", size: 2048, width: 8 }],
    ["vq of 1024 as two sub-ids", { type: "vq", size: 1024, width: 8, factor_size: 64 }],
    ["vq by cosine in groups", { type: "vq", size: 64, width: 8, groups: 2, distance: "cosine" }],
    ["gumbel of 2048", { type: "gumbel", size: 2048, width: 8 }],
    ["gumbel by distance", { type: "gumbel", size: 512, width: 8, logits: "distance" }],
    ["ibq of 2048", { type: "ibq", size: 2048, width: 8 }],
    ["spae of 2048 words", { type: "spae", size: 2048, width: 8, strides: [2, 1] }],
  ];
  /** All ids of a vocabulary, the first sub-id fastest: [1, 1, 1, N, F]. */
  function everyId({ factors }: { factors: readonly number[] }): tf.Tensor5D {
    const size = factors.reduce((a, b) => a * b, 1);
    expect(size).toBeLessThanOrEqual(2 ** 16);
    const ids = new Int32Array(size * factors.length);
    for (let n = 0; n < size; n++) {
      let rest = n;
      factors.forEach((factor, f) => {
        ids[n * factors.length + f] = rest % factor;
        rest = Math.floor(rest / factor);
      });
    }
    return tf.tensor5d(ids, [1, 1, 1, size, factors.length], "int32");
  }
  it.each(cases)("every id of %s comes back from its code, in bfloat16 too", (_, config) => {
    const quantizer = build(config);
    const all = everyId(quantizer);
    const codes = quantizer.lookup(all);
    expect(quantizer.indices!(codes).dataSync()).toEqual(all.dataSync());
    expect(quantizer.indices!(bfloat16(codes)).dataSync()).toEqual(all.dataSync());
  });

  /** Residual codebooks, each `ratio` times as large as the next, their codes about as far apart. */
  function residual(size: number, levels: number, ratio: number) {
    const scope = Scope.root(3);
    const quantizer = build({ type: "rvq", size, width: 4, levels }, scope);
    for (let l = 0; l < levels; l++) {
      // Corners of a cube of side^4 points, moved a little so that no two sums are alike.
      const side = Math.round(size ** 0.25);
      const codes = Array.from(
        { length: size },
        (_, k) =>
        [0, 1, 2, 3].map((d) => ((Math.floor(k / side ** d) % side) + 0.1 * Math.sin(k + d)) / ratio ** l), // biome-ignore format: one call
      );
      scope.variables().get(`level${l}/codebook`)!.assign(tf.tensor2d(codes));
    }
    return quantizer;
  }

  it("rvq: a greedy pass gives the ids back where later levels reach less far", () => {
    for (const [size, levels] of [
      [16, 3],
      [16, 4],
      [81, 2],
      [256, 2],
    ] as const) {
      // biome-ignore format: one list
      const quantizer = residual(size, levels, 16);
      const all = everyId(quantizer);
      const codes = quantizer.lookup(all);
      expect(quantizer.assign(codes).ids.dataSync()).toEqual(all.dataSync());
    }
    const two = residual(81, 2, 16);
    const pairs = everyId(two);
    const rounded = bfloat16(two.lookup(pairs));
    expect(two.assign(rounded).ids.dataSync()).toEqual(pairs.dataSync());
    // 2^40: ten levels of sixteen.
    const long = residual(16, 10, 4.5);
    const ids = Int32Array.from({ length: 500 * 10 }, (_, i) => (i * 7919 + (i >> 3) * 104_729) % 16); // biome-ignore format: one call
    const sampled = tf.tensor5d(ids, [1, 1, 1, 500, 10], "int32");
    const back = long.assign(long.lookup(sampled)).ids.dataSync();
    // The last levels are 2e-6 of the first: below what float32 sums keep apart in all places.
    const first = (values: ArrayLike<number>) => Array.from(values).filter((_, i) => i % 10 < 7);
    expect(first(back)).toEqual(first(ids));
  });

  it("rvq: where they reach as far it does not, and still is as near at every level", () => {
    const quantizer = residual(16, 3, 1);
    const all = everyId(quantizer);
    const codes = quantizer.lookup(all);
    const again = quantizer.assign(codes);
    expect(again.ids.dataSync()).not.toEqual(all.dataSync());
    // The first level is the nearest one to the sum, which the ids' own first level need not be.
    const firstOf = (ids: tf.Tensor5D) => {
      const rest = tf.zerosLike(tf.slice(ids, [0, 0, 0, 0, 1], [1, 1, 1, ids.shape[3], 2]));
      const only = tf.concat([tf.slice(ids, 0, [1, 1, 1, ids.shape[3], 1]), rest], 4);
      const zero = quantizer.lookup(tf.zeros([1, 1, 1, 1, 3], "int32"));
      const two = tf.mul(zero, 2 / 3); // the two levels that `only` leaves at code 0
      return tf.sub(quantizer.lookup(only as tf.Tensor5D), two);
    };
    const distance = (ids: tf.Tensor5D) => tf.sum(tf.squaredDifference(codes, firstOf(ids)), 4);
    const worse = tf.sub(distance(again.ids), distance(all));
    expect(value(tf.max(worse))).toBeLessThan(1e-4);
  });

  it("hold for sampled ids of up to 2^40, for signs and rounding", () => {
    const vocabulary = fc.oneof(
      fc.record({
        type: fc.constantFrom("lfq", "bsq"),
        bits: fc.integer({ min: 1, max: 40 }),
        factor_bits: fc.integer({ min: 1, max: 16 }),
      }),
      fc.record({
        type: fc.constant("fsq"),
        levels: fc.array(fc.integer({ min: 2, max: 16 }), { minLength: 1, maxLength: 10 }),
        bound: fc.constantFrom("paper", "widened", "symmetric"),
        factor_size: fc.constantFrom(256, 1024, 65536),
      }),
    );
    fc.assert(
      fc.property(vocabulary, fc.integer({ min: 0, max: 2 ** 31 }), (config, seed) => {
        const quantizer = build(config);
        const z = tf.mul(clips([2, 1, 2, 3, quantizer.latentWidth], seed), 3) as tf.Tensor5D;
        const { ids, codes } = quantizer.assign(z);
        quantizer.factors.forEach((size, f) => {
          expect(size).toBeLessThanOrEqual(2 ** 16);
          expect(
            tf
              .gather(ids, f, 4)
              .dataSync()
              .every((id) => id >= 0 && id < size),
          ).toBe(true);
        });
        expect(worstError(quantizer.lookup(ids), codes.dataSync())).toBeLessThan(1e-6);
        expect(quantizer.indices!(codes).dataSync()).toEqual(ids.dataSync());
        expect(quantizer.indices!(bfloat16(codes)).dataSync()).toEqual(ids.dataSync());
      }),
      { numRuns: 60 },
    );
  });

  it("hold for ids drawn from 2^40, for products of learned codebooks", () => {
    const quantizer = build({ type: "vq", size: 1024, groups: 4, width: 32 });
    expect(quantizer.factors).toEqual([1024, 1024, 1024, 1024]);
    const draw = fc.array(fc.integer({ min: 0, max: 1023 }), { minLength: 40, maxLength: 40 });
    fc.assert(
      fc.property(draw, (ids) => {
        const all = tf.tensor5d(Int32Array.from(ids), [1, 1, 1, 10, 4], "int32");
        const codes = quantizer.lookup(all);
        expect([...quantizer.indices!(codes).dataSync()]).toEqual(ids);
        expect([...quantizer.indices!(bfloat16(codes)).dataSync()]).toEqual(ids);
      }),
      { numRuns: 10 },
    );
  });

  it.each([1, 17, 39, 40])("hold for ids drawn from 2^%i, as they are", (bits) => {
    for (const type of ["lfq", "bsq"] as const) {
      const quantizer = build({ type, bits, factor_bits: 8 });
      const ids = quantizer.factors.map(
        (size, f) =>
        Int32Array.from(sym(f + bits, 64), (v) => Math.min(size - 1, Math.floor(((v + 1) / 2) * size))), // biome-ignore format: one call
      );
      const all = tf.reshape<tf.Rank.R5>(tf.stack(ids.map((part) => tf.tensor1d(part, "int32")), 1), [2, 2, 4, 4, ids.length]); // biome-ignore format: one call
      const codes = quantizer.lookup(all);
      expect(quantizer.indices!(codes).dataSync()).toEqual(all.dataSync());
      expect(quantizer.indices!(bfloat16(codes)).dataSync()).toEqual(all.dataSync());
    }
  });

  it("largest learned codebooks: 2^16 codes, some of them looked at", () => {
    for (const config of [
      { type: "vq", size: 65536, width: 8 },
      { type: "gumbel", size: 65536, width: 8 },
      { type: "ibq", size: 65536, width: 8 },
    ]) {
      const quantizer = build(config);
      const ids = Int32Array.from({ length: 64 }, (_, i) => (i * 1021 + 7) % 65536);
      ids[63] = 65535;
      const codes = quantizer.lookup(tf.tensor5d(ids, [1, 1, 1, 64, 1], "int32"));
      expect(quantizer.indices!(codes).dataSync()).toEqual(ids);
      expect(quantizer.indices!(bfloat16(codes)).dataSync()).toEqual(ids);
    }
  });

  it.each(family)("%s: ids within their factors, lookup gives the codes", (_, config) => {
    const quantizer = build(config);
    const z = clips([...shape.slice(0, 4), quantizer.latentWidth] as typeof shape, 5);
    const { ids, codes } = quantizer.assign(z);
    const grid = quantizer.tokenGrid?.([2, 2, 2]) ?? [2, 2, 2];
    expect(ids.shape).toEqual([2, ...grid, quantizer.factors.length]);
    expect(codes.shape).toEqual([2, ...grid, quantizer.width]);
    // Ids of continuous latents carry nothing, and so do the codes that are looked up for them.
    const expected = quantizer.type === "none" ? tf.zerosLike(codes) : codes;
    expect(worstError(quantizer.lookup(ids), expected.dataSync())).toBeLessThan(1e-6);
    const trained = quantizer.quantize(z, step(), false);
    expect(trained.ids.dataSync()).toEqual(ids.dataSync());
    const given = quantizer.assemble?.(codes) ?? codes;
    expect(worstError(trained.codes, given.dataSync())).toBeLessThan(1e-5);
  });
});

describe("spae", () => {
  const config = { type: "spae", size: 32, width: 3, strides: [4, 2, 1, 1] };

  it("has the paper's numbers of tokens", () => {
    const grid = build({ type: "spae", size: 2, width: 1 }).tokenGrid!([1, 16, 16]);
    expect(grid).toEqual([1, 1, 597]);
  });

  it("averages the words of the layers seen so far at the positions they hold", () => {
    const scope = Scope.root(2);
    const quantizer = build(config, scope);
    const words = scope.variables().get("words")!.arraySync() as number[][];
    const z = clips([1, 1, 4, 4, 3], 8);
    const latents = tf.reshape(z, [16, 3]).arraySync() as number[][];
    // The equations written out for one position after another.
    const sums = latents.map(() => [0, 0, 0]);
    const counts = latents.map(() => 0);
    const expected: number[] = [];
    for (const s of [4, 2, 1, 1]) {
      const update: (() => void)[] = [];
      for (let y = Math.floor(s / 2); y < 4; y += s) {
        for (let x = Math.floor(s / 2); x < 4; x += s) {
          const at = y * 4 + x;
          const target = latents[at]!.map((v, d) => v * (counts[at]! + 1) - sums[at]![d]!);
          const distances = words.map((word) =>
            word.reduce((sum, v, d) => sum + (v - target[d]!) ** 2, 0),
          );
          const found = distances.indexOf(Math.min(...distances));
          expected.push(found);
          update.push(() => {
            words[found]!.forEach((v, d) => (sums[at]![d]! += v));
            counts[at]! += 1;
          });
        }
      }
      update.forEach((apply) => apply());
    }
    const { ids, codes } = quantizer.assign(z);
    expect([...ids.dataSync()]).toEqual(expected);
    const mean = sums.flatMap((sum, at) => sum.map((v) => v / counts[at]!));
    expect(worstError(quantizer.assemble!(codes), mean)).toBeLessThan(1e-6);
    // From the first layer alone, every position takes its word.
    const first = quantizer.assemble!(codes, 1).arraySync()[0]![0]!.flat();
    first.forEach((word) => expect(worstError(word, words[expected[0]!]!)).toBeLessThan(1e-6));
  });

  it("pulls latents to candidate words through the semantic loss", () => {
    const quantizer = build({
      ...config,
      commitment_weight: 0,
      semantic: { file: "unread", layers: 2 },
    });
    const words = quantizer.lookup(tf.zeros([1, 1, 1, 1, 1], "int32")); // word 0
    const candidates = tf.oneHot(tf.tensor1d([0], "int32"), 32).toFloat();
    const loss = (z: tf.Tensor5D) =>
      quantizer.quantize(z, step(), true, { semantic_targets: candidates }).loss;
    const near = tf.tile(words, [1, 1, 4, 4, 1]) as tf.Tensor5D;
    expect(value(loss(near))).toBeLessThan(value(loss(clips([1, 1, 4, 4, 3], 9))));
    const slope = tf.grad((z) => loss(z as tf.Tensor5D))(clips([1, 1, 4, 4, 3], 9));
    expect(value(tf.max(tf.abs(slope)))).toBeGreaterThan(0);
  });
});

describe("gradients", () => {
  it.each([
    ["gumbel", { type: "gumbel", size: 6, width: 4, hard: false, temperature: 0.8 }, "codes"],
    ["gumbel by distance", { type: "gumbel", size: 6, width: 4, hard: false, logits: "distance", logit_scale: 4 }, "codes"], // biome-ignore format: one case
    ["gumbel's entropy penalty", { type: "gumbel", size: 6, width: 4, kl_weight: 0, entropy_weight: 1 }, "loss"], // biome-ignore format: one case
    ["gumbel's divergence", { type: "gumbel", size: 6, width: 4, kl_weight: 1 }, "loss"],
    ["the prior", { type: "none", width: 2, kl_weight: 1 }, "loss"],
    ["drawn latents", { type: "none", width: 2, kl_weight: 1 }, "codes"],
  ] as const)("of %s agree with finite differences", (_, config, part) => {
    const quantizer = build(config);
    const noise = noiseOf(quantizer.inputs?.([1, 1, 1, 5], 4, 7));
    const weights = clips([1, 1, 1, 5, quantizer.width], 6);
    const f = (x: tf.Tensor2D): tf.Scalar => {
      const z = tf.reshape<tf.Rank.R5>(x, [1, 1, 1, 5, 4]);
      const { codes, loss } = quantizer.quantize(z, step(), true, noise);
      return part === "loss" ? loss : tf.sum(tf.mul(codes, weights));
    };
    const at = tf.tensor2d(Float32Array.from(sym(5, 20)), [5, 4]);
    expect(gradientError(f, at, 1e-2)).toBeLessThan(2e-2);
  });

  it("ibq gives every code one, by finite differences of the soft choice", () => {
    const scope = Scope.root(3);
    const quantizer = build({ type: "ibq", size: 6, width: 4, entropy_weight: 0 }, scope);
    const codebook = scope.variables().get("codebook")!;
    codebook.assign(tf.tensor2d(Float32Array.from(sym(8, 24)), [6, 4]));
    const z = clips([1, 1, 1, 5, 4], 2);
    const weights = clips([1, 1, 1, 5, 4], 6);
    const exact = tf.variableGrads(
      () => tf.sum(tf.mul(quantizer.quantize(z, step(), true).codes, weights)),
      [codebook],
    ).grads[codebook.name]!;
    expect(tf.min(tf.sum(tf.abs(exact), 1)).dataSync()[0]).toBeGreaterThan(0);
    // The hard choice plus the slope of the soft one: d(hard·C) with hard held, and the softmax part.
    const rows = tf.reshape(z, [5, 4]) as tf.Tensor2D;
    const w = tf.reshape(weights, [5, 4]);
    const { ids } = quantizer.assign(z);
    const hot = tf.oneHot(tf.reshape(ids, [5]), 6).toFloat() as tf.Tensor2D;
    const fixed = codebook.clone() as tf.Tensor2D;
    const parts = (c: tf.Tensor2D): tf.Scalar => {
      const soft = tf.softmax(tf.matMul(rows, c, false, true));
      const held = tf.matMul(hot, c); // [5, 4]
      return tf.sum(tf.mul(tf.add(held, tf.matMul(soft as tf.Tensor2D, fixed)), w));
    };
    const at = fixed.clone() as tf.Tensor2D; // another tensor: the one in `parts` is held
    expect(gradientError(parts, at, 1e-2)).toBeLessThan(1e-2);
    const composed = tf.grad((c) => parts(c as tf.Tensor2D))(at);
    expect(worstError(exact, composed.dataSync())).toBeLessThan(1e-5);
  });

  it.each(family)("%s: the loss and the codes reach latents and parameters", (_, config) => {
    const scope = Scope.root(3);
    const quantizer = build(config, scope);
    const z = clips([...shape.slice(0, 4), quantizer.latentWidth] as typeof shape, 5);
    const noise = noiseOf(quantizer.inputs?.([2, 2, 2, 2], 4, 0));
    const total = (x: tf.Tensor5D): tf.Scalar => {
      const { codes, loss } = quantizer.quantize(x, step(), true, noise);
      return tf.add(loss, tf.sum(tf.square(codes)));
    };
    const slope = tf.grad((x) => total(x as tf.Tensor5D))(z);
    expect(slope.dataSync().every(Number.isFinite)).toBe(true);
    expect(value(tf.max(tf.abs(slope)))).toBeGreaterThan(0);
    const parameters = [...scope.trainable().values()];
    const { grads }: { grads: tf.NamedTensorMap } =
      parameters.length > 0 ? tf.variableGrads(() => total(z), parameters) : { grads: {} };
    const untouched = parameters.filter(
      (parameter) => value(tf.max(tf.abs(grads[parameter.name]!))) === 0,
    );
    expect(untouched).toEqual([]);
  });
});

describe("noise", () => {
  const drawing = family.filter(([name]) =>
    ["rvq", "gumbel", "spae", "none with a prior"].includes(name),
  );
  it.each(drawing)("%s draws the same numbers for the same seed and step", (_, config) => {
    const quantizer = build(config);
    const draw = (seed: number, n: number) => quantizer.inputs!([32, 1, 1, 2], seed, n);
    expect(draw(1, 5)).toEqual(draw(1, 5));
    expect(draw(1, 5)).not.toEqual(draw(1, 6));
    expect(draw(2, 5)).not.toEqual(draw(1, 5));
  });

  it("rvq: a share of the clips is coded with the first levels only", () => {
    const drawn = drawLevels(4000, { levels: 4, dropout: 0.5 }, 1, 0);
    const share = (n: number) => drawn.filter((used) => used === n).length / drawn.length;
    for (const [n, expected] of [1, 2, 3, 4].map((n) => [n, n === 4 ? 0.625 : 0.125] as const)) {
      expect(share(n)).toBeGreaterThan(expected - 0.03);
      expect(share(n)).toBeLessThan(expected + 0.03);
    }
    const quantizer = build({
      type: "rvq",
      size: 8,
      width: 4,
      levels: 3,
      dropout: 1,
      data_init: false,
    });
    const z = clips(shape, 5);
    const noise = { rvq_levels: tf.tensor1d([1, 3]) };
    const { codes } = quantizer.quantize(z, step(), true, noise);
    const fresh = build({ type: "rvq", size: 8, width: 4, levels: 3, data_init: false });
    const one = build({ type: "rvq", size: 8, width: 4, levels: 1, data_init: false });
    const whole = fresh.assign(z).codes;
    const first = one.assign(z).codes;
    const half = (x: tf.Tensor5D, clip: number) => tf.slice(x, [clip], [1]).dataSync();
    expect(worstError(half(codes, 0), half(first, 0))).toBeLessThan(1e-5);
    expect(worstError(half(codes, 1), half(whole, 1))).toBeLessThan(1e-5);
  });
});

describe("state", () => {
  const states = (scope: Scope) =>
    new Map([...scope.variables()].map(([name, v]) => [name, Float32Array.from(v.dataSync())]));

  it.each(family)("%s: a resumed run moves as the uninterrupted one", (_, config) => {
    const scope = Scope.root(3);
    const quantizer = build(config, scope);
    const z = (n: number) =>
      clips([...shape.slice(0, 4), quantizer.latentWidth] as typeof shape, 5 + n);
    const train = (one: typeof quantizer, n: number) =>
      one.quantize(z(n), step(n), true, noiseOf(one.inputs?.([2, 2, 2, 2], 4, n)));
    train(quantizer, 0);
    train(quantizer, 1);
    const again = Scope.root(3); // replacements for dead codes are drawn by the seed
    const resumed = build(config, again);
    for (const [name, v] of scope.variables()) {
      again.variables().get(name)!.assign(tf.clone(v));
    }
    const expected = train(quantizer, 2);
    const actual = train(resumed, 2);
    expect(actual.ids.dataSync()).toEqual(expected.ids.dataSync());
    expect(actual.loss.dataSync()).toEqual(expected.loss.dataSync());
    expect(states(again)).toEqual(states(scope));
  });

  it("k-means: codes become the means of their latents, step by step", () => {
    const scope = Scope.root(3);
    const config = {
      type: "vq",
      size: 3,
      width: 2,
      learn: "ema",
      kmeans_steps: 8,
      restart_below: 0,
    };
    const quantizer = build({ ...config, entropy_weight: 0 }, scope);
    const centres = [
      [3, 0],
      [0, 3],
      [-3, -3],
    ];
    const points = Array.from(sym(4, 60), (v, i) => centres[Math.floor(i / 20)]![i % 2]! + 0.3 * v);
    const z = tf.tensor5d(points, [1, 1, 1, 30, 2]);
    for (let n = 0; n < 8; n++) {
      quantizer.quantize(z, step(n), true);
    }
    expect(value(scope.variables().get("started"))).toBe(8);
    const codes = (scope.variables().get("codebook")!.arraySync() as number[][]).sort(
      (a, b) => b[0]! - a[0]!,
    );
    const sizes = Array.from(scope.variables().get("cluster_size")!.dataSync());
    // Lloyd's fixed point: every code is the mean of the latents nearest to it.
    const { ids } = quantizer.assign(z);
    const counts = [0, 1, 2].map((k) => ids.dataSync().filter((id) => id === k).length);
    expect(sizes).toEqual(counts);
    expect(codes).toHaveLength(3);
    expect(codes.flat().every((v) => Math.abs(v) < 4)).toBe(true);
  });

  it("reports usage near 1 for even codes and 0 for a collapsed codebook", () => {
    const quantizer = build({ type: "fsq", levels: [8, 8] });
    const even = tf.mul(clips([4, 2, 4, 4, 2], 3), 2) as tf.Tensor5D;
    expect(value(quantizer.quantize(even, step(), true).metrics["usage"])).toBeGreaterThan(0.7);
    const same = tf.ones([4, 2, 4, 4, 2]) as tf.Tensor5D;
    const { metrics } = quantizer.quantize(same, step(), true);
    expect(value(metrics["usage"])).toBeCloseTo(0, 5);
    expect(value(metrics["perplexity"])).toBeCloseTo(1, 5);
  });
});

describe("on the compiled device", () => {
  it.each(family)("%s equals the reference", async (_, config) => {
    const run = async (type: "cpu" | "reference"): Promise<HostTensors> => {
      const device = await openDevice({ type, threads: 1 });
      const scope = Scope.root(3);
      const quantizer = build(config, scope);
      const train = device.compile("quantize", ({ z, step: n, ...noise }) => {
        let codes: tf.Tensor | undefined;
        const total = (x: tf.Tensor): tf.Scalar => {
          const result = quantizer.quantize(x as tf.Tensor5D, n as tf.Scalar, true, noise);
          codes = tf.keep(result.codes);
          return tf.add(result.loss, tf.mean(tf.square(result.codes)));
        };
        const slope = tf.grad(total)(z!);
        const sums = [...scope.variables().values()].map((v) => tf.sum(v));
        return {
          slope,
          codes: tf.clone(codes!),
          state: sums.length > 0 ? tf.stack(sums) : tf.scalar(0),
        };
      });
      const at = [...shape.slice(0, 4), quantizer.latentWidth];
      const size = at.reduce((a, b) => a * b, 1);
      let out: HostTensors = {};
      for (let n = 0; n < 2; n++) {
        const z = float32(at, Float32Array.from(sym(5 + n, size)));
        const noise = quantizer.inputs?.([2, 2, 2, 2], 4, n) ?? {};
        out = await train({ z, step: float32([], [n]), ...noise });
      }
      const assign = device.compile("assign", ({ z }) => {
        const { ids, codes } = quantizer.assign(z as tf.Tensor5D);
        return { ids: tf.cast(ids, "float32"), looked: quantizer.lookup(ids), assigned: codes };
      });
      const last = await assign({ z: float32(at, Float32Array.from(sym(5, size))) });
      device.dispose();
      return { ...out, ...last };
    };
    const expected = await run("reference");
    const actual = await run("cpu");
    for (const [name, { data }] of Object.entries(expected)) {
      const scale = Math.max(1, ...Array.from(data, Math.abs));
      expect(worstError(actual[name]!.data, data) / scale).toBeLessThan(1e-4);
    }
    await useReference();
  });
});
