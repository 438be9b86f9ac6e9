/** @file Tokenizers as ONNX files: ours written and read back equal, others in their own layouts. */

import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as tf from "@tensorflow/tfjs-core";
import { Ajv } from "ajv";
import { beforeAll, describe, expect, it } from "vitest";
import { Scope } from "../../src/models/scope.ts";
import type { Device } from "../../src/runtime/device.ts";
import { exportOnnx } from "../../src/runtime/onnx/export.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { uint8 } from "../../src/runtime/tensors.ts";
import { exportTokenizer } from "../../src/tokenizers/export.ts";
import { hostDecoder, hostEncoder, hostReconstructor } from "../../src/tokenizers/host.ts";
import { permuted } from "../../src/tokenizers/onnx.ts";
import {
  buildTokenizer,
  checkTokenizer,
  type TokenizerConfig,
  tokenizerSchema,
} from "../../src/tokenizers/registry.ts";
import type { Tokenizer } from "../../src/tokenizers/tokenizer.ts";
import { magvit2Config, vqConfig, worstError } from "./helpers.ts";

const clip = { frames: 3, height: 8, width: 8 };
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
const folder = mkdtempSync(join(tmpdir(), "tessera-onnx-"));
function store(name: string, bytes: Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}
const bytes = (count: number) =>
  uint8(
    [count, 3, 8, 8, 3],
    Uint8Array.from({ length: count * 576 }, (_, i) => (i * 37 + (i >> 3)) % 256),
  );
const open = (config: object): Tokenizer =>
  buildTokenizer(full(config), clip, Scope.root(0).child("outside"));

let device: Device;
beforeAll(async () => {
  device = await openDevice({ type: "cpu", engine: "onnx", threads: 1 });
});

