/** @file ONNX lowering of reductions, products and what sorts or accumulates along an axis. */

import type { GraphNode, Value } from "../graph.ts";
import { axisIn, hasImageLayout, type Lowering, type Rule, toFirst } from "./lowering.ts";
import { ELEMENT_TYPES } from "./model.ts";

/** Reduce a value's logical axes, keeping them as ones, in the layout it is in; gives name and layout. */
function reduceKept(
  lowering: Lowering,
  op: string,
  x: Value,
  axes: readonly number[],
  name: string,
  first: boolean,
): string {
  const rank = x.shape.length;
  if (!first) {
    return lowering.reduce(op, name, axes, true);
  }
  const physical = axes.map((a) => axisIn("first", rank, a)).sort((a, b) => a - b);
  // Height and width lie together at the end: reducing them alone is the fast case, the rest is small.
  const inner = physical.filter((a) => a >= rank - 2);
  const outer = physical.filter((a) => a < rank - 2);
  const done = inner.length > 0 ? lowering.reduce(op, name, inner, true) : name;
  return outer.length > 0 ? lowering.reduce(op, done, outer, true) : done;
}

function reduction(op: string): Rule {
  return (lowering, node) => {
    const [x] = node.inputs;
    const [y] = node.outputs;
    const { axes, keepDims } = node.attrs as { axes: number[]; keepDims: boolean };
    if (axes.length === 0) {
      lowering.set(y!, lowering.full(x!));
      return;
    }
    if (!(hasImageLayout(x!.shape) && lowering.isFirst(x!))) {
      lowering.set(y!, lowering.reduce(op, lowering.full(x!), axes, keepDims));
      return;
    }
    const rank = x!.shape.length;
    const kept = reduceKept(lowering, op, x!, axes, lowering.get(x!, "first"), true);
    if (keepDims) {
      lowering.set(y!, kept, "first");
      return;
    }
    // The remaining axes in logical order.
    const left = toFirst(rank).filter((a) => !axes.includes(a));
    const inOrder = left.every((a, i) => i === 0 || a > left[i - 1]!);
    const last = inOrder
      ? kept
      : lowering.transpose(
          kept,
          Array.from({ length: rank }, (_, a) => axisIn("first", rank, a)),
        );
    lowering.set(y!, lowering.reshape(last, y!.shape));
  };
}

/** All and Any: on integers, where ONNX Runtime has the reductions. */
function boolean(op: "ReduceMin" | "ReduceMax"): Rule {
  return (lowering, node) => {
    const { g } = lowering;
    const { axes, keepDims } = node.attrs as { axes: number[]; keepDims: boolean };
    const whole = g.op("Cast", [lowering.full(node.inputs[0]!)], { to: ELEMENT_TYPES.int32 });
    const reduced = axes.length > 0 ? lowering.reduce(op, whole, axes, keepDims) : whole;
    lowering.set(node.outputs[0]!, g.op("Cast", [reduced], { to: ELEMENT_TYPES.bool }));
  };
}

function argument(op: string): Rule {
  return (lowering, node) => {
    const { g } = lowering;
    const [x] = node.inputs;
    const axis = node.attrs["axis"] as number;
    const whole = lowering.full(x!);
    const numbers =
      x!.dtype === "bool" ? g.op("Cast", [whole], { to: ELEMENT_TYPES.int32 }) : whole;
    const index = g.op(op, [numbers], { axis, keepdims: 0 });
    lowering.set(node.outputs[0]!, g.op("Cast", [index], { to: ELEMENT_TYPES.int32 }));
  };
}

function lastAxis(op: string): Rule {
  return (lowering, node) => {
    lowering.set(
      node.outputs[0]!,
      lowering.g.op(op, [lowering.full(node.inputs[0]!)], { axis: -1 }),
    );
  };
}

function matMul(lowering: Lowering, node: GraphNode): void {
  const { g } = lowering;
  const { transposeA, transposeB } = node.attrs as { transposeA: boolean; transposeB: boolean };
  const [a, b] = node.inputs.map((v) => lowering.full(v));
  const name =
    transposeA || transposeB
      ? g.op("Microsoft:FusedMatMul", [a!, b!], {
          transA: Number(transposeA),
          transB: Number(transposeB),
        })
      : g.op("MatMul", [a!, b!]);
  lowering.set(node.outputs[0]!, name);
}

