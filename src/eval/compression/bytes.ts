/** @file Bytes in and out for bitstreams: whole numbers of any size, 7 bits a byte, and checksums. */

import { crc32 } from "node:zlib";
import { UserError } from "../../config/errors.ts";

/** CRC-32 (ISO 3309), as in PNG and gzip. */
export const checksum = (bytes: Uint8Array): number => crc32(bytes);

export class ByteWriter {
  #bytes: number[] = [];

  byte(value: number): void {
    this.#bytes.push(value & 0xff);
  }

  /** A whole number from 0, lowest 7 bits first; the top bit says that more follows (LEB128). */
  number(value: number): void {
    if (!Number.isSafeInteger(value) || value < 0) {
      throw new RangeError(`${value} is not a whole number from 0`);
    }
    let rest = value;
    while (rest >= 0x80) {
      this.#bytes.push((rest % 0x80) | 0x80);
      rest = Math.floor(rest / 0x80);
    }
    this.#bytes.push(rest);
  }

  bytes(values: Uint8Array): void {
    for (const value of values) {
      this.#bytes.push(value);
    }
  }

  uint32(value: number): void {
    for (let shift = 0; shift < 32; shift += 8) {
      this.#bytes.push((value >>> shift) & 0xff);
    }
  }

  float32(value: number): void {
    this.bytes(new Uint8Array(Float32Array.of(value).buffer));
  }

  finish(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }
}

/** Reads what a `ByteWriter` wrote. Every read past the end is a UserError. */
export class ByteReader {
  #at = 0;

  constructor(
    readonly source: Uint8Array,
    readonly what = "the file",
  ) {}

  get left(): number {
    return this.source.length - this.#at;
  }

  byte(): number {
    return this.bytes(1)[0]!;
  }

  number(): number {
    let value = 0;
    for (let scale = 1; ; scale *= 0x80) {
      const byte = this.byte();
      value += (byte & 0x7f) * scale;
      if (!Number.isSafeInteger(value)) {
        throw damaged(this.what, "holds a number that is too large");
      }
      if (byte < 0x80) {
        return value;
      }
    }
  }

  bytes(count: number): Uint8Array {
    if (count > this.left) {
      throw damaged(this.what, `ends too early: ${count} more bytes were expected`);
    }
    this.#at += count;
    return this.source.subarray(this.#at - count, this.#at);
  }

  uint32(): number {
    const [a, b, c, d] = this.bytes(4);
    return (a! | (b! << 8) | (c! << 16) | (d! << 24)) >>> 0;
  }

  float32(): number {
    const { buffer, byteOffset } = this.bytes(4);
    return new DataView(buffer, byteOffset, 4).getFloat32(0, true);
  }
}

export function damaged(what: string, how: string): UserError {
  return new UserError(`${what} is damaged: it ${how}`, "copy it again from where it was made");
}
