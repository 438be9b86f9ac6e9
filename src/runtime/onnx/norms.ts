/** @file ONNX lowering of group norm and layer norm with their gradients. */

import type { GraphNode, Value } from "../graph.ts";
import { sizeOf } from "../tensors.ts";
import { siluGrad } from "./elementwise.ts";
import { hasImageLayout, type Layout, type Lowering, type Rule } from "./lowering.ts";

/**
 * A clip or image in "first", seen as [N, T, C, P]: N separately normalised batches, T frames that
 * share statistics, C channels, P positions. Other ranks are brought to [N, 1, C, P].
 */
interface GroupView {
  readonly view: readonly [number, number, number, number];
  readonly layout: Layout;
  readonly load: (value: Value) => string;
  readonly store: (value: Value, name: string) => void;
}

function groupView(lowering: Lowering, x: Value): GroupView {
  const c = x.shape.at(-1)!;
  if (hasImageLayout(x.shape)) {
    const [n, t] = x.shape.length === 5 ? [x.shape[0]!, x.shape[1]!] : [x.shape[0]!, 1];
    const [h, w] = x.shape.slice(-3);
    const physical = [...x.shape.slice(0, -3), c, h!, w!];
    const view = [n, t, c, h! * w!] as const;
    return {
      view,
      layout: "first",
      load: (value) => lowering.reshape(lowering.full(value, "first"), view),
      store: (value, name) => lowering.set(value, lowering.reshape(name, physical), "first"),
    };
  }
  const n = x.shape[0]!;
  const p = sizeOf(x.shape) / (n * c);
  const view = [n, 1, c, p] as const;
  return {
    view,
    layout: "last",
    load: (value) =>
      lowering.reshape(
        lowering.transpose(lowering.reshape(lowering.full(value), [n, p, c]), [0, 2, 1]),
        view,
      ),
    store: (value, name) =>
      lowering.set(
        value,
        lowering.reshape(lowering.transpose(lowering.reshape(name, [n, c, p]), [0, 2, 1]), x.shape),
      ),
  };
}

/** Statistics that the forward and the backward node share. */
interface GroupStatistics {
  /** x - mean, [N, T, C, P]. */
  readonly centred: string;
  /** 1 / sqrt(variance + epsilon), [N, 1, G, 1]. */
  readonly rstd: string;
  /** rstd · scale, [N, 1, C, 1]. */
  readonly gain: string;
  /** centred · gain + shift: the result before the activation. */
  readonly result: string;
}

/** Mean over frames, channels of a group and positions of per-channel sums [N, T, C, 1]. */
function groupMean(
  lowering: Lowering,
  sums: string,
  [n, t, c, p]: GroupView["view"],
  groups: number,
): string {
  const { g } = lowering;
  const grouped = lowering.reshape(sums, [n, t, groups, c / groups]);
  const total = lowering.reduce("ReduceSum", grouped, [1, 3], true); // [N, 1, G, 1]
  return g.op("Mul", [total, g.scalar(groups / (t * c * p))]);
}

/** [N, 1, G, 1] repeated to [N, 1, C, 1]. */
function toChannels(
  lowering: Lowering,
  name: string,
  [n, , c]: GroupView["view"],
  groups: number,
): string {
  const wide = lowering.g.op("Expand", [name, lowering.g.ints([n, 1, groups, c / groups])]);
  return lowering.reshape(wide, [n, 1, c, 1]);
}

function statistics(lowering: Lowering, node: GraphNode, at: GroupView): GroupStatistics {
  const [x, scale, shift] = node.inputs;
  const { groups, epsilon } = node.attrs as { groups: number; epsilon: number };
  const { g } = lowering;
  const [n, t, c, p] = at.view;
  const key = `group norm ${x!.id} ${groups} ${epsilon}`;
  const { centred, rstd } = lowering.once(key, () => {
    const rows = [n, t, groups, (c / groups) * p];
    const name = lowering.reshape(at.load(x!), rows);
    const mean =
      t === 1
        ? lowering.reduce("ReduceMean", name, [3], true)
        : lowering.reduce("ReduceMean", lowering.reduce("ReduceMean", name, [3], true), [1], true);
    const difference = g.op("Sub", [name, mean]); // [N, T, G, M]
    const squares = lowering.reduce("ReduceSumSquare", difference, [3], true);
    const total = t === 1 ? squares : lowering.reduce("ReduceSum", squares, [1], true);
    const variance = g.op("Mul", [total, g.scalar(groups / (t * c * p))]); // [N, 1, G, 1]
    const deviation = g.op("Sqrt", [g.op("Add", [variance, g.scalar(epsilon)])]);
    return {
      centred: lowering.reshape(difference, at.view),
      rstd: g.op("Reciprocal", [deviation]),
    };
  });
  return lowering.once(`${key} ${scale!.id} ${shift!.id}`, () => {
    const gain = g.op("Mul", [
      toChannels(lowering, rstd, at.view, groups),
      lowering.reshape(lowering.full(scale!), [1, 1, c, 1]),
    ]);
    const result = g.op("Add", [
      g.op("Mul", [centred, gain]),
      lowering.reshape(lowering.full(shift!), [1, 1, c, 1]),
    ]);
    return { centred, rstd, gain, result };
  });
}

/** SiLU of a result, which the gradient uses again. */
function silu(lowering: Lowering, name: string): string {
  return lowering.once(`silu ${name}`, () =>
    lowering.g.op("Microsoft:QuickGelu", [name], { alpha: { float: 1 } }),
  );
}

