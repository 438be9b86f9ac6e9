/**
 * @file The kernels a compiled function may use: for each, the order of its inputs and the shapes
 * and types of its outputs. Composite TensorFlow.js kernels are rewritten into simpler ones here, so
 * that a device has fewer to lower.
 */

import * as tf from "@tensorflow/tfjs-core";
import type { Attrs, DType, GraphTracer, Shape, Value, ValueSpec } from "./graph.ts";
import {
  cumulativeProduct,
  depthwiseFilter,
  depthwiseGradient,
  dilatedFilter,
  dilationsOf,
  symmetricPad,
} from "./composed.ts";
import { resamplingKernels } from "./resampling.ts";
import { sizeOf } from "./tensors.ts";

/** How one kernel enters the graph. */
export interface KernelRule {
  /**
   * Names of the kernel's inputs in the node's order, "?" after an optional one; "list" where
   * TensorFlow.js passes an array.
   */
  readonly inputs: readonly string[] | "list";
  /** Adds the kernel's nodes and gives its outputs. */
  readonly trace: (tracer: GraphTracer, inputs: readonly Value[], attrs: Attrs) => readonly Value[];
}

type Infer = (inputs: readonly Value[], attrs: Attrs) => ValueSpec;

/** A kernel that becomes one node named `op` with one output. */
function single(op: string, inputs: readonly string[] | "list", infer: Infer): KernelRule {
  return {
    inputs,
    trace: (tracer, values, attrs) => tracer.add(op, values, plain(attrs), [infer(values, attrs)]),
  };
}

/** Attributes as plain JSON: TensorFlow.js passes undefined ones too. */
function plain(attrs: Attrs): Attrs {
  return JSON.parse(JSON.stringify(attrs ?? {})) as Attrs;
}

const same: Infer = ([x]) => ({ shape: x!.shape, dtype: x!.dtype });
const sameFloat: Infer = ([x]) => ({ shape: x!.shape, dtype: "float32" });
const sameBool: Infer = ([x]) => ({ shape: x!.shape, dtype: "bool" });

function toFloat(tracer: GraphTracer, x: Value): Value {
  return tracer.add("Cast", [x], { dtype: "float32" }, [{ shape: x.shape, dtype: "float32" }])[0]!;
}

/** A function of real numbers: integers become float32 first. */
function floating(op: string): KernelRule {
  return {
    inputs: ["x"],
    trace: (tracer, [x], attrs) => {
      const spec = { shape: x!.shape, dtype: "float32" as const };
      return tracer.add(op, [toFloat(tracer, x!)], plain(attrs), [spec]);
    },
  };
}

function broadcast(a: Shape, b: Shape): number[] {
  return tf.broadcast_util.assertAndGetBroadcastShape([...a], [...b]);
}

const binary: Infer = ([a, b]) => ({
  shape: broadcast(a!.shape, b!.shape),
  dtype: (tf.upcastType(a!.dtype, b!.dtype) === "bool"
    ? "int32"
    : tf.upcastType(a!.dtype, b!.dtype)) as DType,
});
const comparison: Infer = ([a, b]) => ({ shape: broadcast(a!.shape, b!.shape), dtype: "bool" });

/** Axes of a reduction, non-negative and sorted; null means all. */
export function axesOf(axis: unknown, rank: number): number[] {
  const axes =
    axis === null || axis === undefined ? undefined : Array.isArray(axis) ? axis : [axis];
  return (
    (axes as number[] | undefined)?.map((a) => (a < 0 ? a + rank : a)).sort((a, b) => a - b) ??
    Array.from({ length: rank }, (_, i) => i)
  );
}

function reduced(shape: Shape, axes: readonly number[], keep: boolean): number[] {
  return keep
    ? shape.map((side, i) => (axes.includes(i) ? 1 : side))
    : shape.filter((_, i) => !axes.includes(i));
}

function reduction(op: string, key: "axis" | "reductionIndices", dtype?: DType): KernelRule {
  return {
    inputs: ["x"],
    trace: (tracer, [x], attrs) => {
      const axes = axesOf(attrs[key] ?? attrs["axis"], x!.shape.length);
      const keepDims = Boolean(attrs["keepDims"]);
      const shape = reduced(x!.shape, axes, keepDims);
      const operand = dtype === "float32" ? toFloat(tracer, x!) : x!;
      return tracer.add(op, [operand], { axes, keepDims }, [{ shape, dtype: dtype ?? x!.dtype }]);
    },
  };
}

