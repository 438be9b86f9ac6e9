/**
 * @file Distances between sets of clips, whatever the network and the protocol: reconstructed and
 * generated clips against real ones, with the distance between two disjoint sets of real clips
 * beside them. That floor is what the sample count alone costs: a distance near it cannot be told
 * from perfect. The bias of a Fréchet distance falls like 1/N, so distances at N/4, N/2 and N also
 * give its limit (Chong & Forsyth 2020).
 */

import { UserError } from "../../config/errors.ts";
import { type Static, Type } from "../../config/schema.ts";
import type { Dataset } from "../../data/dataset.ts";
import { taskParts } from "../../objectives/multimodal/layouts.ts";
import { isMultimodal } from "../../objectives/multimodal/objective.ts";
import type { Objective } from "../../objectives/objective.ts";
import { clipGenerator, pixelSampler, tasksOf } from "../generation.ts";
import { Random } from "../../runtime/random.ts";
import {
  checkClipShape,
  type ClipBatch,
  ClipStream,
  chooseClips,
  clipKeys,
  samplingKey,
} from "../clips.ts";
import { clipChoices, type ProtocolName, score } from "../protocols.ts";
import type { EvalContext, Score } from "../suite.ts";
import { tokenizerFunctions } from "../tokenize.ts";
import type { Extractor } from "./extractors.ts";
import { FeatureCache } from "./feature-cache.ts";
import {
  type CovarianceDivisor,
  type FeatureMoments,
  FeatureStatistics,
  frechetDistance,
} from "./frechet.ts";
import { kernelDistance } from "./kernel-distance.ts";
import { neighbourCount, precisionRecall } from "./neighbours.ts";

/** Config keys of every suite that compares sets of clips. */
export const distributionKeys = {
  ...clipKeys,
  ...samplingKey,
  kernel: Type.Boolean({
    default: true,
    description:
      "Also report kernel distances (KVD's form) on the same features: unbiased, so fewer clips do.",
  }),
  neighbours: Type.Boolean({
    default: false,
    description:
      "Also report precision and recall by 3 nearest neighbours on the same features (Kynkäänniemi et al. 2019).",
  }),
  extrapolate: Type.Boolean({
    default: false,
    description:
      "Also report the distances at a quarter and a half of the clips, and the limit for endless clips: a line through all three over 1/N.",
  }),
  reconstruction: Type.Boolean({
    default: true,
    description: "Judge reconstructed clips.",
  }),
  generation: Type.Boolean({
    default: true,
    description: "Judge generated clips, when the run has a transformer.",
  }),
  floor: Type.Boolean({
    default: true,
    description:
      "Also report the distance between two disjoint sets of real clips, each as large; needs twice as many.",
  }),
};

const distributionSchema = Type.Object(distributionKeys);
export type DistributionConfig = Static<typeof distributionSchema>;

export interface JudgeOptions {
  /** The suite's name: scores start with it. */
  readonly name: string;
  readonly config: DistributionConfig;
  readonly extractor: Extractor;
  readonly covariance: CovarianceDivisor;
  /** Times that generation is repeated under other seeds; the score is the mean. */
  readonly repeats: number;
  readonly protocols: {
    readonly frechet: ProtocolName;
    readonly kernel: ProtocolName;
    readonly neighbours: ProtocolName;
  };
}

type Choices = { readonly [choice: string]: unknown };

/** Features of one set: moments at the wanted counts and, where asked for, the features themselves. */
class FeatureSet {
  readonly #statistics: FeatureStatistics;
  readonly #at = new Map<number, FeatureMoments>();
  readonly #kept: Float32Array[] = [];

  /** @param counts numbers of rows at which moments are wanted, the last one of all */
  constructor(
    readonly dimensions: number,
    readonly counts: readonly number[],
    readonly covariance: CovarianceDivisor,
    readonly keep: boolean,
  ) {
    this.#statistics = new FeatureStatistics(dimensions);
  }

  get count(): number {
    return this.#statistics.count;
  }

  /** Add rows [n, dimensions]. */
  add(features: Float32Array): void {
    if (this.keep) {
      this.#kept.push(features.slice());
    }
    let from = 0;
    while (from < features.length) {
      const next = this.counts.find((count) => count > this.count) ?? Number.POSITIVE_INFINITY;
      const rows = Math.min(next - this.count, (features.length - from) / this.dimensions);
      this.#statistics.add(features.subarray(from, from + rows * this.dimensions));
      from += rows * this.dimensions;
      if (this.count === next) {
        this.#at.set(next, this.#statistics.moments(this.covariance));
      }
    }
  }

