/** @file All commands under one roof. Each is a file of its own that loads what it needs when it runs. */

import { readFileSync } from "node:fs";
import { Command } from "commander";
import { addCompare } from "./compare.ts";
import { addCompress } from "./compress.ts";
import { addData } from "./data.ts";
import { addDiff } from "./diff.ts";
import { addDoctor } from "./doctor.ts";
import { addEval } from "./eval.ts";
import { addExport } from "./export.ts";
import { addGenerate } from "./generate.ts";
import { addRd } from "./rd.ts";
import { addReport } from "./report.ts";
import { addReproduce } from "./reproduce.ts";
import { addRerun } from "./rerun.ts";
import { addRun } from "./run.ts";
import { addSchema } from "./schema.ts";
import { addShow } from "./show.ts";
import { addStudy } from "./study.ts";
import { addWeights } from "./weights.ts";
import { addWords } from "./words.ts";
import { addSweep } from "./sweep.ts";

/** The version in package.json, two folders up from src/cli and from dist/cli. */
export function version(): string {
  const text = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}

/** The command line. Faults are thrown, so that the caller decides on the exit code. */
export function buildProgram(): Command {
  const program = new Command("tessera")
    .description("Experiments on visual tokens, from one YAML file to a reproducible run.")
    .version(version())
    .exitOverride()
    // Options after a command are its own, also where its parent has some of the same name.
    .enablePositionalOptions()
    .showHelpAfterError("(--help says more)")
    .addHelpText(
      "after",
      `
Examples:
  tessera run configs/experiments/quickstart.yaml
  tessera run @quickstart seed=1 trainer.tokenizer.steps=1000
  tessera show @quickstart tokenizer=@magvit-small
  tessera doctor

Exit codes: 0 done, 2 something to mend in the input or on the machine, 1 a bug or a check that
did not hold, 130 and 143 stopped by SIGINT and SIGTERM.`,
    );
  for (const add of [
    addRun,
    addSweep,
    addCompare,
    addStudy,
    addReproduce,
    addRerun,
    addEval,
    addGenerate,
    addExport,
    addCompress,
    addRd,
    addReport,
    addShow,
    addDiff,
    addData,
    addSchema,
    addDoctor,
    addWeights,
    addWords,
  ]) {
    add(program);
  }
  return program;
}
