import * as tf from "@tensorflow/tfjs-core";
import { beforeAll, describe, expect, test } from "vitest";
import { normal, Scope } from "../../src/models/scope.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { MovingAverage } from "../../src/trainers/ema.ts";
import { AdamW, type AdamWOptions, adamwScalars } from "../../src/trainers/optimizers.ts";
import { getVariable, packParameters } from "../../src/trainers/packing.ts";
import { emaDecay, learningRate } from "../../src/trainers/schedules.ts";

beforeAll(async () => void (await openDevice({ type: "reference" })));

const options: AdamWOptions = {
  beta1: 0.9,
  beta2: 0.95,
  epsilon: 1e-8,
  weight_decay: 0.1,
  clip_norm: 0.5,
};

function scalars(step: number, lr: number) {
  const host = adamwScalars(options, lr, step);
  const scalar = (name: string) => tf.scalar(host[name]!.data[0]!);
  return {
    rate: scalar("adamw_rate"),
    epsilon: scalar("adamw_epsilon"),
    keep: scalar("adamw_keep"),
  };
}

/** AdamW as the paper's algorithm 2 writes it, in float64. */
function referenceAdamW(
  p: number[],
  gradients: readonly number[][],
  lr: number,
  decay: number,
): number[] {
  const m = p.map(() => 0);
  const v = p.map(() => 0);
  for (const [i, g] of gradients.entries()) {
    for (let k = 0; k < p.length; k++) {
      m[k] = options.beta1 * m[k]! + (1 - options.beta1) * g[k]!;
      v[k] = options.beta2 * v[k]! + (1 - options.beta2) * g[k]! ** 2;
      const mHat = m[k]! / (1 - options.beta1 ** (i + 1));
      const vHat = v[k]! / (1 - options.beta2 ** (i + 1));
      p[k] = p[k]! - lr * (mHat / (Math.sqrt(vHat) + options.epsilon) + decay * p[k]!);
    }
  }
  return p;
}

