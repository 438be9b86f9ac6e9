/**
 * @file The intermediate form of a compiled function: a static graph of TensorFlow.js kernels (and
 * Tessera's own) on values of known shape and type.
 *
 * Nodes are made through `GraphTracer.add`, which simplifies as it goes: operations that change nothing
 * vanish, sums with zero and products with one fold, and an operation asked for twice with the same
 * inputs is made once (common subexpressions). Dead nodes are dropped by `liveNodes`.
 */

import { type HostTensor, sizeOf } from "./tensors.ts";

export type DType = "float32" | "int32" | "bool";
export type Shape = readonly number[];

/** Attributes of a node: plain JSON. */
export type Attrs = { readonly [name: string]: unknown };

export interface Value {
  readonly id: number;
  readonly shape: Shape;
  readonly dtype: DType;
  readonly node: GraphNode;
}

export interface GraphNode {
  /**
   * A TensorFlow.js kernel name, one of Tessera's own kernels (kernels.ts), "Scan" (a loop, body), or
   * "Input" (attrs: name, hostType), "State" (attrs: index), "Constant" (data), "Fill" (attrs: value).
   */
  readonly op: string;
  readonly inputs: readonly Value[];
  readonly attrs: Attrs;
  readonly outputs: readonly Value[];
  /** The values of a "Constant". */
  readonly data?: HostTensor;
  /** One turn of a "Scan" (scan.ts). */
  readonly body?: Graph;
}

/** Shape and type of a value to be. */
export interface ValueSpec {
  readonly shape: Shape;
  readonly dtype: DType;
}

/** A finished trace. */
export interface Graph {
  readonly name: string;
  readonly inputs: readonly { readonly name: string; readonly value: Value }[];
  /** One entry a variable that is read or assigned; `next` is its new value where it is assigned. */
  readonly states: readonly { readonly value: Value; readonly next?: Value }[];
  readonly outputs: readonly { readonly name: string; readonly value: Value }[];
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((side, i) => side === b[i]);
}

/** Collects nodes during one trace. */
export class GraphTracer {
  /** @param features kernels that only some engines have; elsewhere ops.ts composes them of others */
  constructor(readonly features: ReadonlySet<string> = new Set()) {}

  readonly nodes: GraphNode[] = [];
  /** How many bodies of loops are being traced, one inside the other. */
  loops = 0;
  readonly #known = new Map<string, readonly Value[]>();
  #nextValue = 0;

