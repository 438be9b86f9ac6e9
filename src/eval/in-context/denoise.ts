/**
 * @file Denoising in context (SPAE, Yu et al., NeurIPS 2023, §3.3): queries whose tokens are replaced by random
 * words here and there, with examples that are corrupted more, the first most; what of them was written right; and
 * clips of the written layers.
 */

import { Random } from "../../runtime/random.ts";
import { int32 } from "../../runtime/tensors.ts";
import { hostDecoder } from "../../tokenizers/host.ts";
import { toBytes } from "../clips.ts";
import type { EvalContext } from "../suite.ts";
import type { Pair } from "./decoders.ts";
import type { Item, Items } from "./items.ts";

/** A clip's corrupted tokens, and examples of others' with what they should be. */
export interface DenoisingQuery {
  readonly examples: readonly Pair[];
  readonly noisy: readonly string[];
}

/**
 * A query for each item.
 * @param drawn other items for a query, among those that are alike
 */
export function denoisingQueries(
  config: {
    readonly seed: number;
    readonly corruption: number;
    readonly shots: number;
    readonly same: string;
  },
  items: readonly Item[],
  shown: readonly string[],
  drawn: (kind: string, query: number, same: (item: Item) => boolean) => readonly Item[],
): DenoisingQuery[] {
  const { seed, corruption, shots, same } = config;
  const corrupt = (words: readonly string[], level: number, random: Random): string[] =>
    words.map((word) => (random.uniform() < level ? random.choice(shown) : word));
  const key = ({ sample }: Item): unknown =>
    same === "label" ? sample.label : sample.factors?.[same];
  return items.map((item, q) => {
    const random = new Random(seed, "eval/in-context/noise", q);
    const noisy = corrupt(item.words, corruption, random);
    const alike = (other: Item): boolean => !same || key(other) === key(item);
    const examples = drawn("denoise", q, alike).map((other, k): Pair => {
      // The first example is corrupted most; the query least.
      const level = corruption + (0.5 * (1 - corruption) * (shots - k)) / (shots + 1);
      return { clean: other.words, noisy: corrupt(other.words, level, random) };
    });
    return { examples, noisy };
  });
}

/** How many written tokens are right, how many were corrupted, and how many of those are right again. */
export function compareTokens(
  items: readonly Item[],
  queries: readonly DenoisingQuery[],
  written: readonly (readonly string[])[],
): { readonly right: number; readonly repaired: number; readonly corrupted: number } {
  let [right, repaired, corrupted] = [0, 0, 0];
  for (const [i, words] of written.entries()) {
    for (const [k, word] of words.entries()) {
      const hit = Number(word === items[i]!.words[k]);
      right += hit;
      if (queries[i]!.noisy[k] !== items[i]!.words[k]) {
        corrupted++;
        repaired += hit;
      }
    }
  }
  return { right, repaired, corrupted };
}

/**
 * A function from written ids to clips: other latent frames keep their tokens, and the decoder sees the first
 * layers alone.
 */
export function layerDecoder(
  { device, tokenizer, batch }: Pick<EvalContext, "device" | "tokenizer" | "batch">,
  config: { readonly layers: number; readonly frames: number },
  { all, perFrame, frameOf }: Pick<Items, "all" | "perFrame" | "frameOf">,
): (written: readonly (readonly number[])[]) => Promise<Uint8Array[]> {
  const { grid } = tokenizer;
  const { frames, height, width } = tokenizer.clip;
  const decode = hostDecoder(
    device,
    { ...tokenizer, decode: (codes) => tokenizer.decodeLayers!(codes, config.layers) },
    "eval/in-context/layers",
  );
  return async (written) => {
    const values = frames * height * width * 3;
    const wholeFrame = grid[1] * grid[2];
    const length = grid[0] * wholeFrame;
    const clips: Uint8Array[] = [];
    for (let from = 0; from < written.length; from += batch) {
      const ids = new Int32Array(batch * length);
      for (let i = 0; i < batch; i++) {
        const at = Math.min(from + i, written.length - 1);
        ids.set(all[at]!, i * length);
        for (let f = 0; f < config.frames; f++) {
          const part = written[at]!.slice(f * perFrame, (f + 1) * perFrame);
          ids.set(part, i * length + frameOf(f) * wholeFrame);
        }
      }
      const made = await decode(int32([batch, ...grid, 1], ids));
      const pixels = toBytes(made.data as Float32Array);
      for (let i = 0; i < Math.min(batch, written.length - from); i++) {
        clips.push(pixels.slice(i * values, (i + 1) * values));
      }
    }
    return clips;
  };
}
