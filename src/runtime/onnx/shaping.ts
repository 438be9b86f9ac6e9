/** @file ONNX lowering of kernels that move, select or count values without much arithmetic. */

import type { GraphNode, Value } from "../graph.ts";
import { sizeOf } from "../tensors.ts";
import {
  axisIn,
  hasImageLayout,
  type Layout,
  literalValues,
  type Lowering,
  type Rule,
} from "./lowering.ts";
import { ELEMENT_TYPES } from "./model.ts";

function one(node: GraphNode): { readonly x: Value; readonly y: Value; readonly rank: number } {
  return { x: node.inputs[0]!, y: node.outputs[0]!, rank: node.inputs[0]!.shape.length };
}

/** The layout of a node that keeps its operand's axes in place. */
function keptLayout(lowering: Lowering, x: Value): Layout {
  return hasImageLayout(x.shape) && lowering.isFirst(x) ? "first" : "last";
}

/**
 * [B, T, H, W, C] and [B·T, H, W, C] hold the same images: such a reshape keeps "first". Both must
 * end in the same (H, W, C).
 */
function sameImages(a: Value, b: Value): boolean {
  return (
    hasImageLayout(a.shape) &&
    hasImageLayout(b.shape) &&
    a.shape.slice(-3).every((side, i) => side === b.shape.slice(-3)[i])
  );
}

export const shapingRules: { readonly [op: string]: Rule } = {
  Reshape: (lowering, node) => {
    const { x, y } = one(node);
    if (lowering.isFirst(x) && sameImages(x, y)) {
      const [h, w, c] = y.shape.slice(-3) as [number, number, number];
      const shape = [...y.shape.slice(0, -3), c, h, w];
      lowering.set(y, lowering.reshape(lowering.get(x, "first"), shape), "first");
    } else {
      lowering.set(y, lowering.reshape(lowering.full(x), y.shape));
    }
  },

  Transpose: (lowering, node) => {
    const { x, y } = one(node);
    lowering.set(
      y,
      lowering.g.op("Transpose", [lowering.full(x)], { perm: node.attrs["perm"] as number[] }),
    );
  },

  Concat: (lowering, node) => {
    const [y] = node.outputs;
    const layout = node.inputs.some((v) => lowering.isFirst(v)) ? "first" : "last";
    const axis = axisIn(layout, y!.shape.length, node.attrs["axis"] as number);
    const names = node.inputs.map((v) => lowering.full(v, layout));
    lowering.set(y!, lowering.g.op("Concat", names, { axis }), layout);
  },

  Slice: (lowering, node) => {
    const { x, y, rank } = one(node);
    const { begin, size, steps } = node.attrs as {
      begin: number[];
      size: number[];
      steps: number[];
    };
    const layout = keptLayout(lowering, x);
    const axes = x.shape.flatMap((side, i) => (size[i] === side && steps[i] === 1 ? [] : [i]));
    const ends = axes.map((i) => {
      const end = begin[i]! + size[i]! * steps[i]!;
      return end < 0 ? -(2 ** 31) : end; // a negative end would count from the back
    });
    const name = lowering.slice(
      lowering.get(x, layout),
      axes.map((i) => axisIn(layout, rank, i)),
      axes.map((i) => begin[i]!),
      ends,
      axes.every((i) => steps[i] === 1) ? undefined : axes.map((i) => steps[i]!),
    );
    lowering.set(y, name, layout);
  },

  Reverse: (lowering, node) => {
    const { x, y } = one(node);
    const axes = node.attrs["axes"] as number[];
    const minus = axes.map(() => -1);
    const ends = axes.map(() => -(2 ** 31));
    lowering.set(y, lowering.slice(lowering.get(x), axes, minus, ends, minus));
  },

  Tile: (lowering, node) => {
    const { x, y } = one(node);
    const reps = node.attrs["reps"] as number[];
    const layout = keptLayout(lowering, x);
    const name = lowering.get(x, layout);
    const at = reps.map((_, i) => i);
    if (reps.every((r, i) => r === 1 || x.shape[i] === 1)) {
      const shape = Array.from<number>({ length: at.length });
      at.forEach((i) => {
        shape[axisIn(layout, at.length, i)] = y.shape[i]!;
      });
      lowering.set(y, lowering.g.op("Expand", [name, lowering.g.ints(shape)]), layout);
      return;
    }
    const repeats = Array.from<number>({ length: at.length });
    at.forEach((i) => {
      repeats[axisIn(layout, at.length, i)] = reps[i]!;
    });
    lowering.set(
      y,
      lowering.g.op("Tile", [lowering.full(x, layout), lowering.g.ints(repeats)]),
      layout,
    );
  },

  PadV2: (lowering, node) => pad(lowering, node, "constant"),
  MirrorPad: (lowering, node) => pad(lowering, node, node.attrs["mode"] as string),

  GatherV2: (lowering, node) => {
    const [x, indices] = node.inputs;
    const axis = node.attrs["axis"] as number;
    const name = lowering.g.op("Gather", [lowering.full(x!), lowering.full(indices!)], { axis });
    lowering.set(node.outputs[0]!, name);
  },

  GatherNd: (lowering, node) => {
    const [x, indices] = node.inputs;
    const places = lowering.g.op("Cast", [lowering.full(indices!)], { to: ELEMENT_TYPES.int64 });
    lowering.set(node.outputs[0]!, lowering.g.op("GatherND", [lowering.full(x!), places]));
  },

  // Updates of one place add up.
  ScatterNd: (lowering, node) => {
    const { g } = lowering;
    const [indices, updates] = node.inputs;
    const [y] = node.outputs;
    const zero = g.constant(y!.dtype, [1], literalValues(y!.dtype, [0]));
    const zeros = g.op("Expand", [zero, g.ints(y!.shape)]);
    const places = g.op("Cast", [lowering.full(indices!)], { to: ELEMENT_TYPES.int64 });
    const given = lowering.full(updates!);
    lowering.set(y!, g.op("ScatterND", [zeros, places, given], { reduction: "add" }));
  },

  OneHot: (lowering, node) => {
    const { x, y } = one(node);
    const { depth, onValue, offValue } = node.attrs as {
      depth: number;
      onValue: number;
      offValue: number;
    };
    const ids = x.shape.length === 0 ? lowering.reshape(lowering.full(x), [1]) : lowering.full(x);
    const hot = oneHot(lowering, ids, depth, [offValue, onValue], y.dtype);
    lowering.set(y, x.shape.length === 0 ? lowering.reshape(hot, y.shape) : hot);
  },

  // Rows added by segment, as a product with the one-hot matrix where that is small: it is parallel
  // and adds in a fixed order.
  UnsortedSegmentSum: (lowering, node) => {
    const { g } = lowering;
    const [x, ids] = node.inputs;
    const [y] = node.outputs;
    const segments = node.attrs["numSegments"] as number;
    const rows = sizeOf(ids!.shape);
    const width = sizeOf(x!.shape.slice(ids!.shape.length));
    const flat = lowering.reshape(lowering.full(x!), [rows, width]);
    const flatIds = lowering.reshape(lowering.full(ids!), [rows]);
    if (rows * segments <= 1 << 24) {
      const hot = oneHot(lowering, flatIds, segments, [0, 1], "float32"); // [rows, segments]
      const sums = g.op("Microsoft:FusedMatMul", [hot, flat], { transA: 1 });
      lowering.set(y!, lowering.reshape(sums, y!.shape));
      return;
    }
    const zero = g.constant(y!.dtype, [1, 1], literalValues(y!.dtype, [0]));
    const zeros = g.op("Expand", [zero, g.ints([segments, width])]);
    const index = g.op("Expand", [lowering.reshape(flatIds, [rows, 1]), g.ints([rows, width])]);
    const sums = g.op("ScatterElements", [zeros, index, flat], { axis: 0, reduction: "add" });
    lowering.set(y!, lowering.reshape(sums, y!.shape));
  },
};

