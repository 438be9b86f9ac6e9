/**
 * @file Bjøntegaard deltas (VCEG-M33, 2001): how much rate a codec saves at equal quality, and how
 * much quality it gains at equal rate, averaged over the part of the axis that two curves share.
 * Three interpolations: one cubic through all points (M33), monotone piecewise cubic (PCHIP, Fritsch
 * & Butland 1984; JVET), Akima's (1970; Herglotz et al. 2022). Curves are integrated exactly.
 */

import { UserError } from "../../config/errors.ts";

export const interpolations = ["cubic", "pchip", "akima"] as const;
export type Interpolation = (typeof interpolations)[number];

/** One point of a rate-distortion curve. */
export interface RatePoint {
  /** Any unit, above 0; the same for both curves. */
  readonly rate: number;
  /** Quality, higher is better, e.g. dB. */
  readonly quality: number;
}

export interface Bjontegaard {
  /** Percent of rate that `test` needs more than `anchor` at equal quality; negative is better. */
  readonly ratePercent: number;
  /** Mean quality that `test` gains at equal rate, in the unit of quality. */
  readonly quality: number;
  /** Share of the union of the quality ranges that both curves cover, 0..1; little is little proof. */
  readonly overlap: number;
}

/**
 * BD-rate and BD-quality of `test` against `anchor`.
 * @throws UserError when a curve has too few points (4 for cubic, 2 else), is not strictly rising, or
 *   the curves share no range
 */
export function bjontegaard(
  anchor: readonly RatePoint[],
  test: readonly RatePoint[],
  interpolation: Interpolation,
): Bjontegaard {
  const [a, b] = [curve(anchor, "anchor", interpolation), curve(test, "test", interpolation)];
  const byQuality = meanDifference(
    [a.quality, a.logRate],
    [b.quality, b.logRate],
    interpolation,
    "quality",
  );
  const byRate = meanDifference(
    [a.logRate, a.quality],
    [b.logRate, b.quality],
    interpolation,
    "rate",
  );
  const span = (low: number, high: number): number => Math.max(0, high - low);
  const [al, ah] = [a.quality[0]!, a.quality.at(-1)!];
  const [bl, bh] = [b.quality[0]!, b.quality.at(-1)!];
  return {
    ratePercent: (10 ** byQuality - 1) * 100,
    quality: byRate,
    overlap:
      span(Math.max(al, bl), Math.min(ah, bh)) / span(Math.min(al, bl), Math.max(ah, bh)) || 0,
  };
}

/**
 * The value of a rate-distortion curve between its points: log10 of the rate at a quality.
 * @returns undefined outside of the curve's range
 */
export function rateAt(
  points: readonly RatePoint[],
  quality: number,
  interpolation: "pchip" | "akima" = "pchip",
): number | undefined {
  const { quality: x, logRate: y } = curve(points, "codec", interpolation);
  return quality < x[0]! || quality > x.at(-1)!
    ? undefined
    : 10 ** evaluate(x, y, slopes(x, y, interpolation), quality);
}

/** As `rateAt`, the quality at a rate. */
export function qualityAt(
  points: readonly RatePoint[],
  rate: number,
  interpolation: "pchip" | "akima" = "pchip",
): number | undefined {
  const { quality: y, logRate: x } = curve(points, "codec", interpolation);
  const at = Math.log10(rate);
  return at < x[0]! || at > x.at(-1)! ? undefined : evaluate(x, y, slopes(x, y, interpolation), at);
}

interface Curve {
  readonly logRate: readonly number[];
  readonly quality: readonly number[];
}

