/**
 * @file Suite `probe`: how well a linear classifier reads the label (the action) off frozen tokens.
 * Codes are averaged over the cells of a coarse grid in each latent frame, and frames are kept apart:
 * motion lives in how the average moves, which a mean over time would erase.
 */

import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import type { Dataset } from "../data/dataset.ts";
import type { Tokenizer } from "../tokenizers/tokenizer.ts";
import { checkClipShape, ClipStream, chooseClips, clipKeys } from "./clips.ts";
import { chanceLevel, fitProbe, type ProbeData, probeAccuracy } from "./probe.ts";
import { clipChoices, type Measured, score } from "./protocols.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";
import { tokenizerFunctions } from "./tokenize.ts";

export const schema = closed(
  {
    type: Type.Literal("probe"),
    features: Type.Union([Type.Literal("codes"), Type.Literal("ids")], {
      default: "codes",
      description: "Read the quantized codes, or histograms of the sub-ids alone.",
    }),
    cells: Type.Integer({
      minimum: 1,
      default: 2,
      description:
        "Cells a side of the grid that features are averaged over in each latent frame (fewer when the latent grid is smaller); 1 is the mean over space.",
    }),
    train_clips: Type.Integer({
      minimum: 10,
      default: 1024,
      description: "Clips of the train split that fit the probe; all when there are fewer.",
    }),
    clips: Type.Integer({
      minimum: 1,
      default: 512,
      description: "Clips of the validation split that judge it; all when there are fewer.",
    }),
    seed: clipKeys.seed,
  },
  { description: "Linear classification of the label on frozen tokens." },
);

export type ProbeConfig = Static<typeof schema>;

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: ProbeConfig, name: string): Suite {
  return { type: config.type, run: (context) => run(config, name, context) };
}

/** The most features that a probe is fitted on, to bound time and memory. */
const maxDimensions = 8192;

/** How one clip's tokens become features. */
export interface Pooling {
  /** The latent grid (t, h, w). */
  readonly grid: readonly [number, number, number];
  /** Values of one position: the width of a code, or the sum of the factors. */
  readonly width: number;
  /** Cells a side. */
  readonly cells: number;
}

/** Features of a clip: t frames and t - 1 differences of cells_h · cells_w · width values each. */
export function featureCount({ grid: [t, h, w], width, cells }: Pooling): number {
  return (2 * t - 1) * Math.min(cells, h) * Math.min(cells, w) * width;
}

/**
 * The features of one clip.
 * @param add calls back with (position index in t·h·w order, add(channel, value)) to sum a position
 */
export function poolFeatures(
  pooling: Pooling,
  add: (position: number, sum: (channel: number, value: number) => void) => void,
): Float64Array {
  const { grid, width } = pooling;
  const [t, h, w] = grid;
  const rows = Math.min(pooling.cells, h);
  const columns = Math.min(pooling.cells, w);
  const frame = rows * columns * width;
  const out = new Float64Array(featureCount(pooling));
  const positions = new Float64Array(rows * columns);
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      positions[Math.floor((y * rows) / h) * columns + Math.floor((x * columns) / w)]! += 1;
    }
  }
  for (let i = 0; i < t * h * w; i++) {
    const x = i % w;
    const y = Math.floor(i / w) % h;
    const cell = Math.floor((y * rows) / h) * columns + Math.floor((x * columns) / w);
    const at = Math.floor(i / (h * w)) * frame + cell * width;
    add(i, (channel, value) => {
      out[at + channel]! += value / positions[cell]!;
    });
  }
  for (let i = 0; i < (t - 1) * frame; i++) {
    out[t * frame + i] = out[frame + i]! - out[i]!;
  }
  return out;
}

