/** @file `tessera eval`: compute scores of a run again, or others than it has, from its checkpoints. */

import { existsSync, mkdtempSync, readFileSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Command, Option } from "commander";
import { UserError } from "../config/errors.ts";
import type { Score } from "../eval/suite.ts";
import type { Experiment } from "../trainers/experiment.ts";
import { type Kept, keptScores, scoresOfProcesses, type Task } from "./eval-processes.ts";
import { loadExperiment } from "./experiment.ts";
import { integer } from "./options.ts";
import { coloured, print, printJson, say, table, wrap } from "./output.ts";
import { scoreTable } from "./scores.ts";

interface EvalOptions {
  readonly suite?: readonly string[];
  readonly list?: boolean;
  readonly json?: boolean;
  readonly out?: string;
  readonly processes: number;
  readonly task?: string;
}

type Suites = Experiment["evals"];

/** A score beside the one that the run has recorded under the same name. */
interface Compared {
  readonly score: Score;
  readonly verdict: "equal" | "differs" | "new";
  readonly recorded?: Score;
}

export function addEval(program: Command): void {
  program
    .command("eval")
    .description("compute a run's scores again and compare them with scores.json")
    .argument("[run]", "a run folder whose training has ended")
    .option(
      "--suite <name...>",
      "evaluations of the run by their name, @name of configs/evals, or full: all of both",
    )
    .option("--list", "explain the evaluations and protocols instead")
    .option("--json", "print JSON")
    .option(
      "--out <folder>",
      "keep the scores and pictures there, and go on from what is there; nothing is kept when left out",
    )
    .option(
      "--processes <n>",
      "evaluations side by side, each in a process of its own; the scores are the same",
      integer(1),
      1,
    )
    .addOption(new Option("--task <file>", "one evaluation of --processes").hideHelp())
    .addHelpText(
      "after",
      `
The run's folder is only read. Scores that a run has already must come out equal, to the last bit on
the same machine; where one differs the exit code is 1. "new" marks scores that the run has not. A command that was
killed goes on with the evaluations that it had not ended, if it has --out.

Examples:
  tessera eval results/quickstart/<hash>-s0
  tessera eval RUN --suite reconstruction @reconstruction-all --out more-scores
  tessera eval RUN --suite full --out all-scores --processes 4
  tessera eval --list`,
    )
    .action(async (dir: string | undefined, options: EvalOptions) => {
      if (options.list) {
        await list(options);
      } else if (dir !== undefined && options.task !== undefined) {
        await evaluateTask(dir, options.task);
      } else if (dir === undefined) {
        throw new UserError(
          "no run folder is named",
          "tessera eval RUN [--suite ...], the run before its options; or tessera eval --list",
        );
      } else {
        await evaluate(dir, options);
      }
    });
}

async function evaluate(dir: string, options: EvalOptions): Promise<void> {
  const { openRun, readRunConfig } = await import("../trainers/open-run.ts");
  readRunConfig(dir); // says so when this is no run folder
  const asked = options.suite ?? [];
  const suites = await chooseSuites(dir, asked);
  const own = (await loadExperiment(dir)).config.evals;
  // What is asked for by "full" alone need not suit the run: clips too short for a protocol, no sound.
  const mayFail = new Set(
    Object.keys(suites).filter(
      (name) => asked.includes("full") && !(name in own) && !asked.includes(`@${name}`),
    ),
  );
  const recorded = recordedScores(dir);
  // Suites leave pictures; a run that was only looked at keeps the ones it has.
  const folder = options.out ?? mkdtempSync(join(tmpdir(), "tessera-eval-"));
  let scores: Score[];
  try {
    const { codeHash } = await import("../trainers/code-hash.ts");
    const kept = keptScores(folder, realpathSync(dir), codeHash());
    const asked = { dir, suites, mayFail, folder, kept };
    if (options.processes > 1) {
      scores = await inProcesses(asked, options.processes);
    } else {
      const run = await openRun(dir, { warn: say });
      try {
        scores = await scoresOf(run, asked);
      } finally {
        await run.close();
      }
    }
    if (options.out !== undefined) {
      const { writeFileAtomic } = await import("../runtime/files.ts");
      writeFileAtomic(join(folder, "scores.json"), `${JSON.stringify({ scores }, null, 2)}\n`);
      rmSync(join(folder, "scores.partial.json"), { force: true });
      rmSync(join(folder, "parts"), { recursive: true, force: true });
    }
  } finally {
    if (options.out === undefined) {
      rmSync(folder, { recursive: true, force: true });
    }
  }
  const compared = scores.map((score) => compare(score, recorded));
  const differing = compared.filter(({ verdict }) => verdict === "differs").length;
  if (options.json) {
    printJson({ run: dir, equal: differing === 0, scores: compared });
  } else {
    print(scoreTable(scores));
    printVerdict(compared);
  }
  if (differing > 0) {
    process.exitCode = 1;
  }
}