function curve(points: readonly RatePoint[], name: string, interpolation: Interpolation): Curve {
  const needed = interpolation === "cubic" ? 4 : 2;
  if (points.length < needed) {
    throw new UserError(
      `the ${name} curve has ${points.length} point${points.length === 1 ? "" : "s"}, ${interpolation} interpolation needs ${needed}`,
      needed === 4 ? "measure more rates, or use pchip" : "measure more rates",
    );
  }
  for (const { rate, quality } of points) {
    if (!(rate > 0) || !Number.isFinite(rate) || !Number.isFinite(quality)) {
      throw new UserError(
        `the ${name} curve has a point of rate ${rate} and quality ${quality}`,
        "rates are above 0 and qualities are finite: identical frames have no PSNR",
      );
    }
  }
  const sorted = points.toSorted((p, q) => p.quality - q.quality);
  const logRate = sorted.map(({ rate }) => Math.log10(rate));
  const quality = sorted.map((point) => point.quality);
  const rising = (values: readonly number[]): boolean =>
    values.every((value, i) => i === 0 || value > values[i - 1]!);
  if (!rising(quality) || !rising(logRate)) {
    throw new UserError(
      `the ${name} curve does not rise: more rate must give more quality at every point`,
      "leave out the points that another one beats at both",
    );
  }
  return { logRate, quality };
}

type Axis = readonly [x: readonly number[], y: readonly number[]];

/** Mean of test - anchor over the range of x that both cover. */
function meanDifference(a: Axis, b: Axis, interpolation: Interpolation, what: string): number {
  const low = Math.max(a[0][0]!, b[0][0]!);
  const high = Math.min(a[0].at(-1)!, b[0].at(-1)!);
  if (!(high > low)) {
    throw new UserError(
      `the two curves share no range of ${what}`,
      "measure both at overlapping rates",
    );
  }
  const area = ([x, y]: Axis): number =>
    interpolation === "cubic"
      ? cubicIntegral(x, y, low, high)
      : piecewiseIntegral(x, y, slopes(x, y, interpolation), low, high);
  return (area(b) - area(a)) / (high - low);
}

/** Integral of the least-squares cubic; x is centred and scaled so that the equations stay sound. */
function cubicIntegral(
  x: readonly number[],
  y: readonly number[],
  low: number,
  high: number,
): number {
  const centre = (x[0]! + x.at(-1)!) / 2;
  const scale = (x.at(-1)! - x[0]!) / 2;
  const u = x.map((value) => (value - centre) / scale);
  // Normal equations of degree 3, solved by elimination with pivots.
  const rows = [0, 1, 2, 3].map((i) => [
    ...[0, 1, 2, 3].map((j) => u.reduce((sum, value) => sum + value ** (i + j), 0)),
    u.reduce((sum, value, k) => sum + y[k]! * value ** i, 0),
  ]);
  for (let i = 0; i < 4; i++) {
    let best = i;
    for (let r = i + 1; r < 4; r++) {
      best = Math.abs(rows[r]![i]!) > Math.abs(rows[best]![i]!) ? r : best;
    }
    [rows[i], rows[best]] = [rows[best]!, rows[i]!];
    for (let r = i + 1; r < 4; r++) {
      const factor = rows[r]![i]! / rows[i]![i]!;
      rows[r] = rows[r]!.map((value, c) => value - factor * rows[i]![c]!);
    }
  }
  const coefficients = [0, 0, 0, 0];
  for (let i = 3; i >= 0; i--) {
    let value = rows[i]![4]!;
    for (let c = i + 1; c < 4; c++) {
      value -= rows[i]![c]! * coefficients[c]!;
    }
    coefficients[i] = value / rows[i]![i]!;
  }
  const primitive = (at: number): number => {
    const t = (at - centre) / scale;
    return scale * coefficients.reduce((sum, c, i) => sum + (c * t ** (i + 1)) / (i + 1), 0);
  };
  return primitive(high) - primitive(low);
}

/** Slopes at the points of a piecewise cubic Hermite interpolant. */
export function slopes(
  x: readonly number[],
  y: readonly number[],
  interpolation: "pchip" | "akima",
): number[] {
  const count = x.length;
  const h = Array.from({ length: count - 1 }, (_, k) => x[k + 1]! - x[k]!);
  const delta = h.map((width, k) => (y[k + 1]! - y[k]!) / width);
  if (count === 2) {
    return [delta[0]!, delta[0]!];
  }
  return interpolation === "pchip" ? pchipSlopes(h, delta) : akimaSlopes(delta);
}

