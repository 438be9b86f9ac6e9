/** @file A study as a page: verdicts, a table a suite and sweep, differences, what it was run on, protocols. */

import { existsSync, readFileSync } from "node:fs";
import { UserError } from "../../config/errors.ts";
import { type Claim, readBenchmarks } from "../benchmarks/schema.ts";
import { judgeClaim } from "../benchmarks/verdict.ts";
import { type Cell, compare, type Comparison } from "../compare/comparison.ts";
import { markdown } from "../compare/formats.ts";
import { wideTables } from "../compare/tables.ts";
import { formatSeconds } from "../format.ts";
import { flatten } from "../scores.ts";
import { type Study, studyRuns } from "./evidence.ts";

const WRITTEN = "<!-- Written by `tessera study`";
const NOTES = "<!-- Notes: what follows is written by hand and kept. -->";

/**
 * The page of a study.
 * @param file the study's path, e.g. results/studies/vocabulary.json
 * @param notes what people wrote below the page's own text
 */
export function studyPage(study: Study, file: string, notes = ""): string {
  const parts = [
    `${WRITTEN} from ${file.split("/").at(-1)}; \`npm run docs\` writes it again. -->`,
    `# ${study.study}`,
    factsOf(study),
    ...claimsOf(study, file),
    ...study.sweeps.flatMap((sweep) => {
      const found = studyRuns(study, file, sweep.name);
      const heading = study.sweeps.length > 1 ? [`## ${sweep.name}`] : [];
      return [...heading, ...tablesOf(compare(found), study.sweeps.length > 1 ? "###" : "##")];
    }),
    ...protocolsOf(study),
    ...machinesOf(study),
    NOTES,
  ];
  return `${parts.join("\n\n")}\n${notes === "" ? "" : `\n${notes.trim()}\n`}`;
}

/**
 * What people wrote below a study's page.
 * @throws UserError when the file is there and was not written by this program
 */
export function notesOf(path: string): string {
  if (!existsSync(path)) {
    return "";
  }
  const text = readFileSync(path, "utf8");
  if (!text.startsWith(WRITTEN)) {
    throw new UserError(
      `${path} was not written by this command`,
      "move it away, or let it be replaced with --overwrite",
    );
  }
  const at = text.indexOf(NOTES);
  return at < 0 ? "" : text.slice(at + NOTES.length).trim();
}

function factsOf({ sweeps }: Study): string {
  return sweeps
    .map(({ name, experiment, trials }) => {
      const finished = trials.filter(({ state }) => state === "finished").length;
      const seeds = new Set(trials.map(({ seed }) => seed)).size;
      const seconds = trials.reduce((sum, trial) => sum + (trial.seconds ?? 0), 0);
      const steps = new Set(
        trials.flatMap((trial) => {
          const words = Object.entries(trial.steps ?? {}).map(
            ([stage, n]) => `${n} ${stage} steps`,
          );
          return words.length === 0 ? [] : [words.join(" and ")];
        }),
      );
      const [only] = steps;
      return `Sweep \`${name}\` of experiment \`${experiment}\`: ${finished} of ${trials.length} trials finished, ${seeds} seeds${steps.size === 1 ? `, ${only} each` : ""}${seconds > 0 ? `; the trials took ${formatSeconds(seconds)} together` : ""}.`;
    })
    .concat(
      "Values are means over seeds with 95 % percentile bootstrap intervals; the best of a column is bold. The trials themselves are in the JSON file beside this page.",
    )
    .join("\n\n");
}

function claimsOf(study: Study, file: string): string[] {
  const claims = [...readBenchmarks().values()].flatMap((benchmark) =>
    Object.entries(benchmark.claims).filter(([, { sweep }]) =>
      study.sweeps.some(({ name }) => name === sweep),
    ),
  );
  const lines = claims.map(([id, claim]: [string, Claim]) => {
    const { runs } = studyRuns(study, file, claim.sweep);
    const { verdict, ours, missing } = judgeClaim(claim, { runs, from: file });
    const evidence = [...ours, missing ?? ""].filter(Boolean).map((text) => `  - ${text}`);
    return [
      `- \`${id}\`: **${verdict}**. ${claim.statement} (${claim.source}). Our setting: ${claim.scale}.`,
      ...evidence,
    ].join("\n");
  });
  return lines.length === 0 ? [] : ["## Claims", lines.join("\n")];
}

/** A table a suite; differences to the baseline below it. */
function tablesOf(comparison: Comparison, heading: string): string[] {
  const suites = [...new Set(comparison.columns.map(({ name }) => name.split("/")[0]!))];
  const parts = suites.flatMap((suite) => {
    const kept = comparison.columns.flatMap(({ name }, c) =>
      name.split("/")[0] === suite ? [c] : [],
    );
    const own: Comparison = {
      ...comparison,
      columns: kept.map((c) => comparison.columns[c]!),
      cells: comparison.cells.map((row) => kept.map((c) => withoutWeakTest(row[c]!))),
    };
    return [`${heading} ${suite}`, markdown(wideTables(own), []).trimEnd()];
  });
  const notes = comparison.notes.map((note) => `- ${note}`);
  return [...parts, ...(notes.length > 0 ? [notes.join("\n")] : [])];
}

/** With n pairs no p-value is below 2 / 2^n: fewer than six can show nothing at 5 %, and are not printed. */
function withoutWeakTest(cell: Cell): Cell {
  const { difference } = cell;
  if (difference === undefined || difference.pairs >= 6) {
    return cell;
  }
  const { p: _p, corrected: _corrected, ...kept } = difference;
  return { ...cell, difference: kept };
}

function protocolsOf({ scores, protocols }: Study): string[] {
  const lines = Object.entries(protocols).map(([hash, { name, ...choices }]) => {
    const own = Object.entries(scores).filter(([, { protocol }]) => protocol === hash);
    const facts = flatten(choices).map(([key, text]) => `${key} ${text}`);
    return `| \`${name}\` | \`${hash}\` | ${own.map(([key]) => key).join(", ")} | ${facts.join("; ").replaceAll("|", "\\|")} |`;
  });
  return [
    "## Protocols",
    ["| protocol | hash | scores | choices |", "| --- | --- | --- | --- |", ...lines].join("\n"),
  ];
}

function machinesOf({ machines, sweeps }: Study): string[] {
  const trials = sweeps.flatMap((sweep) => sweep.trials);
  const lines = machines.map((machine, i) => {
    const count = trials.filter((trial) => trial.machine === i).length;
    const text = (key: string): string => {
      const value = machine[key];
      return typeof value === "string" || typeof value === "number" ? String(value) : "–";
    };
    const commit = `\`${text("commit").slice(0, 12)}\`${machine["dirty"] === true ? " with changes" : ""}`;
    return `| ${count} | ${commit} | ${text("device")} | ${text("cpu")}, ${text("cores")} cores | ${text("node")} |`;
  });
  return lines.length === 0
    ? []
    : [
        "## Run on",
        [
          "| trials | commit | device | processor | Node |",
          "| ---: | --- | --- | --- | --- |",
          ...lines,
        ].join("\n"),
      ];
}