function pad(lowering: Lowering, node: GraphNode, mode: string): void {
  const { x, y, rank } = one(node);
  const paddings = node.attrs["paddings"] as [number, number][];
  const layout = keptLayout(lowering, x);
  const before = Array.from({ length: rank }, () => 0);
  const after = Array.from({ length: rank }, () => 0);
  paddings.forEach(([b, a], i) => {
    before[axisIn(layout, rank, i)] = b;
    after[axisIn(layout, rank, i)] = a;
  });
  const inputs = [lowering.full(x, layout), lowering.g.ints([...before, ...after])];
  if (mode === "constant") {
    const value = (node.attrs["constantValue"] as number | undefined) ?? 0;
    inputs.push(lowering.g.constant(x.dtype, [], literalValues(x.dtype, [value])));
  }
  lowering.set(y, lowering.g.op("Pad", inputs, { mode }), layout);
}

export function oneHot(
  lowering: Lowering,
  ids: string,
  depth: number,
  values: readonly [number, number],
  dtype: "float32" | "int32" | "bool",
): string {
  const { g } = lowering;
  // ONNX counts negative ids from the end; in TensorFlow.js they are no class.
  const negative = g.op("Less", [ids, g.constant("int32", [], Int32Array.of(0))]);
  const classes = g.op("Where", [negative, g.constant("int32", [], Int32Array.of(depth)), ids]);
  // ONNX Runtime has OneHot for int32 ids with an int32 depth and float32 values only.
  const hot = g.op(
    "OneHot",
    [
      classes,
      g.constant("int32", [1], Int32Array.of(depth)),
      g.constant("float32", [2], literalValues("float32", values)),
    ],
    { axis: -1 },
  );
  return dtype === "float32" ? hot : g.op("Cast", [hot], { to: ELEMENT_TYPES[dtype] });
}