function argReduction(op: string): KernelRule {
  return {
    inputs: ["x"],
    trace: (tracer, [x], attrs) => {
      const [axis] = axesOf(attrs["axis"], x!.shape.length);
      const shape = reduced(x!.shape, [axis!], false);
      return tracer.add(op, [x!], { axis }, [{ shape, dtype: "int32" }]);
    },
  };
}

function reshapeTo(tracer: GraphTracer, x: Value, shape: Shape): Value {
  return tracer.add("Reshape", [x], {}, [{ shape, dtype: x.dtype }])[0]!;
}

function slice(
  tracer: GraphTracer,
  x: Value,
  begin: readonly number[],
  size: readonly number[],
): Value {
  return tracer.add("Slice", [x], { begin, size, steps: size.map(() => 1) }, [
    { shape: size, dtype: x.dtype },
  ])[0]!;
}

function splitAt(tracer: GraphTracer, x: Value, axis: number, sizes: readonly number[]): Value[] {
  let start = 0;
  return sizes.map((length) => {
    const begin = x.shape.map((_, i) => (i === axis ? start : 0));
    start += length;
    return slice(
      tracer,
      x,
      begin,
      x.shape.map((side, i) => (i === axis ? length : side)),
    );
  });
}

/** Gather along the axis after the batch axes: rows of all batches in one table, ids moved into theirs. */
function batchedGather(
  tracer: GraphTracer,
  x: Value,
  indices: Value,
  axis: number,
  batch: number,
): Value {
  if (axis !== batch) {
    throw new Error(
      `tf.gather with batchDims ${batch} along axis ${axis} has no compiled form: transpose the axis to ${batch}`,
    );
  }
  const batches = sizeOf(x.shape.slice(0, batch));
  const side = x.shape[axis]!;
  const inner = x.shape.slice(axis + 1);
  const count = sizeOf(indices.shape.slice(batch));
  const first = Int32Array.from({ length: batches }, (_, b) => b * side);
  const starts = tracer.constant({ dtype: "int32", shape: [batches, 1], data: first });
  const flat = reshapeTo(tracer, indices, [batches, count]);
  const [ids] = tracer.add("Add", [flat, starts], {}, [
    { shape: [batches, count], dtype: "int32" },
  ]);
  const table = reshapeTo(tracer, x, [batches * side, ...inner]);
  const [rows] = tracer.add("GatherV2", [table, ids!], { axis: 0 }, [
    { shape: [batches, count, ...inner], dtype: x.dtype },
  ]);
  return reshapeTo(tracer, rows!, [...indices.shape, ...inner]);
}

/** Convolution attributes of Tessera's own node "Conv". */
export interface ConvAttrs {
  readonly strides: readonly [number, number, number];
  readonly pads: readonly (readonly [number, number])[];
  /** Positions between taps; default 1. */
  readonly dilations?: readonly [number, number, number];
  /** Separate parts of the channels; default 1. The filter is [kt, kh, kw, Cin / groups, Cout]. */
  readonly groups?: number;
}

/** Sides (t, h, w) after a convolution. */
export function convSides(sides: Shape, kernel: Shape, { strides, pads }: ConvAttrs): number[] {
  return [0, 1, 2].map(
    (i) => Math.floor((sides[i]! + pads[i]![0] + pads[i]![1] - kernel[i]!) / strides[i]!) + 1,
  );
}

function addConv(tracer: GraphTracer, x: Value, filter: Value, attrs: ConvAttrs): Value {
  const sides = convSides(x.shape.slice(1, 4), filter.shape, attrs);
  const shape = [x.shape[0]!, ...sides, filter.shape[4]!];
  return tracer.add("Conv", [x, filter], { ...attrs }, [{ shape, dtype: "float32" }])[0]!;
}

function addConvInputGrad(
  tracer: GraphTracer,
  dy: Value,
  filter: Value,
  shape: Shape,
  attrs: ConvAttrs,
): Value {
  return tracer.add("ConvInputGrad", [dy, filter], { ...attrs, shape: [...shape] }, [
    { shape, dtype: "float32" },
  ])[0]!;
}

function addConvFilterGrad(
  tracer: GraphTracer,
  x: Value,
  dy: Value,
  shape: Shape,
  attrs: ConvAttrs,
): Value {
  return tracer.add("ConvFilterGrad", [x, dy], { ...attrs, shape: [...shape] }, [
    { shape, dtype: "float32" },
  ])[0]!;
}

