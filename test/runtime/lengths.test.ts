/**
 * @file On the native engine a function that is not differentiated gives a frame the same bytes whatever number
 * of frames there is: pieces of a clip then are the clip (tokenizers/streaming.ts). Skipped where the engine
 * is not built.
 */

import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, test } from "vitest";
import type { Traceable } from "../../src/runtime/device.ts";
import { findAddon } from "../../src/runtime/native/addon.ts";
import { attention, conv3d, gelu, groupNorm, layerNorm } from "../../src/runtime/ops.ts";
import { float32, type HostTensor } from "../../src/runtime/tensors.ts";
import { normals } from "./case.ts";
import { device } from "./harness.ts";

const { missing } = findAddon();

/** What a test is about: its values by row (or frame) along the first axis, and what does not change. */
interface Case {
  readonly name: string;
  readonly row: readonly number[];
  readonly fixed: readonly (readonly number[])[];
  readonly run: (x: tf.Tensor, fixed: readonly tf.Tensor[]) => tf.Tensor;
}

const products = [5, 384, 500, 1100].flatMap((k) =>
  [1, 31, 70].flatMap((n): Case[] => [
    {
      name: `rows [${k}] times [${k}, ${n}] with a bias`,
      row: [k],
      fixed: [[k, n], [n]],
      run: (x, [w, b]) => gelu(tf.add(tf.matMul(x as tf.Tensor2D, w as tf.Tensor2D), b!)),
    },
    {
      name: `rows [${k}] times [${n}, ${k}] transposed`,
      row: [k],
      fixed: [[n, k]],
      run: (x, [w]) => tf.matMul(x as tf.Tensor2D, w as tf.Tensor2D, false, true),
    },
  ]),
);

/** [T, h, w, c] as a clip [1, T, h, w, c]. */
const clip = (x: tf.Tensor): tf.Tensor5D => tf.expandDims(x, 0) as tf.Tensor5D;
const frames = (x: tf.Tensor): tf.Tensor => tf.squeeze(x, [0]);
const causal = { pads: [[2, 0], [1, 1], [1, 1]] } as const; // biome-ignore format: one line

const cases: readonly Case[] = [
  ...products,
  ...[3, 40, 400].map(
    (c): Case => ({
      name: `causal convolution of ${c} channels`,
      row: [4, 5, c],
      fixed: [[3, 3, 3, c, 24]],
      run: (x, [w]) => frames(conv3d(clip(x), w as tf.Tensor5D, causal)),
    }),
  ),
  ...[1, 3].map(
    (taps): Case => ({
      name: `convolution of large frames by ${taps}×3×3`,
      row: [18, 21, 20],
      fixed: [[taps, 3, 3, 20, 40]],
      run: (x, [w]) => {
        const pads = [[taps - 1, 0], [1, 1], [1, 1]] as const; // biome-ignore format: one line
        return frames(conv3d(clip(x), w as tf.Tensor5D, { pads }));
      },
    }),
  ),
  {
    name: "convolution of frames by 1×1×1, 600 channels",
    row: [1, 2, 600],
    fixed: [[1, 1, 1, 600, 40]],
    run: (x, [w]) => frames(conv3d(clip(x), w as tf.Tensor5D)),
  },
  {
    name: "depthwise convolution of frames",
    row: [6, 6, 20],
    fixed: [[3, 3, 20, 1]],
    run: (x, [w]) => tf.depthwiseConv2d(x as tf.Tensor4D, w as tf.Tensor4D, 1, "same"),
  },
  {
    name: "strided convolution of frames",
    row: [9, 9, 30],
    fixed: [[4, 4, 30, 33]],
    run: (x, [w]) => tf.conv2d(x as tf.Tensor4D, w as tf.Tensor4D, 2, "same"),
  },
  {
    name: "transposed convolution of frames",
    row: [5, 5, 30],
    fixed: [[4, 4, 17, 30]],
    run: (x, [w]) =>
      tf.conv2dTranspose(x as tf.Tensor4D, w as tf.Tensor4D, [x.shape[0]!, 10, 10, 17], 2, "same"),
  },
  ...[4, 24].map(
    (side): Case => ({
      name: `group norm of frames of ${side} × ${side}`,
      row: [side, side, 20],
      fixed: [[20], [20]],
      run: (x, [s, b]) =>
        groupNorm(x, s as tf.Tensor1D, b as tf.Tensor1D, { groups: 5, activation: "silu" }),
    }),
  ),
  {
    name: "layer norm, softmax and sums of rows",
    row: [67],
    fixed: [[67], [67]],
    run: (x, [s, b]) => {
      const y = layerNorm(x, s as tf.Tensor1D, b as tf.Tensor1D);
      return tf.concat([tf.softmax(y), tf.exp(y), tf.sum(tf.tanh(y), -1, true)], 1);
    },
  },
  {
    name: "means of frames over positions",
    row: [40, 40, 3],
    fixed: [],
    run: (x) => tf.mean(x, [1, 2]),
  },
  {
    name: "attention within frames",
    row: [2, 9, 16],
    fixed: [],
    run: (x) => attention(x as tf.Tensor4D, x as tf.Tensor4D, x as tf.Tensor4D),
  },
];

const cut = (x: HostTensor, count: number): HostTensor =>
  float32(
    [count, ...x.shape.slice(1)],
    (x.data as Float32Array).slice(0, (count * x.data.length) / x.shape[0]!),
  );

describe.skipIf(missing !== undefined)("any number of rows", () => {
  test.each(cases)("$name", async ({ name, row, fixed, run }) => {
    const on = await device("cpu native");
    const all = normals(name, [41, ...row]);
    const rest = Object.fromEntries(
      fixed.map((shape, i) => [`w${i}`, normals(`${name} ${i}`, shape, 0.1)]),
    );
    const fn: Traceable = ({ x, ...others }) => ({
      y: run(
        x!,
        fixed.map((_, i) => others[`w${i}`]!),
      ),
    });
    const compiled = on.compile("rows", fn);
    const bytes = (tensor: HostTensor): Buffer => {
      const { buffer, byteOffset, byteLength } = tensor.data;
      return Buffer.from(buffer, byteOffset, byteLength);
    };
    const whole = bytes((await compiled({ x: all, ...rest })).y!);
    for (const count of [1, 2, 7, 9, 20]) {
      const part = bytes((await compiled({ x: cut(all, count), ...rest })).y!);
      expect(part.equals(whole.subarray(0, part.length)), `${count} of 41`).toBe(true);
    }
  });
});
