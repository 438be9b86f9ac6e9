/**
 * @file Writes what is generated from the code: the config reference, the page of kernels, and the
 * JSON Schemas that editors complete configs from. Run with `npm run docs`; a test fails when a file
 * is behind.
 */

import { pathToFileURL } from "node:url";
import { jsonSchemas } from "../src/config/json-schema.ts";
import { configReference } from "../src/config/reference.ts";
import { componentNames } from "../src/config/sources.ts";
import { writeFileAtomic } from "../src/runtime/files.ts";
import { ledgerPage } from "../src/reports/benchmarks/ledger.ts";
import { benchmarkSchema } from "../src/reports/benchmarks/schema.ts";
import { allStudies } from "../src/reports/studies/evidence.ts";
import { notesOf, studyPage } from "../src/reports/studies/page.ts";
import { sweepSchema } from "../src/sweeps/schema.ts";
import { experimentSchema } from "../src/trainers/experiment.ts";
import { kernelTable, PAGE } from "./kernel-table.ts";

/** Every generated file, by its path from the repository's root. */
export function generatedFiles(): ReadonlyMap<string, string> {
  // No other folders than the package's own configs/ may show in files that are versioned.
  const names = (group: string) => componentNames(group);
  const schemas = {
    ...jsonSchemas(experimentSchema, names),
    ...jsonSchemas(sweepSchema, names),
    ...jsonSchemas(benchmarkSchema, names),
  };
  return new Map([
    ["docs/config-reference.md", configReference(experimentSchema)],
    [PAGE, kernelTable()],
    ["docs/ledger.md", ledgerPage()],
    ...allStudies().map(([file, study]): [string, string] => {
      const page = file.replace(/\.json$/, ".md");
      return [page, studyPage(study, file, notesOf(page))];
    }),
    ...Object.entries(schemas).map(
      ([file, schema]) =>
        [`configs/schema/${file}`, `${JSON.stringify(schema, null, 2)}\n`] as const,
    ),
  ]);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  for (const [path, text] of generatedFiles()) {
    writeFileAtomic(path, text);
    process.stdout.write(`${path}\n`);
  }
}