/** Attributes of TensorFlow.js's 2D and 3D convolutions as those of "Conv". */
function convAttrs(input: Shape, filter: Shape, attrs: Attrs, rank: 2 | 3): ConvAttrs {
  const strides = attrs["strides"] as [number, number, number];
  if (rank === 3) {
    const info = tf.backend_util.computeConv3DInfo(
      [...input] as [number, number, number, number, number],
      [...filter] as [number, number, number, number, number],
      strides,
      1,
      attrs["pad"] as "same" | "valid",
    );
    const { front, back, top, bottom, left, right } = info.padInfo;
    return {
      strides: [info.strideDepth, info.strideHeight, info.strideWidth],
      pads: [
        [front, back],
        [top, bottom],
        [left, right],
      ],
    };
  }
  const info = tf.backend_util.computeConv2DInfo(
    [...input] as [number, number, number, number],
    [...filter] as [number, number, number, number],
    strides as unknown as [number, number],
    1,
    attrs["pad"] as "same",
    attrs["dimRoundingMode"] as "floor" | undefined,
  );
  const { top, bottom, left, right } = info.padInfo;
  return {
    strides: [1, info.strideHeight, info.strideWidth],
    pads: [
      [0, 0],
      [top, bottom],
      [left, right],
    ],
  };
}

/** [B, H, W, C] as [B, 1, H, W, C]; [kh, kw, Ci, Co] as [1, kh, kw, Ci, Co]. */
function lift(tracer: GraphTracer, x: Value, kind: "image" | "filter"): Value {
  const shape = kind === "image" ? [x.shape[0]!, 1, ...x.shape.slice(1)] : [1, ...x.shape];
  return reshapeTo(tracer, x, shape);
}

const elementwise: { readonly [op: string]: KernelRule } = Object.fromEntries([
  ...[
    "Abs",
    "Neg",
    "Square",
    "Sign",
    "Floor",
    "Ceil",
    "Round",
    "Relu",
    "Relu6",
    "ClipByValue",
    "Identity",
    "ZerosLike",
    "OnesLike",
  ].map((op) => [op, single(op, ["x"], same)]),
  ...[
    "Exp",
    "Expm1",
    "Log",
    "Log1p",
    "Sqrt",
    "Rsqrt",
    "Reciprocal",
    "Sigmoid",
    "Softplus",
    "Tanh",
    "Erf",
    "Sin",
    "Cos",
    "Tan",
    "Asin",
    "Acos",
    "Atan",
    "Sinh",
    "Cosh",
    "Elu",
    "LeakyRelu",
    "Step",
    "Selu",
  ].map((op) => [op, floating(op)]),
  ...["LogicalNot", "IsNan", "IsInf", "IsFinite"].map((op) => [op, single(op, ["x"], sameBool)]),
  ...[
    "Add",
    "Sub",
    "Multiply",
    "RealDiv",
    "Maximum",
    "Minimum",
    "Pow",
    "Mod",
    "SquaredDifference",
  ].map((op) => [op, single(op, ["a", "b"], binary)]),
  ...[
    "Equal",
    "NotEqual",
    "Less",
    "LessEqual",
    "Greater",
    "GreaterEqual",
    "LogicalAnd",
    "LogicalOr",
  ].map((op) => [op, single(op, ["a", "b"], comparison)]),
]);

