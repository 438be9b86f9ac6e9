/** @file Steps of convolutions, norms, attention and the optimizer's update. */

import type { GraphNode, Value } from "../graph.ts";
import type { ConvAttrs } from "../kernels.ts";
import { sizeOf } from "../tensors.ts";
import type { Item } from "./items.ts";
import type { InPlaceRule, Lowering, Rule } from "./lowering.ts";
import { inPlaceOf, vector } from "./reduction-rules.ts";
import { rootOf } from "./uses.ts";
import { sliced, transposed, type View } from "./views.ts";

/** A convolution's numbers, from the shapes of its input, filter and output. */
function convInts(
  lowering: Lowering,
  x: readonly number[],
  filter: readonly number[],
  y: readonly number[],
  node: GraphNode,
): number[] {
  const { strides, pads, dilations = [1, 1, 1], groups = 1 } = node.attrs as unknown as ConvAttrs;
  return [
    x[0]!,
    ...x.slice(1, 4),
    ...y.slice(1, 4),
    x[4]!,
    y[4]!,
    ...filter.slice(0, 3),
    ...strides,
    ...pads.map(([before]) => before),
    ...dilations,
    groups,
    Number(lowering.exact),
  ];
}

/** Bias and residual of an item, after its two operands. */
function extras(
  lowering: Lowering,
  item: Item,
): { views: View[]; ints: number[]; inPlace: View[] } {
  const { bias, residual } = item.epilogue ?? {};
  const added = residual ? lowering.dense(residual) : undefined;
  const views = [...(bias ? [lowering.dense(bias)] : []), ...(added ? [added] : [])];
  const ints = [Number(bias !== undefined), Number(added !== undefined)];
  return { views, ints, inPlace: added ? inPlaceOf(added) : [] };
}

const conv: Rule = (lowering, node, item) => {
  const [x, filter] = node.inputs;
  const [y] = node.outputs;
  const { views, ints, inPlace } = extras(lowering, item);
  const inputs = [lowering.dense(x!), lowering.dense(filter!), ...views];
  const target = lowering.alloc(item.epilogue?.result ?? y!);
  const all = [...convInts(lowering, x!.shape, filter!.shape, y!.shape, node), ...ints];
  lowering.builder.step("Conv", inputs, [target], all, [], usable(inPlace, inputs));
};

const convInputGrad: Rule = (lowering, node, item) => {
  const [dy, filter] = node.inputs;
  const [dx] = node.outputs;
  const { views, ints, inPlace } = extras(lowering, item);
  const inputs = [lowering.dense(dy!), lowering.dense(filter!), ...views];
  const target = lowering.alloc(item.epilogue?.result ?? dx!);
  const all = [...convInts(lowering, dx!.shape, filter!.shape, dy!.shape, node), ...ints];
  lowering.builder.step("ConvInputGrad", inputs, [target], all, [], usable(inPlace, inputs));
};

/** A residual may be written over unless it is also what is convolved. */
function usable(inPlace: readonly View[], inputs: readonly View[]): View[] {
  return inPlace.filter(
    (view) => inputs.filter((other) => other.buffer === view.buffer).length === 1,
  );
}

const convFilterGrad: Rule = (lowering, node) => {
  const [x, dy] = node.inputs;
  const [dw] = node.outputs;
  const given = [lowering.dense(x!), lowering.dense(dy!)];
  const ints = convInts(lowering, x!.shape, dw!.shape, dy!.shape, node);
  lowering.builder.step("ConvFilterGrad", given, [lowering.alloc(dw!)], ints);
};

function groupNormInts(node: GraphNode): { ints: number[]; epsilon: number } {
  const [x] = node.inputs;
  const { groups, epsilon, activation } = node.attrs as {
    groups: number;
    epsilon: number;
    activation: string;
  };
  const [batch, channels] = [x!.shape[0]!, x!.shape.at(-1)!];
  const positions = sizeOf(x!.shape) / (batch * channels);
  return { ints: [batch, positions, channels, groups, Number(activation === "silu")], epsilon };
}

