/**
 * @file Reader of flax's checkpoints (flax/serialization.py): MessagePack maps of maps, whose leaves
 * are arrays in extension type 1, [shape, dtype, bytes]. Tensors are named by their path, joined by "/".
 */

import { BadFile, Cursor } from "./bytes.ts";
import { countOf, decodeElements, type Element, elementBytes } from "./elements.ts";
import type { StoredTensor } from "./weights.ts";

const dtypes: { readonly [name: string]: Element } = {
  float64: "F64",
  float32: "F32",
  float16: "F16",
  bfloat16: "BF16",
  int64: "I64",
  int32: "I32",
  int16: "I16",
  int8: "I8",
  uint8: "U8",
  bool: "BOOL",
};

class Extension {
  constructor(
    readonly type: number,
    readonly bytes: Uint8Array,
  ) {}
}

type Value = unknown;

/** Maps in maps as deep as no network's. */
const deepest = 200;

function readValue(cursor: Cursor, depth = 0): Value {
  if (depth > deepest) {
    throw new BadFile("its maps are nested too deeply");
  }
  const code = cursor.u8();
  if (code < 0x80) {
    return code;
  }
  if (code >= 0xe0) {
    return code - 256;
  }
  if (code < 0x90) {
    return map(cursor, code & 15, depth);
  }
  if (code < 0xa0) {
    return list(cursor, code & 15, depth);
  }
  if (code < 0xc0) {
    return cursor.text(code & 31);
  }
  switch (code) {
    case 0xc0:
      return null;
    case 0xc2:
      return false;
    case 0xc3:
      return true;
    case 0xc4:
      return cursor.take(cursor.uintBE(1));
    case 0xc5:
      return cursor.take(cursor.uintBE(2));
    case 0xc6:
      return cursor.take(cursor.uintBE(4));
    case 0xc7:
      return extension(cursor, cursor.uintBE(1));
    case 0xc8:
      return extension(cursor, cursor.uintBE(2));
    case 0xc9:
      return extension(cursor, cursor.uintBE(4));
    case 0xca:
      return real(cursor.take(4));
    case 0xcb:
      return real(cursor.take(8));
    case 0xcc:
      return cursor.uintBE(1);
    case 0xcd:
      return cursor.uintBE(2);
    case 0xce:
      return cursor.uintBE(4);
    case 0xcf:
      return cursor.uintBE(8);
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
      return signed(cursor.take(2 ** (code - 0xd0)));
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xd7:
    case 0xd8:
      return extension(cursor, 2 ** (code - 0xd4));
    case 0xd9:
      return cursor.text(cursor.uintBE(1));
    case 0xda:
      return cursor.text(cursor.uintBE(2));
    case 0xdb:
      return cursor.text(cursor.uintBE(4));
    case 0xdc:
      return list(cursor, cursor.uintBE(2), depth);
    case 0xdd:
      return list(cursor, cursor.uintBE(4), depth);
    case 0xde:
      return map(cursor, cursor.uintBE(2), depth);
    case 0xdf:
      return map(cursor, cursor.uintBE(4), depth);
    default:
      throw new BadFile(`it has the unknown code 0x${code.toString(16)}`);
  }
}

function extension(cursor: Cursor, length: number): Extension {
  const type = cursor.u8();
  return new Extension(type, cursor.take(length));
}

function list(cursor: Cursor, count: number, depth: number): Value[] {
  const values: Value[] = [];
  for (let i = 0; i < count; i++) {
    values.push(readValue(cursor, depth + 1));
  }
  return values;
}

function map(cursor: Cursor, count: number, depth: number): Map<Value, Value> {
  const pairs = new Map<Value, Value>();
  for (let i = 0; i < count; i++) {
    const key = readValue(cursor, depth + 1);
    pairs.set(key, readValue(cursor, depth + 1));
  }
  return pairs;
}

function real(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return bytes.length === 4 ? view.getFloat32(0) : view.getFloat64(0);
}

