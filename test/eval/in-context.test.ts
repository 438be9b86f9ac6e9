/** @file Few-shot classification in context: its prompts, what known models get, and our own small model. */

import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { Dataset } from "../../src/data/dataset.ts";
import type { FrozenLm, Question } from "../../src/eval/in-context/frozen-lm.ts";
import { trainFrozenLm } from "../../src/eval/in-context/frozen-lm.ts";
import { corpusText } from "../../src/eval/in-context/corpus.ts";
import { arrange, promptText } from "../../src/eval/in-context/prompt.ts";
import {
  askedOf,
  build,
  type InContextConfig,
  type LmTask,
} from "../../src/eval/in-context-suite.ts";
import { protocolHash, type Score } from "../../src/eval/suite.ts";
import { WordVocabulary, wordsOf } from "../../src/models/text-lm.ts";
import { Scope } from "../../src/models/scope.ts";
import { writeFileAtomic } from "../../src/runtime/files.ts";
import { Random } from "../../src/runtime/random.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { encodeSafetensors } from "../../src/runtime/safetensors.ts";
import { float32 } from "../../src/runtime/tensors.ts";
import { buildQuantizer, type QuantizerConfig } from "../../src/tokenizers/quantizers/registry.ts";
import type { Tokenizer } from "../../src/tokenizers/tokenizer.ts";
import { blockTokenizer, context } from "./fakes.ts";

const lm = {
  width: 16,
  depth: 1,
  heads: 2,
  steps: 2,
  batch: 8,
  lr: 0.003,
  captions: 20,
  seed: 0,
};
const config: InContextConfig = {
  type: "in-context",
  target: "colour",
  ways: 2,
  inner_shots: 2,
  repeats: 0,
  induction: true,
  layers: 1,
  frames: 2,
  lexicon: "words",
  episodes: 400,
  split: "validation",
  clips: 96,
  seed: 0,
  lm,
};

/** The block tokenizer's first factor as a pyramid of 16 tokens and no more, with eight words. */
const words = ["red", "blue", "a", "left", "over", "circle", "up", "striped"];
function wordTokenizer(): Tokenizer {
  const blocks = blockTokenizer(5, 16, 8);
  return {
    ...blocks,
    factors: [8],
    encode(clips) {
      const { ids, codes } = blocks.encode(clips);
      return { ids: ids.slice([0, 0, 0, 0, 0], [-1, -1, -1, -1, 1]), codes };
    },
    lexical: { layers: [4, 12], words: () => words },
  };
}

const value = (scores: readonly Score[], name: string) =>
  scores.find((score) => score.name === `words/${name}`)!.value;

/** A model whose ln p of an answer is what a function says. */
function model(log: (question: Question, task: LmTask) => number, seen: LmTask[] = []) {
  return async (task: LmTask): Promise<FrozenLm> => {
    seen.push(task);
    return {
      judge: async (questions) =>
        questions.map((question) => {
          expect(question.prompt.length + question.answer.length).toBeLessThanOrEqual(task.context);
          const logProbability = log(question, task);
          return { logProbability, greedy: logProbability === 0 };
        }),
      dispose: () => undefined,
    };
  };
}

