/**
 * @file Byte-level BPE from a Hugging Face `tokenizer.json`: vocabulary, merges, and what happens to a
 * text before them (normalisation, cutting into words). What is not understood is an error: a text cut
 * differently has other tokens, and nothing would tell.
 */

import { UserError } from "../../config/errors.ts";
import { type BpeRules, type BpeVocabulary, SPACE, type WordSplit } from "./bpe.ts";

const WORD = "\\p{L}\\p{M}\\p{N}\\p{Pc}";
/** Classes that mean something else, or more, in the regular expressions of these files. */
const CLASSES: { readonly [escape: string]: string } = { s: SPACE, d: "\\p{Nd}", w: WORD };
/** Characters that may stand behind a backslash under JavaScript's flag `u`. */
const ESCAPED = new Set("^$\\.*+?()[]{}|/-");

/** A regular expression of Rust's or Oniguruma's kind as JavaScript's, for flag `u`. */
export function toJavaScript(pattern: string): string {
  let out = "";
  let inClass = false;
  let ignoring = 0; // open parentheses of a group that ignores case
  for (let i = 0; i < pattern.length; i++) {
    const c = pattern[i]!;
    if (c === "\\") {
      const next = pattern[++i] ?? "";
      const content = CLASSES[next];
      const outside = CLASSES[next.toLowerCase()];
      if (content !== undefined) {
        out += inClass ? content : `[${content}]`;
      } else if (/[SDW]/.test(next) && outside !== undefined && !inClass) {
        out += `[^${outside}]`;
      } else if (/[a-zA-Z0-9]/.test(next) || ESCAPED.has(next)) {
        out += next === "-" && !inClass ? "-" : `\\${next}`;
        if (/[pP]/.test(next) && pattern[i + 1] === "{") {
          const end = pattern.indexOf("}", i);
          out += pattern.slice(i + 1, end + 1);
          i = end;
        }
      } else {
        out += next;
      }
    } else if (!inClass && pattern.startsWith("(?i:", i)) {
      ignoring = 1;
      out += "(?:";
      i += 3;
    } else {
      inClass = c === "[" ? true : c === "]" ? false : inClass;
      if (ignoring > 0 && !inClass) {
        ignoring += c === "(" ? 1 : c === ")" ? -1 : 0;
      }
      const [lower, upper] = [c.toLowerCase(), c.toUpperCase()];
      const both = ignoring > 0 && lower !== upper;
      out += both ? (inClass ? lower + upper : `[${lower}${upper}]`) : c;
    }
  }
  return out;
}

interface Part {
  readonly type?: string;
  readonly [key: string]: unknown;
}

/** GPT-2's words: contractions, letters, digits and other signs, each with the space before it. */
const GPT2 = "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

const refuse = (name: string, what: string): never => {
  throw new UserError(
    `${name} ${what}`,
    "byte-level BPE tokenizers (GPT-2, RoBERTa, Llama 3, Qwen, ...) can be read",
  );
};

function splitOf(name: string, pattern: string, keep: WordSplit["keep"]): WordSplit {
  const source = toJavaScript(pattern);
  try {
    new RegExp(source, "gu");
  } catch (error) {
    refuse(name, `cuts words by /${pattern}/, which does not translate (${(error as Error).message})`); // biome-ignore format: one call
  }
  return { pattern: source, keep };
}

