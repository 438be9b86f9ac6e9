/**
 * @file Suite `recognition`: how well a learned reader tells the class of a clip from its tokens, its
 * codes, its reconstruction or its pixels: V-JEPA's attentive probe, or a small transformer trained
 * whole, after pre-training on masked prediction of tokens, pixels or oriented gradients where asked,
 * with all labels or few, one view of a clip or several; or with the tokenizer fine-tuned along.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import type { Tokenizer } from "../tokenizers/tokenizer.ts";
import { chanceLevel } from "./probe.ts";
import { clipChoices, type ProtocolName, score } from "./protocols.ts";
import { checkPatches, type ClipSet, collect, rowsAt, shapesOf } from "./recognition/clips.ts";
import type { RecognitionConfig } from "./recognition/config.ts";
import { RecognitionNetwork } from "./recognition/learn.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";

export { schema } from "./recognition/config.ts";

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: RecognitionConfig, name: string): Suite {
  return { type: config.type, run: (context) => run(config, name, context) };
}

async function run(
  config: RecognitionConfig,
  name: string,
  context: EvalContext,
): Promise<Score[]> {
  if (config.width % config.heads !== 0) {
    throw new UserError(
      `a width of ${config.width} does not divide into ${config.heads} heads`,
      `set evals.${name}.heads to a divisor of the width`,
    );
  }
  if (config.pretrain !== "none" && config.depth === 0) {
    throw new UserError(
      "without blocks of self-attention there is nothing to pre-train",
      `set evals.${name}.depth`,
    );
  }
  checkPatches(config, name, context);
  checkFineTuning(config, name, context);
  const train = await context.dataset("train");
  const validation = await context.dataset("validation");
  const classes = train.classes.length;
  if (classes < 2) {
    context.warn(`no score: the data set has ${classes} classes, recognition needs at least two`);
    return [];
  }
  context.device.activate();
  const restore = config.learns === "tokenizer" ? await snapshot(context.tokenizer) : undefined;
  const fitted = await collect(config, context, train, config.train_clips, 0, true);
  const labelled = fewLabels(fitted.labels, config.labels_per_class, classes, name);
  const { positions, reads, target } = shapesOf(config, context);
  const { width, heads, depth, seed, batch } = config;
  const options = { positions, reads, width, heads, depth, classes, seed };
  const network = new RecognitionNetwork(context.device, options);
  try {
    const learning = { batch, rate: config.lr, decay: config.weight_decay, seed };
    if (fitted.targets && target) {
      const steps = config.pretrain_steps;
      await network.pretrain(
        fitted.inputs,
        fitted.targets,
        target,
        { ...learning, steps },
        config.hidden,
        (step, loss) => report(context, name, "pre-training", step, steps, loss),
      );
    }
    const few = labelled.length < fitted.labels.length;
    await network.train(
      few ? rowsAt(fitted.inputs, labelled) : fitted.inputs,
      few ? Int32Array.from(labelled, (index) => fitted.labels[index]!) : fitted.labels,
      { ...learning, steps: config.steps },
      config.learns !== "pooling",
      (step, loss) => report(context, name, "training", step, config.steps, loss),
    );
    const judged = await collect(config, context, validation, config.clips, 0, false);
    const n = judged.labels.length;
    const mean = await network.probabilities(judged.inputs, n, batch);
    for (let view = 1; view < config.views; view++) {
      const other = await collect(config, context, validation, config.clips, view, false);
      const more = await network.probabilities(other.inputs, n, batch);
      more.forEach((p, i) => {
        mean[i]! += p;
      });
    }
    return scoresOf(config, name, { fitted, judged, mean, classes, labelled: labelled.length });
  } finally {
    network.dispose();
    restore?.();
  }
}

/** Only codes of a tokenizer of ours have a gradient. */
function checkFineTuning(
  { learns, reads, pretrain }: RecognitionConfig,
  name: string,
  { tokenizer }: EvalContext,
): void {
  if (learns !== "tokenizer") {
    return;
  }
  if (!tokenizer.trainedCodes) {
    throw new UserError(
      `a tokenizer of type ${tokenizer.type} with these tokens cannot be fine-tuned`,
      `set evals.${name}.learns=reader`,
    );
  }
  if (reads !== "codes" || pretrain !== "none") {
    throw new UserError(
      "a tokenizer learns through its codes, without masked prediction before",
      `set evals.${name}.reads=codes and evals.${name}.pretrain=none, or evals.${name}.learns=reader`,
    );
  }
}