describe("prompts", () => {
  const items = Array.from({ length: 12 }, (_, i) => ({
    words: [`w${i}`, words[i % 8]!],
    name: ["circle", "ring", "square"][i % 3]!,
  }));
  const names = ["circle", "ring", "square"];
  const labelled = {
    type: "test",
    split: "validation" as const,
    size: 12,
    labelOf: (i: number) => i % 3,
  };
  const rule = { ways: 2, inner_shots: 2, repeats: 1, induction: true, seed: 3 };

  it("are a fixed text for an episode", () => {
    expect(askedOf(rule, items, names, labelled, 5)).toMatchInlineSnapshot(`
      {
        "answers": [
          "ring
      ",
          "square
      ",
        ],
        "prompt": "answer with ring or square
      w5 circle : square
      w10 a : ring
      w11 left : square
      w7 striped : ring
      w5 circle : square
      w10 a : ring
      w11 left : square
      w7 striped : ring
      w2 a :",
        "right": 1,
      }
    `);
    expect(askedOf(rule, items, names, labelled, 6)).not.toEqual(
      askedOf(rule, items, names, labelled, 5),
    );
  });

  it("are lines of words and names, with and without induction", () => {
    const examples = [
      { words: ["red", "a"], way: 0 },
      { words: ["blue", "up"], way: 1 },
    ];
    const text = "red a : circle\nblue up : diagonal up\nred red :";
    const given = ["circle", "diagonal up"];
    expect(promptText(given, examples, ["red", "red"], false)).toBe(text);
    expect(promptText(given, examples, ["red", "red"], true)).toBe(
      `answer with circle or diagonal up\n${text}`,
    );
  });

  it("show every example in each round, and never the clip that is asked about", () => {
    const order = arrange([0, 1, 2, 3, 4], 2, new Random(0, "test"));
    for (let round = 0; round < 3; round++) {
      expect(order.slice(5 * round, 5 * round + 5).sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 4]);
    }
    for (let number = 0; number < 50; number++) {
      const { prompt } = askedOf(rule, items, names, labelled, number);
      const lines = prompt.split("\n");
      expect(lines.length).toBe(1 + 2 * 2 * 2 + 1);
      const query = lines.at(-1)!.replace(" :", "");
      expect(lines.slice(0, -1).some((line) => line.startsWith(`${query} `))).toBe(false);
    }
  });
});

/** Clips of one grey each, which says their class; classes 0 to 3 have 8 clips each in 32. */
function plainClips(
  options: Partial<Dataset> = {},
): (split: "train" | "validation") => Promise<Dataset> {
  return async (split) => ({
    type: "plain",
    split,
    size: 32,
    frames: 5,
    height: 16,
    width: 16,
    fps: 8,
    audioRate: 0,
    classes: ["Circle", "diagonal-up", "ring", "square"],
    fingerprint: "",
    get: async (index) => ({
      id: `${index}`,
      clip: new Uint8Array(5 * 16 * 16 * 3).fill(Math.round((255 * (index % 4)) / 7)),
      label: index % 4,
      caption: "A red circle, moving up",
      factors: { grey: index % 4, kind: ["one", "two", "three", "four"][index % 4]! },
    }),
    close: async () => undefined,
    ...options,
  });
}