export const reductionRules: { readonly [op: string]: Rule } = {
  Sum: reduction("ReduceSum"),
  Mean: reduction("ReduceMean"),
  Max: reduction("ReduceMax"),
  Min: reduction("ReduceMin"),
  Prod: reduction("ReduceProd"),
  All: boolean("ReduceMin"),
  Any: boolean("ReduceMax"),
  ArgMax: argument("ArgMax"),
  ArgMin: argument("ArgMin"),
  Softmax: lastAxis("Softmax"),
  BatchMatMul: matMul,
  Einsum: (lowering, node) => {
    const equation = node.attrs["equation"] as string;
    const names = node.inputs.map((v) => lowering.full(v));
    lowering.set(node.outputs[0]!, lowering.g.op("Einsum", names, { equation }));
  },

  Cumsum: (lowering, node) => {
    const { g } = lowering;
    const { axis, exclusive, reverse } = node.attrs as {
      axis: number;
      exclusive: boolean;
      reverse: boolean;
    };
    const inputs = [
      lowering.full(node.inputs[0]!),
      g.constant("int64", [], BigInt64Array.of(BigInt(axis))),
    ];
    const attributes = { exclusive: Number(exclusive), reverse: Number(reverse) };
    lowering.set(node.outputs[0]!, g.op("CumSum", inputs, attributes));
  },

  TopK: (lowering, node) => {
    const { g } = lowering;
    const [values, indices] = g.ops(
      "TopK",
      [lowering.full(node.inputs[0]!), g.ints([node.attrs["k"] as number])],
      { axis: -1, largest: 1, sorted: 1 },
      2,
    );
    lowering.set(node.outputs[0]!, values!);
    lowering.set(node.outputs[1]!, g.op("Cast", [indices!], { to: ELEMENT_TYPES.int32 }));
  },

  // -(1 - s) log p[label] - s/V Σ log p
  SoftmaxCrossEntropy: (lowering, node) => {
    const { g } = lowering;
    const [logits, labels] = node.inputs;
    const [rows, classes] = logits!.shape as [number, number];
    const smoothing = (node.attrs["smoothing"] as number | undefined) ?? 0;
    const logs = logProbabilities(lowering, logits!);
    const index = lowering.reshape(lowering.full(labels!), [rows, 1]);
    const picked = lowering.reshape(g.op("GatherElements", [logs, index], { axis: 1 }), [rows]);
    const hit = g.op("Mul", [picked, g.scalar(smoothing - 1)]);
    const spread =
      smoothing > 0
        ? g.op("Mul", [
            lowering.reduce("ReduceSum", logs, [1], false),
            g.scalar(-smoothing / classes),
          ])
        : undefined;
    lowering.set(node.outputs[0]!, spread ? g.op("Add", [hit, spread]) : hit);
  },

  // (softmax - target) dy: the labels' places are written over instead of subtracting a one-hot matrix.
  SoftmaxCrossEntropyGrad: (lowering, node) => {
    const { g } = lowering;
    const [logits, labels, dy] = node.inputs;
    const [rows, classes] = logits!.shape as [number, number];
    const smoothing = (node.attrs["smoothing"] as number | undefined) ?? 0;
    const p = g.op("Exp", [logProbabilities(lowering, logits!)]);
    const spread = smoothing > 0 ? g.op("Sub", [p, g.scalar(smoothing / classes)]) : p;
    const index = lowering.reshape(lowering.full(labels!), [rows, 1]);
    const hit = g.op("GatherElements", [spread, index], { axis: 1 });
    const lowered = g.op("Sub", [hit, g.scalar(1 - smoothing)]); // [rows, 1]
    const difference = g.op("ScatterElements", [spread, index, lowered], { axis: 1 });
    const scale = lowering.reshape(lowering.full(dy!), [rows, 1]);
    lowering.set(node.outputs[0]!, g.op("Mul", [difference, scale]));
  },
};

function logProbabilities(lowering: Lowering, logits: Value): string {
  return lowering.once(`log-softmax ${logits.id}`, () =>
    lowering.g.op("LogSoftmax", [lowering.full(logits)], { axis: -1 }),
  );
}
