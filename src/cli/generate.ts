/** @file `tessera generate`: new clips from a trained run. */

import { join } from "node:path";
import { type Command, Option } from "commander";
import { UserError } from "../config/errors.ts";
import type { Frames } from "../data/image.ts";
import type { OpenedRun } from "../trainers/open-run.ts";
import { integer, positive } from "./options.ts";
import { print, say } from "./output.ts";

/** Clips that are sampled at once: enough to use all cores, few enough for small memories. */
const BATCH = 8;
/** Frames in a row of a PNG. */
const COLUMNS = 16;

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
}

export function addGenerate(program: Command): void {
  program
    .command("generate")
    .description("sample new clips from a trained run")
    .argument("<run>", "a run folder whose transformer is trained")
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
    .option("--out <folder>", "where to write; <run>/generated when left out")
    .addHelpText(
      "after",
      `
Examples:
  tessera generate results/quickstart/<hash>-s0
  tessera generate RUN --label "moves left" bounces --n 4 --seed 7 --format gif --out clips
  tessera generate RUN --task OPC --condition clip.mkv --format mkv
  tessera generate RUN --task T2AV --text "a large red circle moves left" --n 2
  tessera generate RUN --task I2V --condition frame.png --then ST --text "a blue ring moves up"`,
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
  const labels = await chooseLabels(classes, options);
  const { task, then: chain = [], condition = [], text = [], audio = [] } = options;
  if (task === undefined && [chain, condition, text, audio].some(({ length }) => length > 0)) {
    throw new UserError(
      "--then, --condition, --text and --audio belong to a task",
      "name it with --task",
    );
  }
  const run = await openRun(dir, { warn: say });
  try {
    if (task !== undefined) {
      const { generateTask } = await import("./generate-task.ts");
      const { n, seed, format } = options;
      const fps = options.fps ?? (await framesPerSecond(run));
      const out = options.out ?? join(dir, "generated");
      const files = { condition, text, audio, format, fps, out };
      const request = { task, chain, continue: options.continue, labels, n, seed, ...files };
      await generateTask(run, request);
      return;
    }
    const { writeClip } = await import("./clip-files.ts");
    const fps = options.fps ?? (await framesPerSecond(run));
    const out = options.out ?? join(dir, "generated");
    for (const [i, data] of (await sampleClips(run, labels, options.seed)).entries()) {
      const name = classes[labels[i]!]?.replace(/[^A-Za-z0-9]+/g, "-");
      const file = [`seed${options.seed}`, String(i).padStart(3, "0"), ...(name ? [name] : [])];
      const path = join(out, `${file.join("-")}.${options.format}`);
      const { frames, height, width } = run.tokenizer.clip;
      const clip: Frames = { data, frames, height, width };
      await writeClip(path, options.format, clip, { fps, columns: COLUMNS });
      print(path);
    }
  } finally {
    await run.close();
  }
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
  run: OpenedRun,
  labels: Int32Array,
  seed: number,
): Promise<Uint8Array[]> {
  const [{ generateClips }, { Random }] = await Promise.all([
    import("../trainers/samples.ts"),
    import("../runtime/random.ts"),
  ]);
  const objective = run.objective!;
  const clips: Uint8Array[] = [];
  for (let first = 0; first < labels.length; first += BATCH) {
    // Always whole batches: one shape is compiled once, and a clip does not depend on --n.
    const some = Int32Array.from(
      { length: BATCH },
      (_, i) => labels[first + i] ?? labels[labels.length - 1]!,
    );
    const batchSeed = new Random(seed, "cli/generate", first / BATCH).int(2 ** 31);
    const made = await generateClips(run, { tokenizer: run.tokenizer, objective }, some, batchSeed);
    clips.push(...made.slice(0, labels.length - first));
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