function pchipSlopes(h: readonly number[], delta: readonly number[]): number[] {
  const end = (h0: number, h1: number, d0: number, d1: number): number => {
    const slope = ((2 * h0 + h1) * d0 - h0 * d1) / (h0 + h1);
    if (Math.sign(slope) !== Math.sign(d0)) {
      return 0;
    }
    return Math.sign(d0) !== Math.sign(d1) && Math.abs(slope) > 3 * Math.abs(d0) ? 3 * d0 : slope;
  };
  const last = delta.length - 1;
  const inner = Array.from({ length: last }, (_, i) => {
    const [before, after] = [delta[i]!, delta[i + 1]!];
    if (before * after <= 0) {
      return 0;
    }
    const w1 = 2 * h[i + 1]! + h[i]!;
    const w2 = h[i + 1]! + 2 * h[i]!;
    return (w1 + w2) / (w1 / before + w2 / after);
  });
  return [
    end(h[0]!, h[1]!, delta[0]!, delta[1]!),
    ...inner,
    end(h[last]!, h[last - 1]!, delta[last]!, delta[last - 1]!),
  ];
}

function akimaSlopes(delta: readonly number[]): number[] {
  // Two slopes more on either side, on straight lines.
  const last = delta.length - 1;
  const before1 = 2 * delta[0]! - delta[1]!;
  const after1 = 2 * delta[last]! - delta[last - 1]!;
  const m = [2 * before1 - delta[0]!, before1, ...delta, after1, 2 * after1 - delta[last]!];
  const weights = Array.from({ length: delta.length + 1 }, (_, i) => [
    Math.abs(m[i + 3]! - m[i + 2]!),
    Math.abs(m[i + 1]! - m[i]!),
  ]);
  const largest = Math.max(...weights.map(([after, before]) => after! + before!));
  return weights.map(([after, before], i) => {
    const sum = after! + before!;
    return sum > 1e-9 * largest
      ? (after! * m[i + 1]! + before! * m[i + 2]!) / sum
      : (m[i + 1]! + m[i + 2]!) / 2;
  });
}

/** The piece that contains `at`, by its left end. */
function pieceOf(x: readonly number[], at: number): number {
  let k = 0;
  while (k + 2 < x.length && at >= x[k + 1]!) {
    k += 1;
  }
  return k;
}

/** Coefficients of (t - x[k])^0..3 on piece k. */
function coefficients(
  x: readonly number[],
  y: readonly number[],
  d: readonly number[],
  k: number,
): [number, number, number, number] {
  const h = x[k + 1]! - x[k]!;
  const delta = (y[k + 1]! - y[k]!) / h;
  return [
    y[k]!,
    d[k]!,
    (3 * delta - 2 * d[k]! - d[k + 1]!) / h,
    (d[k]! + d[k + 1]! - 2 * delta) / (h * h),
  ];
}

/** The interpolant at a place inside of its range. */
export function evaluate(
  x: readonly number[],
  y: readonly number[],
  d: readonly number[],
  at: number,
): number {
  const k = pieceOf(x, at);
  const [c0, c1, c2, c3] = coefficients(x, y, d, k);
  const t = at - x[k]!;
  return c0 + t * (c1 + t * (c2 + t * c3));
}

function piecewiseIntegral(
  x: readonly number[],
  y: readonly number[],
  d: readonly number[],
  low: number,
  high: number,
): number {
  let sum = 0;
  for (let k = 0; k + 1 < x.length; k++) {
    const [from, to] = [Math.max(low, x[k]!), Math.min(high, x[k + 1]!)];
    if (to > from) {
      const [c0, c1, c2, c3] = coefficients(x, y, d, k);
      const primitive = (t: number): number =>
        t * (c0 + t * (c1 / 2 + t * (c2 / 3 + (t * c3) / 4)));
      sum += primitive(to - x[k]!) - primitive(from - x[k]!);
    }
  }
  return sum;
}
