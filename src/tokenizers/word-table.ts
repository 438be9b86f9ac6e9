/**
 * @file A vocabulary for SPAE's pyramid from a data set's captions, for want of a language model's
 * embeddings beside CLIP's. `embeddings` [K, D] are fixed random vectors, one a word (seeded by the word,
 * so that equal words agree between tables); `image_space` [K, 64] is the mean feature of the clips whose
 * caption has the word, less the mean of all clips. The words themselves are in the file's metadata.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import type { Dataset } from "../data/dataset.ts";
import { stack } from "../data/loader.ts";
import { featureWidth } from "../models/features/moving-shapes-net.ts";
import { wordsOf } from "../models/text-lm.ts";
import type { Device } from "../runtime/device.ts";
import { Random } from "../runtime/random.ts";
import { encodeSafetensors } from "../runtime/safetensors.ts";
import { float32, uint8 } from "../runtime/tensors.ts";
import { imageSide } from "./semantic.ts";

const BATCH = 12;

/** The table as a safetensors file, and its words by id. */
export interface WordTable {
  readonly file: Uint8Array;
  readonly words: readonly string[];
}

/**
 * @param clips how many of the set's clips are looked at, from its beginning; all when there are fewer
 * @param width channels of an embedding
 * @throws UserError when the clips have no captions
 */
export async function makeWordTable(
  dataset: Dataset,
  device: Device,
  { clips, width }: { readonly clips: number; readonly width: number },
): Promise<WordTable> {
  device.activate();
  const side = imageSide();
  const features = device.compile("word-table/features", (inputs) => ({
    features: side(
      tf.sub(tf.mul(tf.cast(inputs["clips"]!, "float32"), 1 / 127.5), 1) as tf.Tensor5D,
    ),
  }));
  const count = Math.min(clips, dataset.size);
  const { frames, height, width: across } = dataset;
  const sums = new Map<string, { sum: Float64Array; count: number }>();
  const all = new Float64Array(featureWidth);
  for (let first = 0; first < count; first += BATCH) {
    const size = Math.min(BATCH, count - first);
    const samples = await Promise.all(
      Array.from({ length: BATCH }, (_, i) => dataset.get(first + Math.min(i, size - 1), 0)),
    );
    const batch = uint8([BATCH, frames, height, across, 3], stack(samples).clips);
    const found = (await features({ clips: batch }))["features"]!.data;
    for (const [i, { caption }] of samples.slice(0, size).entries()) {
      const row = Array.from(found.subarray(i * featureWidth, (i + 1) * featureWidth));
      row.forEach((v, d) => (all[d]! += v / count));
      for (const word of new Set(wordsOf(caption))) {
        const entry = sums.get(word) ?? { sum: new Float64Array(featureWidth), count: 0 };
        row.forEach((v, d) => (entry.sum[d]! += v));
        entry.count += 1;
        sums.set(word, entry);
      }
    }
  }
  const words = [...sums.keys()].sort();
  if (words.length < 2) {
    throw new UserError(
      `clips of ${dataset.type} have no captions to take words from`,
      "use a data set with captions",
    );
  }
  const imageSpace = new Float32Array(words.length * featureWidth);
  const embeddings = new Float32Array(words.length * width);
  for (const [k, word] of words.entries()) {
    const { sum, count: times } = sums.get(word)!;
    imageSpace.set(
      sum.map((v, d) => v / times - all[d]!),
      k * featureWidth,
    );
    const vector = new Random(0, `word/${word}`).normals(width).map((v) => v / Math.sqrt(width));
    embeddings.set(vector, k * width);
  }
  const tensors = new Map([
    ["embeddings", float32([words.length, width], embeddings)],
    ["image_space", float32([words.length, featureWidth], imageSpace)],
  ]);
  return {
    file: encodeSafetensors({ tensors, metadata: { words: JSON.stringify(words) } }),
    words,
  };
}
