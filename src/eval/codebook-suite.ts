/** @file Suite `codebook`: how much of its vocabulary a tokenizer uses on held-out clips. */

import { closed, type Static, Type } from "../config/schema.ts";
import { checkClipShape, ClipStream, chooseClips, clipKeys } from "./clips.ts";
import { CodeCounts, codebookStatistics, jointCode } from "./codebook.ts";
import { clipChoices, type Measured, score } from "./protocols.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";
import { tokenizerFunctions } from "./tokenize.ts";

export const schema = closed(
  { type: Type.Literal("codebook"), ...clipKeys },
  { description: "Usage, entropy, perplexity and dead codes of the vocabulary." },
);

export type CodebookConfig = Static<typeof schema>;

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: CodebookConfig, name: string): Suite {
  return { type: config.type, run: (context) => run(config, name, context) };
}

async function run(config: CodebookConfig, name: string, context: EvalContext): Promise<Score[]> {
  const dataset = await context.dataset(config.split);
  checkClipShape(dataset, context.tokenizer.clip);
  const { factors, grid } = context.tokenizer;
  const vocabulary = factors.reduce((product, size) => product * size, 1);
  const joint = new CodeCounts(vocabulary);
  const single = factors.map((size) => new CodeCounts(size));
  const { encode } = tokenizerFunctions(context.device, context.tokenizer);
  const indices = chooseClips(dataset.size, config.clips, config.seed);
  const stream = new ClipStream(dataset, indices, context.batch);
  const width = factors.length;
  const clipIds = grid[0] * grid[1] * grid[2] * width;
  let done = 0;
  for await (const batch of stream) {
    const { ids } = await encode(batch.clips);
    for (let from = 0; from < batch.size * clipIds; from += width) {
      joint.add(jointCode(ids, from, factors));
      single.forEach((counts, f) => counts.add(ids[from + f]!));
    }
    done += batch.size;
    context.progress("clips", done, indices.length);
  }
  const statistics = codebookStatistics(joint);
  const choices = {
    ...clipChoices(stream, config.seed),
    tokens: statistics.tokens,
    vocabulary,
  };
  const of = (quantity: string, value: number, better: Score["better"], unit?: string): Score => {
    const measured: Measured = {
      name: `${name}/${quantity}`,
      value,
      better,
      n: statistics.tokens,
      ...(unit ? { unit } : {}),
    };
    return score(measured, "codebook:dataset", choices);
  };
  const marginal = single.map((counts) => codebookStatistics(counts).entropyBits);
  return [
    of("perplexity", statistics.perplexity, "higher", "codes"),
    of("usage", 100 * statistics.usage, "higher", "%"),
    of("dead_codes", statistics.dead, "lower", "codes"),
    of("entropy", statistics.entropyBits, "none", "bits/token"),
    of("normalized_entropy", statistics.normalizedEntropy, "higher"),
    of("gini_simpson", statistics.giniSimpson, "higher"),
    of("count_percentile_10", statistics.percentile10, "none", "x mean"),
    of("count_percentile_90", statistics.percentile90, "none", "x mean"),
    // What the joint entropy would be if factors were independent; the excess is shared information.
    ...(width > 1
      ? [
          of(
            "factor_entropy_sum",
            marginal.reduce((sum, h) => sum + h, 0),
            "none",
            "bits/token",
          ),
        ]
      : []),
  ];
}
