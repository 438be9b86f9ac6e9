/** @file `tessera show`: the resolved config, each value with the place it comes from. */

import type { Command } from "commander";
import { loadExperiment, overridesHelp } from "./experiment.ts";
import { print, printJson } from "./output.ts";

export function addShow(program: Command): void {
  program
    .command("show")
    .description("print the resolved config with the origin of each value")
    .argument("<experiment>", "a YAML file, @name of configs/experiments, or a run folder")
    .argument("[overrides...]", "a.b=c, +a.b=c, ~a.b, a=@name")
    .option("--json", "print config, origins and hash as JSON")
    .option("--graph", "print the training steps as the device gets them, one operation a line")
    .addHelpText(
      "after",
      `${overridesHelp}

What is printed is YAML again: it gives the same run when it is run.

Examples:
  tessera show @quickstart
  tessera show @quickstart tokenizer=@magvit-small --json
  tessera show @quickstart --graph | grep Conv`,
    )
    .action(
      async (file: string, overrides: string[], options: { json?: boolean; graph?: boolean }) => {
        const resolved = await loadExperiment(file, overrides);
        const { config, hash, origins } = resolved;
        if (options.graph) {
          const { trainingGraphs } = await import("../trainers/graphs.ts");
          for (const text of await trainingGraphs(config)) {
            print(`${text}\n`);
          }
          return;
        }
        if (options.json) {
          printJson({ hash, config, origins });
          return;
        }
        const { showConfig } = await import("../config/show.ts");
        print(`# ${config.name}: hash ${hash.slice(0, 12)}, seed ${config.seed}`);
        print(showConfig(resolved).trimEnd());
      },
    );
}
