/**
 * @file Turns a graph into the addon's program: items in their order, each by the rule of its node; where
 * results lie (arena, next state, output); and which states are written in place.
 */

import { type Graph, type GraphNode, type Shape, splat, type Value } from "../graph.ts";
import { type HostTensor, sizeOf } from "../tensors.ts";
import { type Item, itemsOf } from "./items.ts";
import { emitCluster } from "./pointwise.ts";
import { type Buffer, elementCode, ProgramBuilder } from "./program.ts";
import { scheduled } from "./schedule.ts";
import { flatRoot, rootOf, type Uses, usesOf, VIEW_OPS } from "./uses.ts";
import {
  broadcastTo,
  collapse,
  denseStrides,
  denseView,
  isDense,
  reshaped,
  sliced,
  transposed,
  type View,
  widthOf,
} from "./views.ts";

/** Emits the steps of one node. */
export type Rule = (lowering: Lowering, node: GraphNode, item: Item) => void;

/** Nodes that read a state's old value and may write the new one, `next`, over it as they go. */
export type InPlaceRule = (node: GraphNode, state: Value, next: Value) => boolean;

/** A graph as steps, and what the device must know to call it. */
export interface Lowered {
  readonly builder: ProgramBuilder;
  /** For each state with a next value: whether it is written over the old one. */
  readonly inPlace: readonly boolean[];
}

export interface LoweringOptions {
  readonly rules: { readonly [op: string]: Rule };
  readonly overwriting: { readonly [op: string]: InPlaceRule };
  /** The addon's instruction names. */
  readonly instructions: readonly string[];
  /** For a loop's body: whether the whole function is exact. Default: where nothing is differentiated. */
  readonly exact?: boolean;
}

/** What a loop's body wants made of a value from outside, once, before the first turn. */
export interface Prepared {
  readonly value: Value;
  /** Makes it outside. */
  readonly make: (outer: Lowering, given: View) => View;
}

export function lowerGraph(graph: Graph, options: LoweringOptions): Lowered {
  const lowering = new Lowering(graph, options);
  lowering.run();
  return { builder: lowering.builder, inPlace: lowering.inPlace };
}

export class Lowering {
  readonly builder = new ProgramBuilder();
  readonly uses: Uses;
  readonly instructions: readonly string[];
  readonly inPlace: boolean[];
  /** Encoders and evaluation: a value depends, to the bit, on what it should and on nothing else. */
  readonly exact: boolean;
  /** For a loop's body: what is to be made before it, as further inputs behind the graph's. */
  readonly prepared: Prepared[] = [];
  readonly options: LoweringOptions;
  readonly #graph: Graph;
  readonly #views = new Map<Value, View>();
  readonly #denseCopies = new Map<Value, View>();
  readonly #memo = new Map<string, unknown>();
  readonly #bufferIds = new Map<Buffer, number>();
  /** Where a value goes that is an output or a next state, by its flat root. */
  readonly #places = new Map<Value, Buffer>();
  readonly #order: readonly Item[];

  constructor(graph: Graph, options: LoweringOptions) {
    this.#graph = graph;
    this.options = options;
    this.instructions = options.instructions;
    this.uses = usesOf(graph);
    this.exact = options.exact ?? !this.uses.nodes.some((node) => node.op === "ConvFilterGrad");
    this.#order = scheduled(itemsOf(this.uses));
    this.inPlace = graph.states.map(() => false);
    graph.inputs.forEach(({ value }, slot) => {
      const pixels = value.node.attrs["type"] === "uint8";
      const width = widthOf({ dtype: value.dtype, pixels });
      const buffer: Buffer = { place: "input", slot, bytes: sizeOf(value.shape) * width };
      this.#views.set(value, { ...denseView(buffer, value.shape, value.dtype), pixels });
    });
    graph.states.forEach(({ value }, slot) => {
      const bytes = sizeOf(value.shape) * widthOf(value);
      const buffer: Buffer = { place: "state", slot, bytes };
      this.#views.set(value, denseView(buffer, value.shape, value.dtype));
    });
    this.#choosePlaces();
  }

