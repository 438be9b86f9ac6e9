/** @file Cases of Tessera's own operations on whole tensors: norms, attention, cross entropy, estimators. */

import * as tf from "@tensorflow/tfjs-core";
import {
  attention,
  gelu,
  type GroupNormOptions,
  groupNorm,
  layerNorm,
  softmaxCrossEntropy,
  stopGradient,
  straightThrough,
} from "../../../src/runtime/ops.ts";
import { float32, int32 } from "../../../src/runtime/tensors.ts";
import {
  afterConvolution,
  integers,
  type KernelCase,
  normals,
  type Tensors,
  uniforms,
} from "../case.ts";

/** Blocks x + norm(x) w + b, one after the other: what devices join of norms, residuals and biases. */
function stream(name: string, batch: number, rows: number, width: number): KernelCase {
  const blocks = 3;
  const inputs: { [name: string]: ReturnType<typeof normals> } = {
    x: normals(`stream ${name}`, [batch, rows, width]),
    end: uniforms(`stream end ${name}`, [width], 0.5, 1.5),
  };
  for (let k = 0; k < blocks; k++) {
    inputs[`scale${k}`] = uniforms(`stream scale ${name} ${k}`, [width], 0.5, 1.5);
    inputs[`shift${k}`] = normals(`stream shift ${name} ${k}`, [width]);
    inputs[`w${k}`] = normals(`stream w ${name} ${k}`, [width, width], width ** -0.5);
    inputs[`b${k}`] = normals(`stream b ${name} ${k}`, [width]);
  }
  return {
    name: `a residual stream with norms: ${name}`,
    inputs,
    run: ({ x, end, ...own }) => {
      let flat = tf.reshape(x!, [batch * rows, width]) as tf.Tensor2D;
      for (let k = 0; k < blocks; k++) {
        const [scale, shift] = [own[`scale${k}`], own[`shift${k}`]] as [tf.Tensor1D, tf.Tensor1D];
        const y = layerNorm(flat, scale, shift) as tf.Tensor2D;
        const product = tf.matMul(y, own[`w${k}`] as tf.Tensor2D);
        const z = tf.add(product, own[`b${k}`] as tf.Tensor1D);
        flat = tf.add(flat, z) as tf.Tensor2D;
      }
      return layerNorm(flat, end as tf.Tensor1D, end as tf.Tensor1D);
    },
    gradients: Object.keys(inputs),
    tolerance: NORM,
  };
}

/** Variances and their gradients lose a digit against the reference's float64 sums. */
const NORM = 3e-5;

function group(
  name: string,
  shape: readonly number[],
  options: GroupNormOptions,
  also: (x: tf.Tensor) => tf.Tensor = (x) => x,
): KernelCase {
  const channels = shape.at(-1)!;
  return {
    name: `groupNorm: ${name}`,
    inputs: {
      x: uniforms(`gn ${name}`, shape, -1, 3),
      scale: uniforms(`gn scale ${name}`, [channels], 0.5, 1.5),
      shift: normals(`gn shift ${name}`, [channels]),
    },
    run: ({ x, scale, shift }: Tensors) =>
      groupNorm(also(x!), scale as tf.Tensor1D, shift as tf.Tensor1D, options),
    gradients: ["x", "scale", "shift"],
    tolerance: NORM,
  };
}

function layer(name: string, shape: readonly number[], epsilon?: number): KernelCase {
  const channels = shape.at(-1)!;
  return {
    name: `layerNorm: ${name}`,
    inputs: {
      x: uniforms(`ln ${name}`, shape, -1, 3),
      scale: uniforms(`ln scale ${name}`, [channels], 0.5, 1.5),
      shift: normals(`ln shift ${name}`, [channels]),
    },
    run: ({ x, scale, shift }: Tensors) =>
      layerNorm(x!, scale as tf.Tensor1D, shift as tf.Tensor1D, epsilon),
    gradients: ["x", "scale", "shift"],
    tolerance: NORM,
  };
}

