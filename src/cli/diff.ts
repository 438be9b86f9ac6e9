/** @file `tessera diff`: in what two experiments differ. */

import type { Command } from "commander";
import { loadExperiment } from "./experiment.ts";
import { print, printJson } from "./output.ts";

export function addDiff(program: Command): void {
  program
    .command("diff")
    .description("print in what two resolved configs differ")
    .argument("<a>", "a YAML file, @name of configs/experiments, or a run folder")
    .argument("<b>", "the other one")
    .option("--json", "print the changes as JSON")
    .addHelpText(
      "after",
      `
Defaults are filled in first, so files that mean the same do not differ.

Examples:
  tessera diff @quickstart mine.yaml
  tessera diff results/quickstart/<hash>-s0 results/quickstart/<other>-s0`,
    )
    .action(async (first: string, second: string, options: { json?: boolean }) => {
      const [a, b] = [await loadExperiment(first), await loadExperiment(second)];
      const { diffConfigs, printDiff } = await import("../config/show.ts");
      const changes = diffConfigs(a, b);
      const sameRun = a.hash === b.hash;
      if (options.json) {
        printJson({ hashes: [a.hash, b.hash], changes });
        return;
      }
      print(`- ${first}  hash ${a.hash.slice(0, 12)}, seed ${a.config.seed}`);
      print(`+ ${second}  hash ${b.hash.slice(0, 12)}, seed ${b.config.seed}`);
      print(changes.length === 0 ? "no difference" : printDiff(changes).trimEnd());
      if (sameRun && changes.length > 0) {
        print("No key that is hashed differs: with equal seeds, results do not either.");
      }
    });
}