describe("suite in-context", () => {
  const plain = { ...config, target: "label", episodes: 60, clips: 32, ways: 4 };
  const onPlain = (more: object = {}) =>
    context({ tokenizer: wordTokenizer(), dataset: plainClips(), ...more });
  const text = ({ prompt }: Question, { vocabulary }: LmTask): string =>
    prompt
      .map((id) => vocabulary.words[id]!)
      .join(" ")
      .replaceAll(" \n ", "\n");

  /** It says the name of the line whose words are those asked about. */
  const copying = model((question, task) => {
    const lines = text(question, task).split("\n");
    const line = lines.find((each) => each.startsWith(lines.at(-1)!))!;
    const answer = question.answer
      .map((id) => task.vocabulary.words[id])
      .join(" ")
      .trim();
    return line.split(" : ")[1] === answer ? 0 : -3;
  });

  it.each(["words", "shuffled"] as const)(
    "gives a model that can copy every answer where tokens tell the class: %s",
    async (lexicon) => {
      for (const target of ["label", "kind"]) {
        const suite = build({ ...plain, target, lexicon, repeats: 1 }, "words", copying);
        const scores = await suite.run(await onPlain());
        expect(value(scores, "accuracy")).toBe(100);
        expect(value(scores, "exact_match")).toBe(100);
        expect(value(scores, "chance")).toBe(25);
      }
    },
  );

  it("gives the opposite of such a model nothing", async () => {
    const wrong = model((question, task) => {
      const lines = text(question, task).split("\n");
      const line = lines.find((each) => each.startsWith(lines.at(-1)!))!;
      const answer = question.answer
        .map((id) => task.vocabulary.words[id])
        .join(" ")
        .trim();
      return line.split(" : ")[1] === answer ? -3 : -1;
    });
    const scores = await build(plain, "words", wrong).run(await onPlain());
    expect(value(scores, "accuracy")).toBe(0);
    expect(value(scores, "exact_match")).toBe(0);
  });

  it.each([2, 4])("gives a uniform model chance within its interval, %d ways", async (ways) => {
    const uniform = model(
      ({ answer }, { vocabulary }) => -answer.length * Math.log(vocabulary.size),
    );
    const scores = await build({ ...config, ways, episodes: 1000 }, "words", uniform).run(
      await context({ tokenizer: wordTokenizer() }),
    );
    const p = 1 / ways;
    const deviation = 100 * Math.sqrt((p * (1 - p)) / 1000);
    expect(Math.abs(value(scores, "accuracy") - 100 * p)).toBeLessThan(3.3 * deviation);
    expect(value(scores, "chance")).toBe(100 * p);
    expect(value(scores, "exact_match")).toBe(0);
  });

  it("tells its choices by the protocol's hash", async () => {
    const ctx = await onPlain();
    const one = (more: object) => build({ ...plain, ...more }, "words", copying).run(ctx);
    const hashes = new Set<string>();
    for (const more of [
      {},
      { ways: 2 },
      { inner_shots: 1 },
      { repeats: 1 },
      { induction: false },
      { frames: 1 },
      { layers: 2 },
      { lexicon: "shuffled" },
      { target: "kind" },
      { episodes: 61 },
      { seed: 1 },
      { lm: { ...lm, steps: 5 } },
    ]) {
      const [accuracy] = await one(more);
      expect(accuracy!.protocolHash).toBe(protocolHash(accuracy!.protocol));
      hashes.add(accuracy!.protocolHash);
    }
    expect(hashes.size).toBe(12);
    expect((await one({}))[0]!.protocolHash).toBe((await one({}))[0]!.protocolHash);
  });

  it("shows the model only words of captions, classes, tokens and the prompt", async () => {
    const seen: LmTask[] = [];
    await build(
      plain,
      "words",
      model(() => -1, seen),
    ).run(await onPlain());
    expect(seen[0]!.lineWords).toBe(8);
    expect(seen[0]!.captions.length).toBe(20);
    expect(seen[0]!.vocabulary.words.slice(3)).toEqual(
      [
        ...new Set(["answer", "with", "or", "diagonal", "ring", "square", "moving", ...words]),
      ].sort(),
    );
  });

  it("warns and gives no score where there are fewer classes than ways", async () => {
    const warnings: string[] = [];
    const ctx = await onPlain({ warn: (message: string) => warnings.push(message) });
    const untrained = async () => {
      throw new Error("no model is to be trained");
    };
    expect(await build({ ...plain, ways: 5 }, "words", untrained).run(ctx)).toEqual([]);
    expect(await build({ ...plain, inner_shots: 8 }, "words", untrained).run(ctx)).toEqual([]);
    expect(warnings[0]).toMatch(/no score: the 32 clips have 4 classes .* takes 5/);
    expect(warnings[1]).toMatch(/0 classes of 9 clips/);
  });

  it("says what is wrong with a tokenizer, a target or captions", async () => {
    const fails = async (more: object, ctx: object, message: RegExp) =>
      expect(
        build({ ...plain, ...more }, "words", copying).run(await onPlain(ctx)),
      ).rejects.toThrow(message);
    await fails({}, { tokenizer: blockTokenizer(5, 16, 8) }, /tokens are no words/);
    await fails({ layers: 3 }, {}, /3 layers .* has 2 layers/);
    await fails({ frames: 6 }, {}, /6 latent frames/);
    expect(() => build({ ...plain, lm: { ...lm, heads: 3 } }, "words")).toThrow(/3 heads/);
    await fails({ target: "grey" }, {}, /no factor "grey" in words/);
    const silent = async () => ({ id: "", label: 0, caption: "", clip: new Uint8Array(3840) });
    const mute = async (split: "train" | "validation") =>
      plainClips(split === "train" ? { get: silent } : {})(split);
    await fails({}, { dataset: mute }, /no captions/);
  });
});

