/** @file Recognition: V-JEPA's classifier against its golden, targets of masked prediction, and the suite. */

import * as tf from "@tensorflow/tfjs-core";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { attentiveClassifier } from "../../src/eval/recognition/attentive.ts";
import {
  blockValues,
  hogBlocks,
  hogValues,
  pixelBlocks,
} from "../../src/eval/recognition/targets.ts";
import { fewLabels, topShare } from "../../src/eval/recognition-suite.ts";
import { buildSuite, type SuiteConfig } from "../../src/eval/registry.ts";
import type { EvalContext } from "../../src/eval/suite.ts";
import { colours } from "../../src/data/shapes/scene.ts";
import { Scope } from "../../src/models/scope.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { float32, sizeOf } from "../../src/runtime/tensors.ts";
import { permuted } from "../../src/runtime/weight-files/weights.ts";
import { buildTokenizer } from "../../src/tokenizers/registry.ts";
import { magvit2Config } from "../tokenizers/helpers.ts";
import { fastDevices } from "../models/features/formula.ts";
import { blockTokenizer, context, shapes } from "./fakes.ts";
import { golden, mulberry } from "./golden.ts";

const layers = golden<{
  jepa_attentive_probe: { shapes: { [name: string]: number[] }; logits: number[][] };
  multiview: { labels: number[]; mean_softmax: number[][]; top1: number; top2: number };
}>("layers");

const symmetric = (seed: number, count: number): Float64Array =>
  Float64Array.from({ length: count }, (_, i) => (2 * mulberry(seed, i)) / 2 ** 32 - 1);

describe("V-JEPA's attentive classifier", () => {
  it.each(fastDevices)("agrees with the golden on %s", async (type) => {
    const device = await openDevice({ type });
    const scope = Scope.root(0);
    const classify = attentiveClassifier(scope, { width: 16, heads: 4, classes: 5 });
    const names: { [golden: string]: string } = {
      q_tok: "query_token",
      n1w: "norm1/scale",
      n1b: "norm1/shift",
      qw: "query/kernel",
      qb: "query/bias",
      kvw: "key_value/kernel",
      kvb: "key_value/bias",
      n2w: "norm2/scale",
      n2b: "norm2/shift",
      f1w: "mlp/in/kernel",
      f1b: "mlp/in/bias",
      f2w: "mlp/out/kernel",
      f2b: "mlp/out/bias",
      lw: "classes/kernel",
      lb: "classes/bias",
    };
    const { shapes: shapesOf, logits } = layers.jepa_attentive_probe;
    Object.entries(shapesOf).forEach(([name, shape], k) => {
      const offset = name === "n1w" || name === "n2w" ? 1 : 0;
      const values = Float32Array.from(symmetric(60 + k, sizeOf(shape)), (v) => 0.3 * v + offset);
      const turned = names[name]!.endsWith("kernel") ? permuted(values, shape, [1, 0]) : values;
      const variable = scope.variables().get(names[name]!)!;
      variable.assign(tf.tensor(turned, variable.shape));
    });
    const run = device.compile("probe", ({ x }) => ({ y: classify(x as tf.Tensor3D) }));
    const { y } = await run({ x: float32([2, 7, 16], Float32Array.from(symmetric(59, 224))) });
    logits.flat().forEach((value, i) => expect(y!.data[i]).toBeCloseTo(value, 5));
    device.dispose();
  });

  it("votes over views as the golden does", () => {
    const { labels, mean_softmax, top1, top2 } = layers.multiview;
    const mean = Float32Array.from(mean_softmax.flat());
    expect(topShare(mean, Int32Array.from(labels), 4, 1)).toBeCloseTo(top1, 9);
    expect(topShare(mean, Int32Array.from(labels), 4, 2)).toBeCloseTo(top2, 9);
    expect(topShare(mean, Int32Array.from(labels), 4, 4)).toBe(1);
  });
});