const shapes: { readonly [op: string]: KernelRule } = {
  // TensorFlow.js calls a floor division's result int32 whatever it divides.
  FloorDiv: single("FloorDiv", ["a", "b"], ([a, b]) => ({
    shape: broadcast(a!.shape, b!.shape),
    dtype: "int32",
  })),
  EluGrad: single("EluGrad", ["dy", "y"], same),
  Prelu: single("Prelu", ["x", "alpha"], ([x, alpha]) => ({
    shape: broadcast(x!.shape, alpha!.shape),
    dtype: "float32",
  })),
  Cast: single("Cast", ["x"], ([x], attrs) => ({
    shape: x!.shape,
    dtype: attrs["dtype"] as DType,
  })),
  AddN: {
    inputs: "list",
    trace: (tracer, values) => [
      values.reduce(
        (sum, x) => tracer.add("Add", [sum, x], {}, [{ shape: sum.shape, dtype: sum.dtype }])[0]!,
      ),
    ],
  },
  Select: {
    inputs: ["condition", "t", "e"],
    trace: (tracer, [condition, t, e], attrs) => {
      // TensorFlow's old rule: a condition of rank 1 picks rows.
      const rows = condition!.shape.length === 1 && t!.shape.length > 1;
      const c = rows
        ? reshapeTo(tracer, condition!, [condition!.shape[0]!, ...t!.shape.slice(1).map(() => 1)])
        : condition!;
      const dtype = tf.upcastType(t!.dtype, e!.dtype) as DType;
      return tracer.add("Select", [c, t!, e!], attrs ?? {}, [{ shape: t!.shape, dtype }]);
    },
  },
  Reshape: {
    inputs: ["x"],
    trace: (tracer, [x], attrs) => [
      reshapeTo(
        tracer,
        x!,
        tf.util.inferFromImplicitShape(attrs["shape"] as number[], sizeOf(x!.shape)),
      ),
    ],
  },
  ExpandDims: {
    inputs: ["input"],
    trace: (tracer, [x], attrs) => {
      const dim = attrs["dim"] as number;
      const at = dim < 0 ? x!.shape.length + dim + 1 : dim;
      return [reshapeTo(tracer, x!, [...x!.shape.slice(0, at), 1, ...x!.shape.slice(at)])];
    },
  },
  Transpose: single("Transpose", ["x"], ([x], attrs) => ({
    shape: (attrs["perm"] as number[]).map((axis) => x!.shape[axis]!),
    dtype: x!.dtype,
  })),
  Concat: {
    inputs: "list",
    trace: (tracer, values, attrs) => {
      const axis = axesOf(attrs["axis"], values[0]!.shape.length)[0]!;
      const parts = values.filter((v) => sizeOf(v.shape) > 0);
      if (parts.length <= 1) {
        return [parts[0] ?? values[0]!];
      }
      const side = parts.reduce((sum, v) => sum + v.shape[axis]!, 0);
      const shape = parts[0]!.shape.map((s, i) => (i === axis ? side : s));
      return tracer.add("Concat", parts, { axis }, [{ shape, dtype: parts[0]!.dtype }]);
    },
  },
  Pack: {
    inputs: "list",
    trace: (tracer, values, attrs) => {
      const rank = values[0]!.shape.length + 1;
      const axis = axesOf(attrs["axis"], rank)[0]!;
      const one = [...values[0]!.shape.slice(0, axis), 1, ...values[0]!.shape.slice(axis)];
      const parts = values.map((v) => reshapeTo(tracer, v, one));
      const shape = one.map((s, i) => (i === axis ? values.length : s));
      return parts.length === 1
        ? [parts[0]!]
        : tracer.add("Concat", parts, { axis }, [{ shape, dtype: values[0]!.dtype }]);
    },
  },
  Unpack: {
    inputs: ["value"],
    trace: (tracer, [x], attrs) => {
      const axis = axesOf(attrs["axis"], x!.shape.length)[0]!;
      const rest = x!.shape.filter((_, i) => i !== axis);
      return splitAt(
        tracer,
        x!,
        axis,
        Array.from({ length: x!.shape[axis]! }, () => 1),
      ).map((part) => reshapeTo(tracer, part, rest));
    },
  },
  SplitV: {
    inputs: ["x"],
    trace: (tracer, [x], attrs) => {
      const axis = axesOf(attrs["axis"], x!.shape.length)[0]!;
      const dummy = { shape: [...x!.shape] } as tf.Tensor;
      const sizes = tf.backend_util.prepareSplitSize(
        dummy,
        attrs["numOrSizeSplits"] as number[],
        axis,
      );
      return splitAt(tracer, x!, axis, sizes);
    },
  },
  Slice: {
    inputs: ["x"],
    trace: (tracer, [x], attrs) => {
      const dummy = { shape: [...x!.shape], rank: x!.shape.length } as tf.Tensor;
      const [begin, size] = tf.slice_util.parseSliceParams(
        dummy,
        attrs["begin"] as number[],
        attrs["size"] as number[],
      );
      tf.slice_util.assertParamsValid(dummy, begin!, size!); // or a device reads beside the tensor
      return [slice(tracer, x!, begin!, size!)];
    },
  },
  StridedSlice: {
    inputs: ["x"],
    trace: (tracer, [x], attrs) => {
      const info = tf.slice_util.sliceInfo(
        [...x!.shape],
        attrs["begin"] as number[],
        attrs["end"] as number[],
        attrs["strides"] as number[],
        attrs["beginMask"] as number,
        attrs["endMask"] as number,
        attrs["ellipsisMask"] as number,
        attrs["newAxisMask"] as number,
        attrs["shrinkAxisMask"] as number,
      );
      const size = info.begin.map((b, i) =>
        Math.max(0, Math.ceil((info.end[i]! - b) / info.strides[i]!)),
      );
      const cut = tracer.add("Slice", [x!], { begin: info.begin, size, steps: info.strides }, [
        { shape: size, dtype: x!.dtype },
      ])[0]!;
      return [reshapeTo(tracer, cut, info.finalShape)];
    },
  },
  Tile: single("Tile", ["x"], ([x], attrs) => ({
    shape: x!.shape.map((side, i) => side * (attrs["reps"] as number[])[i]!),
    dtype: x!.dtype,
  })),
  PadV2: single("PadV2", ["x"], ([x], attrs) => ({
    shape: x!.shape.map((side, i) => {
      const [before, after] = (attrs["paddings"] as [number, number][])[i]!;
      return side + before + after;
    }),
    dtype: x!.dtype,
  })),
  MirrorPad: {
    inputs: ["x"],
    trace: (tracer, [x], attrs) => {
      const { paddings, mode } = attrs as { paddings: [number, number][]; mode: string };
      if (mode === "symmetric") {
        return [symmetricPad(tracer, x!, paddings)];
      }
      const shape = x!.shape.map((side, i) => side + paddings[i]![0] + paddings[i]![1]);
      return tracer.add("MirrorPad", [x!], { paddings, mode }, [{ shape, dtype: x!.dtype }]);
    },
  },
  Reverse: {
    inputs: ["x"],
    trace: (tracer, [x], attrs) => {
      const axes = axesOf(attrs["dims"], x!.shape.length);
      return tracer.add("Reverse", [x!], { axes }, [{ shape: x!.shape, dtype: x!.dtype }]);
    },
  },
  GatherV2: {
    inputs: ["x", "indices"],
    trace: (tracer, [x, indices], attrs) => {
      const axis = axesOf(attrs["axis"], x!.shape.length)[0]!;
      const batch = (attrs["batchDims"] as number | undefined) ?? 0;
      if (batch > 0) {
        return [batchedGather(tracer, x!, indices!, axis, batch)];
      }
      const shape = [...x!.shape.slice(0, axis), ...indices!.shape, ...x!.shape.slice(axis + 1)];
      return tracer.add("GatherV2", [x!, indices!], { axis }, [{ shape, dtype: x!.dtype }]);
    },
  },
  GatherNd: single("GatherNd", ["params", "indices"], ([x, indices]) => ({
    shape: [...indices!.shape.slice(0, -1), ...x!.shape.slice(indices!.shape.at(-1))],
    dtype: x!.dtype,
  })),
  ScatterNd: single("ScatterNd", ["indices", "updates"], ([, updates], attrs) => ({
    shape: attrs["shape"] as number[],
    dtype: updates!.dtype,
  })),
  OneHot: {
    inputs: ["indices"],
    trace: (tracer, [indices], attrs) => {
      const {
        depth,
        onValue = 1,
        offValue = 0,
        dtype = "int32",
      } = attrs as {
        depth: number;
        onValue?: number;
        offValue?: number;
        dtype?: DType;
      };
      return tracer.add("OneHot", [indices!], { depth, onValue, offValue }, [
        { shape: [...indices!.shape, depth], dtype },
      ]);
    },
  },
  UnsortedSegmentSum: {
    inputs: ["x", "segmentIds"],
    trace: (tracer, [x, ids], attrs) => {
      const numSegments = attrs["numSegments"] as number;
      const shape = [numSegments, ...x!.shape.slice(ids!.shape.length)];
      return tracer.add("UnsortedSegmentSum", [toFloat(tracer, x!), ids!], { numSegments }, [
        { shape, dtype: "float32" }, // also of integers, as in TensorFlow.js
      ]);
    },
  },
};

