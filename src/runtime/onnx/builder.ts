/** @file Builds an ONNX graph node by node: names, constants without repeats, typed attributes. */

import {
  type Attribute,
  type ElementType,
  encodeModel,
  type OnnxNode,
  type OnnxTensor,
  type OnnxValue,
} from "./model.ts";

/** Operator domains by the prefix that lowering rules write: "Microsoft:FusedMatMul". */
const DOMAINS: { readonly [prefix: string]: string } = {
  "": "",
  Microsoft: "com.microsoft",
  Nchwc: "com.microsoft.nchwc",
};

/** Attribute values as they are written in lowering rules; integers become ints. */
export type Attributes = {
  readonly [name: string]: number | string | readonly number[] | { readonly float: number };
};

function toAttribute(value: Attributes[string]): Attribute {
  if (typeof value === "number") {
    return { kind: "int", value };
  }
  if (typeof value === "string") {
    return { kind: "string", value };
  }
  if ("float" in value) {
    return { kind: "float", value: value.float };
  }
  return { kind: "ints", value };
}

export class GraphBuilder {
  readonly #nodes: OnnxNode[] = [];
  readonly #initializers: OnnxTensor[] = [];
  readonly #constants = new Map<string, string>();
  readonly #inputs: OnnxValue[] = [];
  readonly #outputs: OnnxValue[] = [];
  #count = 0;

  constructor(readonly name: string) {}

  get nodeCount(): number {
    return this.#nodes.length;
  }

  input(name: string, type: ElementType, shape: readonly (number | string)[]): string {
    this.#inputs.push({ name, type, shape });
    return name;
  }

  output(name: string, type: ElementType, shape: readonly (number | string)[]): void {
    this.#outputs.push({ name, type, shape });
  }

  /** Add a node of one output and return the output's name. "Microsoft:Op" is a com.microsoft op. */
  op(op: string, inputs: readonly string[], attributes: Attributes = {}, output?: string): string {
    return this.ops(op, inputs, attributes, output ? [output] : 1)[0]!;
  }

  /** Add a node of several outputs (names, or how many). */
  ops(
    op: string,
    inputs: readonly string[],
    attributes: Attributes,
    outputs: number | readonly string[],
  ): string[] {
    const names =
      typeof outputs === "number"
        ? Array.from({ length: outputs }, () => `v${this.#count++}`)
        : [...outputs];
    const [prefix, name] = op.includes(":") ? (op.split(":") as [string, string]) : ["", op];
    this.#nodes.push({
      op: name,
      domain: DOMAINS[prefix]!,
      name: `n${this.#nodes.length}`,
      inputs,
      outputs: names,
      attributes: Object.fromEntries(
        Object.entries(attributes).map(([key, value]) => [key, toAttribute(value)]),
      ),
    });
    return names;
  }

  /** A constant tensor; equal small constants share one initializer. */
  constant(
    type: ElementType,
    shape: readonly number[],
    values: Float32Array | Int32Array | BigInt64Array | Uint8Array,
  ): string {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    const key =
      bytes.length <= 256 ? `${type}[${shape.join(",")}]${Buffer.from(bytes).toString("hex")}` : "";
    const known = key ? this.#constants.get(key) : undefined;
    if (known) {
      return known;
    }
    const name = `c${this.#count++}`;
    this.#initializers.push({ name, type, shape, bytes });
    if (key) {
      this.#constants.set(key, name);
    }
    return name;
  }

  /** A constant list of int64 (shapes, axes, starts, ...). */
  ints(values: readonly number[]): string {
    return this.constant("int64", [values.length], BigInt64Array.from(values, BigInt));
  }

  /** A float32 scalar constant. */
  scalar(value: number): string {
    return this.constant("float32", [], new Float32Array([value]));
  }

  finish(): Uint8Array {
    return encodeModel({
      name: this.name,
      nodes: this.#nodes,
      inputs: this.#inputs,
      outputs: this.#outputs,
      initializers: this.#initializers,
    });
  }
}
