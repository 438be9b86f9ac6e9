/** @file Clips as words, for suites in which a language model writes: what stands for a clip, and what is written. */

import { UserError } from "../../config/errors.ts";
import type { Sample } from "../../data/dataset.ts";
import { checkClipShape, chooseClips, ClipStream } from "../clips.ts";
import type { EvalContext } from "../suite.ts";
import { tokenizerFunctions } from "../tokenize.ts";
import type { Pyramid } from "./decoders.ts";

/** A clip that may be shown or written. */
export interface Item {
  readonly sample: Sample;
  /** Ids and words of the written layers, frame by frame. */
  readonly ids: readonly number[];
  readonly words: readonly string[];
  /** Words that stand for the clip. */
  readonly told: readonly string[];
}

/** Which layers and latent frames are shown and written, and of which clips. */
export interface ItemsConfig {
  readonly layers: number;
  readonly told: number;
  readonly frames: number;
  readonly slice: number;
  readonly split: "train" | "validation";
  readonly clips: number;
  readonly seed: number;
}

export interface Items {
  readonly items: readonly Item[];
  /** All tokens of each clip. */
  readonly all: readonly Int32Array[];
  /** The word that each token is shown as. */
  readonly shown: readonly string[];
  readonly stream: ClipStream;
  readonly pyramid: Pyramid;
  /** Written tokens of a latent frame, and tokens that stand for one. */
  readonly perFrame: number;
  readonly toldPerFrame: number;
  /** The place in the clip of the f-th latent frame that is written. */
  frameOf(f: number): number;
}

/**
 * Encode the clips of a suite.
 * @param words the word of each token of the tokenizer's table
 * @throws UserError when the tokenizer's tokens are no words or it has fewer layers or frames
 */
export async function collectItems(
  config: ItemsConfig,
  context: EvalContext,
  words: (table: readonly string[]) => readonly string[],
): Promise<Items> {
  const { tokenizer } = context;
  const { lexical, grid } = tokenizer;
  if (!lexical?.words || !tokenizer.decodeLayers) {
    throw new UserError(
      "suite in-context-generation: the tokenizer's tokens are no words",
      "use a pyramid with a table of words (tokenizer.quantizer.type: spae, quantizer.words: FILE), or leave the suite out",
    );
  }
  const deepest = Math.max(config.layers, config.told);
  if (deepest > lexical.layers.length || config.frames > grid[0]) {
    throw new UserError(
      `suite in-context-generation: ${deepest} layers of ${config.frames} latent frames are asked for, the tokenizer has ${lexical.layers.length} layers and ${grid[0]} frames`,
      "lower `layers`, `told` or `frames`",
    );
  }
  const shown = words(lexical.words());
  const layers = lexical.layers.slice(0, config.layers);
  const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
  const perFrame = sum(layers);
  const toldPerFrame = sum(lexical.layers.slice(0, config.told));
  const wholeFrame = grid[1] * grid[2];
  const dataset = await context.dataset(config.split);
  checkClipShape(dataset, tokenizer.clip);
  const indices = chooseClips(dataset.size, config.clips, config.seed);
  const stream = new ClipStream(dataset, indices, context.batch);
  const { encode } = tokenizerFunctions(context.device, tokenizer);
  const frameOf = (f: number): number => Math.floor(((f + 0.5) * grid[0]) / config.frames);
  const items: Item[] = [];
  const all: Int32Array[] = [];
  for await (const batch of stream) {
    const { ids } = await encode(batch.clips);
    for (let i = 0; i < batch.size; i++) {
      const own = ids.slice(i * grid[0] * wholeFrame, (i + 1) * grid[0] * wholeFrame);
      const take = (n: number): number[] =>
        Array.from({ length: config.frames }, (_, f) => {
          const start = frameOf(f) * wholeFrame;
          return Array.from(own.subarray(start, start + n));
        }).flat();
      const sample = await dataset.get(indices[items.length]!, 0);
      items.push({
        sample,
        ids: take(perFrame),
        words: take(perFrame).map((id) => shown[id]!),
        told: take(toldPerFrame).map((id) => shown[id]!),
      });
      all.push(own);
    }
    context.progress("clips", items.length, indices.length);
  }
  const pyramid = { frames: config.frames, layers, slice: config.slice };
  return { items, all, shown, stream, pyramid, perFrame, toldPerFrame, frameOf };
}
