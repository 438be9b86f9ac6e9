/**
 * @file One learned codebook: nearest codes, losses, and how the codes learn. Vector quantization uses
 * one a group of channels, residual quantization one a level.
 *
 * The code of a latent is the codebook vector at the least squared distance, the first one on a tie;
 * under the cosine distance latents and codes are first brought to length one, and so are the codes
 * that the decoder sees (Yu et al., "Vector-quantized image modeling with improved VQGAN", ICLR 2022,
 * §3.2). Codes learn by the gradient of the codebook loss (van den Oord et al. 2017, eq. 3) or as
 * exponential moving averages (appendix A.1).
 *
 * Codebook care happens inside `quantize` while training and lives wholly in variables, so that a
 * resumed run continues exactly:
 * - Data initialisation: at the first training step (state `started` is 0) the vectors are replaced
 *   by latents of the batch.
 * - k-means: in the first `kmeans_steps` steps each code becomes the mean of the batch's latents
 *   assigned to it. That is Lloyd's iteration, once a step on a fresh batch (`started` counts them).
 * - Dead codes: state `cluster_size` is a moving average of latents a step for each code. A code
 *   whose average falls below `restart_below` times the even share N / K is replaced by a latent of
 *   the batch. Which one is no random draw: code k takes row (π(k) + step) mod N for a permutation π
 *   of the N rows that is fixed by the seed, so the choice is a constant of the traced function.
 */

import * as tf from "@tensorflow/tfjs-core";
import { type Static, type TObject, Type } from "../../config/schema.ts";
import { ones, type Scope, uniform, zeros } from "../../models/scope.ts";
import { activeRanks, rowsOverRanks, sumOverRanks } from "../../runtime/collective.ts";
import { embedding, stopGradient } from "../../runtime/ops.ts";
import { Random } from "../../runtime/random.ts";
import { assignmentEntropies } from "./quantizer.ts";

/** The config keys of learned codebooks. */
export function codebookProperties(defaults: {
  readonly learn: "gradient" | "ema";
  readonly entropy_weight: number;
}) {
  return {
    size: Type.Integer({
      minimum: 2,
      maximum: 65536,
      default: 1024,
      description: "Number K of codes of each codebook.",
    }),
    width: Type.Integer({ minimum: 1, default: 256, description: "Channels of a code." }),
    distance: Type.Union([Type.Literal("euclidean"), Type.Literal("cosine")], {
      default: "euclidean",
      description:
        "What the nearest code is nearest by. With cosine, latents and codes are brought to length one.",
    }),
    learn: Type.Union([Type.Literal("gradient"), Type.Literal("ema")], {
      default: defaults.learn,
      description:
        "How the codebook learns: by the gradient of the codebook loss (MAGVIT), or as moving averages of the latents assigned to each code (no codebook loss).",
    }),
    codebook_weight: Type.Number({
      minimum: 0,
      default: 1,
      description:
        "Weight of the codebook loss, which moves codes to their latents. Unused by ema.",
    }),
    commitment_weight: Type.Number({
      minimum: 0,
      default: 0.25,
      description: "Weight of the commitment loss, which moves latents to their codes.",
    }),
    ema_decay: Type.Number({
      minimum: 0,
      exclusiveMaximum: 1,
      default: 0.99,
      description: "Decay of the moving averages of cluster sizes and, with ema, of the codes.",
    }),
    entropy_weight: Type.Number({
      minimum: 0,
      default: defaults.entropy_weight,
      description:
        "Weight of the entropy penalty (confident tokens, evenly used codes) on softmax(-distance / temperature); 0 turns it off and saves its N·K memory.",
    }),
    entropy_temperature: Type.Number({
      exclusiveMinimum: 0,
      default: 0.01,
      description: "Temperature of the soft assignment in the entropy penalty.",
    }),
    data_init: Type.Boolean({
      default: true,
      description: "Start the codebook from latents of the first training batch.",
    }),
    kmeans_steps: Type.Integer({
      minimum: 0,
      default: 0,
      description:
        "First training steps in which each code becomes the mean of the batch's latents assigned to it: k-means, one iteration a step.",
    }),
    restart_below: Type.Number({
      minimum: 0,
      exclusiveMaximum: 1,
      default: 0.03,
      description:
        "A code used less than this share of the even share is replaced by a latent of the batch; 0 turns restarts off.",
    }),
  };
}

