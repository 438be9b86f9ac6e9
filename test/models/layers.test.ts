/** @file Layers against goldens computed with PyTorch, and what each resampler promises. */

import * as tf from "@tensorflow/tfjs-core";
import { beforeAll, describe, expect, it } from "vitest";
import {
  averagePool,
  conv,
  dense,
  depthToSpaceConv,
  dropLeadingFrames,
  groupNorm,
  layerNorm,
  nearestConv,
  nearestUpsample,
  residualBlock,
  samePad,
  stridedConv,
} from "../../src/models/layers.ts";
import { Scope } from "../../src/models/scope.ts";
import { clips, worstError, golden, sym, useReference } from "../tokenizers/helpers.ts";

interface LayersGolden {
  group_norm: { eps1e6: number[]; eps1e6_sum: number };
  group_norm_per_frame_eps1e6: number[];
  conv3d_causal: {
    zero_pad: number[];
    zero_pad_sum: number;
    zero_stride_2_1_1: number[];
    zero_stride_2_1_1_shape: number[];
    noncausal_same: number[];
    replicate: number[];
    replicate_sum: number;
  };
  tf_same_padding: {
    n: number;
    k: number;
    s: number;
    out: number;
    before: number;
    after: number;
  }[];
}

const g = golden<LayersGolden>("layers.json");
beforeAll(useReference);

/** Channel-first [B, C, T, H, W] values as a channel-last tensor, and back. */
const toLast = (
  values: Float64Array,
  shape: [number, number, number, number, number],
): tf.Tensor5D => tf.transpose(tf.tensor5d(Float32Array.from(values), shape), [0, 2, 3, 4, 1]);
const toFirst = (x: tf.Tensor5D): tf.Tensor5D => tf.transpose(x, [0, 4, 1, 2, 3]);
const input = (): tf.Tensor5D => toLast(sym(41, 720), [2, 6, 3, 4, 5]);
const set = (scope: Scope, name: string, value: tf.Tensor): void =>
  scope.variables().get(name)!.assign(value);

describe("groupNorm", () => {
  const build = (perFrame: boolean) => {
    const scope = Scope.root(0);
    const norm = groupNorm(scope, { channels: 6, groups: 3, perFrame });
    set(scope, "scale", tf.tensor1d(Float32Array.from(sym(42, 6), (v) => 1 + 0.2 * v)));
    set(scope, "shift", tf.tensor1d(Float32Array.from(sym(43, 6), (v) => 0.3 * v)));
    return norm;
  };

  it("matches PyTorch over clips", () => {
    const y = toFirst(build(false)(input()));
    expect(worstError(y, g.group_norm.eps1e6)).toBeLessThan(1e-5);
    expect(tf.sum(y).dataSync()[0]).toBeCloseTo(g.group_norm.eps1e6_sum, 3);
  });

  it("matches PyTorch frame by frame", () => {
    expect(worstError(toFirst(build(true)(input())), g.group_norm_per_frame_eps1e6)).toBeLessThan(
      1e-5,
    );
  });

  it("uses the greatest common divisor when the groups do not divide the channels", () => {
    const norm = groupNorm(Scope.root(0), { channels: 24, groups: 32 });
    expect(norm(clips([1, 1, 2, 2, 24])).shape).toEqual([1, 1, 2, 2, 24]);
  });
});

describe("conv", () => {
  const build = (options: {
    padding: "same" | "causal";
    border?: "replicate";
    strides?: [number, number, number];
  }) => {
    const scope = Scope.root(0);
    const layer = conv(scope, { inputs: 6, outputs: 4, ...options });
    const kernel = tf.tensor(
      Float32Array.from(sym(44, 648), (v) => 0.2 * v),
      [4, 6, 3, 3, 3],
    );
    set(scope, "kernel", tf.transpose(kernel, [2, 3, 4, 1, 0]));
    set(scope, "bias", tf.tensor1d(Float32Array.from(sym(45, 4), (v) => 0.1 * v)));
    return layer;
  };

  it("matches PyTorch with causal zero padding", () => {
    const y = toFirst(build({ padding: "causal" })(input()));
    expect(worstError(y, g.conv3d_causal.zero_pad)).toBeLessThan(1e-5);
    expect(tf.sum(y).dataSync()[0]).toBeCloseTo(g.conv3d_causal.zero_pad_sum, 3);
  });

  it("matches PyTorch with copies of the first frame in front", () => {
    // The golden repeats frames in time and has zeros in space.
    const x = input();
    const first = tf.slice(x, 0, [2, 1, 4, 5, 6]);
    const long = tf.concat([first, first, x], 1) as tf.Tensor5D;
    const whole = build({ padding: "causal" })(long);
    const y = toFirst(tf.slice(whole, [0, 2, 0, 0, 0], [2, 3, 4, 5, 4]));
    expect(worstError(y, g.conv3d_causal.replicate)).toBeLessThan(1e-5);
    expect(tf.sum(y).dataSync()[0]).toBeCloseTo(g.conv3d_causal.replicate_sum, 3);
    // Inside, where no border of space is seen, border: "replicate" is the same.
    const own = toFirst(build({ padding: "causal", border: "replicate" })(x));
    const inside = (z: tf.Tensor5D) => tf.slice(z, [0, 0, 0, 1, 1], [2, 4, 3, 2, 3]).dataSync();
    expect(worstError(inside(own), inside(y))).toBeLessThan(1e-5);
  });

  it("matches PyTorch with a causal temporal stride", () => {
    const y = toFirst(build({ padding: "causal", strides: [2, 1, 1] })(input()));
    expect(y.shape).toEqual(g.conv3d_causal.zero_stride_2_1_1_shape);
    expect(worstError(y, g.conv3d_causal.zero_stride_2_1_1)).toBeLessThan(1e-5);
  });

  it("matches PyTorch with symmetric padding", () => {
    expect(
      worstError(toFirst(build({ padding: "same" })(input())), g.conv3d_causal.noncausal_same),
    ).toBeLessThan(1e-5);
  });

  it("pads as TensorFlow's SAME does", () => {
    for (const { n, k, s, before, after } of g.tf_same_padding) {
      expect(samePad(n, k, s)).toEqual([before, after]);
    }
  });
});

