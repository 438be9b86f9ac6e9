/** @file Cases of reductions, products of matrices, and what sorts or accumulates along an axis. */

import * as tf from "@tensorflow/tfjs-core";
import { bool, float32 } from "../../../src/runtime/tensors.ts";
import {
  afterConvolution,
  integers,
  type KernelCase,
  normals,
  type Tensors,
  uniforms,
} from "../case.ts";

type Reduce = (x: tf.Tensor, axis?: number | number[], keepDims?: boolean) => tf.Tensor;

interface Family {
  readonly op: Reduce;
  readonly differentiable?: boolean;
  /** The reduction of no values, where it is defined. */
  readonly empty?: boolean;
  readonly integers?: boolean;
}

const families: { readonly [name: string]: Family } = {
  Sum: { op: tf.sum, empty: true, integers: true },
  Mean: { op: tf.mean, integers: true },
  Max: { op: tf.max, integers: true },
  Min: { op: tf.min, integers: true },
  // Its gradient takes cumulative products, which no compiled device has.
  Prod: { op: tf.prod, differentiable: false, empty: true, integers: true },
  LogSumExp: { op: tf.logSumExp },
};

const AXES: { readonly [rank: number]: readonly (readonly number[] | undefined)[] } = {
  1: [undefined, [0]],
  3: [undefined, [0], [1], [2], [0, 2]],
  4: [undefined, [1, 2], [3], [0, 1, 2], [0], [2], [1, 3], [2, 3]],
  5: [undefined, [1, 2, 3], [4], [0, 1, 2, 3], [1], [2, 3], [0, 4]],
};

function reductionCases(name: string, family: Family): KernelCase[] {
  const { op, differentiable = true } = family;
  const inputs = {
    v: uniforms(`${name} v`, [5], 0.5, 1.5),
    t: uniforms(`${name} t`, [2, 3, 4], 0.5, 1.5),
    image: uniforms(`${name} image`, [2, 3, 4, 5], 0.5, 1.5),
    clip: uniforms(`${name} clip`, [2, 2, 3, 2, 5], 0.5, 1.5),
  };
  const every = (x: tf.Tensor): tf.Tensor[] =>
    AXES[x.shape.length]!.flatMap((axes) => [
      op(x, axes && [...axes]),
      op(x, axes && [...axes], true),
    ]);
  return [
    {
      name: `${name}: axes and layouts`,
      inputs,
      run: ({ v, t, image, clip }: Tensors) =>
        [v!, t!, image!, clip!, afterConvolution(image!), afterConvolution(clip!)].flatMap(every),
      ...(differentiable ? { gradients: Object.keys(inputs) } : {}),
    },
    {
      name: `${name}: scalars${family.empty ? " and no values" : ""}`,
      inputs: { s: float32([], [2]), none: float32([0, 3], []) },
      run: ({ s, none }: Tensors) => [op(s!), ...(family.empty ? [op(none!), op(none!, 0)] : [])],
    },
    ...(family.integers
      ? [
          {
            name: `${name}: integers`,
            inputs: { i: integers(name, [3, 4], -5, 6) },
            run: ({ i }: Tensors) => [op(i!), op(i!, 0), op(i!, 1, true)],
          },
        ]
      : []),
  ];
}

function product(
  name: string,
  a: readonly number[],
  b: readonly number[],
  transposeA = false,
  transposeB = false,
): KernelCase {
  return {
    name: `BatchMatMul: ${name}`,
    inputs: { a: normals(`${name} a`, a), b: normals(`${name} b`, b) },
    run: ({ a: x, b: y }: Tensors) => tf.matMul(x!, y!, transposeA, transposeB),
    gradients: ["a", "b"],
  };
}

