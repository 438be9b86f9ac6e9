/** @file `tessera data`: what a data set holds, what its clips look like, and its tokens in a store. */

import { existsSync, statSync } from "node:fs";
import { type Command, InvalidArgumentError } from "commander";
import { UserError } from "../config/errors.ts";
import type { DatasetConfig } from "../data/registry.ts";
import { loadExperiment } from "./experiment.ts";
import { integer } from "./options.ts";
import { coloured, print, printJson, say, table } from "./output.ts";

export function addData(program: Command): void {
  const data = program
    .command("data")
    .description("check a data set, look at its clips, or keep its tokens in a store");
  addCheck(data);
  addInspect(data);
  addTokenize(data);
}

const NAMED =
  "@name of configs/datasets, a YAML file of a data set or an experiment, or a run folder";

function addCheck(data: Command): void {
  data
    .command("check")
    .description("count what is there, beside the official numbers; name what is not")
    .argument("<dataset>", NAMED)
    .argument("[overrides...]", "a.b=c of the data set, e.g. path=/data/UCF-101 layout.fold=2")
    .option("--json", "print JSON")
    .option("--all", "list every file that is missing or cannot be used, not only the first 20")
    .addHelpText(
      "after",
      `
Folders are walked and, as the data set's \`verify\` says, files are looked into; its \`index\` is made
anew. The exit code is 1 when something is missing or counts are not the official ones.

Examples:
  tessera data check @ucf101 path=/data/UCF-101
  tessera data check @kinetics600 path=/data/k600 verify=quick index=/data/k600.index
  tessera data check configs/experiments/magvit2-ucf101.yaml path=/data/UCF-101`,
    )
    .action(check);
}

function addInspect(data: Command): void {
  data
    .command("inspect")
    .description("statistics of a split, and a contact sheet of its clips")
    .argument("<dataset>", NAMED)
    .argument("[overrides...]", "a.b=c of the data set")
    .option("--split <split>", "train or validation", splitName, "train")
    .option("--clips <n>", "clips to look at", integer(1), 64)
    .option("--rows <n>", "clips on the sheet", integer(1), 8)
    .option("--columns <n>", "frames of each", integer(1), 8)
    .option("--out <file>", "PNG file of the sheet", "contact-sheet.png")
    .option("--seed <n>", "seed of random places and crops", integer(0), 0)
    .option("--json", "print JSON")
    .action(inspect);
}

function addTokenize(data: Command): void {
  data
    .command("tokenize")
    .description("encode a data set with a run's tokenizer into a store to train transformers from")
    .argument("<run>", "a run folder whose tokenizer has been trained")
    .argument("[overrides...]", "a.b=c of the run's data set, or dataset=@name for another one; objective=@name names what will be trained")
    .requiredOption("--out <store>", "folder of the store")
    .option("--shard-clips <n>", "clips of a shard", integer(1), 4096)
    .option("--visits <n>", "passes over the training split, each with other crops", integer(1), 1)
    .option("--batch <n>", "clips encoded at a time", integer(1), 16)
    .option("--clips <n>", "clips of each split at most", integer(1))
    .option("--processes <n>", "processes that share the shards on this machine", integer(1), 1)
    .option("--part <i/n>", "make every n-th shard from i; in a Slurm array it follows from the job", part) // biome-ignore format: one option
    .option("--threads <n>", "threads of each process's device", integer(0))
    .addHelpText(
      "after",
      `
A shard that is there is not made again: the same command goes on after an interruption. With
\`sbatch --array=0-7\` each task takes its eighth. Another tokenizer, other data or other options are
refused: they are another store. Train from it with trainer.tokens.store=STORE. When the run's
objective (or the one given) has tasks, the tokens of the clips changed for them are kept too, and
those of sound where it is used.

Examples:
  tessera data tokenize results/ucf/<hash>-s0 --out tokens/ucf
  tessera data tokenize RUN dataset.path=/data/UCF-101 --out tokens/ucf --visits 4 --processes 8
  tessera data tokenize RUN objective=@commit --out tokens/tasks`,
    )
    .action(tokenizeCommand);
}

function splitName(text: string): "train" | "validation" {
  if (text !== "train" && text !== "validation") {
    throw new InvalidArgumentError("expected train or validation");
  }
  return text;
}

function part(text: string): { index: number; count: number } {
  const match = /^(\d+)\/(\d+)$/.exec(text);
  const [index, count] = [Number(match?.[1]), Number(match?.[2])];
  if (!match || count < 1 || index >= count) {
    throw new InvalidArgumentError("expected i/n with 0 <= i < n");
  }
  return { index, count };
}

