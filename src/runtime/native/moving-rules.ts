/** @file Steps of nodes that move, look up or place values. */

import type { GraphNode, Value } from "../graph.ts";
import { sizeOf } from "../tensors.ts";
import type { Lowering, Rule } from "./lowering.ts";
import { elementCode } from "./program.ts";
import { reshaped, sliced, transposed, type View, widthOf } from "./views.ts";

/** Parts that lie beside each other in one buffer already, as one view along `axis`. */
function adjacent(parts: readonly View[], axis: number): View | undefined {
  const [first] = parts as [View, ...View[]];
  let end = first.offset;
  for (const part of parts) {
    const fits =
      part.buffer === first.buffer &&
      part.offset === end &&
      part.strides.every((stride, i) => stride === first.strides[i] || part.shape[i] === 1);
    if (!fits || first.strides[axis]! <= 0) {
      return undefined;
    }
    end += part.shape[axis]! * first.strides[axis]!;
  }
  const side = parts.reduce((sum, part) => sum + part.shape[axis]!, 0);
  return { ...first, shape: first.shape.map((s, i) => (i === axis ? side : s)) };
}

const concat: Rule = (lowering, node) => {
  const [y] = node.outputs;
  const axis = node.attrs["axis"] as number;
  const parts = node.inputs.map((value) => lowering.get(value));
  const joined = lowering.isFree(y!) ? adjacent(parts, axis) : undefined;
  if (joined && joined.buffer.place === "arena") {
    lowering.set(y!, joined);
    return;
  }
  const target = lowering.alloc(y!);
  let start = 0;
  parts.forEach((part, i) => {
    const from = part.pixels ? lowering.dense(node.inputs[i]!) : part;
    const begin = y!.shape.map((_, a) => (a === axis ? start : 0));
    const steps = y!.shape.map(() => 1);
    lowering.copy(from, sliced(target, begin, from.shape, steps));
    start += from.shape[axis]!;
  });
};

/** The operand in the middle, slabs of the value around it. */
const pad: Rule = (lowering, node) => {
  const [x] = node.inputs;
  const [y] = node.outputs;
  const paddings = node.attrs["paddings"] as [number, number][];
  const value = (node.attrs["constantValue"] as number | undefined) ?? 0;
  const target = lowering.alloc(y!);
  const ones = paddings.map(() => 1);
  paddings.forEach(([before, after], axis) => {
    const side = x!.shape[axis]!;
    for (const [start, length] of [
      [0, before],
      [before + side, after],
    ] as const) {
      // Earlier axes are done: only their inner part is left.
      const begin = paddings.map(([b], i) => (i < axis ? b : i === axis ? start : 0));
      const size = y!.shape.map((s, i) => (i < axis ? x!.shape[i]! : i === axis ? length : s));
      if (length > 0) {
        lowering.fill(sliced(target, begin, size, ones), value);
      }
    }
  });
  const from = lowering.get(x!).pixels ? lowering.dense(x!) : lowering.get(x!);
  lowering.copy(
    from,
    sliced(
      target,
      paddings.map(([before]) => before),
      x!.shape,
      ones,
    ),
  );
};

/** Rows by constant index, one padded axis after the other. */
const mirrorPad: Rule = (lowering, node) => {
  const [x] = node.inputs;
  const [y] = node.outputs;
  const paddings = node.attrs["paddings"] as [number, number][];
  const edge = node.attrs["mode"] === "symmetric" ? 1 : 0;
  const padded = paddings.flatMap(([before, after], axis) => (before + after > 0 ? [axis] : []));
  let view = lowering.dense(x!);
  padded.forEach((axis, k) => {
    const [before, after] = paddings[axis]!;
    const side = view.shape[axis]!;
    const ids = Array.from({ length: before + side + after }, (_, i) => {
      const at = i - before;
      return at < 0 ? -at - edge : at >= side ? 2 * side - 2 - at + edge : at;
    });
    const shape = view.shape.map((s, a) => (a === axis ? ids.length : s));
    const last = k === padded.length - 1;
    const target = last ? lowering.alloc(y!) : lowering.scratch(shape, x!.dtype);
    gatherRows(lowering, view, constantIds(lowering, ids), axis, target);
    view = target;
  });
  if (padded.length === 0) {
    lowering.copy(view, lowering.alloc(y!));
  }
};

function constantIds(lowering: Lowering, ids: readonly number[]): View {
  return lowering.once(`ids ${ids.join()}`, () =>
    lowering.constant(Int32Array.from(ids), [ids.length], "int32"),
  );
}

/** y = x at `ids` along `axis`; leading `batch` axes are shared by both. */
function gatherRows(
  lowering: Lowering,
  x: View,
  ids: View,
  axis: number,
  y: View,
  batch = 0,
): void {
  const ints = [
    widthOf(x),
    sizeOf(x.shape.slice(0, batch)),
    sizeOf(x.shape.slice(batch, axis)),
    x.shape[axis]!,
    sizeOf(x.shape.slice(axis + 1)),
    sizeOf(ids.shape.slice(batch)),
  ];
  lowering.builder.step("Gather", [x, ids], [y], ints);
}

/** What remains of a shape, counted from the end of an index tuple. */
const innerSize = (value: Value, depth: number): number => sizeOf(value.shape.slice(depth));

