/**
 * @file A comparison: configurations in rows, scores in columns, seeds behind each cell. Scores of
 * different protocols never share a column, cells without values stay empty and are counted, and
 * differences to a baseline are paired by seed.
 */

import { UserError } from "../../config/errors.ts";
import type { Score } from "../../eval/suite.ts";
import {
  bootstrapInterval,
  type Center,
  centers,
  deviation,
  type Interval,
  mean,
} from "../../eval/statistics/bootstrap.ts";
import {
  correct,
  type Correction,
  pairedTTest,
  probabilityAbove,
  signFlipTest,
  wilcoxonSignedRank,
} from "../../eval/statistics/tests.ts";
import { flatten } from "../scores.ts";
import type { ComparedRun, Found } from "./runs.ts";

/** A configuration: runs that differ by their seed only. */
export interface Group {
  readonly configuration: string;
  readonly labels: { readonly [axis: string]: string };
  readonly runs: readonly ComparedRun[];
}

/** A score under one protocol. */
export interface Column {
  /** Unique: the score's name, with the protocol's hash where a name has several. */
  readonly key: string;
  readonly name: string;
  readonly unit?: string;
  readonly better: Score["better"];
  readonly protocol: string;
  readonly protocolHash: string;
}

export interface Cell {
  /** Values by seed. */
  readonly values: ReadonlyMap<number, number>;
  /** Runs of the group, with a value or without. */
  readonly expected: number;
  readonly center?: number;
  readonly std?: number;
  readonly interval?: Interval;
  readonly difference?: Difference;
}

/** To the baseline, over the seeds that both have. */
export interface Difference {
  readonly center: number;
  readonly interval?: Interval;
  readonly pairs: number;
  /** The chance that a run of this configuration is better than one of the baseline. */
  readonly improvement?: number;
  /** Undefined with fewer than two pairs. */
  readonly p?: number;
  readonly corrected?: number;
}

export interface Comparison {
  readonly axes: readonly string[];
  readonly groups: readonly Group[];
  readonly columns: readonly Column[];
  /** cells[group][column] */
  readonly cells: readonly (readonly Cell[])[];
  /** Index of the baseline's group. */
  readonly baseline?: number;
  readonly options: Required<Omit<CompareOptions, "baseline" | "scores">>;
  /** What a reader must know: mixed protocols, missing values, ... */
  readonly notes: readonly string[];
}

export type Test = "permutation" | "wilcoxon" | "t";

export interface CompareOptions {
  /** Parts of the names of scores to keep; all when left out. */
  readonly scores?: readonly string[];
  readonly baseline?: { readonly [key: string]: unknown };
  readonly center?: Center;
  readonly level?: number;
  readonly test?: Test;
  readonly correction?: Correction;
}

/** Compare runs. */
export function compare(found: Found, options: CompareOptions = {}): Comparison {
  const settings = {
    center: options.center ?? "mean",
    level: options.level ?? 0.95,
    test: options.test ?? "permutation",
    correction: options.correction ?? "holm",
  } as const;
  const groups = groupsOf(found.runs);
  const columns = columnsOf(found.runs, options.scores);
  const wanted = options.baseline ?? found.baseline;
  const baseline = wanted === undefined ? undefined : findBaseline(groups, wanted);
  const values = groups.map((group) => columns.map((column) => valuesOf(group, column)));
  const cells = values.map((row, g) =>
    row.map((byseed, c): Cell => {
      const all = [...byseed.values()];
      const base = baseline === undefined || baseline === g ? undefined : values[baseline]![c]!;
      const difference = base && differenceOf(byseed, base, columns[c]!, settings);
      const interval = bootstrapInterval(all, settings.level, settings.center);
      return {
        values: byseed,
        expected: groups[g]!.runs.length,
        ...(all.length > 0 && { center: centers[settings.center](all), std: deviation(all) }),
        ...(interval && { interval }),
        ...(difference && { difference }),
      };
    }),
  );
  const notes = notesOf(found.runs, groups, columns, cells);
  return {
    axes: [...new Set(groups.flatMap(({ labels }) => Object.keys(labels)))],
    groups,
    columns,
    cells: withCorrection(cells, settings.correction),
    ...(baseline !== undefined && { baseline }),
    options: settings,
    notes,
  };
}

/** Configurations in the order of their first runs, told apart by labels or by their configs. */
function groupsOf(runs: readonly ComparedRun[]): Group[] {
  const byConfiguration = new Map<string, ComparedRun[]>();
  for (const run of runs) {
    const key = run.configuration.slice(0, 12);
    byConfiguration.set(key, [...(byConfiguration.get(key) ?? []), run]);
  }
  const groups = [...byConfiguration].map(([configuration, own]) => ({
    configuration,
    runs: own.toSorted((a, b) => a.seed - b.seed),
  }));
  if (runs.every(({ labels }) => labels !== undefined)) {
    return groups.map((group) => ({ ...group, labels: group.runs[0]!.labels! }));
  }
  const flat = groups.map(({ runs: [run] }) => new Map(flatten(run!.config)));
  const keys = [...new Set(flat.flatMap((map) => [...map.keys()]))].filter((key) => key !== "seed");
  const differing = keys.filter((key) => new Set(flat.map((map) => map.get(key))).size > 1);
  return groups.map((group, g) => ({
    ...group,
    labels: Object.fromEntries(differing.map((key) => [key, flat[g]!.get(key) ?? "-"])),
  }));
}