/** Statistics that a norm leaves for its gradient. */
interface Statistics {
  readonly mean: View;
  readonly rstd: View;
}

/** An attribute as part of a name. */
const attr = (node: GraphNode, name: string): string => JSON.stringify(node.attrs[name]);

const groupKey = (node: GraphNode): string =>
  `group norm ${node.inputs[0]!.id} ${attr(node, "groups")} ${attr(node, "epsilon")}`;
const layerKey = (node: GraphNode): string =>
  `layer norm ${node.inputs[0]!.id} ${attr(node, "epsilon")}`;

/** Whether some gradient of this norm is computed. */
function hasGradient(lowering: Lowering, node: GraphNode): boolean {
  return lowering.uses
    .readers(node.inputs[0]!)
    .some(
      (reader) => reader.op === `${node.op}Grad` && reader.attrs["groups"] === node.attrs["groups"],
    );
}

const groupNorm: Rule = (lowering, node) => {
  const { ints, epsilon } = groupNormInts(node);
  const given = node.inputs.map((value) => lowering.dense(value));
  const [batch, , , groups] = ints as [number, number, number, number];
  const kept = hasGradient(lowering, node)
    ? lowering.once<Statistics>(groupKey(node), () => ({
        mean: vector(lowering, batch * groups),
        rstd: vector(lowering, batch * groups),
      }))
    : undefined;
  const outputs = [lowering.alloc(node.outputs[0]!), ...(kept ? [kept.mean, kept.rstd] : [])];
  lowering.builder.step("GroupNorm", given, outputs, ints, [epsilon]);
};

/** Statistics of the forward node, where it has run. */
function keptStatistics(lowering: Lowering, key: string): View[] {
  if (!lowering.has(key)) {
    return [];
  }
  const { mean, rstd } = lowering.once<Statistics>(key, () => {
    throw new Error("statistics vanished");
  });
  return [mean, rstd];
}

const groupNormGrad: Rule = (lowering, node) => {
  const { ints, epsilon } = groupNormInts(node);
  const given = node.inputs.map((value) => lowering.dense(value));
  const inputs = [...given, ...keptStatistics(lowering, groupKey(node))];
  const outputs = node.outputs.map((value) => lowering.alloc(value));
  const inPlace = given[3]!.buffer === given[0]!.buffer ? [] : inPlaceOf(given[3]!);
  lowering.builder.step("GroupNormGrad", inputs, outputs, ints, [epsilon], inPlace);
};

const layerNorm: Rule = (lowering, node) => {
  const [x] = node.inputs;
  const channels = x!.shape.at(-1)!;
  const rows = sizeOf(x!.shape) / channels;
  const given = node.inputs.map((value) => lowering.dense(value));
  const kept = hasGradient(lowering, node)
    ? lowering.once<Statistics>(layerKey(node), () => ({
        mean: vector(lowering, rows),
        rstd: vector(lowering, rows),
      }))
    : undefined;
  const outputs = [lowering.alloc(node.outputs[0]!), ...(kept ? [kept.mean, kept.rstd] : [])];
  const epsilon = node.attrs["epsilon"] as number;
  lowering.builder.step("LayerNorm", given, outputs, [rows, channels], [epsilon]);
};

const layerNormGrad: Rule = (lowering, node) => {
  const [x, scale, , dy] = node.inputs;
  const channels = x!.shape.at(-1)!;
  const given = [x!, scale!, dy!].map((value) => lowering.dense(value));
  const inputs = [...given, ...keptStatistics(lowering, layerKey(node))];
  const outputs = node.outputs.map((value) => lowering.alloc(value));
  const ints = [sizeOf(x!.shape) / channels, channels];
  lowering.builder.step("LayerNormGrad", inputs, outputs, ints, [node.attrs["epsilon"] as number]);
};

