/** @file `tessera reproduce`: published numbers and claims beside ours. */

import type { Command } from "commander";
import { UserError } from "../config/errors.ts";
import { print, printJson, table, wrap } from "./output.ts";

interface Options {
  readonly list?: boolean;
  readonly json?: boolean;
  readonly output: string;
}

export function addReproduce(program: Command): void {
  program
    .command("reproduce")
    .description("published numbers and claims beside ours: protocol, what they need, verdict")
    .argument("[names...]", "a number or claim, or a paper's file in configs/benchmarks")
    .option("--list", "all of them, a line each")
    .option("--json", "print JSON")
    .option("--output <folder>", "where sweeps are looked for", "results")
    .addHelpText(
      "after",
      `
A claim is judged by its sweep's results below results/ if all trials have finished, else by what
\`tessera study\` put into results/studies. Exit code 1: one of those named was run and does not hold.

Examples:
  tessera reproduce --list
  tessera reproduce vocabulary-generation-vq`,
    )
    .action(async (names: string[], options: Options) => {
      const [{ readBenchmarks }, { claimRuns, judgeClaim, judgeEntry }] = await Promise.all([
        import("../reports/benchmarks/schema.ts"),
        import("../reports/benchmarks/verdict.ts"),
      ]);
      const all = [...readBenchmarks()].flatMap(([file, { paper, entries, claims }]) => [
        ...Object.entries(entries).map(([name, entry]) => ({ file, name, paper, entry })),
        ...Object.entries(claims).map(([name, claim]) => ({ file, name, paper, claim })),
      ]);
      const chosen =
        names.length === 0
          ? all
          : all.filter((one) => names.some((n) => n === one.name || n === one.file));
      for (const name of names) {
        if (!all.some((one) => one.name === name || one.file === name)) {
          const { suggest } = await import("../config/problems.ts");
          throw new UserError(
            `there is no number or claim ${name}`,
            suggest(
              name,
              all.map((one) => one.name),
              "there are",
            ),
          );
        }
      }
      if (names.length === 0 && !options.list) {
        throw new UserError("nothing is named", "tessera reproduce --list, or name a claim");
      }
      const judged = chosen.map((one) => {
        if ("entry" in one) {
          return { ...one, ...judgeEntry(one.entry) };
        }
        const runs = claimRuns(one.claim.sweep, options.output);
        return { ...one, ...judgeClaim(one.claim, runs), ...(runs && { from: runs.from }) };
      });
      if (
        names.length > 0 &&
        judged.some(({ verdict }) => verdict === "fails" || verdict === "not reproduced")
      ) {
        process.exitCode = 1;
      }
      if (options.json) {
        printJson(judged);
      } else if (names.length === 0) {
        print(
          table(
            judged
              .map((one) => [
                one.file,
                one.name,
                "entry" in one ? `${one.entry.published} ${one.entry.unit}` : "claim",
                one.verdict,
                one.missing ?? one.ours.join("; "),
              ])
              .map((row) => row.map((cell) => (cell.length > 90 ? `${cell.slice(0, 89)}…` : cell))),
          ),
        );
      } else {
        print(judged.map(described).join("\n\n"));
      }
    });
}

type Judged = {
  readonly name: string;
  readonly paper: string;
  readonly verdict: string;
  readonly ours: readonly string[];
  readonly missing?: string;
} & (
  | { readonly entry: import("../reports/benchmarks/schema.ts").Entry }
  | {
      readonly claim: import("../reports/benchmarks/schema.ts").Claim;
      readonly from?: string | undefined;
    }
);

function described(one: Judged): string {
  const line = (name: string, text: string): string =>
    `  ${name.padEnd(10)} ${wrap(text, 85, " ".repeat(13))}`;
  const facts =
    "entry" in one
      ? [
          line("what", `${one.entry.what}, ${one.entry.table}`),
          line(
            "published",
            `${one.entry.published}${one.entry.spread === undefined ? "" : ` ± ${one.entry.spread}`} ${one.entry.unit} (${one.entry.better} is better)`,
          ),
          line("protocol", one.entry.protocol),
          line("needs", one.entry.needs.join("; ")),
          line("tolerance", `± ${one.entry.tolerance}`),
        ]
      : [
          line("claim", one.claim.statement),
          line("source", one.claim.source),
          line("ours", one.claim.scale),
          line("sweep", one.claim.file ?? `configs/sweeps/${one.claim.sweep}.yaml`),
          ...(one.from === undefined ? [] : [line("judged on", one.from)]),
        ];
  return [
    `${one.name}: ${one.verdict}`,
    line("paper", one.paper),
    ...facts,
    ...one.ours.map((text) => line("found", text)),
    ...(one.missing ? [line("missing", one.missing)] : []),
  ].join("\n");
}
