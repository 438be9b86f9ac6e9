/** @file The fields of a protocol-buffers message, for the few message types that weight files have. */

import { BadFile, Cursor } from "./bytes.ts";

/** One field: a number for varints and fixed ones (their bits), bytes for the rest. */
export interface Field {
  readonly number: number;
  readonly value: bigint | Uint8Array;
}

/** All fields of a message in their order. Throws BadFile when it is damaged. */
export function* fields(message: Uint8Array): Generator<Field> {
  const cursor = new Cursor(message);
  while (!cursor.ended) {
    const key = cursor.varint();
    const number = Math.floor(key / 8);
    switch (key % 8) {
      case 0:
        yield { number, value: cursor.varint64() };
        break;
      case 1:
        yield { number, value: littleEndian(cursor.take(8)) };
        break;
      case 2:
        yield { number, value: cursor.take(cursor.varint()) };
        break;
      case 5:
        yield { number, value: littleEndian(cursor.take(4)) };
        break;
      default:
        throw new BadFile(`a message has a field of the unknown kind ${key % 8}`);
    }
  }
}

function littleEndian(bytes: Uint8Array): bigint {
  return bytes.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n);
}

/** A field that must be bytes. */
export function bytesOf({ value, number }: Field): Uint8Array {
  if (typeof value === "bigint") {
    throw new BadFile(`field ${number} of a message is a number, expected bytes`);
  }
  return value;
}

/** A field that must be a number. */
export function numberOf({ value, number }: Field): number {
  if (typeof value !== "bigint" || value > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new BadFile(`field ${number} of a message is no whole number below 2^53`);
  }
  return Number(value);
}

/** A repeated integer: packed, or one of its values. */
export function integersOf(field: Field): number[] {
  if (typeof field.value === "bigint") {
    return [numberOf(field)];
  }
  const cursor = new Cursor(field.value);
  const values: number[] = [];
  while (!cursor.ended) {
    values.push(cursor.varint());
  }
  return values;
}
