/**
 * @file The text behind captioning, question answering and denoising in context: captions, and lists of
 * lines of the forms that the prompts have, made from captions and the names of factors alone. No clip and
 * no token has a part in it. A large model has met such lists everywhere; a small one must be shown them.
 *
 *     red blue a red : a large red circle moves left      words of a caption among others, then the caption
 *     red up ring blue ? shape : ring                     words, a question, the word that answers it
 *     red up up left : red up ring left                   a line with words changed, then the line
 */

import { type WordVocabulary, wordsOf } from "../../models/text-lm.ts";
import type { Random } from "../../runtime/random.ts";

export interface ListRule {
  readonly captions: readonly string[];
  readonly vocabulary: WordVocabulary;
  /** Answers by question. */
  readonly questions: { readonly [question: string]: readonly string[] };
  /** Words that stand for a clip before a caption or a question. */
  readonly lineWords: number;
  /** Lengths of the lines that are denoised. */
  readonly lengths: readonly number[];
  /** Words of a text. */
  readonly context: number;
}

/** Words of the lists besides those of captions and answers. */
export const listWords = (questions: readonly string[]): string[] => ["?", ...questions];

/** What the text is, for protocols. */
export const listCorpus =
  "one eighth captions, one quarter each lists of noisy words and captions, of questions, three eighths of changed lines and lines";

/** One text of exactly `context` ids. */
export function listText(rule: ListRule, random: Random): Int32Array {
  const kind = random.int(8);
  const line =
    kind === 0
      ? captionLine(rule, random)
      : kind <= 2
        ? describedLine(rule, random)
        : kind <= 4
          ? questionLine(rule, random)
          : denoisedLine(rule, random);
  const ids: number[] = [];
  while (ids.length < rule.context) {
    ids.push(...rule.vocabulary.encode(`${line()}\n`));
  }
  return Int32Array.from(ids.slice(0, rule.context));
}

const captionOf = ({ captions }: ListRule, random: Random): string[] =>
  wordsOf(random.choice(captions));

function captionLine(rule: ListRule, random: Random): () => string {
  return () => captionOf(rule, random).join(" ");
}

/** Words that carry meaning: no mark, no question. */
const plainWords = ({ vocabulary, questions }: ListRule): string[] => {
  const others = new Set(listWords(Object.keys(questions)));
  return vocabulary.words.slice(3).filter((word) => !others.has(word));
};

function describedLine(rule: ListRule, random: Random): () => string {
  const plain = plainWords(rule);
  const own = 0.3 + 0.6 * random.uniform();
  return () => {
    const caption = captionOf(rule, random);
    const words = Array.from({ length: rule.lineWords }, () =>
      random.choice(random.uniform() < own ? caption : plain),
    );
    return `${words.join(" ")} : ${caption.join(" ")}`;
  };
}

function questionLine(rule: ListRule, random: Random): () => string {
  const plain = plainWords(rule);
  const entries = Object.entries(rule.questions);
  return () => {
    const [question, answers] = random.choice(entries);
    const answer = random.choice(answers);
    const others = plain.filter((word) => !answers.includes(word));
    const times = 1 + random.int(Math.max(1, rule.lineWords - 1));
    const places = random.permutation(rule.lineWords).subarray(0, times);
    const words = Array.from({ length: rule.lineWords }, (_, i) =>
      places.includes(i) ? answer : random.choice(others.length > 0 ? others : plain),
    );
    return `${words.join(" ")} ? ${question} : ${answer}`;
  };
}

function denoisedLine(rule: ListRule, random: Random): () => string {
  const plain = plainWords(rule);
  const length = random.choice(rule.lengths);
  const headed = random.int(2) === 0; // a word in front that is not repeated
  const base = Array.from({ length }, () => random.choice(plain));
  const unlike = random.uniform(); // how much lines of a text differ
  const noise = 0.1 + 0.5 * random.uniform();
  return () => {
    const clean = base.map((word) => (random.uniform() < unlike ? random.choice(plain) : word));
    const noisy = clean.map((word) => (random.uniform() < noise ? random.choice(plain) : word));
    const head = headed ? `${random.choice(clean)} ` : "";
    return `${head}${noisy.join(" ")} : ${clean.join(" ")}`;
  };
}
