/** @file Text for terminals: results on standard output, everything else on standard error. */

import { styleText } from "node:util";

/** A line of the result, which may be piped into another program. */
export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** A value as JSON of two spaces, for `--json`. */
export function printJson(value: unknown): void {
  print(JSON.stringify(value, null, 2));
}

/** A line for the person at the terminal. */
export function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** Coloured where colour is seen and wanted (https://no-color.org). */
export function coloured(
  colour: "red" | "green" | "yellow" | "bold" | "dim",
  text: string,
  stream: NodeJS.WriteStream = process.stdout,
): string {
  const wanted = (process.env["NO_COLOR"] ?? "") === "" && process.env["TERM"] !== "dumb";
  return stream.isTTY && wanted ? styleText(colour, text) : text;
}

/**
 * Rows as aligned columns, two spaces apart.
 * @param right indices of columns that are aligned to the right, as numbers are
 */
export function table(rows: readonly (readonly string[])[], right: readonly number[] = []): string {
  const columns = Math.max(0, ...rows.map((row) => row.length));
  const widths = Array.from({ length: columns }, (_, c) =>
    Math.max(0, ...rows.map((row) => (row[c] ?? "").length)),
  );
  const lines = rows.map((row) =>
    row
      .map((cell, c) => (right.includes(c) ? cell.padStart(widths[c]!) : cell.padEnd(widths[c]!)))
      .join("  ")
      .trimEnd(),
  );
  return lines.join("\n");
}

/** Text in lines of at most `width` characters, each after the first indented. */
export function wrap(text: string, width: number, indent: string): string {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(/\s+/)) {
    if (line !== "" && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else {
      line = line === "" ? word : `${line} ${word}`;
    }
  }
  return [...lines, line].join(`\n${indent}`);
}
