/**
 * @file Vector quantization: van den Oord et al., "Neural Discrete Representation Learning" (VQ-VAE,
 * NeurIPS 2017), eq. 3, with the codebook learned by gradient or by exponential moving averages
 * (appendix A.1), and the entropy penalty of MAGVIT (Yu et al., CVPR 2023).
 *
 * The code of a latent is the codebook vector at the least squared distance, the first one on a tie.
 * The losses are means over all elements. With `groups` G > 1 this is product quantization (Jegou et
 * al., 2011): the channels are cut into G parts, each with a codebook of its own, and a token is G
 * sub-ids; the vocabulary is K^G at the cost of G·K codes.
 *
 * Codebook care happens inside `quantize` while training and lives wholly in variables, so that a
 * resumed run continues exactly:
 * - Data initialisation: at the first training step (state `started` is 0) the vectors are replaced
 *   by latents of the batch.
 * - Dead codes: state `cluster_size` is a moving average of latents a step for each code. A code
 *   whose average falls below `restart_below` times the even share N / K is replaced by a latent of
 *   the batch. Which one is no random draw: code k takes row (π(k) + step) mod N for a permutation π
 *   of the N rows that is fixed by the seed, so the choice is a constant of the traced function.
 */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, Type } from "../../config/schema.ts";
import { type Scope, uniform, ones, zeros } from "../../models/scope.ts";
import { embedding, stopGradient, straightThrough } from "../../runtime/ops.ts";
import { Random } from "../../runtime/random.ts";
import type { Quantizer } from "./quantizer.ts";