  /** Moments of the first `count` rows. */
  moments(count: number): FeatureMoments {
    return this.#at.get(count) ?? this.#statistics.moments(this.covariance);
  }

  /** [count, dimensions] */
  rows(): Float64Array {
    const rows = new Float64Array(this.count * this.dimensions);
    let at = 0;
    for (const part of this.#kept) {
      rows.set(part, at);
      at += part.length;
    }
    return rows;
  }
}

/** The intercept of the least-squares line of `values` over 1 / `counts`. */
export function limitOverCounts(counts: readonly number[], values: readonly number[]): number {
  const x = counts.map((count) => 1 / count);
  const mean = (list: readonly number[]): number =>
    list.reduce((sum, value) => sum + value, 0) / list.length;
  const [mx, my] = [mean(x), mean(values)];
  const slope =
    x.reduce((sum, value, i) => sum + (value - mx) * (values[i]! - my), 0) /
    x.reduce((sum, value) => sum + (value - mx) ** 2, 0);
  return my - slope * mx;
}

/** Features of real clips, from the cache where it has them. */
async function realFeatures(
  extractor: Extractor,
  { clips, size }: Pick<ClipBatch, "clips" | "size">,
): Promise<Float32Array> {
  const width = extractor.rows * extractor.dimensions;
  const { cache } = extractor;
  if (!cache) {
    return (await extractor.extract(clips)).subarray(0, size * width);
  }
  const pixels = clips.data as Uint8Array;
  const values = pixels.length / clips.shape[0]!;
  // The batch's size can change the last bit of a feature, so it is part of the name.
  const keys = Array.from({ length: size }, (_, i) =>
    FeatureCache.keyOf(
      Buffer.concat([
        Buffer.from(`${clips.shape.join("x")}:`),
        pixels.subarray(i * values, (i + 1) * values),
      ]),
    ),
  );
  const known = keys.map((key) => cache.get(key));
  if (known.some((features) => features === undefined)) {
    const found = await extractor.extract(clips);
    keys.forEach((key, i) => {
      known[i] ??= found.slice(i * width, (i + 1) * width);
      cache.put(key, known[i]);
    });
  }
  const out = new Float32Array(size * width);
  known.forEach((features, i) => out.set(features!, i * width));
  return out;
}