describe("AdamW", () => {
  test("follows the paper's algorithm, with clipping, and decays matrices only", async () => {
    const scope = Scope.root(0);
    const kernel = scope.param("kernel", [2, 3], normal(1));
    const bias = scope.param("bias", [3], normal(1));
    const start = [...(await getVariable(kernel)), ...(await getVariable(bias))];
    const adamw = new AdamW(scope.trainable(), options, 1);
    const raw = [1, 2, 3].map((step) => start.map((_, k) => Math.sin(step * 7 + k) * 0.3));
    const clipped = raw.map((g) => {
      const norm = Math.hypot(...g);
      return g.map((x) => x * Math.min(1, options.clip_norm / norm));
    });
    for (const [step, g] of raw.entries()) {
      const gradients = {
        kernel: tf.tensor(g.slice(0, 6), [2, 3]),
        bias: tf.tensor(g.slice(6), [3]),
      };
      const gradNorm = adamw.update(scalars(step, 0.01), gradients);
      expect(gradNorm.dataSync()[0]).toBeCloseTo(Math.hypot(...g), 5);
    }
    const cut = (from: number, to?: number) => clipped.map((g) => g.slice(from, to));
    const wantKernel = referenceAdamW(start.slice(0, 6), cut(0, 6), 0.01, options.weight_decay);
    const wantBias = referenceAdamW(start.slice(6), cut(6), 0.01, 0);
    for (const [k, value] of (await getVariable(kernel)).entries()) {
      expect(value).toBeCloseTo(wantKernel[k]!, 6);
    }
    for (const [k, value] of (await getVariable(bias)).entries()) {
      expect(value).toBeCloseTo(wantBias[k]!, 6);
    }
  });

  test("leaves the parameters exactly alone when a gradient is not finite", async () => {
    for (const bad of [Number.NaN, Infinity, -Infinity]) {
      const scope = Scope.root(0);
      const kernel = scope.param("kernel", [2, 2], normal(1));
      const before = await getVariable(kernel);
      const adamw = new AdamW(scope.trainable(), options, 1);
      adamw.update(scalars(0, 0.01), { kernel: tf.tensor2d([1, bad, 0, 1], [2, 2]) });
      expect(await getVariable(kernel)).toEqual(before);
    }
  });

  test("takes a missing gradient as zero", async () => {
    const scope = Scope.root(0);
    const unused = scope.param("unused", [3], normal(1));
    const before = await getVariable(unused);
    new AdamW(scope.trainable(), options, 1).update(scalars(0, 0.01), { unused: null });
    expect(await getVariable(unused)).toEqual(before);
  });

  test("accumulated micro-batches equal their mean gradient", async () => {
    const make = (accumulate: number) => {
      const scope = Scope.root(5);
      const kernel = scope.param("kernel", [2, 2], normal(1));
      return { kernel, adamw: new AdamW(scope.trainable(), options, accumulate) };
    };
    const whole = make(1);
    const parts = make(2);
    const a = tf.tensor2d([0.1, 0.2, -0.3, 0.1], [2, 2]);
    const b = tf.tensor2d([0.3, -0.2, 0.1, 0.1], [2, 2]);
    for (const step of [0, 1]) {
      whole.adamw.update(scalars(step, 0.01), { kernel: tf.mul(tf.add(a, b), 0.5) });
      parts.adamw.addGradients({ kernel: a });
      parts.adamw.addGradients({ kernel: b });
      parts.adamw.update(scalars(step, 0.01));
    }
    const got = await getVariable(parts.kernel);
    for (const [k, value] of (await getVariable(whole.kernel)).entries()) {
      expect(got[k]).toBeCloseTo(value, 6);
    }
  });

  test("packs hold every parameter once, large ones alone", () => {
    const scope = Scope.root(0);
    for (const [name, shape] of [
      ["a", [4, 4]],
      ["b", [4]],
      ["big", [1024, 512]],
      ["c", [8, 2]],
    ] as const) {
      scope.param(name, shape, normal(1));
    }
    const packs = packParameters(scope.trainable());
    expect(packs.map(({ names }) => names)).toEqual([["a"], ["big"], ["c"], ["b"]]);
    expect(packs.map(({ decayed }) => decayed)).toEqual([true, true, true, false]);
  });
});

describe("moving average", () => {
  test("averages, and two swaps change nothing", async () => {
    const scope = Scope.root(0);
    const kernel = scope.param("kernel", [2, 2], normal(1));
    const bias = scope.param("bias", [2], normal(1));
    const average = new MovingAverage(packParameters(scope.trainable()));
    await average.start();
    const before = [await getVariable(kernel), await getVariable(bias)];
    average.update([tf.zeros([4]) as tf.Tensor1D, tf.zeros([2]) as tf.Tensor1D], tf.scalar(0.25));
    average.swap();
    const kernelAverage = await getVariable(kernel);
    for (const [k, value] of before[0]!.entries()) {
      expect(kernelAverage[k]).toBeCloseTo(0.75 * value, 6);
    }
    average.swap();
    expect([await getVariable(kernel), await getVariable(bias)]).toEqual(before);
  });

  test("its decay rises to the given one", () => {
    expect(emaDecay(0.999, 0)).toBeCloseTo(0.1);
    expect(emaDecay(0.999, 100_000)).toBe(0.999);
    expect(emaDecay(0, 50)).toBe(0);
  });
});

describe("learning rate", () => {
  const base = { lr: 2, final_lr_ratio: 0.1, warmup: 4, steps: 24 } as const;

  test("warms up linearly, then decays to the last ratio", () => {
    for (const schedule of ["cosine", "linear"] as const) {
      const at = (step: number) => learningRate({ ...base, schedule }, step);
      expect([0, 1, 3].map(at)).toEqual([0.5, 1, 2]);
      expect(at(4)).toBeCloseTo(2);
      expect(at(14)).toBeCloseTo(1.1); // half-way
      expect(at(24)).toBeCloseTo(0.2);
    }
    expect(learningRate({ ...base, schedule: "constant" }, 23)).toBe(2);
    expect(learningRate({ ...base, warmup: 0, schedule: "constant" }, 0)).toBe(2);
  });
});
