/**
 * @file Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As
 * Easy as 1, 2, 3", SC 2011).
 *
 * Randomness in Tessera is data. Every number is a pure function of (seed, stream, step, index), so
 * a resumed run, another worker count and another device all see the same numbers. Nothing here
 * has a state that would need saving.
 */

import { createHash } from "node:crypto";

const M0 = 0xd2511f53;
const M1 = 0xcd9e8d57;
const W0 = 0x9e3779b9;
const W1 = 0xbb67ae85;

/** High and low 32 bits of a 32 × 32 bit product, by 16-bit halves (exact in float64). */
function mulHigh(a: number, b: number): number {
  const ah = a >>> 16;
  const al = a & 0xffff;
  const bh = b >>> 16;
  const bl = b & 0xffff;
  const mid = ah * bl + ((al * bl) >>> 16);
  const mid2 = al * bh + (mid & 0xffff);
  return (ah * bh + Math.floor(mid / 0x10000) + Math.floor(mid2 / 0x10000)) >>> 0;
}

/** Ten rounds of Philox4x32: 128 bits of counter and 64 bits of key to 128 random bits, in `out`. */
export function philox4x32(
  counter: readonly [number, number, number, number],
  key: readonly [number, number],
  out: Uint32Array,
): void {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const hi0 = mulHigh(M0, c0 >>> 0);
    const lo0 = Math.imul(M0, c0) >>> 0;
    const hi1 = mulHigh(M1, c2 >>> 0);
    const lo1 = Math.imul(M1, c2) >>> 0;
    c0 = (hi1 ^ c1 ^ k0) >>> 0;
    c1 = lo1;
    c2 = (hi0 ^ c3 ^ k1) >>> 0;
    c3 = lo0;
    k0 = (k0 + W0) >>> 0;
    k1 = (k1 + W1) >>> 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/**
 * The random numbers of one (seed, stream, step): a short-lived cursor over the counter space.
 * Two cursors made from the same three values give the same numbers.
 */
export class Random {
  readonly #key: readonly [number, number];
  readonly #step: number;
  readonly #block = new Uint32Array(4);
  #counter = 0;
  #used = 4;

  /**
   * @param seed any safe integer; the run's seed
   * @param stream what the numbers are for, e.g. "data/order" or "masked/mask"
   * @param step a non-negative integer below 2^53: training step, epoch, sample index, ...
   */
  constructor(seed: number, stream: string, step = 0) {
    const digest = createHash("sha256").update(`${seed}\0${stream}`).digest();
    this.#key = [digest.readUInt32LE(0), digest.readUInt32LE(4)];
    this.#step = step;
  }

  /** A uniform integer in [0, 2^32). */
  uint32(): number {
    if (this.#used === 4) {
      const step = this.#step;
      philox4x32(
        [this.#counter >>> 0, 0, step >>> 0, Math.floor(step / 0x100000000) >>> 0],
        this.#key,
        this.#block,
      );
      this.#counter += 1;
      this.#used = 0;
    }
    return this.#block[this.#used++]!;
  }

  /** A uniform number in [0, 1), with 32 random bits. */
  uniform(): number {
    return this.uint32() / 0x100000000;
  }

  /** A uniform integer in [0, n), 1 <= n <= 2^32, without modulo bias. */
  int(n: number): number {
    const limit = 0x100000000 - (0x100000000 % n);
    let draw = this.uint32();
    while (draw >= limit) {
      draw = this.uint32();
    }
    return draw % n;
  }

  /** A standard normal number (Box-Muller; both halves of the pair are used in turn). */
  #spare: number | undefined;
  normal(): number {
    if (this.#spare !== undefined) {
      const value = this.#spare;
      this.#spare = undefined;
      return value;
    }
    const radius = Math.sqrt(-2 * Math.log((this.uint32() + 1) / 0x100000000));
    const angle = 2 * Math.PI * this.uniform();
    this.#spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  /** One element of a non-empty list. */
  choice<T>(values: readonly T[]): T {
    return values[this.int(values.length)]!;
  }

  /** `n` uniform numbers in [0, 1) as float32 (the largest is below 1). */
  uniforms(n: number): Float32Array {
    // 24 bits: the float32 nearest to a 32-bit fraction can round up to 1.
    const values = new Float32Array(n);
    for (let i = 0; i < n; i++) {
      values[i] = (this.uint32() >>> 8) / 0x1000000;
    }
    return values;
  }

  /** `n` standard normal numbers as float32. */
  normals(n: number): Float32Array {
    return Float32Array.from({ length: n }, () => this.normal());
  }

  /** A uniform permutation of 0..n-1 (Fisher-Yates). */
  permutation(n: number): Uint32Array {
    const order = Uint32Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = this.int(i + 1);
      const swap = order[i]!;
      order[i] = order[j]!;
      order[j] = swap;
    }
    return order;
  }
}
