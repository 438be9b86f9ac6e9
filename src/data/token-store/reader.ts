/**
 * @file Reading rows of a token store at random. Packed ids lie in memory while the split fits the
 * budget; a larger split is read row by row from its files, which the system's page cache keeps.
 */

import { closeSync, existsSync, openSync, readFileSync, readSync } from "node:fs";
import { UserError } from "../../config/errors.ts";
import { unpack, wordsFor } from "./bits.ts";
import {
  placesPath,
  readShard,
  readStoreInfo,
  type ShardPlaces,
  shardCount,
  shardPath,
  type StoreInfo,
  type StoreSplit,
} from "./format.ts";

interface Shard extends ShardPlaces {
  readonly path: string;
  /** Packed ids in memory. */
  readonly words?: Uint32Array;
  /** Open file, when they are not. */
  file?: number;
}

/** Files that stay open at a time. */
const OPEN_FILES = 256;

/** One split of a store. Close it. */
export class TokenStore {
  readonly info: StoreInfo;
  readonly split: StoreSplit;
  readonly size: number;
  /** Sub-ids of a clip. */
  readonly length: number;
  /** [size]; -1 without a class. */
  readonly labels: Int32Array;
  readonly #bits: number;
  readonly #shards: Shard[] = [];
  readonly #open: Shard[] = [];
  readonly #words: number;
  readonly #scratch: Uint32Array;
  readonly #scratchBytes: Uint8Array;

  /**
   * @param options.memory bytes of packed ids that may lie in memory; default 1 GiB
   * @param options.companion the ids to read, when not the clips' own
   * @throws UserError when the folder is no store, has no such companion, or shards are missing
   */
  constructor(
    store: string,
    split: StoreSplit,
    options: { readonly memory?: number; readonly companion?: string } = {},
  ) {
    this.info = readStoreInfo(store);
    const { companion } = options;
    const ids = companion === undefined ? this.info : this.info.companions?.[companion];
    if (!ids) {
      throw new UserError(
        `${store} holds no tokens of ${companion}`,
        `It holds those of ${["the clips", ...Object.keys(this.info.companions ?? {})].join(", ")}. \`tessera data tokenize RUN objective=... --out STORE\` makes those that an objective needs.`,
      );
    }
    this.split = split;
    this.size = this.info.splits[split].clips;
    this.length = ids.length;
    this.#bits = ids.bits;
    this.labels = new Int32Array(this.size);
    this.#words = wordsFor(this.length, this.#bits);
    this.#scratch = new Uint32Array(this.#words);
    this.#scratchBytes = new Uint8Array(this.#scratch.buffer);
    const fits = this.size * this.#words * 4 <= (options.memory ?? 2 ** 30);
    const count = shardCount(this.info, split);
    const paths = Array.from({ length: count }, (_, i) => shardPath(store, split, i, companion));
    const missing = paths.filter((path) => !existsSync(path));
    if (missing.length > 0) {
      throw new UserError(
        `${store}: ${missing.length} of ${count} shards of the ${split} split are missing`,
        "`tessera data tokenize` with the same arguments goes on from there.",
      );
    }
    for (const [i, path] of paths.entries()) {
      this.#addShard(path, i, fits);
    }
  }

  #addShard(path: string, index: number, fits: boolean): void {
    const places = JSON.parse(readFileSync(placesPath(path), "utf8")) as ShardPlaces;
    const first = index * this.info.shard_clips;
    const bytes = new Uint8Array(places.rows * 4);
    const file = openSync(path, "r");
    try {
      readWhole(file, bytes, places.labels_at, path);
      this.labels.set(new Int32Array(bytes.buffer), first);
      if (fits) {
        const words = new Uint32Array(places.rows * this.#words);
        readWhole(file, new Uint8Array(words.buffer), places.ids_at, path);
        this.#shards.push({ ...places, path, words });
      } else {
        this.#shards.push({ ...places, path });
      }
    } finally {
      closeSync(file);
    }
  }

  /** Unpack a row's ids into `out[to]` and on. */
  read(row: number, out: Int32Array, to: number): void {
    const each = this.info.shard_clips;
    const shard = this.#shards[Math.floor(row / each)]!;
    const within = row % each;
    if (shard.words) {
      unpack(shard.words, within * this.#words, this.length, this.#bits, out, to);
      return;
    }
    const at = shard.ids_at + within * this.#words * 4;
    readWhole(this.#fileOf(shard), this.#scratchBytes, at, shard.path);
    unpack(this.#scratch, 0, this.length, this.#bits, out, to);
  }

  /** The ids of some rows, [rows, length]. */
  rows(rows: ArrayLike<number>): Int32Array {
    // Every value is written: no need to fill it with zeros first.
    const out = new Int32Array(Buffer.allocUnsafeSlow(rows.length * this.length * 4).buffer);
    for (let i = 0; i < rows.length; i++) {
      this.read(rows[i]!, out, i * this.length);
    }
    return out;
  }

  /** The names of all clips (file and span) and their captions. */
  texts(): { readonly clips: readonly string[]; readonly captions: readonly string[] } {
    const shards = this.#shards.map(({ path }) => readShard(path));
    return {
      clips: shards.flatMap(({ clips }) => clips),
      captions: shards.flatMap(({ captions }) => captions),
    };
  }

  #fileOf(shard: Shard): number {
    if (shard.file === undefined) {
      if (this.#open.length >= OPEN_FILES) {
        closeShard(this.#open.shift()!);
      }
      shard.file = openSync(shard.path, "r");
      this.#open.push(shard);
    }
    return shard.file;
  }

  close(): void {
    for (const shard of this.#open.splice(0)) {
      closeShard(shard);
    }
  }
}

function closeShard(shard: Shard): void {
  closeSync(shard.file!);
  delete shard.file;
}

function readWhole(file: number, bytes: Uint8Array, at: number, path: string): void {
  for (let done = 0; done < bytes.length; ) {
    const read = readSync(file, bytes, done, bytes.length - done, at + done);
    if (read === 0) {
      throw new UserError(`${path} ends early`, "Delete it and run `tessera data tokenize` again.");
    }
    done += read;
  }
}
