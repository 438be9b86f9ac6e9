/**
 * @file Kernels that pool or resize images, as few graph nodes as possible: average pooling and resizing
 * are linear and separable, so each is a product with a small constant matrix along every axis
 * ("AxisProduct"), and its gradient the product with the transposes. Batch normalisation with given
 * statistics is a composition of element-wise nodes.
 */

import * as tf from "@tensorflow/tfjs-core";
import type { Attrs, GraphTracer, Shape, Value, ValueSpec } from "./graph.ts";
import type { KernelRule } from "./kernels.ts";
import { sizeOf } from "./tensors.ts";

/** [outputs × inputs] row-major. */
interface Matrix {
  readonly outputs: number;
  readonly inputs: number;
  readonly values: Float32Array;
}

function transposed({ outputs, inputs, values }: Matrix): Matrix {
  const turned = new Float32Array(values.length);
  for (let o = 0; o < outputs; o++) {
    for (let i = 0; i < inputs; i++) {
      turned[i * outputs + o] = values[o * inputs + i]!;
    }
  }
  return { outputs: inputs, inputs: outputs, values: turned };
}

/** The values along `axis` replaced by their products with a matrix. */
function along(tracer: GraphTracer, x: Value, axis: number, matrix: Matrix): Value {
  const { outputs, inputs, values } = matrix;
  const shape = x.shape.map((side, i) => (i === axis ? outputs : side));
  if (outputs === inputs && values.every((v, i) => v === Number(i % (inputs + 1) === 0))) {
    return x;
  }
  const data = { dtype: "float32" as const, shape: [outputs, inputs], data: values };
  return tracer.add("AxisProduct", [x, tracer.constant(data)], { axis }, [
    { shape, dtype: "float32" },
  ])[0]!;
}

function toFloat(tracer: GraphTracer, x: Value): Value {
  return tracer.add("Cast", [x], { dtype: "float32" }, [{ shape: x.shape, dtype: "float32" }])[0]!;
}

/** A window along one axis: its side, step and padding. */
interface Window {
  readonly size: number;
  readonly stride: number;
  readonly before: number;
  readonly inputs: number;
  readonly outputs: number;
}

/** The windows of a pooling kernel's spatial axes: (h, w) or (t, h, w). */
function windowsOf(shape: Shape, attrs: Attrs): Window[] {
  const { filterSize, strides, pad, dimRoundingMode } = attrs as {
    filterSize: [number, number, number];
    strides: [number, number, number];
    pad: "same" | "valid" | number;
    dimRoundingMode?: "floor";
  };
  if (shape.length === 5) {
    const info = tf.backend_util.computePool3DInfo(
      [...shape] as [number, number, number, number, number],
      filterSize,
      strides,
      1,
      pad,
      dimRoundingMode,
    );
    const { front, top, left } = info.padInfo;
    return [
      window(info.filterDepth, info.strideDepth, front, info.inDepth, info.outDepth),
      window(info.filterHeight, info.strideHeight, top, info.inHeight, info.outHeight),
      window(info.filterWidth, info.strideWidth, left, info.inWidth, info.outWidth),
    ];
  }
  const info = tf.backend_util.computePool2DInfo(
    [...shape] as [number, number, number, number],
    filterSize as unknown as [number, number],
    strides as unknown as [number, number],
    1,
    pad,
    dimRoundingMode,
  );
  const { top, left } = info.padInfo;
  return [
    window(info.filterHeight, info.strideHeight, top, info.inHeight, info.outHeight),
    window(info.filterWidth, info.strideWidth, left, info.inWidth, info.outWidth),
  ];
}

function window(
  size: number,
  stride: number,
  before: number,
  inputs: number,
  outputs: number,
): Window {
  return { size, stride, before, inputs, outputs };
}

/** Averages over windows; padding counts in no average. */
function averages({ size, stride, before, inputs, outputs }: Window): Matrix {
  const values = new Float32Array(outputs * inputs);
  for (let o = 0; o < outputs; o++) {
    const first = Math.max(0, o * stride - before);
    const end = Math.min(inputs, o * stride - before + size);
    values.fill(1 / (end - first), o * inputs + first, o * inputs + end);
  }
  return { outputs, inputs, values };
}

