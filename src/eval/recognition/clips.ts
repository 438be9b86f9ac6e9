/** @file Clips as a reader of suite `recognition` and its masked prediction see them. */

import { UserError } from "../../config/errors.ts";
import type { Dataset } from "../../data/dataset.ts";
import { sizeOf } from "../../runtime/tensors.ts";
import { checkClipShape, ClipStream, chooseClips, toBytes } from "../clips.ts";
import type { EvalContext } from "../suite.ts";
import { tokenizerFunctions } from "../tokenize.ts";
import type { RecognitionConfig } from "./config.ts";
import type { Front, Reads, Rows, Target } from "./learn.ts";
import { type BlockGrid, blockValues, hogBlocks, hogValues, pixelBlocks } from "./targets.ts";

/** One set of clips as the reader and the pre-training see it. */
export interface ClipSet {
  readonly inputs: Rows;
  readonly targets: Rows | undefined;
  readonly labels: Int32Array;
  readonly stream: ClipStream;
}

/** Rows filled clip by clip. */
class RowWriter<T extends Float32Array | Int32Array | Uint8Array> {
  #at = 0;

  constructor(readonly data: T) {}

  add(values: ArrayLike<number>): void {
    this.data.set(values, this.#at);
    this.#at += values.length;
  }
}

/** Patches of one's own choice are of pixels, and divide the picture. */
export function checkPatches(
  { patches, reads, pretrain }: RecognitionConfig,
  name: string,
  { tokenizer: { clip, grid } }: EvalContext,
): void {
  if (patches === undefined || patches.join() === grid.join()) {
    return;
  }
  if (reads === "codes" || reads === "ids" || pretrain === "tokens") {
    throw new UserError(
      `tokens lie on a grid of ${grid.join("×")}, the reader is to have ${patches.join("×")} positions`,
      `leave evals.${name}.patches out`,
    );
  }
  const [t, h, w] = patches;
  if (t > clip.frames || clip.height % h !== 0 || clip.width % w !== 0) {
    throw new UserError(
      `a clip of ${clip.frames}×${clip.height}×${clip.width} does not divide into ${patches.join("×")} patches`,
      `set evals.${name}.patches to at most ${clip.frames} in time and to divisors of the sides`,
    );
  }
}

/** What the reader sees and is asked for, at each of its positions. */
export function shapesOf(
  config: RecognitionConfig,
  { tokenizer }: EvalContext,
): { positions: number; reads: Reads; target: Target | undefined; grid: BlockGrid } {
  const grid: BlockGrid = { ...tokenizer.clip, grid: config.patches ?? tokenizer.grid };
  const positions = grid.grid.reduce((product, side) => product * side, 1);
  const pixels = blockValues(grid);
  const { frames, height, width } = tokenizer.clip;
  const front: Front = {
    scope: tokenizer.scope,
    shape: [frames, height, width, 3],
    values: tokenizer.width,
    rate: config.tokenizer_rate,
    codes: (clips) => tokenizer.trainedCodes!(clips),
  };
  const reads: Reads =
    config.learns === "tokenizer"
      ? { kind: "clips", through: front }
      : config.reads === "codes"
        ? { kind: "vectors", values: tokenizer.width }
        : config.reads === "ids"
          ? { kind: "ids", factors: tokenizer.factors }
          : { kind: "pixels", values: pixels };
  const targets: { readonly [target in RecognitionConfig["pretrain"]]: Target | undefined } = {
    none: undefined,
    tokens: { kind: "ids", factors: tokenizer.factors },
    pixels: { kind: "vectors", values: pixels },
    hog: { kind: "vectors", values: hogValues },
  };
  return { positions, reads, target: targets[config.pretrain], grid };
}

export async function collect(
  config: RecognitionConfig,
  context: EvalContext,
  dataset: Dataset,
  count: number,
  visit: number,
  withTargets: boolean,
): Promise<ClipSet> {
  const { tokenizer, device } = context;
  checkClipShape(dataset, tokenizer.clip);
  const { positions, reads, target, grid } = shapesOf(config, context);
  const { encode, reconstruct } = tokenizerFunctions(device, tokenizer);
  const indices = chooseClips(dataset.size, count, config.seed);
  const stream = new ClipStream(dataset, indices, context.batch, visit);
  const n = indices.length;
  const inputs = emptyRows(reads, positions, n);
  const into = new RowWriter(inputs.data);
  const targets = withTargets && target ? emptyRows(target, positions, n) : undefined;
  const intoTargets = targets && new RowWriter(targets.data);
  const labels = new Int32Array(n);
  const clipValues = grid.frames * grid.height * grid.width * 3;
  let done = 0;
  for await (const batch of stream) {
    const needsCode =
      config.learns !== "tokenizer" &&
      (config.reads === "codes" || config.reads === "ids" || config.pretrain === "tokens");
    const tokens = needsCode ? await encode(batch.clips) : undefined;
    const decoded =
      config.reads === "reconstruction" ? toBytes(await reconstruct(batch.clips)) : undefined;
    for (let i = 0; i < batch.size; i++) {
      const part = <T extends { subarray(from: number, to: number): T }>(
        data: T,
        size: number,
      ): T => data.subarray(i * size, (i + 1) * size);
      const clip = part(batch.clips.data as Uint8Array, clipValues);
      const ids = (): Int32Array => part(tokens!.ids, positions * tokenizer.factors.length);
      switch (config.learns === "tokenizer" ? "clips" : config.reads) {
        case "clips":
          into.add(clip);
          break;
        case "codes":
          into.add(part(tokens!.codes, positions * tokenizer.width));
          break;
        case "ids":
          into.add(ids());
          break;
        case "reconstruction":
          into.add(pixelBlocks(part(decoded!, clipValues), grid));
          break;
        case "pixels":
          into.add(pixelBlocks(clip, grid));
          break;
      }
      if (intoTargets) {
        intoTargets.add(
          config.pretrain === "tokens"
            ? ids()
            : config.pretrain === "hog"
              ? hogBlocks(clip, grid)
              : normalised(pixelBlocks(clip, grid), positions),
        );
      }
      labels[done + i] = batch.labels[i]!;
    }
    done += batch.size;
    context.progress(`${dataset.split} clips`, done, n);
  }
  return { inputs, targets, labels, stream };
}

/** Pixels of each position with mean 0 and deviation 1 (MAE's normalised targets). */
function normalised(blocks: Uint8Array, positions: number): Float32Array {
  const values = blocks.length / positions;
  const out = new Float32Array(blocks.length);
  for (let from = 0; from < blocks.length; from += values) {
    const block = blocks.subarray(from, from + values);
    const mean = block.reduce((sum, value) => sum + value, 0) / values;
    const squares = block.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values;
    const scale = 1 / Math.sqrt(squares + 1);
    block.forEach((value, i) => {
      out[from + i] = (value - mean) * scale;
    });
  }
  return out;
}

function emptyRows(of: Reads | Target, positions: number, count: number): Rows {
  switch (of.kind) {
    case "ids": {
      const shape = [positions, of.factors.length];
      return { dtype: "int32", shape, data: new Int32Array(count * positions * of.factors.length) };
    }
    case "pixels": {
      const shape = [positions, of.values];
      return { dtype: "uint8", shape, data: new Uint8Array(count * positions * of.values) };
    }
    case "clips": {
      const { shape } = of.through;
      return { dtype: "uint8", shape, data: new Uint8Array(count * sizeOf(shape)) };
    }
    case "vectors": {
      const shape = [positions, of.values];
      return { dtype: "float32", shape, data: new Float32Array(count * positions * of.values) };
    }
  }
}

/** Rows of some clips. */
export function rowsAt(rows: Rows, indices: readonly number[]): Rows {
  const size = rows.shape.reduce((product, side) => product * side, 1);
  const data = rows.data.slice(0, indices.length * size);
  indices.forEach((index, i) => {
    data.set(rows.data.subarray(index * size, (index + 1) * size) as never, i * size);
  });
  return { ...rows, data };
}
