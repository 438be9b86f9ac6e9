/** @file The counter-based generator: known answers of Philox, independence, and its distributions. */

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { philox4x32, Random } from "../../src/runtime/random.ts";

type Four = [number, number, number, number];

function philox(counter: Four, key: [number, number]): string {
  const out = new Uint32Array(4);
  philox4x32(counter, key, out);
  return Array.from(out, (word) => word.toString(16).padStart(8, "0")).join(" ");
}

const FULL = 0xffffffff;

describe("Philox4x32-10", () => {
  test("gives the known answers of Random123", () => {
    expect(philox([0, 0, 0, 0], [0, 0])).toBe("6627e8d5 e169c58d bc57ac4c 9b00dbd8");
    expect(philox([FULL, FULL, FULL, FULL], [FULL, FULL])).toBe(
      "408f276d 41c83b0e a20bc7c6 6d5451fd",
    );
    expect(philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])).toBe(
      "d16cfe09 94fdcceb 5001e420 24126ea1",
    );
  });

  test("is the ten rounds of its definition, in exact integers", () => {
    const word = fc.nat(FULL);
    fc.assert(
      fc.property(fc.tuple(word, word, word, word), fc.tuple(word, word), (counter, key) => {
        let [a, b, c, d] = counter.map(BigInt) as [bigint, bigint, bigint, bigint];
        let [k, l] = key.map(BigInt) as [bigint, bigint];
        for (let round = 0; round < 10; round++) {
          const [x, y] = [0xd2511f53n * a, 0xcd9e8d57n * c];
          [a, b, c, d] = [(y >> 32n) ^ b ^ k, y, (x >> 32n) ^ d ^ l, x].map((v) =>
            BigInt.asUintN(32, v),
          ) as [bigint, bigint, bigint, bigint];
          k = BigInt.asUintN(32, k + 0x9e3779b9n);
          l = BigInt.asUintN(32, l + 0xbb67ae85n);
        }
        const want = [a, b, c, d].map((v) => v.toString(16).padStart(8, "0")).join(" ");
        expect(philox(counter, key)).toBe(want);
      }),
      { seed: 1, numRuns: 200 },
    );
  });
});

describe("Random", () => {
  const draw = (seed: number, stream: string, step: number) =>
    Array.from(
      { length: 8 },
      (
        (random) => () =>
          random.uint32()
      )(new Random(seed, stream, step)),
    );

  test("equal seed, stream and step give equal numbers; a change of any gives others", () => {
    const place = fc.tuple(fc.maxSafeInteger(), fc.string(), fc.nat({ max: 2 ** 40 }));
    fc.assert(
      fc.property(place, place, (a, b) => {
        expect(draw(...a)).toEqual(draw(...a));
        const same = a.every((part, i) => part === b[i]);
        expect(draw(...a).join() === draw(...b).join()).toBe(same);
        expect(draw(a[0], a[1], a[2] + 1)).not.toEqual(draw(...a));
        expect(draw(a[0], `${a[1]}x`, a[2])).not.toEqual(draw(...a));
      }),
      { seed: 1, numRuns: 100 },
    );
  });

  test("steps beyond 2^32 are steps of their own", () => {
    expect(draw(1, "s", 2 ** 32 + 5)).not.toEqual(draw(1, "s", 5));
  });

  test("streams are not correlated", () => {
    const n = 4000;
    const a = new Random(1, "a").normals(n);
    const b = new Random(1, "b").normals(n);
    const next = new Random(1, "a", 1).normals(n);
    const correlation = (x: Float32Array, y: Float32Array) =>
      x.reduce((sum, v, i) => sum + v * y[i]!, 0) / n;
    expect(Math.abs(correlation(a, b))).toBeLessThan(4 / Math.sqrt(n));
    expect(Math.abs(correlation(a, next))).toBeLessThan(4 / Math.sqrt(n));
    expect(Math.abs(correlation(a.subarray(1), a.subarray(0, n - 1)))).toBeLessThan(
      4 / Math.sqrt(n),
    );
  });

  test("uniform numbers fill [0, 1) evenly", () => {
    const n = 64_000;
    const values = new Random(3, "uniform").uniforms(n);
    expect(values.every((v) => v >= 0 && v < 1)).toBe(true);
    const counts = new Float64Array(64);
    values.forEach((v) => {
      counts[Math.floor(v * 64)]! += 1;
    });
    const chi2 = counts.reduce((sum, c) => sum + (c - 1000) ** 2 / 1000, 0);
    expect(chi2).toBeGreaterThan(30); // 63 degrees of freedom: 63 ± 11; too even is wrong too
    expect(chi2).toBeLessThan(110);
  });

  test("each bit of uint32 is set half of the time", () => {
    const random = new Random(5, "bits");
    const set = new Uint32Array(32);
    const n = 20_000;
    for (let i = 0; i < n; i++) {
      const word = random.uint32();
      for (let bit = 0; bit < 32; bit++) {
        set[bit]! += (word >>> bit) & 1;
      }
    }
    for (const count of set) {
      expect(Math.abs(count - n / 2)).toBeLessThan(4.5 * Math.sqrt(n / 4));
    }
  });

  test("normal numbers have the moments and tails of a standard normal", () => {
    const n = 100_000;
    const values = new Random(3, "normal").normals(n);
    const moment = (k: number) => values.reduce((sum, v) => sum + v ** k, 0) / n;
    expect(moment(1)).toBeCloseTo(0, 1);
    expect(Math.abs(moment(2) - 1)).toBeLessThan(0.02);
    expect(Math.abs(moment(3))).toBeLessThan(0.05);
    expect(Math.abs(moment(4) - 3)).toBeLessThan(0.12);
    expect(values.filter((v) => Math.abs(v) > 1.959964).length / n).toBeCloseTo(0.05, 2);
    expect(values.every(Number.isFinite)).toBe(true);
  });

  test("int(n) is in range and even, also where n does not divide 2^32", () => {
    const random = new Random(9, "int");
    const counts = new Float64Array(7);
    for (let i = 0; i < 14_000; i++) {
      counts[random.int(7)]! += 1;
    }
    const chi2 = counts.reduce((sum, c) => sum + (c - 2000) ** 2 / 2000, 0);
    expect(chi2).toBeLessThan(22.5); // 6 degrees of freedom, p = 0.001
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 32 }), fc.nat(), (n, seed) => {
        const drawn = new Random(seed, "range").int(n);
        expect(Number.isInteger(drawn) && drawn >= 0 && drawn < n).toBe(true);
      }),
      { seed: 1, numRuns: 300 },
    );
  });

  test("a permutation holds each index once, and every order is as likely", () => {
    fc.assert(
      fc.property(fc.nat({ max: 200 }), fc.nat(), (n, seed) => {
        const order = new Random(seed, "permutation").permutation(n);
        expect(Array.from(order).sort((a, b) => a - b)).toEqual(
          Array.from({ length: n }, (_, i) => i),
        );
      }),
      { seed: 1, numRuns: 50 },
    );
    const counts = new Map<string, number>();
    for (let i = 0; i < 6000; i++) {
      const order = new Random(2, "orders", i).permutation(3).join("");
      counts.set(order, (counts.get(order) ?? 0) + 1);
    }
    expect(counts.size).toBe(6);
    for (const count of counts.values()) {
      expect(Math.abs(count - 1000)).toBeLessThan(130);
    }
  });
});
