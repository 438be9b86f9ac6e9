/** @file `tessera schema`: what editors complete and check config files from. */

import { join } from "node:path";
import type { Command } from "commander";
import { print } from "./output.ts";

export function addSchema(program: Command): void {
  program
    .command("schema")
    .description("write the JSON Schema files of all config groups, for editors")
    .option("--out <folder>", "where to write them", "configs/schema")
    .option("--reference <file>", "also write the reference of all keys, as Markdown")
    .addHelpText(
      "after",
      `
A config file names its schema on its first line, relative to itself:
  # yaml-language-server: $schema=../schema/experiments.json

Examples:
  tessera schema
  tessera schema --out /tmp/schema --reference docs/config-reference.md`,
    )
    .action(async ({ out, reference }: { out: string; reference?: string }) => {
      const [
        { jsonSchemas },
        { componentNames },
        { configReference },
        { experimentSchema },
        { sweepSchema },
        { benchmarkSchema },
        { writeFileAtomic },
      ] = await Promise.all([
        import("../config/json-schema.ts"),
        import("../config/sources.ts"),
        import("../config/reference.ts"),
        import("../trainers/experiment.ts"),
        import("../sweeps/schema.ts"),
        import("../reports/benchmarks/schema.ts"),
        import("../runtime/files.ts"),
      ]);
      const names = (group: string) => componentNames(group);
      const documents = {
        ...jsonSchemas(experimentSchema, names),
        ...jsonSchemas(sweepSchema, names),
        ...jsonSchemas(benchmarkSchema, names),
      };
      for (const [name, document] of Object.entries(documents)) {
        writeFileAtomic(join(out, name), `${JSON.stringify(document, null, 2)}\n`);
      }
      print(`${Object.keys(documents).length} schemas in ${out}`);
      if (reference !== undefined) {
        writeFileAtomic(reference, configReference(experimentSchema));
        print(`the reference of all keys: ${reference}`);
      }
    });
}
