/** @file Snappy's block format, decoding only (google/snappy, format_description.txt). */

import { BadFile, Cursor } from "./bytes.ts";

/** The bytes that a snappy block stands for. Throws BadFile when it is damaged. */
export function snappyDecode(block: Uint8Array): Uint8Array {
  const cursor = new Cursor(block);
  const length = cursor.varint();
  if (length > 64 * block.length + 64) {
    throw new BadFile("a snappy block claims more bytes than it can stand for");
  }
  const out = new Uint8Array(length);
  let end = 0;
  const room = (count: number): void => {
    if (end + count > length) {
      throw new BadFile("a snappy block is longer than it says");
    }
  };
  while (!cursor.ended) {
    const tag = cursor.u8();
    if ((tag & 3) === 0) {
      const short = tag >> 2;
      const count = 1 + (short < 60 ? short : littleEndian(cursor.take(short - 59)));
      room(count);
      out.set(cursor.take(count), end);
      end += count;
      continue;
    }
    const count = (tag & 3) === 1 ? ((tag >> 2) & 7) + 4 : (tag >> 2) + 1;
    const distance =
      (tag & 3) === 1
        ? ((tag >> 5) << 8) | cursor.u8()
        : littleEndian(cursor.take((tag & 3) === 2 ? 2 : 4));
    room(count);
    if (distance === 0 || distance > end) {
      throw new BadFile("a snappy block copies from before its beginning");
    }
    for (let i = 0; i < count; i++) {
      out[end] = out[end - distance]!; // byte by byte: a copy may overlap itself
      end += 1;
    }
  }
  if (end !== length) {
    throw new BadFile("a snappy block is shorter than it says");
  }
  return out;
}

function littleEndian(bytes: Uint8Array): number {
  return bytes.reduceRight((value, byte) => value * 256 + byte, 0);
}