  /** Emit everything. */
  run(): void {
    for (const item of this.#order) {
      const [node] = item.nodes as [GraphNode];
      this.builder.label = label(item);
      if (item.nodes.every((each) => each.outputs.every(({ shape }) => sizeOf(shape) === 0))) {
        continue; // nothing to compute
      }
      if (item.kind === "pointwise") {
        emitCluster(this, item);
        continue;
      }
      const rule = this.options.rules[node.op];
      if (!rule) {
        throw new Error(`the kernel "${node.op}" has no steps in the native engine yet`);
      }
      rule(this, node, item);
    }
    this.builder.label = "copy to next state or output";
    const { states, outputs } = this.#graph;
    states.forEach(({ next }, slot) => {
      if (next && !this.inPlace[slot]) {
        this.#deliver(next, "next", slot);
      }
    });
    outputs.forEach(({ value }, slot) => this.#deliver(value, "output", slot));
  }

  /** Where a value's elements are. Views of views are followed; nothing is copied unless it must be. */
  get(value: Value): View {
    const known = this.#views.get(value);
    if (known) {
      return known;
    }
    const view = VIEW_OPS.has(value.node.op) ? this.#viewOf(value) : this.#literal(value);
    this.#views.set(value, view);
    return view;
  }

  /** As `get`, with elements one after the other. */
  dense(value: Value): View {
    const view = this.get(value);
    if (isDense(view) && !view.pixels) {
      return { ...view, strides: denseStrides(view.shape) };
    }
    let copy = this.#denseCopies.get(value);
    if (!copy) {
      copy = this.materialised(view);
      this.#denseCopies.set(value, copy);
    }
    return copy;
  }

  /** As `get`, for element-wise loops: the innermost axis runs or repeats. */
  streamed(value: Value): View {
    const view = this.get(value);
    const { dims, strides } = collapse(view.shape, view.strides);
    const step = strides[0]!.at(-1) ?? 1;
    const jumps = dims.length > 0 && step !== 1 && step !== 0;
    return jumps && sizeOf(view.shape) > 256 ? this.dense(value) : view;
  }

  /** A dense copy of a view. */
  materialised(view: View): View {
    if (view.pixels) {
      const target = this.scratch(view.shape, "int32");
      const code = this.instructions.indexOf("Abs.i");
      const { dims, strides } = collapse(view.shape, view.strides);
      const count = sizeOf(view.shape);
      const ints = [count, 1024, 2, 1, 1, 2, 0, dims.length, ...dims, ...strides[0]!];
      this.builder.step("Pointwise", [view], [target], [...ints, 1, code, 1, 0, 0, 0, 1, 0, 1, 0]);
      return target;
    }
    const target = this.scratch(view.shape, view.dtype);
    this.copy(view, target);
    return target;
  }

  /** Copy a view's elements into another view of the same shape. */
  copy(from: View, to: View): void {
    if (sizeOf(from.shape) === 0) {
      return;
    }
    const { dims, strides } = collapse(from.shape, from.strides, to.strides);
    const ints = [widthOf(from), dims.length, ...dims, ...strides[0]!, ...strides[1]!];
    this.builder.step("Copy", [from], [to], ints);
  }

  /** Fill a view with one value. */
  fill(to: View, number: number): void {
    if (sizeOf(to.shape) === 0) {
      return;
    }
    const { dims, strides } = collapse(to.shape, to.strides);
    const ints = [elementCode(to.dtype), dims.length, ...dims, ...strides[0]!];
    this.builder.step("Fill", [], [to], ints, [number]);
  }

  /** Memory for a value that no node of the graph names. */
  scratch(shape: Shape, dtype: Value["dtype"]): View {
    const bytes = sizeOf(shape) * widthOf({ dtype });
    return denseView(this.builder.scratch(bytes), shape, dtype);
  }

  /** Dense memory for a node's output, where the output is wanted in the end. */
  alloc(value: Value): View {
    const place = this.#places.get(value);
    const view = place
      ? denseView(place, value.shape, value.dtype)
      : this.scratch(value.shape, value.dtype);
    this.#views.set(value, view);
    return view;
  }

  /** Whether a value may be put anywhere, with any strides. */
  isFree(value: Value): boolean {
    return !this.#places.has(value);
  }

  /** Say where a value is. */
  set(value: Value, view: View): void {
    this.#views.set(value, view);
  }

  /** A constant of the program. */
  constant(data: HostTensor["data"], shape: Shape, dtype: Value["dtype"]): View {
    return denseView(this.builder.constant(data), shape, dtype);
  }

  /**
   * In a loop's body: a value that is the same in every turn in another form, made before the first turn.
   * Undefined where `value` is none of those, or this is no loop's body.
   * @param shape the form's, float32
   */
  beforehand(
    value: Value,
    key: string,
    shape: Shape,
    make: (outer: Lowering, given: View) => View,
  ): View | undefined {
    const name = value.node.op === "Input" ? (value.node.attrs["name"] as string) : "";
    if (this.#graph.name !== "body" || !name.startsWith("captured")) {
      return undefined;
    }
    return this.once(`beforehand ${value.id} ${key}`, () => {
      const slot = this.#graph.inputs.length + this.prepared.length;
      this.prepared.push({ value, make });
      const bytes = sizeOf(shape) * 4;
      return denseView({ place: "input", slot, bytes }, shape, "float32");
    });
  }

  /** Something that several nodes share, made once. */
  once<T>(key: string, make: () => T): T {
    if (!this.#memo.has(key)) {
      this.#memo.set(key, make());
    }
    return this.#memo.get(key) as T;
  }

  has(key: string): boolean {
    return this.#memo.has(key);
  }

  bufferId(buffer: Buffer): number {
    let id = this.#bufferIds.get(buffer);
    if (id === undefined) {
      id = this.#bufferIds.size;
      this.#bufferIds.set(buffer, id);
    }
    return id;
  }

  /** The repeated value of a fill, also behind views. */
  splat(value: Value): number | undefined {
    return splat(rootOf(value));
  }

  /** Whether a value is read outside of a set of nodes. */
  isRead(value: Value, members: ReadonlySet<GraphNode>): boolean {
    if (this.uses.leaves(value)) {
      return true;
    }
    return this.uses.computing(value).some((node) => {
      if (!members.has(node)) {
        return true;
      }
      // Members read each other's registers, but for views that are no plain reshapes.
      return node.inputs.some((input) => rootOf(input) === value && flatRoot(input) !== value);
    });
  }

  #viewOf(value: Value): View {
    const { node } = value;
    const [x] = node.inputs;
    const { attrs } = node;
    switch (node.op) {
      case "Reshape": {
        const view = this.get(x!);
        return reshaped(view, value.shape) ?? reshaped(this.dense(x!), value.shape)!;
      }
      case "Transpose":
        return transposed(this.get(x!), attrs["perm"] as number[]);
      case "Slice":
        return sliced(
          this.get(x!),
          attrs["begin"] as number[],
          attrs["size"] as number[],
          attrs["steps"] as number[],
        );
      case "Reverse": {
        const axes = attrs["axes"] as number[];
        const begin = x!.shape.map((side, axis) => (axes.includes(axis) ? side - 1 : 0));
        const steps = x!.shape.map((_, axis) => (axes.includes(axis) ? -1 : 1));
        return sliced(this.get(x!), begin, x!.shape, steps);
      }
      default:
        return this.#tiled(value);
    }
  }