const heads = (label: string, tokens: number) => normals(label, [2, 3, tokens, 4]);

function attend(
  name: string,
  queries: number,
  keys: number,
  causal: boolean,
  bias?: readonly number[],
): KernelCase {
  return {
    name: `attention: ${name}`,
    inputs: {
      q: heads(`${name} q`, queries),
      k: heads(`${name} k`, keys),
      v: heads(`${name} v`, keys),
      bias: bias ? normals(`${name} bias`, bias) : float32([1], [0]),
    },
    run: ({ q, k, v, bias: b }: Tensors) =>
      attention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, {
        causal,
        ...(bias ? { bias: b! } : {}),
      }),
    gradients: ["q", "k", "v", ...(bias ? ["bias"] : [])],
  };
}

function crossEntropy(smoothing: number): KernelCase {
  return {
    name: `softmaxCrossEntropy, smoothing ${smoothing}`,
    inputs: {
      logits: normals(`ce ${smoothing}`, [5, 7], 3),
      labels: int32([5], [0, 6, 3, 3, 1]),
      large: float32([2, 3], [1000, 0, -1000, -1e4, 1e4, 0]),
    },
    run: ({ logits, labels, large }: Tensors) => [
      softmaxCrossEntropy(logits as tf.Tensor2D, labels as tf.Tensor1D, smoothing),
      softmaxCrossEntropy(large as tf.Tensor2D, tf.tensor1d([0, 2], "int32"), smoothing),
    ],
    gradients: ["logits", "large"],
  };
}

