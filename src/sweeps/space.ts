/**
 * @file Points spread over a space: independent draws, Latin hypercubes (McKay et al. 1979), and
 * Sobol sequences (Sobol 1967) with the direction numbers of Joe and Kuo (2008), shifted at random
 * modulo 1 (Cranley and Patterson 1976) so that different seeds give different points.
 */

import { UserError } from "../config/errors.ts";
import type { Json } from "../config/tree.ts";
import { Random } from "../runtime/random.ts";
import type { Dimension, Space } from "./schema.ts";

/** Joe and Kuo's new-joe-kuo-6: degree s, coefficient a, initial numbers m; dimensions 2 to 21. */
const JOE_KUO: readonly (readonly [s: number, a: number, m: readonly number[]])[] = [
  [1, 0, [1]],
  [2, 1, [1, 3]],
  [3, 1, [1, 3, 1]],
  [3, 2, [1, 1, 1]],
  [4, 1, [1, 1, 3, 3]],
  [4, 4, [1, 3, 5, 13]],
  [5, 2, [1, 1, 5, 5, 17]],
  [5, 4, [1, 1, 5, 5, 5]],
  [5, 7, [1, 1, 7, 11, 19]],
  [5, 11, [1, 1, 5, 1, 1]],
  [5, 13, [1, 1, 1, 3, 11]],
  [5, 14, [1, 3, 5, 5, 31]],
  [6, 1, [1, 3, 3, 9, 7, 49]],
  [6, 13, [1, 1, 1, 15, 21, 21]],
  [6, 16, [1, 3, 1, 13, 27, 49]],
  [6, 19, [1, 1, 1, 15, 7, 5]],
  [6, 22, [1, 3, 1, 15, 13, 25]],
  [6, 25, [1, 1, 5, 5, 19, 61]],
  [7, 1, [1, 3, 7, 11, 23, 15, 103]],
  [7, 4, [1, 3, 7, 13, 13, 15, 69]],
];
const BITS = 32;

/** Dimensions that the Sobol sequence has here. */
export const sobolDimensions = JOE_KUO.length + 1;

/** Direction numbers v_1..v_32 of one dimension (0-based), as unsigned 32-bit integers. */
function directions(dimension: number): Uint32Array {
  const v = new Uint32Array(BITS);
  if (dimension === 0) {
    return v.map((_, i) => (1 << (BITS - 1 - i)) >>> 0);
  }
  const [s, a, m] = JOE_KUO[dimension - 1]!;
  for (let i = 0; i < BITS; i++) {
    if (i < s) {
      v[i] = (m[i]! << (BITS - 1 - i)) >>> 0;
      continue;
    }
    let value = v[i - s]! ^ (v[i - s]! >>> s);
    for (let k = 1; k < s; k++) {
      value ^= ((a >> (s - 1 - k)) & 1) * v[i - k]!;
    }
    v[i] = value >>> 0;
  }
  return v;
}

/**
 * The first points of the Sobol sequence, the origin included, in Gray-code order.
 * @returns `count` rows of `dimensions` numbers in [0, 1)
 */
export function sobol(count: number, dimensions: number): number[][] {
  if (dimensions > sobolDimensions) {
    throw new UserError(
      `a Sobol sequence of ${dimensions} dimensions; at most ${sobolDimensions} are supported`,
      "use `method: latin-hypercube` or `random`",
    );
  }
  const table = Array.from({ length: dimensions }, (_, d) => directions(d));
  const state = new Uint32Array(dimensions);
  return Array.from({ length: count }, (_, n) => {
    if (n > 0) {
      const bit = 31 - Math.clz32(n & -n); // the lowest set bit of n: where the Gray code changes
      for (let d = 0; d < dimensions; d++) {
        state[d]! ^= table[d]![bit]!;
      }
    }
    return Array.from(state, (x) => x / 2 ** BITS);
  });
}

/** A Latin hypercube: each of `count` slices of every dimension holds one point. */
export function latinHypercube(count: number, dimensions: number, seed: number): number[][] {
  const columns = Array.from({ length: dimensions }, (_, d) => {
    const random = new Random(seed, "sweeps/latin-hypercube", d);
    const order = random.permutation(count);
    return Array.from(order, (slice) => (slice + random.uniform()) / count);
  });
  return Array.from({ length: count }, (_, n) => columns.map((column) => column[n]!));
}

/** Uniform numbers in [0, 1), `count` rows of `dimensions`. */
export function unitPoints(
  method: "random" | "sobol" | "latin-hypercube",
  count: number,
  dimensions: number,
  seed: number,
): number[][] {
  if (method === "latin-hypercube") {
    return latinHypercube(count, dimensions, seed);
  }
  if (method === "random") {
    return Array.from({ length: count }, (_, n) => {
      const random = new Random(seed, "sweeps/random", n);
      return Array.from({ length: dimensions }, () => random.uniform());
    });
  }
  const random = new Random(seed, "sweeps/sobol-shift");
  const shift = Array.from({ length: dimensions }, () => random.uniform());
  return sobol(count, dimensions).map((row) => row.map((x, d) => (x + shift[d]!) % 1));
}

/** A value of a dimension from a number in [0, 1). */
export function fromUnit(dimension: Dimension, u: number): Json {
  if ("choice" in dimension) {
    const { choice } = dimension;
    return choice[Math.min(choice.length - 1, Math.floor(u * choice.length))] as Json;
  }
  if ("uniform" in dimension) {
    const [low, high] = dimension.uniform;
    return rounded(low + u * (high - low));
  }
  if ("log_uniform" in dimension) {
    const [low, high] = dimension.log_uniform;
    return rounded(Math.exp(Math.log(low) + u * (Math.log(high) - Math.log(low))));
  }
  if ("int" in dimension) {
    const [low, high] = dimension.int;
    return Math.min(high, low + Math.floor(u * (high - low + 1)));
  }
  const [low, high] = dimension.log_int;
  const x = Math.exp(Math.log(low) + u * (Math.log(high + 1) - Math.log(low)));
  return Math.min(high, Math.max(low, Math.floor(x)));
}

/** Six significant digits: a config should be readable, and its hash not hang on a last bit. */
function rounded(value: number): number {
  return Number(value.toPrecision(6));
}

/** Points of a space as values by key. */
export function samplePoints(
  space: Space,
  method: "random" | "sobol" | "latin-hypercube",
  count: number,
  seed: number,
): { [key: string]: Json }[] {
  const keys = Object.keys(space);
  return unitPoints(method, count, keys.length, seed).map((row) =>
    Object.fromEntries(keys.map((key, d) => [key, fromUnit(space[key]!, row[d]!)])),
  );
}
