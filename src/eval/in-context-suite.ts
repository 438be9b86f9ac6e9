/**
 * @file Suite `in-context`: n-way k-shot classification of held-out clips by their lexical tokens under a
 * frozen language model (SPAE, Yu et al., NeurIPS 2023). The model is a small one of ours, trained on
 * the captions' text alone (in-context/corpus.ts) before it is frozen; it never sees a clip or a token.
 */

import { createHash } from "node:crypto";
import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import type { Dataset, Sample } from "../data/dataset.ts";
import { type Episode, episode, type Labelled } from "../data/episodes.ts";
import { WordVocabulary, wordsOf } from "../models/text-lm.ts";
import { Random } from "../runtime/random.ts";
import type { Tokenizer } from "../tokenizers/tokenizer.ts";
import { checkClipShape, ClipStream, chooseClips, clipKeys } from "./clips.ts";
import { corpusName, corpusText } from "./in-context/corpus.ts";
import { openFolderLm } from "./in-context/folder-lm.ts";
import {
  type FrozenLm,
  type Question,
  trainFrozenLm,
  type Verdict,
} from "./in-context/frozen-lm.ts";
import { arrange, inductionLine, promptText, promptWords } from "./in-context/prompt.ts";
import { clipChoices, type Measured, score } from "./protocols.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";
import { tokenizerFunctions } from "./tokenize.ts";

const count = (minimum: number, value: number, description: string) =>
  Type.Integer({ minimum, default: value, description });

/** The key `lm` of a suite. */
export const lmKeys = (defaults: { readonly steps: number; readonly batch: number }) =>
  Type.Object(
    {
      width: count(8, 64, "Width of the residual stream."),
      depth: count(1, 3, "Number of blocks."),
      heads: count(1, 4, "Attention heads of a block; must divide the width."),
      steps: count(1, defaults.steps, "Optimizer steps."),
      batch: count(1, defaults.batch, "Texts of a step."),
      lr: Type.Number({
        exclusiveMinimum: 0,
        default: 0.002,
        description: "Peak learning rate.",
      }),
      captions: count(1, 512, "Captions of the train split that texts are made from."),
      seed: count(0, 0, "Seed of its weights and texts; part of the protocol."),
      folder: Type.Optional(
        Type.String({
          minLength: 1,
          description:
            "A local folder with a causal language model in Hugging Face's layout (tokenizer.json with byte-level BPE, onnx/model.onnx), frozen, in place of the small one that is trained here; the other keys of `lm` then only choose captions.",
        }),
      ),
    },
    {
      additionalProperties: false,
      default: {},
      description: "The language model and its training on text.",
    },
  );

export const schema = closed(
  {
    type: Type.Literal("in-context"),
    target: Type.String({
      minLength: 1,
      default: "label",
      description:
        "What is told apart: `label` (the data set's classes) or a factor of procedural clips whose values are words (`shape`, `colour`, `motion`).",
    }),
    ways: count(2, 2, "Classes of an episode."),
    inner_shots: count(1, 1, "Different examples of each class in the prompt."),
    repeats: count(0, 0, "How often each example is shown again."),
    induction: Type.Boolean({
      default: true,
      description: "Begin the prompt with a line that names the classes.",
    }),
    layers: count(1, 2, "Layers of the pyramid whose tokens are shown, coarse layers first."),
    frames: count(1, 1, "Latent frames that are shown, evenly spread over the clip."),
    lexicon: Type.Union([Type.Literal("words"), Type.Literal("shuffled")], {
      default: "words",
      description:
        "Show each token as its word, or as another word by a fixed permutation: tokens without meaning, to compare with.",
    }),
    episodes: count(1, 256, "Episodes; each asks about one clip."),
    ...clipKeys,
    lm: lmKeys({ steps: 1500, batch: 32 }),
  },
  { description: "Few-shot classification by a frozen language model that sees tokens as words." },
);

export type InContextConfig = Static<typeof schema>;

