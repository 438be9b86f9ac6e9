/**
 * @file Bytes of a file that may be larger than memory, and a cursor over some of them. A reader asks
 * for parts; every part is checked against the file's size before memory is taken for it.
 */

import { closeSync, fstatSync, openSync, readSync } from "node:fs";

/** A fault of a weight file. `openWeights` turns it into a UserError that names the file. */
export class BadFile extends Error {
  override name = "BadFile";
}

/** Bytes that are read in parts. */
export interface ByteSource {
  readonly size: number;
  /** `length` bytes from `offset`. Throws BadFile when they are not all there. */
  read(offset: number, length: number): Uint8Array;
  close(): void;
}

function check(size: number, offset: number, length: number): void {
  const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length);
  if (!whole || offset < 0 || length < 0 || offset + length > size) {
    throw new BadFile(
      `${length} bytes from place ${offset} are asked for, and the file has ${size}: it is cut off or damaged`,
    );
  }
}

/** A file on disk. */
export function fileSource(path: string): ByteSource {
  const file = openSync(path, "r");
  const { size } = fstatSync(file);
  let open = true;
  return {
    size,
    read(offset, length) {
      check(size, offset, length);
      const bytes = new Uint8Array(length);
      let done = 0;
      while (done < length) {
        const got = readSync(file, bytes, done, Math.min(length - done, 2 ** 30), offset + done);
        if (got === 0) {
          throw new BadFile("the file became shorter while it was read");
        }
        done += got;
      }
      return bytes;
    },
    close() {
      if (open) {
        open = false;
        closeSync(file);
      }
    },
  };
}

/** Bytes in memory. */
export function memorySource(bytes: Uint8Array): ByteSource {
  return {
    size: bytes.length,
    read(offset, length) {
      check(bytes.length, offset, length);
      return bytes.slice(offset, offset + length);
    },
    close: () => undefined,
  };
}

/** Reads values one after the other, little-endian unless a name says otherwise. */
export class Cursor {
  readonly #view: DataView;

  constructor(
    readonly bytes: Uint8Array,
    public at = 0,
  ) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get ended(): boolean {
    return this.at >= this.bytes.length;
  }

  /** Moves on by `length` bytes and returns where they began. */
  #step(length: number): number {
    const from = this.at;
    check(this.bytes.length, from, length);
    this.at += length;
    return from;
  }

  /** The next `length` bytes: a view. */
  take(length: number): Uint8Array {
    const from = this.#step(length);
    return this.bytes.subarray(from, from + length);
  }

  /** Text in UTF-8. */
  text(length: number): string {
    return Buffer.from(this.take(length)).toString("utf8");
  }

  u8(): number {
    return this.#view.getUint8(this.#step(1));
  }

  u16(): number {
    return this.#view.getUint16(this.#step(2), true);
  }

  u32(): number {
    return this.#view.getUint32(this.#step(4), true);
  }

  i32(): number {
    return this.#view.getInt32(this.#step(4), true);
  }

  /** A u64 that must be a safe integer. */
  u64(): number {
    return safe(this.#view.getBigUint64(this.#step(8), true));
  }

  f64(): number {
    return this.#view.getFloat64(this.#step(8), true);
  }

  /** A base-128 varint as in protocol buffers and LevelDB, as an unsigned integer. */
  varint(): number {
    return safe(this.varint64());
  }

  /** The same with all 64 bits. */
  varint64(): bigint {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = this.u8();
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) {
        return BigInt.asUintN(64, value);
      }
    }
    throw new BadFile("an integer has more than ten bytes");
  }

  /** Big-endian unsigned integer of 1, 2, 4 or 8 bytes. */
  uintBE(length: 1 | 2 | 4 | 8): number {
    const at = this.#step(length);
    switch (length) {
      case 1:
        return this.#view.getUint8(at);
      case 2:
        return this.#view.getUint16(at);
      case 4:
        return this.#view.getUint32(at);
      case 8:
        return safe(this.#view.getBigUint64(at));
    }
  }
}

function safe(value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new BadFile(`a size of ${value} bytes cannot be right`);
  }
  return Number(value);
}
