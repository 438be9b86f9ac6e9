/** @file A committed study: the table `tessera compare SWEEP --runs --format csv` of its runs, read back. */

import { parseCsv } from "../../data/csv.ts";
import type { Score } from "../../eval/suite.ts";
import type { ComparedRun } from "../compare/runs.ts";

/** Columns of the table that are no axes. */
const known = new Set(
  "run experiment configuration seed state score value unit better n std protocol protocol_hash dir".split(
    " ",
  ),
);

/** The runs of a study's table. */
export function studyRuns(text: string): ComparedRun[] {
  const runs = new Map<string, ComparedRun & { scores: Score[] }>();
  const [head, ...body] = parseCsv(text).map(({ cells }) => cells);
  for (const cells of body) {
    const row: { readonly [column: string]: string } = Object.fromEntries(
      (head ?? []).map((name, i) => [name, cells[i] ?? ""]),
    );
    const id = row["run"]!;
    const labels = Object.fromEntries(
      Object.entries(row).filter(([name, value]) => !known.has(name) && value !== ""),
    );
    const run = runs.get(id) ?? {
      dir: row["dir"] ?? "",
      id,
      experiment: row["experiment"] ?? "",
      configuration: row["configuration"] ?? "",
      seed: Number(row["seed"]),
      state: row["state"] ?? "unknown",
      config: {},
      labels,
      scores: [],
    };
    runs.set(id, run);
    if (row["score"] && row["value"]) {
      run.scores.push({
        name: row["score"],
        value: Number(row["value"]),
        ...(row["unit"] && { unit: row["unit"] }),
        better: row["better"] as Score["better"],
        protocol: { name: row["protocol"] ?? "" },
        protocolHash: row["protocol_hash"] ?? "",
        n: Number(row["n"]),
      });
    }
  }
  return [...runs.values()];
}
