/** @file Statistics against scipy: test/goldens/statistics.json says which function gave each value. */

import { readFileSync } from "node:fs";
import fc from "fast-check";
import { expect, test } from "vitest";
import {
  bootstrapInterval,
  centers,
  interquartileMean,
  mean,
  quantile,
} from "../../src/eval/statistics/bootstrap.ts";
import { studentTail } from "../../src/eval/statistics/student.ts";
import { plainQuantile } from "../../src/eval/statistics/selection.ts";
import {
  correct,
  normalCdf,
  pairedTTest,
  probabilityAbove,
  ranks,
  signFlipTest,
  type Tail,
  welchTTest,
  wilcoxonSignedRank,
} from "../../src/eval/statistics/tests.ts";
import { sobol } from "../../src/sweeps/space.ts";

interface Case {
  readonly a: readonly number[];
  readonly b: readonly number[];
  readonly d: readonly number[];
  readonly ttest_rel: number;
  readonly welch: number;
  readonly wilcoxon_exact: { readonly [tail in Tail]: number };
  readonly wilcoxon_approx: number;
  readonly permutation: number | null;
  readonly mannwhitney_over_nm: number;
  readonly trim_mean_25: number;
  readonly quantiles: { readonly [q: string]: number };
  readonly bootstrap_mean_exact?: readonly [number, number];
  readonly bootstrap_median_exact?: readonly [number, number];
  readonly bootstrap_mean_drawn?: readonly [number, number];
}
const golden = JSON.parse(readFileSync("test/goldens/statistics.json", "utf8")) as {
  readonly cases: readonly Case[];
  readonly p: readonly number[];
  readonly holm: readonly number[];
  readonly benjamini_hochberg: readonly number[];
  readonly normal_cdf: readonly (readonly [number, number])[];
  readonly student_sf: readonly (readonly [number, number, number])[];
  readonly ties: { readonly x: readonly number[]; readonly rankdata: readonly number[] };
  readonly sobol: readonly (readonly number[])[];
};

const all = golden.cases.map((c) => [c.a.length, c] as const);
/** Small enough for exact distributions, and for the enumeration of all resamples. */
const exact = all.filter(([n]) => n <= 12);
const enumerated = all.filter(([, c]) => c.bootstrap_mean_exact !== undefined);
const drawn = all.filter(([, c]) => c.bootstrap_mean_drawn !== undefined);
const close = (values: readonly number[]) => values.map((x): unknown => expect.closeTo(x, 10));

test.each(all)("t-tests of %i pairs", (_, c) => {
  expect(pairedTTest(c.b.map((x, i) => x - c.a[i]!))).toBeCloseTo(c.ttest_rel, 10);
  expect(welchTTest(c.b, c.a)).toBeCloseTo(c.welch, 10);
});

test.each(exact)("Wilcoxon's signed-rank test of %i pairs, exact", (_, c) => {
  for (const tail of ["two-sided", "greater", "less"] as const) {
    expect(wilcoxonSignedRank(c.d, tail).p).toBeCloseTo(c.wilcoxon_exact[tail], 12);
  }
});

test.each(all)("Wilcoxon's signed-rank test of %i pairs, twice each: ties", (_, c) => {
  expect(wilcoxonSignedRank([...c.d, ...c.d]).p).toBeCloseTo(c.wilcoxon_approx, 10);
});

test.each(exact)("the sign-flip test of %i pairs, exact", (_, c) => {
  expect(signFlipTest(c.d)).toBeCloseTo(c.permutation!, 12);
});

test("the sign-flip test with too many signs to enumerate", () => {
  const c = golden.cases.at(-1)!;
  expect(Math.abs(signFlipTest(c.d) - c.ttest_rel)).toBeLessThan(0.01);
  expect(signFlipTest(c.d)).toBeGreaterThan(0);
});

test.each(all)("probability of improvement, interquartile mean, quantiles: %i", (_, c) => {
  expect(probabilityAbove(c.b, c.a)).toBeCloseTo(c.mannwhitney_over_nm, 12);
  expect(interquartileMean(c.a)).toBeCloseTo(c.trim_mean_25, 12);
  const sorted = c.a.toSorted((x, y) => x - y);
  for (const [q, value] of Object.entries(c.quantiles)) {
    expect(quantile(sorted, Number(q))).toBeCloseTo(value, 12);
  }
});

