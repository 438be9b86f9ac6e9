/**
 * @file How a vocabulary is used: counts of codes over an evaluation set, and usage, entropy,
 * perplexity, dead codes and evenness of those counts. Perplexity e^H as in van den Oord et al. 2017;
 * usage and the 10th/90th percentile of count over mean count as MAGVIT (Yu et al. 2023) reports them.
 */

import { UserError } from "../config/errors.ts";

/** Above this many codes counts are kept for seen codes only. */
const denseLimit = 2 ** 22;

/**
 * Counts of codes in [0, size). Holds an array for usual vocabularies and a map of the codes seen
 * for the huge ones of lookup-free quantizers, so memory is bounded by the data.
 */
export class CodeCounts {
  #total = 0;
  readonly #dense: Uint32Array | undefined;
  readonly #sparse = new Map<number, number>();

  /** @param size the vocabulary's size K, at most 2^53 */
  constructor(readonly size: number) {
    if (!Number.isSafeInteger(size) || size < 1) {
      throw new UserError(
        `codes can be counted one by one in a vocabulary of 1 to 2^53 codes, got ${size}`,
        "count its factors one by one instead",
      );
    }
    this.#dense = size <= denseLimit ? new Uint32Array(size) : undefined;
  }

  /** Number of codes counted. */
  get total(): number {
    return this.#total;
  }

  /** Count one code. */
  add(code: number): void {
    if (!(code >= 0 && code < this.size)) {
      throw new RangeError(`code ${code} is outside of a vocabulary of ${this.size}`);
    }
    if (this.#dense) {
      this.#dense[code]! += 1;
    } else {
      this.#sparse.set(code, (this.#sparse.get(code) ?? 0) + 1);
    }
    this.#total += 1;
  }

  /** How often a code was counted. */
  of(code: number): number {
    return this.#dense ? this.#dense[code]! : (this.#sparse.get(code) ?? 0);
  }

  /** The counts above zero, ascending. */
  positive(): Float64Array {
    const counts = this.#dense ? this.#dense.filter((count) => count > 0) : this.#sparse.values();
    return Float64Array.from(counts).sort();
  }
}

/**
 * The code of a token as one number: its sub-ids in mixed radix, the first factor the most
 * significant.
 */
export function jointCode(ids: Int32Array, from: number, factors: readonly number[]): number {
  let code = 0;
  for (let f = 0; f < factors.length; f++) {
    code = code * factors[f]! + ids[from + f]!;
  }
  return code;
}

export interface CodebookStatistics {
  /** Tokens counted. */
  readonly tokens: number;
  /** Share of the vocabulary seen at least once, in [0, 1]; at most tokens / K. */
  readonly usage: number;
  /** Codes never seen. */
  readonly dead: number;
  /** Entropy of the code's frequency in bits. */
  readonly entropyBits: number;
  /** e^H: the number of equally frequent codes with the same entropy, 1 to K. */
  readonly perplexity: number;
  /** Entropy over log K, in [0, 1]; 0 for a vocabulary of one code. */
  readonly normalizedEntropy: number;
  /** Gini-Simpson index 1 - Σ p²: the chance that two tokens differ. */
  readonly giniSimpson: number;
  /** 10th and 90th percentile over all K codes of count / mean count (nearest rank). */
  readonly percentile10: number;
  readonly percentile90: number;
}

/** Statistics of counts. Throws a UserError when nothing was counted. */
export function codebookStatistics(counts: CodeCounts): CodebookStatistics {
  const { total, size } = counts;
  if (total === 0) {
    throw new UserError("no tokens were counted, so the codebook has no statistics");
  }
  const positive = counts.positive();
  let entropy = 0;
  let squares = 0;
  for (const count of positive) {
    const p = count / total;
    entropy -= p * Math.log(p);
    squares += p * p;
  }
  const dead = size - positive.length;
  const percentile = (share: number): number => {
    const rank = Math.max(0, Math.ceil(share * size) - 1);
    return rank < dead ? 0 : (positive[rank - dead]! * size) / total;
  };
  return {
    tokens: total,
    usage: positive.length / size,
    dead,
    // A single code gives -0.
    entropyBits: Math.max(0, entropy) / Math.LN2,
    perplexity: Math.exp(Math.max(0, entropy)),
    normalizedEntropy: size > 1 ? Math.max(0, entropy) / Math.log(size) : 0,
    giniSimpson: 1 - squares,
    percentile10: percentile(0.1),
    percentile90: percentile(0.9),
  };
}
