/**
 * @file Suite `clipsim`: how well frames match the text of their clip under CLIP, of real,
 * reconstructed and (with classes as text) generated clips. Needs the published CLIP and its merges.
 */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import { type Clip, clipB32, openClip } from "../models/features/clip.ts";
import { type ClipText, readClipText } from "../models/features/clip-text.ts";
import type { Device } from "../runtime/device.ts";
import { type HostTensor, int32, uint8 } from "../runtime/tensors.ts";
import { ClipStream, chooseClips, clipKeys, toBytes } from "./clips.ts";
import { bicubicSquare } from "./distribution/bicubic.ts";
import { generate } from "./distribution/judge.ts";
import { findWeights, missingWeights, openFound, weightsFolder } from "./networks/published.ts";
import { clipChoices, score } from "./protocols.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";
import { tokenizerFunctions } from "./tokenize.ts";

export const schema = closed(
  {
    type: Type.Literal("clipsim"),
    ...clipKeys,
    text: Type.Union([Type.Literal("caption"), Type.Literal("class")], {
      default: "caption",
      description:
        "What a clip is held against: its own caption, or the sentence of its class; generated clips have only the latter.",
    }),
    sentence: Type.String({
      default: "a video of {class}",
      description: "The sentence of a class.",
    }),
    weights: Type.String({
      default: "",
      description: "The weight file; empty looks into the folder weights ($TESSERA_WEIGHTS).",
      semantic: false,
    }),
    merges: Type.String({
      default: "",
      description:
        "CLIP's tokenizer.json, merges.txt or bpe_simple_vocab_16e6.txt.gz; empty looks beside the weights.",
      semantic: false,
    }),
  },
  { description: "Match of frames and text under CLIP, on published weights." },
);

export type ClipsimConfig = Static<typeof schema>;

/** Names that the list of merges is looked for under. */
const mergeFiles = [
  "clip-vit-base-patch32/tokenizer.json",
  "clip-vit-base-patch32/merges.txt",
  "bpe_simple_vocab_16e6.txt.gz",
];

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: ClipsimConfig, name: string): Suite {
  return { type: config.type, run: (context) => run(config, name, context) };
}

/** Mean and standard error. */
function summary(values: readonly number[]): { value: number; std: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  const n = values.length;
  return { value: mean, std: n > 1 ? Math.sqrt(squares / (n - 1) / n) : 0 };
}

