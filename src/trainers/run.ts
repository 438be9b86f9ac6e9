/**
 * @file One experiment from its config to its scores: tokenizer, tokens, transformer, evaluation.
 * Every stage begins where its files on disk end, so the same command starts a run, goes on after an
 * interruption or a crash, and skips what is finished.
 */

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../config/errors.ts";
import type { Resolved } from "../config/resolve.ts";
import { configYaml } from "../config/show.ts";
import type { Dataset } from "../data/dataset.ts";
import type { Score } from "../eval/suite.ts";
import type { Device } from "../runtime/device.ts";
import { type Group, type Membership, membershipOf } from "../runtime/group.ts";
import { isSuperResolution } from "../objectives/super-resolution/objective.ts";
import { writeFileAtomic } from "../runtime/files.ts";
import { findAddon } from "../runtime/native/addon.ts";
import { openDevice } from "../runtime/registry.ts";
import { removeTemporaries } from "./checkpoint.ts";
import { cacheConditions } from "./conditions.ts";
import { meet, type RunContext, type Split, type Status, writeStatus } from "./context.ts";
import { evaluateAll, type Networks, type Scores } from "./evaluation.ts";
import type { Experiment } from "./experiment.ts";
import { takeModalities, takeTokenizer } from "./from-store.ts";
import { follow } from "./follow.ts";
import { lockFolder } from "./lock.ts";
import { writeMetricsParquet } from "./logging/metrics.ts";
import { EventWriter } from "./logging/tensorboard.ts";
import { type Output, type Part, Progress, standardOutput } from "./logging/progress.ts";
import { checkpointDir, trainStage } from "./loop.ts";
import { cacheSmallClips, openModalities, prepareModalities } from "./modalities.ts";
import {
  finalCheckpoint,
  loadAveraged,
  makeObjective,
  makeTokenizer,
  resampler,
} from "./networks.ts";
import { gatherProvenance, type Provenance } from "./provenance.ts";
import { generationSamples, reconstructionSamples } from "./samples.ts";
import { runId } from "./run-id.ts";
import { exitCodeOf, Interrupted, listenForSignals, StopRequest } from "./signals.ts";
import { adoptTokenizer, publishTokenizer } from "./stages.ts";
import { tokenizerTask } from "./tokenizer-stage.ts";
import { openOnce, transformerStage } from "./sources.ts";
import { cacheTokens } from "./tokens.ts";

export interface RunOptions {
  /** Where progress goes; standard error when left out. */
  readonly output?: Output;
  /** A stop that the caller can ask for; signals ask for it too. */
  readonly stop?: StopRequest;
  /** Take a tokenizer that a run of equal settings has trained already, and offer ours to others. */
  readonly reuse?: boolean;
}

export interface RunResult {
  readonly dir: string;
  readonly state: "finished" | "skipped" | "interrupted";
  /** 0, 128 + the signal's number, or 75 after SIGUSR2. */
  readonly exitCode: number;
  /** Empty when interrupted. */
  readonly scores: readonly Score[];
}

/** The folder of a run: results/<experiment>/<hash>-s<seed>. */
export function runFolder({ config, hash }: Resolved<Experiment>): string {
  return join(config.output, config.name, runId(hash, config.seed));
}

/** Read status.json; undefined when there is none. */
export function readStatus(dir: string): Status | undefined {
  const path = join(dir, "status.json");
  return existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")) as Status) : undefined;
}

/**
 * Run an experiment, or go on with it, or skip it when it is finished.
 * @throws UserError when the folder is in use, data changed under the run, training diverged, ...
 */