export type CodebookConfig = Static<TObject<ReturnType<typeof codebookProperties>>>;

/** What to do about codes that fell out of use. */
export const codebookRemedy =
  "raise quantizer.restart_below (0.1), learn the codebook as moving averages (quantizer.learn=ema), " +
  "start it from data (quantizer.data_init=true, quantizer.kmeans_steps=10), or make it smaller";

/** VideoGPT's smoothing of cluster sizes. */
const SMOOTHING = 1e-7;

/** Squared distances without the latents' own norm, which no comparison needs: [N, D], [K, D] to [N, K]. */
export function scores(z: tf.Tensor2D, codebook: tf.Tensor2D): tf.Tensor2D {
  const norms = tf.sum(tf.square(codebook), 1); // [K]
  return tf.sub(norms, tf.mul(tf.matMul(z, codebook, false, true), 2));
}

/**
 * Ids of the codes that lie nearest, [B, t, h, w, D] to [B, t, h, w, 1] int32: which code it is where the
 * rows are codes, also after a conversion to bfloat16.
 */
export function nearestCodes(codes: tf.Tensor5D, codebook: tf.Tensor2D): tf.Tensor5D {
  const [b, t, h, w, d] = codes.shape;
  const index = tf.argMin(scores(tf.reshape(codes, [-1, d]), codebook), 1);
  return tf.reshape<tf.Rank.R5>(index, [b, t, h, w, 1]);
}

/** Rows of length one: [N, D] to itself. */
export function unitRows(rows: tf.Tensor2D): tf.Tensor2D {
  const squares = tf.sum(tf.square(rows), 1, true); // [N, 1]
  return tf.mul(rows, tf.rsqrt(tf.add(squares, 1e-12)));
}

/** One codebook: what it makes of rows [N, D] of latents, and how it learns. */
export interface Codebook {
  /** Ids of the nearest codes, [N] int32. */
  assign(rows: tf.Tensor2D): tf.Tensor1D;
  /** Codes of ids, [N, D]. */
  lookup(ids: tf.Tensor1D): tf.Tensor2D;
  /**
   * @param weights [N, 1], 1 for the rows that count and 0 for the others; all count when left out
   * @returns `rows` as they were compared (brought to length one under the cosine distance) and the
   *   codes `chosen` for them without a gradient
   */
  quantize(
    rows: tf.Tensor2D,
    step: tf.Scalar,
    training: boolean,
    weights?: tf.Tensor2D,
  ): {
    readonly index: tf.Tensor1D;
    readonly rows: tf.Tensor2D;
    readonly chosen: tf.Tensor2D;
    readonly losses: { readonly [name: string]: tf.Scalar };
  };
}