/** The steps of a pre-tokenizer. */
function splits(
  name: string,
  part: Part,
): { splits: WordSplit[]; prefixSpace: boolean; bytes: boolean } {
  // biome-ignore format: one signature
  switch (part.type) {
    case "Sequence": {
      const each = (part["pretokenizers"] as Part[]).map((one) => splits(name, one));
      return {
        splits: each.flatMap((one) => one.splits),
        prefixSpace: each.some((one) => one.prefixSpace),
        bytes: each.some((one) => one.bytes),
      };
    }
    case "ByteLevel":
      return {
        splits: part["use_regex"] === false ? [] : [splitOf(name, GPT2, "all")],
        prefixSpace: part["add_prefix_space"] === true,
        bytes: true,
      };
    case "Digits": {
      const pattern = part["individual_digits"] === true ? "\\p{N}" : "\\p{N}+";
      return { splits: [splitOf(name, pattern, "all")], prefixSpace: false, bytes: false };
    }
    case "Split": {
      const { Regex: regex, String: text } = part["pattern"] as { Regex?: string; String?: string };
      const pattern = regex ?? text!.replace(/[$()*+.?[\\\]^{|}]/g, "\\$&");
      const removed = part["behavior"] === "Removed";
      if (!removed && part["behavior"] !== "Isolated") {
        refuse(name, `splits words with the behaviour ${String(part["behavior"])}`);
      }
      const keep = removed ? (part["invert"] === true ? "matches" : "rest") : "all";
      return { splits: [splitOf(name, pattern, keep)], prefixSpace: false, bytes: false };
    }
    default:
      return refuse(name, `has a pre-tokenizer of type ${part.type ?? "none"}`);
  }
}

function normalizers(name: string, part: Part | null | undefined): BpeRules["normalize"] {
  if (!part) {
    return [];
  }
  switch (part.type) {
    case "Sequence":
      return (part["normalizers"] as Part[]).flatMap((one) => normalizers(name, one));
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD":
    case "Lowercase":
      return [part.type];
    default:
      return refuse(name, `normalises texts by ${part.type ?? "nothing known"}`);
  }
}

/**
 * The vocabulary of a Hugging Face tokenizer.json. Special tokens that its post-processor would add are
 * left out: a sequence's beginning and end are the objective's.
 * @param text the file's content
 * @param name for messages, usually its path
 * @throws UserError when it is no byte-level BPE, or cuts texts in a way that is not known
 */
export function readTokenizerJson(text: string, name: string): BpeVocabulary {
  interface Added {
    readonly id: number;
    readonly content: string;
    readonly lstrip?: boolean;
    readonly rstrip?: boolean;
    readonly single_word?: boolean;
    readonly normalized?: boolean;
  }
  interface TokenizerJson {
    readonly model?: {
      readonly type?: string;
      readonly vocab?: { readonly [token: string]: number };
      readonly merges?: readonly (string | readonly [string, string])[];
      readonly ignore_merges?: boolean;
      readonly continuing_subword_prefix?: string | null;
      readonly end_of_word_suffix?: string | null;
    };
    readonly pre_tokenizer?: Part | null;
    readonly normalizer?: Part | null;
    readonly added_tokens?: readonly Added[];
  }
  let file: TokenizerJson;
  try {
    file = JSON.parse(text) as TokenizerJson;
  } catch {
    throw new UserError(`${name} is not JSON`, "give a Hugging Face tokenizer.json");
  }
  const { vocab, merges, type, ...model } = file.model ?? {};
  if (!vocab || !merges || (type !== undefined && type !== "BPE")) {
    return refuse(name, `holds a model of type ${type ?? "unknown"}, expected BPE`);
  }
  if (model.continuing_subword_prefix || model.end_of_word_suffix) {
    refuse(name, "marks the parts of words by prefixes or suffixes, as CLIP's does");
  }
  const before = splits(name, file.pre_tokenizer ?? {});
  if (!before.bytes) {
    refuse(name, "has no ByteLevel pre-tokenizer");
  }
  const added = file.added_tokens ?? [];
  const normalize = normalizers(name, file.normalizer);
  const odd = added.find((one) => one.single_word === true || (one.normalized === true && normalize.length > 0)); // biome-ignore format: one call
  if (odd) {
    refuse(name, `looks for its token ${odd.content} in single words or normalised text only`);
  }
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
    typeof merge === "string" ? (merge.split(" ") as [string, string]) : [merge[0], merge[1]],
  );
  const { splits: words, prefixSpace } = before;
  return {
    tokens,
    merges: pairs,
    special: added.map(({ content }) => content),
    rules: {
      normalize,
      words,
      prefixSpace,
      wholeWords: model.ignore_merges === true,
      swallowBefore: added.filter((one) => one.lstrip).map(({ content }) => content),
      swallowAfter: added.filter((one) => one.rstrip).map(({ content }) => content),
    },
  };
}
