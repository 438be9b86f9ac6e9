/**
 * @file Reader of TensorFlow's checkpoints of format V2 and of a SavedModel's variables (tensor
 * bundle): an index, which is a table in LevelDB's format from names to BundleEntryProto, beside files
 * of raw values (tensorflow/core/util/tensor_bundle, tensorflow/tsl/lib/io/format.cc). Blocks may be
 * snappy-packed; the checksums of blocks and tensors are checked.
 */

import { crc32c } from "../crc32c.ts";
import { BadFile, type ByteSource, Cursor } from "./bytes.ts";
import { countOf, decodeElements, type Element, elementBytes } from "./elements.ts";
import { bytesOf, fields, integersOf, numberOf } from "./protobuf-fields.ts";
import { snappyDecode } from "./snappy.ts";
import type { StoredTensor } from "./weights.ts";

const footerLength = 48;
const magic = [0x57, 0xfb, 0x80, 0x8b, 0x24, 0x75, 0x47, 0xdb];
/** Type and masked checksum behind each block. */
const trailerLength = 5;

/** DataType of tensorflow/core/framework/types.proto. */
const dataTypes: { readonly [type: number]: Element } = {
  1: "F32",
  2: "F64",
  3: "I32",
  4: "U8",
  5: "I16",
  6: "I8",
  9: "I64",
  10: "BOOL",
  14: "BF16",
  19: "F16",
};

/** One tensor's entry in the index. */
export interface BundleEntry {
  readonly name: string;
  /** DataType. */
  readonly dtype: number;
  readonly shape: readonly number[];
  readonly shard: number;
  readonly offset: number;
  readonly size: number;
  /** Masked CRC-32C of its bytes. */
  readonly crc: number;
}

export function isBundleIndex(source: ByteSource): boolean {
  if (source.size < footerLength) {
    return false;
  }
  const tail = source.read(source.size - 8, 8);
  return magic.every((byte, i) => tail[i] === byte);
}

/** The masked form of a checksum (as in TFRecord files). */
function masked(crc: number): number {
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

/** A block's bytes, unpacked; `handle` is at its place in the footer or in the index block. */
function readBlock(source: ByteSource, handle: Cursor): Uint8Array {
  const offset = handle.varint();
  const length = handle.varint();
  const raw = source.read(offset, length + trailerLength);
  const trailer = new Cursor(raw, length);
  const type = trailer.u8();
  if (trailer.u32() !== masked(crc32c(raw.subarray(0, length + 1)))) {
    throw new BadFile("a block of the index differs from its checksum");
  }
  const block = raw.subarray(0, length);
  if (type > 1) {
    throw new BadFile(
      `a block of the index is packed by method ${type}; 0 and 1 (snappy) are readable`,
    );
  }
  return type === 1 ? snappyDecode(block) : block;
}

/** The key-value pairs of a block: each key shares a prefix with the one before. */
function* pairs(block: Uint8Array): Generator<[key: string, value: Uint8Array]> {
  if (block.length < 4) {
    throw new BadFile("a block of the index is too short");
  }
  const restarts = new Cursor(block, block.length - 4).u32();
  const end = block.length - 4 - 4 * restarts;
  if (end < 0) {
    throw new BadFile("a block of the index is damaged");
  }
  const cursor = new Cursor(block.subarray(0, end));
  let key = new Uint8Array(0);
  while (!cursor.ended) {
    const [shared, rest, length] = [cursor.varint(), cursor.varint(), cursor.varint()];
    if (shared > key.length) {
      throw new BadFile("a key of the index is damaged");
    }
    key = Uint8Array.from([...key.subarray(0, shared), ...cursor.take(rest)]);
    yield [Buffer.from(key).toString("utf8"), cursor.take(length)];
  }
}

/** The entries of an index, and the number of its data files. */
export function readBundleIndex(source: ByteSource): { shards: number; entries: BundleEntry[] } {
  if (!isBundleIndex(source)) {
    throw new BadFile("it does not end as an index of TensorFlow does: it is cut off");
  }
  const footer = new Cursor(source.read(source.size - footerLength, footerLength));
  footer.varint(); // the metaindex, which is empty
  footer.varint();
  const entries: BundleEntry[] = [];
  let shards: number | undefined;
  for (const [, handle] of pairs(readBlock(source, footer))) {
    for (const [name, value] of pairs(readBlock(source, new Cursor(handle)))) {
      if (name === "") {
        shards = headerShards(value);
      } else {
        entries.push(entryOf(name, value));
      }
    }
  }
  if (shards === undefined) {
    throw new BadFile("its header is missing");
  }
  return { shards, entries };
}

function headerShards(message: Uint8Array): number {
  let shards = 1;
  for (const field of fields(message)) {
    if (field.number === 1) {
      shards = numberOf(field);
    } else if (field.number === 2 && numberOf(field) !== 0) {
      throw new BadFile("it was written on a big-endian machine");
    }
  }
  if (shards < 1 || shards > 100_000) {
    throw new BadFile(`${shards} data files cannot be right`);
  }
  return shards;
}

function entryOf(name: string, message: Uint8Array): BundleEntry {
  const entry = { name, dtype: 0, shape: [] as number[], shard: 0, offset: 0, size: 0, crc: 0 };
  for (const field of fields(message)) {
    switch (field.number) {
      case 1:
        entry.dtype = numberOf(field);
        break;
      case 2:
        entry.shape = shapeOf(bytesOf(field));
        break;
      case 3:
        entry.shard = numberOf(field);
        break;
      case 4:
        entry.offset = numberOf(field);
        break;
      case 5:
        entry.size = numberOf(field);
        break;
      case 6:
        entry.crc = numberOf(field);
        break;
      case 7:
        throw new BadFile(`"${name}" is stored in slices, which are not readable here`);
    }
  }
  return entry;
}

/** TensorShapeProto: dimensions (2), each with its size (1). */
function shapeOf(message: Uint8Array): number[] {
  const shape: number[] = [];
  for (const field of fields(message)) {
    if (field.number === 2) {
      let side = 0;
      for (const part of fields(bytesOf(field))) {
        side = part.number === 1 ? integersOf(part)[0]! : side;
      }
      shape.push(side);
    }
  }
  return shape;
}

/** The tensors of a bundle. @param shardOf opens data file i of n */
export function readTfBundle(
  index: ByteSource,
  shardOf: (shard: number, shards: number) => ByteSource,
): Map<string, StoredTensor> {
  const { shards, entries } = readBundleIndex(index);
  return new Map(
    entries.map((entry) => {
      const { name, shape, dtype, size, offset, shard, crc } = entry;
      const element = dataTypes[dtype];
      if (element && countOf(shape, name) * elementBytes[element] !== size) {
        throw new BadFile(`"${name}" of [${shape.join(", ")}] does not have ${size} bytes`);
      }
      return [
        name,
        {
          dtype: element ?? `DataType ${dtype}`,
          shape,
          read() {
            if (!element) {
              throw new BadFile(`"${name}" has the unsupported DataType ${dtype}`);
            }
            const bytes = shardOf(shard, shards).read(offset, size);
            if (masked(crc32c(bytes)) !== crc) {
              throw new BadFile(`the values of "${name}" differ from their checksum`);
            }
            return decodeElements(element, shape, bytes, name);
          },
        },
      ];
    }),
  );
}