const reductions: { readonly [op: string]: KernelRule } = {
  Sum: reduction("Sum", "axis"),
  Mean: reduction("Mean", "axis", "float32"),
  Max: reduction("Max", "reductionIndices"),
  Min: reduction("Min", "axis"),
  Prod: reduction("Prod", "axis"),
  All: reduction("All", "axis", "bool"),
  Any: reduction("Any", "axis", "bool"),
  ArgMax: argReduction("ArgMax"),
  ArgMin: argReduction("ArgMin"),
  Cumsum: {
    inputs: ["x"],
    trace: (tracer, [x], attrs) => {
      const axis = axesOf(attrs["axis"], x!.shape.length)[0]!;
      const { exclusive = false, reverse = false } = attrs as {
        exclusive?: boolean;
        reverse?: boolean;
      };
      return tracer.add("Cumsum", [x!], { axis, exclusive, reverse }, [
        { shape: x!.shape, dtype: x!.dtype },
      ]);
    },
  },
  Cumprod: {
    inputs: ["x"],
    trace: (tracer, [x], attrs) => {
      const axis = axesOf(attrs["axis"], x!.shape.length)[0]!;
      const { exclusive = false, reverse = false } = attrs as {
        exclusive?: boolean;
        reverse?: boolean;
      };
      return [cumulativeProduct(tracer, x!, axis, exclusive, reverse)];
    },
  },
  TopK: {
    inputs: ["x"],
    trace: (tracer, [x], attrs) => {
      const k = attrs["k"] as number;
      const shape = [...x!.shape.slice(0, -1), k];
      return tracer.add("TopK", [x!], { k }, [
        { shape, dtype: x!.dtype },
        { shape, dtype: "int32" },
      ]);
    },
  },
  Softmax: single("Softmax", ["logits"], sameFloat),
};