/** All scores of one distance. */
export async function judgeDistributions(
  options: JudgeOptions,
  context: EvalContext,
): Promise<Score[]> {
  const { name, config, extractor, covariance, repeats } = options;
  const dataset = await context.dataset(config.split);
  checkClipShape(dataset, context.tokenizer.clip);
  const { batch } = context;
  const sets = config.floor ? 2 : 1;
  const count = Math.min(config.clips, Math.floor(dataset.size / sets));
  if (count < 2) {
    throw new UserError(
      `a Fréchet distance needs ${config.floor ? "two disjoint sets of " : ""}at least 2 clips, the ${config.split} split has ${dataset.size}`,
      `use a larger split, or switch the suite off with evals.${name}=null`,
    );
  }
  if (count < config.clips) {
    context.warn(
      `${config.clips} clips are asked for, and the ${config.split} split of ${dataset.size} gives ${sets === 2 ? "two sets of " : ""}${count}: distances at different counts do not compare`,
    );
  }
  const rows = extractor.rows;
  const counts = config.extrapolate
    ? [...new Set([Math.floor(count / 4), Math.floor(count / 2), count])].filter((n) => n >= 2)
    : [count];
  if (config.extrapolate && counts.length < 2) {
    throw new UserError(
      `${count} clips are too few to extrapolate from`,
      "raise the suite's `clips`",
    );
  }
  const keep = config.kernel || config.neighbours;
  const featureSet = (): FeatureSet =>
    new FeatureSet(
      extractor.dimensions,
      counts.map((n) => n * rows),
      covariance,
      keep,
    );

  // Two disjoint sets of real clips: all is compared with the first, the second is the floor.
  const chosen = chooseClips(dataset.size, sets * count, config.seed);
  const first = new ClipStream(dataset, chosen.subarray(0, count), batch);
  const second = new ClipStream(dataset, chosen.subarray(count), batch);
  const { reconstruct } = tokenizerFunctions(context.device, context.tokenizer);
  const real = featureSet();
  const reconstructed = featureSet();
  const labels: number[] = [];
  for await (const loaded of first) {
    real.add(await realFeatures(extractor, loaded));
    if (config.reconstruction) {
      const decoded = await reconstruct(loaded.clips);
      const features = await extractor.extract(extractor.prepare(loaded.clips.shape, decoded));
      reconstructed.add(features.subarray(0, loaded.size * rows * extractor.dimensions));
    }
    labels.push(...loaded.labels);
    context.progress("real and reconstructed clips", labels.length, count);
  }
  const floor = featureSet();
  if (config.floor) {
    for await (const loaded of second) {
      floor.add(await realFeatures(extractor, loaded));
      context.progress("other real clips", floor.count / rows, count);
    }
  }
  // A transformer with tasks is judged at each of them, on conditions from the real clips.
  const objective = config.generation ? context.objective : undefined;
  const tasks: readonly (string | undefined)[] =
    objective === undefined ? [] : objective.tasks ? videoTasks(objective) : [undefined];
  const generated = new Map<string | undefined, FeatureSet[]>();
  for (const task of tasks) {
    const sets: FeatureSet[] = [];
    for (let r = 0; r < repeats; r++) {
      const set = featureSet();
      const seed = config.seed + r;
      const made =
        task === undefined
          ? generate(context, objective!, labels, seed)
          : performTask(context, objective!, task, dataset, chosen.subarray(0, count), seed);
      for await (const { pixels, shape, size } of made) {
        const features = await extractor.extract(extractor.prepare(shape, pixels));
        set.add(features.subarray(0, size * rows * extractor.dimensions));
        const what = task === undefined ? "generated clips" : `clips of ${task}`;
        context.progress(what, r * count + set.count / rows, repeats * count);
      }
      sets.push(set);
    }
    generated.set(task, sets);
  }
  warnOfWeakSets(context, extractor, real, count * rows);

  const choices = {
    ...clipChoices(first, config.seed),
    network: extractor.network,
    weights_sha256: extractor.sha256,
  };
  const compared: Compared[] = [
    ...[...generated].map(([task, own]) => ({
      quantity: task === undefined ? "generation" : `generation/${task}`,
      sets: own,
      against: {
        against:
          task === undefined
            ? "as many generated clips, labels as the real clips have"
            : `as many clips made by the task ${task} from conditions of the real clips`,
        generation_seed: config.seed,
        ...(repeats > 1 ? { repeats, spread: "population deviation over repeats" } : {}),
      },
    })),
    {
      quantity: "reconstruction",
      sets: [reconstructed],
      against: { against: "reconstructions of the same clips" },
    },
    {
      quantity: "real_floor",
      sets: [floor],
      against: {
        against: "as many other real clips of the split",
        ...(config.floor ? { other_clips_sha256: second.digest() } : {}),
      },
    },
  ];
  const scores = compared
    .filter(({ sets: own }) => own.length > 0 && own[0]!.count > 0)
    .flatMap((one) => scoresOf(options, one, real, counts, choices));
  const names = tasks.filter((task) => task !== undefined);
  return names.length < 2 ? scores : [...scores, averageOf(options, scores, names, count, choices)];
}

/** The mean of the tasks' distances, the column "avg" of MAGVIT's multi-task tables. */
function averageOf(
  { name, covariance, protocols }: JudgeOptions,
  scores: readonly Score[],
  tasks: readonly string[],
  n: number,
  choices: Choices,
): Score {
  const values = tasks.map(
    (task) => scores.find((one) => one.name === `${name}/generation/${task}`)!.value,
  );
  const value = values.reduce((sum, one) => sum + one, 0) / values.length;
  return score(
    { name: `${name}/generation_average`, value, better: "lower", n },
    protocols.frechet,
    { ...choices, covariance, mean_over_tasks: [...tasks].sort() },
  );
}

interface Compared {
  readonly quantity: string;
  readonly sets: readonly FeatureSet[];
  readonly against: Choices;
}

