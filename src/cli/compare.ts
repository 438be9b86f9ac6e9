/** @file `tessera compare`: runs and sweeps side by side, with intervals over seeds. */

import { writeFileSync } from "node:fs";
import { type Command, Option } from "commander";
import { UserError } from "../config/errors.ts";
import type { Comparison, Test } from "../reports/compare/comparison.ts";
import type { LongRow, TextTable } from "../reports/compare/tables.ts";
import type { Center } from "../eval/statistics/bootstrap.ts";
import type { Correction } from "../eval/statistics/tests.ts";
import { coloured, print, printJson, table, wrap } from "./output.ts";

type Format = "terminal" | "markdown" | "latex" | "csv" | "parquet" | "json";

interface Options {
  readonly scores?: readonly string[];
  readonly baseline?: readonly string[];
  readonly long?: boolean;
  readonly runs?: boolean;
  readonly sql?: string;
  readonly format: Format;
  readonly out?: string;
  readonly center: Center;
  readonly level: number;
  readonly test: Test;
  readonly correction: Correction;
  readonly output: string;
}

export function addCompare(program: Command): void {
  program
    .command("compare")
    .description("put runs and sweeps side by side: means and intervals over seeds, differences")
    .argument("<runs...>", "run folders, sweeps (folder, file or name), or folders of runs")
    .option("--scores <parts...>", "only scores whose names contain one of these")
    .option("--baseline <key=value...>", "differences to this configuration, paired by seed")
    .option("--long", "a line a configuration and score, with everything known")
    .option("--runs", "a line a run and score, nothing aggregated")
    .option("--sql <query>", "ask the tables `runs` and `comparison` (needs @duckdb/node-api)")
    .addOption(
      new Option("--format <format>", "what to print")
        .choices(["terminal", "markdown", "latex", "csv", "parquet", "json"])
        .default("terminal"),
    )
    .option("--out <file>", "write it there; parquet needs it")
    .addOption(
      new Option("--center <what>", "what stands for several seeds")
        .choices(["mean", "median", "iqm"])
        .default("mean"),
    )
    .option("--level <share>", "of the bootstrap intervals", Number, 0.95)
    .addOption(
      new Option("--test <name>", "of differences")
        .choices(["permutation", "wilcoxon", "t"])
        .default("permutation"),
    )
    .addOption(
      new Option("--correction <name>", "of p-values for their number")
        .choices(["holm", "bonferroni", "benjamini-hochberg", "none"])
        .default("holm"),
    )
    .option("--output <folder>", "where sweeps are looked for by name", "results")
    .addHelpText(
      "after",
      `
Runs that differ by their seed only are one configuration. Scores of different protocols are never
put into one column; cells without values show as –, and cells with fewer seeds than their
configuration say so. With few seeds intervals enumerate every resample. Note what few seeds can
say: with n pairs the permutation test's smallest p is 2/2^n.

Examples:
  tessera compare results/sweeps/quickstart-seeds
  tessera compare results/quickstart --scores psnr frechet --baseline tokenizer.type=magvit
  tessera compare @vocabulary --format latex --out table.tex
  tessera compare results/sweeps/a results/sweeps/b --runs --format csv
  tessera compare results/quickstart --sql "select score, max(value) from runs group by score"`,
    )
    .action(run);
}

async function run(named: string[], options: Options): Promise<void> {
  const [{ compare }, { findRuns }] = await Promise.all([
    import("../reports/compare/comparison.ts"),
    import("../reports/compare/runs.ts"),
  ]);
  const baseline = options.baseline && Object.fromEntries(options.baseline.map(keyValue));
  const comparison = compare(findRuns(named, options.output), {
    ...(options.scores && { scores: options.scores }),
    ...(baseline && { baseline }),
    center: options.center,
    level: options.level,
    test: options.test,
    correction: options.correction,
  });
  await show(comparison, options);
}

function keyValue(text: string): [string, string] {
  const at = text.indexOf("=");
  if (at < 1) {
    throw new UserError(
      `cannot read the baseline ${text}`,
      "write key=value, e.g. tokenizer.type=magvit",
    );
  }
  return [text.slice(0, at), text.slice(at + 1)];
}