export async function runExperiment(
  resolved: Resolved<Experiment>,
  options: RunOptions = {},
): Promise<RunResult> {
  const { config } = resolved;
  const output = options.output ?? standardOutput();
  const dir = runFolder(resolved);
  const scoresPath = join(dir, "scores.json");
  if (readStatus(dir)?.state === "finished" && existsSync(scoresPath)) {
    output.line(`skipped: ${dir} is finished; delete the folder to run it again`);
    const { scores } = JSON.parse(readFileSync(scoresPath, "utf8")) as Scores;
    return { dir, state: "skipped", exitCode: 0, scores };
  }
  const membership = membershipOf();
  if (membership && membership.rank > 0) {
    return follow(config, dir, membership, options.stop ?? new StopRequest());
  }

  const unlock = lockFolder(dir);
  const stop = options.stop ?? new StopRequest();
  const unlisten = listenForSignals(stop, (signal) =>
    output.line(`${signal}: stopping after this step (once more to stop at once)`),
  );
  const datasets = new Map<Split, Promise<Dataset>>();
  let group: Group | undefined;
  const progress = new Progress(output);
  try {
    removeTemporaries(dir);
    writeFileAtomic(join(dir, "config.json"), `${resolved.canonical}\n`);
    const yaml = configYaml(resolved);
    writeFileAtomic(join(dir, "config.yaml"), yaml);
    writeStatus(dir, { state: "running" });
    const device = await openRunDevice(dir, config.device, membership);
    ({ group } = device);
    const run: RunContext = {
      dir,
      seed: config.seed,
      device,
      progress,
      stop,
      dataset: (split) => openOnce(datasets, config, split),
      warn: (message) => progress.say(`warning: ${message}`),
      ...(group && { group }),
    };
    try {
      await recordProvenance(run, resolved, yaml, output);
      const ranks = group ? `, ${group.world} ranks` : "";
      output.line(`run ${dir} on ${device.info.description}${ranks}`);
      const scores = await runStages(run, config, options.reuse === true);
      writeStatus(dir, { state: "finished" });
      await group?.leave();
      return { dir, state: "finished", exitCode: 0, scores };
    } finally {
      progress.stop();
      device.dispose();
    }
  } catch (error) {
    const { stage, step, steps } = readStatus(dir) ?? {};
    const at = { ...(stage && { stage }), ...(step !== undefined && { step, steps: steps ?? 0 }) };
    if (error instanceof Interrupted) {
      await group?.leave();
      writeStatus(dir, { state: "interrupted", ...at });
      output.line(`interrupted; the same command goes on from here: ${dir}`);
      return { dir, state: "interrupted", exitCode: exitCodeOf(error.signal), scores: [] };
    }
    writeStatus(dir, { state: "failed", ...at, error: (error as Error).message });
    throw error;
  } finally {
    for (const dataset of datasets.values()) {
      await dataset.then((opened) => opened.close()).catch(() => undefined);
    }
    unlisten();
    unlock();
  }
}

/** The stages in their order. */
async function runStages(
  run: RunContext,
  config: Experiment,
  reuse: boolean,
): Promise<readonly Score[]> {
  const { trainer, seed } = config;
  const { store } = trainer.tokens;
  const train = await run.dataset("train");
  const validation = await run.dataset("validation");
  const cached = [
    { dataset: train, clips: atMost(trainer.tokens.train_clips, train.size) },
    { dataset: validation, clips: atMost(trainer.tokens.validation_clips, validation.size) },
  ];
  run.progress.plan(
    partsOf(
      config,
      cached.map(({ clips }) => clips),
    ),
  );

  // Kept for those who open the run without its data.
  writeFileAtomic(join(run.dir, "classes.json"), `${JSON.stringify(train.classes)}\n`);

  // 1. The tokenizer learns from clips.
  const tokenizer = makeTokenizer(config);
  const fingerprints = { train: train.fingerprint, validation: validation.fingerprint };
  const source = reuse ? adoptTokenizer(run.dir, config, fingerprints) : undefined;
  if (source !== undefined) {
    run.progress.say(`tokenizer taken from ${source}`);
    const origins = { tokenizer: { from: source } };
    writeFileAtomic(join(run.dir, "stages.json"), `${JSON.stringify(origins, null, 2)}\n`);
  }
  if (store !== null) {
    await takeTokenizer(run, store, config, tokenizer);
  }
  await trainStage(
    run,
    tokenizerTask(
      tokenizer,
      trainer.tokenizer,
      train,
      validation,
      seed,
      config.tokenizer,
      run.group,
    ),
  );
  const final = finalCheckpoint(run.dir, "tokenizer", trainer.tokenizer.steps, run.warn);
  loadAveraged(tokenizer.scope, final);
  writeTables(run);
  if (reuse) {
    publishTokenizer(run.dir, config, fingerprints);
  }
  if (store === null) {
    await reconstructionSamples(run, tokenizer, trainer.samples.count, final.step);
  }

  // 2. Its tokens of all clips are computed once, and what else the transformer is to read.
  let trained: Pick<Networks, "objective" | "resampled"> = {};
  if (config.objective !== undefined) {
    writeStatus(run.dir, { state: "running", stage: "tokens" });
    run.progress.start("tokens", 0);
    const { batch } = trainer.tokens;
    const note = (what: string, done: number, total: number): void =>
      run.progress.note(`${what}: ${done}/${total}`);
    let before = 0;
    for (const { dataset, clips } of store === null ? cached : []) {
      await cacheTokens(run, tokenizer, dataset, { batch, clips }, (done) =>
        run.progress.update(before + done, dataset.split),
      );
      before += clips;
    }
    if (store === null) {
      await prepareModalities(run, config.objective, cached, note);
    } else {
      await takeModalities(run, store, config.objective, note);
    }
    const modalities = openModalities(run.dir, config.objective, run.device);
    const built = makeObjective(config, tokenizer, train, modalities)!;
    for (const { dataset, clips } of cached) {
      if (isSuperResolution(built)) {
        await cacheSmallClips(run, built, dataset, { batch, clips }, (done) =>
          note(`${dataset.split} small clips`, done, clips),
        );
      } else if (built.tasks && store === null) {
        await cacheConditions(
          run,
          tokenizer,
          built.tasks,
          dataset,
          { batch, clips },
          (name, done) => note(`${dataset.split} ${name}`, done, clips),
        );
      }
    }
    run.progress.stop();

    // 3. The transformer learns from tokens.
    await meet(run);
    await trainStage(run, await transformerStage(run, config, built, modalities));
    const last = finalCheckpoint(run.dir, "transformer", trainer.transformer.steps, run.warn);
    loadAveraged(built.scope, last);
    writeTables(run);
    trained = {
      objective: built,
      resampled: resampler(config, tokenizer, train, modalities, last),
    };
    await generationSamples(run, { tokenizer, objective: built }, trainer.samples.count, last.step);
  }

  // 4. Every suite judges the averaged weights.
  writeStatus(run.dir, { state: "running", stage: "evaluation" });
  const networks: Networks = { tokenizer, ...trained };
  return evaluateAll(run, config, networks);
}

