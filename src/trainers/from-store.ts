/**
 * @file Training a transformer from a token store: the tokenizer and its tokens are taken from the
 * store, so no tokenizer is trained and no video is opened until an evaluation asks for clips.
 */

import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../config/errors.ts";
import type { Dataset } from "../data/dataset.ts";
import { openDataset } from "../data/registry.ts";
import { readStoreInfo } from "../data/token-store/format.ts";
import { TokenStore } from "../data/token-store/reader.ts";
import { clipChanges } from "../objectives/changes.ts";
import { usesAudio } from "../objectives/multimodal/config.ts";
import type { ObjectiveConfig } from "../objectives/registry.ts";
import { writeFileAtomic } from "../runtime/files.ts";
import type { HostTensor } from "../runtime/tensors.ts";
import type { Tokenizer } from "../tokenizers/tokenizer.ts";
import { latestCheckpoint, saveCheckpoint } from "./checkpoint.ts";
import type { RunContext, Split } from "./context.ts";
import type { Experiment } from "./experiment.ts";
import { checkpointDir } from "./loop.ts";
import { audioPath, type Modalities, readsText, textLengthOf, textOf } from "./modalities.ts";
import { getVariable } from "./packing.ts";
import { loadStoreTokenizer, soundPath } from "./tokenize.ts";
import { prepareText } from "./text.ts";
import { readTokens, type TokenCache, tokensPath } from "./tokens.ts";
import type { TokenSource } from "./transformer-stage.ts";

/**
 * A split as a store knows it. Sizes, classes and fingerprint are the store's; the clips' own files
 * are opened when a clip is asked for.
 */
export function datasetOfStore(store: string, config: Experiment, split: Split): Dataset {
  const info = readStoreInfo(store);
  const { clips, visits, fingerprint, sampling } = info.splits[split];
  let opened: Promise<Dataset> | undefined;
  const real = (): Promise<Dataset> => (opened ??= openDataset(config.dataset, split, config.seed));
  return {
    type: config.dataset.type,
    split,
    size: Math.max(1, Math.floor(clips / visits)),
    ...info.tokenizer.clip,
    fps: info.fps,
    audioRate: info.audio_rate ?? 0,
    classes: info.classes,
    fingerprint,
    ...(sampling && { sampling }),
    get: async (index, visit, into) => (await real()).get(index, visit, into),
    close: async () => {
      await opened?.then((dataset) => dataset.close()).catch(() => undefined);
    },
  };
}

/**
 * Give the run the store's tokenizer as if its training had ended.
 * @throws UserError when the store is of another tokenizer
 */
export async function takeTokenizer(
  run: Pick<RunContext, "dir" | "warn">,
  store: string,
  config: Experiment,
  tokenizer: Tokenizer,
): Promise<void> {
  const dir = checkpointDir(run.dir, "tokenizer");
  const { steps } = config.trainer.tokenizer;
  loadStoreTokenizer(store, config.tokenizer, tokenizer);
  if (latestCheckpoint(dir, run.warn)?.step === steps) {
    return;
  }
  const tensors = new Map<string, HostTensor>();
  const trainable = tokenizer.scope.trainable();
  for (const [name, variable] of tokenizer.scope.variables()) {
    const data = await getVariable(variable);
    const tensor: HostTensor = { dtype: "float32", shape: [...variable.shape], data };
    tensors.set(`model/${name}`, tensor);
    if (trainable.has(name)) {
      tensors.set(`ema/${name}`, tensor);
    }
  }
  saveCheckpoint(dir, { step: steps, tensors, loop: { count: 0, sums: {} } });
}

/** A split of a store as the transformer's stage reads it. */
export function cacheOfStore(path: string, split: Split, companion?: string): TokenCache {
  const store = new TokenStore(path, split, { ...(companion !== undefined && { companion }) });
  let all: Uint16Array | undefined;
  return {
    size: store.size,
    length: store.length,
    labels: store.labels,
    rows: (rows) => store.rows(rows),
    /** Everything unpacked, for those who want it all. */
    get ids() {
      all ??= Uint16Array.from(store.rows(Array.from({ length: store.size }, (_, i) => i)));
      return all;
    },
  };
}

/**
 * Give the run what its objective needs besides ids: the words of the store's captions, and the
 * tokenizer of its sound.
 * @throws UserError when the store's sound was tokenized otherwise
 */
export async function takeModalities(
  run: Pick<RunContext, "dir" | "device" | "seed">,
  path: string,
  config: ObjectiveConfig | undefined,
  onProgress: (what: string, done: number, total: number) => void,
): Promise<void> {
  mkdirSync(join(run.dir, "modalities"), { recursive: true });
  if (readsText(config)) {
    const captions = () => captionsOfStore(path, "train");
    await prepareText(run, textOf(config), textLengthOf(config), captions, onProgress);
  }
  if (config?.type === "multimodal" && usesAudio(config)) {
    const { window, levels, codes } = config.audio;
    const made = readStoreInfo(path).companions?.["audio"]?.made;
    for (const [option, value] of Object.entries({ window, levels, codes })) {
      if (made && made[option] !== value) {
        throw new UserError(
          `${path} tokenized sound with ${option} ${JSON.stringify(made[option])}, and objective.audio.${option} is ${value}`,
          "Use the store's value, or make a store with this objective.",
        );
      }
    }
    if (made) {
      writeFileAtomic(audioPath(run.dir), readFileSync(soundPath(path)));
    }
  }
}

function captionsOfStore(path: string, split: Split): readonly string[] {
  const store = new TokenStore(path, split);
  const { captions } = store.texts();
  store.close();
  return captions;
}

/**
 * What a split of a store gives an objective.
 * @throws UserError when the store lacks tokens that its tasks need
 */
export function sourceOfStore(
  runDir: string,
  path: string,
  split: Split,
  config: ObjectiveConfig | undefined,
  modalities: Modalities,
): TokenSource {
  const { names, conditionFrames } = clipChanges(config);
  const { companions } = readStoreInfo(path);
  for (const name of names) {
    const given = companions?.[name]?.made["condition_frames"];
    if (given !== undefined && given !== conditionFrames) {
      throw new UserError(
        `${path} holds tokens of clips with ${JSON.stringify(given)} given frames, and objective.condition_frames is ${conditionFrames}`,
        "Use the store's value, or make a store with this objective.",
      );
    }
  }
  const tokens = cacheOfStore(path, split);
  // Small clips of super-resolution are cached from the data set, once each.
  const smallPath = tokensPath(runDir, split, "low");
  const low = existsSync(smallPath) ? readTokens(smallPath) : undefined;
  if (low && low.size !== tokens.size) {
    throw new UserError(
      `${path} holds ${tokens.size} clips of the ${split} split, and super-resolution has ${low.size} small ones`,
      "Train super-resolution from a store of all clips and one visit, or from the data set.",
    );
  }
  return {
    tokens,
    conditions: new Map(names.map((name) => [name, cacheOfStore(path, split, name)])),
    modalities: {
      ...(low && { low }),
      ...(modalities.text && { captions: captionsOfStore(path, split) }),
      ...(modalities.audio && { audio: cacheOfStore(path, split, "audio") }),
    },
  };
}
