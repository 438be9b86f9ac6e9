/**
 * @file The entries of a ZIP file (PKWARE APPNOTE 6.3, with ZIP64): what PyTorch has written since
 * 1.6, and NumPy's npz. Stored and deflated entries are read, and their CRC-32 is checked.
 */

import { crc32, inflateRawSync } from "node:zlib";
import { BadFile, type ByteSource, Cursor } from "./bytes.ts";

export interface ZipEntry {
  readonly name: string;
  /** Uncompressed bytes. */
  readonly size: number;
  read(): Uint8Array;
}

/** The smallest end record, and the longest with its comment. */
const endRecord = 22;
const longestEnd = endRecord + 0xffff;

export function readZip(source: ByteSource): Map<string, ZipEntry> {
  const tailLength = Math.min(source.size, longestEnd);
  const tail = source.read(source.size - tailLength, tailLength);
  let end = -1;
  for (let at = tail.length - endRecord; at >= 0 && end < 0; at--) {
    const signature = tail[at] === 0x50 && tail[at + 1] === 0x4b;
    end = signature && tail[at + 2] === 5 && tail[at + 3] === 6 ? at : end;
  }
  if (end < 0) {
    throw new BadFile("the ZIP directory at its end is missing: it is cut off");
  }
  const record = new Cursor(tail, end + 8);
  record.u16();
  let count = record.u16();
  let length = record.u32();
  let offset = record.u32();
  if (count === 0xffff || length === 0xffffffff || offset === 0xffffffff) {
    ({ count, length, offset } = zip64End(source, source.size - tailLength + end));
  }
  const directory = new Cursor(source.read(offset, length));
  const entries = new Map<string, ZipEntry>();
  for (let i = 0; i < count; i++) {
    const entry = directoryEntry(source, directory);
    entries.set(entry.name, entry);
  }
  return entries;
}

function zip64End(
  source: ByteSource,
  end: number,
): { count: number; length: number; offset: number } {
  const locator = new Cursor(source.read(end - 20, 20));
  if (locator.u32() !== 0x07064b50) {
    throw new BadFile("the ZIP64 directory is missing");
  }
  locator.u32();
  const record = new Cursor(source.read(locator.u64(), 56));
  if (record.u32() !== 0x06064b50) {
    throw new BadFile("the ZIP64 directory is damaged");
  }
  record.take(28);
  const count = record.u64();
  const length = record.u64();
  return { count, length, offset: record.u64() };
}

function directoryEntry(source: ByteSource, cursor: Cursor): ZipEntry {
  if (cursor.u32() !== 0x02014b50) {
    throw new BadFile("the ZIP directory is damaged");
  }
  cursor.take(6);
  const method = cursor.u16();
  cursor.take(4);
  const checksum = cursor.u32();
  let packed = cursor.u32();
  let size = cursor.u32();
  const [nameLength, extraLength, commentLength] = [cursor.u16(), cursor.u16(), cursor.u16()];
  cursor.take(8);
  let offset = cursor.u32();
  const name = cursor.text(nameLength);
  const extra = new Cursor(cursor.take(extraLength));
  cursor.take(commentLength);
  while (extra.bytes.length - extra.at >= 4) {
    const kind = extra.u16();
    const field = new Cursor(extra.take(extra.u16()));
    if (kind === 1) {
      size = size === 0xffffffff ? field.u64() : size;
      packed = packed === 0xffffffff ? field.u64() : packed;
      offset = offset === 0xffffffff ? field.u64() : offset;
    }
  }
  return {
    name,
    size,
    read() {
      const local = new Cursor(source.read(offset, 30));
      if (local.u32() !== 0x04034b50) {
        throw new BadFile(`the ZIP entry ${name} is damaged`);
      }
      local.take(22);
      const begin = offset + 30 + local.u16() + local.u16();
      const bytes = unpack(source.read(begin, packed), method, size, name);
      if (bytes.length !== size || crc32(bytes) !== checksum) {
        throw new BadFile(`the ZIP entry ${name} differs from its checksum`);
      }
      return bytes;
    },
  };
}

function unpack(bytes: Uint8Array, method: number, size: number, name: string): Uint8Array {
  if (method === 0) {
    return bytes;
  }
  if (method !== 8) {
    throw new BadFile(`the ZIP entry ${name} is packed by method ${method}; 0 and 8 are readable`);
  }
  try {
    return inflateRawSync(bytes, { maxOutputLength: Math.max(1, size) });
  } catch {
    throw new BadFile(`the ZIP entry ${name} does not unpack`);
  }
}
