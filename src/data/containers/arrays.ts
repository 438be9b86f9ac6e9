/** @file Arrays of bytes in files: NumPy's .npy (version 1 to 3) and MNIST's IDX, plain or gzipped. */

import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";

export interface ArrayHeader {
  readonly shape: readonly number[];
  /** Where the values begin. */
  readonly offset: number;
}

/**
 * The header of a .npy file of bytes in C order.
 * @param head at least its first 512 bytes
 * @throws Error when it is another file, type or order
 */
export function npyHeader(head: Buffer): ArrayHeader {
  if (head.subarray(0, 6).toString("latin1") !== "\x93NUMPY") {
    throw new Error("is no .npy file");
  }
  const long = head[6]! >= 2;
  const length = long ? head.readUInt32LE(8) : head.readUInt16LE(8);
  const begin = long ? 12 : 10;
  const header = head.subarray(begin, begin + length).toString("latin1");
  const type = /'descr':\s*'([^']*)'/.exec(header)?.[1];
  const shape = /'shape':\s*\(([^)]*)\)/.exec(header)?.[1];
  if (type !== "|u1" && type !== "u1") {
    throw new Error(`holds values of type ${type ?? "unknown"}, expected bytes (uint8)`);
  }
  if (/'fortran_order':\s*True/.test(header)) {
    throw new Error("is in Fortran order, expected C order");
  }
  return {
    shape: (shape ?? "").split(",").flatMap((part) => (part.trim() === "" ? [] : [Number(part)])),
    offset: begin + length,
  };
}

/** The header of an IDX array of bytes. @throws Error when it is another file or type */
export function idxHeader(head: Buffer): ArrayHeader {
  if (head.length < 4 || head[0] !== 0 || head[1] !== 0 || head[2] !== 8) {
    throw new Error("is no IDX file of bytes");
  }
  const dimensions = head[3]!;
  return {
    shape: Array.from({ length: dimensions }, (_, i) => head.readUInt32BE(4 + 4 * i)),
    offset: 4 + 4 * dimensions,
  };
}

/** A whole IDX file, gunzipped where it is compressed. */
export function readIdx(path: string): { shape: readonly number[]; data: Uint8Array } {
  const raw = readFileSync(path);
  const bytes = raw[0] === 0x1f && raw[1] === 0x8b ? gunzipSync(raw) : raw;
  const { shape, offset } = idxHeader(bytes);
  const count = shape.reduce((product, n) => product * n, 1);
  if (bytes.length < offset + count) {
    throw new Error(`ends early: ${bytes.length - offset} of ${count} values`);
  }
  return { shape, data: bytes.subarray(offset, offset + count) };
}