describe("the small language model", () => {
  const captions = ["a red circle goes left", "a blue square, going up", "a green ring falls"];
  const vocabulary = new WordVocabulary(["answer", "with", "or", ...captions.flatMap(wordsOf)]);
  const rule = { captions, vocabulary, lineWords: 3, context: 24 };

  it("learns from texts of its vocabulary and length", () => {
    const random = new Random(0, "test/corpus");
    const kinds = new Set<boolean>();
    for (let i = 0; i < 200; i++) {
      const ids = corpusText(rule, random);
      expect(ids.length).toBe(24);
      expect(ids.every((id) => id > 0 && id < vocabulary.size)).toBe(true);
      kinds.add(ids.includes(2));
    }
    expect(kinds.size).toBe(2);
    expect(() => vocabulary.encode("a violet ring")).toThrow(/does not know the word "violet"/);
  });

  it("is the same for the same seed, learns, and knows its text's likely words", async () => {
    const device = await openDevice({ type: "reference" });
    const train = async (seed: number) => {
      const losses: number[] = [];
      const frozen = await trainFrozenLm(
        device,
        { ...lm, steps: 40, batch: 2, lr: 0.03, seed },
        { vocabulary: vocabulary.size, context: 8 },
        () => Int32Array.from(vocabulary.encode("a red circle goes left\na red")),
        (_, loss) => losses.push(loss),
      );
      const ask = (answer: string) => ({
        prompt: vocabulary.encode("a red"),
        answer: vocabulary.encode(answer),
      });
      const verdicts = await frozen.judge([ask("circle\n"), ask("circle goes"), ask("up")]);
      frozen.dispose();
      return { losses, verdicts, textLoss: frozen.textLoss };
    };
    const one = await train(1);
    expect(await train(1)).toEqual(one);
    expect((await train(2)).losses).not.toEqual(one.losses);
    expect(one.losses[0]).toBeGreaterThan(2);
    expect(one.textLoss).toBeLessThan(0.5);
    const [, right, wrong] = one.verdicts;
    expect(right!.greedy).toBe(true);
    expect(right!.logProbability).toBeGreaterThan(-0.7);
    expect(wrong!.greedy).toBe(false);
    expect(wrong!.logProbability).toBeLessThan(-2);
    device.dispose();
  });

  it("is trained by the suite itself", async () => {
    const suite = () => build({ ...config, episodes: 8, clips: 40 }, "words");
    const scores = await suite().run(await context({ tokenizer: wordTokenizer() }));
    expect(scores.map(({ name }) => name)).toEqual([
      "words/accuracy",
      "words/chance",
      "words/exact_match",
      "words/text_loss",
    ]);
    expect(await suite().run(await context({ tokenizer: wordTokenizer() }))).toEqual(scores);
  });
});

describe("words of a pyramid", () => {
  const quantizer = (path: string | undefined) =>
    buildQuantizer(
      {
        type: "spae",
        size: 3,
        width: 2,
        strides: [4, 2, 1],
        update: "average",
        commitment_weight: 0.25,
        layer_dropout: 0,
        ...(path !== undefined && { words: path }),
      } as QuantizerConfig,
      Scope.root(0),
    );

  it("come from the codebook's file, with the tokens of each layer", () => {
    const path = join(mkdtempSync(join(tmpdir(), "tessera-words-")), "words.safetensors");
    const tensors = new Map([["embeddings", float32([3, 2], new Float32Array(6))]]);
    const write = (metadata: { [key: string]: string }) =>
      writeFileAtomic(path, encodeSafetensors({ tensors, metadata }));
    write({ words: JSON.stringify(["red", "blue", "up"]) });
    const { lexical } = quantizer(path);
    expect(lexical!.layers(4, 4)).toEqual([1, 4, 16]);
    expect(lexical!.words!()).toEqual(["red", "blue", "up"]);
    write({});
    expect(() => lexical!.words!()).toThrow(/does not say what its 3 words are/);
    write({ words: "[broken" });
    expect(() => lexical!.words!()).toThrow(/does not say what its 3 words are/);
    expect(quantizer(undefined).lexical).not.toHaveProperty("words");
  });
});
