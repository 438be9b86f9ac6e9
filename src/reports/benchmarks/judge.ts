/**
 * @file One test of a claim on a study's trials: an order of two sets of trials, their equivalence, or a
 * trend along an axis. Everything is paired by seed, and judged by the 95 % bootstrap interval over
 * seeds: it holds when the interval lies on the right side of its margin (for equivalence: within it),
 * fails when it lies wholly on the other, and is undecided otherwise or with one seed.
 */

import { bootstrapInterval, type Interval, mean } from "../../eval/statistics/bootstrap.ts";
import type { ComparedRun } from "../compare/runs.ts";
import { formatNumber } from "../format.ts";
import type { ClaimTest } from "./schema.ts";

type Labels = { readonly [axis: string]: string };

export interface TestResult {
  readonly verdict: "holds" | "fails" | "undecided" | "not run";
  readonly text: string;
  /** One value a seed: differences, or slopes. */
  readonly effects: readonly number[];
  readonly interval?: Interval;
  /** Where the interval must lie; a side without an end is open. */
  readonly holds?: { readonly from?: number; readonly to?: number };
}

/** A trial's value of the score in question. */
interface Value {
  readonly seed: number;
  readonly labels: Labels;
  readonly value: number;
  readonly protocol: string;
  /** The protocol's name alone. */
  readonly kind: string;
  readonly better: "higher" | "lower" | "none";
}

export const labelled = (labels: Labels): string =>
  Object.entries(labels)
    .map(([axis, text]) => `${axis} ${text}`)
    .join(", ") || "all trials";

/** Judge one test. */
export function judgeTest(test: ClaimTest, runs: readonly ComparedRun[]): TestResult {
  const own = select(runs, test.score, test.of);
  const protocols = new Set(own.map(({ protocol }) => protocol));
  if (own.length === 0) {
    return { verdict: "not run", text: `${test.score} of ${labelled(test.of)}`, effects: [] };
  }
  if (protocols.size > 1) {
    const text = `${test.score} of ${labelled(test.of)} under one protocol (there are ${protocols.size})`;
    return { verdict: "not run", text, effects: [] };
  }
  return test.trend ? judgeTrend(test, test.trend, own) : judgeDifference(test, own, runs);
}

function select(runs: readonly ComparedRun[], score: string, wanted: Labels): Value[] {
  return runs.flatMap(({ seed, labels = {}, scores }) => {
    const found = scores.find(({ name }) => name === score);
    const fits = Object.entries(wanted).every(([axis, text]) => labels[axis] === text);
    return found === undefined || !fits || !Number.isFinite(found.value)
      ? []
      : [
          {
            seed,
            labels,
            value: found.value,
            protocol: found.protocolHash,
            kind: found.protocol.name,
            better: found.better,
          },
        ];
  });
}

/** 1 where higher is better, -1 where lower is. */
const signOf = ({ better }: ClaimTest, [first]: readonly Value[]): number =>
  (better ?? first!.better) === "lower" ? -1 : 1;

/** Labels on the axes that a test does not name: trials are paired where they agree. */
function restOf(labels: Labels, named: ReadonlySet<string>): string {
  return JSON.stringify(
    Object.entries(labels)
      .filter(([axis]) => !named.has(axis))
      .sort(([a], [b]) => (a < b ? -1 : 1)),
  );
}

function judgeDifference(
  test: ClaimTest,
  own: readonly Value[],
  runs: readonly ComparedRun[],
): TestResult {
  const { score, against, of, margin, within, relative } = test;
  const reference = (test.beats ?? test.equals)!;
  const constant = typeof reference === "number";
  const whom = constant
    ? formatNumber(reference)
    : `${against === undefined ? "" : `${against} of `}${labelled(reference)}`;
  const name = `${score}: ${labelled(of)} against ${whom}`;
  const named = new Set([...Object.keys(of), ...(constant ? [] : Object.keys(reference))]);
  const others = constant ? [] : select(runs, against ?? score, reference);
  const bySeed = new Map<number, number[]>();
  for (const { seed, labels, value, protocol, kind } of own) {
    const rest = restOf(labels, named);
    const other = constant
      ? reference
      : others.find(
          (one) =>
            one.seed === seed &&
            // Two scores are measured under two protocols; of one kind they must be.
            (against === undefined ? one.protocol === protocol : one.kind === kind) &&
            restOf(one.labels, named) === rest,
        )?.value;
    if (other !== undefined) {
      const difference = relative ? (value - other) / Math.abs(other) : value - other;
      bySeed.set(seed, [...(bySeed.get(seed) ?? []), difference]);
    }
  }
  if (bySeed.size === 0) {
    return { verdict: "not run", text: name, effects: [] };
  }
  const sign = signOf(test, own);
  const pairs = [...bySeed.values()].reduce((sum, values) => sum + values.length, 0);
  const count = `${bySeed.size} seeds${pairs > bySeed.size ? `, ${pairs} pairs` : ""}`;
  const raw = [...bySeed.values()].map(mean);
  if (test.equals !== undefined) {
    const interval = bootstrapInterval(raw);
    const limit = `within ±${amount(within!, relative)}`;
    return {
      verdict: equivalence(interval, within!),
      text: `${name}: differs by ${effectText(raw, interval, relative)}, asked ${limit}, ${count}`,
      effects: raw,
      holds: { from: -within!, to: within! },
      ...(interval && { interval }),
    };
  }
  const gains = raw.map((difference) => sign * difference);
  const interval = bootstrapInterval(gains);
  const asked = margin === 0 ? "" : `, asked ${amount(margin, relative)}`;
  return {
    verdict: order(interval, margin),
    text: `${name}: ${mean(gains) < 0 ? "worse" : "better"} by ${sizeText(gains, interval, relative)}${asked}, ${count}`,
    effects: gains,
    holds: { from: margin },
    ...(interval && { interval }),
  };
}