/** What a language model is made from: ids below `vocabulary.size`, texts of `context` ids. */
export interface LmTask {
  readonly vocabulary: WordVocabulary;
  readonly context: number;
  readonly captions: readonly string[];
  readonly lineWords: number;
}

type MakeLm = (task: LmTask, config: InContextConfig, context: EvalContext) => Promise<FrozenLm>;

const makeOwnLm: MakeLm = async (task, { lm }, context) =>
  lm.folder !== undefined
    ? openFolderLm(lm.folder, task.vocabulary)
    : trainFrozenLm(
        context.device,
        lm,
        { vocabulary: task.vocabulary.size, context: task.context },
        (random) => corpusText(task, random),
        (step, loss) => {
          if (step % 100 === 0 || step === lm.steps) {
            context.progress(`language model, loss ${loss.toFixed(3)}`, step, lm.steps);
          }
        },
      );

/**
 * @param name the suite's name in the experiment; scores start with it
 * @param makeLm another frozen model than our own
 */
export function build(config: InContextConfig, name: string, makeLm: MakeLm = makeOwnLm): Suite {
  const { width, heads } = config.lm;
  if (width % heads !== 0) {
    throw new UserError(
      `suite ${name}: ${heads} heads of the language model do not divide its width ${width}`,
      "change lm.heads or lm.width",
    );
  }
  return { type: config.type, run: (context) => run(config, name, makeLm, context) };
}

/** The word that each token is shown as. */
export function shownWords(lexicon: "words" | "shuffled", table: readonly string[]): string[] {
  const words = table.map((word) => wordsOf(word).join(""));
  const shuffled = new Random(0, "eval/in-context/lexicon").permutation(words.length);
  return lexicon === "words" ? words : Array.from(shuffled, (i) => words[i]!);
}

/** The words and which tokens of a latent frame are shown. */
function lexiconOf(config: InContextConfig, { lexical, grid }: Tokenizer) {
  if (!lexical?.words) {
    throw new UserError(
      "suite in-context: the tokenizer's tokens are no words",
      "use a pyramid with a table of words (tokenizer.quantizer.type: spae, quantizer.words: FILE), or leave the suite out",
    );
  }
  if (config.layers > lexical.layers.length || config.frames > grid[0]) {
    throw new UserError(
      `suite in-context: ${config.layers} layers of ${config.frames} latent frames are asked for, the tokenizer has ${lexical.layers.length} layers and ${grid[0]} frames`,
      "lower `layers` or `frames`",
    );
  }
  return {
    shown: shownWords(config.lexicon, lexical.words()),
    perFrame: lexical.layers.slice(0, config.layers).reduce((sum, n) => sum + n, 0),
  };
}

/** A clip that may be shown or asked about. */
interface Item {
  readonly words: readonly string[];
  /** The class's name as words apart by blanks; empty where it has none. */
  readonly name: string;
}

/** The class of a sample in words. */
function nameOf(target: string, dataset: Dataset, { label, factors }: Sample): string {
  if (target === "label") {
    return wordsOf(dataset.classes[label] ?? "").join(" ");
  }
  const value = factors?.[target];
  if (typeof value !== "string") {
    const known = Object.entries(factors ?? {}).filter(([, v]) => typeof v === "string");
    throw new UserError(
      `suite in-context: clips of ${dataset.type} have no factor "${target}" in words`,
      known.length > 0
        ? `set target to label or one of ${known.map(([key]) => key).join(", ")}`
        : "set target: label",
    );
  }
  return wordsOf(value).join(" ");
}

