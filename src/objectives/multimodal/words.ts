/**
 * @file A word-level caption tokenizer: the vocabulary is the words of the training captions, in
 * alphabetical order. Enough for captions of a grammar; the interface is all that the language model
 * knows of text.
 */

import { UserError } from "../../config/errors.ts";

/** Turns captions into ids. */
export interface TextTokenizer {
  /** Number of ids. */
  readonly size: number;
  /**
   * Ids of a text, at most `limit`.
   * @throws UserError for what the vocabulary cannot say, and for texts that are too long
   */
  encode(text: string, limit: number): Int32Array;
  decode(ids: ArrayLike<number>): string;
  /** Where texts are vectors of an encoder: ids are rows of a table that grows with the texts. */
  readonly vectors?: TextVectors;
}

/** The vectors behind the ids of a text encoder. */
export interface TextVectors {
  /** Channels of a vector. */
  readonly width: number;
  /** Embed texts that are new; a text must have been embedded before it is encoded. */
  prepare(texts: Iterable<string>): Promise<void>;
  /** The vectors of ids: [n, width], each of mean 0 and variance 1; zeros for negative ids. */
  rows(ids: ArrayLike<number>): Float32Array;
}

/** Words and punctuation of a text, in lower case. */
export function wordsOf(text: string): string[] {
  return text.toLowerCase().match(/[\p{L}\p{N}-]+|[,.;:!?]/gu) ?? [];
}

/** All words of some captions, sorted. */
export function vocabularyOf(captions: Iterable<string>): string[] {
  const words = new Set<string>();
  for (const caption of captions) {
    for (const word of wordsOf(caption)) {
      words.add(word);
    }
  }
  return [...words].toSorted((a, b) => (a < b ? -1 : a > b ? 1 : 0));
}

/** The tokenizer of a vocabulary. */
export function wordTokenizer(vocabulary: readonly string[]): TextTokenizer {
  const index = new Map(vocabulary.map((word, i) => [word, i]));
  return {
    size: vocabulary.length,
    encode(text, limit) {
      const words = wordsOf(text);
      const unknown = words.filter((word) => !index.has(word));
      if (unknown.length > 0) {
        throw new UserError(
          `the model knows no word ${[...new Set(unknown)].map((word) => JSON.stringify(word)).join(", ")}`,
          `it was trained on captions of these words: ${vocabulary.slice(0, 80).join(" ")}${vocabulary.length > 80 ? " ..." : ""}`,
        );
      }
      if (words.length > limit) {
        throw new UserError(
          `the text has ${words.length} words, the model takes at most ${limit}`,
          "shorten it, or train with a larger objective.text_length",
        );
      }
      return Int32Array.from(words, (word) => index.get(word)!);
    },
    decode: (ids) =>
      Array.from(ids, (id) => vocabulary[id] ?? "")
        .join(" ")
        .replace(/ ([,.;:!?])/g, "$1"),
  };
}