test.each(enumerated)("bootstrap intervals of %i values, enumerated", (_, c) => {
  const { low, high } = bootstrapInterval(c.a)!;
  expect([low, high]).toEqual(close(c.bootstrap_mean_exact!));
  const median = bootstrapInterval(c.a, 0.95, "median")!;
  expect([median.low, median.high]).toEqual(close(c.bootstrap_median_exact!));
});

test.each(drawn)("bootstrap intervals of %i values, drawn: equal to their noise", (_, c) => {
  const { low, high } = bootstrapInterval(c.a)!;
  const [first, last] = c.bootstrap_mean_drawn!;
  expect(Math.abs(low - first)).toBeLessThan(0.05 * (last - first));
  expect(Math.abs(high - last)).toBeLessThan(0.05 * (last - first));
});

test("corrections of p-values", () => {
  expect(correct(golden.p, "holm")).toEqual(golden.holm.map((x) => expect.closeTo(x, 12)));
  expect(correct(golden.p, "benjamini-hochberg")).toEqual(
    golden.benjamini_hochberg.map((x) => expect.closeTo(x, 12)),
  );
  expect(correct([0.01, 0.6], "bonferroni")).toEqual([0.02, 1]);
});

test("distributions and ranks", () => {
  for (const [z, value] of golden.normal_cdf) {
    expect(normalCdf(z) / value).toBeCloseTo(1, 12);
  }
  for (const [t, freedom, value] of golden.student_sf) {
    expect(studentTail(t, freedom)).toBeCloseTo(value, 12);
  }
  expect(ranks(golden.ties.x)).toEqual(golden.ties.rankdata);
});

test("Sobol points are those of Joe and Kuo's direction numbers", () => {
  expect(sobol(16, 12)).toEqual(golden.sobol);
});

test("an interval of the mean lies within the values and around their mean", () => {
  const values = fc.array(fc.double({ min: -1e3, max: 1e3, noNaN: true }), {
    minLength: 2,
    maxLength: 9,
  });
  fc.assert(
    fc.property(values, (x) => {
      const { low, high } = bootstrapInterval(x)!;
      const slack = 1e-9 * Math.max(1, ...x.map(Math.abs));
      expect(low).toBeGreaterThanOrEqual(Math.min(...x) - slack);
      expect(high).toBeLessThanOrEqual(Math.max(...x) + slack);
      expect(low).toBeLessThanOrEqual(mean(x) + slack);
      expect(high).toBeGreaterThanOrEqual(mean(x) - slack);
    }),
    { numRuns: 50 },
  );
});

test("intervals are those of the whole list of resamples", () => {
  const values = fc.array(fc.integer({ min: -4, max: 4 }), { minLength: 2, maxLength: 5 });
  const level = fc.constantFrom(0.5, 0.8, 0.95);
  const center = fc.constantFrom("mean", "median", "iqm" as const);
  fc.assert(
    fc.property(values, level, center, (x, share, name) => {
      const all = x
        .reduce<number[][]>((lists) => lists.flatMap((list) => x.map((v) => [...list, v])), [[]])
        .map((list) => centers[name](list))
        .sort((a, b) => a - b);
      const { low, high } = bootstrapInterval(x, share, name)!;
      expect(low).toBeCloseTo(quantile(all, (1 - share) / 2), 12);
      expect(high).toBeCloseTo(quantile(all, (1 + share) / 2), 12);
    }),
    { numRuns: 60 },
  );
});

test("quantiles without sorting are those of sorted values", () => {
  const values = fc.array(fc.integer({ min: 0, max: 30 }), { minLength: 1, maxLength: 60 });
  fc.assert(
    fc.property(values, fc.double({ min: 0, max: 1, noNaN: true }), (x, q) => {
      const sorted = x.toSorted((a, b) => a - b);
      expect(plainQuantile(Float64Array.from(x))(q)).toBeCloseTo(quantile(sorted, q), 10);
      const of = plainQuantile(Float64Array.from(x)); // asked again, of values in another order
      expect(of(1 - q)).toBeCloseTo(quantile(sorted, 1 - q), 10);
      expect(of(q)).toBeCloseTo(quantile(sorted, q), 10);
    }),
  );
});