export const reductionAndProductCases: readonly KernelCase[] = [
  ...Object.entries(families).flatMap(([name, family]) => reductionCases(name, family)),
  {
    name: "Sum of bools",
    inputs: { b: bool([2, 3], Uint8Array.from([1, 1, 0, 0, 1, 1])) },
    run: ({ b }) => [tf.sum(b!), tf.sum(b!, 0)],
  },
  {
    name: "Max with ties shares the gradient as the reference does",
    inputs: { x: float32([2, 4], [1, 3, 3, 0, 2, 2, 2, 2]) },
    run: ({ x }) => [tf.max(x!, 1), tf.min(x!, 0)],
    gradients: ["x"],
  },
  {
    name: "moments and variance far from zero",
    inputs: { x: uniforms("moments", [3, 64], 100, 101) },
    run: ({ x }) => {
      const { mean, variance } = tf.moments(x!, 1);
      return [mean, variance];
    },
    gradients: ["x"],
    tolerance: 1e-4, // float32 at 100 has steps of 8e-6 against deviations of 0.3
  },
  {
    name: "All, Any",
    inputs: { b: bool([2, 3], Uint8Array.from([1, 1, 1, 0, 0, 1])) },
    run: ({ b }) => [tf.all(b!), tf.any(b!), tf.all(b!, 1), tf.any(b!, 0), tf.all(b!, 0, true)],
  },
  {
    name: "ArgMax, ArgMin",
    inputs: {
      x: normals("arg", [3, 4, 5]),
      image: normals("arg image", [2, 3, 4, 5]),
      ties: float32([2, 4], [1, 3, 3, 0, -2, -2, 7, 7]),
      i: integers("arg i", [3, 4], -3, 3),
    },
    run: ({ x, image, ties, i }) =>
      [tf.argMax, tf.argMin].flatMap((op) => [
        op(x!, 0),
        op(x!, -1),
        op(image!, 3),
        op(afterConvolution(image!), 3),
        op(afterConvolution(image!), 1),
        op(ties!, 1),
        op(i!, 1),
      ]),
  },
  {
    name: "Cumsum",
    inputs: {
      x: normals("cumsum", [3, 4, 5]),
      image: normals("cumsum image", [2, 3, 4, 5]),
    },
    run: ({ x, image }) => [
      tf.cumsum(x!),
      tf.cumsum(x!, 1, true),
      tf.cumsum(afterConvolution(image!), 1),
    ],
  },
  {
    name: "Cumsum of the last axis and its gradient", // TensorFlow.js's gradient is wrong for others
    inputs: { x: normals("cumsum last", [2, 3, 4]) },
    run: ({ x }) => [
      tf.cumsum(x!, 2),
      tf.cumsum(x!, 2, false, true),
      tf.cumsum(x!, 2, true),
      tf.cumsum(x!, 2, true, true),
    ],
    gradients: ["x"],
  },
  {
    name: "Cumsum of integers",
    inputs: { i: integers("cumsum", [3, 4], -5, 5) },
    run: ({ i }) => [tf.cumsum(i!), tf.cumsum(i!, 1, true)],
  },
  {
    name: "TopK",
    inputs: {
      x: normals("topk", [3, 7]),
      v: normals("topk v", [5]),
      i: integers("t", [2, 6], 0, 99),
    },
    run: ({ x, v, i }) =>
      [tf.topk(x!, 3), tf.topk(v!, 1), tf.topk(v!, 5), tf.topk(i!, 2)].flatMap(
        ({ values, indices }) => [values, indices],
      ),
  },
  {
    name: "Softmax, LogSoftmax",
    inputs: {
      x: normals("softmax", [3, 7], 4),
      v: normals("softmax v", [5]),
      image: normals("softmax image", [2, 3, 4, 5]),
      large: float32([2, 3], [1000, 999, -1000, -1e9, 0, -1e9]),
    },
    run: ({ x, v, image, large }) =>
      [x!, v!, image!, afterConvolution(image!), large!].flatMap((y) => [
        tf.softmax(y),
        tf.logSoftmax(y),
      ]),
    gradients: ["x", "v", "image"],
  },
  product("matrices", [3, 4], [4, 5]),
  product("transposed a", [4, 3], [4, 5], true),
  product("transposed b", [3, 4], [5, 4], false, true),
  product("both transposed", [4, 3], [5, 4], true, true),
  product("one row, one column", [1, 4], [4, 1]),
  product("batches", [2, 3, 4], [2, 4, 5]),
  product("heads", [2, 3, 4, 5], [2, 3, 6, 5], false, true),
  product("heads transposed", [2, 3, 4, 5], [2, 3, 4, 6], true),
  {
    name: "BatchMatMul: broadcast batches",
    inputs: { a: normals("ba", [2, 3, 4]), b: normals("bb", [1, 4, 5]), m: normals("bm", [4, 5]) },
    run: ({ a, b, m }) => [tf.matMul(a!, b!), tf.matMul(a!, tf.expandDims(m!, 0))],
  },
  {
    name: "BatchMatMul: large sums, dot and outer products",
    inputs: { a: normals("la", [2, 2000]), b: normals("lb", [2000, 3]), v: normals("lv", [5]) },
    run: ({ a, b, v }) => [
      tf.matMul(a!, b!),
      tf.dot(v!, v!),
      tf.outerProduct(v as tf.Tensor1D, v as tf.Tensor1D),
    ],
    gradients: ["a", "b", "v"],
  },
  {
    name: "BatchMatMul: integers",
    inputs: { a: integers("ia", [2, 3], -9, 9), b: integers("ib", [3, 2], -9, 9) },
    run: ({ a, b }) => tf.matMul(a!, b!),
  },
  {
    name: "BatchMatMul: no rows and no terms",
    inputs: { a: float32([0, 3], []), b: normals("e", [3, 2]), c: float32([2, 0], []) },
    run: ({ a, b, c }) => [tf.matMul(a!, b!), tf.matMul(c!, tf.reshape(a!, [0, 3]))],
  },
  {
    name: "negative axes",
    inputs: { a: uniforms("na", [3, 4], 0.5, 1) },
    run: ({ a }) => [tf.sum(a!, -1), tf.mean(a!, [-2]), tf.max(a!, -1), tf.prod(a!, -2)],
  },
  {
    name: "norms",
    inputs: { a: normals("norm a", [3, 4]) },
    run: ({ a }) => [tf.norm(a!), tf.norm(a!, 1, 1), tf.norm(a!, Infinity)],
    gradients: ["a"],
  },
  {
    name: "Einsum",
    inputs: {
      a: normals("ea", [2, 3, 4]),
      b: normals("eb", [2, 4, 5]),
      c: normals("ec", [3, 4]),
    },
    run: ({ a, b, c }) => [
      tf.einsum("bij,bjk->bik", a!, b!),
      tf.einsum("bij, ij -> b", a!, c!),
      tf.einsum("ij->ji", c!),
    ],
  },
];