function averagePool(gradient: boolean): KernelRule {
  return {
    inputs: gradient ? ["dy", "input"] : ["x"],
    trace: (tracer, inputs, attrs) => {
      const shape = inputs.at(-1)!.shape; // the pooled tensor's
      const start = toFloat(tracer, inputs[0]!);
      return [
        windowsOf(shape, attrs).reduce((x, axis, i) => {
          const matrix = averages(axis);
          return along(tracer, x, i + 1, gradient ? transposed(matrix) : matrix);
        }, start),
      ];
    },
  };
}

/** Maxima over windows of one frame's rows and columns, or of frames. */
const maxPool: KernelRule = {
  inputs: ["x"],
  trace: (tracer, [x], attrs) => {
    const windows = windowsOf(x!.shape, attrs);
    const shape = [x!.shape[0]!, ...windows.map((axis) => axis.outputs), x!.shape.at(-1)!];
    return tracer.add("MaxPool", [x!], { windows }, [{ shape, dtype: x!.dtype }]);
  },
};

const maxPoolGrad: KernelRule = {
  inputs: ["dy", "input"],
  trace: (tracer, [dy, x], attrs) =>
    tracer.add("MaxPoolGrad", [dy!, x!], { windows: windowsOf(x!.shape, attrs) }, [
      { shape: x!.shape, dtype: "float32" },
    ]),
};

/** As two poolings: of each frame's rows and columns, then of frames. */
const maxPool3dGrad: KernelRule = {
  inputs: ["dy", "input"],
  trace: (tracer, [dy, x], attrs) => {
    const [time, ...space] = windowsOf(x!.shape, attrs) as [Window, Window, Window];
    const [b, t, h, w, c] = x!.shape as [number, number, number, number, number];
    const [oh, ow] = space.map((axis) => axis.outputs) as [number, number];
    const one: Window = { size: 1, stride: 1, before: 0, inputs: oh * ow, outputs: oh * ow };
    const node = (op: string, inputs: readonly Value[], windows: Window[], shape: Shape): Value =>
      tracer.add(op, inputs, { windows }, [{ shape, dtype: "float32" }])[0]!;
    const reshape = (v: Value, shape: Shape): Value =>
      tracer.add("Reshape", [v], {}, [{ shape, dtype: "float32" }])[0]!;
    const frames = reshape(toFloat(tracer, x!), [b * t, h, w, c]);
    const small = node("MaxPool", [frames], space, [b * t, oh, ow, c]);
    const clips = reshape(small, [b, t, oh * ow, c]); // frames as rows, positions as columns
    const given = reshape(dy!, [b, time.outputs, oh * ow, c]);
    const dSmall = node("MaxPoolGrad", [given, clips], [time, one], clips.shape);
    const dFrames = node(
      "MaxPoolGrad",
      [reshape(dSmall, small.shape), frames],
      space,
      frames.shape,
    );
    return [reshape(dFrames, x!.shape)];
  },
};

interface ResizeAttrs {
  readonly alignCorners: boolean;
  readonly halfPixelCenters: boolean;
}

/** Rows of weights of a resized axis, as TensorFlow.js chooses its neighbours. */
function resizing(
  method: "bilinear" | "nearest",
  inputs: number,
  outputs: number,
  { alignCorners, halfPixelCenters }: ResizeAttrs,
): Matrix {
  const corners = alignCorners && outputs > 1;
  const ratio = corners ? (inputs - 1) / (outputs - 1) : inputs / outputs;
  const values = new Float32Array(outputs * inputs);
  for (let o = 0; o < outputs; o++) {
    if (method === "nearest") {
      const at = halfPixelCenters ? ratio * (o + 0.5) : ratio * o;
      const nearest = Math.min(inputs - 1, alignCorners ? Math.round(at) : Math.floor(at));
      values[o * inputs + Math.max(0, nearest)] = 1;
      continue;
    }
    const at = halfPixelCenters ? ratio * (o + 0.5) - 0.5 : ratio * o;
    const low = Math.max(0, Math.floor(at));
    const weight = at - low;
    values[o * inputs + low]! += 1 - weight;
    values[o * inputs + Math.min(inputs - 1, Math.ceil(at))]! += weight;
  }
  return { outputs, inputs, values };
}

