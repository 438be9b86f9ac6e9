/**
 * @file Three ways to write a pyramid of tokens in context (SPAE, Yu et al., NeurIPS 2023, §3.3), each
 * from examples of corrupted tokens and what they should be, and the corrupted tokens of a query:
 *
 * - **one-shot**: all tokens in one line, word after word;
 * - **par**, progressive and auto-regressive: frame by frame and layer by layer, coarse layers first, each
 *   in a prompt of its own whose lines begin with the first token of the frame as it was written;
 * - **pnar**: as par, but layers longer than a slice are cut into slices that are written without looking
 *   at each other.
 */

import type { WordVocabulary } from "../../models/text-lm.ts";
import type { Prompt } from "./frozen-lm.ts";

export const decoderNames = ["one-shot", "par", "pnar"] as const;
export type DecoderName = (typeof decoderNames)[number];

/** A clip's tokens as words, frame by frame and layer by layer, and what was made of them. */
export interface Pair {
  readonly noisy: readonly string[];
  readonly clean: readonly string[];
}

export interface Pyramid {
  readonly frames: number;
  /** Tokens of each layer of a frame. */
  readonly layers: readonly number[];
  /** Tokens of a slice. */
  readonly slice: number;
}

/** A stretch of the sequence that is written by itself. */
interface Piece {
  readonly start: number;
  readonly length: number;
  /** Place of the token that heads its lines; none for the first piece of a frame. */
  readonly head?: number;
}

/** Rounds of pieces; those of a round are written at the same time. */
export function roundsOf(decoder: DecoderName, { frames, layers, slice }: Pyramid): Piece[][] {
  const perFrame = layers.reduce((sum, n) => sum + n, 0);
  if (decoder === "one-shot") {
    return [[{ start: 0, length: perFrame * frames }]];
  }
  const rounds: Piece[][] = [];
  for (let frame = 0; frame < frames; frame++) {
    let start = frame * perFrame;
    for (const [layer, count] of layers.entries()) {
      const head = layer > 0 ? { head: frame * perFrame } : {};
      const size = decoder === "pnar" ? Math.min(slice, count) : count;
      const pieces: Piece[] = [];
      for (let at = 0; at < count; at += size) {
        pieces.push({ start: start + at, length: Math.min(size, count - at), ...head });
      }
      rounds.push(pieces);
      start += count;
    }
  }
  return rounds;
}

/** Lengths of lines that a decoder writes. */
export const lineLengths = (decoder: DecoderName, pyramid: Pyramid): number[] => [
  ...new Set(roundsOf(decoder, pyramid).flatMap((round) => round.map(({ length }) => length))),
];

/** Words of the longest prompt with its answer. */
export function longestPrompt(decoder: DecoderName, pyramid: Pyramid, shots: number): number {
  return (
    Math.max(
      ...roundsOf(decoder, pyramid)
        .flat()
        .map(({ length, head }) => 2 * length + 2 + (head === undefined ? 0 : 1)),
    ) *
    (shots + 1)
  );
}

/**
 * Write the tokens of queries.
 * @param queries each with its examples
 * @returns words of each query in the order of its tokens
 */
export async function writeTokens(
  decoder: DecoderName,
  pyramid: Pyramid,
  queries: readonly { readonly examples: readonly Pair[]; readonly noisy: readonly string[] }[],
  vocabulary: WordVocabulary,
  write: (prompts: readonly Prompt[]) => Promise<number[][]>,
): Promise<string[][]> {
  const written = queries.map(({ noisy }) => [...noisy]);
  for (const round of roundsOf(decoder, pyramid)) {
    const prompts = queries.flatMap(({ examples, noisy }, q) =>
      round.map(({ start, length, head }) => {
        const part = (words: readonly string[]): string =>
          words.slice(start, start + length).join(" ");
        const before = (words: readonly string[]): string =>
          head === undefined ? "" : `${words[head]!} `;
        const lines = examples.map(
          ({ noisy: x, clean: y }) => `${before(y)}${part(x)} : ${part(y)}\n`,
        );
        const text = `${lines.join("")}${before(written[q]!)}${part(noisy)} :`;
        return { prompt: vocabulary.encode(text), count: length };
      }),
    );
    const answers = await write(prompts);
    answers.forEach((ids, i) => {
      const { start } = round[i % round.length]!;
      const own = written[Math.floor(i / round.length)]!;
      ids.forEach((id, k) => (own[start + k] = vocabulary.words[id]!));
    });
  }
  return written;
}
