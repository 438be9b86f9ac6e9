/**
 * @file The text of a multi-modal run: made once from the training captions and kept in the run folder.
 *
 *   modalities/words.json                words of the captions
 *   modalities/bpe.json                  byte-pair encoding, learned or read from a file
 *   modalities/text-encoder.safetensors  our own encoder; its vocabulary is bpe.json
 */

import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import { adamW } from "../eval/recognition/learn.ts";
import { Scope } from "../models/scope.ts";
import { buildTextEncoder } from "../models/text-encoder.ts";
import {
  bpeTokenizer,
  type TextConfig,
  type TextEncoder,
  vectorTokenizer,
} from "../objectives/multimodal/text.ts";
import { type TextTokenizer, vocabularyOf, wordTokenizer } from "../objectives/multimodal/words.ts";
import type { Device } from "../runtime/device.ts";
import { writeFileAtomic } from "../runtime/files.ts";
import { Random } from "../runtime/random.ts";
import { decodeSafetensors, encodeSafetensors } from "../runtime/safetensors.ts";
import { float32, type HostTensor, int32 } from "../runtime/tensors.ts";
import { type Bpe, type BpeVocabulary, openBpe, trainBpe } from "../tokenizers/text/bpe.ts";
import { openHuggingFaceEncoder, readEncoderFolder } from "../tokenizers/text/huggingface.ts";
import { readTokenizerJson } from "../tokenizers/text/tokenizer-json.ts";

const wordsPath = (dir: string): string => join(dir, "modalities", "words.json");
const bpePath = (dir: string): string => join(dir, "modalities", "bpe.json");
const encoderPath = (dir: string): string => join(dir, "modalities", "text-encoder.safetensors");

const ownEncoder = ({ as, folder }: TextConfig): boolean => as === "encoder" && folder === null;

/** Make what is not there yet. `captions` is called when they are needed. */
export async function prepareText(
  run: { readonly dir: string; readonly device: Device; readonly seed: number },
  config: TextConfig | undefined,
  length: number,
  captions: () => readonly string[],
  onProgress: (what: string, done: number, total: number) => void,
): Promise<void> {
  const { dir } = run;
  mkdirSync(join(dir, "modalities"), { recursive: true });
  const texts = (): readonly string[] => {
    const found = captions();
    if (found.every((text) => text.trim() === "")) {
      throw new UserError(
        "the objective reads captions, and the clips have none",
        "use a data set with captions, or leave the text out (super-resolution: objective.text_length=0)",
      );
    }
    return found;
  };
  const as = config?.as ?? "words";
  if (as === "words") {
    if (!existsSync(wordsPath(dir))) {
      writeFileAtomic(wordsPath(dir), `${JSON.stringify(vocabularyOf(texts()))}\n`);
    }
    return;
  }
  if ((as === "bpe" || ownEncoder(config!)) && !existsSync(bpePath(dir))) {
    writeFileAtomic(bpePath(dir), `${JSON.stringify(trainBpe(texts(), config!.size))}\n`);
  }
  if (as === "file" && !existsSync(bpePath(dir))) {
    const file = config!.file!;
    if (!existsSync(file)) {
      throw new UserError(`objective.text.file: there is no file ${file}`, "give a tokenizer.json");
    }
    const vocabulary = readTokenizerJson(readFileSync(file, "utf8"), file);
    writeFileAtomic(bpePath(dir), `${JSON.stringify(vocabulary)}\n`);
  }
  if (ownEncoder(config!) && !existsSync(encoderPath(dir))) {
    await trainEncoder(run, config!, length, readBpe(dir), texts(), (step) =>
      onProgress("text encoder", step, config!.steps),
    );
  }
}

const readBpe = (dir: string): Bpe =>
  openBpe(JSON.parse(readFileSync(bpePath(dir), "utf8")) as BpeVocabulary);