async function run(config: ClipsimConfig, name: string, context: EvalContext): Promise<Score[]> {
  const found = findWeights("clip-b32", config.weights === "" ? [] : [config.weights]);
  const merges =
    config.merges ||
    mergeFiles.map((file) => join(weightsFolder(), file)).find((path) => existsSync(path));
  if (!found || !merges) {
    context.warn(
      found
        ? `no score: CLIP's merges are not in the folder ${weightsFolder()} (${mergeFiles[0]})`
        : missingWeights("clip-b32"),
    );
    return [];
  }
  const { device, tokenizer, objective } = context;
  device.activate();
  const weights = openFound(found);
  let clip: Clip;
  try {
    clip = openClip(weights);
  } finally {
    weights.close();
  }
  const published = isDeepStrictEqual(clip.options, clipB32);
  if (!published) {
    context.warn(
      `${found.paths.join()} is not a ViT-B/32: its scores are named clipsim:other and compare with none published`,
    );
  }
  const words = readClipText(merges);
  if (words.size > clip.options.vocabulary) {
    clip.scope.dispose();
    throw new UserError(
      `${merges} makes ${words.size} tokens, the network in ${found.paths.join()} knows ${clip.options.vocabulary}`,
      "give the merges that belong to the weights",
    );
  }
  const judge = new Judge(device, clip, words);
  try {
    const dataset = await context.dataset(config.split);
    const chosen = chooseClips(dataset.size, config.clips, config.seed);
    const stream = new ClipStream(dataset, chosen, context.batch);
    const { reconstruct } = tokenizerFunctions(device, tokenizer);
    const textOf = (label: number, caption: string): string =>
      config.text === "caption" && caption !== ""
        ? caption
        : config.sentence.replace("{class}", dataset.classes[label] ?? "something");
    const [real, decoded, made]: [number[], number[], number[]] = [[], [], []];
    const labels: number[] = [];
    for await (const { clips, size, labels: own, captions } of stream) {
      const bytes = toBytes(await reconstruct(clips));
      const values = bytes.length / clips.shape[0]!;
      for (let i = 0; i < size; i++) {
        const text = textOf(own[i]!, captions[i]!);
        const shape = clips.shape.slice(1);
        const part = (data: Uint8Array) =>
          uint8(shape, data.subarray(i * values, (i + 1) * values));
        real.push(await judge.similarity(part(clips.data as Uint8Array), text));
        decoded.push(await judge.similarity(part(bytes), text));
      }
      labels.push(...own);
      context.progress("clips", labels.length, chosen.length);
    }
    if (objective && config.text === "class" && objective.space.classes > 0) {
      for await (const { pixels, shape, size } of generate(
        context,
        objective,
        labels,
        config.seed,
      )) {
        const bytes = toBytes(pixels);
        const values = bytes.length / shape[0]!;
        for (let i = 0; i < size; i++) {
          const text = textOf(labels[made.length]!, "");
          const data = bytes.subarray(i * values, (i + 1) * values);
          made.push(await judge.similarity(uint8(shape.slice(1), data), text));
        }
        context.progress("generated clips", made.length, chosen.length);
      }
    }
    const choices = {
      ...clipChoices(stream, config.seed),
      weights_sha256: found.sha256,
      ...(published ? {} : { network: clip.options }),
      text: config.text,
      ...(config.text === "class" ? { sentence: config.sentence } : {}),
    };
    const of = (quantity: string, values: readonly number[], subject: string): Score =>
      score(
        {
          name: `${name}/${quantity}`,
          ...summary(values),
          better: quantity === "real" ? "none" : "higher",
          n: values.length,
        },
        published ? "clipsim:vit-b32" : "clipsim:other",
        { ...choices, of: subject },
      );
    return [
      ...(made.length > 0 ? [of("generation", made, "generated clips")] : []),
      of("reconstruction", decoded, "reconstructions"),
      of("real", real, "the clips themselves"),
    ];
  } finally {
    clip.scope.dispose();
  }
}

/** Compiled towers, with the texts' embeddings kept. */
class Judge {
  readonly #image;
  readonly #text;
  readonly #known = new Map<string, Float32Array>();

  constructor(
    device: Device,
    readonly clip: Clip,
    readonly words: ClipText,
  ) {
    this.#image = device.compile("eval/clip/image", ({ frames }) => ({
      y: clip.image(
        bicubicSquare(tf.div(tf.cast(frames!, "float32"), 255) as tf.Tensor4D, clip.options.image),
      ),
    }));
    this.#text = device.compile("eval/clip/text", ({ ids, ends }) => ({
      y: clip.text(ids as tf.Tensor2D, ends as tf.Tensor1D),
    }));
  }

  /** Mean over frames [T, H, W, 3] of the cosine with a text. */
  async similarity(frames: HostTensor, text: string): Promise<number> {
    let words = this.#known.get(text);
    if (!words) {
      const { context } = this.clip.options;
      const { ids, end } = this.words.encode(text, context);
      const { y } = await this.#text({ ids: int32([1, context], ids), ends: int32([1], [end]) });
      words = y!.data as Float32Array;
      this.#known.set(text, words);
    }
    const { y } = await this.#image({ frames });
    const pictures = y!.data as Float32Array;
    let sum = 0;
    pictures.forEach((value, i) => {
      sum += value * words[i % words.length]!;
    });
    return sum / frames.shape[0]!;
  }
}