const products: { readonly [op: string]: KernelRule } = {
  BatchMatMul: {
    inputs: ["a", "b"],
    trace: (tracer, [a, b], attrs) => {
      const { transposeA = false, transposeB = false } = attrs as {
        transposeA?: boolean;
        transposeB?: boolean;
      };
      const rows = a!.shape.at(transposeA ? -1 : -2)!;
      const columns = b!.shape.at(transposeB ? -2 : -1)!;
      const batch = broadcast(a!.shape.slice(0, -2), b!.shape.slice(0, -2));
      const shape = [...batch, rows, columns];
      const operands = [toFloat(tracer, a!), toFloat(tracer, b!)];
      const [product] = tracer.add("BatchMatMul", operands, { transposeA, transposeB }, [
        { shape, dtype: "float32" },
      ]);
      const dtype = a!.dtype; // TensorFlow.js gives a product its first operand's type
      return tracer.add("Cast", [product!], { dtype }, [{ shape, dtype }]);
    },
  },
  Einsum: {
    inputs: "list",
    trace: (tracer, values, attrs) => {
      const equation = (attrs["equation"] as string).replaceAll(/\s/g, "");
      const [terms, result] = equation.split("->") as [string, string];
      const sides = new Map<string, number>();
      terms.split(",").forEach((term, i) => {
        term.split("").forEach((letter, axis) => sides.set(letter, values[i]!.shape[axis]!));
      });
      const shape = result.split("").map((letter) => sides.get(letter)!);
      return tracer.add("Einsum", values, { equation }, [{ shape, dtype: "float32" }]);
    },
  },
  Conv3D: {
    inputs: ["x", "filter"],
    trace: (tracer, [x, filter], attrs) => {
      const taps = dilatedFilter(tracer, filter!, dilationsOf(attrs, 3));
      return [addConv(tracer, x!, taps, convAttrs(x!.shape, taps.shape, attrs, 3))];
    },
  },
  Conv3DBackpropInputV2: {
    inputs: ["dy", "filter"],
    trace: (tracer, [dy, filter], attrs) => {
      const shape = attrs["inputShape"] as number[];
      return [
        addConvInputGrad(tracer, dy!, filter!, shape, convAttrs(shape, filter!.shape, attrs, 3)),
      ];
    },
  },
  Conv3DBackpropFilterV2: {
    inputs: ["x", "dy"],
    trace: (tracer, [x, dy], attrs) => {
      const shape = attrs["filterShape"] as number[];
      return [addConvFilterGrad(tracer, x!, dy!, shape, convAttrs(x!.shape, shape, attrs, 3))];
    },
  },
  Conv2D: {
    inputs: ["x", "filter"],
    trace: (tracer, [x, filter], attrs) => {
      const taps = dilatedFilter(tracer, filter!, dilationsOf(attrs, 2));
      const y = addConv(
        tracer,
        lift(tracer, x!, "image"),
        lift(tracer, taps, "filter"),
        convAttrs(x!.shape, taps.shape, attrs, 2),
      );
      return [reshapeTo(tracer, y, [y.shape[0]!, ...y.shape.slice(2)])];
    },
  },
  Conv2DBackpropInput: {
    inputs: ["dy", "filter"],
    trace: (tracer, [dy, filter], attrs) => {
      const shape = attrs["inputShape"] as number[];
      const dx = addConvInputGrad(
        tracer,
        lift(tracer, dy!, "image"),
        lift(tracer, filter!, "filter"),
        [shape[0]!, 1, ...shape.slice(1)],
        convAttrs(shape, filter!.shape, attrs, 2),
      );
      return [reshapeTo(tracer, dx, shape)];
    },
  },
  Conv2DBackpropFilter: {
    inputs: ["x", "dy"],
    trace: (tracer, [x, dy], attrs) => {
      const shape = attrs["filterShape"] as number[];
      const dw = addConvFilterGrad(
        tracer,
        lift(tracer, x!, "image"),
        lift(tracer, dy!, "image"),
        [1, ...shape],
        convAttrs(x!.shape, shape, attrs, 2),
      );
      return [reshapeTo(tracer, dw, shape)];
    },
  },
};

