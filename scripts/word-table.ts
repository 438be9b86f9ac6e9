/**
 * @file `npx tsx scripts/word-table.ts OUT.safetensors [--clips N] [--width D]`: a vocabulary for SPAE's
 * pyramid from the captions of moving-shapes. `embeddings` [K, D] are fixed random vectors, one a word
 * (seeded by the word, so that equal words agree between tables); `image_space` [K, 64] is the mean
 * feature of the clips whose caption has the word, less the mean of all clips. The words themselves are
 * in the file's metadata.
 */

import { parseArgs } from "node:util";
import { Ajv } from "ajv";
import { datasetSchema, openDataset } from "../src/data/registry.ts";
import { stack } from "../src/data/loader.ts";
import { featureWidth } from "../src/models/features/moving-shapes-net.ts";
import { writeFileAtomic } from "../src/runtime/files.ts";
import { Random } from "../src/runtime/random.ts";
import { openDevice } from "../src/runtime/registry.ts";
import { encodeSafetensors } from "../src/runtime/safetensors.ts";
import { float32, uint8 } from "../src/runtime/tensors.ts";
import { imageSide } from "../src/tokenizers/semantic.ts";
import { toPixels } from "../src/trainers/tokenizer-stage.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    clips: { type: "string", default: "480" },
    width: { type: "string", default: "16" },
  },
});
const [out] = positionals;
if (out === undefined) {
  throw new Error("name the file to write: npx tsx scripts/word-table.ts words.safetensors");
}
const width = Number(values.width);
const clips = Math.ceil(Number(values.clips) / 12) * 12;
const config: unknown = { type: "moving-shapes", size: clips };
new Ajv({ strict: false, discriminator: true, useDefaults: true }).compile(datasetSchema)(config);
const dataset = await openDataset(config as Parameters<typeof openDataset>[0], "train", 0);
const device = await openDevice({ type: "cpu", engine: "onnx", threads: 0 });
const side = imageSide();
const features = device.compile("features", (inputs) => ({
  features: side(toPixels(inputs["clips"]!)),
}));

const sums = new Map<string, { sum: Float64Array; count: number }>();
const all = new Float64Array(featureWidth);
for (let first = 0; first < clips; first += 12) {
  const samples = await Promise.all(
    Array.from({ length: 12 }, (_, i) => dataset.get(first + i, 0)),
  );
  const { frames, height, width: w } = dataset;
  const batch = uint8([12, frames, height, w, 3], stack(samples).clips);
  const found = (await features({ clips: batch }))["features"]!.data;
  for (const [i, { caption }] of samples.entries()) {
    const row = Array.from(found.subarray(i * featureWidth, (i + 1) * featureWidth));
    row.forEach((v, d) => (all[d]! += v / clips));
    for (const word of new Set(caption.toLowerCase().match(/[a-z]+/g))) {
      const entry = sums.get(word) ?? { sum: new Float64Array(featureWidth), count: 0 };
      row.forEach((v, d) => (entry.sum[d]! += v));
      entry.count += 1;
      sums.set(word, entry);
    }
  }
}
const words = [...sums.keys()].sort();
const imageSpace = new Float32Array(words.length * featureWidth);
const embeddings = new Float32Array(words.length * width);
for (const [k, word] of words.entries()) {
  const { sum, count } = sums.get(word)!;
  imageSpace.set(
    sum.map((v, d) => v / count - all[d]!),
    k * featureWidth,
  );
  const vector = new Random(0, `word/${word}`).normals(width).map((v) => v / Math.sqrt(width));
  embeddings.set(vector, k * width);
}
const tensors = new Map([
  ["embeddings", float32([words.length, width], embeddings)],
  ["image_space", float32([words.length, featureWidth], imageSpace)],
]);
writeFileAtomic(out, encodeSafetensors({ tensors, metadata: { words: JSON.stringify(words) } }));
process.stdout.write(`${out}: ${words.length} words: ${words.join(" ")}\n`);
device.dispose();
await dataset.close();
