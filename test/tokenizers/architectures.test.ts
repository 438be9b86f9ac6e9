/** @file What every visual tokenizer promises: causality, images as clips of one frame, pieces, inflation. */

import * as tf from "@tensorflow/tfjs-core";
import { Ajv } from "ajv";
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { blurPool, binomial } from "../../src/models/blur-pool.ts";
import { padAxis } from "../../src/models/borders.ts";
import { Scope } from "../../src/models/scope.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { float32 } from "../../src/runtime/tensors.ts";
import { inflate } from "../../src/tokenizers/inflation.ts";
import {
  buildTokenizer,
  checkTokenizer,
  type TokenizerConfig,
  tokenizerSchema,
} from "../../src/tokenizers/registry.ts";
import { streamDecoder, streamEncoder } from "../../src/tokenizers/streaming.ts";
import type { Tokenizer } from "../../src/tokenizers/tokenizer.ts";
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

const bits = { type: "lfq", bits: 6, factor_bits: 6, pre_norm: true };
const small = {
  base_channels: 4,
  channel_multipliers: [1, 2],
  spatial_strides: [2],
  blocks: 1,
  bottleneck_blocks: 1,
  norm_groups: 2,
  patch_size: 2,
  quantizer: bits,
};
const magvit2 = { type: "magvit2", ...small, temporal_strides: [2] };
/** Every causal kind: latent i sees frames up to stride · i. */
const causal: readonly (readonly [string, object, stride: number])[] = [
  ["magvit2", magvit2, 2],
  ["magvit2 reflected", { ...magvit2, padding: "reflect" }, 2],
  ["magvit2 with replicated borders", { ...magvit2, padding: "replicate" }, 2],
  ["magvit2 with blur-pool", { ...magvit2, down: "blur-pool", up: "nearest-conv" }, 2],
  ["magvit2 with means", { ...magvit2, down: "average-pool" }, 2],
  ["magvit2 by fours in time", { ...magvit2, temporal_strides: [4], adaptive_norm: false }, 4],
  ["magvit2 with patches of frames", { ...magvit2, temporal_patch_size: 2 }, 4],
  ["vqgan", { type: "vqgan", ...small }, 1],
  [
    "cvivit",
    {
      type: "cvivit",
      hidden: 8,
      heads: 2,
      spatial_blocks: 1,
      temporal_blocks: 1,
      patch_size: 4,
      quantizer: bits,
    },
    2,
  ],
  ["patches", { type: "patches", temporal_patch_size: 2, quantizer: bits }, 2],
];
/** More channels than a product sums up in one go, and latents of a few positions. */
const wide = {
  type: "vqgan",
  ...small,
  base_channels: 4,
  channel_multipliers: [1, 100],
  bottleneck_blocks: 0,
  quantizer: { type: "none", width: 5 },
};
const sides = { height: 8, width: 8 };
const make = (config: object, frames: number): Tokenizer =>
  buildTokenizer(full(config), { frames, ...sides }, Scope.root(1));

beforeAll(useReference);

describe("borders", () => {
  it("reflect as numpy does, replicate the edge, and fall back where an axis is too short", () => {
    const x = tf.reshape<tf.Rank.R5>(tf.tensor1d([1, 2, 3, 4]), [1, 1, 1, 4, 1]);
    const row = (border: "zero" | "reflect" | "replicate") => [
      ...padAxis(x, 3, [2, 1], border).dataSync(),
    ];
    expect(row("reflect")).toEqual([3, 2, 1, 2, 3, 4, 3]);
    expect(row("replicate")).toEqual([1, 1, 1, 2, 3, 4, 4]);
    expect(row("zero")).toEqual([0, 0, 1, 2, 3, 4, 0]);
    const one = tf.ones([1, 1, 1, 1, 1]) as tf.Tensor5D;
    expect([...padAxis(one, 3, [1, 1], "reflect").dataSync()]).toEqual([1, 1, 1]);
  });
});