export const schema = closed(
  {
    type: Type.Literal("vq"),
    size: Type.Integer({
      minimum: 2,
      maximum: 65536,
      default: 1024,
      description: "Number K of codes of each codebook.",
    }),
    groups: Type.Integer({
      minimum: 1,
      maximum: 16,
      default: 1,
      description:
        "Parts that the channels are cut into, each with its own codebook: a token has this many sub-ids. Must divide width.",
    }),
    width: Type.Integer({
      minimum: 1,
      default: 256,
      description: "Channels of a code.",
    }),
    learn: Type.Union([Type.Literal("gradient"), Type.Literal("ema")], {
      default: "gradient",
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
      default: 0.1,
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
    restart_below: Type.Number({
      minimum: 0,
      exclusiveMaximum: 1,
      default: 0.03,
      description:
        "A code used less than this share of the even share is replaced by a latent of the batch; 0 turns restarts off.",
    }),
  },
  { description: "Vector quantization with a learned codebook (VQ-VAE, MAGVIT)." },
);

type Grid = [b: number, t: number, h: number, w: number];

export type VqConfig = Static<typeof schema>;

/** VideoGPT's smoothing of cluster sizes, and MAGVIT's constant in the logarithm of the batch mean. */
const SMOOTHING = 1e-7;
const EPSILON = 1e-5;

/** Squared distances without the latents' own norm, which no comparison needs: [N, D], [K, D] to [N, K]. */
function scores(z: tf.Tensor2D, codebook: tf.Tensor2D): tf.Tensor2D {
  const norms = tf.sum(tf.square(codebook), 1); // [K]
  return tf.sub(norms, tf.mul(tf.matMul(z, codebook, false, true), 2));
}

/** One codebook: what it makes of rows [N, D] of latents, and how it learns. */
interface Codebook {
  /** Ids of the nearest codes, [N] int32. */
  assign(rows: tf.Tensor2D): tf.Tensor1D;
  /** Codes of ids, [N, D]. */
  lookup(ids: tf.Tensor1D): tf.Tensor2D;
  quantize(
    rows: tf.Tensor2D,
    step: tf.Scalar,
    training: boolean,
  ): {
    readonly index: tf.Tensor1D;
    readonly chosen: tf.Tensor2D;
    readonly losses: { readonly [name: string]: tf.Scalar };
    readonly perplexity: tf.Scalar;
  };
}

/** Builds one codebook of `width` channels with its statistics in `scope`. */
function buildCodebook(config: VqConfig, width: number, scope: Scope): Codebook {
  const { size, ema_decay: decay, learn } = config;
  const limit = Math.sqrt(3 / size); // variance 1 / K
  const codebook = (
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

  /** K latents of the batch [N, D], other ones at each step. */
  function batchRows(rows: tf.Tensor2D, step: tf.Scalar): tf.Tensor2D {
    const n = rows.shape[0];
    const order = new Random(scope.seed, `${scope.prefix}rows`).permutation(n);
    const base = Float32Array.from({ length: size }, (_, k) => order[k % n]!);
    const moved = tf.add(tf.tensor1d(base), step); // exact below 2^24
    const index = tf.sub(moved, tf.mul(tf.floor(tf.div(moved, n)), n)); // modulo N
    return embedding(rows, index) as tf.Tensor2D; // [K, D]
  }

  /** The codebook a training step works with: the stored one, or at the first step the batch's. */
  function startedCodebook(rows: tf.Tensor2D, step: tf.Scalar): tf.Tensor2D {
    if (!config.data_init) {
      return codebook;
    }
    const fresh = tf.sub(batchRows(rows, step), codebook);
    return tf.add(codebook, stopGradient(tf.mul(fresh, tf.sub(1, started))));
  }

  /** Moving averages, codes and restarts after a step: rows [N, D], hot [N, K], current [K, D]. */
  function update(
    rows: tf.Tensor2D,
    hot: tf.Tensor2D,
    current: tf.Tensor2D,
    step: tf.Scalar,
  ): void {
    const counts = tf.sum(hot, 0); // [K]
    const averaged: tf.Tensor1D = tf.add(tf.mul(clusterSize, decay), tf.mul(counts, 1 - decay)); // [K]
    let codes = current;
    let sums: tf.Tensor2D | undefined;
    if (clusterSum) {
      const first = tf.mul(current, tf.expandDims(clusterSize, 1)); // the sums that give `current`
      const before = tf.add(clusterSum, tf.mul(tf.sub(first, clusterSum), tf.sub(1, started)));
      const added = tf.matMul(hot, rows, true, false); // [K, D]
      sums = tf.add<tf.Tensor2D>(tf.mul(before, decay), tf.mul(added, 1 - decay));
      const total = tf.sum(averaged);
      const smooth = tf.div(
        tf.mul(tf.add(averaged, SMOOTHING), total),
        tf.add(total, size * SMOOTHING),
      );
      codes = tf.div(sums, tf.expandDims(smooth, 1));
    }
    let sizes: tf.Tensor1D = averaged;
    if (config.restart_below > 0) {
      const share = rows.shape[0] / size;
      const dead = tf.cast(tf.less(averaged, config.restart_below * share), "float32"); // [K]
      const column = tf.expandDims(dead, 1);
      const blend = (kept: tf.Tensor2D, given: tf.Tensor2D): tf.Tensor2D =>
        tf.add(kept, tf.mul(tf.sub(given, kept), column));
      const given = batchRows(rows, step);
      codes = blend(codes, given);
      sums = sums && blend(sums, tf.mul(given, share));
      sizes = tf.add(sizes, tf.mul(tf.sub(share, sizes), dead));
    }
    if (codes !== codebook) {
      codebook.assign(codes);
    }
    clusterSize.assign(sizes);
    if (clusterSum && sums) {
      clusterSum.assign(sums);
    }
    started.assign(tf.onesLike(started) as tf.Scalar);
  }

  function nearest(rows: tf.Tensor2D, table: tf.Tensor2D) {
    const distances = scores(rows, table); // [N, K]
    return { distances, index: stopGradient(tf.argMin<tf.Tensor1D>(distances, 1)) };
  }

  return {
    assign: (rows) => nearest(rows, codebook).index,
    lookup: (ids) => embedding(codebook, ids) as tf.Tensor2D,

    quantize(rows, step, training) {
      const table = training ? startedCodebook(stopGradient(rows), step) : codebook;
      const { distances, index } = nearest(rows, table);
      const chosen = embedding(table, index) as tf.Tensor2D; // [N, D]
      const losses: { [name: string]: tf.Scalar } = {
        commitment: tf.mean(tf.squaredDifference(rows, stopGradient(chosen))),
      };
      if (learn === "gradient") {
        losses.codebook = tf.mean(tf.squaredDifference(stopGradient(rows), chosen));
      }
      if (config.entropy_weight > 0) {
        const logits = tf.div(tf.neg(distances), config.entropy_temperature);
        const logProbabilities = tf.logSoftmax(logits) as tf.Tensor2D; // [N, K]
        const probabilities = tf.exp(logProbabilities);
        const sum = tf.sum<tf.Scalar>(tf.mul(probabilities, logProbabilities));
        losses.sample_entropy = tf.div(sum, -rows.shape[0]);
        const mean = tf.mean(probabilities, 0); // [K]
        losses.batch_entropy = tf.neg(tf.sum(tf.mul(mean, tf.log(tf.add(mean, EPSILON)))));
      }
      const hot = tf.oneHot(index, size, 1, 0, "float32") as tf.Tensor2D; // [N, K]
      const usage = tf.mean(hot, 0); // [K]
      const perplexity = tf.exp<tf.Scalar>(
        tf.neg(tf.sum(tf.mul(usage, tf.log(tf.add(usage, 1e-10))))),
      );
      if (training) {
        update(rows, hot, table, step);
      }
      return { index, chosen: stopGradient(chosen), losses, perplexity };
    },
  };
}

/** Builds the quantizer with its codebooks and statistics in `scope`. `groups` must divide `width`. */
export function build(config: VqConfig, scope: Scope): Quantizer {
  const { size, width, groups } = config;
  const part = width / groups;
  const codebooks = Array.from({ length: groups }, (_, g) =>
    buildCodebook(config, part, groups === 1 ? scope : scope.child(`group${g}`)),
  );

  /** The rows of each group: [B, t, h, w, D] to G times [N, D / G]. */
  const split = (z: tf.Tensor5D): tf.Tensor2D[] => {
    const rows = tf.reshape<tf.Rank.R2>(z, [-1, width]);
    return groups === 1
      ? [rows]
      : codebooks.map((_, g) => tf.slice(rows, [0, g * part], [rows.shape[0], part]));
  };
  const join = (parts: tf.Tensor2D[], grid: Grid): tf.Tensor5D =>
    tf.reshape(groups === 1 ? parts[0]! : tf.concat(parts, 1), [...grid, width]);
  const joinIds = (parts: tf.Tensor1D[], grid: Grid): tf.Tensor5D =>
    tf.reshape(groups === 1 ? parts[0]! : tf.stack(parts, 1), [...grid, groups]);
  const gridOf = ([b, t, h, w]: number[]): Grid => [b!, t!, h!, w!];
  const total = (values: tf.Scalar[]): tf.Scalar => values.reduce((a, b) => tf.add(a, b));

  return {
    type: "vq",
    factors: codebooks.map(() => size),
    width,
    preNorm: false,

    assign(z) {
      const ids = split(z).map((rows, g) => codebooks[g]!.assign(rows));
      const codes = ids.map((index, g) => codebooks[g]!.lookup(index));
      return { ids: joinIds(ids, gridOf(z.shape)), codes: join(codes, gridOf(z.shape)) };
    },

    quantize(z, step, training) {
      const parts = split(z).map((rows, g) => codebooks[g]!.quantize(rows, step, training));
      const sum = (name: string): tf.Scalar => total(parts.map(({ losses }) => losses[name]!));
      // The groups have equal widths, so the mean over all elements is the mean of their means.
      const commitment = tf.div<tf.Scalar>(sum("commitment"), groups);
      let loss = tf.mul<tf.Scalar>(commitment, config.commitment_weight);
      if (config.learn === "gradient") {
        loss = tf.add(loss, tf.mul(sum("codebook"), config.codebook_weight / groups));
      }
      const perplexity = tf.div<tf.Scalar>(total(parts.map((one) => one.perplexity)), groups);
      const metrics: { [name: string]: tf.Scalar } = { commitment, perplexity };
      if (config.entropy_weight > 0) {
        metrics.sample_entropy = sum("sample_entropy");
        metrics.batch_entropy = sum("batch_entropy");
        const penalty = tf.sub(metrics.sample_entropy, metrics.batch_entropy);
        loss = tf.add(loss, tf.mul(penalty, config.entropy_weight));
      }
      const grid = gridOf(z.shape);
      const chosen = parts.map((one) => one.chosen);
      const index = parts.map((one) => one.index);
      return {
        codes: straightThrough(z, join(chosen, grid)),
        ids: joinIds(index, grid),
        loss,
        metrics,
      };
    },

    lookup(ids) {
      const rows = tf.reshape<tf.Rank.R2>(ids, [-1, groups]); // [N, G]
      const n = rows.shape[0];
      const codes = codebooks.map((codebook, g) =>
        codebook.lookup(tf.reshape<tf.Rank.R1>(tf.slice(rows, [0, g], [n, 1]), [n])),
      );
      return join(codes, gridOf(ids.shape));
    },
  };
}