  /** A node as asked for, without simplification. Equal requests give the same values. */
  make(
    op: string,
    inputs: readonly Value[],
    attrs: Attrs,
    specs: readonly ValueSpec[],
    data?: HostTensor,
    body?: Graph,
  ): readonly Value[] {
    const key =
      data || body
        ? undefined
        : `${op}(${inputs.map((v) => v.id).join(",")})${JSON.stringify(attrs)}:${specs[0]?.dtype}[${specs[0]?.shape.join(",")}]`;
    const known = key === undefined ? undefined : this.#known.get(key);
    if (known) {
      return known;
    }
    const outputs: Value[] = [];
    const node: GraphNode = {
      op,
      inputs,
      attrs,
      outputs,
      ...(data && { data }),
      ...(body && { body }),
    };
    for (const { shape, dtype } of specs) {
      outputs.push({ id: this.#nextValue++, shape: [...shape], dtype, node });
    }
    this.nodes.push(node);
    if (key !== undefined) {
      this.#known.set(key, outputs);
    }
    return outputs;
  }

  /** A tensor of one repeated value. */
  fill(value: number, { shape, dtype }: ValueSpec): Value {
    return this.make("Fill", [], { value }, [{ shape, dtype }])[0]!;
  }

  constant(data: HostTensor): Value {
    const dtype = data.dtype === "uint8" ? "int32" : data.dtype;
    const first = data.data[0];
    if (first !== undefined && data.data.every((x) => Object.is(x, first))) {
      return this.fill(first, { shape: data.shape, dtype });
    }
    return this.make("Constant", [], {}, [{ shape: data.shape, dtype }], data)[0]!;
  }

  /** One node with its outputs' shapes, after the simplifications that the file comment names. */
  add(
    op: string,
    inputs: readonly Value[],
    attrs: Attrs,
    specs: readonly ValueSpec[],
  ): readonly Value[] {
    const simple = specs.length === 1 ? this.#simplify(op, inputs, attrs, specs[0]!) : undefined;
    return simple ? [simple] : this.make(op, inputs, attrs, specs);
  }

  #simplify(
    op: string,
    inputs: readonly Value[],
    attrs: Attrs,
    spec: ValueSpec,
  ): Value | undefined {
    const [a, b] = inputs;
    switch (op) {
      case "Identity":
        return a;
      case "Cast":
        if (a!.dtype === spec.dtype) {
          return a;
        }
        return a!.node.op === "Fill" ? this.fill(castValue(a!, spec.dtype), spec) : undefined;
      case "Reshape": {
        if (sameShape(a!.shape, spec.shape)) {
          return a;
        }
        if (a!.node.op === "Fill") {
          return this.fill(splat(a!)!, spec);
        }
        return a!.node.op === "Reshape"
          ? this.add("Reshape", a!.node.inputs, attrs, [spec])[0]
          : undefined;
      }
      case "Transpose":
        return (attrs["perm"] as number[]).every((axis, i) => axis === i) ? a : undefined;
      case "ZerosLike":
        return this.fill(0, spec);
      case "OnesLike":
        return this.fill(1, spec);
      case "Tile":
      case "Slice":
      case "PadV2":
        // A slice with negative steps may keep the shape and reverse the values.
        if (
          sameShape(a!.shape, spec.shape) &&
          !(attrs["steps"] as number[] | undefined)?.some((step) => step < 0)
        ) {
          return a;
        }
        return a!.node.op === "Fill" && (op !== "PadV2" || attrs["constantValue"] === splat(a!))
          ? this.fill(splat(a!)!, spec)
          : undefined;
      case "Sum":
        return splat(a!) === 0 ? this.fill(0, spec) : keepsAll(a!, spec);
      case "Mean":
      case "Max":
      case "Min":
        return keepsAll(a!, spec);
      case "Neg":
        return splat(a!) === 0 ? this.fill(0, spec) : undefined;
      case "Add":
        return splat(a!) === 0 ? fits(b!, spec) : splat(b!) === 0 ? fits(a!, spec) : undefined;
      case "Sub":
        return splat(b!) === 0 ? fits(a!, spec) : undefined;
      case "Multiply":
        if (splat(a!) === 0 || splat(b!) === 0) {
          return this.fill(0, spec); // a gradient that was stopped; infinities there are not kept
        }
        return splat(a!) === 1 ? fits(b!, spec) : splat(b!) === 1 ? fits(a!, spec) : undefined;
      case "RealDiv":
        return splat(b!) === 1 ? fits(a!, spec) : splat(a!) === 0 ? this.fill(0, spec) : undefined;
      default:
        return undefined;
    }
  }
}

/** The repeated value of a "Fill", or undefined. */
export function splat(value: Value): number | undefined {
  return value.node.op === "Fill" ? (value.node.attrs["value"] as number) : undefined;
}

function fits(value: Value, spec: ValueSpec): Value | undefined {
  return sameShape(value.shape, spec.shape) && value.dtype === spec.dtype ? value : undefined;
}

/** A reduction over axes of size 1 that keeps its shape is the identity. */
function keepsAll(value: Value, spec: ValueSpec): Value | undefined {
  return sameShape(value.shape, spec.shape) && value.dtype === spec.dtype ? value : undefined;
}

function castValue(value: Value, dtype: DType): number {
  const x = splat(value)!;
  return dtype === "int32" ? Math.trunc(x) : dtype === "bool" ? Number(x !== 0) : x;
}

/** The nodes that outputs and next states depend on, in an order that defines before use. */
export function liveNodes(graph: Graph): GraphNode[] {
  const order: GraphNode[] = [];
  const seen = new Set<GraphNode>();
  const roots = [
    ...graph.inputs.map((input) => input.value),
    ...graph.states.map((state) => state.value),
    ...graph.outputs.map((output) => output.value),
    ...graph.states.flatMap((state) => (state.next ? [state.next] : [])),
  ];
  // Depth first without recursion: a trace of a deep network is deeper than the stack.
  for (const root of roots) {
    const stack: { node: GraphNode; next: number }[] = [];
    if (!seen.has(root.node)) {
      seen.add(root.node);
      stack.push({ node: root.node, next: 0 });
    }
    while (stack.length > 0) {
      const top = stack.at(-1)!;
      const input = top.node.inputs[top.next++];
      if (input === undefined) {
        order.push(top.node);
        stack.pop();
      } else if (!seen.has(input.node)) {
        seen.add(input.node);
        stack.push({ node: input.node, next: 0 });
      }
    }
  }
  return order;
}

/** The graph as text, one node a line: `%12 float32[2,16] = Add(%10, %11) {..}`. */
export function printGraph(graph: Graph): string {
  const lines = [`graph ${graph.name}`];
  for (const node of liveNodes(graph)) {
    const outputs = node.outputs.map((v) => `%${v.id} ${v.dtype}[${v.shape.join(",")}]`).join(", ");
    const inputs = node.inputs.map((v) => `%${v.id}`).join(", ");
    const attrs = Object.keys(node.attrs).length > 0 ? ` ${JSON.stringify(node.attrs)}` : "";
    lines.push(`  ${outputs} = ${node.op}(${inputs})${attrs}`);
    if (node.body) {
      const body = printGraph(node.body).split("\n");
      lines.push(...body.map((line) => `    ${line}`));
    }
  }
  for (const { name, value } of graph.outputs) {
    lines.push(`  output ${name} = %${value.id}`);
  }
  graph.states.forEach(({ next }, index) => {
    if (next) {
      lines.push(`  state ${index} := %${next.id}`);
    }
  });
  return lines.join("\n");
}

/** Bytes of a value. */
export function byteSize(value: ValueSpec): number {
  return sizeOf(value.shape) * (value.dtype === "bool" ? 1 : 4);
}
