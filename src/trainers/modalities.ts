/**
 * @file The other modalities of a multi-modal model: the words of the training captions, the audio
 * tokenizer, and the codes of every clip's sound. All of it is a pure function of data and seed, made
 * once and kept in the run folder:
 *
 *   modalities/words.json, ...     how captions are read (text.ts)
 *   modalities/audio.safetensors   the codebooks of the audio tokenizer
 *   tokens/<split>.audio.arrow     codes [frames × levels] a clip, rows as in the tokens' file
 *   tokens/<split>.low.arrow       tokens of the small clips of super-resolution
 */

import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../config/errors.ts";
import type { Dataset } from "../data/dataset.ts";
import { onePass } from "../data/loader.ts";
import { type MultimodalConfig, usesAudio, usesText } from "../objectives/multimodal/config.ts";
import type { TextConfig } from "../objectives/multimodal/text.ts";
import type { TextTokenizer } from "../objectives/multimodal/words.ts";
import type { TokenBatch } from "../objectives/objective.ts";
import type { ObjectiveConfig } from "../objectives/registry.ts";
import type { SuperResolution } from "../objectives/super-resolution/objective.ts";
import type { Device } from "../runtime/device.ts";
import { writeFileAtomic } from "../runtime/files.ts";
import { decodeSafetensors, encodeSafetensors } from "../runtime/safetensors.ts";
import {
  type AudioTokenizer,
  fitSpectral,
  spectralTokenizer,
} from "../tokenizers/spectral-audio.ts";
import { reduceClip } from "../tokenizers/low-resolution.ts";
import type { RunContext, Split } from "./context.ts";
import { turn } from "./signals.ts";
import { openText, prepareText } from "./text.ts";
import {
  cacheTokens,
  captionsOf,
  readTokens,
  rowOf,
  tokenBatch,
  type TokenCache,
  tokensPath,
  writeTokens,
} from "./tokens.ts";

/** The tokenizers of a run's other modalities. */
export interface Modalities {
  readonly text?: TextTokenizer;
  readonly audio?: AudioTokenizer;
}

/** What a batch of a multi-modal model is made of besides the clips' tokens. */
export interface ModalityCaches {
  /** Captions by row. */
  readonly captions?: readonly string[];
  /** Audio codes by row. */
  readonly audio?: TokenCache;
  /** Tokens of small clips by row. */
  readonly low?: TokenCache;
}

export const audioPath = (dir: string): string => join(dir, "modalities", "audio.safetensors");

/**
 * Make what is not there yet. The clips' tokens must be cached.
 * @param splits the data sets and how many of their clips are cached
 * @throws Interrupted between two pieces when a stop was asked for
 */
export async function prepareModalities(
  run: Pick<RunContext, "dir" | "device" | "stop" | "seed">,
  config: ObjectiveConfig | undefined,
  splits: readonly { readonly dataset: Dataset; readonly clips: number }[],
  onProgress: (what: string, done: number, total: number) => void,
): Promise<void> {
  if (readsText(config)) {
    const captions = () => captionsOf(tokensPath(run.dir, "train"));
    await prepareText(run, textOf(config), textLengthOf(config), captions, onProgress);
  }
  if (config?.type !== "multimodal" || !usesAudio(config)) {
    return;
  }
  mkdirSync(join(run.dir, "modalities"), { recursive: true });
  const train = splits.find(({ dataset }) => dataset.split === "train")!;
  if (!existsSync(audioPath(run.dir))) {
    const file = await fitAudio(run.seed, config, train.dataset, train.clips);
    writeFileAtomic(audioPath(run.dir), file);
  }
  const { audio } = openModalities(run.dir, config, run.device);
  for (const { dataset, clips } of splits) {
    const path = tokensPath(run.dir, dataset.split, "audio");
    if (existsSync(path)) {
      continue;
    }
    const length = audio!.frames * audio!.levels;
    const ids = new Uint16Array(clips * length);
    let row = 0;
    for await (const batch of onePass(dataset, { batch: 16 }, clips)) {
      for (let i = 0; i < batch.size; i++, row++) {
        const wave = batch.audio!.subarray(i * audio!.samples, (i + 1) * audio!.samples);
        ids.set(audio!.encode(wave), row * length);
      }
      onProgress(`${dataset.split} sound`, row, clips);
      run.stop.check();
      await turn();
    }
    writeTokens(path, { size: clips, length, ids, labels: new Int32Array(clips).fill(-1) });
  }
}

/** How an objective reads captions; as words where it does not say. */
export const textOf = (config: ObjectiveConfig | undefined): TextConfig | undefined =>
  config?.type === "multimodal" ? config.text : undefined;

/** The most tokens of a text. */
export const textLengthOf = (config: ObjectiveConfig | undefined): number =>
  config?.type === "multimodal" || config?.type === "super-resolution" ? config.text_length : 0;