describe("external tokenizers", () => {
  it("ours are written and read back equal, for any number of clips", async () => {
    for (const quantizer of [magvit2Config.quantizer, { ...vqConfig, groups: 2 }]) {
      const own = buildTokenizer({ ...magvit2Config, quantizer }, clip, Scope.root(4));
      const made = exportTokenizer(own, 2);
      const config = {
        ...made.config,
        encoder: store("encoder.onnx", made.encoder),
        decoder: store("decoder.onnx", made.decoder),
      };
      const outside = open(config);
      expect(outside.grid).toEqual(own.grid);
      for (const count of [2, 3]) {
        const expected = await hostEncoder(device, own, "own")(bytes(count));
        const actual = await hostEncoder(device, outside, "outside")(bytes(count));
        expect(actual.ids.data).toEqual(expected.ids.data);
        expect(worstError(actual.codes.data, expected.codes.data)).toBeLessThan(1e-5);
        const pixels = await hostDecoder(device, own, "own")(expected.ids);
        const decoded = await hostDecoder(device, outside, "outside")(actual.ids);
        expect(decoded.shape).toEqual(pixels.shape);
        expect(worstError(decoded.data, pixels.data)).toBeLessThan(1e-4);
        const whole = await hostReconstructor(device, outside, "outside")(bytes(count));
        expect(whole.data).toEqual(decoded.data);
      }
    }
  });

  const small = { base_channels: 4, channel_multipliers: [1, 2], spatial_strides: [2], blocks: 1, bottleneck_blocks: 1, norm_groups: 2, patch_size: 2 }; // biome-ignore format: one network
  const networks = [
    { type: "magvit2", ...small, temporal_strides: [2], down: "blur-pool", padding: "reflect" },
    { type: "magvit", ...small, temporal_strides: [3], norm_scope: "frame" },
    { type: "vqgan", ...small, padding: "replicate" },
    { type: "cvivit", hidden: 8, heads: 2, spatial_blocks: 1, temporal_blocks: 1, patch_size: 4 },
    { type: "patches", temporal_patch_size: 2 },
  ];
  const quantizers = [
    { type: "vq", size: 16, width: 4, factor_size: 4 },
    { type: "vq", size: 8, width: 4, groups: 2, distance: "cosine" },
    { type: "rvq", size: 8, width: 4, levels: 3 },
    { type: "gumbel", size: 8, width: 4, logits: "distance" },
    { type: "ibq", size: 8, width: 4 },
    { type: "lfq", bits: 18, factor_bits: 9 },
    { type: "bsq", bits: 7 },
    { type: "fsq", levels: [8, 5, 5], factor_size: 16 },
    { type: "spae", size: 8, width: 4, strides: [2, 1] },
  ];
  // Each quantizer with two networks, each network with several quantizers.
  const pairs = quantizers.flatMap((quantizer, i) =>
    [0, 2].map((step) => ({ ...networks[(i + step) % networks.length]!, quantizer })),
  );
  it.each(pairs)(
    "$type with $quantizer.type: the files tokenize as the native engine",
    async (config) => {
      const native = await openDevice({ type: "cpu", threads: 1 });
      const own = buildTokenizer(full(config), clip, Scope.root(4));
      const made = exportTokenizer(own, 2);
      const outside = open({
        ...made.config,
        encoder: store("any-encoder.onnx", made.encoder),
        decoder: store("any-decoder.onnx", made.decoder),
      });
      const expected = await hostEncoder(native, own, "own")(bytes(3));
      const actual = await hostEncoder(native, outside, "outside")(bytes(3));
      expect(actual.ids.data).toEqual(expected.ids.data);
      const pixels = await hostDecoder(native, own, "own")(expected.ids);
      const decoded = await hostDecoder(native, outside, "outside")(actual.ids);
      expect(worstError(decoded.data, pixels.data)).toBeLessThan(1); // bytes, or one beside a border
      native.dispose();
      device.activate();
    },
  );

  it("channels first, pixels in [0, 1], ids in front, codes left out", async () => {
    const own = buildTokenizer(magvit2Config, clip, Scope.root(4));
    const [t, h, w] = own.grid;
    const encoder = exportOnnx(
      "encoder",
      ({ clips }) => {
        const last = tf.transpose(clips!, [0, 2, 3, 4, 1]);
        const { ids } = own.encode(tf.sub(tf.mul(last, 2), 1) as tf.Tensor5D);
        return { ids: tf.transpose(ids, [0, 4, 1, 2, 3]) };
      },
      [{ name: "clips", shape: [1, 3, 3, 8, 8], dtype: "float32" }],
    );
    const decoder = exportOnnx(
      "decoder",
      ({ ids }) => {
        const last = tf.transpose(ids!, [0, 2, 3, 4, 1]) as tf.Tensor5D;
        const pixels = own.decode(own.lookup(last));
        return { pixels: tf.transpose(tf.div(tf.add(pixels, 1), 2), [0, 4, 1, 2, 3]) };
      },
      [{ name: "ids", shape: [1, 2, t, h, w], dtype: "int32" }],
    );
    const outside = open({
      type: "onnx",
      encoder: store("first-encoder.onnx", encoder),
      decoder: store("first-decoder.onnx", decoder),
      grid: [...own.grid],
      factors: [...own.factors],
      layout: "BCTHW",
      range: [0, 1],
      ids_layout: "channels-first",
    });
    const expected = await hostEncoder(device, own, "own")(bytes(2));
    const actual = await hostEncoder(device, outside, "outside")(bytes(2));
    expect(actual.ids.data).toEqual(expected.ids.data);
    expect(actual.codes.data).toEqual(Float32Array.from(expected.ids.data));
    const pixels = await hostDecoder(device, own, "own")(expected.ids);
    const decoded = await hostDecoder(device, outside, "outside")(actual.ids);
    expect(worstError(decoded.data, pixels.data)).toBeLessThan(1e-4);
  });

  it("single frames, for image tokenizers", async () => {
    const still = full({
      type: "vqgan",
      base_channels: 4,
      channel_multipliers: [1],
      spatial_strides: [],
      patch_size: 4,
      quantizer: { type: "lfq", bits: 6, pre_norm: true },
    });
    const own = buildTokenizer(still, clip, Scope.root(4));
    const encoder = exportOnnx(
      "encoder",
      ({ image }) => {
        const frames = tf.expandDims(tf.transpose(image!, [0, 2, 3, 1]), 1) as tf.Tensor5D;
        return { ids: tf.reshape(own.encode(frames).ids, [2, 4]) };
      },
      [{ name: "image", shape: [2, 3, 8, 8], dtype: "float32" }],
    );
    const decoder = exportOnnx(
      "decoder",
      ({ ids }) => {
        const pixels = own.decode(own.lookup(tf.reshape(ids!, [2, 1, 2, 2, 1]) as tf.Tensor5D));
        return { pixels: tf.transpose(tf.reshape(pixels, [2, 8, 8, 3]), [0, 3, 1, 2]) };
      },
      [{ name: "ids", shape: [2, 4], dtype: "int32" }],
    );
    const config = {
      type: "onnx",
      encoder: store("frame-encoder.onnx", encoder),
      decoder: store("frame-decoder.onnx", decoder),
      grid: [3, 2, 2],
      factors: [64],
      layout: "BCHW",
      batch: 2,
    };
    const outside = open(config);
    const expected = await hostEncoder(device, own, "own")(bytes(1));
    const actual = await hostEncoder(device, outside, "outside")(bytes(1));
    expect(actual.ids.data).toEqual(expected.ids.data);
    const pixels = await hostDecoder(device, own, "own")(expected.ids);
    const decoded = await hostDecoder(device, outside, "outside")(actual.ids);
    expect(worstError(decoded.data, pixels.data)).toBeLessThan(1e-4);
    const wrong = open({ ...config, factors: [2] });
    await expect(hostEncoder(device, wrong, "wrong")(bytes(1))).rejects.toThrow(/factors allow/);
    const problems = checkTokenizer(full({ ...config, grid: [1, 2, 2] }), clip);
    expect(problems.map(({ path }) => path)).toEqual(["grid"]);
  });

  it("say what is wrong with a file, and that they cannot be trained", async () => {
    const config = {
      type: "onnx",
      encoder: "nowhere.onnx",
      decoder: "nowhere.onnx",
      grid: [3, 2, 2],
      factors: [4],
    };
    await expect(hostEncoder(device, open(config), "none")(bytes(1))).rejects.toThrow(/no file/);
    const broken = { ...config, encoder: store("broken.onnx", new Uint8Array([1, 2, 3])) };
    await expect(hostEncoder(device, open(broken), "none")(bytes(1))).rejects.toThrow(
      /cannot open/,
    );
    expect(() => open(config).loss(tf.zeros([1, 3, 8, 8, 3]), tf.scalar(0), true)).toThrow(
      /compiled function/,
    );
  });

  it("axes are permuted as tf.transpose does", () => {
    const shape = [2, 3, 4, 5];
    const values = Float32Array.from({ length: 120 }, (_, i) => i);
    for (const perm of [
      [0, 3, 1, 2],
      [3, 2, 1, 0],
      [1, 0, 3, 2],
    ]) {
      const expected = tf.transpose(tf.tensor(values, shape), perm).dataSync();
      expect(permuted(values, shape, perm)).toEqual(expected);
    }
  });
});
