/** @file What a frozen language model writes in context: decoders, texts, and our own small model. */

import { describe, expect, it } from "vitest";
import {
  decoderNames,
  lineLengths,
  longestPrompt,
  type Pyramid,
  roundsOf,
  writeTokens,
} from "../../src/eval/in-context/decoders.ts";
import { type Prompt, trainFrozenLm } from "../../src/eval/in-context/frozen-lm.ts";
import { listText, listWords } from "../../src/eval/in-context/lists.ts";
import { WordVocabulary, wordsOf } from "../../src/models/text-lm.ts";
import { Random } from "../../src/runtime/random.ts";
import { openDevice } from "../../src/runtime/registry.ts";

const pyramid: Pyramid = { frames: 2, layers: [1, 4, 16], slice: 4 };
const vocabulary = new WordVocabulary("a b c d e f g h".split(" "));

describe("decoders", () => {
  it.each(decoderNames)("%s writes every token once, coarse layers first", (name) => {
    const rounds = roundsOf(name, pyramid);
    const places = rounds.flat().flatMap(({ start, length }) => {
      return Array.from({ length }, (_, k) => start + k);
    });
    expect(places).toEqual(Array.from({ length: 42 }, (_, i) => i));
    // What heads a line is written in an earlier round.
    for (const [r, round] of rounds.entries()) {
      for (const { head } of round) {
        const known = rounds.slice(0, r).flat();
        const written = known.some(({ start, length }) => head! >= start && head! < start + length);
        expect(head === undefined || written).toBe(true);
      }
    }
  });

  it("slice as they say", () => {
    expect(roundsOf("one-shot", pyramid)).toHaveLength(1);
    expect(roundsOf("par", pyramid).map((round) => round.length)).toEqual([1, 1, 1, 1, 1, 1]);
    expect(roundsOf("pnar", pyramid).map((round) => round.length)).toEqual([1, 1, 4, 1, 1, 4]);
    expect(lineLengths("pnar", pyramid)).toEqual([1, 4]);
    expect(longestPrompt("one-shot", pyramid, 3)).toBe(4 * (42 + 42 + 2));
  });

  it.each(decoderNames)(
    "%s: a model that repeats a line's tokens repeats the query's",
    async (name) => {
      const random = new Random(0, "test");
      const line = () => Array.from({ length: 42 }, () => random.choice("abcdefgh".split("")));
      const queries = [0, 1, 2].map(() => ({
        examples: [{ noisy: line(), clean: line() }],
        noisy: line(),
      }));
      const longest: number[] = [];
      const repeat = async (prompts: readonly Prompt[]) =>
        prompts.map(({ prompt, count }) => {
          longest.push(prompt.length + count);
          return prompt.slice(-count - 1, -1); // the tokens before the last colon
        });
      const written = await writeTokens(name, pyramid, queries, vocabulary, repeat);
      expect(written).toEqual(queries.map(({ noisy }) => noisy));
      // The line's end is the only word of the bound that a prompt does not hold.
      expect(Math.max(...longest)).toBeLessThanOrEqual(longestPrompt(name, pyramid, 1));
    },
  );

  it("progressive lines begin with the frame's first token as it was written", async () => {
    const examples = [{ noisy: Array<string>(42).fill("a"), clean: Array<string>(42).fill("b") }];
    const seen: string[] = [];
    await writeTokens(
      "pnar",
      pyramid,
      [{ examples, noisy: Array<string>(42).fill("c") }],
      vocabulary,
      async (prompts) => {
        seen.push(prompts[0]!.prompt.map((id) => vocabulary.words[id]).join(" "));
        return prompts.map(({ count }) => Array<number>(count).fill(vocabulary.encode("d")[0]!));
      },
    );
    expect(seen.slice(0, 2)).toEqual(["a : b \n c :", "b a a a a : b b b b \n d c c c c :"]);
  });
});

describe("the small language model", () => {
  const captions = ["a red circle goes left", "a blue square going up"];
  const questions = { colour: ["blue", "red"], shape: ["circle", "square"] };
  const words = new WordVocabulary([
    ...listWords(["colour", "shape"]),
    ...captions.flatMap(wordsOf),
  ]);
  const rule = {
    captions,
    vocabulary: words,
    questions,
    lineWords: 3,
    lengths: [1, 3],
    context: 20,
  };

  it("learns from captions, questions with their answers, and lines that are repaired", () => {
    const random = new Random(0, "test/lists");
    let [asked, right] = [0, 0];
    for (let i = 0; i < 300; i++) {
      const ids = listText(rule, random);
      expect(ids.length).toBe(20);
      const text = Array.from(ids, (id) => words.words[id]!).join(" ");
      for (const [, before, question, answer] of text.matchAll(
        /(\S+ \S+ \S+) \? (colour|shape) : (\S+)/g,
      )) {
        asked++;
        const kind = questions[question as keyof typeof questions];
        const named = before!.split(" ").filter((word) => kind.includes(word));
        right += Number(kind.includes(answer!) && named.every((word) => word === answer));
      }
    }
    expect(asked).toBeGreaterThan(50);
    expect(right).toBe(asked);
  });

  it("writes what it finds most probable, prompt by prompt and in batches alike", async () => {
    const device = await openDevice({ type: "reference" });
    const lm = await trainFrozenLm(
      device,
      { width: 8, depth: 1, heads: 2, steps: 3, batch: 2, lr: 0.01, seed: 0 },
      { vocabulary: words.size, context: 12 },
      (random) => listText({ ...rule, context: 12 }, random),
      () => undefined,
    );
    const prompts = [
      { prompt: words.encode("a red circle :"), count: 3 },
      { prompt: words.encode("blue"), count: 5 },
      { prompt: words.encode("left up :"), count: 1 },
    ];
    const together = await lm.write(prompts);
    expect(together.map(({ length }) => length)).toEqual([3, 5, 1]);
    for (const [i, one] of prompts.entries()) {
      expect(await lm.write([one])).toEqual([together[i]]);
    }
    const judged = await lm.judge(
      prompts.map(({ prompt }, i) => ({ prompt, answer: together[i]! })),
    );
    expect(judged.map(({ greedy }) => greedy)).toEqual([true, true, true]);
    lm.dispose();
    device.dispose();
  });
});