export const compositeCases: readonly KernelCase[] = [
  group("a clip", [2, 3, 4, 5, 8], { groups: 4 }),
  group("a clip with SiLU", [2, 3, 4, 5, 8], { groups: 2, activation: "silu" }),
  group(
    "a clip after a convolution, with SiLU",
    [2, 2, 3, 5, 8],
    { groups: 4, activation: "silu" },
    afterConvolution,
  ),
  group("one frame", [1, 1, 4, 4, 6], { groups: 3, epsilon: 1e-5 }),
  group("an image", [2, 4, 3, 6], { groups: 2, activation: "silu" }),
  group("a sequence", [3, 7, 6], { groups: 3, activation: "silu" }),
  group("rows", [4, 6], { groups: 2 }),
  group("one group", [2, 3, 2, 2, 5], { groups: 1, activation: "silu" }),
  group("a group a channel", [2, 3, 2, 2, 5], { groups: 5 }),
  {
    name: "groupNorm: scale and shift of one repeated value, as before a modulation",
    inputs: { x: normals("modulated", [2, 3, 4, 4, 64]) },
    run: ({ x }) =>
      groupNorm(x!, tf.ones([64]) as tf.Tensor1D, tf.zeros([64]) as tf.Tensor1D, { groups: 8 }),
    gradients: ["x"],
  },
  {
    name: "groupNorm: far from zero and constant",
    inputs: {
      x: uniforms("gn far", [2, 2, 4, 4, 4], 100, 101),
      flat: float32([1, 3, 4], new Float32Array(12).fill(3)),
      one: float32([4], [1, 1, 1, 1]),
    },
    run: ({ x, flat, one }) =>
      [x!, flat!].map((y) => groupNorm(y, one as tf.Tensor1D, one as tf.Tensor1D, { groups: 2 })),
    tolerance: 2e-4, // float32 at 100 has steps of 8e-6 against deviations of 0.3
  },
  layer("rows", [5, 8]),
  layer("a vector", [8]),
  layer("tokens", [2, 5, 16], 1e-5),
  layer("heads", [2, 3, 4, 8]),
  layer("a clip", [2, 1, 3, 4, 5]),
  {
    name: "layerNorm after a convolution",
    inputs: {
      x: normals("ln conv", [1, 2, 3, 4, 5]),
      scale: uniforms("ln conv scale", [5], 0.5, 1.5),
      shift: normals("ln conv shift", [5]),
    },
    run: ({ x, scale, shift }) =>
      layerNorm(afterConvolution(x!), scale as tf.Tensor1D, shift as tf.Tensor1D),
    gradients: ["x", "scale", "shift"],
    tolerance: NORM,
  },
  {
    name: "norms share statistics and keep apart what differs",
    inputs: {
      x: normals("share", [2, 6, 8]),
      a: normals("share a", [8]),
      b: normals("share b", [8]),
    },
    run: ({ x, a, b }) => [
      groupNorm(x!, a as tf.Tensor1D, b as tf.Tensor1D, { groups: 2 }),
      groupNorm(x!, b as tf.Tensor1D, a as tf.Tensor1D, { groups: 2 }),
      groupNorm(x!, a as tf.Tensor1D, b as tf.Tensor1D, { groups: 4, activation: "silu" }),
      layerNorm(x!, a as tf.Tensor1D, b as tf.Tensor1D),
      layerNorm(x!, b as tf.Tensor1D, b as tf.Tensor1D),
    ],
    gradients: ["x", "a", "b"],
    tolerance: NORM,
  },
  {
    name: "an MLP with GELU and biases",
    inputs: {
      x: normals("mlp x", [37, 64]),
      w1: normals("mlp w1", [64, 128], 0.2),
      b1: normals("mlp b1", [128]),
      w2: normals("mlp w2", [128, 64], 0.1),
      b2: normals("mlp b2", [64]),
    },
    run: ({ x, w1, b1, w2, b2 }) => {
      const inner = gelu(tf.add(tf.matMul(x as tf.Tensor2D, w1 as tf.Tensor2D), b1!));
      return tf.add(tf.matMul(inner as tf.Tensor2D, w2 as tf.Tensor2D), b2!);
    },
    gradients: ["x", "w1", "b1", "w2", "b2"],
  },
  stream("64 channels", 2, 7, 64),
  stream("36 channels", 1, 3, 36),
  attend("all to all", 5, 5, false),
  attend("causal", 5, 5, true),
  attend("causal with older keys", 2, 5, true),
  attend("one query", 1, 6, true),
  attend("a bias for all heads", 4, 4, false, [4, 4]),
  attend("a bias a head, causal", 4, 4, true, [1, 3, 4, 4]),
  crossEntropy(0),
  crossEntropy(0.1),
  {
    name: "stopGradient and straightThrough",
    inputs: { x: normals("ste", [3, 4]), y: normals("ste y", [3, 4]) },
    run: ({ x, y }) => [
      tf.mul(stopGradient(x!), y!),
      straightThrough(x!, tf.sign(x!)),
      tf.mul(straightThrough(tf.tanh(x!), tf.round(y!)), y!),
      tf.sub(x!, stopGradient(tf.round(x!))),
    ],
    gradients: ["x", "y"],
  },
  {
    name: "ids by a nearest code: arg-min, gather, straight-through",
    inputs: {
      z: normals("vq z", [2, 2, 3, 3, 4]),
      codes: normals("vq codes", [8, 4]),
      none: integers("vq none", [1], 0, 1),
    },
    run: ({ z, codes }) => {
      const flat = tf.reshape(afterConvolution(z!), [-1, 4]);
      const distance = tf.sub(
        tf.add(tf.sum(tf.square(flat), 1, true), tf.sum(tf.square(codes!), 1)),
        tf.mul(tf.matMul(flat, codes!, false, true), 2),
      );
      const ids = stopGradient(tf.argMin(distance, 1));
      const quantized = tf.gather(codes!, ids);
      const commitment = tf.mean(tf.squaredDifference(flat, stopGradient(quantized)));
      return [tf.reshape(straightThrough(flat, quantized), z!.shape), commitment, ids];
    },
    gradients: ["z"],
  },
];