describe("blur-pool", () => {
  it("is a binomial filter followed by every second position", () => {
    expect(binomial(4)).toEqual([0.125, 0.375, 0.375, 0.125]);
    for (const [taps, side] of [
      [3, 6],
      [4, 8],
      [5, 7],
      [7, 9],
    ] as const) {
      const values = sym(3, side);
      const x = tf.tensor5d(Float32Array.from(values), [1, 1, 1, side, 1]);
      const pool = blurPool({ block: [1, 1, 2], causal: false, taps });
      const out = Math.ceil(side / 2);
      const total = (out - 1) * 2 + taps - side;
      const before = Math.floor(total / 2);
      const expected = Array.from({ length: out }, (_, i) =>
        binomial(taps).reduce(
          (sum, weight, k) => sum + weight * (values[2 * i + k - before] ?? 0),
          0,
        ),
      );
      expect(worstError(pool(x), expected)).toBeLessThan(1e-6);
    }
  });

  it("does not alias: a checkerboard comes out grey, where every second pixel would not", () => {
    const board = Float32Array.from({ length: 64 }, (_, i) =>
      (i + Math.floor(i / 8)) % 2 ? 1 : -1,
    );
    const x = tf.tensor5d(board, [1, 1, 8, 8, 1]);
    const pool = blurPool({ block: [1, 2, 2], causal: false, border: "reflect" });
    expect(Math.max(...pool(x).dataSync().map(Math.abs))).toBeLessThan(1e-6);
  });
});