describe("targets of masked prediction", () => {
  it("cut a clip into its pixels, each once where frames divide evenly", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 3 }), (t, side) => {
        const grid = { frames: 2 * t, height: 4 * side, width: 4, grid: [t, side, 2] as const };
        const clip = Uint8Array.from(
          { length: grid.frames * grid.height * 4 * 3 },
          (_, i) => i % 251,
        );
        const blocks = pixelBlocks(clip, grid);
        expect(blocks.length).toBe(t * side * 2 * blockValues(grid));
        expect(blocks.toSorted()).toEqual(clip.toSorted());
      }),
    );
    // Five frames on three steps: the first frame stands twice.
    const grid = { frames: 5, height: 1, width: 1, grid: [3, 1, 1] as const };
    const clip = Uint8Array.from([1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]);
    expect([...pixelBlocks(clip, grid)].filter((_, i) => i % 3 === 0)).toEqual([1, 1, 2, 3, 4, 5]);
  });

  it("see the direction of an edge and nothing in a flat clip", () => {
    const grid = { frames: 1, height: 8, width: 8, grid: [1, 1, 1] as const };
    const picture = (value: (y: number, x: number) => number): Uint8Array =>
      Uint8Array.from({ length: 8 * 8 * 3 }, (_, i) =>
        value(Math.floor(i / 24), Math.floor(i / 3) % 8),
      );
    expect(
      hogBlocks(
        picture(() => 90),
        grid,
      ).every((value) => value === 0),
    ).toBe(true);
    const across = hogBlocks(
      picture((_, x) => 20 * x),
      grid,
    );
    const down = hogBlocks(
      picture((y) => 20 * y),
      grid,
    );
    expect(across.length).toBe(hogValues);
    expect(across[0]).toBeCloseTo(1, 5); // gradient along x: the first orientation
    expect(down[0]).toBe(0);
    expect(down[4]! + down[5]!).toBeGreaterThan(1); // a quarter turn: between the fifth and sixth
    // Unsigned: the opposite edge looks the same.
    const back = hogBlocks(
      picture((_, x) => 140 - 20 * x),
      grid,
    );
    across.forEach((value, i) => expect(back[i]).toBeCloseTo(value, 5));
  });
});

describe("few labels", () => {
  it("keeps as many clips of each class, and says when a class has too few", () => {
    const labels = Int32Array.of(0, 1, 0, 1, 0, 2, 2);
    expect(fewLabels(labels, 0, 3, "r")).toEqual([0, 1, 2, 3, 4, 5, 6]);
    expect(fewLabels(labels, 1, 3, "r")).toEqual([0, 1, 5]);
    expect(() => fewLabels(labels, 3, 3, "r")).toThrow(/class 1 has 2/);
  });
});

