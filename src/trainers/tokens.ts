/**
 * @file The second stage: the tokens of all clips, computed once and kept as Apache Arrow IPC files
 * (tokens/train.arrow, tokens/validation.arrow), one row a clip. Continuous latents stand beside the ids as they are,
 * not normalised. While a split is being encoded its
 * finished pieces lie beside as files of their own, so an interruption loses one piece at most.
 */

import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import {
  Field,
  FixedSizeList,
  Float32,
  Int32,
  makeData,
  RecordBatch,
  Schema,
  Struct,
  Table,
  tableFromIPC,
  tableToIPC,
  Uint16,
  Utf8,
  vectorFromArray,
} from "apache-arrow";
import { UserError } from "../config/errors.ts";
import type { Dataset } from "../data/dataset.ts";
import { type Batch, onePass } from "../data/loader.ts";
import type { TokenBatch } from "../objectives/objective.ts";
import { writeFileAtomic } from "../runtime/files.ts";
import { type HostTensor, sizeOf, uint8 } from "../runtime/tensors.ts";
import { hostEncoder, hostIds } from "../tokenizers/host.ts";
import type { Tokenizer } from "../tokenizers/tokenizer.ts";
import { removeTemporaries } from "./checkpoint.ts";
import type { RunContext, Split } from "./context.ts";
import { turn } from "./signals.ts";
import { soundInput } from "./tokenizer-stage.ts";

/** Clips a piece. */
const PIECE = 1024;

/** The tokens of one split in memory. */
export interface TokenCache {
  readonly size: number;
  /** Sub-ids a clip: t·h·w·F. */
  readonly length: number;
  /** [size, length] */
  readonly ids: Uint16Array;
  /** Latents t·h·w·C a clip, where the tokenizer's are continuous. */
  readonly codes?: Float32Array;
  /** [size]; -1 without a class. */
  readonly labels: Int32Array;
  /** The ids of some rows, [rows, length], where that is faster than to unpack all. */
  rows?(rows: Uint32Array): Int32Array;
}

interface Rows extends TokenCache {
  readonly clips: readonly string[];
  readonly captions: readonly string[];
}

/** The ids of one row. */
export function rowOf(cache: TokenCache, row: number): ArrayLike<number> {
  return cache.rows
    ? cache.rows(Uint32Array.of(row))
    : cache.ids.subarray(row * cache.length, (row + 1) * cache.length);
}

/** The batch of some rows. */
export function tokenBatch(cache: TokenCache, rows: Uint32Array): TokenBatch {
  const labels = Int32Array.from(rows, (row) => cache.labels[row]!);
  if (cache.rows) {
    return { ids: cache.rows(rows), labels, size: rows.length };
  }
  const { codes: all } = cache;
  const width = (all?.length ?? 0) / Math.max(1, cache.size);
  const codes = all && new Float32Array(rows.length * width);
  const ids = new Int32Array(rows.length * cache.length);
  for (const [i, row] of rows.entries()) {
    ids.set(cache.ids.subarray(row * cache.length, (row + 1) * cache.length), i * cache.length);
    codes?.set(all!.subarray(row * width, (row + 1) * width), i * width);
  }
  return { ids, labels, size: rows.length, ...(codes && { codes }) };
}

/**
 * Mean and standard deviation of each channel over all latents of a cache, [width] each. A channel that
 * never changes has a deviation of 1.
 */
export function latentStatistics(
  { codes }: Pick<TokenCache, "codes">,
  width: number,
): { readonly mean: Float32Array; readonly deviation: Float32Array } {
  if (codes === undefined || codes.length === 0) {
    throw new UserError(
      "the cached tokens hold no latents",
      "delete the run's tokens folder to make it again",
    );
  }
  const count = codes.length / width;
  const mean = new Float64Array(width);
  const square = new Float64Array(width);
  codes.forEach((value, i) => (mean[i % width]! += value / count));
  codes.forEach((value, i) => (square[i % width]! += (value - mean[i % width]!) ** 2 / count));
  const deviation = Float32Array.from(square, (v) => (v > 1e-12 ? Math.sqrt(v) : 1));
  return { mean: Float32Array.from(mean), deviation };
}

/** The path of a split's cache, or of a variant's: the clips changed before they are encoded. */
export function tokensPath(runDir: string, split: Split, variant?: string): string {
  return join(runDir, "tokens", `${split}${variant === undefined ? "" : `.${variant}`}.arrow`);
}