async function show(comparison: Comparison, options: Options): Promise<void> {
  const [{ longRows, runRows, wideTables }, formats] = await Promise.all([
    import("../reports/compare/tables.ts"),
    import("../reports/compare/formats.ts"),
  ]);
  const { format, out } = options;
  const own = options.runs ? runRows(comparison) : longRows(comparison);
  const rows = options.sql === undefined ? own : await asked(comparison, options.sql);
  const give = (text: string): void => {
    if (out === undefined) {
      print(text.replace(/\n$/, ""));
    } else {
      writeFileSync(out, text);
    }
  };
  switch (format) {
    case "csv":
      return give(formats.csv(rows));
    case "parquet":
      if (out === undefined) {
        throw new UserError("Parquet is no text for a terminal", "name a file with --out");
      }
      return writeFileSync(out, formats.parquet(rows));
    case "json":
      return out === undefined
        ? printJson(rows)
        : writeFileSync(out, JSON.stringify(rows, null, 2));
    default: {
      const isLong = options.long || options.runs || options.sql !== undefined;
      const tables = isLong ? [asTable(rows)] : wideTables(comparison);
      if (format === "markdown") {
        return give(formats.markdown(tables, comparison.notes));
      }
      if (format === "latex") {
        return give(formats.latex(tables, comparison.notes));
      }
      return give(terminal(tables, comparison.notes));
    }
  }
}

/** What a query says of the comparison, as --runs and --long have it. */
async function asked(comparison: Comparison, query: string): Promise<LongRow[]> {
  const [{ queryTables }, { longRows, runRows }] = await Promise.all([
    import("../reports/compare/sql.ts"),
    import("../reports/compare/tables.ts"),
  ]);
  return queryTables({ runs: runRows(comparison), comparison: longRows(comparison) }, query);
}

/** Records as a table of text. */
function asTable(rows: readonly LongRow[]): TextTable {
  const head = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const text = rows.map((row) => head.map((name) => String(row[name] ?? "–")));
  const right = head.flatMap((name, c) =>
    rows.some((r) => typeof r[name] === "number") ? [c] : [],
  );
  return { head, rows: text, right, best: rows.map(() => head.map(() => false)) };
}

/** Tables that fit the terminal: columns that do not fit go into further blocks below. */
function terminal(tables: readonly TextTable[], notes: readonly string[]): string {
  const width = process.stdout.isTTY ? (process.stdout.columns ?? 80) : 200;
  const parts = tables.flatMap(({ title, ...one }) => [
    ...(title ? [wrap(title, width, "")] : []),
    ...blocks(one, width).map((block) => tableText(block)),
  ]);
  return [...parts, ...notes.map((note) => wrap(`Note: ${note}`, width, "  "))].join("\n\n");
}

function tableText({ head, rows, right, best }: TextTable): string {
  const lines = table([head, ...rows], right).split("\n");
  const widths = head.map((name, c) => Math.max(name.length, ...rows.map((row) => row[c]!.length)));
  return lines
    .map((line, r) => {
      if (r === 0) {
        return coloured("bold", line);
      }
      // From the right, so that earlier columns keep their places.
      let text = line;
      for (let c = head.length - 1; c >= 0; c--) {
        if (best[r - 1]![c]) {
          const start = widths.slice(0, c).reduce((a, b) => a + b + 2, 0);
          const end = start + widths[c]!;
          text = text.slice(0, start) + coloured("green", text.slice(start, end)) + text.slice(end);
        }
      }
      return text;
    })
    .join("\n");
}

function blocks(whole: TextTable, width: number): TextTable[] {
  const widths = whole.head.map((name, c) =>
    Math.max(name.length, ...whole.rows.map((row) => row[c]!.length)),
  );
  const first = Math.min(...whole.right, whole.head.length);
  const fixed = Array.from({ length: first }, (_, c) => c);
  const base = fixed.reduce((sum, c) => sum + widths[c]! + 2, 0);
  const groups: number[][] = [];
  let used = Number.POSITIVE_INFINITY;
  for (let c = first; c < widths.length; c++) {
    if (used + widths[c]! > width) {
      groups.push([]);
      used = base;
    }
    groups.at(-1)!.push(c);
    used += widths[c]! + 2;
  }
  const pick = (chosen: readonly number[]): TextTable => ({
    head: chosen.map((c) => whole.head[c]!),
    rows: whole.rows.map((row) => chosen.map((c) => row[c]!)),
    right: chosen.flatMap((c, i) => (whole.right.includes(c) ? [i] : [])),
    best: whole.best.map((row) => chosen.map((c) => row[c]!)),
  });
  return groups.length === 0 ? [whole] : groups.map((own) => pick([...fixed, ...own]));
}