const groupNorm: Rule = (lowering, node) => {
  const at = groupView(lowering, node.inputs[0]!);
  const { result } = statistics(lowering, node, at);
  at.store(node.outputs[0]!, node.attrs["activation"] === "silu" ? silu(lowering, result) : result);
};

/**
 * With u the result before the activation, d = x - mean, r = rstd and g = dL/du:
 * dshift = Σ g, dscale = r Σ g d, dx = gain g - r mean(scale g) - d r³ mean(scale g d).
 */
const groupNormGrad: Rule = (lowering, node) => {
  const { g } = lowering;
  const [x, scale, , dy] = node.inputs;
  const { groups, activation } = node.attrs as { groups: number; activation: string };
  const at = groupView(lowering, x!);
  const [n, t, c, p] = at.view;
  const { centred, rstd, gain, result } = statistics(lowering, node, at);
  const given = at.load(dy!);
  const du = activation === "silu" ? siluGrad(g, result, given, silu(lowering, result)) : given; // [N, T, C, P]
  const sums = lowering.reduce("ReduceSum", du, [3], true); // [N, T, C, 1]
  const products = lowering.reduce("ReduceSum", g.op("Mul", [du, centred]), [3], true);
  const scaleView = lowering.reshape(lowering.full(scale!), [1, 1, c, 1]);
  const meanGrad = groupMean(lowering, g.op("Mul", [sums, scaleView]), at.view, groups); // [N, 1, G, 1]
  const meanProduct = groupMean(lowering, g.op("Mul", [products, scaleView]), at.view, groups);
  const cubed = g.op("Mul", [g.op("Mul", [rstd, rstd]), rstd]);
  const rows = [n, t, groups, (c / groups) * p];
  const pull = g.op("Mul", [lowering.reshape(centred, rows), g.op("Mul", [meanProduct, cubed])]);
  const push = g.op("Add", [pull, g.op("Mul", [meanGrad, rstd])]); // [N, T, G, M]
  const dx = g.op("Sub", [g.op("Mul", [du, gain]), lowering.reshape(push, at.view)]);
  at.store(node.outputs[0]!, dx);
  const perGroup = g.op("Mul", [products, toChannels(lowering, rstd, at.view, groups)]);
  lowering.set(
    node.outputs[1]!,
    lowering.reshape(lowering.reduce("ReduceSum", perGroup, [0, 1], false), [c]),
  );
  lowering.set(
    node.outputs[2]!,
    lowering.reshape(lowering.reduce("ReduceSum", sums, [0, 1], false), [c]),
  );
};

/** Rows of a tensor: [R, C] with the statistics over C. */
function rowsOf(x: Value): [number, number] {
  const c = x.shape.at(-1)!;
  return [sizeOf(x.shape) / c, c];
}

function layerStatistics(
  lowering: Lowering,
  node: GraphNode,
): { y: string; mean: string; rstd: string } {
  const [x, scale, shift] = node.inputs;
  const epsilon = node.attrs["epsilon"] as number;
  return lowering.once(`layer norm ${x!.id} ${scale!.id} ${shift!.id} ${epsilon}`, () => {
    const [y, mean, rstd] = lowering.g.ops(
      "LayerNormalization",
      [
        lowering.reshape(lowering.full(x!), rowsOf(x!)),
        lowering.full(scale!),
        lowering.full(shift!),
      ],
      { axis: -1, epsilon: { float: epsilon } },
      3,
    );
    return { y: y!, mean: mean!, rstd: rstd! };
  });
}

const layerNorm: Rule = (lowering, node) => {
  const { y } = layerStatistics(lowering, node);
  lowering.set(node.outputs[0]!, lowering.reshape(y, node.outputs[0]!.shape));
};

/** With x̂ the normalised rows and g = dy · scale: dx = r (g - mean(g) - x̂ mean(g x̂)). */
const layerNormGrad: Rule = (lowering, node) => {
  const { g } = lowering;
  const [x, scale, , dy] = node.inputs;
  const [rows, c] = rowsOf(x!);
  const { mean, rstd } = layerStatistics(lowering, node);
  const normal = g.op("Mul", [
    g.op("Sub", [lowering.reshape(lowering.full(x!), [rows, c]), mean]),
    rstd,
  ]);
  const given = lowering.reshape(lowering.full(dy!), [rows, c]);
  const weighted = g.op("Mul", [given, lowering.full(scale!)]);
  const average = lowering.reduce("ReduceMean", weighted, [1], true);
  const alignment = lowering.reduce("ReduceMean", g.op("Mul", [weighted, normal]), [1], true);
  const centred = g.op("Sub", [g.op("Sub", [weighted, average]), g.op("Mul", [normal, alignment])]);
  lowering.set(node.outputs[0]!, lowering.reshape(g.op("Mul", [centred, rstd]), x!.shape));
  const dscale = lowering.reduce("ReduceSum", g.op("Mul", [given, normal]), [0], false);
  lowering.set(node.outputs[1]!, dscale);
  lowering.set(node.outputs[2]!, lowering.reduce("ReduceSum", given, [0], false));
};

export const normRules: { readonly [op: string]: Rule } = {
  GroupNorm: groupNorm,
  GroupNormGrad: groupNormGrad,
  LayerNorm: layerNorm,
  LayerNormGrad: layerNormGrad,
};