function signed(bytes: Uint8Array): number {
  const value = bytes.reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
  return Number(BigInt.asIntN(8 * bytes.length, value));
}

export function readFlaxMsgpack(bytes: Uint8Array): Map<string, StoredTensor> {
  const cursor = new Cursor(bytes);
  const root = readValue(cursor);
  if (!cursor.ended) {
    throw new BadFile("there are bytes behind its end");
  }
  const tensors = new Map<string, StoredTensor>();
  walk(root, "", tensors);
  if (tensors.size === 0) {
    throw new BadFile("there is no array in it");
  }
  return tensors;
}

function walk(value: Value, path: string, tensors: Map<string, StoredTensor>): void {
  if (value instanceof Extension && value.type === 1) {
    tensors.set(path, arrayOf(value.bytes, path));
  } else if (value instanceof Map) {
    if (value.has("__msgpack_chunked_array__")) {
      tensors.set(path, chunked(value, path));
      return;
    }
    for (const [key, part] of value) {
      walk(part, path === "" ? String(key) : `${path}/${String(key)}`, tensors);
    }
  } else if (Array.isArray(value)) {
    value.forEach((part, i) => walk(part, path === "" ? String(i) : `${path}/${i}`, tensors));
  }
}

interface FlaxArray {
  readonly shape: readonly number[];
  readonly dtype: string;
  readonly raw: Uint8Array;
}

function partsOf(bytes: Uint8Array, name: string): FlaxArray {
  const parts = readValue(new Cursor(bytes));
  const [shape, dtype, raw] = Array.isArray(parts) ? (parts as Value[]) : [];
  if (
    !Array.isArray(shape) ||
    !shape.every((side) => Number.isSafeInteger(side)) ||
    typeof dtype !== "string" ||
    !(raw instanceof Uint8Array)
  ) {
    throw new BadFile(`the array "${name}" is damaged`);
  }
  const sides = shape as number[];
  const element = dtypes[dtype];
  if (element && countOf(sides, name) * elementBytes[element] !== raw.length) {
    throw new BadFile(`the array "${name}" of [${sides.join(", ")}] has ${raw.length} bytes`);
  }
  return { shape: sides, dtype, raw };
}

function arrayOf(bytes: Uint8Array, name: string): StoredTensor {
  return storedArray(partsOf(bytes, name), name);
}

function storedArray({ shape, dtype, raw }: FlaxArray, name: string): StoredTensor {
  const element = dtypes[dtype];
  return {
    dtype: element ?? dtype,
    shape,
    read() {
      if (!element) {
        throw new BadFile(`the array "${name}" has the unsupported type ${dtype}`);
      }
      return decodeElements(element, shape, raw, name);
    },
  };
}

/** An array of more than 2^30 bytes: { shape: { "0": ... }, chunks: { "0": array, ... } }, flat. */
function chunked(value: Map<Value, Value>, name: string): StoredTensor {
  const sides = value.get("shape");
  const chunks = value.get("chunks");
  if (!(sides instanceof Map) || !(chunks instanceof Map)) {
    throw new BadFile(`the array "${name}" in chunks is damaged`);
  }
  const shape = Array.from(sides, (_, i) => sides.get(String(i)) as number);
  const parts = Array.from(chunks, (_, i) => {
    const chunk = chunks.get(String(i)) as Value;
    if (!(chunk instanceof Extension)) {
      throw new BadFile(`chunk ${i} of the array "${name}" is missing`);
    }
    return partsOf(chunk.bytes, name);
  });
  const dtype = parts[0]?.dtype ?? "float32";
  const raw = new Uint8Array(Buffer.concat(parts.map((part) => part.raw)));
  const element = dtypes[dtype];
  if (!element || countOf(shape, name) * elementBytes[element] !== raw.length) {
    throw new BadFile(`the chunks of the array "${name}" do not make [${shape.join(", ")}]`);
  }
  return storedArray({ shape, dtype, raw }, name);
}
