/** @file Tables as Markdown, LaTeX, CSV and Parquet. */

import { parquetWriteBuffer } from "hyparquet-writer";
import type { LongRow, TextTable } from "./tables.ts";

/** GitHub's Markdown tables; the best of a column is bold. */
export function markdown(tables: readonly TextTable[], notes: readonly string[]): string {
  const escape = (text: string): string => text.replaceAll("|", "\\|");
  const parts = tables.map(({ title, head, rows, right, best }) => {
    const line = (cells: readonly string[]): string => `| ${cells.map(escape).join(" | ")} |`;
    const rule = head.map((_, c) => (right.includes(c) ? "---:" : "---"));
    const body = rows.map((row, r) =>
      line(row.map((text, c) => (best[r]![c] ? `**${text}**` : text))),
    );
    return [...(title ? [title, ""] : []), line(head), `| ${rule.join(" | ")} |`, ...body].join(
      "\n",
    );
  });
  return `${[...parts, ...notes].join("\n\n")}\n`;
}

/** LaTeX with booktabs (`\usepackage{booktabs}`); the best of a column is bold. */
export function latex(tables: readonly TextTable[], notes: readonly string[]): string {
  const parts = tables.map(({ title, head, rows, right, best }) => {
    const spec = head.map((_, c) => (right.includes(c) ? "r" : "l")).join("");
    const line = (cells: readonly string[]): string => `  ${cells.join(" & ")} \\\\`;
    const body = rows.map((row, r) =>
      line(row.map((text, c) => (best[r]![c] ? `\\textbf{${tex(text)}}` : tex(text)))),
    );
    return [
      ...(title ? [`% ${title}`] : []),
      `\\begin{tabular}{${spec}}`,
      "  \\toprule",
      line(head.map(tex)),
      "  \\midrule",
      ...body,
      "  \\bottomrule",
      "\\end{tabular}",
    ].join("\n");
  });
  return `${[...parts, ...notes.map((note) => `% ${note}`)].join("\n\n")}\n`;
}

const texCharacters: { readonly [character: string]: string } = {
  "\\": "\\textbackslash{}",
  "~": "\\textasciitilde{}",
  "^": "\\textasciicircum{}",
  "↑": "$\\uparrow$",
  "↓": "$\\downarrow$",
  "–": "--",
  "<": "$<$",
  ">": "$>$",
};

function tex(text: string): string {
  return text
    .replace(/[\\~^↑↓–<>&%$#_{}]/g, (c) => texCharacters[c] ?? `\\${c}`)
    .replace(/(^|[\s[(,])-(?=\d)/g, "$1$-$");
}

const columnsOf = (rows: readonly LongRow[]): string[] => [
  ...new Set(rows.flatMap((row) => Object.keys(row))),
];

/** CSV by RFC 4180; missing values are empty. */
export function csv(rows: readonly LongRow[]): string {
  const columns = columnsOf(rows);
  const quote = (value: string | number | null | undefined): string => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns, ...rows.map((row) => columns.map((name) => row[name]))]
    .map((row) => `${row.map(quote).join(",")}\r\n`)
    .join("");
}

/** Parquet: a column is DOUBLE where all of its values are numbers, else text. */
export function parquet(rows: readonly LongRow[]): Uint8Array {
  const columnData = columnsOf(rows).map((name) => {
    const values = rows.map((row) => row[name] ?? null);
    const numeric =
      values.some((value) => value !== null) &&
      values.every((value) => value === null || typeof value === "number");
    return numeric
      ? { name, data: values as (number | null)[], type: "DOUBLE" as const, nullable: true }
      : {
          name,
          data: values.map((value) => (value === null ? null : String(value))),
          type: "STRING" as const,
          nullable: true,
        };
  });
  return new Uint8Array(parquetWriteBuffer({ columnData }));
}