async function collect(
  config: ProbeConfig,
  label: string,
  dataset: Dataset,
  count: number,
  context: EvalContext,
): Promise<ProbeData & { readonly stream: ClipStream }> {
  const { tokenizer } = context;
  checkClipShape(dataset, tokenizer.clip);
  const pooling = poolingOf(config, tokenizer);
  const dimensions = featureCount(pooling);
  const indices = chooseClips(dataset.size, count, config.seed);
  const stream = new ClipStream(dataset, indices, context.batch);
  const { encode } = tokenizerFunctions(context.device, tokenizer);
  const features = new Float64Array(indices.length * dimensions);
  const labels = new Int32Array(indices.length);
  const clipPositions = tokenizer.grid[0] * tokenizer.grid[1] * tokenizer.grid[2];
  const offsets = tokenizer.factors.map((_, f) =>
    tokenizer.factors.slice(0, f).reduce((sum, size) => sum + size, 0),
  );
  let done = 0;
  for await (const batch of stream) {
    const { ids, codes } = await encode(batch.clips);
    for (let i = 0; i < batch.size; i++) {
      const pooled = poolFeatures(pooling, (position, sum) => {
        const token = i * clipPositions + position;
        if (config.features === "codes") {
          for (let channel = 0; channel < tokenizer.width; channel++) {
            sum(channel, codes[token * tokenizer.width + channel]!);
          }
        } else {
          offsets.forEach((offset, f) => sum(offset + ids[token * offsets.length + f]!, 1));
        }
      });
      features.set(pooled, (done + i) * dimensions);
      labels[done + i] = batch.labels[i]!;
    }
    done += batch.size;
    context.progress(`${label} clips`, done, indices.length);
  }
  return { features, labels, dimensions, stream };
}

function poolingOf(config: ProbeConfig, tokenizer: Tokenizer): Pooling {
  const width =
    config.features === "codes"
      ? tokenizer.width
      : tokenizer.factors.reduce((sum, size) => sum + size, 0);
  const pooling = { grid: tokenizer.grid, width, cells: config.cells };
  const count = featureCount(pooling);
  if (count > maxDimensions) {
    throw new UserError(
      `the probe would have ${count} features (${width} a cell), more than ${maxDimensions}`,
      config.features === "ids"
        ? "lower `cells`, or use `features: codes`: histograms grow with the vocabulary"
        : "lower `cells`",
    );
  }
  return pooling;
}

async function run(config: ProbeConfig, name: string, context: EvalContext): Promise<Score[]> {
  const train = await context.dataset("train");
  const classes = train.classes.length;
  if (classes < 2) {
    // One class is no fault of the run: videos in one folder train and are judged by the other suites.
    context.warn(
      `no score, since there is nothing to tell apart: "${train.type}" has ${classes} class${classes === 1 ? "" : "es"}`,
    );
    return [];
  }
  const fitting = await collect(config, "fitting", train, config.train_clips, context);
  const validation = await context.dataset("validation");
  const judging = await collect(config, "judging", validation, config.clips, context);
  context.progress("fitting the classifier");
  const probe = fitProbe(fitting, classes);
  const { top1, loss } = probeAccuracy(probe, judging);
  const chance = chanceLevel(fitting.labels, judging.labels, classes);
  const n = judging.labels.length;
  const choices = {
    ...clipChoices(judging.stream, config.seed),
    fitted_on: clipChoices(fitting.stream, config.seed),
    cells: config.cells,
  };
  const of = (measured: Omit<Measured, "n">, reads = "tokens"): Score =>
    score({ ...measured, n }, `probe:linear-${config.features}`, { ...choices, reads });
  return [
    of({
      name: `${name}/top1`,
      value: 100 * top1,
      unit: "%",
      better: "higher",
      std: 100 * Math.sqrt((top1 * (1 - top1)) / n),
    }),
    of({ name: `${name}/chance`, value: 100 * chance, unit: "%", better: "none" }, "nothing"),
    of({ name: `${name}/top1_over_chance`, value: top1 / chance, unit: "x", better: "higher" }),
    of({ name: `${name}/log_loss`, value: loss, unit: "nats", better: "lower" }),
  ];
}