function resize(method: "bilinear" | "nearest"): KernelRule {
  return {
    inputs: ["images"],
    trace: (tracer, [images], attrs) => {
      const size = attrs["size"] as [number, number];
      const real = method === "bilinear" ? toFloat(tracer, images!) : images!;
      if (real.dtype !== "float32") {
        throw new Error("tf.image.resizeNearestNeighbor is compiled for float32: cast the images");
      }
      return [
        [0, 1].reduce((x, i) => {
          const sides = [x.shape[i + 1]!, size[i]!] as const;
          return along(
            tracer,
            x,
            i + 1,
            resizing(method, ...sides, attrs as unknown as ResizeAttrs),
          );
        }, real),
      ];
    },
  };
}

function resizeGrad(method: "bilinear" | "nearest"): KernelRule {
  return {
    inputs: ["dy", "images"],
    trace: (tracer, [dy, images], attrs) => [
      [1, 2].reduce((x, axis) => {
        const sides = [images!.shape[axis]!, dy!.shape[axis]!] as const;
        const matrix = resizing(method, ...sides, attrs as unknown as ResizeAttrs);
        return along(tracer, x, axis, transposed(matrix));
      }, dy!),
    ],
  };
}

/** (x - mean) / sqrt(variance + epsilon) · scale + offset, statistics of the last axis given. */
const batchNorm: KernelRule = {
  inputs: ["x", "mean", "variance", "scale?", "offset?"],
  trace: (tracer, [x, mean, variance, scale, offset], attrs) => {
    const wide: ValueSpec = { shape: x!.shape, dtype: "float32" };
    const small: ValueSpec = { shape: variance!.shape, dtype: "float32" };
    const epsilon = tracer.fill(attrs["varianceEpsilon"] as number, {
      shape: [],
      dtype: "float32",
    });
    const [moved] = tracer.add("Add", [variance!, epsilon], {}, [small]);
    const [rate] = tracer.add("Rsqrt", [moved!], {}, [small]);
    const gain = scale ? tracer.add("Multiply", [rate!, scale], {}, [small])[0]! : rate!;
    const [centred] = tracer.add("Sub", [x!, mean!], {}, [wide]);
    const [scaled] = tracer.add("Multiply", [centred!, gain], {}, [wide]);
    return offset ? tracer.add("Add", [scaled!, offset], {}, [wide]) : [scaled!];
  },
};

/** Rules of the kernels of this file, by TensorFlow.js kernel name. */
export const resamplingKernels: { readonly [kernel: string]: KernelRule } = {
  AvgPool: averagePool(false),
  AvgPoolGrad: averagePool(true),
  AvgPool3D: averagePool(false),
  AvgPool3DGrad: averagePool(true),
  MaxPool: maxPool,
  MaxPool3D: maxPool,
  MaxPoolGrad: maxPoolGrad,
  MaxPool3DGrad: maxPool3dGrad,
  ResizeBilinear: resize("bilinear"),
  ResizeBilinearGrad: resizeGrad("bilinear"),
  ResizeNearestNeighbor: resize("nearest"),
  ResizeNearestNeighborGrad: resizeGrad("nearest"),
  FusedBatchNorm: batchNorm,
};

/** A window along one axis, as "MaxPool" and "MaxPoolGrad" nodes carry it. */
export type PoolWindow = Window;

/** Zeros (or what counts as none) before and after the axis. */
export function poolPads({ size, stride, before, inputs, outputs }: PoolWindow): [number, number] {
  return [before, Math.max(0, (outputs - 1) * stride + size - before - inputs)];
}

/** Values in the pooled tensor's batch of images. */
export const imageCount = (shape: Shape): number => sizeOf(shape.slice(0, -3));
