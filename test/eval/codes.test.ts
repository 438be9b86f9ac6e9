/** @file Codebook statistics and code lengths against the goldens. */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CodeCounts, codebookStatistics, jointCode } from "../../src/eval/codebook.ts";
import { AdaptiveCode, bitsPerPixel } from "../../src/eval/rate.ts";
import { golden } from "./golden.ts";

interface CodebookGolden {
  indices: number[];
  counts: number[];
  usage: number;
  dead_codes: number[];
  entropy_bits: number;
  perplexity: number;
  normalized_entropy: number;
  gini: number;
}

interface CodingGolden {
  n: number;
  empirical_entropy_bits: number;
  adaptive_laplace_bits: number;
  adaptive_kt_bits: number;
  adaptive_order1_kt_bits: number;
  bpp_examples: { bits: number; bpp: number }[];
}

const codebook = golden<CodebookGolden>("codebook");

function counted(indices: readonly number[], size: number): CodeCounts {
  const counts = new CodeCounts(size);
  for (const index of indices) {
    counts.add(index);
  }
  return counts;
}

describe("codebook statistics", () => {
  it("agree with the golden", () => {
    const counts = counted(codebook.indices, 16);
    expect(codebook.counts.map((_, code) => counts.of(code))).toEqual(codebook.counts);
    const statistics = codebookStatistics(counts);
    expect(statistics.usage).toBe(codebook.usage);
    expect(statistics.dead).toBe(codebook.dead_codes.length);
    expect(statistics.entropyBits).toBeCloseTo(codebook.entropy_bits, 10);
    expect(statistics.perplexity).toBeCloseTo(codebook.perplexity, 9);
    expect(statistics.normalizedEntropy).toBeCloseTo(codebook.normalized_entropy, 10);
    expect(statistics.giniSimpson).toBeCloseTo(codebook.gini, 10);
  });

  it("are the same for counts in an array and in a map", () => {
    const dense = codebookStatistics(counted(codebook.indices, 16));
    const sparse = codebookStatistics(counted(codebook.indices, 2 ** 40));
    expect(sparse.entropyBits).toBe(dense.entropyBits);
    expect(sparse.dead).toBe(2 ** 40 - 14);
  });

  it("have defined values at the ends", () => {
    const one = codebookStatistics(counted([0, 0], 1));
    expect(one).toMatchObject({ usage: 1, dead: 0, entropyBits: 0, normalizedEntropy: 0 });
    const even = codebookStatistics(counted([0, 1, 2, 3], 4));
    expect(even).toMatchObject({ usage: 1, percentile10: 1, percentile90: 1 });
    expect(even.perplexity).toBeCloseTo(4, 12);
    expect(() => codebookStatistics(new CodeCounts(4))).toThrow(/no tokens/);
    expect(() => new CodeCounts(2 ** 60)).toThrow(/2\^53/);
    expect(() => counted([4], 4)).toThrow(/outside/);
  });

  it("numbers the tokens of factorised vocabularies without collisions", () => {
    const seen = new Set<number>();
    for (let a = 0; a < 3; a++) {
      for (let b = 0; b < 5; b++) {
        seen.add(jointCode(Int32Array.of(9, a, b), 1, [3, 5]));
      }
    }
    expect([...seen].sort((x, y) => x - y)).toEqual(Array.from({ length: 15 }, (_, i) => i));
  });
});

describe("code lengths", () => {
  const coding = golden<CodingGolden>("entropy_coding");

  it("agree with the golden", () => {
    const bits = (estimator: "laplace" | "kt", order: 0 | 1): number => {
      const code = new AdaptiveCode(16, estimator, order);
      codebook.indices.forEach((index) => code.add(index));
      return code.bits;
    };
    expect(bits("laplace", 0)).toBeCloseTo(coding.adaptive_laplace_bits, 8);
    expect(bits("kt", 0)).toBeCloseTo(coding.adaptive_kt_bits, 8);
    expect(bits("kt", 1)).toBeCloseTo(coding.adaptive_order1_kt_bits, 8);
    const { entropyBits } = codebookStatistics(counted(codebook.indices, 16));
    expect(coding.n * entropyBits).toBeCloseTo(coding.empirical_entropy_bits, 8);
    const sizes = [
      [17, 128, 128],
      [16, 128, 128],
      [17, 256, 256],
    ] as const;
    coding.bpp_examples.forEach(({ bits: spent, bpp }, i) => {
      const [frames, height, width] = sizes[i]!;
      expect(bitsPerPixel(spent, { frames, height, width })).toBeCloseTo(bpp, 12);
    });
  });

  it("take the vocabularies of lookup-free quantizers, and refuse what no number can count", () => {
    const code = new AdaptiveCode(2 ** 36, "kt", 1);
    [5, 2 ** 36 - 1, 5].forEach((symbol) => code.add(symbol));
    expect(code.bits).toBeCloseTo(3 * 36, 6); // three contexts, each of them new
    expect(() => new AdaptiveCode(2 ** 60, "kt")).toThrow(/2\^53/);
  });

  it("are never below the empirical entropy", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(6), { minLength: 1, maxLength: 200 }), (symbols) => {
        const code = new AdaptiveCode(7, "kt");
        symbols.forEach((symbol) => code.add(symbol));
        const { entropyBits } = codebookStatistics(counted(symbols, 7));
        expect(code.bits).toBeGreaterThanOrEqual(symbols.length * entropyBits - 1e-9);
      }),
    );
  });
});
