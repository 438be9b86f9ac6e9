/** @file `tessera run`: an experiment from its YAML file to scores and a report. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import { loadExperiment, overridesHelp } from "./experiment.ts";
import { membershipOf } from "../runtime/group.ts";
import { StopRequest } from "../trainers/signals.ts";
import { integer } from "./options.ts";
import { print, say } from "./output.ts";
import { scoreTable } from "./scores.ts";

export function addRun(program: Command): void {
  program
    .command("run")
    .description("train and evaluate an experiment; go on with it; or skip it when it is finished")
    .argument(
      "<experiment>",
      "a YAML file, @name of configs/experiments, or a resolved config.json",
    )
    .argument("[overrides...]", "a.b=c, +a.b=c, ~a.b, a=@name")
    .option(
      "--devices <n>",
      "train with this many processes on this machine, a GPU each (device.type=cuda or torch-cpu)",
      integer(1),
    )
    .option("--reuse", "take a tokenizer that an equal run of this output folder has trained")
    .addHelpText(
      "after",
      `${overridesHelp}

The run's folder is <output>/<name>/<hash of the config>-s<seed>. The same command goes on after an
interruption (Ctrl-C, SIGTERM, a crash) and ends with the bytes of an uninterrupted run.

Examples:
  tessera run configs/experiments/quickstart.yaml
  tessera run @magvit-l device.type=cuda device.precision=bf16 --devices 4
  tessera run @quickstart seed=3 output=/data/results
  tessera run @quickstart dataset=@video-folder dataset.path=clips`,
    )
    .action(run);
}

async function run(
  file: string,
  overrides: string[],
  options: { readonly reuse?: boolean; readonly devices?: number },
): Promise<void> {
  const resolved = await loadExperiment(file, overrides);
  if (options.devices !== undefined && options.devices > 1) {
    const { launchRanks } = await import("./launch.ts");
    const { checkRanks } = await import("../trainers/ranks.ts");
    checkRanks(resolved.config, options.devices);
    const reuse = options.reuse ? ["--reuse"] : [];
    process.exitCode = await launchRanks(options.devices, ["run", file, ...reuse, ...overrides]);
    return;
  }
  const { readStatus, runExperiment, runFolder } = await import("../trainers/run.ts");
  const { writeReport } = await import("../reports/report.ts");
  let result: Awaited<ReturnType<typeof runExperiment>>;
  try {
    result = await runExperiment(resolved, {
      stop: stopWithSupervisor(),
      reuse: options.reuse === true,
    });
  } catch (error) {
    const dir = runFolder(resolved);
    const status = isFollower() ? undefined : readStatus(dir);
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
  if (result.state === "interrupted" || isFollower()) {
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

/** Whether this is another rank than the first of a data-parallel training. */
const isFollower = (): boolean => (membershipOf()?.rank ?? 0) > 0;

/**
 * A stop request that is made when the sweep's process that started this one is gone: nobody would
 * hear of the result, and whoever resumes the sweep wants the folder.
 */
function stopWithSupervisor(): StopRequest {
  const stop = new StopRequest();
  const supervisor = Number(process.env["TESSERA_SUPERVISOR"] ?? 0);
  if (supervisor > 0) {
    setInterval(() => {
      if (process.ppid !== supervisor) {
        stop.request("SIGTERM");
      }
    }, 500).unref();
  }
  return stop;
}
