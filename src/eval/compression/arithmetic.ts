/**
 * @file Arithmetic coding with integer frequencies (Witten, Neal & Cleary 1987): 32-bit interval,
 * carries deferred by counting bits that straddle the middle, bits written from the highest down.
 * The two sides see the same integers, so a file decodes wherever the frequencies can be computed
 * again. Totals may change from symbol to symbol, which adaptive models and learned priors need.
 */

import { UserError } from "../../config/errors.ts";

const HALF = 0x80000000;
const QUARTER = 0x40000000;
const TOP = 0xffffffff;

/** Largest total of frequencies: every product stays an exact integer of float64. */
export const maxTotal = 2 ** 20;

/** Writes symbols as intervals [low, low + frequency) of a total. */
export class ArithmeticEncoder {
  #low = 0;
  #high = TOP;
  #pending = 0;
  #bytes = new Uint8Array(1024);
  #bits = 0;

  /** @param low cumulative frequency before the symbol; @param frequency its own, at least 1 */
  encode(low: number, frequency: number, total: number): void {
    const range = this.#high - this.#low + 1;
    this.#high = this.#low + Math.floor((range * (low + frequency)) / total) - 1;
    this.#low = this.#low + Math.floor((range * low) / total);
    for (;;) {
      if (this.#high < HALF) {
        this.#put(0);
      } else if (this.#low >= HALF) {
        this.#put(1);
        this.#low -= HALF;
        this.#high -= HALF;
      } else if (this.#low >= QUARTER && this.#high < HALF + QUARTER) {
        this.#pending += 1;
        this.#low -= QUARTER;
        this.#high -= QUARTER;
      } else {
        return;
      }
      this.#low *= 2;
      this.#high = this.#high * 2 + 1;
    }
  }

  /** Bits written so far, those still pending included. */
  get bits(): number {
    return this.#bits + this.#pending;
  }

  /** Two bits that name a quarter inside of the interval, then the bytes. */
  finish(): Uint8Array {
    this.#pending += 1;
    this.#put(this.#low < QUARTER ? 0 : 1);
    return this.#bytes.slice(0, Math.ceil(this.#bits / 8));
  }

  #put(bit: 0 | 1): void {
    this.#one(bit);
    // The bits that straddled the middle are the opposite of the one that decided it.
    for (let left = this.#pending; left > 0; left--) {
      this.#one(bit === 0 ? 1 : 0);
    }
    this.#pending = 0;
  }

  #one(bit: 0 | 1): void {
    const at = this.#bits >>> 3;
    if (at >= this.#bytes.length) {
      const grown = new Uint8Array(this.#bytes.length * 2);
      grown.set(this.#bytes);
      this.#bytes = grown;
    }
    if (bit === 1) {
      this.#bytes[at]! |= 0x80 >>> (this.#bits & 7);
    }
    this.#bits += 1;
  }
}

/** Reads what an `ArithmeticEncoder` wrote, given the same totals and frequencies. */
export class ArithmeticDecoder {
  #low = 0;
  #high = TOP;
  #value = 0;
  #next = 0;
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    for (let i = 0; i < 32; i++) {
      this.#value = this.#value * 2 + this.#bit();
    }
  }

  /** Where in [0, total) the next symbol's interval contains the code. */
  target(total: number): number {
    const range = this.#high - this.#low + 1;
    return Math.floor(((this.#value - this.#low + 1) * total - 1) / range);
  }

  /** Take the symbol whose interval `target` fell into. */
  decode(low: number, frequency: number, total: number): void {
    const range = this.#high - this.#low + 1;
    this.#high = this.#low + Math.floor((range * (low + frequency)) / total) - 1;
    this.#low = this.#low + Math.floor((range * low) / total);
    for (;;) {
      if (this.#high < HALF) {
        // the first half: only double
      } else if (this.#low >= HALF) {
        this.#low -= HALF;
        this.#high -= HALF;
        this.#value -= HALF;
      } else if (this.#low >= QUARTER && this.#high < HALF + QUARTER) {
        this.#low -= QUARTER;
        this.#high -= QUARTER;
        this.#value -= QUARTER;
      } else {
        return;
      }
      this.#low *= 2;
      this.#high = this.#high * 2 + 1;
      this.#value = this.#value * 2 + this.#bit();
    }
  }

  /** Zeros follow the last byte. A stream that runs far past its end is damaged. */
  #bit(): number {
    const at = this.#next >>> 3;
    if (at > this.#bytes.length + 8) {
      throw new UserError("the coded tokens end too early", "the file is damaged: copy it again");
    }
    const bit = at < this.#bytes.length ? (this.#bytes[at]! >>> (7 - (this.#next & 7))) & 1 : 0;
    this.#next += 1;
    return bit;
  }
}
