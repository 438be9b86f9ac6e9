/** @file Fréchet distance against scipy and TF-GAN's forms. */

import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { FeatureStatistics, frechetDistance } from "../../src/eval/distribution/frechet.ts";
import { kernelDistance } from "../../src/eval/distribution/kernel-distance.ts";
import {
  symmetricEigenvalues,
  traceOfProductRoot,
  useCompiled,
} from "../../src/eval/distribution/symmetric.ts";
import { Random } from "../../src/runtime/random.ts";
import { fracsin, golden } from "./golden.ts";

interface Case {
  n1: number;
  n2: number;
  d: number;
  x_first_row: number[];
  unbiased: { sym_eigh: number; tfgan_svd: number };
  biased: { sym_eigh: number };
  mu1?: number[];
  sigma1_unbiased?: number[][];
  X?: number[][];
  Y?: number[][];
}

/** base @ (I + 0.3 mixing), as the golden's `feats`. */
function features(n: number, d: number, start: number): Float64Array {
  const base = fracsin(n * d, start);
  const mix = fracsin(d * d, 5000 + start).map((v, i) => 0.3 * v + (i % (d + 1) === 0 ? 1 : 0));
  return Float64Array.from({ length: n * d }, (_, at) => {
    const row = Math.floor(at / d);
    let sum = 0;
    for (let k = 0; k < d; k++) {
      sum += base[row * d + k]! * mix[k * d + (at % d)]!;
    }
    return sum;
  });
}

function statistics(values: Float64Array, d: number): FeatureStatistics {
  const stats = new FeatureStatistics(d);
  stats.add(values);
  return stats;
}

describe.each([
  ["the compiled functions, where there are any", true],
  ["plain JavaScript", false],
])("Fréchet distance by %s", (_, native) => {
  beforeAll(() => useCompiled(native));
  afterAll(() => useCompiled(true));

  const { cases } = golden<{ cases: Case[] }>("frechet");

  it.each(cases)("agrees on $n1 and $n2 samples of $d dimensions", (expected) => {
    const { n1, n2, d } = expected;
    const x = expected.X ? Float64Array.from(expected.X.flat()) : features(n1, d, 0);
    const y = expected.Y
      ? Float64Array.from(expected.Y.flat())
      : features(n2, d, 20000).map((v) => v * 1.15 + 0.05);
    expected.x_first_row.forEach((value, i) => expect(x[i]).toBeCloseTo(value, 8));
    const a = statistics(x, d);
    const b = statistics(y, d);
    const tolerance = n1 > d ? 1e-7 : 1e-6;
    for (const divisor of ["unbiased", "biased"] as const) {
      const distance = frechetDistance(a.moments(divisor), b.moments(divisor));
      expect(Math.abs(distance - expected[divisor].sym_eigh)).toBeLessThan(tolerance);
    }
    expected.sigma1_unbiased
      ?.flat()
      .forEach((value, i) => expect(a.moments("unbiased").covariance[i]).toBeCloseTo(value, 10));
  });

  it("does not depend on how the stream is cut, and survives a large offset", () => {
    const values = features(60, 5, 0);
    const whole = statistics(values, 5).moments("unbiased");
    const cut = new FeatureStatistics(5);
    for (let row = 0; row < 60; row += 7) {
      cut.add(values.subarray(row * 5, Math.min(60, row + 7) * 5));
    }
    expect(cut.moments("unbiased")).toEqual(whole);
    const far = statistics(
      values.map((v) => v + 1e6),
      5,
    ).moments("unbiased");
    far.covariance.forEach((v, i) => expect(v).toBeCloseTo(whole.covariance[i]!, 8));
  });

  it("is a symmetric distance: 0 to itself, never below 0", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 2, max: 30 }),
        fc.integer({ min: 1, max: 8 }),
        fc.nat(),
        (n, d, seed) => {
          const random = new Random(seed, "test");
          const a = statistics(Float64Array.from(random.normals(n * d)), d).moments("unbiased");
          const b = statistics(Float64Array.from(random.normals(n * d)), d).moments("unbiased");
          expect(Math.abs(frechetDistance(a, a))).toBeLessThan(1e-6);
          expect(frechetDistance(a, b)).toBeCloseTo(frechetDistance(b, a), 6);
          expect(frechetDistance(a, b)).toBeGreaterThan(-1e-6);
        },
      ),
      { numRuns: 50 },
    );
  });

  it("refuses NaN, one sample and other dimensions, and takes constant features", () => {
    const stats = new FeatureStatistics(2);
    expect(() => stats.add(Float32Array.of(1, Number.NaN))).toThrow(/finite/);
    expect(() => statistics(Float64Array.of(1, 2), 2).moments("biased")).toThrow(/at least 2/);
    const flat = statistics(Float64Array.of(1, 2, 1, 2), 2).moments("biased");
    const moved = statistics(Float64Array.of(4, 6, 4, 6), 2).moments("biased");
    expect(frechetDistance(flat, moved)).toBe(25);
    const other = statistics(Float64Array.of(1, 2, 3), 1).moments("biased");
    expect(() => frechetDistance(flat, other)).toThrow(/one network/);
  });
});

describe("dense matrices", () => {
  it("are the same compiled and in plain JavaScript, for any size and rank", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 41 }), fc.integer({ min: 1, max: 60 }), fc.integer(), (n, rank, seed) => {
        const random = new Random(seed, "matrices");
        const scatter = (): Float64Array => {
          const rows = Float64Array.from({ length: rank * n }, () => random.normal());
          const sum = (i: number, j: number): number => rows.reduce((s, v, at) => s + (at % n === i ? v * rows[at - i + j]! : 0), 0); // biome-ignore format: one call
          return Float64Array.from({ length: n * n }, (_, at) => sum(Math.floor(at / n), at % n));
        };
        const [a, b] = [scatter(), scatter()];
        const both = [true, false].map((native) => {
          useCompiled(native);
          const values = symmetricEigenvalues(a.slice(), n).sort();
          return [traceOfProductRoot(a, b, n), ...values];
        });
        useCompiled(true);
        const size = 1e-9 * Math.max(1, ...both[1]!.map(Math.abs));
        both[0]!.forEach((value, i) => expect(Math.abs(value - both[1]![i]!)).toBeLessThan(size));
      }), // biome-ignore format: one call
      { numRuns: 40 },
    );
  });
});

describe("kernel distance", () => {
  const expected = golden<{
    full: { unbiased: number };
    unequal_64_48: { unbiased: number };
  }>("kid_kvd");
  const x = features(64, 16, 0);
  const y = features(64, 16, 20000).map((v) => v * 1.15 + 0.05);

  it("agrees with the golden for equal and unequal sets", () => {
    expect(kernelDistance(x, y, 16)).toBeCloseTo(expected.full.unbiased, 9);
    const fewer = features(48, 16, 20000).map((v) => v * 1.15 + 0.05);
    expect(kernelDistance(x, fewer, 16)).toBeCloseTo(expected.unequal_64_48.unbiased, 9);
  });

  it("refuses NaN and single samples", () => {
    expect(() => kernelDistance(x.subarray(0, 16), y, 16)).toThrow(/at least 2/);
    expect(() =>
      kernelDistance(
        x.map(() => Number.NaN),
        y,
        16,
      ),
    ).toThrow(/finite/);
  });
});
