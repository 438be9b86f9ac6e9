/** @file ONNX lowering of products along an axis (average pooling, resizing) and of max pooling. */

import { imageCount, poolPads, type PoolWindow } from "../resampling.ts";
import { sizeOf } from "../tensors.ts";
import { axisIn, hasImageLayout, type Rule, shapeIn } from "./lowering.ts";

/** x along `axis` times a [outputs × inputs] matrix. */
const axisProduct: Rule = (lowering, node) => {
  const { g } = lowering;
  const [x, matrix] = node.inputs;
  const [y] = node.outputs;
  const layout = hasImageLayout(x!.shape) ? "first" : "last";
  const shape = shapeIn(layout, x!.shape);
  const axis = axisIn(layout, shape.length, node.attrs["axis"] as number);
  const [outputs, inputs] = matrix!.shape as [number, number];
  const before = sizeOf(shape.slice(0, axis));
  const after = sizeOf(shape.slice(axis + 1));
  const weights = lowering.full(matrix!);
  const name = lowering.full(x!, layout);
  const product =
    after === 1
      ? g.op("Microsoft:FusedMatMul", [lowering.reshape(name, [before, inputs]), weights], {
          transB: 1,
        })
      : g.op("MatMul", [weights, lowering.reshape(name, [before, inputs, after])]);
  const made = shape.map((side, i) => (i === axis ? outputs : side));
  lowering.set(y!, lowering.reshape(product, made), layout);
};

/** Attributes of a 2D pooling over (rows, columns). */
function pooling(windows: readonly PoolWindow[]): { [name: string]: readonly number[] } {
  const pads = windows.map(poolPads);
  return {
    kernel_shape: windows.map((axis) => axis.size),
    strides: windows.map((axis) => axis.stride),
    pads: [...pads.map(([a]) => a), ...pads.map(([, b]) => b)],
  };
}

/** Maxima over rows and columns of each frame, then over frames. */
const maxPool: Rule = (lowering, node) => {
  const { g } = lowering;
  const [x] = node.inputs;
  const [y] = node.outputs;
  const windows = node.attrs["windows"] as PoolWindow[];
  const space = windows.slice(-2);
  const channels = x!.shape.at(-1)!;
  const [h, w] = space.map((axis) => axis.inputs);
  const flat = lowering.reshape(lowering.full(x!, "first"), [
    imageCount(x!.shape),
    channels,
    h!,
    w!,
  ]);
  let name = g.op("MaxPool", [flat], pooling(space));
  if (windows.length === 3) {
    const [time] = windows as [PoolWindow];
    const rest = channels * sizeOf(space.map((axis) => axis.outputs));
    const clips = lowering.reshape(name, [x!.shape[0]!, 1, time.inputs, rest]);
    const one = { size: 1, stride: 1, before: 0, inputs: rest, outputs: rest };
    name = g.op("MaxPool", [clips], pooling([time, one]));
  }
  lowering.set(y!, lowering.reshape(name, shapeIn("first", y!.shape)), "first");
};

/** Each gradient goes to its window's maximum, the first of equal ones. */
const maxPoolGrad: Rule = (lowering, node) => {
  const { g } = lowering;
  const [dy, x] = node.inputs;
  const [dx] = node.outputs;
  const windows = node.attrs["windows"] as PoolWindow[];
  const flat = lowering.full(x!, "first");
  const [, places] = g.ops("MaxPool", [flat], pooling(windows), 2); // indices into the flat images
  const count = sizeOf(dy!.shape);
  const zero = g.constant("float32", [1], new Float32Array(1));
  const zeros = g.op("Expand", [zero, g.ints([sizeOf(x!.shape)])]);
  const index = lowering.reshape(places!, [count]);
  const given = lowering.reshape(lowering.full(dy!, "first"), [count]);
  const sums = g.op("ScatterElements", [zeros, index, given], { axis: 0, reduction: "add" });
  lowering.set(dx!, lowering.reshape(sums, shapeIn("first", dx!.shape)), "first");
};

export const resamplingRules: { readonly [op: string]: Rule } = {
  AxisProduct: axisProduct,
  MaxPool: maxPool,
  MaxPoolGrad: maxPoolGrad,
};
