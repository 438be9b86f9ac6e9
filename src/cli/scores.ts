/** @file Scores as a table of a terminal. */

import type { Score } from "../eval/suite.ts";
import { formatNumber } from "../reports/format.ts";
import { table } from "./output.ts";

/** The value with its spread and unit. */
export function valueText({ value, std, unit }: Score): string {
  const spread = std === undefined ? "" : ` ± ${formatNumber(std)}`;
  return `${formatNumber(value)}${spread}${unit ? ` ${unit}` : ""}`;
}

/** A line a score: name, value, count and protocol. */
export function scoreTable(scores: readonly Score[]): string {
  return table(
    scores.map((score) => [
      score.name,
      valueText(score),
      `n = ${score.n}`,
      `${score.protocol.name} ${score.protocolHash}`,
    ]),
  );
}
