import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { AdaptiveModel } from "../../../src/eval/compression/adaptive.ts";
import { ArithmeticDecoder, ArithmeticEncoder } from "../../../src/eval/compression/arithmetic.ts";
import {
  bjontegaard,
  evaluate,
  type Interpolation,
  interpolations,
  type RatePoint,
  rateAt,
  slopes,
} from "../../../src/eval/compression/bjontegaard.ts";
import { decodeRans, encodeRans, quantizePmf } from "../../../src/eval/compression/rans.ts";

const read = (name: string) =>
  JSON.parse(readFileSync(new URL(`../../goldens/${name}.json`, import.meta.url), "utf8"));
const golden = read("entropy_coding");
const symbols: number[] = read("codebook").indices;
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

describe("rANS", () => {
  it("makes the reference's table and bytes", () => {
    const counts = new Float64Array(16);
    for (const symbol of symbols) {
      counts[symbol]! += 1;
    }
    const pmf = counts.map((count) => (count + 0.5) / (symbols.length + 8));
    const table = quantizePmf(pmf, 12);
    expect([...table.cumulative]).toEqual(golden.cdf12);
    const bytes = encodeRans(symbols, table);
    expect(hex(bytes)).toBe(golden.rans_byte_hex);
    expect([...decodeRans(bytes, symbols.length, table)]).toEqual(symbols);
  });

  it("leaves no symbol without a count", () => {
    const { pmf, cdf16 } = golden.cdf16_tiny;
    expect([...quantizePmf(pmf, 16).cumulative]).toEqual(cdf16);
  });

  it("gives back any symbols under any table", () => {
    const cases = fc.record({
      pmf: fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 1, maxLength: 40 }),
      draws: fc.array(fc.nat(), { maxLength: 300 }),
      bits: fc.integer({ min: 6, max: 16 }),
    });
    fc.assert(
      fc.property(cases, ({ pmf, draws, bits }) => {
        const table = quantizePmf(pmf, bits);
        const list = draws.map((draw) => draw % pmf.length);
        expect([...decodeRans(encodeRans(list, table), list.length, table)]).toEqual(list);
      }),
    );
  });

  it("says so when a stream is cut or goes on too long", () => {
    const table = quantizePmf([1, 1, 1, 1], 8);
    const bytes = encodeRans([0, 1, 2, 3, 3, 2, 1, 0, 1, 1, 1, 1, 2, 2, 2, 2], table);
    expect(() => decodeRans(bytes.subarray(0, 5), 16, table)).toThrow(/end/);
    expect(() => decodeRans(Uint8Array.of(...bytes, 0), 16, table)).toThrow(/end/);
  });
});

describe("arithmetic coding", () => {
  it("makes the reference's adaptive bits", () => {
    const coder = new ArithmeticEncoder();
    const model = new AdaptiveModel(16);
    for (const symbol of symbols) {
      model.encode(coder, symbol);
    }
    const bytes = coder.finish();
    expect(coder.bits).toBe(golden.ac_adaptive_bits_len);
    expect(hex(bytes)).toBe(golden.ac_adaptive_hex);
    const decoder = new ArithmeticDecoder(bytes);
    const back = new AdaptiveModel(16);
    expect(symbols.map(() => back.decode(decoder))).toEqual(symbols);
  });

  it("gives back any symbols, through halvings of the counts too", () => {
    const cases = fc.record({
      size: fc.integer({ min: 1, max: 2 ** 16 }),
      gain: fc.integer({ min: 1, max: 60_000 }),
      draws: fc.array(fc.nat(), { maxLength: 200 }),
    });
    fc.assert(
      fc.property(cases, ({ size, gain, draws }) => {
        const list = draws.map((draw) => draw % size);
        const coder = new ArithmeticEncoder();
        const model = new AdaptiveModel(size, gain);
        list.forEach((symbol) => model.encode(coder, symbol));
        const decoder = new ArithmeticDecoder(coder.finish());
        const back = new AdaptiveModel(size, gain);
        expect(list.map(() => back.decode(decoder))).toEqual(list);
      }),
    );
  });
});

describe("Bjøntegaard deltas", () => {
  const { curves: all } = read("bdrate");
  const { interpolator_check: check, ...curves } = all;
  const points = (rates: number[], qualities: number[]): RatePoint[] =>
    rates.map((rate, i) => ({ rate, quality: qualities[i]! }));

  it.each(Object.keys(curves))("%s", (name) => {
    const { R1, D1, R2, D2, results } = curves[name];
    for (const interpolation of interpolations) {
      const got = bjontegaard(points(R1, D1), points(R2, D2), interpolation);
      expect(got.ratePercent).toBeCloseTo(results[interpolation].bd_rate_percent, 7);
      expect(got.quality).toBeCloseTo(results[interpolation].bd_psnr_db, 8);
      expect(got.overlap).toBeGreaterThan(0.5);
    }
  });

  it.each(["pchip", "akima"] as const)("interpolates as the reference: %s", (kind) => {
    const d = slopes(check.x, check.y, kind);
    d.forEach((slope, i) => expect(slope).toBeCloseTo(check[`${kind}_slopes`][i], 12));
    check.query.forEach((x: number, i: number) =>
      expect(evaluate(check.x, check.y, d, x)).toBeCloseTo(check[kind][i], 12),
    );
  });

  it("finds the rate of a quality on a curve, and nothing outside", () => {
    const line = points([10, 100, 1000], [30, 35, 40]);
    expect(rateAt(line, 32.5)).toBeCloseTo(10 ** 1.5, 9);
    expect(rateAt(line, 41)).toBeUndefined();
  });

  it.each<[string, RatePoint[], Interpolation, RegExp]>([
    ["too few points", points([1, 2, 3], [1, 2, 3]), "cubic", /has 3 points/],
    ["a falling curve", points([1, 2, 3, 4], [1, 3, 2, 4]), "pchip", /does not rise/],
    ["no common range", points([1, 2, 3, 4], [91, 92, 93, 94]), "akima", /share no range/],
    ["an infinite PSNR", points([1, 2], [30, Number.POSITIVE_INFINITY]), "pchip", /quality Inf/],
  ])("refuses %s", (_, curve, interpolation, message) => {
    const anchor = points([1, 2, 3, 4], [1, 2, 3, 4]);
    expect(() => bjontegaard(anchor, curve, interpolation)).toThrow(message);
  });
});
