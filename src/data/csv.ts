/** @file Reading comma-separated values as RFC 4180 has them: quotes, quoted commas and line ends. */

export interface CsvRow {
  readonly cells: readonly string[];
  /** Line of the row's first character, from 1. */
  readonly line: number;
}

/** The rows of a text; empty lines are left out, CRLF and LF both end a row. */
export function parseCsv(text: string): CsvRow[] {
  const rows: CsvRow[] = [];
  let cells: string[] = [];
  let cell = "";
  let quoted = false;
  let line = 1;
  let first = 1;
  const endRow = (): void => {
    cells.push(cell);
    if (cells.length > 1 || cell.trim() !== "") {
      rows.push({ cells, line: first });
    }
    cells = [];
    cell = "";
  };
  for (let i = 0; i < text.length; i++) {
    const char = text[i]!;
    if (char === "\n") {
      line += 1;
    }
    if (quoted) {
      if (char !== '"') {
        cell += char;
      } else if (text[i + 1] === '"') {
        cell += '"';
        i += 1;
      } else {
        quoted = false;
      }
    } else if (char === '"' && cell === "") {
      quoted = true;
    } else if (char === ",") {
      cells.push(cell);
      cell = "";
    } else if (char === "\n") {
      endRow();
      first = line;
    } else if (char !== "\r" || text[i + 1] !== "\n") {
      cell += char;
    }
  }
  endRow();
  return rows;
}
