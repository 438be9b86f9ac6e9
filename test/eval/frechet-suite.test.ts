/** @file The Fréchet suite on its stand-in network: distances order as they must, weights are checked. */

import { readFileSync } from "node:fs";
import * as tf from "@tensorflow/tfjs-core";
import { beforeAll, describe, expect, it } from "vitest";
import {
  checkWeights,
  featureNetworks,
  loadVariables,
  openFeatureNetwork,
} from "../../src/eval/networks/registry.ts";
import { buildSuite } from "../../src/eval/registry.ts";
import type { EvalContext, Score } from "../../src/eval/suite.ts";
import { Scope } from "../../src/models/scope.ts";
import { Random } from "../../src/runtime/random.ts";
import { blockTokenizer, context, fakeObjective, shapes } from "./fakes.ts";

const config = {
  type: "frechet",
  network: "moving-shapes-v1",
  split: "validation",
  clips: 24,
  seed: 0,
  covariance: "unbiased",
  kernel: true,
  neighbours: false,
  extrapolate: false,
  reconstruction: true,
  generation: true,
  floor: true,
  repeats: 1,
} as const;

const tokenizer = blockTokenizer(5, 16, 16);

function value(list: readonly Score[], name: string): number {
  return list.find((score) => score.name === name)!.value;
}

describe("feature network moving-shapes-v1", () => {
  let device: EvalContext["device"];
  beforeAll(async () => {
    ({ device } = await context());
  });

  it("is the file that its name stands for", () => {
    expect(checkWeights("moving-shapes-v1").state).toBe("ok");
    const file = readFileSync(checkWeights("moving-shapes-v1").path);
    expect(file.length).toBeLessThan(400_000);
    const stranger = Scope.root(0);
    stranger.param("unknown", [3], (shape) => new Float32Array(shape[0]!));
    expect(() => loadVariables(stranger, file)).toThrow(/no tensor "unknown"/);
    stranger.dispose();
  });

  it.each([
    [1, 8, 8],
    [3, 17, 20],
    [6, 24, 24],
  ])("takes clips of %i x %i x %i, images too", async (frames, height, width) => {
    const network = openFeatureNetwork("moving-shapes-v1");
    const extract = device.compile("features", ({ clips }) => ({
      features: network.features(clips as tf.Tensor5D),
    }));
    const shape = [2, frames, height, width, 3];
    const data = new Random(0, "clips").uniforms(shape.reduce((a, b) => a * b, 1));
    const { features } = await extract({ clips: { dtype: "float32", shape, data } });
    expect(features!.shape).toEqual([2, featureNetworks["moving-shapes-v1"].dimensions]);
    expect([...features!.data].every((x) => Number.isFinite(x))).toBe(true);
    network.dispose();
  });
});

describe("frechet", () => {
  it("puts copies of real clips at 0, other real clips at the floor, noise far away", async () => {
    const ctx = await context({ tokenizer });
    const noise = fakeObjective(tokenizer, (labels, seed) => {
      const random = new Random(seed, "noise");
      const ids = Int32Array.from({ length: labels.length * 80 * 3 }, () => random.int(16));
      return Promise.resolve(ids);
    });
    const list = await buildSuite(config, "frechet").run({ ...ctx, objective: noise });
    expect(value(list, "frechet/reconstruction")).toBeLessThan(value(list, "frechet/generation"));
    expect(value(list, "frechet/real_floor")).toBeLessThan(value(list, "frechet/generation"));
    expect(value(list, "frechet/kernel_real_floor")).toBeLessThan(
      value(list, "frechet/kernel_generation"),
    );
    expect(list.every((score) => score.n === 24)).toBe(true);
    expect(list[0]!.protocol).toMatchObject({
      name: "frechet:moving-shapes-v1",
      weights_sha256: featureNetworks["moving-shapes-v1"].sha256,
    });
    const exact = {
      ...tokenizer,
      encode: (clips: tf.Tensor5D) => ({ ...tokenizer.encode(clips), codes: clips }),
      decode: (codes: tf.Tensor5D) => codes,
    };
    const perfect = await buildSuite(config, "frechet").run({ ...ctx, tokenizer: exact });
    expect(value(perfect, "frechet/reconstruction")).toBeLessThan(1e-6);
    // No transformer, no generation.
    expect(perfect.map((score) => score.name)).not.toContain("frechet/generation");
    expect(value(perfect, "frechet/real_floor")).toBe(value(list, "frechet/real_floor"));
  });

  it("warns with fewer clips than dimensions, and stays finite", async () => {
    const messages: string[] = [];
    const ctx = await context({ tokenizer, warn: (message) => void messages.push(message) });
    const list = await buildSuite({ ...config, clips: 5 }, "frechet").run(ctx);
    expect(messages.some((message) => message.includes("5 samples do not fill 64"))).toBe(true);
    expect(list.every((score) => Number.isFinite(score.value))).toBe(true);
    const tiny = {
      ...ctx,
      dataset: (split: "train" | "validation") => shapes(split, { validation_size: 3 }),
    };
    await expect(buildSuite(config, "frechet").run(tiny)).rejects.toThrow(/two disjoint sets/);
  });
});
