/** @file `tessera generate`: new clips from a trained run. */

import { join } from "node:path";
import { Command, Option } from "commander";
import { UserError } from "../config/errors.ts";
import type { Frames } from "../data/image.ts";
import type { ClipRequest, Made } from "../eval/generation.ts";
import type { OpenedRun } from "../trainers/open-run.ts";
import { integer, positive } from "./options.ts";
import { print, say } from "./output.ts";

/** Clips that are sampled at once: enough to use all cores, few enough for small memories. */
const BATCH = 8;
/** Frames in a row of a PNG. */
const COLUMNS = 16;

/** Makes clips; compiled once for a run. */
export type ClipMaker = (request: ClipRequest) => Promise<Made>;

type Format = "mp4" | "gif" | "png" | "mkv";

interface GenerateOptions {
  readonly label?: readonly string[];
  readonly n: number;
  readonly seed: number;
  readonly format: Format;
  readonly fps?: number;
  readonly out?: string;
  readonly task?: string;
  readonly then?: readonly string[];
  readonly continue: number;
  readonly condition?: readonly string[];
  readonly text?: readonly string[];
  readonly audio?: readonly string[];
  readonly interactive?: boolean;
}

/** The options of one request, on the command line and on a line of `--interactive`. */
function withOptions(command: Command): Command {
  return command
    .option("--label <name...>", "classes to sample, in turn; all of them when left out")
    .option("--n <count>", "number of clips", integer(1), 8)
    .option("--seed <number>", "the same seed gives the same clips", integer(0), 0)
    .option("--task <name>", "a task the run was trained for, e.g. FP, OPC, T2AV")
    .option("--condition <file...>", "videos or pictures that the task starts from, in turn")
    .option("--text <words...>", "captions, in turn")
    .option("--audio <file...>", "sound files, in turn")
    .option("--then <task...>", "tasks that go on with what the one before made")
    .option("--continue <times>", "go on with the last frames so often", integer(0), 0)
    .addOption(
      new Option("--format <format>", "mkv is lossless (FFV1), png a strip of all frames")
        .choices(["mp4", "gif", "png", "mkv"])
        .default("mp4"),
    )
    .option("--fps <rate>", "frames a second of the files; the data set's when left out", positive)
    .option("--out <folder>", "where to write; <run>/generated when left out");
}

export function addGenerate(program: Command): void {
  withOptions(
    program
      .command("generate")
      .description("sample new clips from a trained run")
      .argument("<run>", "a run folder whose transformer is trained"),
  )
    .option(
      "--interactive",
      "keep the model loaded and answer a line of these options at a time; an empty line or the end of input ends it",
    )
    .addHelpText(
      "after",
      `
Examples:
  tessera generate results/quickstart/<hash>-s0
  tessera generate RUN --label "moves left" bounces --n 4 --seed 7 --format gif --out clips
  tessera generate RUN --task OPC --condition clip.mkv --format mkv
  tessera generate RUN --task T2AV --text "a large red circle moves left" --n 2
  tessera generate RUN --task I2V --condition frame.png --then ST --text "a blue ring moves up"
  tessera generate RUN --interactive
    > --task T2AV --text "a large red circle moves left" --n 1 --out first`,
    )
    .action(generate);
}

async function generate(dir: string, options: GenerateOptions): Promise<void> {
  const { openRun, readRunConfig, readClasses } = await import("../trainers/open-run.ts");
  // What can be wrong with the request is said before anything heavy is opened.
  if (readRunConfig(dir).objective === undefined) {
    throw new UserError(
      `${dir} has no transformer: its config has no objective, so there is nothing to sample from`,
      "generate from a run with `model` and `objective`",
    );
  }
  const classes = readClasses(dir);
  const first = options.interactive ? undefined : await checked(classes, options);
  const run = await openRun(dir, { warn: say });
  try {
    const { clipGenerator } = await import("../eval/generation.ts");
    const make = clipGenerator(run.device, run.tokenizer, run.objective!);
    if (first) {
      await answer(run, make, classes, options, first);
    } else {
      await converse(run, make, classes);
    }
  } finally {
    await run.close();
  }
}

/** The labels of a request whose options fit together. */
async function checked(classes: readonly string[], options: GenerateOptions): Promise<Int32Array> {
  const labels = await chooseLabels(classes, options);
  const { task, then: chain = [], condition = [], text = [], audio = [] } = options;
  if (task === undefined && [chain, condition, text, audio].some(({ length }) => length > 0)) {
    throw new UserError(
      "--then, --condition, --text and --audio belong to a task",
      "name it with --task",
    );
  }
  return labels;
}

