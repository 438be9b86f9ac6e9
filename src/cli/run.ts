/** @file `tessera run`: an experiment from its YAML file to scores and a report. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import { loadExperiment, overridesHelp } from "./experiment.ts";
import { print, say } from "./output.ts";
import { scoreTable } from "./scores.ts";

export function addRun(program: Command): void {
  program
    .command("run")
    .description("train and evaluate an experiment; go on with it; or skip it when it is finished")
    .argument("<experiment>", "a YAML file, or @name of configs/experiments")
    .argument("[overrides...]", "a.b=c, +a.b=c, ~a.b, a=@name")
    .addHelpText(
      "after",
      `${overridesHelp}

The run's folder is <output>/<name>/<hash of the config>-s<seed>. The same command goes on after an
interruption (Ctrl-C, SIGTERM, a crash) and ends with the bytes of an uninterrupted run.

Examples:
  tessera run configs/experiments/quickstart.yaml
  tessera run @quickstart seed=3 output=/data/results
  tessera run @quickstart dataset=@video-folder dataset.path=clips`,
    )
    .action(run);
}

async function run(file: string, overrides: string[]): Promise<void> {
  const resolved = await loadExperiment(file, overrides);
  const { readStatus, runExperiment, runFolder } = await import("../trainers/run.ts");
  const { writeReport } = await import("../reports/report.ts");
  let result: Awaited<ReturnType<typeof runExperiment>>;
  try {
    result = await runExperiment(resolved);
  } catch (error) {
    const dir = runFolder(resolved);
    const status = readStatus(dir);
    // A folder that another process holds is not ours to write into.
    if (status?.state === "failed" && status.pid === process.pid) {
      // The first error is the one to tell, whatever happens to its page.
      await writeReport(dir).then(
        (page) => say(`what there is so far: ${page}`),
        () => undefined,
      );
    }
    throw error;
  }
  process.exitCode = result.exitCode;
  if (result.state === "interrupted") {
    return;
  }
  const page = join(result.dir, "report.html");
  if (result.state === "finished" || !existsSync(page)) {
    await writeReport(result.dir);
  }
  if (result.scores.length > 0) {
    print(scoreTable(result.scores));
  }
  print(`report: ${page}`);
}
