/** @file `tessera show`: the resolved config, each value with the place it comes from. */

import type { Command } from "commander";
import { loadExperiment, overridesHelp } from "./experiment.ts";
import type { Experiment } from "../trainers/experiment.ts";
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
        print(await sizesOf(config));
        print(showConfig(resolved).trimEnd());
      },
    );
}

/** What the networks weigh, as a comment: parameters that are learned by gradient, tokens and bits. */
async function sizesOf(config: Experiment): Promise<string> {
  if (config.tokenizer.type === "onnx") {
    return "# tokenizer: external";
  }
  const [{ Scope }, { buildTokenizer }, { bitsPerToken }, { clipShape }] = await Promise.all([
    import("../models/scope.ts"),
    import("../tokenizers/registry.ts"),
    import("../tokenizers/tokenizer.ts"),
    import("../trainers/experiment.ts"),
  ]);
  const tokenizer = buildTokenizer(config.tokenizer, clipShape(config), Scope.shapes());
  const { grid, continuous, scope } = tokenizer;
  const states = [...scope.states().values()].reduce((sum, { size }) => sum + size, 0);
  const count = grid[0] * grid[1] * grid[2];
  const rate = continuous
    ? `of ${tokenizer.width} channels`
    : `of ${Number(bitsPerToken(tokenizer).toFixed(2))} bits`;
  return `# tokenizer: ${scope.parameterCount().toLocaleString("en")} parameters (and ${states.toLocaleString("en")} values of state), ${grid.join("×")} = ${count} tokens ${rate} a clip`;
}
