/** @file `tessera report`: write a run's page anew. */

import type { Command } from "commander";
import { print } from "./output.ts";

export function addReport(program: Command): void {
  program
    .command("report")
    .description("write report.html of a run, finished or not")
    .argument("<run>", "a run folder")
    .addHelpText(
      "after",
      `
The page is one file that loads nothing: open it, mail it, keep it.

Example:
  tessera report results/quickstart/<hash>-s0`,
    )
    .action(async (dir: string) => {
      const { writeReport } = await import("../reports/report.ts");
      print(await writeReport(dir));
    });
}
