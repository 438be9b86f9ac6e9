/**
 * @file Frequencies that both sides of a code learn on the way (order 0): every symbol starts with a
 * count of one and gains `gain` each time it occurs. Cumulative counts live in a Fenwick tree
 * (Fenwick 1994), so a symbol costs O(log K) in vocabularies of any size.
 */

import { type ArithmeticDecoder, type ArithmeticEncoder, maxTotal } from "./arithmetic.ts";

/** The largest alphabet of one model; larger vocabularies are coded in digits. */
export const maxAlphabet = 2 ** 16;

export class AdaptiveModel {
  /** tree[i] sums counts of (i - lowbit(i), i], 1-based. */
  readonly #tree: Float64Array;
  readonly #counts: Float64Array;
  #total: number;

  /**
   * @param size the alphabet's size K, at most 2^16
   * @param gain added to a symbol's count each time it occurs. More than one learns faster: with
   *   K symbols and few tokens, the initial counts would otherwise outweigh what was seen
   */
  constructor(
    readonly size: number,
    readonly gain = 1,
  ) {
    if (!Number.isInteger(size) || size < 1 || size > maxAlphabet) {
      throw new RangeError(`an adaptive model has 1 to ${maxAlphabet} symbols, got ${size}`);
    }
    this.#counts = new Float64Array(size).fill(1);
    this.#tree = new Float64Array(size + 1);
    this.#total = size;
    this.#rebuild();
  }

  encode(coder: ArithmeticEncoder, symbol: number): void {
    if (!(symbol >= 0 && symbol < this.size)) {
      throw new RangeError(`symbol ${symbol} is outside of an alphabet of ${this.size}`);
    }
    coder.encode(this.#before(symbol), this.#counts[symbol]!, this.#total);
    this.#add(symbol);
  }

  decode(coder: ArithmeticDecoder): number {
    const { symbol, before } = this.#find(coder.target(this.#total));
    coder.decode(before, this.#counts[symbol]!, this.#total);
    this.#add(symbol);
    return symbol;
  }

  #before(symbol: number): number {
    let sum = 0;
    for (let i = symbol; i > 0; i -= i & -i) {
      sum += this.#tree[i]!;
    }
    return sum;
  }

  /** The symbol whose interval contains `target`: a descent of the tree. */
  #find(target: number): { symbol: number; before: number } {
    let at = 0;
    let before = 0;
    for (let step = 2 ** Math.floor(Math.log2(this.size)); step >= 1; step /= 2) {
      if (at + step <= this.size && before + this.#tree[at + step]! <= target) {
        at += step;
        before += this.#tree[at]!;
      }
    }
    return { symbol: Math.min(at, this.size - 1), before };
  }

  #add(symbol: number): void {
    this.#counts[symbol]! += this.gain;
    this.#total += this.gain;
    for (let i = symbol + 1; i <= this.size; i += i & -i) {
      this.#tree[i]! += this.gain;
    }
    if (this.#total + this.gain > maxTotal) {
      // Halving keeps the coder exact, and lets old habits fade.
      this.#total = 0;
      for (let i = 0; i < this.size; i++) {
        this.#counts[i] = Math.ceil(this.#counts[i]! / 2);
        this.#total += this.#counts[i]!;
      }
      this.#rebuild();
    }
  }

  #rebuild(): void {
    this.#tree.fill(0);
    for (let i = 1; i <= this.size; i++) {
      this.#tree[i]! += this.#counts[i - 1]!;
      const parent = i + (i & -i);
      if (parent <= this.size) {
        this.#tree[parent]! += this.#tree[i]!;
      }
    }
  }
}
