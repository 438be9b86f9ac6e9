/**
 * @file Text tokens: byte-level byte-pair encoding (Sennrich et al., ACL 2016; Radford et al. 2019, GPT-2).
 * Text is cut into words, each word's UTF-8 bytes are the first tokens, and learned merges join
 * neighbours, the one learned first before others. Every text has tokens and comes back exactly.
 *
 * The vocabulary is learned from captions, or read from a Hugging Face `tokenizer.json`
 * (tokenizer-json.ts), which may cut texts by rules of its own.
 */

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

/** White space as Unicode has it, for character classes; JavaScript's \\s lacks U+0085 and adds U+FEFF. */
export const SPACE =
  "\\t-\\r\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const SPACE_BEFORE = new RegExp(`^[${SPACE}]+`, "u");
const SPACE_BEHIND = new RegExp(`[${SPACE}]+$`, "u");

/** One way of cutting texts into words. */
export interface WordSplit {
  /** A regular expression for the flags `gu`. */
  readonly pattern: string;
  /** What becomes words: matches and what lies between them, or one of the two. */
  readonly keep: "all" | "matches" | "rest";
}

/** What happens to a text before its bytes are joined. */
export interface BpeRules {
  readonly normalize: readonly ("NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase")[];
  /** One after the other, each on the pieces that the one before made. */
  readonly words: readonly WordSplit[];
  /** A space before each piece that has none. */
  readonly prefixSpace: boolean;
  /** Words that are tokens are not joined from their bytes. */
  readonly wholeWords: boolean;
  /** Special tokens that take the white space before or after them along. */
  readonly swallowBefore: readonly string[];
  readonly swallowAfter: readonly string[];
}

/** A vocabulary: plain data, to be kept as JSON. */
export interface BpeVocabulary {
  /** Tokens in byte characters, in the order of their ids. */
  readonly tokens: readonly string[];
  /** Pairs of tokens that are joined, the first learned first. */
  readonly merges: readonly (readonly [string, string])[];
  /** Tokens that stand for themselves and are cut out of a text before anything else. */
  readonly special: readonly string[];
  /** How texts are cut; as GPT-2 does when left out. */
  readonly rules?: BpeRules;
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

/** How a piece of text is cut into words. */
function wordsBy(rules: BpeRules | undefined): (text: string) => string[] {
  if (!rules) {
    return (text) => Array.from(text.matchAll(WORDS), ([word]) => word);
  }
  const patterns = rules.words.map(
    ({ pattern, keep }) => [new RegExp(pattern, "gu"), keep] as const,
  );
  return (text) => {
    let whole = text;
    for (const form of rules.normalize) {
      whole = form === "Lowercase" ? whole.toLowerCase() : whole.normalize(form);
    }
    if (whole === "") {
      return [];
    }
    let pieces = [rules.prefixSpace && !whole.startsWith(" ") ? ` ${whole}` : whole];
    for (const [pattern, keep] of patterns) {
      pieces = pieces.flatMap((piece) => cutBy(piece, pattern, keep));
    }
    return pieces;
  };
}

/** Matches of a pattern and what lies between them, or one of the two; nothing empty. */
function cutBy(text: string, pattern: RegExp, keep: WordSplit["keep"]): string[] {
  const pieces: string[] = [];
  let at = 0;
  for (const match of text.matchAll(pattern)) {
    if (keep !== "matches") {
      pieces.push(text.slice(at, match.index));
    }
    if (keep !== "rest") {
      pieces.push(match[0]);
    }
    at = match.index + match[0].length;
  }
  if (keep !== "matches") {
    pieces.push(text.slice(at));
  }
  return pieces.filter((piece) => piece !== "");
}

/** The functions of a vocabulary. */
export function openBpe(vocabulary: BpeVocabulary): Bpe {
  const ids = new Map(vocabulary.tokens.map((token, id) => [token, id]));
  const ranks = new Map(vocabulary.merges.map(([a, b], rank) => [pairKey(a, b), rank]));
  const special = new Set(vocabulary.special);
  const known = new Map<string, readonly number[]>();
  const { rules } = vocabulary;
  const words = wordsBy(rules);
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
    const whole = rules?.wholeWords === true ? ids.get(parts.join("")) : undefined;
    if (whole !== undefined) {
      return [whole];
    }
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
      const pieces = cut ? text.split(cut) : [text];
      const out: number[] = [];
      pieces.forEach((piece, i) => {
        if (i % 2 === 1) {
          out.push(ids.get(piece)!); // what the parentheses of `cut` caught
          return;
        }
        let part = piece;
        if (rules?.swallowBefore.includes(pieces[i + 1] ?? "")) {
          part = part.replace(SPACE_BEHIND, "");
        }
        if (rules?.swallowAfter.includes(pieces[i - 1] ?? "")) {
          part = part.replace(SPACE_BEFORE, "");
        }
        for (const word of words(part)) {
          out.push(...encodeWord(word));
        }
      });
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