/** The text tokenizer of a run that was prepared. */
export function openText(
  dir: string,
  config: TextConfig | undefined,
  length: number,
  device: Device,
): TextTokenizer {
  switch (config?.as ?? "words") {
    case "words":
      return wordTokenizer(JSON.parse(readFileSync(wordsPath(dir), "utf8")) as string[]);
    case "bpe":
    case "file":
      return bpeTokenizer(readBpe(dir));
    case "encoder": {
      const { folder } = config!;
      return folder === null
        ? vectorTokenizer(config!.width, () => openOwn(dir, config!, length, device))
        : vectorTokenizer(readEncoderFolder(folder).width, () =>
            openHuggingFaceEncoder(folder, length),
          );
    }
  }
}

/** Texts of a step of the encoder's training, and the share of tokens that are masked. */
const BATCH = 32;
const MASKED = 0.15;

function network(config: TextConfig, length: number, vocabulary: number, seed: number) {
  const scope = Scope.root(seed);
  return { scope, encoder: buildTextEncoder({ ...config, vocabulary, length }, scope) };
}

/** A text's ids, -1 behind its end. A longer one is cut: the encoder reads the beginning. */
function padded(bpe: Bpe, text: string, length: number): Int32Array {
  const ids = new Int32Array(length).fill(-1);
  ids.set(bpe.encode(text).subarray(0, length));
  return ids;
}

async function trainEncoder(
  { dir, device, seed }: { readonly dir: string; readonly device: Device; readonly seed: number },
  config: TextConfig,
  length: number,
  bpe: Bpe,
  captions: readonly string[],
  onProgress: (step: number) => void,
): Promise<void> {
  device.activate();
  const { scope, encoder } = network(config, length, bpe.size, seed);
  const slots = Scope.root(seed);
  const update = adamW(scope, slots);
  const step = device.compile("text-encoder/train", (given) => ({
    loss: update(
      () => encoder.loss(given["ids"] as tf.Tensor2D, given["masked"] as tf.Tensor2D),
      given["rate"]!,
      given["step"]!,
      0.01,
    ),
  }));
  const texts = captions.filter((text) => text.trim() !== "");
  const warm = Math.max(1, Math.round(config.steps / 10));
  for (let i = 0; i < config.steps; i++) {
    const random = new Random(seed, "text-encoder", i);
    const ids = new Int32Array(BATCH * length);
    for (let b = 0; b < BATCH; b++) {
      ids.set(padded(bpe, random.choice(texts), length), b * length);
    }
    const masked = random.uniforms(BATCH * length).map((u) => Number(u < MASKED));
    const after = (i - warm) / Math.max(1, config.steps - warm);
    const rate = i < warm ? (i + 1) / warm : 0.5 * (1 + Math.cos(Math.PI * after));
    await step({
      ids: int32([BATCH, length], ids),
      masked: float32([BATCH, length], masked),
      rate: float32([], [0.002 * rate]),
      step: float32([], [i + 1]),
    });
    if ((i + 1) % 50 === 0) {
      onProgress(i + 1);
    }
  }
  const tensors = new Map<string, HostTensor>();
  for (const [name, variable] of scope.variables()) {
    tensors.set(name, float32(variable.shape, (await variable.data()) as Float32Array));
  }
  slots.dispose();
  scope.dispose();
  writeFileAtomic(encoderPath(dir), encodeSafetensors({ tensors, metadata: {} }));
}

async function openOwn(
  dir: string,
  config: TextConfig,
  length: number,
  device: Device,
): Promise<TextEncoder> {
  device.activate();
  const bpe = readBpe(dir);
  const { scope, encoder } = network(config, length, bpe.size, 0);
  const { tensors } = decodeSafetensors(readFileSync(encoderPath(dir)));
  for (const [name, variable] of scope.variables()) {
    const saved = tf.tensor(tensors.get(name)!.data as Float32Array, variable.shape);
    variable.assign(saved);
    saved.dispose();
  }
  const read = device.compile("text-encoder/read", ({ ids }) => ({
    vectors: encoder.vectors(ids as tf.Tensor2D),
  }));
  return {
    width: config.width,
    async embed(text) {
      const ids = padded(bpe, text, length);
      const { vectors } = await read({ ids: int32([1, length], ids) });
      const count = ids.filter((id) => id >= 0).length;
      return (vectors!.data as Float32Array).slice(0, count * config.width);
    },
  };
}
