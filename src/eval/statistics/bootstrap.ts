/**
 * @file Percentile bootstrap intervals (Efron 1979) over seeds. With few values every resample is
 * counted, so the interval is exact and has no random part; with more, resamples are drawn with a fixed
 * seed. Quantiles interpolate linearly (type 7 of Hyndman and Fan 1996, numpy's default).
 *
 * The n^n resamples of n values are far fewer as multisets, C(2n − 1, n), each with the multinomial
 * number of orders it stands for; quantiles are those of the full list.
 */

import { Random } from "../../runtime/random.ts";
import { plainQuantile, weightedQuantile } from "./selection.ts";

export interface Interval {
  readonly low: number;
  readonly high: number;
}

/** Resamples when they are drawn, and up to how many values all are counted instead (24,310 for 9). */
const DRAWN = 5_000;
const COUNTED = 9;

/** Resamples of n values as indices in rising order, n to a row, and how many each row stands for if not 1. */
interface Resamples {
  readonly rows: Uint16Array;
  readonly weights?: Float64Array;
}

const tables = new Map<number, Resamples>();

function resamples(n: number): Resamples {
  let table = tables.get(n);
  if (table === undefined) {
    table = n <= COUNTED ? multisets(n) : drawn(n);
    tables.set(n, table);
  }
  return table;
}

/** All multisets of n out of n, with n! / (k_1! … k_n!) orders each. */
function multisets(n: number): Resamples {
  const rows: number[] = [];
  const weights: number[] = [];
  const row = Array.from({ length: n }, () => 0);
  const visit = (place: number, from: number): void => {
    if (place === n) {
      rows.push(...row);
      weights.push(orders(row));
      return;
    }
    for (let i = from; i < n; i++) {
      row[place] = i;
      visit(place + 1, i);
    }
  };
  visit(0, 0);
  return { rows: Uint16Array.from(rows), weights: Float64Array.from(weights) };
}

/** Orders of a sorted multiset. */
function orders(row: readonly number[]): number {
  let count = 1;
  for (let i = 0, same = 0; i < row.length; i++) {
    same = i > 0 && row[i] === row[i - 1] ? same + 1 : 1;
    count = (count * (i + 1)) / same; // an integer at every step: a multinomial coefficient
  }
  return count;
}

function drawn(n: number): Resamples {
  const random = new Random(0, "reports/bootstrap", n);
  const rows = Uint16Array.from({ length: DRAWN * n }, () => random.int(n));
  for (let at = 0; at < rows.length; at += n) {
    rows.subarray(at, at + n).sort();
  }
  return { rows };
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

/** The places of n sorted values whose mean a center is. */
function middle(center: Center, n: number): [from: number, to: number] {
  const cut =
    center === "mean" ? 0 : center === "iqm" ? Math.floor(0.25 * n) : Math.ceil(n / 2) - 1;
  return [cut, n - cut];
}

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
  const { rows, weights } = resamples(n);
  const [from, to] = middle(center, n);
  // Rows hold indices in rising order, so that rows of sorted values are sorted.
  const sorted = Float64Array.from(values).sort();
  const statistics = new Float64Array(rows.length / n);
  for (let row = 0, at = 0; row < statistics.length; row++, at += n) {
    let sum = 0;
    for (let k = at + from; k < at + to; k++) {
      sum += sorted[rows[k]!]!;
    }
    statistics[row] = sum / (to - from);
  }
  const tail = (1 - level) / 2;
  const of = weights ? weightedQuantile(statistics, weights) : plainQuantile(statistics);
  return { low: of(tail), high: of(1 - tail) };
}