describe("recognition", () => {
  let device: EvalContext["device"];
  beforeAll(async () => {
    device = await openDevice({ type: "cpu" });
  });
  afterAll(() => device.dispose());

  const config = {
    type: "recognition",
    reads: "codes",
    depth: 0,
    width: 32,
    heads: 4,
    pretrain: "none",
    learns: "reader",
    tokenizer_rate: 0.1,
    pretrain_steps: 4,
    hidden: 0.5,
    steps: 120,
    batch: 32,
    lr: 3e-3,
    weight_decay: 0.01,
    labels_per_class: 0,
    views: 1,
    train_clips: 240,
    clips: 96,
    seed: 0,
  } satisfies SuiteConfig;

  const ctx = async (): Promise<EvalContext> => ({
    ...(await context({ device, batch: 12, tokenizer: blockTokenizer(5, 16, 8) })),
    dataset: (split) => shapes(split),
  });

  /** The colour of the thing that moves in place of its motion: what a few steps can learn. */
  const coloured = async (): Promise<EvalContext> => {
    const plain = await ctx();
    const classes = Object.keys(colours);
    return {
      ...plain,
      dataset: async (split) => {
        const inner = await plain.dataset(split);
        return {
          ...inner,
          classes,
          close: () => inner.close(),
          async get(index: number, visit: number) {
            const sample = await inner.get(index, visit);
            return { ...sample, label: classes.indexOf(String(sample.factors!["colour"])) };
          },
        };
      },
    };
  };

  it("reads a colour off codes far above chance, the same each time", async () => {
    const first = await buildSuite(config, "probe").run(await coloured());
    const of = (name: string) => first.find((one) => one.name === `probe/${name}`)!;
    expect(of("top5").value).toBeGreaterThanOrEqual(of("top1").value);
    expect(of("top1").protocol).toMatchObject({ name: "probe:attentive", labelled_clips: 240 });
    const again = await buildSuite(config, "probe").run(await coloured());
    expect(again).toEqual(first);
  });

  it.each(["ids", "reconstruction", "pixels"] as const)(
    "reads %s behind blocks pre-trained on every target, with few labels and two views",
    async (reads) => {
      const targets = { ids: "pixels", reconstruction: "hog", pixels: "tokens" } as const;
      const hard = {
        ...config,
        reads,
        depth: 1,
        pretrain: targets[reads],
        steps: 4,
        labels_per_class: 2,
        views: 2,
        clips: 24,
      } as const;
      const scores = await buildSuite(hard, "r").run(await ctx());
      expect(scores[0]!.protocol).toMatchObject({ name: "probe:transformer", labelled_clips: 24 });
      expect(scores.every(({ value }) => value >= 0 && value <= 100)).toBe(true);
    },
  );

  it("gives readers of pixels patches of their own, and can leave pre-trained blocks alone", async () => {
    const own = { ...config, reads: "pixels", patches: [1, 4, 4], depth: 1, steps: 6 } as const;
    const judged = async (more: object) =>
      (await buildSuite({ ...own, ...more } as SuiteConfig, "r").run(await ctx()))[0]!;
    const whole = await judged({});
    const pooled = await judged({ learns: "pooling" });
    expect(whole.protocolHash).not.toBe(pooled.protocolHash);
    expect(whole.protocol).toMatchObject({ learning: { patches: [1, 4, 4], learns: "reader" } });
    await expect(judged({ reads: "codes" })).rejects.toThrow(/tokens lie on a grid of .*1×4×4/);
    await expect(judged({ patches: [1, 3, 4] })).rejects.toThrow(/does not divide into 1×3×4/);
  });

  it("fine-tunes the tokenizer with the reader, and puts it back", async () => {
    device.activate();
    const clip = { frames: 5, height: 16, width: 16 };
    const tokenizer = buildTokenizer(magvit2Config, clip, Scope.root(4));
    const values = async () =>
      Promise.all(
        [...tokenizer.scope.variables().values()].map(async (v) => [...(await v.data())]),
      );
    const before = await values();
    const base = { ...(await coloured()), tokenizer };
    const tuned = { ...config, steps: 60, learns: "tokenizer", tokenizer_rate: 1 } as const;
    const scores = await buildSuite(tuned, "r").run(base);
    expect(await values()).toEqual(before);
    const frozen = await buildSuite({ ...tuned, learns: "reader" }, "r").run(base);
    expect(await values()).toEqual(before);
    expect(scores[0]!.protocol).toMatchObject({
      name: "probe:fine-tuned",
      learning: { learns: "tokenizer", tokenizer_rate: 1 },
    });
    expect(frozen[0]!.protocol).not.toMatchObject({ learning: { tokenizer_rate: 1 } });
    // An untrained tokenizer's codes say little; one that learns with the reader says more.
    expect(scores[0]!.value).toBeGreaterThan(frozen[0]!.value);
    await expect(buildSuite({ ...tuned, reads: "pixels" }, "r").run(base)).rejects.toThrow(
      /learns through its codes/,
    );
    await expect(buildSuite(tuned, "r").run(await coloured())).rejects.toThrow(
      /cannot be fine-tuned/,
    );
  });

  it("says what does not fit", async () => {
    const run = async (more: Partial<typeof config>) =>
      buildSuite({ ...config, ...more } as SuiteConfig, "r").run(await ctx());
    await expect(run({ heads: 5 })).rejects.toThrow(/does not divide into 5/);
    await expect(run({ pretrain: "hog" } as never)).rejects.toThrow(/nothing to pre-train/);
    await expect(run({ lr: 1e30 })).rejects.toThrow(/diverged/);
  });
});