  /** Repeats along axes of one position are a view; others get an axis of repeats, then are made dense. */
  #tiled(value: Value): View {
    const [x] = value.node.inputs;
    const reps = value.node.attrs["reps"] as number[];
    const view = this.get(x!);
    if (reps.every((r, axis) => r === 1 || view.shape[axis] === 1)) {
      return broadcastTo(view, value.shape);
    }
    const shape = reps.flatMap((r, axis) => [r, view.shape[axis]!]);
    const strides = reps.flatMap((_, axis) => [0, view.strides[axis]!]);
    const copy = this.materialised(
      view.pixels ? { ...this.dense(x!), shape, strides } : { ...view, shape, strides },
    );
    return reshaped(copy, value.shape)!;
  }

  /** Constants, and repeated values as one element. */
  #literal(value: Value): View {
    const { node, shape, dtype } = value;
    if (node.op === "Fill") {
      const number = splat(value)!;
      const one = this.once(`fill ${dtype} ${Object.is(number, -0) ? "-0" : number}`, () =>
        this.constant(
          dtype === "float32"
            ? Float32Array.of(number)
            : dtype === "int32"
              ? Int32Array.of(number)
              : Uint8Array.of(Number(number !== 0)),
          [],
          dtype,
        ),
      );
      return { ...one, shape, strides: shape.map(() => 0) };
    }
    if (node.op === "Constant") {
      const { data } = node.data!;
      const stored =
        dtype === "int32" && !(data instanceof Int32Array) ? Int32Array.from(data) : data;
      return this.constant(stored, shape, dtype);
    }
    if (sizeOf(shape) === 0) {
      return denseView(this.builder.scratch(0), shape, dtype);
    }
    throw new Error(`value %${value.id} of ${node.op} was used before it was computed`);
  }

  /** Bring a value to its output or next state, if it was not computed there. */
  #deliver(value: Value, place: "next" | "output", slot: number): void {
    const view = this.get(value);
    if (view.buffer.place === place && view.buffer.slot === slot && isDense(view)) {
      return;
    }
    const bytes = sizeOf(value.shape) * widthOf(value);
    const from = view.pixels ? this.dense(value) : view;
    this.copy(from, denseView({ place, slot, bytes }, value.shape, value.dtype));
  }

  /**
   * Which values are computed right where they are wanted. A next state takes the place of the old one
   * when nothing reads that one afterwards, and what computes it reads it element by element.
   */
  #choosePlaces(): void {
    const position = new Map<GraphNode, number>();
    this.#order.forEach((item, i) => {
      for (const node of item.nodes) {
        position.set(node, i);
      }
    });
    const { states, outputs } = this.#graph;
    const claim = (value: Value, buffer: Buffer): boolean => {
      const root = flatRoot(value);
      const computed = position.has(root.node) && !this.#places.has(root);
      if (computed) {
        this.#places.set(root, buffer);
      }
      return computed;
    };
    states.forEach(({ value, next }, slot) => {
      if (!next) {
        return;
      }
      const bytes = sizeOf(value.shape) * widthOf(value);
      const root = flatRoot(next);
      const at = position.get(root.node);
      const over =
        at !== undefined &&
        !this.#places.has(root) &&
        this.#mayOverwrite(value, root, at, position);
      if (over) {
        this.inPlace[slot] = claim(next, { place: "state", slot, bytes });
      } else {
        claim(next, { place: "next", slot, bytes });
      }
    });
    outputs.forEach(({ value }, slot) => {
      claim(value, { place: "output", slot, bytes: sizeOf(value.shape) * widthOf(value) });
    });
  }

  #mayOverwrite(
    state: Value,
    next: Value,
    at: number,
    position: ReadonlyMap<GraphNode, number>,
  ): boolean {
    if (this.uses.leaves(state)) {
      return false; // the old value is an output, or goes to another state
    }
    const item = this.#order[at]!;
    for (const reader of this.uses.computing(state)) {
      const when = position.get(reader)!;
      if (when > at) {
        return false;
      }
      if (when === at) {
        const rule = this.options.overwriting[reader.op];
        const beside =
          item.kind === "pointwise" &&
          reader.inputs.every(
            (input) =>
              rootOf(input) !== state ||
              (flatRoot(input) === state &&
                sizeOf(input.shape) === sizeOf(next.shape) &&
                sizeOf(reader.outputs[0]!.shape) === sizeOf(next.shape)),
          );
        if (!beside && !rule?.(reader, state, next)) {
          return false;
        }
      }
    }
    return true;
  }
}

function label(item: Item): string {
  const ops = item.nodes.map((node) => node.op);
  const { shape } = item.nodes.at(-1)!.outputs[0]!;
  const shown = ops.length > 8 ? [...ops.slice(0, 8), `… ${ops.length}`] : ops;
  return `${shown.join("+")} [${shape.join(",")}]`;
}