function oneHot(lowering: Lowering, node: GraphNode): void {
  const [ids] = node.inputs;
  const [y] = node.outputs;
  const { depth, onValue, offValue } = node.attrs as {
    depth: number;
    onValue: number;
    offValue: number;
  };
  const given = lowering.dense(ids!);
  const ints = [elementCode(y!.dtype), sizeOf(ids!.shape), depth];
  lowering.builder.step("OneHot", [given], [lowering.alloc(y!)], ints, [onValue, offValue]);
}

/** [B, T, H, W, C] cut into blocks: a transpose of eight axes. */
function blocks(toSpace: boolean): Rule {
  return (lowering, node) => {
    const [x] = node.inputs;
    const [y] = node.outputs;
    const [bt, bh, bw] = node.attrs["block"] as [number, number, number];
    const [b, t, h, w] = (toSpace ? x! : y!).shape as [number, number, number, number, number];
    const c = (toSpace ? y! : x!).shape[4]!;
    if (toSpace) {
      const view = reshaped(lowering.dense(x!), [b, t, h, w, bt, bh, bw, c])!;
      lowering.copy(
        transposed(view, [0, 1, 4, 2, 5, 3, 6, 7]),
        reshaped(lowering.alloc(y!), [b, t, bt, h, bh, w, bw, c])!,
      );
      return;
    }
    const view = reshaped(lowering.dense(x!), [b, t, bt, h, bh, w, bw, c])!;
    lowering.copy(
      transposed(view, [0, 1, 3, 5, 2, 4, 6, 7]),
      reshaped(lowering.alloc(y!), [b, t, h, w, bt, bh, bw, c])!,
    );
  };
}

export const movingRules: { readonly [op: string]: Rule } = {
  Concat: concat,
  PadV2: pad,
  MirrorPad: mirrorPad,
  OneHot: oneHot,
  DepthToSpace3d: blocks(true),
  SpaceToDepth3d: blocks(false),

  GatherV2: (lowering, node) => {
    const [x, ids] = node.inputs;
    const batch = (node.attrs["batchDims"] as number | undefined) ?? 0;
    const axis = node.attrs["axis"] as number;
    gatherRows(
      lowering,
      lowering.dense(x!),
      lowering.dense(ids!),
      axis,
      lowering.alloc(node.outputs[0]!),
      batch,
    );
  },

  GatherNd: (lowering, node) => {
    const [x, ids] = node.inputs;
    const depth = ids!.shape.at(-1)!;
    const ints = [
      widthOf(x!),
      sizeOf(ids!.shape.slice(0, -1)),
      innerSize(x!, depth),
      depth,
      ...x!.shape.slice(0, depth),
    ];
    const given = [lowering.dense(x!), lowering.dense(ids!)];
    lowering.builder.step("GatherNd", given, [lowering.alloc(node.outputs[0]!)], ints);
  },

  ScatterNd: (lowering, node) => {
    const [ids, updates] = node.inputs;
    const [y] = node.outputs;
    const depth = ids!.shape.at(-1)!;
    const ints = [
      Number(y!.dtype !== "float32"),
      sizeOf(ids!.shape.slice(0, -1)),
      innerSize(y!, depth),
      sizeOf(y!.shape),
      depth,
      ...y!.shape.slice(0, depth),
    ];
    const given = [lowering.dense(ids!), lowering.dense(updates!)];
    lowering.builder.step("ScatterNd", given, [lowering.alloc(y!)], ints);
  },

  UnsortedSegmentSum: (lowering, node) => {
    const [x, ids] = node.inputs;
    const segments = node.attrs["numSegments"] as number;
    const ints = [sizeOf(ids!.shape), innerSize(x!, ids!.shape.length), segments];
    const given = [lowering.dense(x!), lowering.dense(ids!)];
    lowering.builder.step("SegmentSum", given, [lowering.alloc(node.outputs[0]!)], ints);
  },

  TopK: (lowering, node) => {
    const [x] = node.inputs;
    const n = x!.shape.at(-1)!;
    const ints = [
      Number(x!.dtype !== "float32"),
      sizeOf(x!.shape.slice(0, -1)),
      n,
      node.attrs["k"] as number,
    ];
    const outputs = node.outputs.map((value) => lowering.alloc(value));
    lowering.builder.step("TopK", [lowering.dense(x!)], outputs, ints);
  },

  // The same memory, unless that may change before it is read.
  Barrier: (lowering, node) => {
    const [y] = node.outputs;
    const view = lowering.get(node.inputs[0]!);
    if (lowering.isFree(y!) && view.buffer.place !== "state" && view.buffer.place !== "next") {
      lowering.set(y!, view);
    } else {
      lowering.copy(view.pixels ? lowering.dense(node.inputs[0]!) : view, lowering.alloc(y!));
    }
  },

  CacheWrite: (lowering, node) => {
    const [cache, rows, position] = node.inputs;
    const [places, inner] = cache!.shape.slice(-2) as [number, number];
    const ints = [sizeOf(cache!.shape.slice(0, -2)), places, inner, rows!.shape.at(-2)!];
    const given = [cache!, rows!, position!].map((value) => lowering.dense(value));
    lowering.builder.step(
      "CacheWrite",
      given,
      [lowering.alloc(node.outputs[0]!)],
      ints,
      [],
      [given[0]!],
    );
  },
};