describe("causal tokenizers", () => {
  it.each(causal)("%s: no token sees a later frame, bit for bit", (_, config, stride) => {
    const frames = 1 + 2 * stride;
    const tokenizer = make(config, frames);
    expect(tokenizer.causal).toBe(true);
    const x = clips([1, frames, 8, 8, 3]);
    const before = tokenizer.encode(x);
    for (let frame = 1; frame < frames; frame++) {
      const late = tf.concat(
        [tf.zeros([1, frame, 8, 8, 3]), tf.fill([1, frames - frame, 8, 8, 3], 5)],
        1,
      ) as tf.Tensor5D;
      const after = tokenizer.encode(tf.add(x, late));
      const kept = Math.ceil(frame / stride);
      const early = (z: tf.Tensor5D) =>
        tf.slice(z, [0, 0, 0, 0, 0], [1, kept, z.shape[2], z.shape[3], z.shape[4]]).dataSync();
      expect(early(after.ids)).toEqual(early(before.ids));
      expect(early(after.codes)).toEqual(early(before.codes));
    }
    // And no decoded frame a later latent.
    const { codes } = before;
    const [b, t, h, w, d] = codes.shape;
    const last = tf.concat([tf.zeros([b, t - 1, h, w, d]), tf.ones([b, 1, h, w, d])], 1);
    const shown = frames - stride;
    const first = (z: tf.Tensor5D) => tf.slice(z, 0, [1, shown, 8, 8, 3]).dataSync();
    const changed = tokenizer.decode(tf.add(codes, last) as tf.Tensor5D);
    expect(first(changed)).toEqual(first(tokenizer.decode(codes)));
  });

  it.each(causal)("%s: an image has the tokens of a clip's first latent", (_, config, stride) => {
    const frames = 1 + stride;
    const x = clips([2, frames, 8, 8, 3]);
    const whole = make(config, frames);
    const clip = whole.encode(x);
    const image = tf.slice(x, 0, [2, 1, 8, 8, 3]);
    // The same network takes images, and so does one that is built for them.
    for (const tokenizer of [
      whole,
      // C-ViViT's table of times is made for its clips, so another length is another network.
      ...(whole.type === "cvivit" ? [] : [make(config, 1)]),
    ]) {
      const { ids, codes } = tokenizer.encode(image);
      const first = (z: tf.Tensor5D) => tf.slice(z, 0, [2, 1, ...z.shape.slice(2)] as never);
      expect(ids.dataSync()).toEqual(first(clip.ids).dataSync());
      expect(
        worstError(tokenizer.decode(codes), first(whole.decode(clip.codes)).dataSync()),
      ).toBeLessThan(1e-5);
    }
  });

  it.each([...causal, ["vqgan, wide and continuous", wide, 1] as const])(
    "%s: pieces give the tokens and pixels of the whole clip, byte for byte",
    async (_, config, stride) => {
      const continuous = config === wide;
      const side = continuous ? 4 : 8; // latents of one position: products of single rows
      // Plain JavaScript would take a minute over the wide one.
      for (const type of continuous ? (["cpu"] as const) : (["reference", "cpu"] as const)) {
        const device = await openDevice({ type, threads: type === "cpu" ? 2 : 1 });
        const frames = 1 + 6 * stride;
        const built = buildTokenizer(
          full(config),
          { frames, height: side, width: side },
          Scope.root(1),
        );
        const tokenizer = continuous ? { ...built, lookup: (codes: tf.Tensor5D) => codes } : built;
        const per = side * side * 3;
        const x = Float32Array.from(sym(7, frames * per));
        const whole = device.compile("whole", ({ pixels }) => {
          const { ids, codes } = tokenizer.encode(pixels as tf.Tensor5D);
          const latents = tokenizer.lookup(continuous ? codes : ids);
          return { ids, codes, pixels: tokenizer.decode(latents) };
        });
        const expected = await whole({ pixels: float32([1, frames, side, side, 3], x) });
        const encoder = streamEncoder(device, tokenizer);
        const decoder = streamDecoder(device, tokenizer);
        const joined: { [name: string]: number[] } = { ids: [], codes: [], pixels: [] };
        let at = 0;
        for (const length of [1 + 2 * stride, stride, 3 * stride]) {
          const piece = x.subarray(at * per, (at + length) * per);
          const out = await encoder.push(float32([1, length, side, side, 3], piece));
          const back = await decoder.push(out[continuous ? "codes" : "ids"]!);
          for (const [name, { data }] of Object.entries({ ...out, ...back })) {
            joined[name]!.push(...data);
          }
          at += length;
        }
        // ONNX Runtime picks its algorithms by shape, and they round differently.
        const rounds = device.info.engine === "onnx" ? 1e-5 : 0;
        for (const [name, values] of Object.entries(joined)) {
          const { data } = expected[name]!;
          expect(values).toHaveLength(data.length);
          expect(worstError(values, data), `${name} on ${type}`).toBeLessThanOrEqual(rounds);
        }
        device.dispose();
      }
      await useReference();
    },
  );

  it.each(causal)("%s: any clip in any pieces, on two threads", async (_, config, stride) => {
    const device = await openDevice({ type: "cpu", threads: 2 });
    const rounds = device.info.engine === "onnx" ? 1e-5 : 0; // it picks algorithms by shape
    const side = { height: 8, width: 16 };
    const pieces = fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 4 });
    const property = fc.asyncProperty(
      pieces,
      fc.integer({ min: 1, max: 99 }),
      async (cuts, seed) => {
        // The first piece may be the first frame alone.
        const latents = cuts.map((n, i) => (i === 0 ? n - 1 : n));
        const frames = 1 + stride * latents.reduce((a, b) => a + b, 0);
        const tokenizer = buildTokenizer(full(config), { frames, ...side }, Scope.root(seed));
        const x = Float32Array.from(sym(seed, 2 * frames * 384));
        const whole = device.compile("whole", ({ pixels }) => {
          const { ids } = tokenizer.encode(pixels as tf.Tensor5D);
          return { ids, pixels: tokenizer.decode(tokenizer.lookup(ids)) };
        });
        const expected = await whole({ pixels: float32([2, frames, 8, 16, 3], x) });
        const encoder = streamEncoder(device, tokenizer);
        const decoder = streamDecoder(device, tokenizer);
        let at = 0;
        const per = (name: "ids" | "pixels", from: number, count: number): number[] => {
          // Frames [from, from + count) of both clips.
          const { shape, data } = expected[name]!;
          const size = data.length / 2 / shape[1]!;
          return [0, 1].flatMap((clip) => Array.from(data.slice((clip * shape[1]! + from) * size, (clip * shape[1]! + from + count) * size))); // biome-ignore format: one call
        };
        let latent = 0;
        for (const [i, n] of latents.entries()) {
          const length = (i === 0 ? 1 : 0) + stride * n;
          const piece = [0, 1].flatMap((clip) => [...x.subarray((clip * frames + at) * 384, (clip * frames + at + length) * 384)]); // biome-ignore format: one call
          const out = await encoder.push(float32([2, length, 8, 16, 3], Float32Array.from(piece)));
          const back = await decoder.push(out["ids"]!);
          const count = n + (i === 0 ? 1 : 0);
          expect([...out["ids"]!.data]).toEqual(per("ids", latent, count));
          expect(worstError(back["pixels"]!.data, per("pixels", at, length))).toBeLessThanOrEqual(rounds); // biome-ignore format: one call
          at += length;
          latent += count;
        }
        expect(at).toBe(frames);
      },
    );
    await fc.assert(property, { numRuns: 4 });
    device.dispose();
    await useReference();
  });

  it("refuses to stream where it cannot", async () => {
    const device = await openDevice({ type: "reference" });
    const attending = streamEncoder(device, make(causal[8]![1], 3));
    await attending.push(float32([1, 3, 8, 8, 3], new Float32Array(576)));
    const more = float32([1, 2, 8, 8, 3], new Float32Array(384));
    await expect(attending.push(more)).rejects.toThrow(/places for 2 latent frames/);
    const magvit = { type: "magvit", ...small, temporal_strides: [2] };
    expect(() => streamEncoder(device, make(magvit, 4))).toThrow(/piece by piece/);
  });
});

