/**
 * @file Tests of differences between two configurations, and corrections for many of them. Exact
 * distributions where few values make them affordable: seeds are few.
 */

import { Random } from "../../runtime/random.ts";
import { deviation, mean } from "./bootstrap.ts";
import { studentTail } from "./student.ts";

/**
 * Two-sided paired permutation test of the mean difference (Fisher 1935): the share of all sign
 * patterns whose mean is at least as far from 0. With n pairs no p-value is below 2 / 2^n.
 */
export function signFlipTest(differences: readonly number[]): number {
  const n = differences.length;
  const observed = Math.abs(differences.reduce((a, b) => a + b, 0));
  // Sums of equal terms in another order differ in their last bits.
  const limit = observed * (1 - 1e-12);
  const exact = n <= 16;
  const patterns = exact ? 2 ** n : 100_000;
  const random = new Random(0, "reports/sign-flip");
  let extreme = 0;
  for (let pattern = 0; pattern < patterns; pattern++) {
    let sum = 0;
    let bits = exact ? pattern : 0;
    for (let i = 0; i < n; i++) {
      if (!exact && i % 32 === 0) {
        bits = random.uint32();
      }
      sum += bits & 1 ? differences[i]! : -differences[i]!;
      bits >>>= 1;
    }
    extreme += Math.abs(sum) >= limit ? 1 : 0;
  }
  // Drawn patterns count the observed one too (Phipson and Smyth 2010).
  return exact ? extreme / patterns : (extreme + 1) / (patterns + 1);
}

/** Ranks from 1, ties sharing their mean rank. */
export function ranks(values: readonly number[]): number[] {
  const order = values.map((_, i) => i).sort((a, b) => values[a]! - values[b]!);
  const result = values.map(() => 0);
  for (let i = 0; i < order.length; ) {
    let end = i + 1;
    while (end < order.length && values[order[end]!] === values[order[i]!]) {
      end += 1;
    }
    for (let k = i; k < end; k++) {
      result[order[k]!] = (i + 1 + end) / 2;
    }
    i = end;
  }
  return result;
}

export type Tail = "two-sided" | "greater" | "less";

/**
 * Wilcoxon signed-rank test (1945). Zero differences are dropped. The exact distribution where ranks
 * are untied and n ≤ 25, else the normal approximation with correction of ties and no continuity
 * correction, as scipy.stats.wilcoxon decides and computes.
 * @returns W+, the rank sum of the positive differences, and the p-value
 */
export function wilcoxonSignedRank(
  differences: readonly number[],
  tail: Tail = "two-sided",
): { readonly statistic: number; readonly p: number } {
  const d = differences.filter((x) => x !== 0);
  const n = d.length;
  if (n === 0) {
    return { statistic: 0, p: 1 };
  }
  const rank = ranks(d.map(Math.abs));
  const plus = rank.reduce((sum, r, i) => sum + (d[i]! > 0 ? r : 0), 0);
  const tied = new Set(rank).size < n;
  if (!tied && n <= 25) {
    // counts[w]: subsets of the ranks 1..n with sum w
    const total = (n * (n + 1)) / 2;
    let counts = new Float64Array(total + 1);
    counts[0] = 1;
    for (let r = 1; r <= n; r++) {
      const next = counts.slice();
      for (let w = r; w <= total; w++) {
        next[w]! += counts[w - r]!;
      }
      counts = next;
    }
    const all = 2 ** n;
    const upTo = (w: number): number => counts.subarray(0, w + 1).reduce((a, b) => a + b, 0) / all;
    const less = upTo(plus);
    const greater = 1 - (plus === 0 ? 0 : upTo(plus - 1));
    return { statistic: plus, p: tailOf(less, greater, tail) };
  }
  const groups = new Map<number, number>();
  for (const r of rank) {
    groups.set(r, (groups.get(r) ?? 0) + 1);
  }
  const ties = [...groups.values()].reduce((sum, t) => sum + t ** 3 - t, 0);
  const variance = (n * (n + 1) * (2 * n + 1)) / 24 - ties / 48;
  const z = (plus - (n * (n + 1)) / 4) / Math.sqrt(variance);
  return { statistic: plus, p: tailOf(normalCdf(z), normalCdf(-z), tail) };
}