/** [B, h, N, d] with a dense last axis, as attention takes it. */
function headed(lowering: Lowering, value: Value): View {
  const view = lowering.get(value);
  return (view.strides[3] === 1 || view.shape[3] === 1) && !view.pixels
    ? view
    : lowering.dense(value);
}

const headStrides = ({ strides }: View): number[] => strides.slice(0, 3);

/**
 * A result [B, h, N, d] that is only ever read as [B, N, h, d] is laid out like that, so that the transpose
 * costs nothing.
 */
function headedResult(lowering: Lowering, value: Value): View {
  const readers = lowering.uses.readers(value);
  const turned = readers.every(
    ({ op, attrs }) => op === "Transpose" && (attrs["perm"] as number[]).join() === "0,2,1,3",
  );
  if (!lowering.isFree(value) || readers.length === 0 || !turned) {
    return lowering.alloc(value);
  }
  const [b, h, n, d] = value.shape as [number, number, number, number];
  const view = transposed(lowering.scratch([b, n, h, d], "float32"), [0, 2, 1, 3]);
  lowering.set(value, view);
  return view;
}

function attentionInts(node: GraphNode, views: readonly View[], bias?: View): number[] {
  const [query, key, value] = node.inputs as [Value, Value, Value];
  const [batch, heads, queries, width] = query.shape as [number, number, number, number];
  const biasStrides = bias
    ? [0, 1, 2, 3].map((i) => {
        const axis = i - (4 - bias.shape.length);
        return axis < 0 || bias.shape[axis] === 1 ? 0 : bias.strides[axis]!;
      })
    : [0, 0, 0, 0];
  return [
    batch,
    heads,
    queries,
    key.shape[2]!,
    width,
    value.shape[3]!,
    Number(node.attrs["causal"]),
    ...views.flatMap(headStrides),
    Number(bias !== undefined),
    ...biasStrides,
  ];
}

const attentionKey = (node: GraphNode): string =>
  `attention ${node.inputs
    .slice(0, 3)
    .map((value) => value.id)
    .join()} ${attr(node, "scale")} ${attr(node, "causal")}`;

const attention: Rule = (lowering, node) => {
  const [query, key, value, biasValue] = node.inputs;
  const views = [query!, key!, value!].map((each) => headed(lowering, each));
  const bias = biasValue && lowering.dense(biasValue);
  const result = headedResult(lowering, node.outputs[0]!);
  const [b, h, n] = query!.shape as [number, number, number];
  const differentiated = lowering.uses
    .readers(query!)
    .some((reader) => reader.op === "AttentionGrad" && attentionKey(reader) === attentionKey(node));
  const sums = differentiated
    ? [lowering.once(attentionKey(node), () => vector(lowering, b * h * n))]
    : [];
  lowering.builder.step(
    "Attention",
    [...views, ...(bias ? [bias] : [])],
    [result, ...sums],
    attentionInts(node, [...views, result], bias),
    [node.attrs["scale"] as number],
  );
};

/**
 * Gradients of slices of one [B, N, 3h, d] tensor as slices of one such tensor: the kernel writes them with
 * the strides of what they belong to, and putting them together costs nothing.
 */
function gradientSlices(
  lowering: Lowering,
  node: GraphNode,
  views: readonly View[],
): View[] | undefined {
  const [q, k, v] = views as [View, View, View];
  const [b, h, n, d] = q.shape as [number, number, number, number];
  const part = h * d;
  const together =
    [k, v].every(
      (view, i) =>
        view.buffer === q.buffer &&
        view.offset === q.offset + (i + 1) * part &&
        view.shape.join() === q.shape.join() &&
        view.strides.join() === q.strides.join(),
    ) && q.strides.join() === [3 * part * n, d, 3 * part, 1].join();
  if (!together || !node.outputs.every((value) => lowering.isFree(value))) {
    return undefined;
  }
  const whole = transposed(lowering.scratch([b, n, 3 * h, d], "float32"), [0, 2, 1, 3]);
  return node.outputs.map((value, i) => {
    const view = { ...whole, offset: i * part, shape: q.shape };
    lowering.set(value, view);
    return view;
  });
}