async function collect(config: InContextConfig, context: EvalContext) {
  const { tokenizer, device } = context;
  const { shown, perFrame } = lexiconOf(config, tokenizer);
  const dataset = await context.dataset(config.split);
  checkClipShape(dataset, tokenizer.clip);
  const indices = chooseClips(dataset.size, config.clips, config.seed);
  const stream = new ClipStream(dataset, indices, context.batch);
  const { encode } = tokenizerFunctions(device, tokenizer);
  const [t, h, w] = tokenizer.grid;
  const items: Item[] = [];
  for await (const batch of stream) {
    const { ids } = await encode(batch.clips);
    for (let i = 0; i < batch.size; i++) {
      const words = Array.from({ length: config.frames }, (_, f) => {
        const frame = Math.floor(((f + 0.5) * t) / config.frames);
        const start = (i * t + frame) * h * w;
        return Array.from(ids.subarray(start, start + perFrame), (id) => shown[id]!);
      }).flat();
      // Factors are known to samples alone, which the stream does not pass on.
      const sample = await dataset.get(indices[items.length]!, 0);
      items.push({ words, name: nameOf(config.target, dataset, sample) });
    }
    context.progress("clips", items.length, indices.length);
  }
  return { items, stream, shown, lineWords: perFrame * config.frames };
}

/** Captions of the train split, for the language model. */
export async function readCaptions(
  config: Pick<InContextConfig, "lm">,
  context: Pick<EvalContext, "dataset">,
): Promise<string[]> {
  const train = await context.dataset("train");
  const captions: string[] = [];
  for (const index of chooseClips(train.size, config.lm.captions, config.lm.seed)) {
    const { caption } = await train.get(index, 0);
    if (wordsOf(caption).length > 0) {
      captions.push(caption);
    }
  }
  if (captions.length === 0) {
    throw new UserError(
      `suite in-context: clips of ${train.type} have no captions, so there is no text to learn from`,
      "use a data set with captions, or leave the suite out",
    );
  }
  return captions;
}

/** An episode as text: what the model is asked, and which answer is right. */
export interface Asked {
  readonly prompt: string;
  readonly answers: readonly string[];
  readonly right: number;
}

/** Episode `number`: a pure function of the items, the config and its seed. */
export function askedOf(
  config: Pick<InContextConfig, "ways" | "inner_shots" | "repeats" | "induction" | "seed">,
  items: readonly Item[],
  names: readonly string[],
  labelled: Labelled,
  number: number,
): Asked {
  const { ways, inner_shots: shots, repeats, induction, seed } = config;
  const drawn: Episode = episode(labelled, { ways, shots, queries: 1 }, seed, number);
  const random = new Random(seed, "eval/in-context/order", number);
  const { index, way: right } = drawn.query[random.int(ways)]!;
  const examples = arrange(
    drawn.support.map((item) => ({ words: items[item.index]!.words, way: item.way })),
    repeats,
    random,
  );
  const answers = drawn.classes.map((label) => names[label]!);
  return {
    prompt: promptText(answers, examples, items[index]!.words, induction),
    answers: answers.map((name) => `${name}\n`),
    right,
  };
}

