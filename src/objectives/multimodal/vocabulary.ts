/**
 * @file The one vocabulary of a multi-modal language model (VideoPoet, Kondratyuk et al. 2024, §3.1):
 * 256 special and task ids, then the visual codes, then the audio codes of all levels, then text.
 * With 2^18 visual and 4 × 1024 audio codes the first three are 266,496 ids.
 */

/** Ids that are kept for special tokens and tasks, used or not. */
export const SPECIALS = 256;

/** Special tokens: `_i` opens and closes inputs, `_o` outputs. */
export const special = {
  pad: 0,
  bos: 1,
  eos: 2,
  bot_i: 3,
  eot_i: 4,
  bov_i: 5,
  eov_i: 6,
  boa_i: 7,
  eoa_i: 8,
  source: 9,
  res: 10,
  bov_o: 11,
  eov_o: 12,
  boa_o: 13,
  eoa_o: 14,
} as const;
export type Special = keyof typeof special;

/** Task tokens begin here: one for each type of output. */
const FIRST_TASK = 16;

/** What a task puts out; each has a task token of its own (T2V, I2V, FP, ... share one). */
export const outputTypes = ["video", "image", "audio", "video+audio"] as const;
export type OutputType = (typeof outputTypes)[number];

/** The id of a task token. */
export const taskToken = (output: OutputType): number => FIRST_TASK + outputTypes.indexOf(output);

/** A range of ids: [first, first + size). */
export interface IdRange {
  readonly first: number;
  readonly size: number;
}

/** Where the modalities' ids lie. */
export interface Vocabulary {
  readonly size: number;
  readonly visual: IdRange;
  readonly audio: IdRange;
  readonly text: IdRange;
}

/**
 * Lay the vocabulary out.
 * @param visual number of visual codes
 * @param audio audio levels × codes a level; each level has codes of its own
 * @param text number of text tokens
 */
export function layVocabulary(visual: number, audio: number, text: number): Vocabulary {
  const first = { visual: SPECIALS, audio: SPECIALS + visual, text: SPECIALS + visual + audio };
  return {
    size: first.text + text,
    visual: { first: first.visual, size: visual },
    audio: { first: first.audio, size: audio },
    text: { first: first.text, size: text },
  };
}

/** One id of a token with F sub-ids (and back): the first factor is the most significant. */
export function joinFactors(
  ids: ArrayLike<number>,
  from: number,
  factors: readonly number[],
): number {
  let id = 0;
  for (let f = 0; f < factors.length; f++) {
    id = id * factors[f]! + ids[from + f]!;
  }
  return id;
}

/** The F sub-ids of a joint id. */
export function splitFactors(id: number, factors: readonly number[]): number[] {
  const parts: number[] = [];
  let rest = id;
  for (let f = factors.length - 1; f >= 0; f--) {
    parts.unshift(rest % factors[f]!);
    rest = Math.floor(rest / factors[f]!);
  }
  return parts;
}
