/**
 * @file Token stores from a finished run: its tokenizer encodes a data set once, shard by shard, into
 * a folder that any number of transformers train from without decoding video. Several processes (or
 * jobs of an array) each take every n-th shard; a shard that is there is not made again, so the same
 * command goes on after an interruption.
 */

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { UserError } from "../config/errors.ts";
import { canonicalJson } from "../config/hash.ts";
import type { Dataset } from "../data/dataset.ts";
import { type Batch, drawSample, stack } from "../data/loader.ts";
import { bitsFor } from "../data/token-store/bits.ts";
import {
  type Companion,
  FORMAT,
  placesPath,
  readStoreInfo,
  shardCount,
  shardPath,
  type StoreInfo,
  type StoreSplit,
  writeShard,
} from "../data/token-store/format.ts";
import type { Scope } from "../models/scope.ts";
import { clipChanges } from "../objectives/changes.ts";
import { usesAudio } from "../objectives/multimodal/config.ts";
import type { ObjectiveConfig } from "../objectives/registry.ts";
import { applyVariant, layoutOf } from "../objectives/variants.ts";
import { writeFileAtomic } from "../runtime/files.ts";
import { decodeSafetensors, encodeSafetensors } from "../runtime/safetensors.ts";
import { type HostTensor, sizeOf, uint8 } from "../runtime/tensors.ts";
import { hostIds } from "../tokenizers/host.ts";
import type { AudioTokenizer } from "../tokenizers/spectral-audio.ts";
import type { Tokenizer } from "../tokenizers/tokenizer.ts";
import type { Experiment } from "./experiment.ts";
import { audioPath, fitAudio, loadAudio } from "./modalities.ts";
import type { OpenedRun } from "./open-run.ts";
import { getVariable, setVariable, valuesOf } from "./packing.ts";
import type { StopRequest } from "./signals.ts";
import { turn } from "./signals.ts";
import { soundInput } from "./tokenizer-stage.ts";
import { changed } from "./tokens.ts";

export interface TokenizeOptions {
  readonly store: string;
  /** Clips of a shard. */
  readonly shardClips: number;
  /** Passes over the training split, each with other random crops and places. */
  readonly visits: number;
  /** Clips encoded at a time. */
  readonly batch: number;
  /** This process makes every `count`-th shard, from `index`. */
  readonly part: { readonly index: number; readonly count: number };
  /** Clips of each split at most; undefined: all. */
  readonly limit?: number;
  /** What is to be trained from the store: tokens that its tasks need stand beside the clips'. */
  readonly objective?: ObjectiveConfig | undefined;
}

/** Ids of a batch that stand beside the clips' own, [size, length]. */
interface Beside {
  readonly name: string;
  readonly of: Companion;
  encode(batch: Batch): Promise<ArrayLike<number>>;
}

/** Names a tokenizer by what it is: config, clip shape and weights. */
export function tokenizerHash(
  config: Experiment["tokenizer"],
  clip: unknown,
  weights: Uint8Array,
): string {
  return createHash("sha256")
    .update(canonicalJson([config, clip]))
    .update(weights)
    .digest("hex");
}

/** The weights that a tokenizer encodes with, as a safetensors file. */
export async function tokenizerWeights(scope: Scope): Promise<Uint8Array> {
  const tensors = new Map<string, HostTensor>();
  for (const [name, variable] of scope.variables()) {
    const data = await getVariable(variable);
    tensors.set(name, { dtype: "float32", shape: [...variable.shape], data });
  }
  return encodeSafetensors({ tensors, metadata: { format: "tessera-tokenizer-1" } });
}

/**
 * Encode this process's shards.
 * @returns whether all shards of all processes are there
 * @throws UserError when the folder holds the store of another tokenizer or of other data
 * @throws Interrupted between two shards when a stop was asked for
 */
export async function tokenize(
  run: OpenedRun,
  options: TokenizeOptions,
  stop: StopRequest,
  onProgress: (split: StoreSplit, done: number, of: number) => void,
): Promise<boolean> {
  const datasets = {
    train: await run.dataset("train"),
    validation: await run.dataset("validation"),
  };
  const weights = await tokenizerWeights(run.tokenizer.scope);
  const encode = encoderOf(run, options.batch);
  const sound = await soundOf(run, options, datasets.train);
  const beside = besides(run.tokenizer, options.objective, encode, sound);
  const info = describeStore(run, datasets, weights, options, beside);
  openStore(options.store, info, weights, sound);
  let whole = true;
  for (const split of ["train", "validation"] as const) {
    const count = shardCount(info, split);
    for (let shard = 0; shard < count; shard++) {
      const path = shardPath(options.store, split, shard);
      if (existsSync(path) && existsSync(placesPath(path))) {
        onProgress(split, shard + 1, count);
        continue;
      }
      if (shard % options.part.count !== options.part.index) {
        whole = false;
        continue;
      }
      stop.check();
      const work = { store: options.store, info, split, shard, batch: options.batch };
      await encodeShard(encode, beside, datasets[split], work, stop);
      onProgress(split, shard + 1, count);
    }
  }
  return whole;
}