function columnsOf(runs: readonly ComparedRun[], wanted: readonly string[] | undefined): Column[] {
  const found = new Map<string, Omit<Column, "key">>();
  for (const { scores } of runs) {
    for (const { name, unit, better, protocol, protocolHash } of scores) {
      const key = `${name} ${protocolHash}`;
      if (!found.has(key) && (wanted === undefined || wanted.some((part) => name.includes(part)))) {
        found.set(key, {
          name,
          ...(unit !== undefined && { unit }),
          better,
          protocol: protocol.name,
          protocolHash,
        });
      }
    }
  }
  const columns = [...found.values()];
  if (columns.length === 0 && wanted !== undefined && runs.some((run) => run.scores.length > 0)) {
    const names = [...new Set(runs.flatMap(({ scores }) => scores.map(({ name }) => name)))];
    throw new UserError(
      `no score is named like ${wanted.join(", ")}`,
      `there are: ${names.join(", ")}`,
    );
  }
  const times = new Map<string, number>();
  for (const { name } of columns) {
    times.set(name, (times.get(name) ?? 0) + 1);
  }
  return columns.map((column) => ({
    ...column,
    key: times.get(column.name)! > 1 ? `${column.name} [${column.protocolHash}]` : column.name,
  }));
}

function valuesOf(group: Group, column: Column): Map<number, number> {
  const values = new Map<number, number>();
  for (const { seed, scores } of group.runs) {
    const score = scores.find(
      ({ name, protocolHash }) => name === column.name && protocolHash === column.protocolHash,
    );
    if (score !== undefined && Number.isFinite(score.value)) {
      values.set(seed, score.value);
    }
  }
  return values;
}

function findBaseline(
  groups: readonly Group[],
  wanted: { readonly [key: string]: unknown },
): number {
  const fits = ({ labels, runs, configuration }: Group): boolean => {
    const flat = new Map(flatten(runs[0]!.config));
    return Object.entries(wanted).every(([key, value]) => {
      const text = typeof value === "string" ? value : JSON.stringify(value);
      return (
        labels[key] === text ||
        flat.get(key) === text ||
        (key === "configuration" && configuration.startsWith(text))
      );
    });
  };
  const index = groups.findIndex(fits);
  if (index < 0) {
    throw new UserError(
      `no configuration fits the baseline ${JSON.stringify(wanted)}`,
      `there are: ${groups
        .slice(0, 8)
        .map(({ labels }) => JSON.stringify(labels))
        .join(" ")}`,
    );
  }
  return index;
}

function differenceOf(
  own: ReadonlyMap<number, number>,
  base: ReadonlyMap<number, number>,
  { better }: Column,
  { level, center, test }: { level: number; center: Center; test: Test },
): Difference | undefined {
  const seeds = [...own.keys()].filter((seed) => base.has(seed));
  const differences = seeds.map((seed) => own.get(seed)! - base.get(seed)!);
  if (differences.length === 0) {
    return undefined;
  }
  const interval = bootstrapInterval(differences, level, center);
  const above = probabilityAbove([...own.values()], [...base.values()]);
  return {
    center: center === "mean" ? mean(differences) : centers[center](differences),
    pairs: differences.length,
    ...(interval && { interval }),
    ...(better !== "none" && { improvement: better === "higher" ? above : 1 - above }),
    ...(differences.length > 1 && { p: pValue(differences, test) }),
  };
}

function pValue(differences: readonly number[], test: Test): number {
  switch (test) {
    case "permutation":
      return signFlipTest(differences);
    case "wilcoxon":
      return wilcoxonSignedRank(differences).p;
    case "t":
      return pairedTTest(differences);
  }
}

/** All p-values of the table are one family. */
function withCorrection(
  cells: readonly (readonly Cell[])[],
  correction: Correction,
): readonly (readonly Cell[])[] {
  const tested = cells.flat().filter(({ difference }) => difference?.p !== undefined);
  const corrected = correct(
    tested.map(({ difference }) => difference!.p!),
    correction,
  );
  const byCell = new Map(tested.map((cell, i) => [cell, corrected[i]!]));
  return cells.map((row) =>
    row.map((cell) => {
      const value = byCell.get(cell);
      return value === undefined
        ? cell
        : { ...cell, difference: { ...cell.difference!, corrected: value } };
    }),
  );
}

function notesOf(
  runs: readonly ComparedRun[],
  groups: readonly Group[],
  columns: readonly Column[],
  cells: readonly (readonly Cell[])[],
): string[] {
  const notes: string[] = [];
  const unfinished = runs.filter(({ state }) => state !== "finished");
  if (unfinished.length > 0) {
    const states = [...new Set(unfinished.map(({ state }) => state))].map(
      (state) => `${unfinished.filter((run) => run.state === state).length} ${state}`,
    );
    notes.push(
      `${unfinished.length} of ${runs.length} runs have no final scores: ${states.join(", ")}.`,
    );
  }
  const mixed = new Map<string, string[]>();
  for (const name of new Set(columns.map((column) => column.name))) {
    const own = columns.filter((column) => column.name === name);
    if (own.length > 1) {
      const protocols = own.map(({ protocol, protocolHash }) => `${protocol} ${protocolHash}`);
      const key = protocols.join(", ");
      mixed.set(key, [...(mixed.get(key) ?? []), name]);
    }
  }
  for (const [protocols, names] of mixed) {
    notes.push(
      `Measured under several protocols, which are not comparable (${protocols}): ${names.join(", ")}.`,
    );
  }
  const partial = cells
    .flat()
    .filter(({ values, expected }) => values.size > 0 && values.size < expected).length;
  if (partial > 0) {
    notes.push(
      `${partial} cells rest on fewer seeds than their configuration has; they say how many.`,
    );
  }
  const seeds = new Set(groups.map(({ runs: own }) => own.length));
  if (groups.length > 1 && seeds.size > 1) {
    notes.push("Configurations have different numbers of seeds.");
  }
  return notes;
}