/** The suites asked for, by name; the run's own when none is named. */
async function chooseSuites(dir: string, asked: readonly string[]): Promise<Suites> {
  // config.yaml keeps the order of the evaluations; the canonical config.json sorts its keys.
  const { config } = await loadExperiment(dir);
  if (asked.length === 0) {
    return config.evals;
  }
  const { componentNames } = await import("../config/sources.ts");
  const { suggest } = await import("../config/problems.ts");
  const files = componentNames("evals");
  const own = Object.keys(config.evals);
  const names = asked.flatMap((name) =>
    name === "full" ? [...own, ...files.map((file) => `@${file}`)] : [name],
  );
  const chosen: Suites = {};
  for (const name of new Set(names)) {
    const evaluation = config.evals[name];
    if (evaluation !== undefined) {
      chosen[name] = evaluation;
    } else if (name.startsWith("@") && files.includes(name.slice(1))) {
      const suite = await suiteOfFile(dir, name).catch((error: unknown) => {
        if (!(error instanceof UserError) || asked.includes(name)) {
          throw error;
        }
        // Asked for by "full" alone, and the run's config and it do not go together.
        say(
          `${name} is left out: ${error.message.replace(/^override \S+ \(.*?\)\s+/, "").split("\n")[0]}`,
        );
        return undefined;
      });
      if (suite === undefined) {
        continue;
      }
      // One that the run has already, under whatever name, is not computed twice.
      const text = JSON.stringify(suite);
      if (asked.includes(name) || !Object.values(chosen).some((s) => JSON.stringify(s) === text)) {
        chosen[name.slice(1) in chosen ? name : name.slice(1)] = suite;
      }
    } else {
      throw new UserError(
        `the run has no evaluation ${JSON.stringify(name)}`,
        suggest(name, ["full", ...own, ...files.map((file) => `@${file}`)], "there are"),
      );
    }
  }
  return chosen;
}

/** A file of configs/evals, complete, as it would stand in this run's config. */
async function suiteOfFile(dir: string, name: string): Promise<Suites[string]> {
  const { config } = await loadExperiment(dir, [`evals={}`, `+evals.asked="${name}"`]);
  return config.evals["asked"]!;
}

interface Asked {
  readonly dir: string;
  readonly suites: Suites;
  readonly mayFail: ReadonlySet<string>;
  /** Where pictures go. */
  readonly folder: string;
  readonly kept: Kept;
  /** Another process shows how far the command is. */
  readonly inside?: boolean;
}

async function inProcesses(asked: Asked, processes: number): Promise<Score[]> {
  const [{ Progress, standardOutput }, signals] = await Promise.all([
    import("../trainers/logging/progress.ts"),
    import("../trainers/signals.ts"),
  ]);
  const progress = new Progress(standardOutput());
  const stop = new signals.StopRequest();
  const unlisten = signals.listenForSignals(stop, (signal) => say(`${signal}: stopping`));
  try {
    progress.plan([{ name: "evaluation", total: Object.keys(asked.suites).length }]);
    progress.start("evaluation", 0);
    const onChange = (ended: number, running: readonly string[]) =>
      progress.update(ended, running.join(", "));
    return await scoresOfProcesses({ ...asked, processes, stop, onChange });
  } finally {
    progress.stop();
    unlisten();
  }
}

/** One evaluation of a command with --processes: the task's file says which, and where its scores go. */
async function evaluateTask(dir: string, file: string): Promise<void> {
  const { openRun } = await import("../trainers/open-run.ts");
  const { writeFileAtomic } = await import("../runtime/files.ts");
  const { name, suite, mayFail, folder, result } = JSON.parse(readFileSync(file, "utf8")) as Task;
  const run = await openRun(dir, { warn: say });
  try {
    const scores = await scoresOf(run, {
      dir,
      suites: { [name]: suite },
      mayFail: new Set(mayFail ? [name] : []),
      folder,
      kept: { get: () => undefined, set: () => undefined },
      inside: true,
    });
    writeFileAtomic(result, JSON.stringify(scores));
  } finally {
    await run.close();
  }
}

