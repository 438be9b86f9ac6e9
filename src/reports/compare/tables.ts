/** @file A comparison as rows of text (wide: a line a configuration) and of values (long: a line a cell). */

import { formatNumber } from "../format.ts";
import type { Cell, Column, Comparison, Difference } from "./comparison.ts";

export const MISSING = "–";
const arrows = { higher: "↑", lower: "↓", none: "" } as const;

/** Text rows with their heading. */
export interface TextTable {
  readonly title?: string;
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** Columns that are numbers. */
  readonly right: readonly number[];
  /** For each row and column: the best of its column? */
  readonly best: readonly (readonly boolean[])[];
}

/** A score's heading: name, unit, better side. */
export function columnTitle({ key, unit, better }: Column): string {
  return `${key}${unit ? ` (${unit})` : ""}${arrows[better] && ` ${arrows[better]}`}`;
}

/** The value with its interval; how many seeds, where some are missing. */
export function cellText({ center, interval, values, expected }: Cell): string {
  if (center === undefined) {
    return MISSING;
  }
  const range = interval ? ` [${formatNumber(interval.low)}, ${formatNumber(interval.high)}]` : "";
  const count = values.size < expected ? ` (${values.size}/${expected})` : "";
  return `${formatNumber(center)}${range}${count}`;
}

/** The difference to the baseline, its interval, the chance of being better, and p. */
export function differenceText(difference: Difference | undefined): string {
  if (difference === undefined) {
    return MISSING;
  }
  const { center, interval, improvement, corrected } = difference;
  const sign = center > 0 ? "+" : "";
  const range = interval ? ` [${formatNumber(interval.low)}, ${formatNumber(interval.high)}]` : "";
  const chance = improvement === undefined ? "" : ` P=${improvement.toFixed(2)}`;
  const p = corrected === undefined ? "" : ` p=${formatP(corrected)}`;
  return `${sign}${formatNumber(center)}${range}${chance}${p}`;
}

export function formatP(p: number): string {
  return p < 0.001 ? "<0.001" : p.toFixed(3);
}

/** Configurations in rows, scores in columns; then differences to the baseline in the same shape. */
export function wideTables(comparison: Comparison): TextTable[] {
  const { axes, groups, columns, cells, baseline } = comparison;
  const labels = groups.map(({ labels: own }) => axes.map((axis) => own[axis] ?? MISSING));
  const counts = groups.map(({ runs }) => String(runs.length));
  const head = [...axes, "seeds", ...columns.map(columnTitle)];
  const right = Array.from({ length: columns.length + 1 }, (_, i) => axes.length + i);
  const bestOf = columns.map((column, c) => bestRow(cells, column, c));
  const values: TextTable = {
    head,
    right,
    rows: groups.map((_, g) => [...labels[g]!, counts[g]!, ...cells[g]!.map(cellText)]),
    best: groups.map((_, g) => [
      ...axes.map(() => false),
      false,
      ...columns.map((__, c) => bestOf[c] === g),
    ]),
  };
  if (baseline === undefined) {
    return [values];
  }
  const others = groups.map((_, g) => g).filter((g) => g !== baseline);
  const { test, correction } = comparison.options;
  const name = axes.map((axis) => `${axis}=${groups[baseline]!.labels[axis] ?? MISSING}`).join(" ");
  const tested = cells.flat().some(({ difference }) => difference?.corrected !== undefined);
  const p = `; p: ${test}, two-sided, ${correction === "none" ? "not corrected" : correction}`;
  return [
    values,
    {
      title: `Difference to ${name || "the baseline"} on equal seeds. P: probability of improvement${tested ? p : ""}.`,
      head,
      right,
      rows: others.map((g) => [
        ...labels[g]!,
        counts[g]!,
        ...cells[g]!.map(({ difference }) => differenceText(difference)),
      ]),
      best: others.map(() => head.map(() => false)),
    },
  ];
}

function bestRow(
  cells: readonly (readonly Cell[])[],
  { better }: Column,
  c: number,
): number | undefined {
  const told = cells.filter((row) => row[c]!.center !== undefined).length;
  if (better === "none" || told < 2) {
    return undefined;
  }
  let best: number | undefined;
  for (const [g, row] of cells.entries()) {
    const value = row[c]!.center;
    const record = best === undefined ? undefined : cells[best]![c]!.center!;
    if (
      value !== undefined &&
      (record === undefined || (better === "higher" ? value > record : value < record))
    ) {
      best = g;
    }
  }
  return best;
}

/** A cell as a flat record of values. */
export type LongRow = { [column: string]: string | number | null };

/** A row a configuration and score, with everything that is known of it. */
export function longRows(comparison: Comparison): LongRow[] {
  const { axes, groups, columns, cells } = comparison;
  return groups.flatMap((group, g) =>
    columns.map((column, c): LongRow => {
      const { center, std, interval, values, expected, difference } = cells[g]![c]!;
      return {
        configuration: group.configuration,
        ...Object.fromEntries(axes.map((axis) => [axis, group.labels[axis] ?? null])),
        score: column.name,
        unit: column.unit ?? null,
        better: column.better,
        protocol: column.protocol,
        protocol_hash: column.protocolHash,
        seeds: values.size,
        expected,
        [comparison.options.center]: center ?? null,
        std: std ?? null,
        low: interval?.low ?? null,
        high: interval?.high ?? null,
        difference: difference?.center ?? null,
        difference_low: difference?.interval?.low ?? null,
        difference_high: difference?.interval?.high ?? null,
        pairs: difference?.pairs ?? null,
        improvement: difference?.improvement ?? null,
        p: difference?.p ?? null,
        p_corrected: difference?.corrected ?? null,
      };
    }),
  );
}

/** A row a run and score: what everything else is computed from. */
export function runRows({ axes, groups }: Comparison): LongRow[] {
  return groups.flatMap((group) =>
    group.runs.flatMap((run): LongRow[] => {
      const common: LongRow = {
        run: run.id,
        experiment: run.experiment,
        configuration: group.configuration,
        seed: run.seed,
        state: run.state,
        ...Object.fromEntries(axes.map((axis) => [axis, group.labels[axis] ?? null])),
      };
      const rows = run.scores.map(
        (score): LongRow => ({
          ...common,
          score: score.name,
          value: Number.isFinite(score.value) ? score.value : null,
          unit: score.unit ?? null,
          better: score.better,
          n: score.n,
          std: score.std ?? null,
          protocol: score.protocol.name,
          protocol_hash: score.protocolHash,
          dir: run.dir,
        }),
      );
      return rows.length > 0 ? rows : [{ ...common, score: null, value: null, dir: run.dir }];
    }),
  );
}