/** The config of a data set from what the user names. */
async function loadDataset(
  named: string,
  overrides: readonly string[],
): Promise<{ config: DatasetConfig; seed: number }> {
  const [{ loadConfig }, { datasetSchema }, { componentNames }] = await Promise.all([
    import("../config/resolve.ts"),
    import("../data/registry.ts"),
    import("../config/sources.ts"),
  ]);
  const own = overrides.map((text) => text.replace(/^([+~]?)dataset\./, "$1"));
  const set = named.startsWith("@")
    ? componentNames("datasets").includes(named.slice(1))
    : existsSync(named) && statSync(named).isFile() && (await isDataset(named));
  if (set) {
    const { config } = loadConfig<DatasetConfig>({ file: named, overrides: own, schema: datasetSchema }); // biome-ignore format: one call
    return { config, seed: 0 };
  }
  const prefixed = own.map((text) => text.replace(/^([+~]?)/, "$1dataset."));
  const { config } = await loadExperiment(named, prefixed);
  return { config: config.dataset, seed: config.seed };
}

/** Whether a YAML file describes a data set, which has a type or extends one, or an experiment. */
async function isDataset(file: string): Promise<boolean> {
  const [{ readFileSync }, { parse }] = await Promise.all([import("node:fs"), import("yaml")]);
  try {
    const value = parse(readFileSync(file, "utf8")) as { type?: unknown; name?: unknown } | null;
    return value?.type !== undefined && value.name === undefined;
  } catch {
    return false; // what is wrong with it is told where it is read
  }
}

async function check(
  named: string,
  overrides: string[],
  options: { json?: boolean; all?: boolean },
): Promise<void> {
  // biome-ignore format: one line
  const { config, seed } = await loadDataset(named, overrides);
  const { setWarningSink } = await import("../data/warnings.ts");
  const { checkDataset } = await import("../data/check.ts");
  const previous = setWarningSink(() => undefined); // the report says it all
  let report: Awaited<ReturnType<typeof checkDataset>>;
  try {
    report = await checkDataset(config, seed);
  } finally {
    setWarningSink(previous);
  }
  process.exitCode = report.complete ? 0 : 1;
  if (options.json) {
    printJson(report);
    return;
  }
  const [frames, height, width] = report.shape;
  print(`${report.type}: clips of ${frames}×${height}×${width} at ${Number(report.fps.toFixed(3))} frames a second`); // biome-ignore format: one call
  const rows = report.splits.map((split) => [
    split.split,
    split.called,
    `${split.items} of ${split.named}`,
    split.official === undefined ? "" : String(split.official),
    String(split.clips),
    split.fingerprint.slice(0, 16),
  ]);
  const head = ["split", "official name", "items usable", "official", "clips", "fingerprint"];
  print(table([head, ...rows], [2, 3, 4]));
  const { found, official } = report.classes;
  print(`classes: ${found}${official === undefined ? "" : ` of ${official}`}`);
  for (const { split, reason } of report.empty) {
    print(`no ${split} split: ${reason}`);
  }
  const listed = options.all ? report.skipped : report.skipped.slice(0, 20);
  for (const { file, reason } of listed) {
    print(`  ${file} ${reason}`);
  }
  if (report.skipped.length > listed.length) {
    print(`  and ${report.skipped.length - listed.length} more (--all lists them)`);
  }
  const differ = report.splits.some(({ items, official: wanted }) => wanted !== undefined && items !== wanted); // biome-ignore format: one condition
  const why = [
    ...(report.skipped.length > 0 ? [`${report.skipped.length} missing or unusable`] : []),
    ...(differ ? ["counts are not the official ones"] : []),
    ...(report.empty.length > 0 ? ["a split is empty"] : []),
    ...(official !== undefined && official !== found ? ["classes are missing"] : []),
  ];
  print(
    report.complete
      ? coloured("green", "complete")
      : coloured("yellow", `not complete: ${why.join(", ")}`),
  );
}

interface InspectOptions {
  readonly split: "train" | "validation";
  readonly clips: number;
  readonly rows: number;
  readonly columns: number;
  readonly out: string;
  readonly seed: number;
  readonly json?: boolean;
}

async function inspect(named: string, overrides: string[], options: InspectOptions): Promise<void> {
  const { config } = await loadDataset(named, overrides);
  const [{ openDataset }, { inspectDataset }, { writePng }] = await Promise.all([
    import("../data/registry.ts"),
    import("../data/inspect.ts"),
    import("../data/image.ts"),
  ]);
  const dataset = await openDataset(config, options.split, options.seed);
  try {
    const { clips, rows, columns, out } = options;
    const found = await inspectDataset(dataset, clips, rows, columns);
    await writePng(out, found.sheet.data, found.sheet.width, found.sheet.height);
    if (options.json) {
      printJson({ sheet: out, ...found.statistics, rows: found.rows });
      return;
    }
    const { statistics: s } = found;
    const three = (values: readonly number[]): string => values.map((v) => v.toFixed(1)).join(" ");
    const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
    print(
      table([
        ["clips", `${s.clips}, ${s.looked_at} looked at`],
        ["mean R G B", three(s.mean)],
        ["standard deviation", three(s.std)],
        ["values of 0 or 255", percent(s.extreme_share)],
        ["mean change between frames", s.motion.toFixed(2)],
        ["frames equal to the one before", percent(s.still_share)],
        ...(s.sound_rms === undefined
          ? []
          : [["sound", `RMS ${s.sound_rms.toFixed(4)}, ${percent(s.silent_share!)} silent`]]),
        ["captions", `${s.captioned} of ${s.looked_at}`],
        ["classes", s.labels.slice(0, 8).map(({ name, clips: n }) => `${name} ${n}`).join(", ")],
        ["contact sheet", out],
      ]), // biome-ignore format: a table
    );
    for (const { id, label, caption } of found.rows) {
      print(`  ${id}${label ? `  [${label}]` : ""}${caption ? `  ${caption}` : ""}`);
    }
  } finally {
    await dataset.close();
  }
}

