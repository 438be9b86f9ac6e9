/** @file The diffusion decoder: what it learns, that codes do not notice it, causality. */

import * as tf from "@tensorflow/tfjs-core";
import { beforeAll, describe, expect, test } from "vitest";
import { Scope } from "../../src/models/scope.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { buildDiffusionDecoder } from "../../src/tokenizers/diffusion-decoder.ts";
import { buildTokenizer, checkTokenizer } from "../../src/tokenizers/registry.ts";
import { item, linearPatches, shake, toTensors } from "../objectives/support.ts";

const decoder = { channels: 8, blocks: 1, patch_size: 2, weight: 1, steps: 3 };
const config = linearPatches(4);
const clip = { frames: 2, height: 8, width: 8 };
const clips = (scale = 0.4): tf.Tensor5D =>
  tf.reshape(tf.sin(tf.mul(tf.range(0, 2 * 2 * 8 * 8 * 3), scale)), [2, 2, 8, 8, 3]);

beforeAll(async () => {
  await openDevice({ type: "reference" });
});

describe("in a tokenizer", () => {
  const build = (withDiffusion: boolean) =>
    buildTokenizer(
      withDiffusion ? { ...config, diffusion_decoder: decoder } : config,
      clip,
      Scope.root(0),
    );

  test("encoder, codes and the pixel loss are those of a tokenizer without it", () => {
    const [plain, other] = [build(false), build(true)];
    const a = plain.loss(clips(), tf.scalar(0), false);
    const b = other.loss(clips(), tf.scalar(0), false);
    expect(item(b.loss)).toBe(item(a.loss));
    expect([...other.encode(clips()).codes.dataSync()]).toEqual([
      ...plain.encode(clips()).codes.dataSync(),
    ]);
    const noise = toTensors(other.inputs(2, 0, 0));
    const { metrics } = other.loss(clips(), tf.scalar(0), true, noise);
    // The untrained network predicts 0: v has a mean square of alpha² + sigma²·x², about 1 or more.
    expect(item(metrics["diffusion_loss"]!)).toBeGreaterThan(0.4);
  });

  test("its loss gives encoder and decoder no gradient", () => {
    const tokenizer = build(true);
    shake(tokenizer.scope);
    const noise = toTensors(tokenizer.inputs(2, 0, 0));
    const others = [...tokenizer.scope.trainable()].filter(
      ([name]) => !name.startsWith("diffusion_decoder/"),
    );
    expect(others.length).toBeGreaterThan(1);
    expect(() =>
      tf.variableGrads(
        () =>
          tokenizer.loss(clips(), tf.scalar(0), true, noise).metrics["diffusion_loss"] as tf.Scalar,
        others.map(([, variable]) => variable),
      ),
    ).toThrow("Cannot find a connection");
  });

  test("equal codes give equal clips, and a clip does not depend on its batch", () => {
    const tokenizer = build(true);
    shake(tokenizer.scope);
    const { codes } = tokenizer.encode(clips());
    const both = tokenizer.decode(codes).dataSync();
    expect([...tokenizer.decode(codes).dataSync()]).toEqual([...both]);
    const first = tokenizer.decode(tf.slice(codes, 0, 1)).dataSync();
    for (const [i, value] of first.entries()) {
      expect(value).toBeCloseTo(both[i]!, 5);
    }
    expect(tokenizer.streams).toBe(false);
  });

  test("blocks that do not fit are refused with their key", () => {
    const odd = { ...config, diffusion_decoder: { ...decoder, patch_size: 3 } };
    expect(checkTokenizer(odd, clip).map(({ path }) => path)).toEqual([
      "diffusion_decoder.patch_size",
    ]);
  });
});

test("a causal one never lets a frame see a later one", () => {
  const scope = Scope.root(1);
  const causal = buildDiffusionDecoder(decoder, true, scope);
  shake(scope);
  const changed = tf.tidy(() => {
    const made = clips().slice([0, 0, 0, 0, 0], [1, 2, 8, 8, 3]);
    const later = tf.add(made, tf.tensor([0, 1], [1, 2, 1, 1, 1])) as tf.Tensor5D;
    const [a, b] = [causal.decode(made), causal.decode(later)];
    const frame = (x: tf.Tensor5D, t: number) => x.slice([0, t], [1, 1]).dataSync();
    return [0, 1].map((t) => frame(a, t).some((v, i) => Math.abs(v - frame(b, t)[i]!) > 1e-6));
  });
  expect(changed).toEqual([false, true]);
});

test("it learns what the decoder leaves out", () => {
  const scope = Scope.root(2);
  const network = buildDiffusionDecoder({ ...decoder, steps: 8 }, false, scope);
  // What is left out is one of two constants, never their mean.
  const real = (step: number): tf.Tensor5D =>
    tf.tile(tf.tensor(step % 2 ? [0.25, -0.25] : [-0.25, 0.25], [2, 1, 1, 1, 1]), [1, 1, 4, 4, 3]);
  const made = tf.zeros([2, 1, 4, 4, 3]) as tf.Tensor5D;
  const optimizer = tf.train.adam(0.02);
  const variables = [...scope.trainable().values()];
  const lossAt = (step: number): tf.Scalar => {
    const noise = toTensors(network.inputs(2, [1, 4, 4], 0, step));
    return network.loss(real(step), made, noise);
  };
  const mean = (from: number): number =>
    [...Array(20).keys()].reduce((sum, i) => sum + item(lossAt(from + i)), 0) / 20;
  const before = mean(1000);
  for (let step = 0; step < 60; step++) {
    optimizer.minimize(() => lossAt(step), false, variables);
  }
  expect(mean(1000)).toBeLessThan(0.85 * before);
});
