/**
 * @file The prompt of few-shot classification in context, in the terms of Frozen (Tsimpoukelli et al.
 * 2021) that SPAE takes over: task induction (a first line that names the classes), inner shots
 * (different examples of each class) and repeats (how often each example is shown again).
 *
 *     answer with circle or square
 *     a red big : circle
 *     blue the a : square
 *     red a a :
 */

import type { Random } from "../../runtime/random.ts";

/** Words of the prompt besides those of tokens and classes. */
export const promptWords = ["answer", "with", "or"] as const;

/** A labelled example: a clip's tokens as words, and which of the episode's classes it is of. */
export interface Example {
  readonly words: readonly string[];
  readonly way: number;
}

export interface PromptRule {
  /** Begin with the line that names the classes. */
  readonly induction: boolean;
  /** How often each example is shown again. */
  readonly repeats: number;
}

/** The line that says which answers there are. */
export function inductionLine(names: readonly string[]): string {
  return `answer with ${names.join(" or ")}\n`;
}

/** Examples in the order they are shown: every round has each of them once, in an order of its own. */
export function arrange<T>(support: readonly T[], repeats: number, random: Random): T[] {
  return Array.from({ length: repeats + 1 }, () =>
    Array.from(random.permutation(support.length), (i) => support[i]!),
  ).flat();
}

/**
 * The text up to the answer.
 * @param names of the classes by way, words apart by blanks
 * @param query the tokens of the clip that is asked about, as words
 */
export function promptText(
  names: readonly string[],
  examples: readonly Example[],
  query: readonly string[],
  induction: boolean,
): string {
  const lines = examples.map(({ words, way }) => `${words.join(" ")} : ${names[way]}\n`);
  return `${induction ? inductionLine(names) : ""}${lines.join("")}${query.join(" ")} :`;
}