/** The values of a tokenizer's variables now, and how to have them back: suites change nothing. */
async function snapshot({ scope }: Tokenizer): Promise<() => void> {
  const values = new Map<tf.Variable, Float32Array>();
  for (const variable of scope.trainable().values()) {
    values.set(variable, Float32Array.from(await variable.data<"float32">()));
  }
  return () => {
    for (const [variable, value] of values) {
      const tensor = tf.tensor(value, variable.shape, "float32");
      variable.assign(tensor);
      tensor.dispose();
    }
  };
}

function report(
  context: EvalContext,
  name: string,
  stage: string,
  step: number,
  steps: number,
  loss: number,
): void {
  if (!Number.isFinite(loss)) {
    throw new UserError(
      `${stage} of the recognition network diverged: its loss is ${loss} at step ${step}`,
      `lower evals.${name}.lr`,
    );
  }
  context.progress(`${stage} (loss ${loss.toFixed(3)})`, step, steps);
}

/** The first `each` clips of every class, in the clips' (random) order; all for 0. */
export function fewLabels(
  labels: Int32Array,
  each: number,
  classes: number,
  name: string,
): number[] {
  const all = Array.from(labels.keys());
  if (each === 0) {
    return all;
  }
  const counts = new Int32Array(classes);
  const kept = all.filter((i) => counts[labels[i]!]!++ < each);
  const short = counts.findIndex((count) => count < each);
  if (short >= 0) {
    throw new UserError(
      `class ${short} has ${counts[short]} of the ${labels.length} train clips, ${each} labels of each class are asked for`,
      `raise evals.${name}.train_clips or lower evals.${name}.labels_per_class`,
    );
  }
  return kept;
}

interface Outcome {
  readonly fitted: ClipSet;
  readonly judged: ClipSet;
  /** Probabilities of all views added up, [n, classes]. */
  readonly mean: Float32Array;
  readonly classes: number;
  readonly labelled: number;
}

/** The share of clips whose class is among the `k` most likely ones (ties to the lower class). */
export function topShare(
  probabilities: Float32Array,
  labels: Int32Array,
  classes: number,
  k: number,
): number {
  let right = 0;
  labels.forEach((label, i) => {
    const row = probabilities.subarray(i * classes, (i + 1) * classes);
    const own = row[label]!;
    let before = 0;
    row.forEach((p, c) => {
      before += p > own || (p === own && c < label) ? 1 : 0;
    });
    right += before < k ? 1 : 0;
  });
  return right / labels.length;
}

function scoresOf(
  config: RecognitionConfig,
  name: string,
  { fitted, judged, mean, classes, labelled }: Outcome,
): Score[] {
  const { type: _type, seed: _seed, clips: _clips, train_clips: _trainClips, tokenizer_rate, ...rest } = config; // biome-ignore format: one line
  const tuned = config.learns === "tokenizer";
  const learning = { ...rest, ...(tuned && { tokenizer_rate }) };
  const n = judged.labels.length;
  const protocol: ProtocolName = tuned
    ? "probe:fine-tuned"
    : config.depth === 0
      ? "probe:attentive"
      : "probe:transformer";
  const choices = {
    ...clipChoices(judged.stream, config.seed),
    fitted_on: clipChoices(fitted.stream, config.seed),
    labelled_clips: labelled,
    learning,
  };
  const of = (label: string, share: number, better: Score["better"], measures: string): Score =>
    score(
      {
        name: `${name}/${label}`,
        value: 100 * share,
        unit: "%",
        better,
        n,
        ...(better === "none" ? {} : { std: 100 * Math.sqrt((share * (1 - share)) / n) }),
      },
      protocol,
      { ...choices, measures },
    );
  return [
    of("top1", topShare(mean, judged.labels, classes, 1), "higher", "top-1 accuracy"),
    ...(classes > 5
      ? [of("top5", topShare(mean, judged.labels, classes, 5), "higher", "top-5 accuracy")]
      : []),
    of("chance", chanceLevel(fitted.labels, judged.labels, classes), "none", "the commonest class"),
  ];
}