/** Fréchet and kernel distances, precision and recall of one quantity. */
function scoresOf(
  { name, config, extractor, covariance, protocols }: JudgeOptions,
  { quantity, sets, against }: Compared,
  real: FeatureSet,
  counts: readonly number[],
  choices: Choices,
): Score[] {
  const better = quantity === "real_floor" ? "none" : "lower";
  const { rows, dimensions } = extractor;
  const n = counts.at(-1)!;
  const of = (
    label: string,
    values: readonly number[],
    protocol: ProtocolName,
    more: Choices = {},
    side: Score["better"] = better,
  ): Score => {
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
    const std = values.length > 1 ? { std: Math.sqrt(squares / values.length) } : {};
    return score({ name: `${name}/${label}`, value: mean, better: side, n, ...std }, protocol, {
      ...choices,
      ...against,
      ...more,
    });
  };
  // Rounding can leave equal Gaussians a hair below zero.
  const distances = counts.map((count) =>
    sets.map((set) =>
      Math.max(0, frechetDistance(real.moments(count * rows), set.moments(count * rows))),
    ),
  );
  const kind = { covariance };
  const scores = [of(quantity, distances.at(-1)!, protocols.frechet, kind)];
  if (counts.length > 1) {
    counts.slice(0, -1).forEach((count, i) => {
      const more = { ...kind, first_clips: count };
      scores.push(of(`${quantity}_at_${count}`, distances[i]!, protocols.frechet, more, "none"));
    });
    const limits = sets.map((_, s) =>
      limitOverCounts(
        counts,
        distances.map((values) => values[s]!),
      ),
    );
    const more = { ...kind, limit: `line over 1/N through ${counts.join(", ")} clips` };
    scores.push(of(`${quantity}_limit`, limits, protocols.frechet, more));
  }
  if (config.kernel) {
    const values = sets.map((set) => kernelDistance(real.rows(), set.rows(), dimensions));
    scores.push(of(`kernel_${quantity}`, values, protocols.kernel));
  }
  if (config.neighbours) {
    const pairs = sets.map((set) => precisionRecall(real.rows(), set.rows(), dimensions));
    const side = better === "none" ? "none" : "higher";
    const more = { neighbours: neighbourCount };
    for (const key of ["precision", "recall"] as const) {
      const values = pairs.map((pair) => 100 * pair[key]);
      const made = of(
        `${key}_${quantity}`,
        values,
        protocols.neighbours,
        { ...more, measures: key },
        side,
      );
      scores.push({ ...made, unit: "%" });
    }
  }
  return scores;
}

/** What makes a distance finite and yet worth little. */
function warnOfWeakSets(
  context: EvalContext,
  extractor: Extractor,
  real: FeatureSet,
  rows: number,
): void {
  const { dimensions } = extractor;
  if (rows <= dimensions) {
    context.warn(
      `${rows} samples do not fill ${dimensions} feature dimensions, so the covariances are singular: the distances are finite but depend on the count more than on the clips`,
    );
  }
  const { covariance } = real.moments(rows);
  let trace = 0;
  for (let i = 0; i < dimensions; i++) {
    trace += covariance[i * dimensions + i]!;
  }
  if (!(trace > 0)) {
    context.warn(
      "all real clips give the very same features (are they constant?): the distance is that of two points",
    );
  }
}

/** Generated clips in batches of the context's size, one for each label in turn; pixels about [-1, 1]. */
export async function* generate(
  context: EvalContext,
  objective: Objective,
  labels: readonly number[],
  seed: number,
): AsyncGenerator<{ pixels: Float32Array; shape: number[]; size: number }> {
  const { device, batch, tokenizer } = context;
  const sample = pixelSampler(device, tokenizer, objective);
  const { frames, height, width } = tokenizer.clip;
  for (let from = 0; from < labels.length; from += batch) {
    // The last batch is filled up with its last label: one shape, one compilation.
    const wanted = Int32Array.from({ length: batch }, (_, i) =>
      objective.space.classes > 0 ? labels[Math.min(from + i, labels.length - 1)]! : 0,
    );
    const drawn = new Random(seed, "eval/generate", from).uint32();
    yield {
      pixels: await sample({ labels: wanted, seed: drawn }),
      shape: [batch, frames, height, width, 3],
      size: Math.min(batch, labels.length - from),
    };
  }
}

/** The tasks of an objective that make whole clips. */
function videoTasks(objective: Objective): string[] {
  return tasksOf(objective).filter((task) => {
    const parts = taskParts[task as keyof typeof taskParts];
    return !isMultimodal(objective) || parts.output.startsWith("video");
  });
}

/** Clips that a task makes from conditions of some real clips, in batches of the context's size. */
async function* performTask(
  context: EvalContext,
  objective: Objective,
  task: string,
  dataset: Dataset,
  indices: Uint32Array,
  seed: number,
): AsyncGenerator<{ pixels: Float32Array; shape: number[]; size: number }> {
  const { device, batch, tokenizer } = context;
  const { frames, height, width } = tokenizer.clip;
  const perform = clipGenerator(device, tokenizer, objective);
  for (let from = 0; from < indices.length; from += batch) {
    const rows = Array.from(
      { length: batch },
      (_, i) => indices[Math.min(from + i, indices.length - 1)]!,
    );
    const sources = await Promise.all(rows.map((index) => dataset.get(index, 0)));
    const drawn = new Random(seed, `eval/tasks/${task}`, from).uint32();
    const { clips } = await perform({ task, sources, seed: drawn });
    const length = frames * height * width * 3;
    const pixels = new Float32Array(batch * length);
    clips!.forEach((clip, i) =>
      clip.forEach((value, k) => (pixels[i * length + k] = value / 127.5 - 1)),
    );
    const size = Math.min(batch, indices.length - from);
    yield { pixels, shape: [batch, frames, height, width, 3], size };
  }
}
