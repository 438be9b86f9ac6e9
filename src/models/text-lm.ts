/**
 * @file A small causal language model over words, for what SPAE does with a frozen one (Yu et al.,
 * "SPAE", NeurIPS 2023): it learns from text alone, and a visual token that is a word is an id of its
 * vocabulary. The network is `transformer.ts` with the words as its one factor.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import { softmaxCrossEntropy } from "../runtime/ops.ts";
import type { Scope } from "./scope.ts";
import { buildTransformer, type TransformerConfig } from "./transformer.ts";

/** Ids that are no words: filler behind a text, end of a line, and what stands before an answer. */
export const pad = 0;
export const newline = 1;
export const colon = 2;
const marks = ["<pad>", "\n", ":"];

/** The words of a text, lower case; all other characters divide them. */
export function wordsOf(text: string): string[] {
  return text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
}

/** Words by id: three marks, then words in alphabetical order. */
export class WordVocabulary {
  readonly words: readonly string[];
  readonly #ids: ReadonlyMap<string, number>;

  /** @param words in any order, repeated or not */
  constructor(words: Iterable<string>) {
    this.words = [...marks, ...[...new Set(words)].sort()];
    this.#ids = new Map(this.words.map((word, id) => [word, id]));
  }

  get size(): number {
    return this.words.length;
  }

  /** The id of a word, where it is one of the vocabulary. */
  idOf(word: string): number | undefined {
    return this.#ids.get(word);
  }

  /** Ids of a text whose words, colons and line ends are apart by blanks or line ends. */
  encode(text: string): number[] {
    return (text.match(/\n|[^\s]+/g) ?? []).map((word) => {
      const id = this.#ids.get(word);
      if (id === undefined) {
        throw new UserError(`the language model does not know the word "${word}"`);
      }
      return id;
    });
  }
}

/** A built model. Its function is traceable. */
export interface TextNetwork {
  /** The most words of a text. */
  readonly context: number;
  /**
   * Each word given those before it; what follows a word has no influence on it.
   * @param ids [B, context] int32
   * @returns `loss` [B, context], -log p in nats, `greedy` [B, context] float32, 1 where the word is the
   *   most probable one, and `best` [B, context] int32, the most probable word at each place
   */
  read(ids: tf.Tensor2D): {
    readonly loss: tf.Tensor2D;
    readonly greedy: tf.Tensor2D;
    readonly best: tf.Tensor2D;
  };
}

/** Make the model's variables in `scope`. */
export function buildTextNetwork(
  config: Pick<TransformerConfig, "width" | "depth" | "heads">,
  vocabulary: number,
  context: number,
  scope: Scope,
): TextNetwork {
  const transformer = buildTransformer(
    { type: "transformer", mlp_ratio: 4, positions: "learned", tie_weights: true, ...config },
    { grid: [1, 1, context], factors: [vocabulary], classes: 0 },
    { mask: false },
    scope,
  );
  return {
    context,
    read(ids) {
      const [batch] = ids.shape;
      const labels = tf.zeros<tf.Rank.R1>([batch], "int32"); // the null class begins a text
      const [logits] = transformer.causal(tf.expandDims(ids, 2) as tf.Tensor3D, labels); // [B·N, V]
      const flat = tf.reshape<tf.Rank.R1>(ids, [-1]);
      const likeliest = tf.cast(tf.argMax<tf.Tensor1D>(logits!, 1), "int32");
      const best = tf.equal(likeliest, flat);
      return {
        loss: tf.reshape<tf.Rank.R2>(softmaxCrossEntropy(logits!, flat), [batch, context]),
        greedy: tf.reshape<tf.Rank.R2>(tf.cast(best, "float32"), [batch, context]),
        best: tf.reshape<tf.Rank.R2>(likeliest, [batch, context]),
      };
    },
  };
}
