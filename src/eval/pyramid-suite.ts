/**
 * @file Suite `pyramid`: what each layer of a lexical pyramid carries (SPAE, Yu et al., NeurIPS 2023, §4:
 * early layers hold what is shown, late ones how it looks). For every n, from the first n layers alone:
 *
 * - PSNR of the decoded clip;
 * - how well a linear classifier reads a factor of the clip (its colour, its shape, its label) off which
 *   words occur;
 *
 * and for each layer by itself the share of its tokens whose word stands in the clip's caption.
 */

import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import { wordsOf } from "../models/text-lm.ts";
import { float32 } from "../runtime/tensors.ts";
import type { Tokenizer } from "../tokenizers/tokenizer.ts";
import { checkClipShape, ClipStream, chooseClips, clipKeys, toBytes } from "./clips.ts";
import { chanceLevel, fitProbe, type ProbeData, probeAccuracy } from "./probe.ts";
import { clipChoices, type Measured, type ProtocolName, score } from "./protocols.ts";
import { frameErrors, psnrPerFrame } from "./psnr.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";
import { tokenizerFunctions } from "./tokenize.ts";

export const schema = closed(
  {
    type: Type.Literal("pyramid"),
    targets: Type.Array(Type.String({ minLength: 1 }), {
      default: ["label"],
      uniqueItems: true,
      description:
        "What classifiers read: `label` (the data set's classes) or factors of procedural clips whose values are words (`shape`, `colour`, `motion`). May be empty.",
    }),
    train_clips: Type.Integer({
      minimum: 10,
      default: 480,
      description: "Clips of the train split that fit the classifiers; all when there are fewer.",
    }),
    ...clipKeys,
  },
  { description: "Reconstruction and meaning of a pyramid's layers." },
);

export type PyramidConfig = Static<typeof schema>;

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: PyramidConfig, name: string): Suite {
  return { type: config.type, run: (context) => run(config, name, context) };
}

/** The most words that histograms are made of, to bound time and memory. */
const maxWords = 1024;

/** What a clip's tokens say. */
interface Item {
  /** [layers · K]: how often each word occurs in each layer, as a share of the layer's tokens. */
  readonly histogram: Float64Array;
  /** By target. */
  readonly names: readonly string[];
}

interface Collected {
  readonly items: readonly Item[];
  readonly stream: ClipStream;
}

/** A target's value in words. */
function valueOf(
  target: string,
  classes: readonly string[],
  sample: { readonly label: number; readonly factors?: { readonly [name: string]: unknown } },
): string {
  const value = target === "label" ? classes[sample.label] : sample.factors?.[target];
  if (typeof value !== "string") {
    throw new UserError(
      `suite pyramid: the clips have no "${target}" in words`,
      "leave it out of `targets`, or use a data set that has it",
    );
  }
  return value;
}