/** Builds one codebook of `width` channels with its statistics in `scope`. */
export function buildCodebook(
  config: Omit<CodebookConfig, "width">,
  width: number,
  scope: Scope,
): Codebook {
  const { size, ema_decay: decay, learn, kmeans_steps: kmeans } = config;
  const limit = Math.sqrt(3 / size); // variance 1 / K
  const variable = (
    learn === "ema"
      ? scope.state("codebook", [size, width], uniform(limit))
      : scope.param("codebook", [size, width], uniform(limit))
  ) as tf.Variable<tf.Rank.R2>;
  const started = scope.state("started", [], zeros) as tf.Variable<tf.Rank.R0>;
  const clusterSize = scope.state("cluster_size", [size], ones) as tf.Variable<tf.Rank.R1>;
  const clusterSum =
    learn === "ema"
      ? (scope.state("cluster_sum", [size, width], zeros) as tf.Variable<tf.Rank.R2>)
      : undefined;
  const cosine = config.distance === "cosine";
  const unit = (rows: tf.Tensor2D): tf.Tensor2D => (cosine ? unitRows(rows) : rows);

  /** K latents of the batch, [N, D] on each rank, other ones at each step. */
  function batchRows(rows: tf.Tensor2D, step: tf.Scalar): tf.Tensor2D {
    const n = rows.shape[0] * activeRanks().world;
    const order = new Random(scope.seed, `${scope.prefix}rows`).permutation(n);
    const base = Float32Array.from({ length: size }, (_, k) => order[k % n]!);
    const moved = tf.add(tf.tensor1d(base), step); // exact below 2^24
    const index = tf.sub(moved, tf.mul(tf.floor(tf.div(moved, n)), n)); // modulo N
    return rowsOverRanks(rows, index as tf.Tensor1D); // [K, D]
  }

  /** The codebook a training step works with: the stored one, or at the first step the batch's. */
  function startedCodebook(rows: tf.Tensor2D, step: tf.Scalar): tf.Tensor2D {
    if (!config.data_init) {
      return variable;
    }
    const first = tf.sub(1, tf.minimum(started, 1)); // 1 at the first step only
    const fresh = tf.sub(batchRows(rows, step), variable);
    return tf.add(variable, stopGradient(tf.mul(fresh, first)));
  }

  /** Moving averages, codes and restarts after a step: rows [N, D], hot [N, K], current [K, D]. */
  function update(
    rows: tf.Tensor2D,
    hot: tf.Tensor2D,
    current: tf.Tensor2D,
    step: tf.Scalar,
  ): void {
    const counts = sumOverRanks(tf.sum<tf.Tensor1D>(hot, 0)); // [K]
    const averaged: tf.Tensor1D = tf.add(tf.mul(clusterSize, decay), tf.mul(counts, 1 - decay)); // [K]
    const blend = (kept: tf.Tensor2D, given: tf.Tensor2D, where: tf.Tensor): tf.Tensor2D =>
      tf.add(kept, tf.mul(tf.sub(given, kept), where));
    let codes = current;
    let sums: tf.Tensor2D | undefined;
    let sizes: tf.Tensor1D = averaged;
    const added =
      clusterSum || kmeans > 0
        ? sumOverRanks(tf.matMul(hot, rows, true, false) as tf.Tensor2D) // [K, D]
        : undefined;
    if (clusterSum) {
      const first = tf.mul(current, tf.expandDims(clusterSize, 1)); // the sums that give `current`
      const fresh = tf.sub(1, tf.minimum(started, 1));
      const before = tf.add(clusterSum, tf.mul(tf.sub(first, clusterSum), fresh));
      sums = tf.add<tf.Tensor2D>(tf.mul(before, decay), tf.mul(added!, 1 - decay));
      const sum = tf.sum(averaged);
      const smooth = tf.div(
        tf.mul(tf.add(averaged, SMOOTHING), sum),
        tf.add(sum, size * SMOOTHING),
      );
      codes = tf.div(sums, tf.expandDims(smooth, 1));
    }
    if (kmeans > 0) {
      // Codes without a latent stay where they are; the others move to the mean of theirs.
      const going = tf.cast(tf.less(started, kmeans), "float32");
      const met = tf.mul(tf.minimum(counts, 1), going) as tf.Tensor1D; // [K]
      const column = tf.expandDims(met, 1);
      codes = blend(codes, tf.div(added!, tf.expandDims(tf.maximum(counts, 1), 1)), column);
      sums = sums && blend(sums, added!, column);
      sizes = tf.add(sizes, tf.mul(tf.sub(counts, sizes), met));
    }
    if (config.restart_below > 0) {
      const share = (rows.shape[0] * activeRanks().world) / size;
      const dead = tf.cast(tf.less(sizes, config.restart_below * share), "float32"); // [K]
      const column = tf.expandDims(dead, 1);
      const given = batchRows(rows, step);
      codes = blend(codes, given, column);
      sums = sums && blend(sums, tf.mul(given, share), column);
      sizes = tf.add(sizes, tf.mul(tf.sub(share, sizes), dead));
    }
    if (codes !== variable) {
      variable.assign(codes);
    }
    clusterSize.assign(sizes);
    if (clusterSum && sums) {
      clusterSum.assign(sums);
    }
    started.assign(tf.add(started, 1) as tf.Scalar);
  }

  function nearest(rows: tf.Tensor2D, table: tf.Tensor2D) {
    const distances = scores(rows, table); // [N, K]
    return { distances, index: stopGradient(tf.argMin<tf.Tensor1D>(distances, 1)) };
  }

  return {
    assign: (rows) => nearest(unit(rows), unit(variable)).index,
    lookup: (ids) => embedding(unit(variable), ids) as tf.Tensor2D,

    quantize(latents, step, training, weights) {
      const rows = unit(latents);
      const raw = training ? startedCodebook(stopGradient(rows), step) : variable;
      const table = unit(raw);
      const { distances, index } = nearest(rows, table);
      const chosen = embedding(table, index) as tf.Tensor2D; // [N, D]
      const distance = (a: tf.Tensor2D, b: tf.Tensor2D): tf.Scalar => {
        const squares = tf.squaredDifference(a, b);
        return tf.mean(weights ? tf.mul(squares, weights) : squares);
      };
      const losses: { [name: string]: tf.Scalar } = {
        commitment: distance(rows, stopGradient(chosen)),
      };
      if (learn === "gradient") {
        losses["codebook"] = distance(stopGradient(rows), chosen);
      }
      if (config.entropy_weight > 0) {
        const logits = tf.div<tf.Tensor2D>(tf.neg(distances), config.entropy_temperature);
        Object.assign(losses, assignmentEntropies(logits));
      }
      if (training) {
        const all = tf.oneHot(index, size, 1, 0, "float32") as tf.Tensor2D; // [N, K]
        const hot = weights ? (tf.mul(all, weights) as tf.Tensor2D) : all;
        update(stopGradient(rows), hot, raw, step);
      }
      return { index, rows, chosen: stopGradient(chosen), losses };
    },
  };
}