function describeStore(
  run: OpenedRun,
  datasets: { readonly [split in StoreSplit]: Dataset },
  weights: Uint8Array,
  { shardClips, visits, limit }: TokenizeOptions,
  beside: readonly Beside[],
): StoreInfo {
  const { grid, factors, clip } = run.tokenizer;
  const describe = (dataset: Dataset, passes: number) => ({
    clips: Math.min(limit ?? Number.POSITIVE_INFINITY, dataset.size * passes),
    visits: passes,
    fingerprint: dataset.fingerprint,
    ...(dataset.sampling && { sampling: dataset.sampling }),
  });
  return {
    format: FORMAT,
    tokenizer: {
      hash: tokenizerHash(run.config.tokenizer, clip, weights),
      grid: [...grid],
      factors: [...factors],
      clip: { frames: clip.frames, height: clip.height, width: clip.width },
    },
    bits: Math.max(...factors.map(bitsFor)),
    length: sizeOf(grid) * factors.length,
    shard_clips: shardClips,
    classes: datasets.train.classes,
    fps: datasets.train.fps,
    ...(datasets.train.audioRate > 0 && { audio_rate: datasets.train.audioRate }),
    ...(beside.length > 0 && {
      companions: Object.fromEntries(beside.map(({ name, of }) => [name, of])),
    }),
    splits: {
      train: describe(datasets.train, visits),
      validation: describe(datasets.validation, 1),
    },
  };
}

/** Begin a store, or make sure that the one that is there is of the same tokenizer and data. */
function openStore(
  store: string,
  info: StoreInfo,
  weights: Uint8Array,
  sound: Sound | undefined,
): void {
  const path = join(store, "store.json");
  const text = `${JSON.stringify(info, null, 2)}\n`;
  if (existsSync(path)) {
    const there = readStoreInfo(store);
    if (there.tokenizer.hash !== info.tokenizer.hash) {
      throw new UserError(
        `${store} holds tokens of another tokenizer (${there.tokenizer.hash.slice(0, 12)}, this one is ${info.tokenizer.hash.slice(0, 12)})`,
        "Ids of two tokenizers do not mix: give another --out, or delete the folder.",
      );
    }
    if (readFileSync(path, "utf8") !== text) {
      throw new UserError(
        `${store} was begun with other data or options than these`,
        "Give another --out, or delete the folder to begin again.",
      );
    }
    return;
  }
  mkdirSync(store, { recursive: true });
  writeFileAtomic(join(store, "tokenizer.safetensors"), weights);
  if (sound) {
    writeFileAtomic(soundPath(store), sound.file);
  }
  writeFileAtomic(path, text);
}

/** Ids of some clips, at most `batch`. */
type Encode = (batch: Batch) => Promise<Int32Array>;

function encoderOf({ device, tokenizer }: OpenedRun, batch: number): Encode {
  const encode = hostIds(device, tokenizer, "store-encode");
  const { clip, modality, grid, factors } = tokenizer;
  const shape = [clip.frames, clip.height, clip.width, 3];
  const length = sizeOf(grid) * factors.length;
  return async (made) => {
    // A last, smaller batch is filled up with zeros: one shape, one compiled graph.
    const pixels = new Uint8Array(modality === "audio" ? 0 : batch * sizeOf(shape));
    if (modality !== "audio") {
      pixels.set(made.clips);
    }
    const input =
      modality === "audio"
        ? soundInput(made.audio, clip.samples ?? 0, batch)
        : uint8([batch, ...shape], pixels);
    const { data } = await encode(input);
    return (data as Int32Array).subarray(0, made.size * length);
  };
}

/** The tokenizer of the clips' sound, and its file. */
interface Sound {
  readonly file: Uint8Array;
  readonly audio: AudioTokenizer;
  readonly made: Companion["made"];
}

/** Where a store keeps the codebooks of its sound. */
export const soundPath = (store: string): string => join(store, "audio.safetensors");

/** The sound's tokenizer that an objective needs: the store's, the run's own, or a fitted one. */
async function soundOf(
  run: OpenedRun,
  { store, objective, limit }: TokenizeOptions,
  train: Dataset,
): Promise<Sound | undefined> {
  if (objective?.type !== "multimodal" || !usesAudio(objective)) {
    return undefined;
  }
  const there = [soundPath(store), audioPath(run.dir)].find((path) => existsSync(path));
  const clips = Math.min(limit ?? Number.POSITIVE_INFINITY, train.size);
  const file = there
    ? readFileSync(there)
    : await fitAudio(run.config.seed, objective, train, clips);
  const { window, levels, codes } = objective.audio;
  const made = { window, levels, codes, rate: train.audioRate };
  return { file, audio: loadAudio(file, objective), made };
}