/** Whether an objective reads captions. */
export function readsText(config: ObjectiveConfig | undefined): boolean {
  return (
    (config?.type === "multimodal" && usesText(config)) ||
    (config?.type === "super-resolution" && config.text_length > 0)
  );
}

/** Cache the tokens of a split's small clips. */
export async function cacheSmallClips(
  run: Pick<RunContext, "dir" | "device" | "stop">,
  { low, factor }: SuperResolution,
  dataset: Dataset,
  options: { readonly batch: number; readonly clips: number },
  onProgress: (done: number) => void,
): Promise<void> {
  const { frames, height, width } = low.clip;
  const shape = { frames: dataset.frames, height: dataset.height, width: dataset.width };
  const { type, split, size, fps, classes, fingerprint } = dataset;
  const small: Dataset = {
    type,
    split,
    size,
    frames,
    height,
    width,
    fps,
    audioRate: 0,
    classes,
    fingerprint,
    async get(index, visit) {
      const { audio: _, ...sample } = await dataset.get(index, visit);
      return { ...sample, clip: reduceClip(sample.clip, shape, factor) };
    },
    close: () => Promise.resolve(),
  };
  const variant = { name: "low", apply: (clip: Uint8Array) => clip };
  await cacheTokens(run, low, small, { ...options, variant }, onProgress);
}

/**
 * Fit the audio tokenizer to a set's first clips: the file of its codebooks.
 * @param clips that may be used; `fit_clips` of them are
 */
export async function fitAudio(
  seed: number,
  { audio: options }: MultimodalConfig,
  dataset: Dataset,
  clips: number,
): Promise<Uint8Array> {
  if (dataset.audioRate === 0) {
    throw new UserError(
      "the task mixture has tasks with sound, but the data set has none",
      "set dataset.audio_rate, or leave T2AV, V2A, A2V and AVC out",
    );
  }
  const waves: Float32Array[] = [];
  const used = Math.min(clips, options.fit_clips);
  for await (const batch of onePass(dataset, { batch: 16 }, used)) {
    const samples = batch.audio!.length / batch.size;
    for (let i = 0; i < batch.size; i++) {
      waves.push(batch.audio!.slice(i * samples, (i + 1) * samples));
    }
  }
  const { window, levels, codes } = options;
  const books = fitSpectral(waves, options, seed);
  return encodeSafetensors({
    tensors: new Map([
      ["codebooks", { dtype: "float32", shape: [levels, codes, window / 2 + 1], data: books }],
    ]),
    metadata: { samples: String(waves[0]!.length), rate: String(dataset.audioRate) },
  });
}

/** The audio tokenizer of a file that `fitAudio` made. */
export function loadAudio(file: Uint8Array, { audio }: MultimodalConfig): AudioTokenizer {
  const { tensors, metadata } = decodeSafetensors(file);
  const books = tensors.get("codebooks")!.data as Float32Array;
  return spectralTokenizer(books, audio, Number(metadata["samples"]));
}

/** The tokenizers of a run that was prepared. */
export function openModalities(
  dir: string,
  config: ObjectiveConfig | undefined,
  device: Device,
): Modalities {
  const text = readsText(config)
    ? openText(dir, textOf(config), textLengthOf(config), device)
    : undefined;
  if (config?.type !== "multimodal" || !usesAudio(config)) {
    return text ? { text } : {};
  }
  const audio = loadAudio(readFileSync(audioPath(dir)), config);
  return { audio, ...(text && { text }) };
}

/** The caches of a split. */
export function readModalities(dir: string, split: Split, modalities: Modalities): ModalityCaches {
  const low = tokensPath(dir, split, "low");
  return {
    ...(existsSync(low) && { low: readTokens(low) }),
    ...(modalities.text && { captions: captionsOf(tokensPath(dir, split)) }),
    ...(modalities.audio && { audio: readTokens(tokensPath(dir, split, "audio")) }),
  };
}

/** Texts and sound of some rows, as a batch holds them. */
export function modalityBatch(
  { captions, audio, low }: ModalityCaches,
  { text }: Modalities,
  limit: number,
  rows: Uint32Array,
): Pick<TokenBatch, "texts" | "audio" | "low"> {
  const texts = new Int32Array(rows.length * limit).fill(-1);
  const sound = new Int32Array(rows.length * (audio?.length ?? 0));
  for (const [i, row] of rows.entries()) {
    if (text && captions) {
      texts.set(text.encode(captions[row]!, limit), i * limit);
    }
    if (audio) {
      sound.set(rowOf(audio, row), i * audio.length);
    }
  }
  return {
    ...(text && { texts }),
    ...(audio && { audio: sound }),
    ...(low && { low: tokenBatch(low, rows).ids }),
  };
}