/** Read a cache of tokens. */
export function readTokens(path: string): TokenCache {
  return decodeRows(readFileSync(path));
}

/** The captions of a cache's rows. */
export function captionsOf(path: string): readonly string[] {
  return decodeRows(readFileSync(path)).captions;
}

/** Write a cache whose rows go by another's names. */
export function writeTokens(path: string, cache: TokenCache): void {
  const names = Array<string>(cache.size).fill("");
  writeFileAtomic(path, encodeRows({ ...cache, clips: names, captions: names }));
}

/**
 * Make sure that a split's cache exists.
 * @param options clips at a time, and how many of the split in all
 * @throws Interrupted between two pieces when a stop was asked for
 */
export async function cacheTokens(
  run: Pick<RunContext, "dir" | "device" | "stop">,
  tokenizer: Tokenizer,
  dataset: Dataset,
  options: {
    readonly batch: number;
    readonly clips: number;
    /** A cache beside the clips' own: what `apply` makes of a clip [T, H, W, 3] is encoded. */
    readonly variant?: { readonly name: string; apply(clip: Uint8Array): Uint8Array };
  },
  onProgress: (done: number) => void,
): Promise<void> {
  const { variant } = options;
  const path = tokensPath(run.dir, dataset.split, variant?.name);
  if (existsSync(path)) {
    return;
  }
  const pieces = path.replace(/\.arrow$/, ".pieces");
  mkdirSync(pieces, { recursive: true });
  removeTemporaries(pieces);
  const encode = tokenizer.continuous
    ? hostEncoder(run.device, tokenizer, "tokens-encode")
    : idsOnly(hostIds(run.device, tokenizer, "tokens-encode"));
  const files: string[] = [];
  for (let first = 0; first < options.clips; first += PIECE) {
    const file = join(pieces, `${String(first).padStart(9, "0")}.arrow`);
    files.push(file);
    const end = Math.min(first + PIECE, options.clips);
    if (!existsSync(file)) {
      const parts: Rows[] = [];
      const slice = sliceOf(dataset, first, end);
      for await (const batch of onePass(slice, { batch: options.batch })) {
        const shown = variant ? changed(batch, (clip) => variant.apply(clip)) : batch;
        parts.push(await encodeBatch(encode, tokenizer, shown, options.batch));
        run.stop.check();
        await turn();
      }
      writeFileAtomic(file, encodeRows(concatRows(parts)));
    }
    onProgress(end);
  }
  writeFileAtomic(
    path,
    encodeRows(concatRows(files.map((file) => decodeRows(readFileSync(file))))),
  );
  rmSync(pieces, { recursive: true, force: true });
}

type Encode = (clips: HostTensor) => Promise<{ ids: HostTensor; codes?: HostTensor }>;

const idsOnly =
  (encode: ReturnType<typeof hostIds>): Encode =>
  async (clips) => ({ ids: await encode(clips) });

async function encodeBatch(
  encode: Encode,
  { clip, grid, factors, modality, width }: Tokenizer,
  batch: Batch,
  size: number,
): Promise<Rows> {
  // A last, smaller batch is filled up with zeros: one shape, one compiled graph.
  const shape = [clip.frames, clip.height, clip.width, 3];
  const clips = new Uint8Array(size * sizeOf(shape));
  clips.set(batch.clips);
  const input =
    modality === "audio"
      ? soundInput(batch.audio, clip.samples ?? 0, size)
      : uint8([size, ...shape], clips);
  const { ids, codes } = await encode(input);
  const length = sizeOf(grid) * factors.length;
  return {
    size: batch.size,
    length,
    ids: Uint16Array.from((ids.data as Int32Array).subarray(0, batch.size * length)),
    ...(codes && {
      codes: Float32Array.from(
        (codes.data as Float32Array).subarray(0, batch.size * sizeOf(grid) * width),
      ),
    }),
    labels: batch.labels,
    clips: batch.ids,
    captions: batch.captions,
  };
}

/** A batch whose clips are changed one by one. */
export function changed(batch: Batch, apply: (clip: Uint8Array) => Uint8Array): Batch {
  const clips = new Uint8Array(batch.clips.length);
  const length = batch.clips.length / batch.size;
  for (let i = 0; i < batch.size; i++) {
    clips.set(apply(batch.clips.subarray(i * length, (i + 1) * length)), i * length);
  }
  return { ...batch, clips };
}