/** What stands beside the clips' ids. */
function besides(
  tokenizer: Tokenizer,
  objective: ObjectiveConfig | undefined,
  encode: Encode,
  sound: Sound | undefined,
): Beside[] {
  const { names, conditionFrames } = clipChanges(objective);
  const layout = layoutOf(tokenizer, conditionFrames);
  const { grid, factors } = tokenizer;
  const own = { bits: Math.max(...factors.map(bitsFor)), length: sizeOf(grid) * factors.length };
  const changes = names.map((name): Beside => {
    const frames = name === "FP" || name === "CFP" ? { condition_frames: conditionFrames } : {};
    return {
      name,
      of: { ...own, made: { change: name, ...frames } },
      encode: (batch) => encode(changed(batch, (clip) => applyVariant(name, clip, layout))),
    };
  });
  if (!sound) {
    return changes;
  }
  const { audio, made } = sound;
  const length = audio.frames * audio.levels;
  const heard = (batch: Batch): Promise<Int32Array> => {
    const ids = new Int32Array(batch.size * length);
    for (let i = 0; i < batch.size; i++) {
      const wave = batch.audio!.subarray(i * audio.samples, (i + 1) * audio.samples);
      ids.set(audio.encode(wave), i * length);
    }
    return Promise.resolve(ids);
  };
  const of = { bits: bitsFor(audio.codes), length, made };
  return [...changes, { name: "audio", of, encode: heard }];
}

/** One shard to make. */
interface Work {
  readonly store: string;
  readonly info: StoreInfo;
  readonly split: StoreSplit;
  readonly shard: number;
  /** Clips at a time. */
  readonly batch: number;
}

async function encodeShard(
  encode: Encode,
  beside: readonly Beside[],
  dataset: Dataset,
  { store, info, split, shard, batch }: Work,
  stop: StopRequest,
): Promise<void> {
  const first = shard * info.shard_clips;
  const size = Math.min(info.shard_clips, info.splits[split].clips - first);
  const parts: Beside[] = [
    ...beside,
    { name: "", of: { bits: info.bits, length: info.length, made: {} }, encode },
  ];
  const ids = parts.map(({ of }) => new Int32Array(size * of.length));
  const labels = new Int32Array(size);
  const clips: string[] = [];
  const captions: string[] = [];
  const load = (from: number) =>
    Promise.all(
      Array.from({ length: Math.min(batch, size - from) }, (_, i) => {
        const row = first + from + i;
        const draw = { index: row % dataset.size, visit: Math.floor(row / dataset.size) };
        return drawSample(dataset, draw);
      }),
    );
  let next = load(0);
  for (let from = 0; from < size; from += batch) {
    const samples = await next;
    if (from + batch < size) {
      next = load(from + batch); // decoded while the device encodes
      next.catch(() => undefined);
    }
    const made = stack(samples);
    for (const [k, part] of parts.entries()) {
      ids[k]!.set(await part.encode(made), from * part.of.length);
    }
    labels.set(made.labels, from);
    clips.push(...made.ids);
    captions.push(...made.captions);
    await turn();
    stop.check();
  }
  // The clips' own last: where they are, the others are too.
  for (const [k, { name, of }] of parts.entries()) {
    const path = shardPath(store, split, shard, name === "" ? undefined : name);
    mkdirSync(dirname(path), { recursive: true });
    const texts = name === "" ? { clips, captions } : { clips, captions: clips.map(() => "") };
    writeShard(path, info, { size, ids: ids[k]!, labels, ...texts }, of);
  }
}

/**
 * Give a tokenizer the weights that a store was made with.
 * @throws UserError when the config describes another tokenizer than the store's
 */
export function loadStoreTokenizer(
  store: string,
  config: Experiment["tokenizer"],
  tokenizer: Tokenizer,
): void {
  const info = readStoreInfo(store);
  const path = join(store, "tokenizer.safetensors");
  if (!statSync(path, { throwIfNoEntry: false })) {
    throw new UserError(`${store} has no tokenizer.safetensors`, "Make the store again.");
  }
  const bytes = readFileSync(path);
  if (tokenizerHash(config, tokenizer.clip, bytes) !== info.tokenizer.hash) {
    throw new UserError(
      `${store} was made by another tokenizer than the one of this config`,
      "Use the config of the run that made it, or make a store with this one's tokenizer.",
    );
  }
  const { tensors } = decodeSafetensors(bytes);
  for (const [name, variable] of tokenizer.scope.variables()) {
    setVariable(variable, valuesOf(tensors, name, variable.shape));
  }
}