async function scoresOf(
  run: Awaited<ReturnType<typeof import("../trainers/open-run.ts").openRun>>,
  { suites, mayFail, folder, kept, inside = false }: Asked,
): Promise<Score[]> {
  const [{ evaluateSuite }, { Progress, standardOutput }, signals] = await Promise.all([
    import("../trainers/evaluation.ts"),
    import("../trainers/logging/progress.ts"),
    import("../trainers/signals.ts"),
  ]);
  const { config, device, tokenizer, objective, resampled } = run;
  const progress = new Progress(standardOutput());
  const stop = new signals.StopRequest();
  const unlisten = signals.listenForSignals(stop, (signal) => say(`${signal}: stopping`));
  try {
    if (!inside) {
      progress.plan([{ name: "evaluation", total: Object.keys(suites).length }]);
      progress.start("evaluation", 0);
    }
    const context = {
      dir: folder,
      seed: config.seed,
      device,
      progress,
      stop,
      dataset: (split: "train" | "validation") => run.dataset(split),
      warn: (message: string) => progress.say(`warning: ${message}`),
    };
    const networks = {
      tokenizer,
      ...(objective && { objective }),
      ...(resampled && { resampled }),
    };
    const scores: Score[] = [];
    for (const [i, [name, suite]] of Object.entries(suites).entries()) {
      const { batch } = config.trainer.evaluation;
      let made = kept.get(name, suite);
      if (made === undefined) {
        try {
          made = await evaluateSuite(context, suite, name, networks, batch);
        } catch (error) {
          if (!(error instanceof UserError) || !mayFail.has(name)) {
            throw error;
          }
          context.warn(`${name}: no score: ${error.message}`);
          made = [];
        }
        kept.set(name, suite, made);
      }
      scores.push(...made);
      progress.update(i + 1, name);
      await signals.turn();
      stop.check();
    }
    return scores;
  } finally {
    progress.stop();
    unlisten();
  }
}

function recordedScores(dir: string): ReadonlyMap<string, Score> {
  const path = join(dir, "scores.json");
  const scores = existsSync(path)
    ? (JSON.parse(readFileSync(path, "utf8")) as { scores: Score[] }).scores
    : [];
  return new Map(scores.map((score) => [score.name, score]));
}

/** Equal means every bit of the value and the protocol; another protocol is another score. */
function compare(score: Score, recorded: ReadonlyMap<string, Score>): Compared {
  const before = recorded.get(score.name);
  if (before === undefined || before.protocolHash !== score.protocolHash) {
    return { score, verdict: "new" };
  }
  if (score.measured) {
    return { score, verdict: "new" };
  }
  const equal = Object.is(before.value, score.value) && before.std === score.std;
  return { score, verdict: equal ? "equal" : "differs", recorded: before };
}

function printVerdict(compared: readonly Compared[]): void {
  const count = (verdict: Compared["verdict"]) =>
    compared.filter((one) => one.verdict === verdict).length;
  for (const { score, verdict, recorded } of compared) {
    if (verdict === "differs") {
      print(`${score.name} differs: ${recorded!.value} is recorded, ${score.value} came out`);
    }
  }
  const [equal, differs, fresh] = [count("equal"), count("differs"), count("new")];
  const parts = [
    ...(equal > 0 ? [`${equal} equal to scores.json`] : []),
    ...(differs > 0 ? [coloured("red", `${differs} different`)] : []),
    ...(fresh > 0 ? [`${fresh} new`] : []),
  ];
  print(parts.length === 0 ? "nothing to evaluate" : parts.join(", "));
}

/** What can be measured, and what each protocol's name stands for. */
async function list({ json }: EvalOptions): Promise<void> {
  const [{ protocols }, { suites }, { componentNames }] = await Promise.all([
    import("../eval/protocols.ts"),
    import("../eval/registry.ts"),
    import("../config/sources.ts"),
  ]);
  const types = Object.entries(suites).map(([type, { schema }]) => ({
    type,
    measures: (schema as { description?: string }).description ?? "",
  }));
  const files = componentNames("evals");
  if (json) {
    printJson({ types, files, protocols });
    return;
  }
  const indent = "    ";
  print(coloured("bold", "Evaluations, by type"));
  print(table(types.map(({ type, measures }) => ["", type, measures])));
  print(coloured("bold", "\nFiles of configs/evals"));
  print(`  ${files.map((file) => `@${file}`).join(" ")}`);
  print(coloured("bold", "\nProtocols"));
  for (const [name, { measures, fixed }] of Object.entries(protocols)) {
    print(`  ${name}\n${indent}${wrap(measures, 92, indent)}`);
    for (const [choice, value] of Object.entries(fixed)) {
      const text = typeof value === "string" ? value : JSON.stringify(value);
      print(coloured("dim", `${indent}  ${choice}: ${text}`));
    }
  }
}