async function run(config: PyramidConfig, name: string, context: EvalContext): Promise<Score[]> {
  const { tokenizer, device } = context;
  const { lexical } = tokenizer;
  if (!lexical || !tokenizer.decodeLayers) {
    throw new UserError(
      `suite ${name}: the tokenizer has no layers`,
      "use a pyramid (tokenizer.quantizer.type: spae), or leave the suite out",
    );
  }
  const depth = lexical.layers.length;
  const size = tokenizer.factors[0]!;
  if (config.targets.length > 0 && size > maxWords) {
    throw new UserError(
      `suite ${name}: classifiers read histograms of at most ${maxWords} words, the codebook has ${size}`,
      "use a smaller codebook, or `targets: []`",
    );
  }
  const { encode } = tokenizerFunctions(device, tokenizer);
  const [t, , row] = tokenizer.grid;
  const histogramOf = (ids: Int32Array, clip: number): Float64Array => {
    const histogram = new Float64Array(depth * size);
    for (let f = 0; f < t; f++) {
      let at = (clip * t + f) * row;
      for (const [l, count] of lexical.layers.entries()) {
        for (let i = 0; i < count; i++) {
          histogram[l * size + ids[at++]!]! += 1 / (count * t);
        }
      }
    }
    return histogram;
  };

  const collect = async (split: "train" | "validation", clips: number): Promise<Collected> => {
    const dataset = await context.dataset(split);
    checkClipShape(dataset, tokenizer.clip);
    const indices = chooseClips(dataset.size, clips, config.seed);
    const stream = new ClipStream(dataset, indices, context.batch);
    const items: Item[] = [];
    for await (const batch of stream) {
      const { ids } = await encode(batch.clips);
      for (let i = 0; i < batch.size; i++) {
        // Factors are known to samples alone, which the stream does not pass on.
        const sample = await dataset.get(indices[items.length]!, 0);
        items.push({
          histogram: histogramOf(ids, i),
          names: config.targets.map((target) => valueOf(target, dataset.classes, sample)),
        });
      }
      context.progress(`${split} clips`, items.length, indices.length);
    }
    return { items, stream };
  };

  const quality = await layerQuality(config, context, tokenizer, depth);
  const scores: Score[] = [];
  const of = (measured: Measured, protocol: ProtocolName, choices: object): void => {
    scores.push(score(measured, protocol, { ...choices }));
  };
  for (let n = 1; n <= depth; n++) {
    const choices = { ...clipChoices(quality.stream, config.seed), layers: n, of: depth };
    const one = { better: "higher", n: quality.clips } as const;
    of(
      { ...one, name: `${name}/psnr_${n}`, unit: "dB", value: quality.psnr[n - 1]! },
      "pyramid:psnr",
      choices,
    );
    if (quality.matches) {
      of(
        { ...one, name: `${name}/words_${n}`, unit: "%", value: 100 * quality.matches[n - 1]! },
        "pyramid:caption-words",
        choices,
      );
    }
  }
  if (config.targets.length === 0) {
    return scores;
  }
  const fitting = await collect("train", config.train_clips);
  const judging = await collect(config.split, config.clips);
  for (const [k, target] of config.targets.entries()) {
    const classes = [...new Set(fitting.items.map((item) => item.names[k]!))].sort();
    if (classes.length < 2) {
      context.warn(`no score for ${target}: the clips have one value`);
      continue;
    }
    const known = judging.items.filter((item) => classes.includes(item.names[k]!));
    const data = (items: readonly Item[], layers: number): ProbeData => ({
      dimensions: layers * size,
      features: Float64Array.from(
        { length: items.length * layers * size },
        (_, i) => items[Math.floor(i / (layers * size))]!.histogram[i % (layers * size)]!,
      ),
      labels: Int32Array.from(items, (item) => classes.indexOf(item.names[k]!)),
    });
    for (let n = 1; n <= depth; n++) {
      context.progress(`classifier of ${target}, layers`, n, depth);
      const judged = data(known, n);
      const fitted = data(fitting.items, n);
      const { top1 } = probeAccuracy(fitProbe(fitted, classes.length), judged);
      const choices = {
        ...clipChoices(judging.stream, config.seed),
        fitted_on: clipChoices(fitting.stream, config.seed),
        target,
        layers: n,
        of: depth,
      };
      const count = known.length;
      of(
        {
          name: `${name}/${target}_${n}`,
          value: 100 * top1,
          unit: "%",
          better: "higher",
          n: count,
          std: 100 * Math.sqrt((top1 * (1 - top1)) / count),
        },
        "pyramid:probe",
        choices,
      );
      if (n === depth) {
        const chance = chanceLevel(fitted.labels, judged.labels, classes.length);
        of(
          {
            name: `${name}/${target}_chance`,
            value: 100 * chance,
            unit: "%",
            better: "none",
            n: count,
          },
          "pyramid:probe",
          { ...choices, layers: 0 },
        );
      }
    }
  }
  return scores;
}

/** PSNR from the first n layers, and the share of each layer's words that stand in captions. */
async function layerQuality(
  config: PyramidConfig,
  context: EvalContext,
  tokenizer: Tokenizer,
  depth: number,
) {
  const { device, batch: size } = context;
  const { frames, height, width } = tokenizer.clip;
  const dataset = await context.dataset(config.split);
  checkClipShape(dataset, tokenizer.clip);
  const words = tokenizer.lexical!.words?.().map((word) => wordsOf(word).join(" "));
  const indices = chooseClips(dataset.size, config.clips, config.seed);
  const stream = new ClipStream(dataset, indices, size);
  const { encode } = tokenizerFunctions(device, tokenizer);
  const decoders = Array.from({ length: depth }, (_, n) =>
    device.compile(`eval/layers-${n + 1}`, (inputs) => ({
      pixels: tokenizer.decodeLayers!(inputs["codes"] as never, n + 1),
    })),
  );
  const psnr = new Float64Array(depth);
  const matches = new Float64Array(depth);
  const [t, h, row] = tokenizer.grid;
  const clipSize = frames * height * width * 3;
  let done = 0;
  for await (const batch of stream) {
    const { ids, codes } = await encode(batch.clips);
    const given = float32([size, t, h, row, tokenizer.width], codes);
    for (const [n, decode] of decoders.entries()) {
      const pixels = (await decode({ codes: given }))["pixels"]!.data as Float32Array;
      for (let i = 0; i < batch.size; i++) {
        const original = batch.clips.data.subarray(i * clipSize, (i + 1) * clipSize) as Uint8Array;
        const made = toBytes(pixels.subarray(i * clipSize, (i + 1) * clipSize));
        psnr[n]! += psnrPerFrame(frameErrors(original, made, frames)) / indices.length;
      }
    }
    if (words) {
      for (let i = 0; i < batch.size; i++) {
        const said = new Set(wordsOf(batch.captions[i]!));
        for (let f = 0; f < t; f++) {
          let at = (i * t + f) * row;
          for (const [l, count] of tokenizer.lexical!.layers.entries()) {
            for (let k = 0; k < count; k++) {
              matches[l]! += said.has(words[ids[at++]!]!) ? 1 / (count * t * indices.length) : 0;
            }
          }
        }
      }
    }
    done += batch.size;
    context.progress("decoded clips", done, indices.length);
  }
  return { psnr, ...(words && { matches }), stream, clips: done };
}
