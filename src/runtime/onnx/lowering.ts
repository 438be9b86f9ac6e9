/**
 * @file Lowers a graph to ONNX for ONNX Runtime's CPU provider.
 *
 * Every value has a logical, channel-last shape. Physically it exists in one or both of two layouts:
 * "last" (as is) and, for images and clips, "first": channels before height and width, frames still
 * in front ([B, T, C, H, W], [N, C, H, W]). Convolutions and group norms want "first"; element-wise
 * operations follow their inputs; what needs "last" asks for it. A value is transposed at most once
 * each way, so transposes sit only where the network really changes its view.
 */

import { type GraphNode, liveNodes, type Graph, type Shape, splat, type Value } from "../graph.ts";
import { sizeOf } from "../tensors.ts";
import { GraphBuilder } from "./builder.ts";
import type { ElementType } from "./model.ts";

export type Layout = "last" | "first";

/** Facts about the machine's kernels that rules choose by. */
export interface LoweringOptions {
  /** Channels in a block of ONNX Runtime's blocked convolutions; 1 when they are not to be had. */
  readonly blockSize: number;
}

/** Emits the ONNX nodes of one graph node. */
export type Rule = (lowering: Lowering, node: GraphNode) => void;

export class Lowering {
  readonly g: GraphBuilder;
  readonly options: LoweringOptions;
  /**
   * Convolutions of a step that is differentiated may use fast bilinear algorithms over time, whose
   * rounding mixes neighbouring frames; elsewhere (encoding, evaluation) each frame's result depends
   * on the frames it should, bit for bit.
   */
  readonly differentiated: boolean;
  readonly #names = new Map<Value, Partial<Record<Layout, string>>>();
  readonly #memo = new Map<string, unknown>();

  constructor(graph: Graph, options: LoweringOptions) {
    this.g = new GraphBuilder(graph.name);
    this.options = options;
    this.differentiated = liveNodes(graph).some((node) => node.op === "ConvFilterGrad");
  }

  /** The ONNX name of a value in a layout, transposing it there if need be. */
  get(value: Value, layout: Layout = "last"): string {
    const names = this.#names.get(value);
    const wanted = hasImageLayout(value.shape) ? layout : "last";
    const known = names?.[wanted];
    if (known) {
      return known;
    }
    if (!names) {
      const name = this.#literal(value);
      return value.node.op === "Constant" && wanted === "first" ? this.get(value, layout) : name;
    }
    const rank = value.shape.length;
    const name =
      wanted === "first"
        ? this.g.op("Transpose", [names.last!], { perm: toFirst(rank) })
        : this.g.op("Transpose", [names.first!], { perm: toLast(rank) });
    names[wanted] = name;
    return name;
  }

  /** Say that a value exists under an ONNX name in a layout. */
  set(value: Value, name: string, layout: Layout = "last"): void {
    const names = this.#names.get(value) ?? {};
    names[hasImageLayout(value.shape) ? layout : "last"] = name;
    this.#names.set(value, names);
  }

  /** Whether a value already exists in "first". */
  isFirst(value: Value): boolean {
    return this.#names.get(value)?.first !== undefined;
  }

  /** The layout a node over these operands should compute in. */
  layoutOf(output: Shape, operands: readonly Value[]): Layout {
    return hasImageLayout(output) &&
      operands.some((v) => sizeOf(v.shape) === sizeOf(output) && this.isFirst(v))
      ? "first"
      : "last";
  }

  /** Constants and repeated values, made where they are first used. A repeated value is a scalar of ones' shape. */
  #literal(value: Value): string {
    const { node } = value;
    const type = elementType(value);
    if (node.op === "Fill") {
      const x = splat(value)!;
      const one = value.shape.map(() => 1);
      return this.g.constant(type, one, literalValues(type, [x]));
    }
    if (node.op === "Constant") {
      const name = this.g.constant(type, value.shape, node.data!.data);
      this.set(value, name);
      return name;
    }
    throw new Error(`value %${value.id} of ${node.op} was used before it was computed`);
  }

  /** As `get`, but a repeated value in its full shape. */
  full(value: Value, layout: Layout = "last"): string {
    const name = this.get(value, layout);
    if (value.node.op !== "Fill" || sizeOf(value.shape) === 1) {
      return name;
    }
    const shape =
      hasImageLayout(value.shape) && layout === "first"
        ? permute(value.shape, toFirst(value.shape.length))
        : value.shape;
    return this.g.op("Expand", [name, this.g.ints(shape)]);
  }

  /** A part of a computation that several nodes share, made once. */
  once<T>(key: string, make: () => T): T {
    if (!this.#memo.has(key)) {
      this.#memo.set(key, make());
    }
    return this.#memo.get(key) as T;
  }

  reshape(name: string, shape: Shape): string {
    // Without "allowzero" a side of 0 would copy the operand's.
    const attributes = shape.includes(0) ? { allowzero: 1 } : {};
    return this.g.op("Reshape", [name, this.g.ints(shape)], attributes);
  }

  transpose(name: string, perm: readonly number[]): string {
    return perm.every((axis, i) => axis === i) ? name : this.g.op("Transpose", [name], { perm });
  }

  /** Reduce with the axes as a constant input. */
  reduce(op: string, name: string, axes: readonly number[], keep: boolean): string {
    return this.g.op(op, [name, this.g.ints(axes)], { keepdims: Number(keep) });
  }

  slice(
    name: string,
    axes: readonly number[],
    starts: readonly number[],
    ends: readonly number[],
    steps?: readonly number[],
  ): string {
    const inputs = [name, this.g.ints(starts), this.g.ints(ends), this.g.ints(axes)];
    return this.g.op("Slice", steps ? [...inputs, this.g.ints(steps)] : inputs);
  }
}

