/**
 * @file Suite `in-context-generation`: what a frozen language model writes in context when clips are words
 * (SPAE, Yu et al., NeurIPS 2023): captions, answers to questions, and the tokens of clips themselves, which
 * it denoises from examples by three decoders (in-context/decoders.ts). The model is a small one of ours,
 * trained on text alone (in-context/lists.ts) before it is frozen; it never sees a clip or a token.
 *
 * Denoising: a share `corruption` of a clip's tokens is replaced by random words; examples are corrupted
 * more, the first most, and stand with their clean tokens. `copied` is what repeating the corrupted tokens
 * gets. PSNR is against the clip as decoded from its own first layers.
 */

import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import type { Sample } from "../data/dataset.ts";
import { WordVocabulary, wordsOf } from "../models/text-lm.ts";
import { Random } from "../runtime/random.ts";
import { chooseClips, clipKeys, clipSampling } from "./clips.ts";
import { decoderNames, lineLengths, longestPrompt, writeTokens } from "./in-context/decoders.ts";
import { compareTokens, denoisingQueries, layerDecoder } from "./in-context/denoise.ts";
import { type Item, collectItems } from "./in-context/items.ts";
import { openFolderLm } from "./in-context/folder-lm.ts";
import { type Prompt, trainFrozenLm, type WritingLm } from "./in-context/frozen-lm.ts";
import { listCorpus, type ListRule, listText, listWords } from "./in-context/lists.ts";
import { lmChoices, lmKeys, readCaptions, shownWords } from "./in-context-suite.ts";
import { score } from "./protocols.ts";
import { frameErrors, psnrPerFrame } from "./psnr.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";

const count = (minimum: number, value: number, description: string) =>
  Type.Integer({ minimum, default: value, description });

export const schema = closed(
  {
    type: Type.Literal("in-context-generation"),
    tasks: Type.Array(Type.Enum(["caption", "answer", "denoise"]), {
      default: ["caption", "answer", "denoise"],
      minItems: 1,
      description: "What is written: captions, answers to questions, tokens of clips.",
    }),
    decoders: Type.Array(Type.Enum([...decoderNames]), {
      default: [...decoderNames],
      minItems: 1,
      description:
        "How tokens are written: all in one line; layer by layer; layer by layer with long layers in slices at once.",
    }),
    questions: Type.Array(Type.String({ minLength: 1 }), {
      default: ["colour", "shape"],
      description: "Factors of the clips that are asked for; their values are words.",
    }),
    shots: count(1, 3, "Examples in a prompt."),
    same: Type.String({
      default: "colour",
      description:
        "Examples of denoising share this factor (or `label`) with the query; empty takes any clips.",
    }),
    layers: count(1, 3, "Layers of the pyramid that are written, coarse layers first."),
    told: count(1, 2, "Layers whose words stand for a clip before a caption or a question."),
    frames: count(1, 1, "Latent frames that are written, evenly spread over the clip."),
    slice: count(1, 4, "Tokens that pnar writes in one prompt."),
    corruption: Type.Number({
      minimum: 0,
      maximum: 1,
      default: 0.3,
      description: "Share of a query's tokens that are replaced by random words.",
    }),
    lexicon: Type.Union([Type.Literal("words"), Type.Literal("shuffled")], {
      default: "words",
      description:
        "Show each token as its word, or as another word by a fixed permutation: tokens without meaning, to compare with.",
    }),
    ...clipKeys,
    clips: count(1, 96, "Clips; all of the split when it has fewer."),
    lm: lmKeys({ steps: 2000, batch: 16 }),
  },
  { description: "Captions, answers and denoised tokens by a frozen language model." },
);
export type InContextGenerationConfig = Static<typeof schema>;

/** What a model is made from. */
export type MakeWriter = (
  rule: ListRule,
  config: InContextGenerationConfig,
  context: EvalContext,
) => Promise<WritingLm>;

const makeOwnWriter: MakeWriter = async (rule, { lm }, context) =>
  lm.folder !== undefined
    ? openFolderLm(lm.folder, rule.vocabulary)
    : trainFrozenLm(
        context.device,
        lm,
        { vocabulary: rule.vocabulary.size, context: rule.context },
        (random) => listText(rule, random),
        (step, loss) => {
          if (step % 100 === 0 || step === lm.steps) {
            context.progress(`language model, loss ${loss.toFixed(3)}`, step, lm.steps);
          }
        },
      );