describe("any tokenizer with any quantizer", () => {
  const quantizers = [
    { type: "vq", size: 8, width: 4 },
    { type: "vq", size: 8, width: 4, groups: 2, learn: "ema" },
    { type: "rvq", size: 8, width: 4, levels: 2, dropout: 0.5 },
    { type: "gumbel", size: 8, width: 4 },
    { type: "ibq", size: 8, width: 4 },
    { type: "lfq", bits: 5 },
    { type: "bsq", bits: 5 },
    { type: "fsq", levels: [5, 3, 3] },
    { type: "spae", size: 8, width: 4, strides: [2, 1, 1], layer_dropout: 0.5 },
    { type: "none", width: 3, kl_weight: 0.01 },
  ];
  const networks: readonly (readonly [object, number])[] = [
    [magvit2, 3],
    [{ type: "magvit", ...small, temporal_strides: [2], padding: "reflect" }, 4],
    [{ type: "vqgan", ...small, padding: "replicate" }, 2],
    [causal[8]![1], 3],
    [{ type: "patches", temporal_patch_size: 2 }, 3],
  ];
  const pairs = networks.flatMap(([network, frames]) =>
    quantizers.map((quantizer) => [network, quantizer, frames] as const),
  );
  it.each(pairs)("trains, encodes and decodes: %o with %o", (network, quantizer, frames) => {
    const tokenizer = make({ ...network, quantizer }, frames);
    const x = clips([2, frames, 8, 8, 3]);
    const noise = Object.fromEntries(
      Object.entries(tokenizer.inputs(2, 1, 0)).map(([name, t]) => [
        name,
        tf.tensor(t.data, [...t.shape]),
      ]),
    );
    const parameters = [...tokenizer.scope.trainable().values()];
    const { value, grads } = tf.variableGrads(
      () => tokenizer.loss(x, tf.scalar(0), true, noise).loss,
      parameters,
    );
    expect(Number.isFinite(value.dataSync()[0])).toBe(true);
    const reached = parameters.filter((p) => tf.max(tf.abs(grads[p.name]!)).dataSync()[0]! > 0);
    expect(reached.length).toBeGreaterThan(0.9 * parameters.length - 1);
    const { ids, codes } = tokenizer.encode(x);
    expect(ids.shape).toEqual([2, ...tokenizer.grid, tokenizer.factors.length]);
    expect(codes.shape).toEqual([2, ...tokenizer.grid, tokenizer.width]);
    expect(tokenizer.decode(codes).shape).toEqual(x.shape);
  });
});

describe("patches", () => {
  it("are the pixels themselves at a depth of colour, without a network", () => {
    const quantizer = { type: "fsq", levels: [17, 17, 17], bound: "symmetric" };
    const config = { type: "patches", patch_size: 1, linear: false, quantizer };
    const tokenizer = make(config, 2);
    expect(tokenizer.scope.parameterCount()).toBe(0);
    expect(tokenizer.grid).toEqual([2, 8, 8]);
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 1000 }), (seed) => {
        const x = clips([1, 2, 8, 8, 3], seed);
        const { ids, codes } = tokenizer.encode(x);
        expect(tokenizer.lookup(ids).dataSync()).toEqual(codes.dataSync());
        // Seventeen levels are an eighth apart, so no pixel moves by more than half of that.
        expect(worstError(tokenizer.decode(codes), x.dataSync())).toBeLessThan(1 / 16 + 1e-3);
      }),
      { numRuns: 5 },
    );
    const bad = full({ ...config, quantizer: { type: "lfq", bits: 4 } });
    expect(checkTokenizer(bad, { frames: 2, ...sides }).map(({ path }) => path)).toEqual([
      "linear",
    ]);
  });
});