/** Convolution attributes of a depthwise filter [kh, kw, C, M] whose channels are apart. */
function depthwiseAttrs(tracer: GraphTracer, input: Shape, filter: Shape, attrs: Attrs): ConvAttrs {
  const info = tf.backend_util.computeConv2DInfo(
    [...input] as [number, number, number, number],
    [...filter] as [number, number, number, number],
    attrs["strides"] as [number, number],
    1,
    attrs["pad"] as "same",
    attrs["dimRoundingMode"] as "floor" | undefined,
    true,
  );
  const { top, bottom, left, right } = info.padInfo;
  return {
    strides: [1, info.strideHeight, info.strideWidth],
    pads: [
      [0, 0],
      [top, bottom],
      [left, right],
    ],
    ...(hasGroups(tracer) && { groups: filter[2]! }),
  };
}

/** Whether the device has convolutions in groups of channels. */
const hasGroups = (tracer: GraphTracer): boolean => tracer.features.has("groups");

const depthwise: { readonly [op: string]: KernelRule } = {
  DepthwiseConv2dNative: {
    inputs: ["x", "filter"],
    trace: (tracer, [x, filter], attrs) => {
      const taps = dilatedFilter(tracer, filter!, dilationsOf(attrs, 2));
      const y = addConv(
        tracer,
        lift(tracer, x!, "image"),
        depthwiseFilter(tracer, taps, hasGroups(tracer)),
        depthwiseAttrs(tracer, x!.shape, taps.shape, attrs),
      );
      return [reshapeTo(tracer, y, [y.shape[0]!, ...y.shape.slice(2)])];
    },
  },
  DepthwiseConv2dNativeBackpropInput: {
    inputs: ["dy", "filter"],
    trace: (tracer, [dy, filter], attrs) => {
      const shape = attrs["inputShape"] as number[];
      const dx = addConvInputGrad(
        tracer,
        lift(tracer, dy!, "image"),
        depthwiseFilter(tracer, filter!, hasGroups(tracer)),
        [shape[0]!, 1, ...shape.slice(1)],
        depthwiseAttrs(tracer, shape, filter!.shape, attrs),
      );
      return [reshapeTo(tracer, dx, shape)];
    },
  },
  DepthwiseConv2dNativeBackpropFilter: {
    inputs: ["x", "dy"],
    trace: (tracer, [x, dy], attrs) => {
      const shape = attrs["filterShape"] as number[];
      const [kh, kw, c, m] = shape as [number, number, number, number];
      const grad = addConvFilterGrad(
        tracer,
        lift(tracer, x!, "image"),
        lift(tracer, dy!, "image"),
        [1, kh, kw, hasGroups(tracer) ? 1 : c, c * m],
        depthwiseAttrs(tracer, x!.shape, shape, attrs),
      );
      return [depthwiseGradient(tracer, grad, shape)];
    },
  },
};

