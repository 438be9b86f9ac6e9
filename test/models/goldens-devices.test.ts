/**
 * @file Every reference value of test/goldens/layers.json on every device that is here: norms, causal
 * and other convolutions, paddings, activations, batch norms of loaded networks, V-JEPA's attentive
 * probe and its vote over views. A last test holds that no value is left out.
 */

import * as tf from "@tensorflow/tfjs-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { attentiveClassifier } from "../../src/eval/recognition/attentive.ts";
import { topShare } from "../../src/eval/recognition-suite.ts";
import {
  foldedBias,
  foldedKernel,
  type Ingredient,
  type Recipe,
} from "../../src/models/features/recipes.ts";
import { framesBefore } from "../../src/models/borders.ts";
import { conv, groupNorm, layerNorm, samePad } from "../../src/models/layers.ts";
import { Scope } from "../../src/models/scope.ts";
import type { Device } from "../../src/runtime/device.ts";
import { gelu, groupNorm as groupNormOp, silu } from "../../src/runtime/ops.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { float32, sizeOf } from "../../src/runtime/tensors.ts";
import { devicesHere, runOnce, watched } from "../tokenizers/golden-devices.ts";
import { golden, sym, worstError } from "../tokenizers/helpers.ts";

const { golden: l, unread } = watched(
  golden<{
    group_norm: { eps1e6: number[]; eps1e6_sum: number; eps1e5: number[] };
    group_norm_per_frame_eps1e6: number[];
    conv3d_causal: {
      zero_pad: number[];
      zero_pad_sum: number;
      zero_shape: number[];
      replicate: number[];
      replicate_sum: number;
      zero_stride_2_1_1: number[];
      zero_stride_2_1_1_shape: number[];
      noncausal_same: number[];
    };
    tf_same_padding: { n: number; k: number; s: number; out: number; before: number; after: number }[]; // biome-ignore format: one type
    layer_norm_eps1e5: number[][];
    activations: {
      x: number[];
      gelu_erf: number[];
      gelu_tanh: number[];
      silu: number[];
      leaky02: number[];
      softplus: number[];
    };
    batch_norm_i3d: { eps1e3: number[][] };
    jepa_attentive_probe: {
      shapes: { [name: string]: number[] };
      logits: number[][];
      pooled_first8: number[][];
    };
    multiview: {
      labels: number[];
      mean_softmax: number[][];
      pred: number[];
      top1: number;
      top2: number;
    };
  }>("layers.json"),
);
const found = await devicesHere("layers' goldens");
const scaled = (seed: number, n: number, f: (v: number) => number): Float32Array =>
  Float32Array.from(sym(seed, n), f);
const input = (seed: number, shape: number[]) =>
  float32(shape, Float32Array.from(sym(seed, sizeOf(shape))));
/** From u in [0, 1), as the goldens' `uni`. */
const uni = (seed: number, n: number): Float32Array => scaled(seed, n, (v) => (v + 1) / 2);
const set = (scope: Scope, name: string, values: ArrayLike<number>): void => {
  const variable = scope.variables().get(name)!;
  variable.assign(tf.tensor(Float32Array.from(values), variable.shape));
};