describe("inflation", () => {
  const image = { type: "vqgan", ...small, down: "strided-conv", up: "depth-to-space" };
  /** A checkpoint of an image tokenizer: its averaged weights, none of them a bare zero. */
  function checkpoint(config: object) {
    const tokenizer = make(config, 1);
    const tensors = new Map(
      [...tokenizer.scope.variables()].map(([name, v], i) => {
        const moved = Float32Array.from(v.dataSync()).map((x, k) => x + 0.1 * Math.sin(i + k));
        v.assign(tf.tensor(moved, v.shape));
        return [`ema/${name}`, { dtype: "float32" as const, shape: v.shape, data: moved }];
      }),
    );
    return { tokenizer, tensors };
  }

  it("central: a network without temporal steps does to each frame what the 2D one does", () => {
    for (const padding of ["zero", "reflect"]) {
      const { tokenizer, tensors } = checkpoint({ ...image, padding });
      const video = {
        ...image,
        type: "magvit",
        padding,
        norm_scope: "frame",
        temporal_strides: [1],
      };
      const inflated = make(video, 3);
      expect(inflate(inflated.scope, tensors, "central")).toEqual([]);
      const x = clips([1, 3, 8, 8, 3]);
      const whole = inflated.encode(x);
      const pixels = inflated.decode(whole.codes);
      for (let frame = 0; frame < 3; frame++) {
        const one = tf.slice(x, [0, frame, 0, 0, 0], [1, 1, 8, 8, 3]);
        const { ids, codes } = tokenizer.encode(one);
        const at = (z: tf.Tensor5D) =>
          tf.slice(z, [0, frame, 0, 0, 0], [1, 1, ...z.shape.slice(2)] as never).dataSync();
        expect(at(whole.ids)).toEqual(ids.dataSync());
        expect(worstError(tokenizer.decode(codes), at(pixels))).toBeLessThan(1e-5);
      }
    }
  });

  it("causal: every latent has the tokens of its last frame, and decodes to equal frames", () => {
    const { tokenizer, tensors } = checkpoint({ ...image, adaptive_norm: true });
    const inflated = make(
      { ...image, type: "magvit2", temporal_strides: [2], adaptive_norm: true },
      5,
    );
    expect(inflate(inflated.scope, tensors, "causal")).toEqual([]);
    const x = clips([1, 5, 8, 8, 3]);
    const whole = inflated.encode(x);
    const pixels = inflated.decode(whole.codes);
    for (const [latent, frame] of [0, 2, 4].entries()) {
      const one = tf.slice(x, [0, frame, 0, 0, 0], [1, 1, 8, 8, 3]);
      const { ids, codes } = tokenizer.encode(one);
      const part = tf.slice(whole.ids, [0, latent, 0, 0, 0], [1, 1, 2, 2, 1]);
      expect(part.dataSync()).toEqual(ids.dataSync());
      const shown = tf.slice(pixels, [0, frame, 0, 0, 0], [1, 1, 8, 8, 3]);
      expect(worstError(tokenizer.decode(codes), shown.dataSync())).toBeLessThan(1e-5);
    }
  });

  it("average: equal frames inside give what the 2D network gives", () => {
    const { tokenizer, tensors } = checkpoint({ ...image, padding: "replicate" });
    const video = {
      ...image,
      type: "magvit",
      padding: "replicate",
      norm_scope: "frame",
      temporal_strides: [1],
    };
    const inflated = make(video, 3);
    inflate(inflated.scope, tensors, "average");
    const one = clips([1, 1, 8, 8, 3]);
    const { codes } = inflated.encode(tf.tile(one, [1, 3, 1, 1, 1]));
    const expected = tokenizer.encode(one).codes.dataSync();
    expect(tf.slice(codes, 0, [1, 1, 2, 2, 6]).dataSync()).toEqual(expected);
  });

  it("goes into patches of several frames as well", () => {
    const flat = { ...small, channel_multipliers: [2], spatial_strides: [] };
    const { tokenizer, tensors } = checkpoint({ type: "vqgan", ...flat });
    const inflated = make(
      {
        type: "magvit2",
        ...flat,
        temporal_strides: [],
        temporal_patch_size: 2,
        adaptive_norm: false,
      },
      3,
    );
    expect(inflate(inflated.scope, tensors, "causal")).toEqual([]);
    const x = clips([1, 3, 8, 8, 3]);
    const last = tf.slice(x, [0, 2, 0, 0, 0], [1, 1, 8, 8, 3]);
    const ids = tf.slice(inflated.encode(x).ids, [0, 1, 0, 0, 0], [1, 1, 4, 4, 1]);
    expect(ids.dataSync()).toEqual(tokenizer.encode(last).ids.dataSync());
  });

  it("says what does not fit", () => {
    const { tensors } = checkpoint(image);
    const other = make({ ...image, type: "magvit2", base_channels: 8, temporal_strides: [2] }, 3);
    expect(() => inflate(other.scope, tensors, "causal")).toThrow(/in the checkpoint and/);
    const same = make(
      { ...image, type: "magvit2", temporal_strides: [2], adaptive_norm: false },
      3,
    );
    expect(() => inflate(same.scope, tensors, "none")).toThrow(/tokenizer\.init/);
    expect(() => inflate(same.scope, new Map(), "causal")).toThrow(/no variable/);
  });
});
