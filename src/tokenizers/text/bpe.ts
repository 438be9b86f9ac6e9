/**
 * @file Text tokens: byte-level byte-pair encoding (Sennrich et al., ACL 2016; Radford et al. 2019, GPT-2).
 * Text is cut into words, each word's UTF-8 bytes are the first tokens, and learned merges join
 * neighbours, the one learned first before others. Every text has tokens and comes back exactly.
 *
 * The vocabulary is learned from captions, or read from a Hugging Face `tokenizer.json` with a model of
 * type BPE and the ByteLevel pre-tokenizer.
 */

import { UserError } from "../../config/errors.ts";

/** GPT-2's words: contractions, letters, digits and other signs, each with the space before it. */
const WORDS = /'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/**
 * The printable characters that stand for the 256 bytes in vocabularies on disk: visible Latin-1
 * characters stand for themselves, the others for characters from U+0100 on, in order.
 */
export function byteCharacters(): string[] {
  const visible = (b: number): boolean =>
    (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  let extra = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCodePoint(visible(b) ? b : extra++));
}

/** A vocabulary: plain data, to be kept as JSON. */
export interface BpeVocabulary {
  /** Tokens in byte characters, in the order of their ids. */
  readonly tokens: readonly string[];
  /** Pairs of tokens that are joined, the first learned first. */
  readonly merges: readonly (readonly [string, string])[];
  /** Tokens that stand for themselves and are cut out of a text before anything else. */
  readonly special: readonly string[];
}

export interface Bpe {
  readonly vocabulary: BpeVocabulary;
  readonly size: number;
  encode(text: string): Int32Array;
  /** @throws RangeError when an id is not in the vocabulary */
  decode(ids: ArrayLike<number>): string;
}

const characters = byteCharacters();
const bytesOf = new Map(characters.map((character, byte) => [character, byte]));
const encoder = new TextEncoder();

/** A word's bytes as byte characters. */
const spell = (word: string): string[] => Array.from(encoder.encode(word), (b) => characters[b]!);

const pairKey = (a: string, b: string): string => `${a} ${b}`;

/**
 * Learn a vocabulary of at most `size` tokens: the 256 bytes, the special tokens, then the most frequent
 * pair of neighbours again and again (the alphabetically first of equally frequent ones). Ends early
 * when no pair occurs twice.
 */
export function trainBpe(
  texts: Iterable<string>,
  size: number,
  special: readonly string[] = [],
): BpeVocabulary {
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const [word] of text.matchAll(WORDS)) {
      counts.set(word, (counts.get(word) ?? 0) + 1);
    }
  }
  let words = [...counts].map(([word, count]) => ({ parts: spell(word), count }));
  const tokens = [...special, ...characters];
  const merges: [string, string][] = [];
  while (tokens.length < size) {
    const pairs = new Map<string, number>();
    for (const { parts, count } of words) {
      for (let i = 0; i + 1 < parts.length; i++) {
        const key = pairKey(parts[i]!, parts[i + 1]!);
        pairs.set(key, (pairs.get(key) ?? 0) + count);
      }
    }
    let best: string | undefined;
    for (const [key, count] of pairs) {
      const most = best === undefined ? 1 : pairs.get(best)!;
      if (count > most || (count === most && best !== undefined && key < best)) {
        best = key;
      }
    }
    if (best === undefined) {
      break;
    }
    const [a, b] = best.split(" ") as [string, string];
    merges.push([a, b]);
    tokens.push(a + b);
    words = words.map(({ parts, count }) => ({ parts: join(parts, a, b), count }));
  }
  return { tokens, merges, special };
}

/** Every neighbouring a, b as one part. */
function join(parts: readonly string[], a: string, b: string): string[] {
  const joined: string[] = [];
  for (let i = 0; i < parts.length; i++) {
    if (parts[i] === a && parts[i + 1] === b) {
      joined.push(a + b);
      i += 1;
    } else {
      joined.push(parts[i]!);
    }
  }
  return joined;
}

