import * as tf from "@tensorflow/tfjs-core";
import { expect, test } from "vitest";
import { buildSuite } from "../../src/eval/registry.ts";
import type { Score } from "../../src/eval/suite.ts";
import { countFlops } from "../../src/runtime/flops.ts";
import { attention } from "../../src/runtime/ops.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { float32, sizeOf } from "../../src/runtime/tensors.ts";
import { blockTokenizer, context, fakeObjective, shapes } from "./fakes.ts";

const zeros = (shape: number[]) => float32(shape, new Float32Array(sizeOf(shape)));
const value = (list: readonly Score[], name: string) =>
  list.find((score) => score.name === name)!.value;

test("operations are two a multiply-add, of every call", async () => {
  const one = (shapes: readonly number[][], fn: (...x: tf.Tensor[]) => tf.Tensor) =>
    countFlops(async (device) => {
      const call = device.compile("f", (inputs) => ({
        y: fn(...shapes.map((_, i) => inputs[`x${i}`]!)),
      }));
      const given = Object.fromEntries(shapes.map((shape, i) => [`x${i}`, zeros(shape)]));
      await call(given);
      await call(given);
    });
  expect(
    await one(
      [
        [2, 3],
        [3, 4],
      ],
      (a, b) => tf.matMul(a, b),
    ),
  ).toBe(2 * (2 * 2 * 3 * 4));
  expect(
    await one(
      [
        [1, 5, 6, 6, 3],
        [3, 3, 3, 3, 8],
      ],
      (x, f) => tf.conv3d(x as tf.Tensor5D, f as tf.Tensor5D, 1, "valid"),
    ),
  ).toBe(2 * (2 * (3 * 4 * 4 * 8) * 27 * 3));
  const heads = [2, 4, 10, 16];
  expect(
    await one([heads, heads, heads], (q, k, v) =>
      attention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, {}),
    ),
  ).toBe(2 * (2 * 2 * 4 * 10 * 10 * 32));
  expect(await one([[4, 4]], (x) => tf.relu(x))).toBe(0);
});

test("efficiency counts the same twice, and says what it measured", async () => {
  const device = await openDevice({ type: "cpu", engine: "auto", threads: 1 });
  try {
    const tokenizer = blockTokenizer(5, 16, 8);
    const objective = fakeObjective(tokenizer, (labels) =>
      Promise.resolve(new Int32Array(labels.length * 80 * 3)),
    );
    const ctx = await context({ device, tokenizer, objective });
    device.activate();
    const config = { type: "efficiency", split: "validation", seconds: 0.05 } as const;
    const [first, second] = [
      await buildSuite(config, "efficiency").run(ctx),
      await buildSuite(config, "efficiency").run(ctx),
    ];
    const counted = (list: readonly Score[]) => list.filter((score) => score.measured !== true);
    expect(counted(first)).toEqual(counted(second));
    const names = first.filter((score) => score.measured).map(({ name }) => name);
    expect(names).toEqual(
      ["encode", "decode", "sample", "sample_tokens", "peak_memory"].map((q) => `efficiency/${q}`),
    );
    expect(value(first, "efficiency/tokenizer_parameters")).toBe(0);
    expect(value(first, "efficiency/encode_gflop")).toBe(0); // it pools and rounds
    expect(
      value(first, "efficiency/sample_tokens") / value(first, "efficiency/sample"),
    ).toBeCloseTo(80, 6);
  } finally {
    device.dispose();
  }
});

test("an audit tells a generator that favours one colour from one that copies the data", async () => {
  const tokenizer = blockTokenizer(5, 16, 16);
  const world = { textures: ["plain"], sizes: ["large"], occlusion: 0, size: 240 };
  const train = await shapes("train", world);
  const held = await shapes("validation", { ...world, validation_size: 240 });
  const ctx = await context({
    tokenizer,
    dataset: (split) => Promise.resolve(split === "train" ? train : held),
  });
  const samples = await Promise.all(Array.from({ length: held.size }, (_, i) => held.get(i, 0)));
  // Exact: what is decoded is the clip whose number the first id holds.
  const exact = {
    ...tokenizer,
    decode: (codes: tf.Tensor5D) => codes,
    lookup: (ids: tf.Tensor5D) => tf.cast(ids, "float32") as tf.Tensor5D,
    grid: [5, 16, 16] as const,
    width: 3,
  };
  const pixels = (index: number) =>
    Int32Array.from(samples[index]!.clip, (byte) => Math.round(byte / 127.5 - 1));
  const generator = (choose: (label: number, i: number) => number) =>
    fakeObjective(exact, (labels, seed) => {
      const ids = new Int32Array(labels.length * 5 * 16 * 16 * 3);
      labels.forEach((label, i) => ids.set(pixels(choose(label, (seed + i) % 1000)), i * 3840));
      return Promise.resolve(ids);
    });
  const ofClass = (label: number) =>
    samples.flatMap((sample, i) => (sample.label === label ? [i] : []));
  const config = {
    type: "audit",
    split: "validation",
    seed: 0,
    clips: 40,
    train_clips: 240,
    prompts: [],
    attributes: ["colour"],
    reference: "data",
  } as const;
  const run = (choose: (label: number, i: number) => number) =>
    buildSuite({ ...config, attributes: [...config.attributes], prompts: [] }, "audit").run({
      ...ctx,
      tokenizer: exact,
      objective: generator(choose),
    });
  const fair = await run((label, i) => ofClass(label)[i % ofClass(label).length]!);
  const biased = await run((label) => ofClass(label)[0]!);
  const distance = (list: readonly Score[]) => value(list, "audit/colour/total_variation");
  const floor = value(fair, "audit/colour/total_variation_of_reference");
  expect(distance(fair)).toBeLessThan(2 * floor);
  expect(distance(biased)).toBeGreaterThan(3 * floor);
  expect(value(biased, "audit/colour/total_variation_low")).toBeGreaterThan(floor);
  const sum = biased
    .filter(({ name }) => name.startsWith("audit/colour/share/"))
    .reduce((total, one) => total + one.value, 0);
  expect(sum).toBeCloseTo(100, 6);
}, 30_000);