describe("dense and layerNorm", () => {
  it("map the last axis and keep the others", () => {
    const scope = Scope.root(0);
    const y = dense(scope.child("dense"), { inputs: 3, outputs: 5 })(tf.ones([2, 4, 3]));
    expect(y.shape).toEqual([2, 4, 5]);
    const kernel = scope.variables().get("dense/kernel")!;
    expect(
      worstError(tf.slice(y, [1, 3, 0], [1, 1, 5]), tf.sum(kernel, 0).dataSync()),
    ).toBeLessThan(1e-6);
    const normal = layerNorm(scope.child("norm"), { width: 5 })(y);
    expect(worstError(tf.mean(normal, -1), new Float32Array(8))).toBeLessThan(1e-5);
    expect(worstError(tf.mean(tf.square(normal), -1), new Float32Array(8).fill(1))).toBeLessThan(
      1e-3,
    );
  });
});

describe("resampling", () => {
  it("averages blocks, and repetition undoes it on constant blocks", () => {
    const x = clips([2, 2, 3, 2, 3]);
    const up = nearestUpsample([2, 1, 3])(x);
    expect(up.shape).toEqual([2, 4, 3, 6, 3]);
    expect(worstError(averagePool([2, 1, 3])(up), x.dataSync())).toBeLessThan(1e-6);
    const mean = averagePool([2, 3, 2])(x);
    expect(mean.shape).toEqual([2, 1, 1, 1, 3]);
    expect(worstError(tf.reshape(mean, [2, 3]), tf.mean(x, [1, 2, 3]).dataSync())).toBeLessThan(
      1e-6,
    );
  });

  it("has the right gradients", () => {
    const x = clips([1, 2, 2, 2, 1]);
    const weights = clips([1, 4, 2, 4, 1], 7);
    const f = (v: tf.Tensor) =>
      tf.sum(tf.mul(nearestUpsample([2, 1, 2])(v as tf.Tensor5D), weights));
    const expected = tf.mul(averagePool([2, 1, 2])(weights), 4);
    expect(worstError(tf.grad(f)(x), expected.dataSync())).toBeLessThan(1e-5);
    const h = (v: tf.Tensor) => tf.sum(averagePool([2, 2, 1])(v as tf.Tensor5D));
    expect(worstError(tf.grad(h)(x), new Float32Array(8).fill(0.25))).toBeLessThan(1e-6);
  });

  it.each([2, 3, 4])("turns 1 + %i·t frames into 1 + t and back when causal", (s) => {
    const options = { inputs: 3, outputs: 3, causal: true, block: [s, 2, 2] as const };
    const down = stridedConv(Scope.root(0), options);
    const z = down(clips([1, 1 + 2 * s, 4, 4, 3]));
    expect(z.shape).toEqual([1, 3, 2, 2, 3]);
    expect(depthToSpaceConv(Scope.root(0), options)(z).shape).toEqual([1, 1 + 2 * s, 4, 4, 3]);
    expect(nearestConv(Scope.root(0), options)(z).shape).toEqual([1, 1 + 2 * s, 4, 4, 3]);
  });

  it("drops the frames that causal up-sampling makes too many", () => {
    const x = clips([1, 6, 1, 1, 1]);
    expect(worstError(dropLeadingFrames(3)(x), x.dataSync().slice(2))).toBeLessThan(1e-9);
  });
});

describe("residualBlock", () => {
  it("shows the causal one no later frame", () => {
    const block = residualBlock(Scope.root(3), { inputs: 4, outputs: 6, causal: true, groups: 2 });
    const x = clips([1, 4, 4, 4, 4]);
    const late = tf.concat([tf.zeros([1, 3, 4, 4, 4]), tf.ones([1, 1, 4, 4, 4])], 1);
    const a = tf.slice(block(x), 0, [1, 3, 4, 4, 6]).dataSync();
    const b = tf.slice(block(tf.add(x, late)), 0, [1, 3, 4, 4, 6]).dataSync();
    expect(b).toEqual(a);
  });
});

describe("Scope.blank", () => {
  it("counts as the real one does, with zeros", () => {
    const blank = Scope.blank(0);
    const real = Scope.root(0);
    for (const scope of [blank, real]) {
      residualBlock(scope, { inputs: 4, outputs: 6, causal: false });
    }
    expect(blank.parameterCount()).toBe(real.parameterCount());
    expect(
      blank
        .variables()
        .get("conv1/kernel")!
        .dataSync()
        .every((v) => v === 0),
    ).toBe(true);
  });
});
