/**
 * @file Suite `recognition`: how well a learned reader tells the class of a clip from its tokens, its
 * codes, its reconstruction or its pixels: V-JEPA's attentive probe, or a small transformer trained
 * whole, after pre-training on masked prediction of tokens, pixels or oriented gradients where asked,
 * with all labels or few, one view of a clip or several.
 */

import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import type { Dataset } from "../data/dataset.ts";
import { checkClipShape, ClipStream, chooseClips, clipKeys, toBytes } from "./clips.ts";
import { chanceLevel } from "./probe.ts";
import { clipChoices, type ProtocolName, score } from "./protocols.ts";
import { RecognitionNetwork, type Reads, type Rows, type Target } from "./recognition/learn.ts";
import {
  type BlockGrid,
  blockValues,
  hogBlocks,
  hogValues,
  pixelBlocks,
} from "./recognition/targets.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";
import { tokenizerFunctions } from "./tokenize.ts";

export const schema = closed(
  {
    type: Type.Literal("recognition"),
    reads: Type.Union(
      [
        Type.Literal("codes"),
        Type.Literal("ids"),
        Type.Literal("reconstruction"),
        Type.Literal("pixels"),
      ],
      {
        default: "codes",
        description:
          "What the reader sees: quantized codes, the ids alone (embedded anew), the decoded pixels, or the clip's own.",
      },
    ),
    depth: Type.Integer({
      minimum: 0,
      maximum: 48,
      default: 0,
      description:
        "Blocks of self-attention before the pooling: 0 is V-JEPA's attentive probe, 3 V-JEPA 2's, more a small transformer.",
    }),
    width: Type.Integer({ minimum: 8, default: 128, description: "Width of the reader." }),
    heads: Type.Integer({
      minimum: 1,
      default: 4,
      description: "Attention heads; divide the width.",
    }),
    patches: Type.Optional(
      Type.Tuple(
        [Type.Integer({ minimum: 1 }), Type.Integer({ minimum: 1 }), Type.Integer({ minimum: 1 })],
        {
          description:
            "Positions of a reader of pixels, in time, height and width; the tokenizer's grid when left out. Give it where tokenizers of different grids are compared, so that all have the same reader.",
        },
      ),
    ),
    pretrain: Type.Union(
      [Type.Literal("none"), Type.Literal("tokens"), Type.Literal("pixels"), Type.Literal("hog")],
      {
        default: "none",
        description:
          "Masked prediction before the labels are seen: of the tokenizer's ids (BEVT), of normalised pixels (MAE), or of histograms of oriented gradients (MaskFeat).",
      },
    ),
    learns: Type.Union([Type.Literal("reader"), Type.Literal("pooling")], {
      default: "reader",
      description:
        "What the labels train: the whole reader, or the pooling and the classes alone, over blocks that stay as pre-training left them.",
    }),
    pretrain_steps: Type.Integer({
      minimum: 1,
      default: 300,
      description: "Steps of pre-training.",
    }),
    hidden: Type.Number({
      exclusiveMinimum: 0,
      exclusiveMaximum: 1,
      default: 0.6,
      description: "Share of positions hidden in pre-training.",
    }),
    steps: Type.Integer({ minimum: 1, default: 300, description: "Steps of training." }),
    batch: Type.Integer({ minimum: 1, default: 32, description: "Clips a step." }),
    lr: Type.Number({
      exclusiveMinimum: 0,
      default: 1e-3,
      description: "Peak learning rate; a tenth of warm-up, then a cosine to 0.",
    }),
    weight_decay: Type.Number({
      minimum: 0,
      default: 0.01,
      description: "AdamW's decay of matrices.",
    }),
    labels_per_class: Type.Integer({
      minimum: 0,
      default: 0,
      description:
        "Labelled clips of each class; 0 uses all. Pre-training sees all clips either way.",
    }),
    views: Type.Integer({
      minimum: 1,
      default: 1,
      description:
        "Views of each judged clip (other spans or crops, as the data set draws them at later visits); their probabilities are averaged.",
    }),
    train_clips: Type.Integer({
      minimum: 2,
      default: 512,
      description: "Clips of the train split; all when there are fewer.",
    }),
    clips: Type.Integer({
      minimum: 1,
      default: 256,
      description: "Clips of the validation split that judge; all when there are fewer.",
    }),
    seed: clipKeys.seed,
  },
  { description: "Classification of clips by an attentive probe or a small transformer." },
);

