/**
 * @file A token store on disk: a folder with `store.json` (what was encoded by what), the
 * tokenizer's weights, and for each split Apache Arrow files of a fixed number of clips:
 *
 *   train/shard-00000.arrow   clip (utf8), label (int32), caption (utf8), ids (fixed-size binary)
 *   train/shard-00000.json    where the ids and labels lie in it, for reading single rows
 *
 * Other ids of the same clips (of clips changed for a task, of their sound) are companions: folders
 * `train.FP` and so on of the same form, row by row the same clips.
 *
 * A shard that is there is whole (it is written aside and renamed), so interrupted and parallel
 * writers need no other record. Ids are packed to the bits of the vocabulary (bits.ts).
 */

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import {
  Field,
  FixedSizeBinary,
  Int32,
  makeData,
  RecordBatch,
  Schema,
  Struct,
  Table,
  tableFromIPC,
  tableToIPC,
  Utf8,
  vectorFromArray,
} from "apache-arrow";
import { UserError } from "../../config/errors.ts";
import { writeFileAtomic } from "../../runtime/files.ts";
import { pack, wordsFor } from "./bits.ts";

export const FORMAT = "tessera-tokens-1";

export type StoreSplit = "train" | "validation";

/** Other ids that stand beside the clips' own. */
export interface Companion {
  /** Bits of an id. */
  readonly bits: number;
  /** Ids of a clip. */
  readonly length: number;
  /** What they are made by. */
  readonly made: { readonly [option: string]: unknown };
}

/** store.json. Two stores of equal content have equal files. */
export interface StoreInfo {
  readonly format: typeof FORMAT;
  readonly tokenizer: {
    /** SHA-256 over the tokenizer's config and weights. */
    readonly hash: string;
    /** Latent grid [t, h, w]. */
    readonly grid: readonly number[];
    /** Sizes of the sub-vocabularies. */
    readonly factors: readonly number[];
    /** Shape of the clips that it encodes. */
    readonly clip: { readonly frames: number; readonly height: number; readonly width: number };
  };
  /** Bits of a sub-id. */
  readonly bits: number;
  /** Sub-ids of a clip: t·h·w·F. */
  readonly length: number;
  /** Clips of a shard; the last has the rest. */
  readonly shard_clips: number;
  readonly classes: readonly string[];
  readonly fps: number;
  /** Samples a second of the clips' sound, where they have any. */
  readonly audio_rate?: number;
  /** By name: a change of the clips, or `audio`. */
  readonly companions?: { readonly [name: string]: Companion };
  readonly splits: { readonly [split in StoreSplit]: StoreSplitInfo };
}

export interface StoreSplitInfo {
  readonly clips: number;
  /** Times that the split was gone through, each with other random crops and places. */
  readonly visits: number;
  readonly fingerprint: string;
  /** How its clips were cut. */
  readonly sampling?: { readonly [choice: string]: unknown };
}

/** Where a shard's columns lie in its file. */
export interface ShardPlaces {
  readonly rows: number;
  /** Byte offset of the first row's ids. */
  readonly ids_at: number;
  readonly labels_at: number;
}

/** Rows of a store before they are packed. */
export interface TokenRows {
  readonly size: number;
  /** [size, length] */
  readonly ids: ArrayLike<number>;
  readonly labels: Int32Array;
  readonly clips: readonly string[];
  readonly captions: readonly string[];
}

export function shardCount({ splits, shard_clips }: StoreInfo, split: StoreSplit): number {
  return Math.ceil(splits[split].clips / shard_clips);
}

export function shardPath(
  store: string,
  split: StoreSplit,
  shard: number,
  companion?: string,
): string {
  const folder = companion === undefined ? split : `${split}.${companion}`;
  return join(store, folder, `shard-${String(shard).padStart(5, "0")}.arrow`);
}

export function placesPath(arrow: string): string {
  return arrow.replace(/\.arrow$/, ".json");
}

/** Read store.json. @throws UserError when there is none, or one of another format */
export function readStoreInfo(store: string): StoreInfo {
  const path = join(store, "store.json");
  if (!existsSync(path)) {
    throw new UserError(
      `${store} is no token store: it has no store.json`,
      "`tessera data tokenize RUN --out STORE` makes one.",
    );
  }
  const info = JSON.parse(readFileSync(path, "utf8")) as StoreInfo;
  const format: string = info.format;
  if (format !== FORMAT) {
    throw new UserError(`${path} is of format ${format}, expected ${FORMAT}`, "Make the store again."); // biome-ignore format: one call
  }
  return info;
}

/**
 * Write one shard.
 * @param ids the companion's, when it is not the clips' own
 * @throws RangeError when an id is not of the vocabulary
 */
export function writeShard(
  path: string,
  info: StoreInfo,
  rows: TokenRows,
  { bits, length }: Pick<Companion, "bits" | "length"> = info,
): void {
  const words = wordsFor(length, bits);
  const packed = new Uint32Array(rows.size * words);
  for (let row = 0; row < rows.size; row++) {
    pack(rows.ids, row * length, length, bits, packed, row * words);
  }
  const type = new FixedSizeBinary(words * 4);
  const children = [
    vectorFromArray(rows.clips, new Utf8()).data[0]!,
    makeData({ type: new Int32(), length: rows.size, data: rows.labels }),
    vectorFromArray(rows.captions, new Utf8()).data[0]!,
    makeData({ type, length: rows.size, data: new Uint8Array(packed.buffer) }),
  ];
  const { grid, factors, hash } = info.tokenizer;
  const about = { tokenizer: hash, grid, factors, bits, length };
  const schema = new Schema(
    [
      new Field("clip", new Utf8(), false),
      new Field("label", new Int32(), false),
      new Field("caption", new Utf8(), false),
      new Field("ids", type, false),
    ],
    new Map(Object.entries(about).map(([key, value]) => [key, typeof value === "string" ? value : JSON.stringify(value)])), // biome-ignore format: one map
  );
  const struct = makeData({ type: new Struct(schema.fields), length: rows.size, children });
  const bytes = tableToIPC(new Table(schema, [new RecordBatch(schema, struct)]), "file");
  // Where the columns came to lie is read off the file itself.
  const table = tableFromIPC(bytes);
  const offsetOf = (name: string): number => {
    const { values } = table.getChild(name)!.data[0]!;
    return (values as Uint8Array).byteOffset - bytes.byteOffset;
  };
  const places: ShardPlaces = {
    rows: rows.size,
    ids_at: offsetOf("ids"),
    labels_at: offsetOf("label"),
  };
  writeFileAtomic(placesPath(path), `${JSON.stringify(places)}\n`);
  writeFileAtomic(path, bytes);
}

/** The text columns of a shard, and its ids as they are packed. */
export function readShard(path: string): {
  readonly clips: readonly string[];
  readonly captions: readonly string[];
  readonly labels: Int32Array;
  readonly words: Uint32Array;
  readonly metadata: ReadonlyMap<string, string>;
} {
  const table = tableFromIPC(readFileSync(path));
  const values = table.getChild("ids")!.data[0]!.values as Uint8Array;
  return {
    clips: Array.from(table.getChild("clip")!, String),
    captions: Array.from(table.getChild("caption")!, String),
    labels: Int32Array.from(table.getChild("label")!.data[0]!.values as Int32Array),
    words: new Uint32Array(values.slice().buffer),
    metadata: table.schema.metadata,
  };
}
