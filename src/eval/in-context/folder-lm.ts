/**
 * @file A frozen causal language model from a local folder in the layout that Hugging Face's tools write and
 * @huggingface/transformers reads: tokenizer.json (byte-level BPE), config.json if there is one, and
 * onnx/model.onnx or model.onnx, with or without a cache of keys and values. ONNX Runtime runs it; nothing is
 * downloaded and no weight changes. It is shown text alone: a visual token is the word that stands for it.
 *
 * Words of the suites' vocabulary become text (blanks between them, as prompts are written) and then the model's own
 * tokens. An answer's probability is the product of those of its tokens; what is written is cut into words again.
 */

import { createHash } from "node:crypto";
import { createReadStream, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type ort from "onnxruntime-node";
import { UserError } from "../../config/errors.ts";
import { newline, pad, type WordVocabulary } from "../../models/text-lm.ts";
import { loadOrt, type Ort } from "../../runtime/onnx/library.ts";
import { type Bpe, openBpe } from "../../tokenizers/text/bpe.ts";
import { readTokenizerJson } from "../../tokenizers/text/tokenizer-json.ts";
import type { Question, Verdict, WritingLm } from "./frozen-lm.ts";

/** Most tokens that a word is waited for. */
const LONGEST_WORD = 8;

/** Words as the text of a prompt: a blank before each but the first of a line. */
export function textOf(ids: readonly number[], { words }: WordVocabulary, begins: boolean): string {
  let text = "";
  let first = begins;
  for (const id of ids) {
    text += id === newline ? "\n" : `${first ? "" : " "}${words[id]}`;
    first = id === newline;
  }
  return text;
}

/** The model of a folder: its files, read and checked, and what identifies them. */
export interface FolderLm extends WritingLm {
  /** SHA-256 of the tokenizer's and the model's files, for protocols. */
  readonly fingerprint: string;
}

interface FolderConfig {
  readonly n_positions?: number;
  readonly max_position_embeddings?: number;
  readonly bos_token_id?: number | null;
}

const readJson = <T>(path: string): T | undefined => {
  if (!existsSync(path)) {
    return undefined;
  }
  try {
    return JSON.parse(readFileSync(path, "utf8")) as T;
  } catch {
    throw new UserError(`${path} is not JSON`, "copy the folder again");
  }
};

/** The folder's tokenizer, model file and options. */
function readFolder(folder: string) {
  const tokenizer = join(folder, "tokenizer.json");
  const model = [join(folder, "onnx", "model.onnx"), join(folder, "model.onnx")].find(existsSync);
  if (!existsSync(tokenizer) || model === undefined) {
    throw new UserError(
      `lm.folder: ${folder} has no ${existsSync(tokenizer) ? "onnx/model.onnx" : "tokenizer.json"}`,
      "give a folder with tokenizer.json and onnx/model.onnx, as `optimum-cli export onnx --task text-generation` writes it",
    );
  }
  const bpe = openBpe(readTokenizerJson(readFileSync(tokenizer, "utf8"), tokenizer));
  const config = readJson<FolderConfig>(join(folder, "config.json")) ?? {};
  const begin = readJson<{ add_bos_token?: boolean }>(join(folder, "tokenizer_config.json"));
  const bos = begin?.add_bos_token === true ? (config.bos_token_id ?? undefined) : undefined;
  const context = config.n_positions ?? config.max_position_embeddings;
  return { tokenizer, model, bpe, bos, context };
}

async function digestOf(...files: readonly string[]): Promise<string> {
  const hash = createHash("sha256");
  for (const file of files) {
    for await (const chunk of createReadStream(file)) {
      hash.update(chunk as Buffer);
    }
  }
  return hash.digest("hex").slice(0, 16);
}

/** Keys and values of the tokens so far, by the name of the input that takes them. */
type Cache = { readonly [input: string]: ort.Tensor };

/** The network behind a session: logits of new tokens behind a cache. */
class Network {
  readonly #ort: Ort;
  readonly #session: ort.InferenceSession;
  readonly #path: string;
  readonly #ids: string;
  readonly #logits: string;
  /** Tokens that the file takes at a time, where its input has one length. */
  readonly #length: number | undefined;

  constructor(library: Ort, session: ort.InferenceSession, path: string) {
    this.#ort = library;
    this.#session = session;
    this.#path = path;
    const { inputNames, outputNames, inputMetadata } = session;
    const named = (names: readonly string[], wanted: string, what: string): string => {
      const found = names.includes(wanted) ? wanted : names.length === 1 ? names[0] : undefined;
      if (found === undefined) {
        throw new UserError(
          `lm.folder: ${path} has no ${what} "${wanted}"`,
          `it has ${names.join(", ")}; export a causal language model for text generation`,
        );
      }
      return found;
    };
    this.#ids = named(inputNames, "input_ids", "input");
    this.#logits = named(outputNames, "logits", "output");
    const strange = inputNames.find(
      (name) =>
        ![this.#ids, "attention_mask", "position_ids"].includes(name) &&
        !name.startsWith("past_key_values."),
    );
    if (strange !== undefined) {
      throw new UserError(
        `lm.folder: ${path} has an input "${strange}", which is not known what to give`,
        "input_ids, attention_mask, position_ids and past_key_values.* are",
      );
    }
    const shape = this.#meta(inputMetadata, this.#ids).shape;
    const length = shape.at(-1);
    this.#length = typeof length === "number" && length > 0 ? length : undefined;
  }

  get caches(): boolean {
    return this.#session.inputNames.some((name) => name.startsWith("past_key_values."));
  }

  #meta(all: ort.InferenceSession["inputMetadata"], name: string) {
    const found = all.find((each) => each.name === name);
    if (!found?.isTensor) {
      throw new UserError(`lm.folder: the input "${name}" of ${this.#path} is no tensor`);
    }
    return found;
  }

  #integers(name: string, values: readonly number[]): ort.Tensor {
    const { type } = this.#meta(this.#session.inputMetadata, name);
    const dims = [1, values.length];
    return type === "int32"
      ? new this.#ort.Tensor("int32", Int32Array.from(values), dims)
      : new this.#ort.Tensor("int64", BigInt64Array.from(values, BigInt), dims);
  }

  /** No tokens yet. */
  #empty(name: string): ort.Tensor {
    const { type, shape } = this.#meta(this.#session.inputMetadata, name);
    // [batch, heads, tokens, width]: one text, and no tokens.
    const dims = shape.map((side, axis) => (axis === 0 ? 1 : axis === 2 ? 0 : Number(side)));
    return type === "float16"
      ? new this.#ort.Tensor("float16", new Uint16Array(0), dims)
      : new this.#ort.Tensor("float32", new Float32Array(0), dims);
  }

  /**
   * @param tokens behind those of the cache
   * @param before how many the cache holds
   * @returns logits of the tokens one behind the other, their vocabulary, and the longer cache
   */
  async run(
    tokens: readonly number[],
    cache: Cache = {},
    before = 0,
  ): Promise<{ logits: Float32Array; vocabulary: number; cache: Cache }> {
    const session = this.#session;
    const length = this.#length ?? tokens.length;
    if (tokens.length > length) {
      throw new UserError(
        `lm.folder: a prompt has ${tokens.length} tokens, ${this.#path} takes ${length}`,
        "ask with fewer shots, layers or ways",
      );
    }
    // What stands behind a text has no influence on it: a file of one length is filled up.
    const filled = [...tokens, ...Array<number>(length - tokens.length).fill(0)];
    const feeds = Object.fromEntries(
      session.inputNames.map((name): [string, ort.Tensor] => {
        if (name === this.#ids) {
          return [name, this.#integers(name, filled)];
        }
        if (name === "attention_mask") {
          return [name, this.#integers(name, Array<number>(before + length).fill(1))];
        }
        if (name === "position_ids") {
          return [
            name,
            this.#integers(
              name,
              filled.map((_, i) => before + i),
            ),
          ];
        }
        return [name, cache[name] ?? this.#empty(name)];
      }),
    );
    const results = await session.run(feeds);
    const made = results[this.#logits] as ort.Tensor;
    const vocabulary = made.dims.at(-1)!;
    const grown = session.outputNames
      .filter((name) => name.startsWith("present."))
      .map((name) => [name.replace("present.", "past_key_values."), results[name] as ort.Tensor]);
    return {
      logits: Float32Array.from(made.data as ArrayLike<number>).subarray(
        0,
        tokens.length * vocabulary,
      ),
      vocabulary,
      cache: Object.fromEntries(grown) as Cache,
    };
  }

  async close(): Promise<void> {
    await this.#session.release();
  }
}

/** ln p of an id under one row of logits, and the likeliest id. */
export function readRow(row: Float32Array, id: number): { logProbability: number; best: number } {
  let best = 0;
  for (let i = 1; i < row.length; i++) {
    if (row[i]! > row[best]!) {
      best = i;
    }
  }
  let sum = 0;
  for (const value of row) {
    sum += Math.exp(value - row[best]!);
  }
  return { logProbability: row[id]! - row[best]! - Math.log(sum), best };
}

/**
 * Open the model of a folder for prompts over a vocabulary of words.
 * @throws UserError when a file is missing or not of the kind that can be run
 */
export async function openFolderLm(folder: string, words: WordVocabulary): Promise<FolderLm> {
  const { tokenizer, model, bpe, bos, context } = readFolder(folder);
  const library = await loadOrt("a language model in a folder needs");
  const session = await library.InferenceSession.create(model, { logSeverityLevel: 3 }).catch(
    (error: unknown) => {
      throw new UserError(
        `lm.folder: ONNX Runtime cannot open ${model}: ${(error as Error).message.split("\n")[0]}`,
        "export it again, in 32-bit floating point",
      );
    },
  );
  const network = new Network(library, session, model);
  const begin = bos === undefined ? [] : [bos];
  const encode = (text: string): number[] => [...begin, ...bpe.encode(text)];
  const checkLength = (tokens: number): void => {
    if (context !== undefined && tokens > context) {
      throw new UserError(
        `lm.folder: a prompt has ${tokens} tokens, the model's config.json allows ${context}`,
        "ask with fewer shots, layers or ways",
      );
    }
  };

  async function judge({ prompt, answer }: Question): Promise<Verdict> {
    const asked = encode(textOf(prompt, words, true));
    const tail = [...bpe.encode(textOf(answer, words, prompt.at(-1) === newline))];
    checkLength(asked.length + tail.length);
    const { logits, vocabulary } = await network.run([...asked, ...tail]);
    checkVocabulary(bpe, vocabulary, model);
    let logProbability = 0;
    let greedy = true;
    for (const [k, id] of tail.entries()) {
      const at = (asked.length + k - 1) * vocabulary;
      const found = readRow(logits.subarray(at, at + vocabulary), id);
      logProbability += found.logProbability;
      greedy &&= found.best === id;
    }
    return { logProbability, greedy };
  }

  /** The most probable continuation, token by token, until `count` words (or ends of lines) stand. */
  async function write(prompt: readonly number[], count: number): Promise<number[]> {
    let tokens = encode(textOf(prompt, words, true));
    const shown = tokens.length;
    const said: number[] = [];
    let cache: Cache = {};
    let before = 0;
    const whole = (): string[] => bpe.decode(said).match(/\n|[^\s]+/g) ?? [];
    // A word is complete when the next one has begun.
    while (whole().length <= count && said.length < count * LONGEST_WORD + 1) {
      checkLength(tokens.length);
      const made = await network.run(network.caches ? tokens.slice(before) : tokens, cache, before);
      checkVocabulary(bpe, made.vocabulary, model);
      const row = made.logits.subarray(made.logits.length - made.vocabulary);
      const { best } = readRow(row, 0);
      if (network.caches) {
        [cache, before] = [made.cache, tokens.length];
      }
      said.push(best);
      tokens = [...tokens, best];
      if (tokens.length - shown > count * LONGEST_WORD) {
        break;
      }
    }
    const found = whole().slice(0, count);
    return Array.from({ length: count }, (_, i) => words.idOf(found[i] ?? "") ?? pad);
  }

  return {
    fingerprint: await digestOf(tokenizer, model),
    async judge(questions) {
      const verdicts: Verdict[] = [];
      for (const question of questions) {
        verdicts.push(await judge(question));
      }
      return verdicts;
    },
    async write(prompts) {
      const written: number[][] = [];
      for (const { prompt, count } of prompts) {
        written.push(await write(prompt, count));
      }
      return written;
    },
    dispose: () => void network.close(),
  };
}

/** The model's rows must be the tokenizer's tokens; exports may have some more rows, never fewer. */
function checkVocabulary(bpe: Bpe, rows: number, model: string): void {
  if (rows < bpe.size) {
    throw new UserError(
      `lm.folder: ${model} knows ${rows} tokens, tokenizer.json ${bpe.size}`,
      "take both files from one model",
    );
  }
}
