/** @file `tessera rerun`: repeat a run with the code that made it, and compare. */

import type { Command } from "commander";
import { print, say } from "./output.ts";

export function addRerun(program: Command): void {
  program
    .command("rerun")
    .description("check out the code that made a run, repeat the run, and compare its files")
    .argument("<run>", "a finished run folder")
    .option("--out <folder>", "where the code and the new run go; a temporary folder when left out")
    .option("--check", "only say whether it can be done, and what stands against it")
    .addHelpText(
      "after",
      `
The commit of provenance.json is checked out beside the repository with the uncommitted changes that
the run kept, its packages are those installed here if the lock file is the same (else npm ci), and
the frozen config is run. Exit code 0: all files that should be equal are; 1: some differ; 2: it
cannot be repeated here, and why.

Examples:
  tessera rerun results/quickstart/<hash>-s0 --check
  tessera rerun results/quickstart/<hash>-s0 --out /tmp/again`,
    )
    .action(async (dir: string, options: { readonly out?: string; readonly check?: boolean }) => {
      const { checkRerun, compareRuns, rerun } = await import("../sweeps/rerun.ts");
      const plan = checkRerun(dir);
      for (const note of plan.notes) {
        say(`note: ${note}`);
      }
      if (options.check) {
        print(
          `can be repeated: commit ${plan.commit.slice(0, 12)}${plan.diff ? " with the changes it kept" : ""}`,
        );
        return;
      }
      const again = await rerun(plan, options.out, say);
      const { equal, different } = compareRuns(dir, again);
      print(
        `${equal.length} files are equal to the byte${different.length > 0 ? `, ${different.length} differ: ${different.join(", ")}` : ""}`,
      );
      print(`the new run: ${again}`);
      process.exitCode = different.length > 0 ? 1 : 0;
    });
}
