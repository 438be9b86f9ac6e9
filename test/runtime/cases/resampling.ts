/** @file Cases of pooling, resizing and batch normalisation. */

import * as tf from "@tensorflow/tfjs-core";
import { float32 } from "../../../src/runtime/tensors.ts";
import { afterConvolution, type KernelCase, normals, type Tensors, uniforms } from "../case.ts";

const image = (label: string) => normals(label, [2, 5, 6, 3]);
const clip = (label: string) => normals(label, [1, 4, 5, 6, 2]);

type Pool2 = (x: tf.Tensor4D) => tf.Tensor;

/** 2D pooling by name; the first of each list has no padding. */
const pools: { readonly [name: string]: readonly Pool2[] } = {
  avgPool: [
    (x) => tf.avgPool(x, [2, 3], [2, 1], "valid"),
    (x) => tf.avgPool(x, [3, 2], [1, 2], "same"),
    (x) => tf.avgPool(x, 3, 2, "same"),
    (x) => tf.avgPool(x, 3, 1, 1, "floor"),
  ],
  maxPool: [
    (x) => tf.maxPool(x, 2, 2, "valid"),
    (x) => tf.maxPool(x, [3, 2], [1, 2], "same"),
    (x) => tf.maxPool(x, 3, 2, "same"),
    (x) => tf.maxPool(x, 3, 1, 1, "floor"),
  ],
};

type Resize = (x: tf.Tensor4D, to: [number, number]) => tf.Tensor4D;

const resizes: { readonly [name: string]: Resize } = {
  resizeBilinear: (x, to) => tf.image.resizeBilinear(x, to),
  "resizeBilinear, corners": (x, to) => tf.image.resizeBilinear(x, to, true),
  "resizeBilinear, centres": (x, to) => tf.image.resizeBilinear(x, to, false, true),
  resizeNearestNeighbor: (x, to) => tf.image.resizeNearestNeighbor(x, to),
  "resizeNearestNeighbor, corners": (x, to) => tf.image.resizeNearestNeighbor(x, to, true),
  "resizeNearestNeighbor, centres": (x, to) => tf.image.resizeNearestNeighbor(x, to, false, true),
};

const SIZES: readonly [number, number][] = [
  [10, 12],
  [3, 4],
  [7, 6],
  [1, 1],
];

/**
 * The linear ones of these operations, each on an image [2, 5, 6, 3]. TensorFlow.js's own gradients of
 * padded average pooling (padding counts in the divisor) and of resizing (sides swapped, not a number)
 * are wrong, so ours are held against the definition of a linear map's gradient.
 */
export const linearMaps: { readonly [name: string]: Pool2 } = Object.fromEntries([
  ...pools["avgPool"]!.map((op, i) => [`avgPool ${i}`, op]),
  ...Object.entries(resizes).flatMap(([name, op]) =>
    SIZES.map((to) => [`${name} to ${to.join("x")}`, (x: tf.Tensor4D) => op(x, to)]),
  ),
]);

export const resamplingCases: readonly KernelCase[] = [
  {
    name: "maxPool",
    inputs: { x: image("max") },
    run: ({ x }) =>
      [x!, afterConvolution(x!)].flatMap((y) =>
        pools["maxPool"]!.map((op) => op(y as tf.Tensor4D)),
      ),
    gradients: ["x"],
  },
  {
    name: "avgPool",
    inputs: { x: image("avg") },
    run: ({ x }) =>
      [x!, afterConvolution(x!)].flatMap((y) =>
        pools["avgPool"]!.map((op) => op(y as tf.Tensor4D)),
      ),
  },
  {
    name: "avgPool without padding",
    inputs: { x: image("avg valid") },
    run: ({ x }) => pools["avgPool"]![0]!(x as tf.Tensor4D),
    gradients: ["x"],
  },
  {
    name: "maxPool of equal values",
    inputs: { x: float32([1, 4, 4, 1], new Float32Array(16).fill(-2)) },
    run: ({ x }) => tf.maxPool(x as tf.Tensor4D, 3, 2, "same"),
    gradients: ["x"],
  },
  {
    name: "avgPool3d",
    inputs: { x: clip("avg3") },
    run: ({ x }) => [
      tf.avgPool3d(x as tf.Tensor5D, [3, 1, 2], [2, 1, 2], "same"),
      tf.avgPool3d(afterConvolution(x!) as tf.Tensor5D, [1, 3, 3], 1, "same"),
    ],
  },
  {
    name: "avgPool3d without padding",
    inputs: { x: clip("avg3 valid") },
    run: ({ x }) => tf.avgPool3d(x as tf.Tensor5D, 2, 2, "valid"),
    gradients: ["x"],
  },
  {
    name: "maxPool3d",
    inputs: { x: clip("max3") },
    run: ({ x }) => [
      tf.maxPool3d(x as tf.Tensor5D, 2, 2, "valid"),
      tf.maxPool3d(x as tf.Tensor5D, [3, 1, 2], [2, 1, 2], "same"),
      tf.maxPool3d(afterConvolution(x!) as tf.Tensor5D, 3, [1, 2, 2], "same"),
    ],
  },
  ...Object.entries(resizes).map(([name, op]) => ({
    name,
    inputs: { x: image(name) },
    run: ({ x }: Tensors) =>
      [x!, afterConvolution(x!)].flatMap((y) => SIZES.map((to) => op(y as tf.Tensor4D, to))),
  })),
  {
    name: "resizing a square, with its gradient",
    inputs: { x: normals("square", [1, 4, 4, 2]) },
    run: ({ x }) => [
      tf.image.resizeBilinear(x as tf.Tensor4D, [8, 8]),
      tf.image.resizeNearestNeighbor(x as tf.Tensor4D, [8, 8]),
    ],
    gradients: ["x"],
  },
  {
    name: "batchNorm",
    inputs: {
      x: image("bn"),
      mean: normals("bn mean", [3]),
      variance: uniforms("bn variance", [3], 0.5, 2),
      scale: normals("bn scale", [3]),
      offset: normals("bn offset", [3]),
    },
    run: ({ x, mean, variance, scale, offset }) => {
      const [m, v, s, o] = [mean, variance, scale, offset] as tf.Tensor1D[];
      return [
        tf.batchNorm(x!, m!, v!, o, s, 1e-3),
        tf.batchNorm(afterConvolution(x!), m!, v!, o, s, 1e-5),
      ];
    },
    gradients: ["x", "mean", "variance", "scale", "offset"],
  },
  {
    name: "batchNorm without scale or offset",
    inputs: {
      x: image("bn plain"),
      mean: normals("bn plain mean", [3]),
      variance: uniforms("bn plain variance", [3], 0.5, 2),
    },
    run: ({ x, mean, variance }) => tf.batchNorm(x!, mean as tf.Tensor1D, variance as tf.Tensor1D),
  },
];