describe.each(found)("layers on %s", (_, config) => {
  let device: Device;
  beforeAll(async () => {
    device = await openDevice(config);
  });
  afterAll(() => device.dispose());

  /** Channel-first goldens of a layer over the 2×6×3×4×5 input. */
  const layer = async (name: string, f: (x: tf.Tensor5D) => tf.Tensor5D) => {
    const made = await runOnce(
      device,
      name,
      (x) => ({ y: tf.transpose(f(tf.transpose(x as tf.Tensor5D, [0, 2, 3, 4, 1])), [0, 4, 1, 2, 3]) }), // biome-ignore format: one call
      input(41, [2, 6, 3, 4, 5]),
    );
    return made["y"]!;
  };
  const sum = (values: ArrayLike<number>): number => Array.from(values).reduce((a, b) => a + b, 0);

  it("group norm over clips and over frames, with both constants", async () => {
    const scale = scaled(42, 6, (v) => 1 + 0.2 * v);
    const shift = scaled(43, 6, (v) => 0.3 * v);
    const sums: number[] = [];
    for (const perFrame of [false, true]) {
      device.activate();
      const scope = Scope.root(0);
      const norm = groupNorm(scope, { channels: 6, groups: 3, perFrame });
      set(scope, "scale", scale);
      set(scope, "shift", shift);
      const { data } = await layer(`norm${perFrame}`, norm);
      const wanted = perFrame ? l.group_norm_per_frame_eps1e6 : l.group_norm.eps1e6;
      expect(worstError(data, wanted)).toBeLessThan(2e-5);
      sums.push(sum(data));
    }
    expect(sums[0]).toBeCloseTo(l.group_norm.eps1e6_sum, 3);
    const larger = (x: tf.Tensor5D) =>
      groupNormOp(x, tf.tensor1d(scale), tf.tensor1d(shift), { groups: 3, epsilon: 1e-5 });
    expect(worstError((await layer("larger", larger)).data, l.group_norm.eps1e5)).toBeLessThan(
      2e-5,
    );
  });

  it("layer norm", async () => {
    device.activate();
    const scope = Scope.root(0);
    const norm = layerNorm(scope, { width: 8, epsilon: 1e-5 });
    set(
      scope,
      "scale",
      scaled(47, 8, (v) => 1 + 0.1 * v),
    );
    set(
      scope,
      "shift",
      scaled(48, 8, (v) => 0.1 * v),
    );
    const { y } = await runOnce(device, "layer", (x) => ({ y: norm(x) }), input(46, [2, 8]));
    expect(worstError(y!.data, l.layer_norm_eps1e5.flat())).toBeLessThan(5e-6);
  });

  it("convolutions: causal over zeros and over the first frame, strided, symmetric", async () => {
    const g = l.conv3d_causal;
    const make = (options: Parameters<typeof conv>[1]) => {
      device.activate();
      const scope = Scope.root(0);
      const made = conv(scope, options);
      const kernel = tf.tensor(
        scaled(44, 648, (v) => 0.2 * v),
        [4, 6, 3, 3, 3],
      );
      scope
        .variables()
        .get("kernel")!
        .assign(tf.transpose(kernel, [2, 3, 4, 1, 0]));
      set(
        scope,
        "bias",
        scaled(45, 4, (v) => 0.1 * v),
      );
      return made;
    };
    const own = { inputs: 6, outputs: 4 };
    const zero = await layer("zero", make({ ...own, padding: "causal" }));
    expect(zero.shape).toEqual(g.zero_shape);
    expect(worstError(zero.data, g.zero_pad)).toBeLessThan(2e-5);
    expect(sum(zero.data)).toBeCloseTo(g.zero_pad_sum, 3);
    // The golden has copies of the first frame in front, and zeros beside.
    const causal = make({ ...own, padding: "causal" });
    const copies = await layer("copies", (x) => {
      const y = causal(tf.concat([framesBefore(x, 2, "replicate"), x], 1));
      return tf.slice(y, [0, 2, 0, 0, 0], [2, 3, 4, 5, 4]);
    });
    expect(worstError(copies.data, g.replicate)).toBeLessThan(2e-5);
    expect(sum(copies.data)).toBeCloseTo(g.replicate_sum, 3);
    const strided = await layer("strided", make({ ...own, padding: "causal", strides: [2, 1, 1] }));
    expect(strided.shape).toEqual(g.zero_stride_2_1_1_shape);
    expect(worstError(strided.data, g.zero_stride_2_1_1)).toBeLessThan(2e-5);
    const same = await layer("same", make({ ...own, padding: "same" }));
    expect(worstError(same.data, g.noncausal_same)).toBeLessThan(2e-5);
  });

  it("SAME padding as TensorFlow's, in sums and in lengths", async () => {
    for (const { n, k, s, out, before, after } of l.tf_same_padding) {
      expect(samePad(n, k, s)).toEqual([before, after]);
      device.activate();
      const scope = Scope.root(0);
      const options = { inputs: 1, outputs: 1, padding: "same", kernel: [1, 1, k], strides: [1, 1, s] } as const; // biome-ignore format: one layer
      const count = conv(scope, options);
      set(scope, "kernel", new Float32Array(k).fill(1));
      const ones = float32([1, 1, 1, n, 1], new Float32Array(n).fill(1));
      const made = await runOnce(device, `same-${n}-${k}-${s}`, (x) => ({ y: count(x as tf.Tensor5D) }), ones); // biome-ignore format: one call
      expect(made["y"]!.shape).toEqual([1, 1, 1, out, 1]);
      // Each output counts the ones that its window sees.
      const seen = Array.from({ length: out }, (__, i) => {
        const first = i * s - before;
        return Math.min(n, first + k) - Math.max(0, first);
      });
      expect(worstError(made["y"]!.data, seen)).toBeLessThan(1e-5);
    }
  });

  it("activations, the other GELU written out too", async () => {
    const { x, ...wanted } = l.activations;
    const made = await runOnce(
      device,
      "activations",
      (v) => ({
        gelu_erf: gelu(v),
        gelu_tanh: tf.mul(
          tf.mul(v, 0.5),
          tf.add(
            tf.tanh(tf.mul(tf.add(v, tf.mul(tf.pow(v, 3), 0.044715)), Math.sqrt(2 / Math.PI))),
            1,
          ),
        ),
        silu: silu(v),
        leaky02: tf.leakyRelu(v, 0.2),
        softplus: tf.softplus(v),
      }),
      float32([x.length], Float32Array.from(x)),
    );
    for (const name of ["gelu_erf", "gelu_tanh", "silu", "leaky02", "softplus"] as const) {
      expect(worstError(made[name]!.data, wanted[name])).toBeLessThan(3e-6);
    }
  });

  it("I3D's batch norm, as an operation and folded into a convolution", async () => {
    const mean = scaled(47, 8, (v) => 0.1 * v);
    const variance = Float32Array.from(uni(48, 8), (v) => 0.5 + v);
    const beta = scaled(49, 8, (v) => 0.1 * v);
    const wanted = l.batch_norm_i3d.eps1e3.flat();
    const whole = await runOnce(
      device,
      "batch-norm",
      (x) => ({ y: tf.batchNorm(x as tf.Tensor2D, tf.tensor1d(mean), tf.tensor1d(variance), tf.tensor1d(beta), undefined, 1e-3) }), // biome-ignore format: one call
      input(46, [2, 8]),
    );
    expect(worstError(whole["y"]!.data, wanted)).toBeLessThan(5e-6);
    // The way that weights are loaded: an identity convolution with the norm inside.
    const identity = Float32Array.from({ length: 64 }, (__, i) => (i % 9 === 0 ? 1 : 0));
    const parts: { readonly [name: string]: Ingredient } = {
      kernel: { shape: [8, 8], values: identity },
      beta: { shape: [8], values: beta },
      mean: { shape: [8], values: mean },
      variance: { shape: [8], values: variance },
    };
    const norm = { beta: "beta", mean: "mean", variance: "variance", epsilon: 1e-3 };
    const fold = (recipe: Recipe, shape: number[]): Float32Array =>
      Float32Array.from(recipe.make(recipe.needs.map((name) => parts[name]!), shape)!); // biome-ignore format: one call
    const folded = {
      kernel: fold(foldedKernel("kernel", norm), [8, 8]),
      bias: fold(foldedBias(norm), [8]),
    };
    const made = await runOnce(
      device,
      "folded",
      (x) => ({
        y: tf.add(
          tf.matMul(x as tf.Tensor2D, tf.tensor2d(folded.kernel, [8, 8])),
          tf.tensor1d(folded.bias),
        ),
      }),
      input(46, [2, 8]),
    );
    expect(worstError(made["y"]!.data, wanted)).toBeLessThan(5e-6);
  });

  it("V-JEPA's attentive probe and the vote over views", async () => {
    device.activate();
    const scope = Scope.root(0);
    const classify = attentiveClassifier(scope, { width: 16, heads: 4, classes: 5 });
    const names = ["query_token", "norm1/scale", "norm1/shift", "query/kernel", "query/bias", "key_value/kernel", "key_value/bias", "norm2/scale", "norm2/shift", "mlp/in/kernel", "mlp/in/bias", "mlp/out/kernel", "mlp/out/bias", "classes/kernel", "classes/bias"]; // biome-ignore format: one list
    const g = l.jepa_attentive_probe;
    Object.values(g.shapes).forEach((shape, k) => {
      const offset = names[k]!.endsWith("scale") ? 1 : 0;
      const values = scaled(60 + k, sizeOf(shape), (v) => 0.3 * v + offset);
      const [rows, columns] = shape as [number, number];
      const turned = names[k]!.endsWith("kernel")
        ? values.map((__, i) => values[(i % rows) * columns + Math.floor(i / rows)]!)
        : values;
      set(scope, names[k]!, turned);
    });
    const { y } = await runOnce(device, "probe", (x) => ({ y: classify(x as tf.Tensor3D) }), input(59, [2, 7, 16])); // biome-ignore format: one call
    expect(worstError(y!.data, g.logits.flat())).toBeLessThan(2e-5);
    // What is pooled before the classes: a head that shows the first eight channels as they are.
    set(scope, "classes/bias", new Float32Array(5));
    const pooled: number[] = [];
    for (const first of [0, 5]) {
      const show = Float32Array.from({ length: 80 }, (__, i) => (Math.floor(i / 5) === first + (i % 5) ? 1 : 0)); // biome-ignore format: one call
      set(scope, "classes/kernel", show);
      const shown = await runOnce(device, `pooled${first}`, (x) => ({ y: classify(x as tf.Tensor3D) }), input(59, [2, 7, 16])); // biome-ignore format: one call
      pooled.push(...shown["y"]!.data);
    }
    const rows = [0, 1].map((row) => [...pooled.slice(5 * row, 5 * row + 5), ...pooled.slice(10 + 5 * row, 13 + 5 * row)]); // biome-ignore format: one call
    expect(worstError(rows.flat(), g.pooled_first8.flat())).toBeLessThan(2e-5);

    const { labels, mean_softmax, pred, top1, top2 } = l.multiview;
    const logits = float32(
      [3, 6, 4],
      scaled(81, 72, (v) => 3 * v),
    );
    const vote = await runOnce(device, "vote", (x) => {
      const mean = tf.mean(tf.softmax(x), 0); // [6, 4]
      return { mean, pred: tf.argMax(mean, 1) };
    }, logits); // biome-ignore format: one call
    expect(worstError(vote["mean"]!.data, mean_softmax.flat())).toBeLessThan(1e-6);
    expect([...vote["pred"]!.data]).toEqual(pred);
    const mean = Float32Array.from(vote["mean"]!.data);
    expect(topShare(mean, Int32Array.from(labels), 4, 1)).toBeCloseTo(top1, 9);
    expect(topShare(mean, Int32Array.from(labels), 4, 2)).toBeCloseTo(top2, 9);
  });
});

it("every value of the file is looked at", () => {
  expect(unread()).toEqual([]);
});