function judgeTrend(
  test: ClaimTest,
  { axis, is, scale }: NonNullable<ClaimTest["trend"]>,
  own: readonly Value[],
): TestResult {
  const { score, of, margin, within, relative } = test;
  const name = `${score}: ${labelled(of)} along ${axis}${scale === "log2" ? " (log2)" : ""}`;
  const named = new Set([axis]);
  const bySeed = new Map<number, Map<string, [number, number][]>>();
  for (const { seed, labels, value } of own) {
    const place = Number(labels[axis] ?? Number.NaN);
    const x = scale === "log2" ? Math.log2(place) : place;
    if (Number.isFinite(x)) {
      const curves = bySeed.get(seed) ?? new Map<string, [number, number][]>();
      const rest = restOf(labels, named);
      curves.set(rest, [...(curves.get(rest) ?? []), [x, value]]);
      bySeed.set(seed, curves);
    }
  }
  const level = Math.abs(mean(own.map(({ value }) => value)));
  const slopes = [...bySeed.values()].flatMap((curves) => {
    const slope = commonSlope([...curves.values()]);
    return slope === undefined ? [] : [relative ? slope / level : slope];
  });
  if (slopes.length === 0) {
    return { verdict: "not run", text: `${name} at three places or more`, effects: [] };
  }
  const places = new Set(own.map(({ labels }) => labels[axis])).size;
  const count = `${slopes.length} seeds, ${places} places`;
  if (is === "flat") {
    const interval = bootstrapInterval(slopes);
    return {
      verdict: equivalence(interval, within!),
      text: `${name}: slope ${effectText(slopes, interval, relative)}, asked within ±${amount(within!, relative)}, ${count}`,
      effects: slopes,
      holds: { from: -within!, to: within! },
      ...(interval && { interval }),
    };
  }
  const side = is === "rising" ? 1 : is === "falling" ? -1 : signOf(test, own);
  const sign = is === "worse" ? -side : side;
  const effects = slopes.map((slope) => sign * slope);
  const interval = bootstrapInterval(effects);
  const asked = margin === 0 ? "" : `, asked ${amount(margin, relative)}`;
  return {
    verdict: order(interval, margin),
    text: `${name}: ${mean(effects) < 0 ? `not ${is} but the other way` : is} by ${sizeText(effects, interval, relative)} a step${asked}, ${count}`,
    effects,
    holds: { from: margin },
    ...(interval && { interval }),
  };
}

/**
 * Least squares of one slope and an intercept a curve. Undefined where the curves together do not have
 * three places: two points always lie on a line.
 */
function commonSlope(
  curves: readonly (readonly (readonly [number, number])[])[],
): number | undefined {
  let xx = 0;
  let xy = 0;
  const places = new Set(curves.flatMap((curve) => curve.map(([x]) => x)));
  for (const curve of curves) {
    const [mx, my] = [mean(curve.map(([x]) => x)), mean(curve.map(([, y]) => y))];
    for (const [x, y] of curve) {
      xx += (x - mx) ** 2;
      xy += (x - mx) * (y - my);
    }
  }
  return places.size < 3 || xx === 0 ? undefined : xy / xx;
}

function order(interval: Interval | undefined, margin: number): TestResult["verdict"] {
  return !interval
    ? "undecided"
    : interval.low > margin
      ? "holds"
      : interval.high < margin
        ? "fails"
        : "undecided";
}

function equivalence(interval: Interval | undefined, within: number): TestResult["verdict"] {
  return !interval
    ? "undecided"
    : interval.low > -within && interval.high < within
      ? "holds"
      : interval.low > within || interval.high < -within
        ? "fails"
        : "undecided";
}

const amount = (value: number, relative: boolean): string =>
  relative ? `${formatNumber(100 * value)} %` : formatNumber(value);

/** Effects whose direction words have told: without their sign. */
function sizeText(
  effects: readonly number[],
  interval: Interval | undefined,
  relative: boolean,
): string {
  return mean(effects) < 0
    ? effectText(
        effects.map((effect) => -effect),
        interval && { low: -interval.high, high: -interval.low },
        relative,
      )
    : effectText(effects, interval, relative);
}

function effectText(
  effects: readonly number[],
  interval: Interval | undefined,
  relative: boolean,
): string {
  const range = interval
    ? ` [${amount(interval.low, relative)}, ${amount(interval.high, relative)}]`
    : "";
  return `${amount(mean(effects), relative)}${range}`;
}