async function run(
  config: InContextConfig,
  name: string,
  makeLm: MakeLm,
  context: EvalContext,
): Promise<Score[]> {
  const { items, stream, shown, lineWords } = await collect(config, context);
  const { ways, inner_shots: shots, repeats } = config;
  const names = [...new Set(items.map((item) => item.name))].filter(Boolean).sort();
  const labels = items.map((item) => names.indexOf(item.name));
  const enough = names.filter((_, k) => labels.filter((l) => l === k).length > shots).length;
  if (enough < ways) {
    context.warn(
      `no score: the ${items.length} clips have ${enough} classes of ${shots + 1} clips and more, an episode takes ${ways}`,
    );
    return [];
  }
  const { type, split } = stream.dataset;
  const labelled: Labelled = { type, split, size: items.length, labelOf: (i) => labels[i]! };
  const asked = Array.from({ length: config.episodes }, (_, number) =>
    askedOf(config, items, names, labelled, number),
  );

  const captions = await readCaptions(config, context);
  const vocabulary = new WordVocabulary([
    ...promptWords,
    ...shown,
    ...names.flatMap(wordsOf),
    ...captions.flatMap(wordsOf),
  ]);
  const longest = Math.max(...names.map((each) => wordsOf(each).length)) + 1; // with the line's end
  const lines = ways * shots * (repeats + 1) + 1;
  const length =
    (config.induction ? vocabulary.encode(inductionLine(names.slice(0, ways))).length : 0) +
    lines * (lineWords + 1 + longest) +
    ways * longest;
  const lm = await makeLm({ vocabulary, context: length, captions, lineWords }, config, context);
  try {
    const questions = asked.flatMap(({ prompt, answers }) =>
      answers.map(
        (answer): Question => ({
          prompt: vocabulary.encode(prompt),
          answer: vocabulary.encode(answer),
        }),
      ),
    );
    const verdicts = await lm.judge(questions);
    return scoresOf(name, tally(asked, verdicts), lm.textLoss, {
      ...clipChoices(stream, config.seed),
      ...Object.fromEntries(Object.entries(config).filter(([key]) => !dropped.includes(key))),
      classes_told_apart: enough,
      tokens_shown: lineWords,
      lm: lmChoices(lm, config.lm, {
        corpus: corpusName,
        vocabulary: vocabulary.size,
        context: length,
        captions,
      }),
    });
  } finally {
    lm.dispose();
  }
}

/** What a protocol says of the language model: how ours was made, or which one from outside it is. */
export function lmChoices(
  lm: FrozenLm,
  config: InContextConfig["lm"],
  made: {
    readonly corpus: string;
    readonly vocabulary: number;
    readonly context: number;
    readonly captions: readonly string[];
  },
): { readonly [choice: string]: unknown } {
  if (lm.fingerprint !== undefined) {
    return { folder_sha256: lm.fingerprint, vocabulary: made.vocabulary };
  }
  const { captions, ...rest } = made;
  const own = Object.fromEntries(Object.entries(config).filter(([key]) => key !== "folder"));
  const digest = createHash("sha256").update(captions.join("\n")).digest("hex").slice(0, 16);
  return { ...own, ...rest, captions_sha256: digest };
}

/** Keys of the config that the clips' choices say already. */
const dropped = ["type", "split", "clips", "seed", "lm"];

function tally(asked: readonly Asked[], verdicts: readonly Verdict[]) {
  let chosen = 0;
  let exact = 0;
  let at = 0;
  for (const { answers, right } of asked) {
    const own = verdicts.slice(at, at + answers.length);
    at += answers.length;
    const best = Math.max(...own.map(({ logProbability }) => logProbability));
    chosen += own.findIndex(({ logProbability }) => logProbability === best) === right ? 1 : 0;
    exact += own[right]!.greedy ? 1 : 0;
  }
  return { n: asked.length, ways: asked[0]!.answers.length, chosen, exact };
}

function scoresOf(
  name: string,
  { n, ways, chosen, exact }: ReturnType<typeof tally>,
  textLoss: number | undefined,
  choices: { readonly [choice: string]: unknown },
): Score[] {
  const of = (measured: Omit<Measured, "n">, answer: string): Score =>
    score({ ...measured, n }, "in-context:classification", { ...choices, answer });
  const share = (hits: number) => ({
    value: (100 * hits) / n,
    unit: "%",
    better: "higher" as const,
    std: 100 * Math.sqrt(((hits / n) * (1 - hits / n)) / n),
  });
  return [
    of({ name: `${name}/accuracy`, ...share(chosen) }, "the most probable name of the episode's"),
    of({ name: `${name}/chance`, value: 100 / ways, unit: "%", better: "none" }, "a guess"),
    of(
      { name: `${name}/exact_match`, ...share(exact) },
      "the most probable words, of the whole vocabulary",
    ),
    ...(textLoss === undefined
      ? []
      : [
          of(
            { name: `${name}/text_loss`, value: textLoss, unit: "nats/word", better: "none" },
            "none; new texts of the corpus",
          ),
        ]),
  ];
}
