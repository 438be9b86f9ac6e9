/** @file Suite `rate`: what the tokens of held-out clips cost in bits, with and without entropy coding. */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, Type } from "../config/schema.ts";
import { isCausal } from "../objectives/causal.ts";
import type { Objective } from "../objectives/objective.ts";
import { bitsPerToken } from "../tokenizers/tokenizer.ts";
import { checkClipShape, type ClipBatch, ClipStream, chooseClips, clipKeys } from "./clips.ts";
import { CodeCounts, codebookStatistics, jointCode } from "./codebook.ts";
import { clipChoices, type ProtocolName, score } from "./protocols.ts";
import { AdaptiveCode, bitsPerPixel } from "./rate.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";
import { tokenizerFunctions } from "./tokenize.ts";

export const schema = closed(
  {
    type: Type.Literal("rate"),
    ...clipKeys,
    alphabet: Type.Union([Type.Literal("joint"), Type.Literal("factors")], {
      default: "factors",
      description:
        "Symbols of the entropy codes: each factor's sub-ids in a code of its own, or whole tokens, which sees what factors share but starves when few tokens occur twice. The same for a single factor.",
    }),
  },
  { description: "Bits a token, a clip and a pixel of the original." },
);

export type RateConfig = Static<typeof schema>;

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: RateConfig, name: string): Suite {
  return { type: config.type, run: (context) => run(config, name, context) };
}

/** The symbol alphabets of one alphabet: counts and both adaptive codes of each. */
interface Symbols {
  readonly counts: CodeCounts;
  readonly order0: AdaptiveCode;
  readonly order1: AdaptiveCode;
}

async function run(config: RateConfig, name: string, context: EvalContext): Promise<Score[]> {
  const dataset = await context.dataset(config.split);
  checkClipShape(dataset, context.tokenizer.clip);
  const { factors, grid, clip } = context.tokenizer;
  const sizes =
    config.alphabet === "joint" ? [factors.reduce((product, size) => product * size, 1)] : factors;
  const alphabets: Symbols[] = sizes.map((size) => ({
    counts: new CodeCounts(size),
    order0: new AdaptiveCode(size, "kt"),
    order1: new AdaptiveCode(size, "kt", 1),
  }));
  const { encode } = tokenizerFunctions(context.device, context.tokenizer);
  const indices = chooseClips(dataset.size, config.clips, config.seed);
  const stream = new ClipStream(dataset, indices, context.batch);
  const tokensPerClip = grid[0] * grid[1] * grid[2];
  const prior = context.objective ? learnedPrior(context, context.objective) : undefined;
  let priorBits = 0;
  let done = 0;
  for await (const batch of stream) {
    const { ids } = await encode(batch.clips);
    for (let i = 0; i < batch.size; i++) {
      for (const { order1 } of alphabets) {
        order1.restart();
      }
      for (let token = 0; token < tokensPerClip; token++) {
        const from = (i * tokensPerClip + token) * factors.length;
        alphabets.forEach(({ counts, order0, order1 }, f) => {
          const symbol =
            config.alphabet === "joint" ? jointCode(ids, from, factors) : ids[from + f]!;
          counts.add(symbol);
          order0.add(symbol);
          order1.add(symbol);
        });
      }
    }
    if (prior) {
      priorBits += await prior(ids, batch);
    }
    done += batch.size;
    context.progress("clips", done, indices.length);
  }
  const tokens = done * tokensPerClip;
  const sum = (bits: (symbols: Symbols) => number): number =>
    alphabets.reduce((total, symbols) => total + bits(symbols), 0);
  const totals: [ProtocolName, string, number][] = [
    ["rate:nominal", "nominal", tokens * bitsPerToken(context.tokenizer)],
    [
      "rate:empirical-order0",
      "empirical",
      sum(({ counts }) => tokens * codebookStatistics(counts).entropyBits),
    ],
    ["rate:adaptive-order0", "adaptive", sum(({ order0 }) => order0.bits)],
    ["rate:adaptive-order1", "adaptive_order1", sum(({ order1 }) => order1.bits)],
  ];
  if (prior) {
    totals.push(["rate:causal-prior", "causal_prior", priorBits]);
  }
  const shared = clipChoices(stream, config.seed);
  return totals.flatMap(([protocol, key, bits]) => {
    const whole = protocol === "rate:nominal" || protocol === "rate:causal-prior";
    const choices = whole ? shared : { ...shared, alphabet: config.alphabet };
    const of = (quantity: string, value: number, unit: string, n: number): Score =>
      score({ name: `${name}/${quantity}`, value, unit, better: "lower", n }, protocol, choices);
    return [
      of(`${key}_bpp`, bitsPerPixel(bits / done, clip), "bits/pixel", done),
      of(`${key}_bits_per_token`, bits / tokens, "bits/token", tokens),
      ...(key === "nominal" ? [of("nominal_bits_per_clip", bits / done, "bits/clip", done)] : []),
    ];
  });
}

/**
 * Bits of a batch's tokens under the run's causal transformer, the label included at log2 of the
 * number of classes; undefined when the objective has no exact likelihood.
 */
function learnedPrior(
  { device, batch: size }: EvalContext,
  objective: Objective,
): ((ids: Int32Array, batch: ClipBatch) => Promise<number>) | undefined {
  if (!isCausal(objective)) {
    return undefined;
  }
  const { classes } = objective.space;
  const compiled = device.compile("eval/log-probs", (inputs) => ({
    nats: tf.sum(objective.logProbs(inputs), 1), // [B]
  }));
  return async (ids, batch) => {
    const labels = Int32Array.from({ length: size }, (_, i) => batch.labels[i] ?? -1);
    const outputs = await compiled(objective.inputs({ ids, labels, size }, 0, 0, false));
    let bits = 0;
    for (let i = 0; i < batch.size; i++) {
      bits -= outputs["nats"]!.data[i]! / Math.LN2;
      bits += labels[i]! >= 0 && classes > 0 ? Math.log2(classes) : 0;
    }
    return bits;
  };
}
