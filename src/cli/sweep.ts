/** @file `tessera sweep`: many trials from one file, planned, run, watched, stopped and gone on with. */

import { createInterface } from "node:readline/promises";
import type { Command } from "commander";
import { UserError } from "../config/errors.ts";
import { overridesHelp } from "./experiment.ts";
import { coloured, print, printJson, say, table } from "./output.ts";
import { addSweepCommands } from "./sweep-commands.ts";
import { launch, type LaunchOptions, launchFlags } from "./sweep-launch.ts";

interface SweepOptions extends LaunchOptions {
  readonly plan?: boolean;
  readonly set?: readonly string[];
  readonly yes?: boolean;
  readonly json?: boolean;
}

export function addSweep(program: Command): void {
  const sweep = program
    .command("sweep")
    .enablePositionalOptions()
    .description("plan and run many trials from one sweep file; go on with it; look after it")
    .argument("<file>", "a sweep file, or @name of configs/sweeps")
    .argument("[overrides...]", "changes to the base experiment: a.b=c, ...")
    .option("--plan", "print the trials, their count and their cost, and run nothing")
    .option("--set <changes...>", "changes to the sweep file itself: seeds=5, retries=1, ...")
    .option("--yes", "take over a sweep file that has changed, without asking")
    .option("--json", "with --plan: print JSON");
  launchFlags(sweep);
  sweep.addHelpText(
    "after",
    `${overridesHelp}

The sweep's folder is <output>/sweeps/<name>. Configs and code are frozen there when it is begun;
the same command, or \`tessera sweep resume\`, goes on after anything, kill -9 included, and runs
exactly what is missing. A trial that is finished anywhere below the output folder is not run again.

Exit codes: 0 all finished, 1 trials failed, 130 and 143 stopped by a signal.

Examples:
  tessera sweep configs/sweeps/quickstart-seeds.yaml --plan
  tessera sweep configs/sweeps/quickstart-seeds.yaml --jobs 2
  tessera sweep @quickstart-seeds --launcher slurm --partition gpu
  tessera sweep status results/sweeps/quickstart-seeds
  tessera sweep resume results/sweeps/quickstart-seeds`,
  );
  sweep.action(run);
  addSweepCommands(sweep);
}

async function run(file: string, overrides: string[], options: SweepOptions): Promise<void> {
  const [{ planSweep, readSweepFile }, { beginSweep, changesOf, folderOf, isChanged }] =
    await Promise.all([import("../sweeps/plan.ts"), import("../sweeps/begin.ts")]);
  const plan = planSweep(file, readSweepFile(file, options.set ?? []), overrides);
  if (options.plan) {
    await printPlan(plan, options.json === true);
    return;
  }
  const { SweepFolder } = await import("../sweeps/folder.ts");
  const dir = folderOf(plan);
  const changes = changesOf(plan, dir);
  if (changes !== undefined && !isChanged(changes)) {
    await launch(SweepFolder.open(dir), options);
    return;
  }
  if (changes !== undefined) {
    say(`the sweep in ${dir} was begun with another plan:`);
    const line = (sign: string, trials: readonly { id: string; labels: object }[]): void => {
      for (const { id, labels } of trials.slice(0, 20)) {
        say(`  ${sign} ${id}  ${labelText(labels)}`);
      }
      if (trials.length > 20) {
        say(`  ${sign} ... and ${trials.length - 20} more`);
      }
    };
    line("+", changes.added);
    line("-", changes.dropped);
    for (const name of changes.settings) {
      say(`  ~ ${name}`);
    }
    await agree(options.yes === true, dir);
  }
  await launch(beginSweep(plan, { overrides }), options);
}

/** Ask whether the changed plan is meant; without a terminal it must be said beforehand. */
async function agree(yes: boolean, dir: string): Promise<void> {
  if (yes) {
    return;
  }
  const hint = `--yes takes the new plan (finished trials stay); \`tessera sweep resume ${dir}\` goes on with the old one; another \`name\` begins another sweep`;
  if (!process.stdin.isTTY) {
    throw new UserError("the sweep file has changed since the sweep was begun", hint);
  }
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  const answer = await terminal.question("take the new plan? [y/N] ");
  terminal.close();
  if (!/^y(es)?$/i.test(answer.trim())) {
    throw new UserError("nothing was changed", hint);
  }
}

async function printPlan(plan: import("../sweeps/plan.ts").Plan, json: boolean): Promise<void> {
  const [{ costOf }, { outputOf }, { formatSeconds }] = await Promise.all([
    import("../sweeps/cost.ts"),
    import("../sweeps/folder.ts"),
    import("../reports/format.ts"),
  ]);
  const cost = costOf(plan, outputOf(plan));
  if (json) {
    const trials = plan.trials.map(({ frozen, ...row }) => ({
      ...row,
      config: JSON.parse(frozen) as unknown,
    }));
    printJson({
      name: plan.sweep.name,
      cost,
      excluded: plan.excluded,
      repeated: plan.repeated,
      trials,
    });
    return;
  }
  const axes = [...new Set(plan.trials.flatMap(({ labels }) => Object.keys(labels)))];
  const rows = plan.trials.map(({ index, id, labels }) => [
    String(index),
    id,
    ...axes.map((axis) => labels[axis] ?? "-"),
  ]);
  print(table([["", "trial", ...axes].map((head) => coloured("bold", head)), ...rows], [0]));
  const { sweep } = plan;
  const notes = [
    `${plan.trials.length} trials`,
    ...(sweep.search ? [`a ${sweep.search.sampler} search of ${sweep.search.trials} points`] : []),
    ...(cost.finished > 0 ? [`${cost.finished} finished already`] : []),
    ...(plan.excluded > 0 ? [`${plan.excluded} left out by exclude and where`] : []),
    ...(plan.repeated > 0 ? [`${plan.repeated} the same as others`] : []),
  ];
  print(`\n${notes.join(", ")}`);
  if (plan.trials.length > 0) {
    print(
      `to do: ${cost.steps.tokenizer} tokenizer steps (${cost.tokenizers} tokenizers), ${cost.steps.transformer} transformer steps`,
    );
    print(
      cost.seconds === undefined
        ? "time: unknown, no run of this experiment has been timed below the output folder"
        : `time: about ${formatSeconds(cost.seconds)} one after the other, judged by ${cost.judgedBy} runs of this experiment`,
    );
  }
}

/** Labels of a trial in one line. */
function labelText(labels: object): string {
  return Object.entries(labels)
    .map(([axis, text]) => `${axis}=${String(text)}`)
    .join(" ");
}
