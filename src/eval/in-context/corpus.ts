/**
 * @file The text that the small language model learns from: captions, and lists of words with a name
 * behind each, made from captions alone. No clip and no token has a part in it. The lists are what a
 * large model has met everywhere in its own corpus and a small one must be shown: that a text may call
 * groups of words by names which hold for this text only (Chan et al. 2022 on what makes models learn in
 * context).
 */

import type { Random } from "../../runtime/random.ts";
import { type WordVocabulary, wordsOf } from "../../models/text-lm.ts";
import { inductionLine } from "./prompt.ts";

export interface CorpusRule {
  readonly captions: readonly string[];
  readonly vocabulary: WordVocabulary;
  /** Words of a line of a list. */
  readonly lineWords: number;
  /** Words of a text. */
  readonly context: number;
}

/** What the corpus is, for protocols. */
export const corpusName =
  "half captions, half named lists of 2 to 5 themes of 1 to 3 words of a caption, mixed with words common to the text and random ones";

/** One text of exactly `context` ids. */
export function corpusText(rule: CorpusRule, random: Random): Int32Array {
  const words = random.int(2) === 0 ? captionLines(rule, random) : namedLists(rule, random);
  return Int32Array.from(words.slice(0, rule.context));
}

function captionLines({ captions, vocabulary, context }: CorpusRule, random: Random): number[] {
  const ids: number[] = [];
  while (ids.length < context) {
    ids.push(...vocabulary.encode(`${wordsOf(random.choice(captions)).join(" ")}\n`));
  }
  return ids;
}

function namedLists(rule: CorpusRule, random: Random): number[] {
  const { captions, vocabulary, lineWords, context } = rule;
  const plain = vocabulary.words.slice(3);
  const ways = Math.min(2 + random.int(4), plain.length);
  const themes = Array.from({ length: ways }, () => {
    const caption = wordsOf(random.choice(captions));
    return Array.from({ length: 1 + random.int(3) }, () => random.choice(caption));
  });
  const names: string[] = [];
  for (const theme of themes) {
    let name = random.int(2) === 0 ? random.choice(theme) : random.choice(plain);
    // A name says which theme it is: it is never given twice in a text.
    while (names.includes(name)) {
      name = random.choice(plain);
    }
    names.push(random.int(4) === 0 ? `${name} ${random.choice(plain)}` : name);
  }
  const common = Array.from({ length: 3 }, () => random.choice(plain));
  const own = 0.3 + 0.7 * random.uniform(); // share of the theme's words
  const ids = random.int(2) === 0 ? vocabulary.encode(inductionLine(names)) : [];
  while (ids.length < context) {
    const way = random.int(ways);
    const line = Array.from({ length: lineWords }, () =>
      random.uniform() < own
        ? random.choice(themes[way]!)
        : random.choice(random.int(2) === 0 ? common : plain),
    );
    ids.push(...vocabulary.encode(`${line.join(" ")} : ${names[way]}\n`));
  }
  return ids;
}