/**
 * @param name the suite's name in the experiment; scores start with it
 * @param makeWriter another frozen model than our own
 */
export function build(
  config: InContextGenerationConfig,
  name: string,
  makeWriter: MakeWriter = makeOwnWriter,
): Suite {
  const { width, heads } = config.lm;
  if (width % heads !== 0) {
    throw new UserError(
      `suite ${name}: ${heads} heads of the language model do not divide its width ${width}`,
      "change lm.heads or lm.width",
    );
  }
  return { type: config.type, run: (context) => run(config, name, makeWriter, context) };
}

async function run(
  config: InContextGenerationConfig,
  name: string,
  makeWriter: MakeWriter,
  context: EvalContext,
): Promise<Score[]> {
  const clips = await collectItems(config, context, (table) => shownWords(config.lexicon, table));
  const { items, shown, stream, pyramid, toldPerFrame } = clips;
  const { captions, questions } = await readTexts(config, context);
  const answers = Object.values(questions).flat();
  const vocabulary = new WordVocabulary([
    ...listWords(config.questions),
    ...shown,
    ...answers,
    ...captions.flatMap(wordsOf),
  ]);
  const longestCaption = Math.max(...captions.map((caption) => wordsOf(caption).length));
  const toldWords = toldPerFrame * config.frames;
  const { shots } = config;
  const needed = Math.max(
    ...config.decoders.map((each) => longestPrompt(each, pyramid, shots)),
    (toldWords + longestCaption + 2) * (shots + 1),
    (toldWords + 5) * (shots + 1),
  );
  const rule: ListRule = {
    captions,
    vocabulary,
    questions,
    lineWords: toldWords,
    lengths: [...new Set(config.decoders.flatMap((each) => lineLengths(each, pyramid)))],
    context: needed,
  };
  const lm = await makeWriter(rule, config, context);
  const choices = {
    split: config.split,
    clips: items.length,
    sampling: clipSampling,
    sampling_seed: config.seed,
    pixels: stream.digest(),
    shots,
    lexicon: config.lexicon,
    frames: config.frames,
    lm: lmChoices(lm, config.lm, {
      corpus: listCorpus,
      vocabulary: vocabulary.size,
      context: needed,
      captions,
    }),
  };
  const scores: Score[] = [];
  const share = (of: string, hits: number, n: number, extra: object, better: "higher" | "none") =>
    scores.push(
      score(
        {
          name: `${name}/${of}`,
          value: (100 * hits) / n,
          unit: "%",
          better,
          n,
          std: 100 * Math.sqrt(((hits / n) * (1 - hits / n)) / n),
        },
        "in-context:generation",
        { ...choices, ...extra },
      ),
    );
  try {
    const write = (prompts: readonly Prompt[]) => lm.write(prompts);
    const drawn = (kind: string, query: number, same: (item: Item) => boolean): Item[] => {
      const random = new Random(config.seed, `eval/in-context/${kind}`, query);
      const others = items.filter((item, i) => i !== query && same(item));
      const order = random.permutation(others.length);
      return Array.from(order.subarray(0, shots), (i) => others[i]!);
    };
    if (config.tasks.includes("caption")) {
      const prompts = items.map((item, q) => ({
        prompt: vocabulary.encode(
          `${drawn("caption", q, () => true)
            .map((each) => `${each.told.join(" ")} : ${wordsOf(each.sample.caption).join(" ")}\n`)
            .join("")}${item.told.join(" ")} :`,
        ),
        count: longestCaption,
      }));
      const written = (await write(prompts)).map((ids) => ids.map((id) => vocabulary.words[id]!));
      for (const [question, values] of Object.entries(questions)) {
        // Right when the first word of the caption that could be an answer is the clip's own.
        const hits = written.filter(
          (words, i) =>
            words.find((word) => values.includes(word)) === valueOf(items[i]!.sample, question),
        );
        const extra = { told: config.told, task: "caption", factor: question };
        share(`caption/${question}`, hits.length, items.length, extra, "higher");
        share(`caption/${question}/chance`, 1, values.length, extra, "none");
      }
    }
    if (config.tasks.includes("answer")) {
      for (const [question, values] of Object.entries(questions)) {
        const line = (item: Item): string => `${item.told.join(" ")} ? ${question} :`;
        const prompts = items.map((item, q) => ({
          prompt: vocabulary.encode(
            `${drawn("answer", q, () => true)
              .map((each) => `${line(each)} ${valueOf(each.sample, question)}\n`)
              .join("")}${line(item)}`,
          ),
          count: 1,
        }));
        const written = await write(prompts);
        const hits = written.filter(
          ([id], i) => vocabulary.words[id!] === valueOf(items[i]!.sample, question),
        );
        const extra = { told: config.told, task: "answer", factor: question };
        share(`answer/${question}`, hits.length, items.length, extra, "higher");
        share(`answer/${question}/chance`, 1, values.length, extra, "none");
      }
    }
    if (config.tasks.includes("denoise")) {
      await denoise(drawn, write);
    }
  } finally {
    lm.dispose();
  }
  return scores;

  async function denoise(
    drawn: (kind: string, query: number, same: (item: Item) => boolean) => Item[],
    write: (prompts: readonly Prompt[]) => Promise<number[][]>,
  ): Promise<void> {
    const queries = denoisingQueries(config, items, shown, drawn);
    const decode = layerDecoder(context, config, clips);
    const tokens = items.length * clips.perFrame * config.frames;
    const clean = await decode(items.map(({ ids }) => ids));
    const back = new Map(shown.map((word, id) => [word, id]));
    const judge = async (of: string, written: string[][], better: "higher" | "none") => {
      const extra = {
        task: "denoise",
        decoder: of,
        layers: config.layers,
        slice: config.slice,
        same: config.same,
        corruption: config.corruption,
      };
      const { right, repaired, corrupted } = compareTokens(items, queries, written);
      share(`denoise/${of}/tokens`, right, tokens, extra, better);
      if (better === "higher") {
        share(`denoise/${of}/repaired`, repaired, Math.max(1, corrupted), extra, better);
      }
      // A word that is no token's (the model may write any) counts as the first token.
      const made = await decode(written.map((words) => words.map((word) => back.get(word) ?? 0)));
      const each = made.map((clip, i) =>
        psnrPerFrame(frameErrors(clean[i]!, clip, context.tokenizer.clip.frames)),
      );
      scores.push(
        score(
          {
            name: `${name}/denoise/${of}/psnr`,
            value: each.reduce((sum, x) => sum + x, 0) / each.length,
            unit: "dB",
            better,
            n: each.length,
          },
          "in-context:generation",
          { ...choices, ...extra },
        ),
      );
    };
    await judge(
      "copied",
      queries.map(({ noisy }) => [...noisy]),
      "none",
    );
    for (const way of config.decoders) {
      context.progress(`denoising, ${way}`);
      await judge(way, await writeTokens(way, pyramid, queries, vocabulary, write), "higher");
    }
  }
}

/** A factor's value of a clip as one word. */
function valueOf({ factors }: Sample, question: string): string {
  const value = factors?.[question];
  return typeof value === "string" ? wordsOf(value).join("") : "";
}

/** Captions of the train split, and the values of the factors that are asked for. */
async function readTexts(config: InContextGenerationConfig, context: EvalContext) {
  const captions = await readCaptions(config, context);
  const train = await context.dataset("train");
  const found = config.questions.map((question) => [question, new Set<string>()] as const);
  for (const index of chooseClips(train.size, config.lm.captions, config.lm.seed)) {
    const sample = await train.get(index, 0);
    for (const [question, values] of found) {
      values.add(valueOf(sample, question));
    }
  }
  for (const [question, values] of found) {
    if (values.has("")) {
      throw new UserError(
        `suite in-context-generation: clips of ${train.type} have no factor "${question}" in words`,
        "change `questions`",
      );
    }
  }
  const questions = Object.fromEntries(found.map(([key, values]) => [key, [...values].sort()]));
  return { captions, questions };
}
