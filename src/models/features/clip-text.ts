/**
 * @file CLIP's text tokens: byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019)
 * of lower-cased text, read from the hub's tokenizer.json or from OpenAI's list of merges.
 */

import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { UserError } from "../../config/errors.ts";

export interface ClipText {
  /** How many different tokens it makes. */
  readonly size: number;
  /** Ids padded with `pad` to the context's length, and the place of the end token. */
  encode(text: string, context: number): { readonly ids: Int32Array; readonly end: number };
}

/** Bytes as printable characters: those that print stand for themselves, the rest from 256 on. */
export function byteCharacters(): string[] {
  const prints = (byte: number): boolean =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) =>
    String.fromCodePoint(prints(byte) ? byte : next++),
  );
}

const pieces =
  /<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/giu;

const [start, end] = ["<|startoftext|>", "<|endoftext|>"];

/** @param merges pairs of symbols, the first ones to merge first */
export function clipText(merges: readonly (readonly [string, string])[]): ClipText {
  const characters = byteCharacters();
  // OpenAI's order of the byte symbols: printing bytes first, then the others.
  const ordered = characters
    .map((character, byte) => ({ character, byte }))
    .sort(
      (a, b) =>
        Number(a.character.codePointAt(0)! > 255) - Number(b.character.codePointAt(0)! > 255) ||
        a.byte - b.byte,
    )
    .map(({ character }) => character);
  const vocabulary = [
    ...ordered,
    ...ordered.map((character) => `${character}</w>`),
    ...merges.map(([a, b]) => a + b),
    start,
    end,
  ];
  const ids = new Map(vocabulary.map((symbol, id) => [symbol, id]));
  const ranks = new Map(merges.map(([a, b], rank) => [`${a} ${b}`, rank]));
  const known = new Map<string, number[]>();
  const encodePiece = (piece: string): number[] => {
    const cached = known.get(piece);
    if (cached) {
      return cached;
    }
    const bytes = Array.from(Buffer.from(piece, "utf8"), (byte) => characters[byte]!);
    let symbols = bytes.map((symbol, i) => (i === bytes.length - 1 ? `${symbol}</w>` : symbol));
    for (;;) {
      let best = Number.POSITIVE_INFINITY;
      for (let i = 0; i + 1 < symbols.length; i++) {
        best = Math.min(best, ranks.get(`${symbols[i]} ${symbols[i + 1]}`) ?? best);
      }
      if (!Number.isFinite(best)) {
        break;
      }
      const [a, b] = merges[best]!;
      const merged: string[] = [];
      for (let i = 0; i < symbols.length; i++) {
        if (symbols[i] === a && symbols[i + 1] === b) {
          merged.push(a + b);
          i += 1;
        } else {
          merged.push(symbols[i]!);
        }
      }
      symbols = merged;
    }
    const found = symbols.map((symbol) => ids.get(symbol)!);
    known.set(piece, found);
    return found;
  };
  return {
    size: vocabulary.length,
    encode(text, context) {
      const clean = text.replace(/\s+/g, " ").trim().toLowerCase();
      const tokens = Array.from(clean.matchAll(pieces), ([piece]) => encodePiece(piece)).flat();
      const kept = [ids.get(start)!, ...tokens.slice(0, context - 2), ids.get(end)!];
      const out = new Int32Array(context);
      out.set(kept);
      return { ids: out, end: kept.length - 1 };
    },
  };
}

/** The number of merges that CLIP's vocabulary of 49,408 has. */
const clipMerges = 49_152 - 256 - 2;

/** Read tokenizer.json, merges.txt or bpe_simple_vocab_16e6.txt.gz. */
export function readClipText(path: string): ClipText {
  const bytes = readFileSync(path);
  const text = (path.endsWith(".gz") ? gunzipSync(bytes) : bytes).toString("utf8");
  let lines: string[];
  if (path.endsWith(".json")) {
    const { model } = JSON.parse(text) as { model?: { merges?: (string | [string, string])[] } };
    lines = (model?.merges ?? []).map((pair) => (Array.isArray(pair) ? pair.join(" ") : pair));
  } else {
    lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  }
  const merges = lines
    .slice(0, clipMerges)
    .map((line) => line.trim().split(" "))
    .filter((pair): pair is [string, string] => pair.length === 2);
  if (merges.length !== clipMerges) {
    throw new UserError(
      `${path} holds ${merges.length} merges, CLIP's vocabulary has ${clipMerges}`,
      "give the tokenizer.json of openai/clip-vit-base-patch32 or bpe_simple_vocab_16e6.txt.gz",
    );
  }
  return clipText(merges);
}