/** Make the clips of one request and write them. */
async function answer(
  run: OpenedRun,
  make: ClipMaker,
  classes: readonly string[],
  options: GenerateOptions,
  labels: Int32Array,
): Promise<void> {
  const { task, then: chain = [], condition = [], text = [], audio = [] } = options;
  const fps = options.fps ?? (await framesPerSecond(run));
  const out = options.out ?? join(run.dir, "generated");
  if (task !== undefined) {
    const { generateTask } = await import("./generate-task.ts");
    const { n, seed, format } = options;
    const files = { condition, text, audio, format, fps, out };
    const request = { task, chain, continue: options.continue, labels, n, seed, ...files };
    await generateTask(run, request, make);
    return;
  }
  const { writeClip } = await import("./clip-files.ts");
  for (const [i, data] of (await sampleClips(make, labels, options.seed)).entries()) {
    const name = classes[labels[i]!]?.replace(/[^A-Za-z0-9]+/g, "-");
    const file = [`seed${options.seed}`, String(i).padStart(3, "0"), ...(name ? [name] : [])];
    const path = join(out, `${file.join("-")}.${options.format}`);
    const { frames, height, width } = run.tokenizer.clip;
    const clip: Frames = { data, frames, height, width };
    await writeClip(path, options.format, clip, { fps, columns: COLUMNS });
    print(path);
  }
}

/** Answer a line of options at a time. What is wrong with a line is said, and the next one is read. */
async function converse(
  run: OpenedRun,
  make: ClipMaker,
  classes: readonly string[],
): Promise<void> {
  const { createInterface } = await import("node:readline");
  const person = process.stdin.isTTY === true;
  const lines = createInterface({
    input: process.stdin,
    ...(person && { output: process.stderr, prompt: "> " }),
  });
  const ask = (): void => void (person && lines.prompt());
  say("ready: a line of options makes clips, e.g. --n 1 --seed 3; an empty line ends");
  ask();
  for await (const line of lines) {
    if (line.trim() === "") {
      break;
    }
    try {
      const options = parseLine(line);
      await answer(run, make, classes, options, await checked(classes, options));
    } catch (error) {
      if (!(error instanceof UserError)) {
        throw error;
      }
      say(`error: ${error.message}${error.hint ? `\n  ${error.hint}` : ""}`);
    }
    ask();
  }
  lines.close();
}

/**
 * The options of a line, words divided by blanks; quotes keep blanks.
 * @throws UserError for an unknown option, a missing value, an open quote
 */
export function parseLine(line: string): GenerateOptions {
  const words = [...line.matchAll(/"([^"]*)"|'([^']*)'|([^\s"']+)/g)].map(
    ([, double, single, plain]) => double ?? single ?? plain ?? "",
  );
  if ((line.match(/"/g)?.length ?? 0) % 2 === 1) {
    throw new UserError("a quote is not closed", 'write --text "a red circle"');
  }
  const command = withOptions(new Command("line"))
    .exitOverride()
    .configureOutput({ writeErr: () => undefined, writeOut: () => undefined })
    .allowExcessArguments(false);
  try {
    command.parse(words, { from: "user" });
  } catch (error) {
    throw new UserError(
      (error as Error).message.replace(/^error: /, ""),
      "a line takes the options of `tessera generate`, without a run",
    );
  }
  return command.opts<GenerateOptions>();
}

/** A label for each clip: those asked for, or all, taken in turn; -1 without classes. */
async function chooseLabels(
  classes: readonly string[],
  { label = [], n }: GenerateOptions,
): Promise<Int32Array> {
  const { suggest } = await import("../config/problems.ts");
  const chosen = label.map((name) => {
    const index = classes.indexOf(name);
    if (index < 0) {
      throw new UserError(
        classes.length === 0
          ? "this run knows no classes: its transformer was trained without labels"
          : `the run knows no class ${JSON.stringify(name)}`,
        classes.length === 0 ? "leave --label out" : suggest(name, classes, "its classes"),
      );
    }
    return index;
  });
  const turn = chosen.length > 0 ? chosen : classes.map((_, index) => index);
  return Int32Array.from({ length: n }, (_, i) => turn[i % turn.length] ?? -1);
}

/** Sample batch after batch; each has a seed of its own, so all batches differ. */
async function sampleClips(
  make: ClipMaker,
  labels: Int32Array,
  seed: number,
): Promise<Uint8Array[]> {
  const { Random } = await import("../runtime/random.ts");
  const clips: Uint8Array[] = [];
  for (let first = 0; first < labels.length; first += BATCH) {
    // Always whole batches: one shape is compiled once, and a clip does not depend on --n.
    const sources = Array.from({ length: BATCH }, (_, i) => ({
      label: labels[first + i] ?? labels[labels.length - 1]!,
    }));
    const batchSeed = new Random(seed, "cli/generate", first / BATCH).int(2 ** 31);
    const made = await make({ sources, seed: batchSeed });
    clips.push(...made.clips!.slice(0, labels.length - first));
    say(`${clips.length}/${labels.length} clips`);
  }
  return clips;
}

/** The data set's rate: from the config where it says so, which works without the data's files. */
async function framesPerSecond(run: OpenedRun): Promise<number> {
  const { dataset } = run.config;
  const stated = "fps" in dataset ? dataset.fps : undefined;
  return dataset.type === "moving-shapes" && typeof stated === "number"
    ? stated
    : (await run.dataset("validation")).fps;
}