interface TokenizeCommand {
  readonly out: string;
  readonly shardClips: number;
  readonly visits: number;
  readonly batch: number;
  readonly clips?: number;
  readonly processes: number;
  readonly part?: { readonly index: number; readonly count: number };
  readonly threads?: number;
}

async function tokenizeCommand(
  dir: string,
  overrides: string[],
  options: TokenizeCommand,
): Promise<void> {
  if (options.processes > 1) {
    await spread(dir, overrides, options);
    return;
  }
  const [{ openRun, readRunConfig }, { tokenize }, signals] = await Promise.all([
    import("../trainers/open-run.ts"),
    import("../trainers/tokenize.ts"),
    import("../trainers/signals.ts"),
  ]);
  readRunConfig(dir); // says so when this is no run folder
  const prefixed = overrides.map((text) => (/^[+~]?(dataset|objective)\b/.test(text) ? text : text.replace(/^([+~]?)/, "$1dataset."))); // biome-ignore format: one call
  const { config } = await loadExperiment(dir, prefixed);
  const device = { ...config.device, ...(options.threads !== undefined && { threads: options.threads }) }; // biome-ignore format: one value
  const run = await openRun(dir, {
    dataset: config.dataset,
    device,
    warn: say,
    tokenizerOnly: true,
  });
  const stop = new signals.StopRequest();
  const unlisten = signals.listenForSignals(stop, (signal) => say(`${signal}: stopping`));
  try {
    const whole = await tokenize(
      run,
      {
        store: options.out,
        shardClips: options.shardClips,
        visits: options.visits,
        batch: options.batch,
        part: options.part ?? slurmPart() ?? { index: 0, count: 1 },
        objective: config.objective,
        ...(options.clips !== undefined && { limit: options.clips }),
      },
      stop,
      (split, done, of) => say(`${split}: shard ${done} of ${of}`),
    );
    print(whole ? `${options.out} is complete` : `this part of ${options.out} is complete`);
  } catch (error) {
    if (!(error instanceof signals.Interrupted)) {
      throw error;
    }
    say("interrupted; the same command goes on from here");
    process.exitCode = signals.exitCodeOf(error.signal);
  } finally {
    unlisten();
    await run.close();
  }
}

/** The part of a job of a Slurm array, or of a task of a Slurm step. */
function slurmPart(): { index: number; count: number } | undefined {
  const { SLURM_ARRAY_TASK_ID, SLURM_ARRAY_TASK_MIN = "0", SLURM_ARRAY_TASK_COUNT, SLURM_PROCID, SLURM_NTASKS } = process.env; // biome-ignore format: one line
  if (SLURM_ARRAY_TASK_ID !== undefined && SLURM_ARRAY_TASK_COUNT !== undefined) {
    return {
      index: Number(SLURM_ARRAY_TASK_ID) - Number(SLURM_ARRAY_TASK_MIN),
      count: Number(SLURM_ARRAY_TASK_COUNT),
    };
  }
  if (SLURM_PROCID !== undefined && SLURM_NTASKS !== undefined) {
    return { index: Number(SLURM_PROCID), count: Number(SLURM_NTASKS) };
  }
  return undefined;
}

/** Run the same command in several processes, each with its part. */
async function spread(
  dir: string,
  overrides: readonly string[],
  options: TokenizeCommand,
): Promise<void> {
  const { execa } = await import("execa");
  const { processes, part: own } = options;
  const clips = options.clips === undefined ? [] : ["--clips", String(options.clips)];
  const common = [
    ...process.execArgv,
    process.argv[1]!,
    "data",
    "tokenize",
    dir,
    ...overrides,
    "--out",
    options.out,
    "--shard-clips",
    String(options.shardClips),
    "--visits",
    String(options.visits),
    "--batch",
    String(options.batch),
    "--threads",
    String(options.threads ?? 1),
    "--processes",
    "1",
    ...clips,
  ];
  const outer = own ?? slurmPart() ?? { index: 0, count: 1 };
  const runs = Array.from({ length: processes }, (_, i) => {
    const index = outer.index * processes + i;
    const args = [...common, "--part", `${index}/${outer.count * processes}`];
    return execa(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"], reject: false });
  });
  const ends = await Promise.all(runs);
  const failed = ends.filter(({ exitCode }) => exitCode !== 0);
  if (failed.length > 0) {
    process.exitCode = failed[0]!.exitCode ?? 1;
    throw new UserError(
      `${failed.length} of ${processes} processes did not come to their end`,
      "Their messages are above; the same command goes on from what is there.",
    );
  }
  print(
    outer.count === 1 ? `${options.out} is complete` : `this part of ${options.out} is complete`,
  );
}