/** The functions of a vocabulary. */
export function openBpe(vocabulary: BpeVocabulary): Bpe {
  const ids = new Map(vocabulary.tokens.map((token, id) => [token, id]));
  const ranks = new Map(vocabulary.merges.map(([a, b], rank) => [pairKey(a, b), rank]));
  const special = new Set(vocabulary.special);
  const known = new Map<string, readonly number[]>();
  const escaped = [...vocabulary.special]
    .sort((a, b) => b.length - a.length)
    .map((token) => token.replace(/[$()*+.?[\\\]^{|}]/g, "\\$&"));
  const cut = escaped.length > 0 ? new RegExp(`(${escaped.join("|")})`, "u") : undefined;

  function encodeWord(word: string): readonly number[] {
    const found = known.get(word);
    if (found) {
      return found;
    }
    let parts = spell(word);
    while (parts.length > 1) {
      let best = Number.POSITIVE_INFINITY;
      let at = 0;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = ranks.get(pairKey(parts[i]!, parts[i + 1]!)) ?? Number.POSITIVE_INFINITY;
        if (rank < best) {
          [best, at] = [rank, i];
        }
      }
      if (best === Number.POSITIVE_INFINITY) {
        break;
      }
      parts = join(parts, parts[at]!, parts[at + 1]!);
    }
    const encoded = parts.map((part) => ids.get(part)!);
    known.set(word, encoded);
    return encoded;
  }

  return {
    vocabulary,
    size: vocabulary.tokens.length,
    encode(text) {
      const out: number[] = [];
      for (const part of cut ? text.split(cut) : [text]) {
        if (special.has(part)) {
          out.push(ids.get(part)!);
        } else {
          for (const [word] of part.matchAll(WORDS)) {
            out.push(...encodeWord(word));
          }
        }
      }
      return Int32Array.from(out);
    },
    decode(sequence) {
      const bytes: number[] = [];
      for (const id of Array.from(sequence)) {
        const token = vocabulary.tokens[id];
        if (token === undefined) {
          throw new RangeError(`id ${id} is not in a vocabulary of ${vocabulary.tokens.length}`);
        }
        if (special.has(token)) {
          bytes.push(...encoder.encode(token));
        } else {
          bytes.push(...Array.from(token, (character) => bytesOf.get(character)!));
        }
      }
      return new TextDecoder().decode(Uint8Array.from(bytes));
    },
  };
}

/**
 * The vocabulary of a Hugging Face tokenizer.json.
 * @param text the file's content
 * @param name for messages, usually its path
 * @throws UserError when it is no byte-level BPE
 */
export function readTokenizerJson(text: string, name: string): BpeVocabulary {
  interface TokenizerJson {
    model?: {
      type?: string;
      vocab?: { [token: string]: number };
      merges?: (string | [string, string])[];
    };
    pre_tokenizer?: unknown;
    added_tokens?: { id: number; content: string; special?: boolean }[];
  }
  let file: TokenizerJson;
  try {
    file = JSON.parse(text) as TokenizerJson;
  } catch {
    throw new UserError(`${name} is not JSON`, "give a Hugging Face tokenizer.json");
  }
  const { vocab, merges, type } = file.model ?? {};
  if (!vocab || !merges || (type !== undefined && type !== "BPE")) {
    throw new UserError(
      `${name} holds a model of type ${type ?? "unknown"}, expected BPE`,
      "byte-level BPE tokenizers (GPT-2, RoBERTa, Llama 3, ...) can be read",
    );
  }
  if (!JSON.stringify(file.pre_tokenizer ?? null).includes('"ByteLevel"')) {
    throw new UserError(
      `${name} has no ByteLevel pre-tokenizer`,
      "byte-level BPE tokenizers (GPT-2, RoBERTa, Llama 3, ...) can be read",
    );
  }
  const added = file.added_tokens ?? [];
  const tokens: string[] = [];
  for (const [token, id] of Object.entries(vocab)) {
    tokens[id] = token;
  }
  for (const { id, content } of added) {
    tokens[id] = content;
  }
  const gap = Array.from(tokens).findIndex((token) => token === undefined);
  if (gap >= 0) {
    throw new UserError(`${name}: no token has the id ${gap}`, "the file is incomplete");
  }
  const pairs = merges.map((merge): [string, string] =>
    typeof merge === "string" ? (merge.split(" ") as [string, string]) : merge,
  );
  return { tokens, merges: pairs, special: added.map(({ content }) => content) };
}
