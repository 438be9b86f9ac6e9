/**
 * @file Writes ONNX models: the few protocol-buffer messages that a graph of static shapes needs
 * (ModelProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, AttributeProto), by field number
 * as onnx.proto names them. See https://onnx.ai for the format.
 */

/** ONNX element types by name (TensorProto.DataType). */
export const ELEMENT_TYPES = { float32: 1, uint8: 2, int32: 6, int64: 7, bool: 9 } as const;
export type ElementType = keyof typeof ELEMENT_TYPES;

export type Attribute =
  | { readonly kind: "int"; readonly value: number }
  | { readonly kind: "float"; readonly value: number }
  | { readonly kind: "string"; readonly value: string }
  | { readonly kind: "ints"; readonly value: readonly number[] }
  | { readonly kind: "floats"; readonly value: readonly number[] };

export interface OnnxNode {
  readonly op: string;
  readonly domain: string;
  readonly name: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: { readonly [name: string]: Attribute };
}

export interface OnnxValue {
  readonly name: string;
  readonly type: ElementType;
  readonly shape: readonly (number | string)[];
}

export interface OnnxTensor {
  readonly name: string;
  readonly type: ElementType;
  readonly shape: readonly number[];
  /** The values' bytes, little-endian. */
  readonly bytes: Uint8Array;
}

export interface OnnxGraph {
  readonly name: string;
  readonly nodes: readonly OnnxNode[];
  readonly inputs: readonly OnnxValue[];
  readonly outputs: readonly OnnxValue[];
  readonly initializers: readonly OnnxTensor[];
}

/** A growing byte buffer with protocol-buffer primitives. */
class Writer {
  #bytes = new Uint8Array(1024);
  #length = 0;

  #reserve(count: number): void {
    if (this.#length + count > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(this.#bytes.length * 2, this.#length + count));
      grown.set(this.#bytes.subarray(0, this.#length));
      this.#bytes = grown;
    }
  }

  varint(value: number): void {
    this.#reserve(10);
    let rest = BigInt.asUintN(64, BigInt(value)); // negative numbers are ten bytes, as int64
    while (rest > 0x7fn) {
      this.#bytes[this.#length++] = Number(rest & 0x7fn) | 0x80;
      rest >>= 7n;
    }
    this.#bytes[this.#length++] = Number(rest);
  }

  raw(data: Uint8Array): void {
    this.#reserve(data.length);
    this.#bytes.set(data, this.#length);
    this.#length += data.length;
  }

  int(field: number, value: number): void {
    this.varint(field * 8);
    this.varint(value);
  }

  float(field: number, value: number): void {
    this.varint(field * 8 + 5);
    this.raw(new Uint8Array(new Float32Array([value]).buffer));
  }

  bytes(field: number, data: Uint8Array): void {
    this.varint(field * 8 + 2);
    this.varint(data.length);
    this.raw(data);
  }

  string(field: number, text: string): void {
    this.bytes(field, new TextEncoder().encode(text));
  }

  message(field: number, write: (inner: Writer) => void): void {
    const inner = new Writer();
    write(inner);
    this.bytes(field, inner.finish());
  }

  finish(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }
}

// AttributeProto.AttributeType
const ATTRIBUTE_TYPE = { float: 1, int: 2, string: 3, floats: 6, ints: 7 } as const;

function writeAttribute(w: Writer, name: string, attribute: Attribute): void {
  w.string(1, name);
  switch (attribute.kind) {
    case "float":
      w.float(2, attribute.value);
      break;
    case "int":
      w.int(3, attribute.value);
      break;
    case "string":
      w.string(4, attribute.value);
      break;
    case "floats":
      for (const value of attribute.value) {
        w.float(7, value);
      }
      break;
    case "ints":
      for (const value of attribute.value) {
        w.int(8, value);
      }
      break;
  }
  w.int(20, ATTRIBUTE_TYPE[attribute.kind]);
}

function writeValueInfo(w: Writer, value: OnnxValue): void {
  w.string(1, value.name);
  w.message(2, (type) =>
    type.message(1, (tensor) => {
      tensor.int(1, ELEMENT_TYPES[value.type]);
      tensor.message(2, (shape) => {
        for (const side of value.shape) {
          shape.message(1, (dimension) =>
            typeof side === "number" ? dimension.int(1, side) : dimension.string(2, side),
          );
        }
      });
    }),
  );
}

/** The bytes of a model file: IR version 10, opset 21 of ONNX and 1 of com.microsoft. */
export function encodeModel(graph: OnnxGraph): Uint8Array {
  const model = new Writer();
  model.int(1, 10);
  model.string(2, "tessera");
  model.message(7, (g) => {
    for (const node of graph.nodes) {
      g.message(1, (n) => {
        for (const input of node.inputs) {
          n.string(1, input);
        }
        for (const output of node.outputs) {
          n.string(2, output);
        }
        n.string(3, node.name);
        n.string(4, node.op);
        for (const [name, attribute] of Object.entries(node.attributes)) {
          n.message(5, (a) => writeAttribute(a, name, attribute));
        }
        if (node.domain) {
          n.string(7, node.domain);
        }
      });
    }
    g.string(2, graph.name);
    for (const tensor of graph.initializers) {
      g.message(5, (t) => {
        for (const side of tensor.shape) {
          t.int(1, side);
        }
        t.int(2, ELEMENT_TYPES[tensor.type]);
        t.string(8, tensor.name);
        t.bytes(9, tensor.bytes);
      });
    }
    for (const input of graph.inputs) {
      g.message(11, (v) => writeValueInfo(v, input));
    }
    for (const output of graph.outputs) {
      g.message(12, (v) => writeValueInfo(v, output));
    }
  });
  for (const [domain, version] of [
    ["", 21],
    ["com.microsoft", 1],
    ["com.microsoft.nchwc", 1],
  ] as const) {
    model.message(8, (opset) => {
      opset.string(1, domain);
      opset.int(2, version);
    });
  }
  return model.finish();
}
