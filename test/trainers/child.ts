/** @file A process of its own that runs one experiment: `child.ts <config file> [overrides]`. */

import { loadConfig } from "../../src/config/resolve.ts";
import { checks, type Experiment, experimentSchema } from "../../src/trainers/experiment.ts";
import { runExperiment } from "../../src/trainers/run.ts";

const [file, ...overrides] = process.argv.slice(2);
const resolved = loadConfig<Experiment>({
  file: file!,
  overrides,
  schema: experimentSchema,
  checks,
});
const { dir, state, exitCode } = await runExperiment(resolved);
process.stdout.write(`${JSON.stringify({ dir, state })}\n`);
process.exit(exitCode);
