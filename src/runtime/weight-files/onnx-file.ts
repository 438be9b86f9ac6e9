/**
 * @file Reader of the initialisers of an ONNX model (onnx.proto): the trained tensors of its graph,
 * by their names, with those of Constant nodes. Values may lie in files beside the model.
 */

import { BadFile, type ByteSource, Cursor } from "./bytes.ts";
import { countOf, decodeElements, type Element, elementBytes } from "./elements.ts";
import { bytesOf, type Field, fields, integersOf, numberOf } from "./protobuf-fields.ts";
import type { StoredTensor } from "./weights.ts";

/** TensorProto.DataType. */
const dataTypes: { readonly [type: number]: Element } = {
  1: "F32",
  2: "U8",
  3: "I8",
  5: "I16",
  6: "I32",
  7: "I64",
  9: "BOOL",
  10: "F16",
  11: "F64",
  16: "BF16",
};

const text = (field: Field): string => Buffer.from(bytesOf(field)).toString("utf8");

/** @param beside opens a file named by the model, relative to its folder */
export function readOnnxModel(
  bytes: Uint8Array,
  beside: (name: string) => ByteSource,
): Map<string, StoredTensor> {
  const tensors = new Map<string, StoredTensor>();
  let graphs = 0;
  for (const field of fields(bytes)) {
    if (field.number === 7) {
      graphs += 1;
      readGraph(bytesOf(field), tensors, beside);
    }
  }
  if (graphs === 0) {
    throw new BadFile("there is no graph in it");
  }
  return tensors;
}

function readGraph(
  graph: Uint8Array,
  tensors: Map<string, StoredTensor>,
  beside: (name: string) => ByteSource,
): void {
  for (const field of fields(graph)) {
    if (field.number === 5) {
      const { name, tensor } = readTensor(bytesOf(field), beside);
      tensors.set(name, tensor);
    } else if (field.number === 1) {
      const node = [...fields(bytesOf(field))];
      const operation = node.find(({ number }) => number === 4);
      const output = node.find(({ number }) => number === 2);
      if (operation && output && text(operation) === "Constant") {
        readConstant(text(output), node, tensors, beside);
      }
    }
  }
}

/** The attribute "value" (5 of NodeProto; name 1, t 5) of a Constant node. */
function readConstant(
  name: string,
  node: readonly Field[],
  tensors: Map<string, StoredTensor>,
  beside: (name: string) => ByteSource,
): void {
  for (const attribute of node.filter(({ number }) => number === 5)) {
    const value = [...fields(bytesOf(attribute))].find(({ number }) => number === 5);
    if (value && value.value instanceof Uint8Array) {
      tensors.set(name, readTensor(value.value, beside).tensor);
    }
  }
}

function readTensor(
  message: Uint8Array,
  beside: (name: string) => ByteSource,
): { name: string; tensor: StoredTensor } {
  let name = "";
  let type = 0;
  const shape: number[] = [];
  let raw: Uint8Array | undefined;
  let external: ExternalData | undefined;
  const typed: { type: number; field: Field }[] = [];
  for (const field of fields(message)) {
    switch (field.number) {
      case 1:
        shape.push(...integersOf(field));
        break;
      case 2:
        type = numberOf(field);
        break;
      case 4: // float_data
      case 5: // int32_data
      case 7: // int64_data
      case 10: // double_data
        typed.push({ type: field.number, field });
        break;
      case 8:
        name = text(field);
        break;
      case 9:
        raw = bytesOf(field);
        break;
      case 13:
        external = addExternal(external, field);
        break;
    }
  }
  const element = dataTypes[type];
  if (element && raw && countOf(shape, name) * elementBytes[element] !== raw.length) {
    throw new BadFile(`tensor "${name}" of [${shape.join(", ")}] has ${raw.length} bytes`);
  }
  const read = () => {
    if (!element) {
      throw new BadFile(`tensor "${name}" has the unsupported data type ${type}`);
    }
    if (external) {
      const { location, offset, length } = external;
      const bytes = countOf(shape, name) * elementBytes[element];
      return decodeElements(element, shape, beside(location).read(offset, length ?? bytes), name);
    }
    return decodeElements(element, shape, raw ?? packed(element, typed, name), name);
  };
  return { name, tensor: { dtype: element ?? `data type ${type}`, shape, read } };
}

interface ExternalData {
  readonly location: string;
  readonly offset: number;
  readonly length?: number;
}

/** A StringStringEntryProto (key 1, value 2) of external_data. */
function addExternal(before: ExternalData | undefined, field: Field): ExternalData {
  const parts = [...fields(bytesOf(field))];
  const of = (number: number) => {
    const found = parts.find((part) => part.number === number);
    return found ? text(found) : "";
  };
  const start = before ?? { location: "", offset: 0 };
  const [key, value] = [of(1), of(2)];
  if (key === "location") {
    return { ...start, location: value };
  }
  return key === "offset" || key === "length" ? { ...start, [key]: Number(value) } : start;
}

/** Values in the typed fields, as the bytes that raw_data would hold. */
function packed(
  element: Element,
  typed: readonly { type: number; field: Field }[],
  name: string,
): Uint8Array {
  const size = elementBytes[element];
  const parts = typed.map(({ type, field }) => {
    const fixed = type === 4 || type === 10;
    if (fixed) {
      if (typeof field.value !== "bigint") {
        return field.value;
      }
      return fixedBytes(field.value, type === 4 ? 4 : 8);
    }
    const cursor = typeof field.value === "bigint" ? undefined : new Cursor(field.value);
    const values: Uint8Array[] = [];
    if (cursor) {
      while (!cursor.ended) {
        values.push(fixedBytes(cursor.varint64(), size));
      }
    } else {
      values.push(fixedBytes(field.value as bigint, size));
    }
    return Buffer.concat(values);
  });
  if (parts.length === 0) {
    throw new BadFile(`tensor "${name}" has no values`);
  }
  return new Uint8Array(Buffer.concat(parts));
}

/** The low `size` bytes of an integer, little-endian. */
function fixedBytes(value: bigint, size: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt.asUintN(64, value), true);
  return bytes.subarray(0, size);
}