/** A limit of which 0 means none. */
function atMost(limit: number, size: number): number {
  return limit > 0 ? Math.min(limit, size) : size;
}

function writeTables(run: RunContext): void {
  writeMetricsParquet(join(run.dir, "metrics.jsonl"), join(run.dir, "metrics.parquet"));
}

/** provenance.json: the first process, and every one that resumed. */
interface ProvenanceFile extends Provenance {
  readonly resumes: readonly Provenance[];
}

/**
 * The device of a run. A run that was begun goes on with the engine that it began with, since another one
 * rounds otherwise and the bytes would not be those of an uninterrupted run.
 */
export async function openRunDevice(
  dir: string,
  config: Experiment["device"],
  membership?: Membership,
): Promise<Device> {
  const path = join(dir, "provenance.json");
  if (config.type !== "cpu" || config.engine !== "auto" || !existsSync(path)) {
    return openDevice(config, membership);
  }
  // Runs from before there was a choice recorded none.
  const { engine = "onnx" } = JSON.parse(readFileSync(path, "utf8")) as ProvenanceFile;
  if (!existsSync(checkpointDir(dir, "tokenizer"))) {
    return openDevice(config, membership);
  }
  const { missing } = engine === "native" ? findAddon() : { missing: undefined };
  if (missing !== undefined) {
    throw new UserError(
      `${dir} was begun with the native engine and would not end with the same bytes on another one: ${missing}`,
      "build it and give the command again, or delete the folder to begin anew",
    );
  }
  return openDevice({ ...config, engine: engine as "native" | "onnx" }, membership);
}

async function recordProvenance(
  run: RunContext,
  { hash, config }: Resolved<Experiment>,
  yaml: string,
  output: Output,
): Promise<void> {
  const path = join(run.dir, "provenance.json");
  const datasets = {
    train: (await run.dataset("train")).fingerprint,
    validation: (await run.dataset("validation")).fingerprint,
  };
  const { provenance, diff } = gatherProvenance({
    device: run.device.info.description,
    engine: run.device.info.engine,
    seed: config.seed,
    configHash: hash,
    datasets,
  });
  let file: ProvenanceFile = { ...provenance, resumes: [] };
  if (existsSync(path)) {
    const first = JSON.parse(readFileSync(path, "utf8")) as ProvenanceFile;
    const begun = existsSync(checkpointDir(run.dir, "tokenizer"));
    if (begun && JSON.stringify(first.datasets) !== JSON.stringify(datasets)) {
      throw new UserError(
        `the data changed since ${run.dir} was begun: a resumed run would mix two data sets`,
        "restore the data, or delete the folder to begin again",
      );
    }
    if (begun) {
      output.line(`going on with ${run.dir}, begun ${first.started}`);
      file = { ...first, resumes: [...first.resumes, provenance] };
    }
  }
  if (diff !== undefined) {
    writeFileAtomic(join(run.dir, "uncommitted.diff"), diff);
  }
  writeFileAtomic(path, `${JSON.stringify(file, null, 2)}\n`);
  if (file.resumes.length === 0) {
    const board = new EventWriter(join(run.dir, "tensorboard", "config"), 0);
    board.text(0, "config", `\`\`\`yaml\n${yaml}\n\`\`\``);
  }
}

/** The parts that the progress of a run counts. */
function partsOf({ trainer, objective, evals }: Experiment, sizes: readonly number[]): Part[] {
  const suites = { name: "evaluation", total: Object.keys(evals).length };
  const tokenizer = { name: "tokenizer", total: trainer.tokenizer.steps };
  const clips = sizes.reduce((sum, size) => sum + size, 0);
  return objective === undefined
    ? [tokenizer, suites]
    : [
        tokenizer,
        { name: "tokens", total: clips },
        { name: "transformer", total: trainer.transformer.steps },
        suites,
      ];
}
