/**
 * @file Named tensors in a file: the safetensors format (Hugging Face), read and written here so
 * that any safetensors library opens our weights and we open theirs.
 *
 * Layout: u64 little-endian header length, a JSON header padded with spaces to a multiple of 8, then
 * the values without gaps. Entries are ordered by element size (large first), then by name, so that
 * every tensor is aligned and equal content always gives equal bytes.
 */

import { createHash } from "node:crypto";
import { type HostDType, type HostTensor, sizeOf } from "./tensors.ts";

const TYPES = {
  float32: { name: "F32", bytes: 4 },
  int32: { name: "I32", bytes: 4 },
  uint8: { name: "U8", bytes: 1 },
  bool: { name: "BOOL", bytes: 1 },
} as const satisfies { [D in HostDType]: { name: string; bytes: number } };

const DTYPES = new Map<unknown, HostDType>(
  (Object.keys(TYPES) as HostDType[]).map((dtype) => [TYPES[dtype].name, dtype]),
);

/** The largest header that the format's reference reader accepts. */
const MAX_HEADER = 100_000_000;

export interface Safetensors {
  readonly tensors: ReadonlyMap<string, HostTensor>;
  /** The `__metadata__` entry: free text by key. */
  readonly metadata: { readonly [key: string]: string };
}

/**
 * The bytes of a safetensors file.
 * @param metadata free text; a key "sha256" (of the values' bytes) is added
 */
export function encodeSafetensors({ tensors, metadata }: Safetensors): Uint8Array {
  const entries = [...tensors].sort(
    ([a, x], [b, y]) => TYPES[y.dtype].bytes - TYPES[x.dtype].bytes || (a < b ? -1 : 1),
  );
  const header: [name: string, entry: unknown][] = []; // pairs: any name, even "__proto__", is a key
  const parts: Uint8Array[] = [];
  const hash = createHash("sha256");
  let offset = 0;
  for (const [name, { dtype, shape, data }] of entries) {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const data_offsets = [offset, offset + bytes.length];
    header.push([name, { dtype: TYPES[dtype].name, shape, data_offsets }]);
    parts.push(bytes);
    hash.update(bytes);
    offset += bytes.length;
  }
  const notes = Object.entries({ ...metadata, sha256: hash.digest("hex") }).sort(([a], [b]) =>
    a < b ? -1 : 1,
  );
  const json = Buffer.from(
    JSON.stringify(Object.fromEntries([["__metadata__", Object.fromEntries(notes)], ...header])),
    "utf8",
  );
  const length = Math.ceil(json.length / 8) * 8;
  const file = new Uint8Array(8 + length + offset);
  new DataView(file.buffer).setBigUint64(0, BigInt(length), true);
  file.fill(0x20, 8 + json.length, 8 + length);
  file.set(json, 8);
  let end = 8 + length;
  for (const part of parts) {
    file.set(part, end);
    end += part.length;
  }
  return file;
}

/**
 * Read a safetensors file. Tensors are views of `bytes` where alignment allows it.
 * @throws Error when the file is cut off, malformed, or differs from its own checksum
 */
export function decodeSafetensors(bytes: Uint8Array): Safetensors {
  if (bytes.length < 8) {
    throw new Error(`not a safetensors file: ${bytes.length} bytes, too short for a header`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = Number(view.getBigUint64(0, true));
  if (length > MAX_HEADER || 8 + length > bytes.length) {
    throw new Error(
      `not a whole safetensors file: the header claims ${length} bytes, the file has ${bytes.length}`,
    );
  }
  let header: { [name: string]: unknown };
  try {
    header = JSON.parse(Buffer.from(bytes.subarray(8, 8 + length)).toString("utf8"));
  } catch (error) {
    throw new Error(`the safetensors header is not JSON`, { cause: error });
  }
  const { __metadata__: notes, ...entries } = header;
  const metadata = (notes ?? {}) as { [key: string]: string };
  const values = bytes.subarray(8 + length);
  const tensors = new Map<string, HostTensor>();
  let end = 0;
  for (const [name, entry] of Object.entries(entries)) {
    const tensor = readTensor(name, entry, values);
    tensors.set(name, tensor);
    end = Math.max(end, (entry as { data_offsets: [number, number] }).data_offsets[1]);
  }
  if (end !== values.length) {
    throw new Error(`the safetensors file has ${values.length} bytes of values, expected ${end}`);
  }
  if (metadata["sha256"] !== undefined) {
    const found = createHash("sha256").update(values).digest("hex");
    if (found !== metadata["sha256"]) {
      throw new Error(`the values differ from the file's own checksum`);
    }
  }
  return { tensors, metadata };
}

function readTensor(name: string, entry: unknown, values: Uint8Array): HostTensor {
  const { dtype, shape, data_offsets } = entry as {
    dtype: unknown;
    shape: number[];
    data_offsets: [number, number];
  };
  const type = DTYPES.get(dtype);
  if (type === undefined) {
    throw new Error(
      `tensor "${name}" has the type ${String(dtype)}; readable are ${[...DTYPES.keys()].join(", ")}`,
    );
  }
  const [start, end] = data_offsets;
  const count = sizeOf(shape);
  if (end > values.length || end - start !== count * TYPES[type].bytes) {
    throw new Error(
      `tensor "${name}" of shape [${shape.join(", ")}] does not fit its place in the file`,
    );
  }
  let raw = values.subarray(start, end);
  if (raw.byteOffset % TYPES[type].bytes !== 0) {
    raw = raw.slice(); // another writer's file may be unaligned
  }
  const data =
    type === "float32"
      ? new Float32Array(raw.buffer, raw.byteOffset, count)
      : type === "int32"
        ? new Int32Array(raw.buffer, raw.byteOffset, count)
        : raw;
  return { dtype: type, shape, data };
}
