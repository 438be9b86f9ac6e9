/** @file The ledger: every published number and claim that is written down here, beside ours. */

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Claim, readBenchmarks } from "./schema.ts";
import { studyRuns } from "./study.ts";
import { judgeClaim, judgeEntry } from "./verdict.ts";

/** The page, from configs/benchmarks and what is committed in results/studies. */
export function ledgerPage(): string {
  const parts = [
    "<!-- Written by `npm run docs` from configs/benchmarks and results/studies. -->",
    "# Ledger",
    "Published results of the papers that Tessera follows, beside ours. `tessera reproduce --list` prints the same, `tessera reproduce NAME` one of them with its protocol. *Not run* means that nothing of ours was measured under that protocol, and says what is missing. A claim is tested at small scale by a sweep, on the procedural set: it **holds** when the 95 % interval over seeds of each of its comparisons lies on the right side, **fails** when one lies on the wrong side, and is **undecided** otherwise.",
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
      const { verdict, ours, missing } = judgeClaim(claim, committed(claim));
      return `| \`${id}\` | ${claim.statement} (${claim.source}) | ${claim.scale} | **${verdict}** | ${[...ours, missing ?? ""].filter(Boolean).join("<br>")} |`;
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

/** Only what is committed counts for the page, not whatever lies in results/ on this machine. */
function committed({ sweep }: Claim): ReturnType<typeof import("./verdict.ts").claimRuns> {
  const from = join("results", "studies", `${sweep}.csv`);
  return existsSync(from) ? { runs: studyRuns(readFileSync(from, "utf8")), from } : undefined;
}
