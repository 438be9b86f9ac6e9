/** @file Steps of reductions, scans and pooling. */

import type { GraphNode, Value } from "../graph.ts";
import type { PoolWindow } from "../resampling.ts";
import { sizeOf } from "../tensors.ts";
import type { Lowering, Rule } from "./lowering.ts";
import { elementCode } from "./program.ts";
import { denseView, reshaped, type View } from "./views.ts";

const KINDS = { sum: 0, product: 1, maximum: 2, minimum: 3 } as const;

/** Runs of neighbouring axes that are all reduced or all kept; axes of one position belong to any. */
function runsOf(
  shape: readonly number[],
  axes: readonly number[],
): { side: number; reduced: boolean }[] {
  const runs: { side: number; reduced: boolean }[] = [];
  shape.forEach((side, axis) => {
    const reduced = axes.includes(axis);
    const last = runs.at(-1);
    if (side === 1) {
      return;
    }
    if (last?.reduced === reduced) {
      last.side *= side;
    } else {
      runs.push({ side, reduced });
    }
  });
  return runs;
}

/** Reduce runs of axes from the innermost one on, each [outer, n, inner]. */
function reduction(kind: keyof typeof KINDS, mean = false): Rule {
  return (lowering, node) => {
    const [x] = node.inputs;
    const [y] = node.outputs;
    const axes = node.attrs["axes"] as number[];
    const element = elementCode(x!.dtype);
    const runs = runsOf(x!.shape, axes);
    const total = axes.reduce((product, axis) => product * x!.shape[axis]!, 1);
    const factor = mean ? 1 / total : 1;
    let view = lowering.dense(x!);
    const target = lowering.alloc(y!);
    const at = runs.flatMap((run, i) => (run.reduced ? [i] : [])).toReversed();
    if (at.length === 0) {
      // Nothing to add up, but a mean of one value is that value.
      lowering.copy(reshaped(view, y!.shape)!, target);
      return;
    }
    at.forEach((i, k) => {
      const outer = runs.slice(0, i).reduce((product, run) => product * run.side, 1);
      const inner = runs
        .slice(i + 1)
        .reduce((product, run) => product * (run.reduced ? 1 : run.side), 1);
      const last = k === at.length - 1;
      const out = last ? target : lowering.scratch([outer * inner], x!.dtype);
      const ints = [KINDS[kind], element, outer, runs[i]!.side, inner];
      lowering.builder.step("Reduce", [view], [out], ints, [last ? factor : 1]);
      view = out;
    });
  };
}

/** Sizes before, along and after an axis. */
function around(x: Value, axis: number): [number, number, number] {
  return [sizeOf(x.shape.slice(0, axis)), x.shape[axis]!, sizeOf(x.shape.slice(axis + 1))];
}

function argument(largest: boolean): Rule {
  return (lowering, node) => {
    const [x] = node.inputs;
    const axis = node.attrs["axis"] as number;
    const ints = [Number(largest), elementCode(x!.dtype), ...around(x!, axis)];
    lowering.builder.step("Arg", [lowering.dense(x!)], [lowering.alloc(node.outputs[0]!)], ints);
  };
}

function cumulative(kind: 0 | 1): Rule {
  return (lowering, node) => {
    const [x] = node.inputs;
    const { axis, exclusive, reverse } = node.attrs as {
      axis: number;
      exclusive: boolean;
      reverse: boolean;
    };
    const ints = [
      kind,
      Number(x!.dtype !== "float32"),
      Number(exclusive),
      Number(reverse),
      ...around(x!, axis),
    ];
    const [given, target] = [lowering.dense(x!), lowering.alloc(node.outputs[0]!)];
    lowering.builder.step("Cumulative", [given], [target], ints);
  };
}

/** batch, channels and the three axes; images have one frame. */
function poolInts(x: Value, node: GraphNode): number[] {
  const windows = node.attrs["windows"] as PoolWindow[];
  const frame: PoolWindow = { size: 1, stride: 1, before: 0, inputs: 1, outputs: 1 };
  const all = windows.length === 2 ? [frame, ...windows] : windows;
  return [
    x.shape[0]!,
    x.shape.at(-1)!,
    ...all.flatMap((w) => [w.size, w.stride, w.before, w.inputs, w.outputs]),
  ];
}

export const reductionRules: { readonly [op: string]: Rule } = {
  Sum: reduction("sum"),
  Mean: reduction("sum", true),
  Prod: reduction("product"),
  Max: reduction("maximum"),
  Min: reduction("minimum"),
  All: reduction("minimum"),
  Any: reduction("maximum"),
  ArgMax: argument(true),
  ArgMin: argument(false),
  Cumsum: cumulative(0),

  Softmax: (lowering, node) => {
    const [x] = node.inputs;
    const n = x!.shape.at(-1) ?? 1;
    const given = lowering.dense(x!);
    const rows = sizeOf(x!.shape) / n;
    const target = lowering.alloc(node.outputs[0]!);
    lowering.builder.step("Softmax", [given], [target], [rows, n], [], inPlaceOf(given));
  },

  MaxPool: (lowering, node) => {
    const [x] = node.inputs;
    const ints = [Number(x!.dtype !== "float32"), ...poolInts(x!, node)];
    lowering.builder.step(
      "MaxPool",
      [lowering.dense(x!)],
      [lowering.alloc(node.outputs[0]!)],
      ints,
    );
  },

  MaxPoolGrad: (lowering, node) => {
    const [dy, x] = node.inputs;
    const given = [lowering.dense(dy!), lowering.dense(x!)];
    lowering.builder.step(
      "MaxPoolGrad",
      given,
      [lowering.alloc(node.outputs[0]!)],
      poolInts(x!, node),
    );
  },

  SoftmaxCrossEntropy: (lowering, node) => {
    const [logits, labels] = node.inputs;
    const given = [lowering.dense(logits!), lowering.dense(labels!)];
    lowering.builder.step(
      "SoftmaxCrossEntropy",
      given,
      [lowering.alloc(node.outputs[0]!)],
      [...logits!.shape],
      [smoothing(node)],
    );
  },

  SoftmaxCrossEntropyGrad: (lowering, node) => {
    const given = node.inputs.map((value) => lowering.dense(value));
    lowering.builder.step(
      "SoftmaxCrossEntropyGrad",
      given,
      [lowering.alloc(node.outputs[0]!)],
      [...node.inputs[0]!.shape],
      [smoothing(node)],
      inPlaceOf(given[0]!),
    );
  },
};

const smoothing = (node: GraphNode): number => (node.attrs["smoothing"] as number | undefined) ?? 0;

/** A whole buffer that a step may write its result over. */
export function inPlaceOf(view: View): View[] {
  return view.offset === 0 && sizeOf(view.shape) * 4 === view.buffer.bytes ? [view] : [];
}

/** A small float32 vector that a step leaves for another. */
export function vector(lowering: Lowering, size: number): View {
  return denseView(lowering.builder.scratch(4 * size), [size], "float32");
}
