/** @file Element types of weight files, and their values in the types that devices take. */

import { float32, type HostTensor, int32, sizeOf, uint8, bool } from "../tensors.ts";
import { BadFile } from "./bytes.ts";

/** Element types by the names of safetensors. */
export const elementBytes = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
} as const;

export type Element = keyof typeof elementBytes;

export function isElement(name: unknown): name is Element {
  return typeof name === "string" && Object.hasOwn(elementBytes, name);
}

/** The number of values of a shape. Throws BadFile when a side is no whole number or all is too many. */
export function countOf(shape: readonly number[], name: string): number {
  const count = sizeOf(shape);
  if (!shape.every((side) => Number.isSafeInteger(side) && side >= 0) || count > 2 ** 40) {
    throw new BadFile(`tensor "${name}" has the impossible shape [${shape.join(", ")}]`);
  }
  return count;
}

/** An IEEE half as a number. */
export function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) {
    return sign * fraction * 2 ** -24;
  }
  return exponent === 31
    ? fraction
      ? Number.NaN
      : sign * Number.POSITIVE_INFINITY
    : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/**
 * A tensor from its little-endian bytes: real numbers become float32, integers int32.
 * @throws BadFile when the number of bytes does not fit, or a 64-bit integer is beyond 32 bits
 */
export function decodeElements(
  element: Element,
  shape: readonly number[],
  bytes: Uint8Array,
  name: string,
): HostTensor {
  const count = countOf(shape, name);
  if (bytes.length !== count * elementBytes[element]) {
    throw new BadFile(
      `tensor "${name}" of [${shape.join(", ")}] ${element} has ${bytes.length} bytes, expected ${count * elementBytes[element]}`,
    );
  }
  // Typed arrays need alignment, which a slice of its own has.
  const own = bytes.byteOffset % 8 === 0 ? bytes : bytes.slice();
  const at = [own.buffer, own.byteOffset, count] as const;
  switch (element) {
    case "F32":
      return float32(shape, new Float32Array(...at));
    case "F64":
      return float32(shape, Float32Array.from(new Float64Array(...at)));
    case "F16":
      return float32(shape, Float32Array.from(new Uint16Array(...at), halfToNumber));
    case "BF16": {
      const bits = Uint32Array.from(new Uint16Array(...at), (half) => half << 16);
      return float32(shape, new Float32Array(bits.buffer));
    }
    case "I64":
      return int32(
        shape,
        Int32Array.from(new BigInt64Array(...at), (value) => {
          if (BigInt.asIntN(32, value) !== value) {
            throw new BadFile(`tensor "${name}" holds ${value}, which does not fit 32 bits`);
          }
          return Number(value);
        }),
      );
    case "I32":
      return int32(shape, new Int32Array(...at));
    case "I16":
      return int32(shape, Int32Array.from(new Int16Array(...at)));
    case "I8":
      return int32(shape, Int32Array.from(new Int8Array(...at)));
    case "U8":
      return uint8(shape, new Uint8Array(...at));
    case "BOOL":
      return bool(shape, new Uint8Array(...at));
  }
}
