/** @file Suite `codebook`: how much of its vocabulary a tokenizer uses on held-out clips. */

import { closed, type Static, Type } from "../config/schema.ts";
import { checkClipShape, ClipStream, chooseClips, clipKeys } from "./clips.ts";
import { CodeCounts, type CodebookStatistics, codebookStatistics, jointCode } from "./codebook.ts";
import { clipChoices, type ProtocolName, score } from "./protocols.ts";
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
  // Beyond 2^53 no number names a joint code any more; the factors still tell.
  const joint = Number.isSafeInteger(vocabulary) ? new CodeCounts(vocabulary) : undefined;
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
      joint?.add(jointCode(ids, from, factors));
      single.forEach((counts, f) => counts.add(ids[from + f]!));
    }
    done += batch.size;
    context.progress("clips", done, indices.length);
  }
  const tokens = single[0]!.total;
  // How many tokens were counted decides how many codes can be seen. The vocabulary itself is what is
  // measured, so that vocabularies of several sizes can stand in one table.
  const choices = { ...clipChoices(stream, config.seed), tokens };
  const of: MakeScore = (protocol, quantity, value, better, unit) =>
    score(
      {
        name: `${name}/${quantity}`,
        value,
        better,
        n: tokens,
        ...(unit ? { unit } : {}),
      },
      protocol,
      choices,
    );
  return [
    ...(width > 1 ? factorScores(single, of) : []),
    ...(joint ? jointScores(codebookStatistics(joint), of) : []),
  ];
}

type MakeScore = (
  protocol: ProtocolName,
  quantity: string,
  value: number,
  better: Score["better"],
  unit?: string,
) => Score;

function jointScores(statistics: CodebookStatistics, of: MakeScore): Score[] {
  const whole = "codebook:dataset";
  return [
    of(whole, "perplexity", statistics.perplexity, "higher", "codes"),
    of(whole, "usage", 100 * statistics.usage, "higher", "%"),
    of(whole, "dead_codes", statistics.dead, "lower", "codes"),
    of(whole, "entropy", statistics.entropyBits, "none", "bits/token"),
    of(whole, "normalized_entropy", statistics.normalizedEntropy, "higher"),
    of(whole, "gini_simpson", statistics.giniSimpson, "higher"),
    of(whole, "count_percentile_10", statistics.percentile10, "none", "x mean"),
    of(whole, "count_percentile_90", statistics.percentile90, "none", "x mean"),
  ];
}

/**
 * Each sub-vocabulary by itself. With a product of 2^32 the joint usage says nothing; these do. The
 * sum of their entropies exceeds the joint one by what the factors share.
 */
function factorScores(single: readonly CodeCounts[], of: MakeScore): Score[] {
  const each = single.map((counts) => codebookStatistics(counts));
  const codes = single.reduce((sum, { size }) => sum + size, 0);
  const dead = each.reduce((sum, statistics) => sum + statistics.dead, 0);
  const entropy = each.reduce((sum, statistics) => sum + statistics.entropyBits, 0);
  const factors = "codebook:factors";
  return [
    of(factors, "factor_perplexity", 2 ** (entropy / each.length), "higher", "codes"),
    of(factors, "factor_usage", 100 * (1 - dead / codes), "higher", "%"),
    of(factors, "factor_dead_codes", dead, "lower", "codes"),
    of(factors, "factor_entropy_sum", entropy, "none", "bits/token"),
  ];
}