export type RecognitionConfig = Static<typeof schema>;

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: RecognitionConfig, name: string): Suite {
  return { type: config.type, run: (context) => run(config, name, context) };
}

/** One set of clips as the reader and the pre-training see it. */
interface ClipSet {
  readonly inputs: Rows;
  readonly targets: Rows | undefined;
  readonly labels: Int32Array;
  readonly stream: ClipStream;
}

/** Rows filled clip by clip. */
class RowWriter<T extends Float32Array | Int32Array | Uint8Array> {
  #at = 0;

  constructor(readonly data: T) {}

  add(values: ArrayLike<number>): void {
    this.data.set(values, this.#at);
    this.#at += values.length;
  }
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
  const train = await context.dataset("train");
  const validation = await context.dataset("validation");
  const classes = train.classes.length;
  if (classes < 2) {
    context.warn(`no score: the data set has ${classes} classes, recognition needs at least two`);
    return [];
  }
  context.device.activate();
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
      config.learns === "reader",
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
  }
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

/** Patches of one's own choice are of pixels, and divide the picture. */
function checkPatches(
  { patches, reads, pretrain }: RecognitionConfig,
  name: string,
  { tokenizer: { clip, grid } }: EvalContext,
): void {
  if (patches === undefined || patches.join() === grid.join()) {
    return;
  }
  if (reads === "codes" || reads === "ids" || pretrain === "tokens") {
    throw new UserError(
      `tokens lie on a grid of ${grid.join("×")}, the reader is to have ${patches.join("×")} positions`,
      `leave evals.${name}.patches out`,
    );
  }
  const [t, h, w] = patches;
  if (t > clip.frames || clip.height % h !== 0 || clip.width % w !== 0) {
    throw new UserError(
      `a clip of ${clip.frames}×${clip.height}×${clip.width} does not divide into ${patches.join("×")} patches`,
      `set evals.${name}.patches to at most ${clip.frames} in time and to divisors of the sides`,
    );
  }
}

/** What the reader sees and is asked for, at each of its positions. */
function shapesOf(
  config: RecognitionConfig,
  { tokenizer }: EvalContext,
): { positions: number; reads: Reads; target: Target | undefined; grid: BlockGrid } {
  const grid: BlockGrid = { ...tokenizer.clip, grid: config.patches ?? tokenizer.grid };
  const positions = grid.grid.reduce((product, side) => product * side, 1);
  const pixels = blockValues(grid);
  const reads: Reads =
    config.reads === "codes"
      ? { kind: "vectors", values: tokenizer.width }
      : config.reads === "ids"
        ? { kind: "ids", factors: tokenizer.factors }
        : { kind: "pixels", values: pixels };
  const targets: { readonly [target in RecognitionConfig["pretrain"]]: Target | undefined } = {
    none: undefined,
    tokens: { kind: "ids", factors: tokenizer.factors },
    pixels: { kind: "vectors", values: pixels },
    hog: { kind: "vectors", values: hogValues },
  };
  return { positions, reads, target: targets[config.pretrain], grid };
}

async function collect(
  config: RecognitionConfig,
  context: EvalContext,
  dataset: Dataset,
  count: number,
  visit: number,
  withTargets: boolean,
): Promise<ClipSet> {
  const { tokenizer, device } = context;
  checkClipShape(dataset, tokenizer.clip);
  const { positions, reads, target, grid } = shapesOf(config, context);
  const { encode, reconstruct } = tokenizerFunctions(device, tokenizer);
  const indices = chooseClips(dataset.size, count, config.seed);
  const stream = new ClipStream(dataset, indices, context.batch, visit);
  const n = indices.length;
  const inputs = emptyRows(reads, positions, n);
  const into = new RowWriter(inputs.data);
  const targets = withTargets && target ? emptyRows(target, positions, n) : undefined;
  const intoTargets = targets && new RowWriter(targets.data);
  const labels = new Int32Array(n);
  const clipValues = grid.frames * grid.height * grid.width * 3;
  let done = 0;
  for await (const batch of stream) {
    const needsCode =
      config.reads === "codes" || config.reads === "ids" || config.pretrain === "tokens";
    const tokens = needsCode ? await encode(batch.clips) : undefined;
    const decoded =
      config.reads === "reconstruction" ? toBytes(await reconstruct(batch.clips)) : undefined;
    for (let i = 0; i < batch.size; i++) {
      const part = <T extends { subarray(from: number, to: number): T }>(
        data: T,
        size: number,
      ): T => data.subarray(i * size, (i + 1) * size);
      const clip = part(batch.clips.data as Uint8Array, clipValues);
      const ids = (): Int32Array => part(tokens!.ids, positions * tokenizer.factors.length);
      switch (config.reads) {
        case "codes":
          into.add(part(tokens!.codes, positions * tokenizer.width));
          break;
        case "ids":
          into.add(ids());
          break;
        case "reconstruction":
          into.add(pixelBlocks(part(decoded!, clipValues), grid));
          break;
        case "pixels":
          into.add(pixelBlocks(clip, grid));
          break;
      }
      if (intoTargets) {
        intoTargets.add(
          config.pretrain === "tokens"
            ? ids()
            : config.pretrain === "hog"
              ? hogBlocks(clip, grid)
              : normalised(pixelBlocks(clip, grid), positions),
        );
      }
      labels[done + i] = batch.labels[i]!;
    }
    done += batch.size;
    context.progress(`${dataset.split} clips`, done, n);
  }
  return { inputs, targets, labels, stream };
}

/** Pixels of each position with mean 0 and deviation 1 (MAE's normalised targets). */
function normalised(blocks: Uint8Array, positions: number): Float32Array {
  const values = blocks.length / positions;
  const out = new Float32Array(blocks.length);
  for (let from = 0; from < blocks.length; from += values) {
    const block = blocks.subarray(from, from + values);
    const mean = block.reduce((sum, value) => sum + value, 0) / values;
    const squares = block.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values;
    const scale = 1 / Math.sqrt(squares + 1);
    block.forEach((value, i) => {
      out[from + i] = (value - mean) * scale;
    });
  }
  return out;
}

function emptyRows(of: Reads | Target, positions: number, count: number): Rows {
  switch (of.kind) {
    case "ids": {
      const shape = [positions, of.factors.length];
      return { dtype: "int32", shape, data: new Int32Array(count * positions * of.factors.length) };
    }
    case "pixels": {
      const shape = [positions, of.values];
      return { dtype: "uint8", shape, data: new Uint8Array(count * positions * of.values) };
    }
    case "vectors": {
      const shape = [positions, of.values];
      return { dtype: "float32", shape, data: new Float32Array(count * positions * of.values) };
    }
  }
}

/** Rows of some clips. */
function rowsAt(rows: Rows, indices: readonly number[]): Rows {
  const size = rows.shape.reduce((product, side) => product * side, 1);
  const data = rows.data.slice(0, indices.length * size);
  indices.forEach((index, i) => {
    data.set(rows.data.subarray(index * size, (index + 1) * size) as never, i * size);
  });
  return { ...rows, data };
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
  const { type: _type, seed: _seed, clips: _clips, train_clips: _trainClips, ...learning } = config;
  const n = judged.labels.length;
  const protocol: ProtocolName = config.depth === 0 ? "probe:attentive" : "probe:transformer";
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