/** Items first..end-1 of a data set. */
function sliceOf(dataset: Dataset, first: number, end: number): Dataset {
  return {
    type: dataset.type,
    split: dataset.split,
    size: end - first,
    frames: dataset.frames,
    height: dataset.height,
    width: dataset.width,
    fps: dataset.fps,
    audioRate: dataset.audioRate,
    classes: dataset.classes,
    fingerprint: dataset.fingerprint,
    get: (index, visit, into) => dataset.get(first + index, visit, into),
    close: () => Promise.resolve(),
  };
}

function concatRows(parts: readonly Rows[]): Rows {
  const length = parts[0]?.length ?? 0;
  const size = parts.reduce((sum, part) => sum + part.size, 0);
  const ids = new Uint16Array(size * length);
  const labels = new Int32Array(size);
  const width = (parts[0]?.codes?.length ?? 0) / (parts[0]?.size ?? 1);
  const codes = width > 0 ? new Float32Array(size * width) : undefined;
  let row = 0;
  for (const part of parts) {
    ids.set(part.ids, row * length);
    labels.set(part.labels, row);
    if (part.codes) {
      codes?.set(part.codes, row * width);
    }
    row += part.size;
  }
  return {
    size,
    length,
    ids,
    ...(codes && { codes }),
    labels,
    clips: parts.flatMap((part) => part.clips),
    captions: parts.flatMap((part) => part.captions),
  };
}

/**
 * An Arrow IPC file: clip (utf8), label (int32), caption (utf8), ids (fixed-size list of uint16) and,
 * for continuous latents, codes (fixed-size list of float32).
 */
function encodeRows({ size, length, ids, codes, labels, clips, captions }: Rows): Uint8Array {
  const clip = vectorFromArray(clips, new Utf8()).data[0]!;
  const caption = vectorFromArray(captions, new Utf8()).data[0]!;
  const label = makeData({ type: new Int32(), length: size, data: labels });
  const values = makeData({ type: new Uint16(), length: ids.length, data: ids });
  const listType = new FixedSizeList(length, new Field("item", new Uint16(), false));
  const list = makeData({ type: listType, length: size, child: values });
  const width = codes ? codes.length / Math.max(1, size) : 0;
  const codesType = new FixedSizeList(width, new Field("item", new Float32(), false));
  const schema = new Schema([
    new Field("clip", new Utf8(), false),
    new Field("label", new Int32(), false),
    new Field("caption", new Utf8(), false),
    new Field("ids", listType, false),
    ...(codes ? [new Field("codes", codesType, false)] : []),
  ]);
  const struct = makeData({
    type: new Struct(schema.fields),
    length: size,
    children: [clip, label, caption, list, ...(codes ? [floatList(codesType, size, codes)] : [])],
  });
  return tableToIPC(new Table(schema, [new RecordBatch(schema, struct)]), "file");
}

function floatList(type: FixedSizeList<Float32>, size: number, data: Float32Array) {
  const child = makeData({ type: new Float32(), length: data.length, data });
  return makeData({ type, length: size, child });
}

function decodeRows(bytes: Uint8Array): Rows {
  const table = tableFromIPC(bytes);
  const list = table.getChild("ids")?.data[0];
  const labels = table.getChild("label")?.data[0]?.values as Int32Array | undefined;
  if (!list || !labels) {
    throw new UserError(
      "a file of cached tokens has no columns `ids` and `label`",
      "delete the run's tokens folder to make it again",
    );
  }
  const { listSize } = list.type as FixedSizeList;
  const ids = list.children[0]!.values as Uint16Array;
  const latents = table.getChild("codes")?.data[0];
  const codes = latents?.children[0]!.values as Float32Array | undefined;
  const width = latents ? (latents.type as FixedSizeList).listSize : 0;
  return {
    size: table.numRows,
    length: listSize,
    ids: ids.subarray(0, table.numRows * listSize),
    ...(codes && { codes: codes.subarray(0, table.numRows * width) }),
    labels: labels.subarray(0, table.numRows),
    clips: Array.from(table.getChild("clip")!, String),
    captions: Array.from(table.getChild("caption")!, String),
  };
}