/** Tessera's own kernels (ops.ts registers them with TensorFlow.js). */
const own: { readonly [op: string]: KernelRule } = {
  TesseraConv: {
    inputs: ["x", "filter"],
    trace: (tracer, [x, filter], attrs) => [
      addConv(tracer, x!, filter!, attrs as unknown as ConvAttrs),
    ],
  },
  TesseraConvInputGrad: {
    inputs: ["dy", "filter"],
    trace: (tracer, [dy, filter], attrs) => {
      const { shape, strides, pads } = attrs as unknown as ConvAttrs & { shape: number[] };
      return [addConvInputGrad(tracer, dy!, filter!, shape, { strides, pads })];
    },
  },
  TesseraConvFilterGrad: {
    inputs: ["x", "dy"],
    trace: (tracer, [x, dy], attrs) => {
      const { shape, strides, pads } = attrs as unknown as ConvAttrs & { shape: number[] };
      return [addConvFilterGrad(tracer, x!, dy!, shape, { strides, pads })];
    },
  },
  TesseraDepthToSpace3d: single("DepthToSpace3d", ["x"], ([x], attrs) => {
    const [bt, bh, bw] = attrs["block"] as [number, number, number];
    const [b, t, h, w, c] = x!.shape as [number, number, number, number, number];
    return { shape: [b, t * bt, h * bh, w * bw, c / (bt * bh * bw)], dtype: x!.dtype };
  }),
  TesseraSpaceToDepth3d: single("SpaceToDepth3d", ["x"], ([x], attrs) => {
    const [bt, bh, bw] = attrs["block"] as [number, number, number];
    const [b, t, h, w, c] = x!.shape as [number, number, number, number, number];
    return { shape: [b, t / bt, h / bh, w / bw, c * bt * bh * bw], dtype: x!.dtype };
  }),
  TesseraGroupNorm: single("GroupNorm", ["x", "scale", "shift"], same),
  TesseraGroupNormGrad: {
    inputs: ["x", "scale", "shift", "dy"],
    trace: (tracer, values, attrs) =>
      tracer.add("GroupNormGrad", values, plain(attrs), values.slice(0, 3)),
  },
  TesseraLayerNorm: single("LayerNorm", ["x", "scale", "shift"], same),
  TesseraLayerNormGrad: {
    inputs: ["x", "scale", "shift", "dy"],
    trace: (tracer, values, attrs) =>
      tracer.add("LayerNormGrad", values, plain(attrs), values.slice(0, 3)),
  },
  TesseraAttention: single("Attention", ["query", "key", "value"], ([query, , value]) => ({
    shape: [...query!.shape.slice(0, 3), value!.shape[3]!],
    dtype: "float32",
  })),
  TesseraAttentionGrad: {
    inputs: ["query", "key", "value", "dy"],
    trace: (tracer, values, attrs) =>
      tracer.add("AttentionGrad", values, plain(attrs), values.slice(0, 3)),
  },
  TesseraCacheWrite: single("CacheWrite", ["cache", "rows", "position"], same),
  TesseraCachedAttention: single(
    "CachedAttention",
    ["query", "keys", "values", "position"],
    ([query, , values]) => ({
      shape: [...query!.shape.slice(0, 3), values!.shape[3]!],
      dtype: "float32",
    }),
  ),
  // The value of x, not before `after` is there.
  TesseraBarrier: single("Barrier", ["x", "after"], same),
  TesseraSumOfSquares: single("SumOfSquares", "list", () => ({ shape: [], dtype: "float32" })),
  TesseraAllReduce: single("AllReduce", ["x"], same),
  TesseraAllReduceMean: {
    inputs: "list",
    trace: (tracer, values) => tracer.add("AllReduceMean", values, {}, values),
  },
  // Scalars, then m, v and an average as vectors, then gradient and value of each tensor.
  TesseraAdamW: {
    inputs: "list",
    trace: (tracer, values, attrs) => {
      const states = attrs["averaged"] ? 3 : 2;
      const tensors = values.slice(6 + states).filter((_, i) => i % 2 === 1);
      return tracer.add("AdamW", values, plain(attrs), [
        ...values.slice(6, 6 + states),
        ...tensors,
      ]);
    },
  },
  TesseraSilu: single("Silu", ["x"], same),
  TesseraSiluGrad: single("SiluGrad", ["x", "dy"], same),
  TesseraGelu: single("Gelu", ["x"], same),
  TesseraGeluGrad: single("GeluGrad", ["x", "dy"], same),
  TesseraSoftmaxCrossEntropy: single("SoftmaxCrossEntropy", ["logits", "labels"], ([logits]) => ({
    shape: [logits!.shape[0]!],
    dtype: "float32",
  })),
  TesseraSoftmaxCrossEntropyGrad: single(
    "SoftmaxCrossEntropyGrad",
    ["logits", "labels", "dy"],
    same,
  ),
};

/** Every kernel that can be traced, by TensorFlow.js kernel name. */
export const KERNEL_RULES: { readonly [kernel: string]: KernelRule } = {
  ...elementwise,
  ...shapes,
  ...reductions,
  ...products,
  ...depthwise,
  ...resamplingKernels,
  ...own,
};
