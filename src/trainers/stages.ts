/**
 * @file Stages that several runs share. What a trained tokenizer depends on is hashed; runs of a
 * sweep whose hashes agree (transformers over one tokenizer) train it once, and the others take the
 * checkpoints, curves and cached tokens of the first. `<output>/.stages/<key>.json` names who has it.
 */

import {
  copyFileSync,
  cpSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
} from "node:fs";
import { join } from "node:path";
import { canonicalJson, configHash } from "../config/hash.ts";
import { writeFileAtomic } from "../runtime/files.ts";
import { codeHash } from "./code-hash.ts";
import { type Experiment, experimentSchema } from "./experiment.ts";
import { checkpointDir } from "./loop.ts";
import { listCheckpoints } from "./checkpoint.ts";

const keys = new Map<string, string>();

/** The hash of all that a trained tokenizer depends on, the seed among it. */
export function tokenizerStageKey(config: Experiment): string {
  // What comes after the tokenizer, or only names the run.
  const { name: _n, model: _m, objective: _o, evals: _e, trainer, ...rest } = config;
  const { tokens: _k, transformer: _t, evaluation: _v, samples: _s, ...training } = trainer;
  const part = { ...rest, trainer: training };
  // A plan asks for thousands of trials over few tokenizers; plain JSON is quicker than canonical.
  const text = JSON.stringify(part);
  let key = keys.get(text);
  if (key === undefined) {
    key = configHash(part, experimentSchema, []).slice(0, 24);
    keys.set(text, key);
  }
  return key;
}

/** Who holds the result of a stage. */
interface StageRecord {
  readonly dir: string;
  /** The code that made it: other code may make another tokenizer. */
  readonly code: string;
  readonly datasets: { readonly [split: string]: string };
}

const recordPath = (config: Experiment): string =>
  join(config.output, ".stages", `${tokenizerStageKey(config)}.json`);

/** The run folder of a trained tokenizer with this key, if there is one that is still whole. */
export function findTokenizer(
  config: Experiment,
  datasets: StageRecord["datasets"] | undefined,
): string | undefined {
  try {
    const record = JSON.parse(readFileSync(recordPath(config), "utf8")) as StageRecord;
    const last = listCheckpoints(checkpointDir(record.dir, "tokenizer"))[0];
    const same =
      record.code === codeHash() &&
      (datasets === undefined || canonicalJson(record.datasets) === canonicalJson(datasets));
    return same && last?.step === config.trainer.tokenizer.steps ? record.dir : undefined;
  } catch {
    return undefined; // no record, or one whose run is gone
  }
}

/** Say that this run has the trained tokenizer of its key. */
export function publishTokenizer(
  dir: string,
  config: Experiment,
  datasets: StageRecord["datasets"],
): void {
  if (findTokenizer(config, datasets) === undefined) {
    const record: StageRecord = { dir, code: codeHash(), datasets };
    writeFileAtomic(recordPath(config), `${JSON.stringify(record)}\n`);
  }
}

/**
 * Take over a trained tokenizer, so that the run goes on as if it had trained it: the same bytes in
 * checkpoints, curves and cached tokens. Does nothing when the run has begun one of its own.
 * @returns the folder that it was taken from
 */
export function adoptTokenizer(
  dir: string,
  config: Experiment,
  datasets: StageRecord["datasets"],
): string | undefined {
  const own = checkpointDir(dir, "tokenizer");
  if (listCheckpoints(own).length > 0) {
    return undefined;
  }
  const source = findTokenizer(config, datasets);
  if (source === undefined || source === dir) {
    return undefined;
  }
  const rows = readFileSync(join(source, "metrics.jsonl"), "utf8")
    .split("\n")
    .filter((line) => line.startsWith('{"stage":"tokenizer"'));
  writeFileAtomic(join(dir, "metrics.jsonl"), rows.map((line) => `${line}\n`).join(""));
  const board = join(source, "tensorboard", "tokenizer");
  if (existsSync(board)) {
    cpSync(board, join(dir, "tensorboard", "tokenizer"), { recursive: true });
  }
  adoptTokens(source, dir, config);
  // The checkpoints come last and the newest of them last of all: they are what says "done".
  for (const { name } of listCheckpoints(checkpointDir(source, "tokenizer")).toReversed()) {
    share(join(checkpointDir(source, "tokenizer"), name), join(own, name));
  }
  copyFileSync(join(checkpointDir(source, "tokenizer"), "latest.json"), join(own, "latest.json"));
  return source;
}

/** The cached tokens, if both runs cache the same clips. */
function adoptTokens(source: string, dir: string, config: Experiment): void {
  const other = JSON.parse(readFileSync(join(source, "config.json"), "utf8")) as Experiment;
  if (canonicalJson(other.trainer.tokens) !== canonicalJson(config.trainer.tokens)) {
    return;
  }
  const names = existsSync(join(source, "tokens")) ? readdirSync(join(source, "tokens")) : [];
  for (const name of names.filter((file) => /^(train|validation)\.arrow$/.test(file))) {
    share(join(source, "tokens", name), join(dir, "tokens", name));
  }
}

/** A second name for a finished file, or a copy where the disk has no second names. */
function share(source: string, target: string): void {
  mkdirSync(join(target, ".."), { recursive: true });
  rmSync(target, { force: true });
  try {
    linkSync(source, target);
  } catch {
    const temporary = `${target}.${process.pid}.tmp`;
    copyFileSync(source, temporary);
    renameSync(temporary, target);
  }
}
