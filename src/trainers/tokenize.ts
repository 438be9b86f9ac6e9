/**
 * @file Token stores from a finished run: its tokenizer encodes a data set once, shard by shard, into
 * a folder that any number of transformers train from without decoding video. Several processes (or
 * jobs of an array) each take every n-th shard; a shard that is there is not made again, so the same
 * command goes on after an interruption.
 */

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../config/errors.ts";
import { canonicalJson } from "../config/hash.ts";
import type { Dataset } from "../data/dataset.ts";
import { stack } from "../data/loader.ts";
import { drawSample } from "../data/loader.ts";
import { bitsFor } from "../data/token-store/bits.ts";
import {
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
import { writeFileAtomic } from "../runtime/files.ts";
import { decodeSafetensors, encodeSafetensors } from "../runtime/safetensors.ts";
import { type HostTensor, sizeOf, uint8 } from "../runtime/tensors.ts";
import { hostIds } from "../tokenizers/host.ts";
import type { Tokenizer } from "../tokenizers/tokenizer.ts";
import type { Experiment } from "./experiment.ts";
import type { OpenedRun } from "./open-run.ts";
import { getVariable, setVariable, valuesOf } from "./packing.ts";
import type { StopRequest } from "./signals.ts";
import { turn } from "./signals.ts";

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
  const info = describeStore(run, datasets, weights, options);
  openStore(options.store, info, weights);
  const encode = hostIds(run.device, run.tokenizer, "store-encode");
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
      await encodeShard(encode, run.tokenizer, datasets[split], info, split, shard, path, options.batch, stop); // biome-ignore format: one call
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
    splits: {
      train: describe(datasets.train, visits),
      validation: describe(datasets.validation, 1),
    },
  };
}

/** Begin a store, or make sure that the one that is there is of the same tokenizer and data. */
function openStore(store: string, info: StoreInfo, weights: Uint8Array): void {
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
  writeFileAtomic(path, text);
}

async function encodeShard(
  encode: ReturnType<typeof hostIds>,
  tokenizer: Tokenizer,
  dataset: Dataset,
  info: StoreInfo,
  split: StoreSplit,
  shard: number,
  path: string,
  batch: number,
  stop: StopRequest,
): Promise<void> {
  const first = shard * info.shard_clips;
  const size = Math.min(info.shard_clips, info.splits[split].clips - first);
  const ids = new Int32Array(size * info.length);
  const labels = new Int32Array(size);
  const clips: string[] = [];
  const captions: string[] = [];
  const { frames, height, width } = tokenizer.clip;
  const shape = [frames, height, width, 3];
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
    // A last, smaller batch is filled up with zeros: one shape, one compiled graph.
    const pixels = new Uint8Array(batch * sizeOf(shape));
    pixels.set(made.clips);
    const out = await encode(uint8([batch, ...shape], pixels));
    const values = out.data as Int32Array;
    ids.set(values.subarray(0, made.size * info.length), from * info.length);
    labels.set(made.labels, from);
    clips.push(...made.ids);
    captions.push(...made.captions);
    await turn();
    stop.check();
  }
  writeShard(path, info, { size, ids, labels, clips, captions });
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