function tailOf(less: number, greater: number, tail: Tail): number {
  return tail === "less"
    ? less
    : tail === "greater"
      ? greater
      : Math.min(1, 2 * Math.min(less, greater));
}

/** Two-sided paired t-test (Student 1908). Undefined spread gives p = 1 at no difference, else 0. */
export function pairedTTest(differences: readonly number[]): number {
  const n = differences.length;
  const spread = deviation(differences);
  const m = mean(differences);
  if (spread === 0) {
    return m === 0 ? 1 : 0;
  }
  return 2 * studentTail(Math.abs(m / (spread / Math.sqrt(n))), n - 1);
}

/** Two-sided t-test of two samples with unequal variances (Welch 1947). */
export function welchTTest(a: readonly number[], b: readonly number[]): number {
  const [va, vb] = [deviation(a) ** 2 / a.length, deviation(b) ** 2 / b.length];
  const difference = mean(a) - mean(b);
  if (va + vb === 0) {
    return difference === 0 ? 1 : 0;
  }
  const freedom = (va + vb) ** 2 / (va ** 2 / (a.length - 1) + vb ** 2 / (b.length - 1));
  return 2 * studentTail(Math.abs(difference) / Math.sqrt(va + vb), freedom);
}

/**
 * Probability of improvement: how likely a run of `a` is above a run of `b`, ties counting half; the
 * Mann-Whitney U statistic over n·m (Agarwal et al. 2021, "Deep RL at the Edge of the Statistical
 * Precipice", section 4.3).
 */
export function probabilityAbove(a: readonly number[], b: readonly number[]): number {
  let wins = 0;
  for (const x of a) {
    for (const y of b) {
      wins += x > y ? 1 : x === y ? 0.5 : 0;
    }
  }
  return wins / (a.length * b.length);
}

export type Correction = "holm" | "bonferroni" | "benjamini-hochberg" | "none";

/**
 * P-values corrected for their number: Holm (1979) and Bonferroni hold the chance of any false
 * finding, Benjamini and Hochberg (1995) the share of false ones among the findings.
 */
export function correct(values: readonly number[], method: Correction): number[] {
  const m = values.length;
  if (method === "none") {
    return [...values];
  }
  if (method === "bonferroni") {
    return values.map((p) => Math.min(1, p * m));
  }
  const order = values.map((_, i) => i).sort((a, b) => values[a]! - values[b]!);
  const corrected = values.map(() => 0);
  if (method === "holm") {
    let largest = 0;
    for (const [k, i] of order.entries()) {
      largest = Math.max(largest, Math.min(1, (m - k) * values[i]!));
      corrected[i] = largest;
    }
  } else {
    let smallest = 1;
    for (const [k, i] of [...order.entries()].toReversed()) {
      smallest = Math.min(smallest, (m / (k + 1)) * values[i]!);
      corrected[i] = smallest;
    }
  }
  return corrected;
}

/** The standard normal distribution function. */
export function normalCdf(z: number): number {
  return 0.5 * erfc(-z / Math.SQRT2);
}

const ERFC = [
  -1.3026537197817094, 0.6419697923564903, 1.9476473204185836e-2, -9.561514786808631e-3,
  -9.46595344482036e-4, 3.66839497852761e-4, 4.2523324806907e-5, -2.0278578112534e-5,
  -1.624290004647e-6, 1.30365583558e-6, 1.5626441722e-8, -8.5238095915e-8, 6.529054439e-9,
  5.059343495e-9, -9.91364156e-10, -2.27365122e-10, 9.6467911e-11, 2.394038e-12, -6.886027e-12,
  8.94487e-13, 3.13092e-13, -1.12708e-13, 3.81e-16, 7.106e-15, -1.523e-15, -9.4e-17, 1.21e-16,
  -2.8e-17,
] as const;

/** Complementary error function, to about double precision (Press et al. 2007, section 6.2.2). */
function erfc(x: number): number {
  const z = Math.abs(x);
  const t = 2 / (2 + z);
  const ty = 4 * t - 2;
  let d = 0;
  let dd = 0;
  for (let j = ERFC.length - 1; j > 0; j--) {
    [d, dd] = [ty * d - dd + ERFC[j]!, d];
  }
  const value = t * Math.exp(-z * z + 0.5 * (ERFC[0] + ty * d) - dd);
  return x >= 0 ? value : 2 - value;
}