/**
 * The weighted loss and the metrics of several codebooks of equal width.
 * @param mean the losses are means over all elements: of groups that share the channels, so their
 *   mean; of levels that each see all channels, so their sum
 */
export function codebookLoss(
  config: Omit<CodebookConfig, "width">,
  parts: readonly { readonly losses: { readonly [name: string]: tf.Scalar } }[],
  mean: boolean,
): { loss: tf.Scalar; metrics: { [name: string]: tf.Scalar } } {
  const sum = (name: string): tf.Scalar =>
    parts.map(({ losses }) => losses[name]!).reduce((a, b) => tf.add(a, b));
  const share = mean ? parts.length : 1;
  const commitment = tf.div<tf.Scalar>(sum("commitment"), share);
  let loss = tf.mul<tf.Scalar>(commitment, config.commitment_weight);
  if (config.learn === "gradient") {
    loss = tf.add(loss, tf.mul(sum("codebook"), config.codebook_weight / share));
  }
  const metrics: { [name: string]: tf.Scalar } = { commitment };
  if (config.entropy_weight > 0) {
    metrics["sample_entropy"] = sum("sample_entropy");
    metrics["batch_entropy"] = sum("batch_entropy");
    const penalty = tf.sub(metrics["sample_entropy"], metrics["batch_entropy"]);
    loss = tf.add(loss, tf.mul(penalty, config.entropy_weight));
  }
  return { loss, metrics };
}
