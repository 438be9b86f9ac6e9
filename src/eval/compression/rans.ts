/**
 * @file Range asymmetric numeral systems (Duda 2013), byte-wise with a state of 31 bits, for tables
 * that do not change within a stream; and integer tables from probabilities.
 *
 * The state x is in [L, 256·L). A symbol with frequency f and cumulative frequency c out of 2^b takes
 * x to floor(x/f)·2^b + x mod f + c. Symbols go in from last to first and come out from first to last.
 */

import { UserError } from "../../config/errors.ts";

const LOWER = 2 ** 23;

/** An integer table: `cumulative` has K + 1 entries from 0 to 2^bits, strictly rising. */
export interface FrequencyTable {
  readonly bits: number;
  readonly cumulative: Uint32Array;
}

/**
 * Integer frequencies of probabilities, none of them 0, as CompressAI makes them: rounded to 2^bits,
 * scaled to the total, and empty intervals filled with single counts taken from the smallest
 * frequency above one (the first such).
 * @param pmf K probabilities, not necessarily normalised
 * @throws RangeError when K symbols do not fit, or a value is negative or not finite
 */
export function quantizePmf(pmf: ArrayLike<number>, bits: number): FrequencyTable {
  const size = pmf.length;
  const total = 2 ** bits;
  if (size < 1 || size > total) {
    throw new RangeError(`${size} symbols do not fit a table of ${bits} bits`);
  }
  const rounded = new Float64Array(size);
  let sum = 0;
  for (let i = 0; i < size; i++) {
    const p = pmf[i]!;
    if (!(p >= 0) || !Number.isFinite(p)) {
      throw new RangeError(`probability ${p} of symbol ${i} is not a number >= 0`);
    }
    rounded[i] = Math.floor(Math.fround(p * total) + 0.5);
    sum += rounded[i]!;
  }
  if (sum === 0) {
    rounded.fill(1);
    sum = size;
  }
  const cumulative = new Uint32Array(size + 1);
  let running = 0;
  for (let i = 0; i < size; i++) {
    running += Math.floor((total * rounded[i]!) / sum);
    cumulative[i + 1] = running;
  }
  cumulative[size] = total;
  for (let i = 0; i < size; i++) {
    if (cumulative[i] === cumulative[i + 1]) {
      stealFor(cumulative, i);
    }
  }
  return { bits, cumulative };
}

/** Give the empty interval `i` one count of the smallest interval that has more than one. */
function stealFor(cumulative: Uint32Array, i: number): void {
  let donor = -1;
  let smallest = Number.POSITIVE_INFINITY;
  for (let j = 0; j + 1 < cumulative.length; j++) {
    const frequency = cumulative[j + 1]! - cumulative[j]!;
    if (frequency > 1 && frequency < smallest) {
      smallest = frequency;
      donor = j;
    }
  }
  if (donor < i) {
    for (let j = donor + 1; j <= i; j++) {
      cumulative[j]! -= 1;
    }
  } else {
    for (let j = i + 1; j <= donor; j++) {
      cumulative[j]! += 1;
    }
  }
}

/** Code symbols with one table. @throws RangeError for a symbol outside of the table */
export function encodeRans(symbols: ArrayLike<number>, table: FrequencyTable): Uint8Array {
  const { bits, cumulative } = table;
  const size = cumulative.length - 1;
  // A symbol gives at most two bytes; they are written from the end, as they are read from the front.
  const bytes = new Uint8Array(symbols.length * 2 + 4);
  let at = bytes.length;
  const scale = 2 ** bits;
  const step = (LOWER >>> bits) * 256;
  let x = LOWER;
  for (let i = symbols.length - 1; i >= 0; i--) {
    const symbol = symbols[i]!;
    if (!(symbol >= 0 && symbol < size)) {
      throw new RangeError(`symbol ${symbol} is outside of an alphabet of ${size}`);
    }
    const start = cumulative[symbol]!;
    const frequency = cumulative[symbol + 1]! - start;
    const limit = step * frequency;
    while (x >= limit) {
      bytes[--at] = x;
      x >>>= 8;
    }
    const quotient = Math.floor(x / frequency); // x < 2^31: float64 divides exactly enough
    x = quotient * scale + (x - quotient * frequency) + start;
  }
  // The state goes in front, lowest byte first.
  for (let k = 3; k >= 0; k--) {
    bytes[--at] = x >>> (8 * k);
  }
  return bytes.slice(at);
}

/**
 * The `count` symbols of a stream.
 * @throws UserError when the stream ends too early or does not end where it began
 */
export function decodeRans(
  bytes: Uint8Array,
  count: number,
  { bits, cumulative }: FrequencyTable,
): Int32Array {
  const damaged = (what: string): UserError =>
    new UserError(`the coded tokens ${what}`, "the file is damaged: copy it again");
  if (bytes.length < 4) {
    throw damaged("end too early");
  }
  // Which symbol each of the 2^bits places belongs to.
  const lookup = new Uint32Array(2 ** bits);
  for (let s = 0; s + 1 < cumulative.length; s++) {
    lookup.fill(s, cumulative[s]!, cumulative[s + 1]!);
  }
  const mask = 2 ** bits - 1;
  const symbols = new Int32Array(count);
  let x = (bytes[0]! | (bytes[1]! << 8) | (bytes[2]! << 16) | (bytes[3]! << 24)) >>> 0;
  let at = 4;
  for (let i = 0; i < count; i++) {
    const place = x & mask;
    const symbol = lookup[place]!;
    const start = cumulative[symbol]!;
    x = (cumulative[symbol + 1]! - start) * (x >>> bits) + place - start;
    while (x < LOWER && at < bytes.length) {
      x = x * 256 + bytes[at++]!;
    }
    symbols[i] = symbol;
    if (x < LOWER) {
      throw damaged("end too early");
    }
  }
  if (x !== LOWER || at !== bytes.length) {
    throw damaged("do not end where they should");
  }
  return symbols;
}