/**
 * Lower a graph with a table of rules; throws when a node has none.
 * @param frozen values of the states: they become part of the model instead of inputs
 */
export function lowerGraph(
  graph: Graph,
  rules: { readonly [op: string]: Rule },
  options: LoweringOptions,
  frozen?: readonly (Float32Array | Int32Array | Uint8Array)[],
): Uint8Array {
  const lowering = new Lowering(graph, options);
  const { g } = lowering;
  const nextOf = new Map<Value, string[]>();
  graph.inputs.forEach(({ value }, i) => {
    const type = value.node.attrs["type"] as ElementType;
    const name = g.input(`input${i}`, type, value.shape);
    lowering.set(value, type === "uint8" ? g.op("Cast", [name], { to: 6 }) : name);
    if (type === "uint8") {
      lowering.once(`uint8 ${value.id}`, () => name);
    }
  });
  graph.states.forEach(({ value, next }, i) => {
    const type = elementType(value);
    const fixed = frozen?.[i];
    lowering.set(
      value,
      fixed ? g.constant(type, value.shape, fixed) : g.input(`state${i}`, type, value.shape),
    );
    if (next) {
      nextOf.set(next, [...(nextOf.get(next) ?? []), `next${i}`]);
    }
  });
  for (const node of liveNodes(graph)) {
    if (["Input", "State", "Constant", "Fill"].includes(node.op)) {
      continue;
    }
    const rule = rules[node.op];
    if (!rule) {
      throw new Error(`the kernel "${node.op}" has no lowering to ONNX yet`);
    }
    rule(lowering, node);
  }
  // An ONNX graph's outputs are values of their own: each is copied from what it equals.
  graph.states.forEach(({ next }, i) => {
    if (next) {
      g.op("Identity", [lowering.full(next)], {}, `next${i}`);
      g.output(`next${i}`, elementType(next), next.shape);
    }
  });
  graph.outputs.forEach(({ value }, i) => {
    g.op("Identity", [lowering.full(value)], {}, `output${i}`);
    g.output(`output${i}`, elementType(value), value.shape);
  });
  return g.finish();
}

export function elementType(value: { readonly dtype: "float32" | "int32" | "bool" }): ElementType {
  return value.dtype;
}

/** Values of a constant in the array type that ONNX wants. */
export function literalValues(
  type: ElementType,
  values: readonly number[],
): Float32Array | Int32Array | Uint8Array {
  return type === "float32"
    ? Float32Array.from(values)
    : type === "int32"
      ? Int32Array.from(values)
      : Uint8Array.from(values);
}

/** Ranks that hold images or clips and so have a "first" layout. */
export function hasImageLayout(shape: Shape): boolean {
  return shape.length === 4 || shape.length === 5;
}

/** Axes order from "last" to "first": [..., H, W, C] to [..., C, H, W]. */
export function toFirst(rank: number): number[] {
  const front = Array.from({ length: rank - 3 }, (_, i) => i);
  return [...front, rank - 1, rank - 3, rank - 2];
}

export function toLast(rank: number): number[] {
  const front = Array.from({ length: rank - 3 }, (_, i) => i);
  return [...front, rank - 2, rank - 1, rank - 3];
}

/** Where a logical axis stands in a layout. */
export function axisIn(layout: Layout, rank: number, axis: number): number {
  return layout === "first" ? toFirst(rank).indexOf(axis) : axis;
}

export function permute<T>(values: readonly T[], perm: readonly number[]): T[] {
  return perm.map((axis) => values[axis]!);
}

/** A shape as it stands in a layout. */
export function shapeIn(layout: Layout, shape: Shape): number[] {
  return layout === "first" && hasImageLayout(shape)
    ? permute(shape, toFirst(shape.length))
    : [...shape];
}
