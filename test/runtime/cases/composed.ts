/** @file Cases of kernels that enter the graph as others (src/runtime/composed.ts). */

import * as tf from "@tensorflow/tfjs-core";
import { int32 } from "../../../src/runtime/tensors.ts";
import { type KernelCase, normals, type Tensors, uniforms } from "../case.ts";

function depthwise(
  name: string,
  x: readonly number[],
  filter: readonly number[],
  strides: number | [number, number],
  pad: "same" | "valid",
): KernelCase {
  return {
    name: `depthwise: ${name}`,
    inputs: { x: normals(`dw ${name}`, x), filter: normals(`dw filter ${name}`, filter) },
    run: (t: Tensors) =>
      tf.depthwiseConv2d(t["x"] as tf.Tensor4D, t["filter"] as tf.Tensor4D, strides, pad),
    gradients: ["x", "filter"],
  };
}

function cumulative(name: string, axis: number, exclusive: boolean, reverse: boolean): KernelCase {
  return {
    name: `cumprod: ${name}`,
    inputs: {
      x: uniforms(`cumprod ${name}`, [3, 5, 2], 0.5, 1.5),
      whole: int32([4], [2, 3, 1, 4]),
    },
    run: ({ x, whole }: Tensors) => [
      tf.cumprod(x!, axis, exclusive, reverse),
      tf.cumprod(whole!, 0, exclusive, reverse),
    ],
  };
}

const pooled = (size: number, stride: number, pad: "same" | "valid"): KernelCase => ({
  name: `maxPool3d, differentiated: ${size} by ${stride}, ${pad}`,
  inputs: { x: normals(`pool3d ${size} ${stride} ${pad}`, [2, 4, 5, 6, 3]) },
  run: ({ x }: Tensors) => tf.maxPool3d(x as tf.Tensor5D, size, stride, pad),
  gradients: ["x"],
});

export const composedCases: readonly KernelCase[] = [
  depthwise("one filter a channel", [2, 5, 6, 3], [3, 3, 3, 1], 1, "same"),
  depthwise("several filters a channel", [1, 6, 5, 2], [2, 3, 2, 3], 1, "valid"),
  depthwise("strides", [2, 7, 7, 4], [3, 3, 4, 2], 2, "same"),
  depthwise("one channel", [1, 4, 4, 1], [3, 3, 1, 2], 1, "same"),
  {
    name: "depthwise: dilated",
    inputs: {
      x: normals("dw dilated", [1, 8, 8, 2]),
      filter: normals("dwf dilated", [3, 3, 2, 1]),
    },
    run: (t: Tensors) =>
      tf.depthwiseConv2d(t["x"] as tf.Tensor4D, t["filter"] as tf.Tensor4D, 1, "same", "NHWC", 2),
  },
  {
    name: "dilated convolutions",
    inputs: {
      row: normals("dilated row", [2, 12, 3]),
      taps: normals("dilated taps", [3, 3, 4]),
      image: normals("dilated image", [2, 9, 8, 2]),
      filter: normals("dilated filter", [3, 2, 2, 5]),
      clip: normals("dilated clip", [1, 6, 5, 5, 2]),
      cube: normals("dilated cube", [2, 2, 2, 2, 3]),
    },
    run: (t: Tensors) => [
      tf.conv1d(t["row"] as tf.Tensor3D, t["taps"] as tf.Tensor3D, 1, "same", "NWC", 3),
      tf.conv2d(t["image"] as tf.Tensor4D, t["filter"] as tf.Tensor4D, 1, "valid", "NHWC", [2, 3]),
      tf.conv2d(t["image"] as tf.Tensor4D, t["filter"] as tf.Tensor4D, 1, "same", "NHWC", 2),
      tf.conv3d(t["clip"] as tf.Tensor5D, t["cube"] as tf.Tensor5D, 1, "valid", "NDHWC", [2, 2, 2]),
    ],
  },
  cumulative("the last axis", 2, false, false),
  cumulative("exclusive", 1, true, false),
  cumulative("reverse", 1, false, true),
  cumulative("exclusive and reverse", 0, true, true),
  {
    name: "prod, differentiated",
    inputs: { x: uniforms("prod gradient", [3, 4], 0.5, 1.5) },
    run: ({ x }: Tensors) => [tf.prod(x!, 1), tf.prod(x!, 0), tf.prod(x!)],
    gradients: ["x"],
  },
  pooled(2, 2, "valid"),
  pooled(3, 2, "same"),
  pooled(3, 1, "valid"),
  {
    name: "symmetric padding",
    inputs: { x: normals("symmetric", [3, 4, 2]), whole: int32([3], [1, 2, 3]) },
    run: ({ x, whole }: Tensors) => [
      tf.mirrorPad(
        x as tf.Tensor3D,
        [
          [2, 1],
          [0, 4],
          [1, 0],
        ],
        "symmetric",
      ),
      tf.mirrorPad(whole as tf.Tensor1D, [[3, 3]], "symmetric"),
    ],
  },
  {
    name: "gather in batches",
    inputs: {
      x: normals("batched x", [2, 5, 3]),
      ids: int32([2, 4], [0, 4, 4, 1, 3, 0, 2, 2]),
      deep: normals("batched deep", [2, 2, 4]),
      places: int32([2, 2, 1], [3, 0, 1, 2]),
    },
    run: (t: Tensors) => [
      tf.gather(t["x"]!, t["ids"]!, 1, 1),
      tf.gather(t["deep"]!, t["places"]!, 2, 2),
    ],
  },
];
