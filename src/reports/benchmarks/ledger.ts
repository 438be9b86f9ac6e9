/** @file The ledger: every published number and claim that is written down here, beside ours. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { allStudies, committedRuns, STUDIES } from "../studies/evidence.ts";
import { type Claim, readBenchmarks } from "./schema.ts";
import { judgeClaim, judgeEntry } from "./verdict.ts";

/** The page, from configs/benchmarks and what is committed in results/studies. */
export function ledgerPage(): string {
  // Only what is committed counts for the page, not whatever lies in results/ on this machine.
  const studies = allStudies();
  const parts = [
    "<!-- Written by `npm run docs` from configs/benchmarks and results/studies. -->",
    "# Ledger",
    "Published results of the papers that Tessera follows, beside ours. `tessera reproduce --list` prints the same, `tessera reproduce NAME` one of them with its protocol. *Not run* means that nothing of ours was measured under that protocol, and says what is missing. A claim is tested at small scale by a sweep, mostly on the procedural set, by paired differences or slopes: it **holds** when the 95 % bootstrap interval over seeds of each of its tests lies on the right side of its margin, **fails** when one lies wholly on the wrong side, and is **undecided** otherwise. With three seeds such an interval reaches about from the smallest value to the largest, so that *holds* says little more than that all seeds agree. A verdict is of our setting, not of the papers'.",
  ];
  for (const [name, { paper, entries, claims }] of readBenchmarks()) {
    parts.push(`## ${name}`, paper);
    const numbers = Object.entries(entries).map(([id, entry]) => {
      const { verdict, ours, missing } = judgeEntry(entry);
      const spread = entry.spread === undefined ? "" : ` ± ${entry.spread}`;
      return `| \`${id}\` | ${entry.what} | ${entry.published}${spread} ${entry.unit} | ${ours.join(", ") || "–"} | ${verdict} | ${missing ?? ""} |`;
    });
    if (numbers.length > 0) {
      parts.push(
        [
          "| name | what | published | ours | verdict | missing |",
          "| --- | --- | --- | --- | --- | --- |",
          ...numbers,
        ].join("\n"),
      );
    }
    const tested = Object.entries(claims).map(([id, claim]) => {
      const study = committedRuns(claim.sweep, studies);
      const { verdict, ours, missing } = judgeClaim(claim, study);
      const evidence = [...ours, missing ?? "", linkOf(claim, study?.from)].filter(Boolean);
      return `| \`${id}\` | ${claim.statement} (${claim.source}) | ${claim.scale} | **${verdict}** | ${evidence.map(cell).join("<br>")} |`;
    });
    if (tested.length > 0) {
      parts.push(
        [
          "| claim | statement | our setting | verdict | evidence |",
          "| --- | --- | --- | --- | --- |",
          ...tested,
        ].join("\n"),
      );
    }
  }
  return `${parts.join("\n\n")}\n`;
}

const cell = (text: string): string => text.replaceAll("|", "\\|");

/** Where the evidence is; or a table whose trials are gone, which nothing can be judged by. */
function linkOf({ sweep }: Claim, from: string | undefined): string {
  if (from !== undefined) {
    return `[trials](../${from}), [table](../${from.replace(/\.json$/, ".md")})`;
  }
  const page = join(STUDIES, `${sweep}.md`);
  return existsSync(page) ? `[a table](../${page}) is there without its trials` : "";
}