const attentionGrad: Rule = (lowering, node) => {
  const [query, key, value, dy] = node.inputs;
  const given = [query!, key!, value!].map((each) => headed(lowering, each));
  const slices = gradientSlices(lowering, node, given);
  const views = slices ? given : [query!, key!, value!].map((each) => lowering.dense(each));
  const targets = slices ?? node.outputs.map((each) => lowering.alloc(each));
  const gradient = headed(lowering, dy!);
  const sums = lowering.has(attentionKey(node))
    ? [lowering.once<View>(attentionKey(node), () => gradient)]
    : [];
  lowering.builder.step(
    "AttentionGrad",
    [...views, gradient, ...sums],
    targets,
    attentionInts(node, [...views, gradient]),
    [node.attrs["scale"] as number],
  );
};

/** As attention, over as many keys as the position says. */
const cachedAttention: Rule = (lowering, node) => {
  const [query, keys, values, position] = node.inputs as [Value, Value, Value, Value];
  const views = [query, keys, values].map((each) => headed(lowering, each));
  const result = headedResult(lowering, node.outputs[0]!);
  lowering.builder.step(
    "CachedAttention",
    [...views, lowering.dense(position)],
    [result],
    attentionInts(node, [...views, result]),
    [node.attrs["scale"] as number],
  );
};

/**
 * The node has m, v and perhaps an average as vectors of all its tensors; the step takes the parts of each
 * tensor: gradient, value, m, v, average.
 */
const adamw: Rule = (lowering, node) => {
  const { averaged, decayed, beta1, beta2 } = node.attrs as {
    averaged: boolean;
    decayed: boolean;
    beta1: number;
    beta2: number;
  };
  const states = averaged ? 3 : 2;
  const inputs = node.inputs.map((value) => lowering.dense(value));
  const outputs = node.outputs.map((value) => lowering.alloc(value));
  const [old, fresh] = [inputs.slice(6, 6 + states), outputs.slice(0, states)];
  const sizes = node.outputs.slice(states).map(({ shape }) => sizeOf(shape));
  const from = inputs.slice(0, 6);
  const to: View[] = [];
  let start = 0;
  sizes.forEach((size, i) => {
    const part = (view: View): View => sliced(view, [start], [size], [1]);
    from.push(inputs[6 + states + 2 * i]!, inputs[7 + states + 2 * i]!, ...old.map(part));
    to.push(outputs[states + i]!, ...fresh.map(part));
    start += size;
  });
  const ints = [Number(averaged), Number(decayed), sizes.length, ...sizes];
  lowering.builder.step("AdamW", from, to, ints, [beta1, beta2]);
};

const sumOfSquares: Rule = (lowering, node) => {
  const inputs = node.inputs.map((value) => lowering.dense(value));
  const sizes = node.inputs.map(({ shape }) => sizeOf(shape));
  lowering.builder.step("SumOfSquares", inputs, [lowering.alloc(node.outputs[0]!)], sizes);
};

export const networkRules: { readonly [op: string]: Rule } = {
  Conv: conv,
  ConvInputGrad: convInputGrad,
  ConvFilterGrad: convFilterGrad,
  GroupNorm: groupNorm,
  GroupNormGrad: groupNormGrad,
  LayerNorm: layerNorm,
  LayerNormGrad: layerNormGrad,
  Attention: attention,
  AttentionGrad: attentionGrad,
  CachedAttention: cachedAttention,
  AdamW: adamw,
  SumOfSquares: sumOfSquares,
};

/** Nodes that may write a state's next value over the old one although they are no element-wise loops. */
export const overwriting: { readonly [op: string]: InPlaceRule } = {
  AdamW: (node, state) => node.inputs.some((value) => rootOf(value) === state),
  CacheWrite: (node, state) => node.inputs[0] === state,
};
