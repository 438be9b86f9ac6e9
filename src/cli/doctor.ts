/** @file `tessera doctor`: what is here, what is missing, and what to do about it. */

import type { Command } from "commander";
import type { Finding } from "./checks.ts";
import { coloured, print, printJson } from "./output.ts";

const marks = {
  ok: ["green", "ok     "],
  note: ["yellow", "note   "],
  bad: ["red", "missing"],
} as const;

export function addDoctor(program: Command): void {
  program
    .command("doctor")
    .description("check devices, decoders, encoders, weight files and tools, with remedies")
    .option("--json", "print the findings as JSON")
    .addHelpText(
      "after",
      `
"missing" is something that the default path needs: the exit code is 1 then. "note" is something
that only some experiments or comforts need.

Examples:
  tessera doctor
  tessera doctor --json`,
    )
    .action(async (options: { json?: boolean }) => {
      const { examine } = await import("./checks.ts");
      const findings: Finding[] = [];
      for await (const finding of examine()) {
        findings.push(finding);
        if (!options.json) {
          const [colour, mark] = marks[finding.state];
          print(`${coloured(colour, mark)}  ${finding.name.padEnd(26)}  ${finding.found}`);
          if (finding.remedy !== undefined) {
            print(`${" ".repeat(37)}${coloured("dim", `→ ${finding.remedy}`)}`);
          }
        }
      }
      const healthy = findings.every(({ state }) => state !== "bad");
      if (options.json) {
        printJson({ healthy, findings });
      } else {
        print(
          healthy ? "\nThe default path works here." : "\nThe default path does not work here.",
        );
      }
      process.exitCode = healthy ? 0 : 1;
    });
}
