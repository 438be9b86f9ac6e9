/**
 * @file Bits of token streams. Nominal bits are what a fixed-length code spends, log2 K a token; the
 * adaptive code lengths are what an arithmetic coder spends that learns the frequencies as it goes
 * (Krichevsky & Trofimov 1981 for the add-½ estimator), so they need no table on the other side and
 * are honest sizes of real files to within two bits. The empirical entropy is below any of them: it
 * is told the frequencies of the very tokens that it codes.
 */

import { UserError } from "../config/errors.ts";

/** Added to each count before the first symbol: 1 (Laplace) or ½ (Krichevsky-Trofimov). */
export type Estimator = "laplace" | "kt";

const initialCount: Record<Estimator, number> = { laplace: 1, kt: 0.5 };

/**
 * Adaptive code length, fed symbol by symbol: -log2 of (count + α) / (total + αK), counts taken
 * before the symbol. With `order` 1 the counts are those after the same previous symbol.
 */
export class AdaptiveCode {
  #bits = 0;
  #symbols = 0;
  #previous: number;
  readonly #alpha: number;
  /** Counts of symbols by context; only what was seen takes memory. */
  readonly #contexts = new Map<number, { total: number; readonly counts: Map<number, number> }>();

  /**
   * @param size the alphabet's size K
   * @param order symbols of context: 0 or 1
   */
  constructor(
    readonly size: number,
    estimator: Estimator,
    readonly order: 0 | 1 = 0,
  ) {
    if (!Number.isSafeInteger(size) || size < 1) {
      throw new UserError(
        `an adaptive code has an alphabet of 1 to 2^53 symbols, got ${size}`,
        "code the factors one by one (`alphabet: factors`)",
      );
    }
    this.#alpha = initialCount[estimator];
    this.#previous = size;
  }

  /** Bits so far. */
  get bits(): number {
    return this.#bits;
  }

  /** Symbols so far. */
  get symbols(): number {
    return this.#symbols;
  }

  /** Code one symbol in [0, K). */
  add(symbol: number): void {
    if (!(symbol >= 0 && symbol < this.size)) {
      throw new RangeError(`symbol ${symbol} is outside of an alphabet of ${this.size}`);
    }
    const key = this.order === 1 ? this.#previous : 0;
    let context = this.#contexts.get(key);
    if (!context) {
      context = { total: 0, counts: new Map() };
      this.#contexts.set(key, context);
    }
    const count = context.counts.get(symbol) ?? 0;
    this.#bits -= Math.log2((count + this.#alpha) / (context.total + this.#alpha * this.size));
    context.counts.set(symbol, count + 1);
    context.total += 1;
    this.#previous = symbol;
    this.#symbols += 1;
  }

  /** Forget the previous symbol: the next one starts a stream of its own (order 1). */
  restart(): void {
    this.#previous = this.size;
  }
}

/** Bits a pixel of the original frames (T·H·W, without any padding that a model adds). */
export function bitsPerPixel(
  bits: number,
  clip: { readonly frames: number; readonly height: number; readonly width: number },
): number {
  const pixels = clip.frames * clip.height * clip.width;
  if (!(pixels > 0) || !(bits >= 0)) {
    throw new UserError(`bits a pixel of ${bits} bits over ${pixels} pixels are not defined`);
  }
  return bits / pixels;
}
