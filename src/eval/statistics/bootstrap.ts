/**
 * @file Percentile bootstrap intervals (Efron 1979) over seeds. With few values every resample is
 * enumerated, so the interval is exact and has no random part; with more, resamples are drawn with a
 * fixed seed. Quantiles interpolate linearly (type 7 of Hyndman and Fan 1996, numpy's default).
 */

import { Random } from "../../runtime/random.ts";

export interface Interval {
  readonly low: number;
  readonly high: number;
}

/** Resamples when they are drawn, and up to how many are enumerated instead (6^6 = 46,656). */
const DRAWN = 10_000;
const ENUMERATED = 50_000;

const tables = new Map<number, Uint16Array>();

/** Indices of all resamples of n values, n to a resample. */
function resamples(n: number): Uint16Array {
  let table = tables.get(n);
  if (table === undefined) {
    const all = n ** n;
    if (all <= ENUMERATED) {
      table = new Uint16Array(all * n);
      for (let row = 0; row < all; row++) {
        for (let k = 0, rest = row; k < n; k++, rest = Math.floor(rest / n)) {
          table[row * n + k] = rest % n;
        }
      }
    } else {
      const random = new Random(0, "reports/bootstrap", n);
      table = Uint16Array.from({ length: DRAWN * n }, () => random.int(n));
    }
    tables.set(n, table);
  }
  return table;
}

export const mean = (values: readonly number[]): number =>
  values.reduce((a, b) => a + b, 0) / values.length;

/** Sample standard deviation (n − 1); 0 for one value. */
export function deviation(values: readonly number[]): number {
  const m = mean(values);
  const squares = values.reduce((sum, x) => sum + (x - m) ** 2, 0);
  return values.length < 2 ? 0 : Math.sqrt(squares / (values.length - 1));
}

/** The q-quantile of sorted values, interpolated linearly. */
export function quantile(sorted: ArrayLike<number>, q: number): number {
  const position = q * (sorted.length - 1);
  const below = Math.floor(position);
  const low = sorted[below]!;
  const high = sorted[Math.min(below + 1, sorted.length - 1)]!;
  return low + (position - below) * (high - low);
}

/**
 * Interquartile mean: the mean of the middle half (Agarwal et al. 2021, as scipy's
 * `trim_mean(x, 0.25)`: int(0.25 n) values are cut from each end).
 */
export function interquartileMean(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const cut = Math.floor(0.25 * sorted.length);
  return mean(sorted.slice(cut, sorted.length - cut));
}

export const median = (values: readonly number[]): number =>
  quantile(
    values.toSorted((a, b) => a - b),
    0.5,
  );

/** What stands for a group of values. */
export type Center = "mean" | "median" | "iqm";
export const centers: { readonly [name in Center]: (values: readonly number[]) => number } = {
  mean,
  median,
  iqm: interquartileMean,
};

/**
 * Interval of a statistic of the values.
 * @param level e.g. 0.95
 * @returns undefined for fewer than two values, which say nothing of their spread
 */
export function bootstrapInterval(
  values: readonly number[],
  level = 0.95,
  center: Center = "mean",
): Interval | undefined {
  const n = values.length;
  if (n < 2) {
    return undefined;
  }
  const table = resamples(n);
  const count = table.length / n;
  const statistics = new Float64Array(count);
  if (center === "mean") {
    for (let row = 0; row < count; row++) {
      let sum = 0;
      for (let k = 0; k < n; k++) {
        sum += values[table[row * n + k]!]!;
      }
      statistics[row] = sum / n;
    }
  } else {
    const statistic = centers[center];
    for (let row = 0; row < count; row++) {
      statistics[row] = statistic(
        Array.from(table.subarray(row * n, (row + 1) * n), (i) => values[i]!),
      );
    }
  }
  statistics.sort();
  const tail = (1 - level) / 2;
  return { low: quantile(statistics, tail), high: quantile(statistics, 1 - tail) };
}
