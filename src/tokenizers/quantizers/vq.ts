/**
 * @file Vector quantization: van den Oord et al., "Neural Discrete Representation Learning" (VQ-VAE,
 * NeurIPS 2017), eq. 3, with the codebook learned by gradient or by exponential moving averages
 * (appendix A.1), and the entropy penalty of MAGVIT (Yu et al., CVPR 2023).
 *
 * The code of a latent is the codebook vector at the least squared distance, the first one on a tie.
 * The losses are means over all elements.
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
      description: "Number K of codes: the vocabulary.",
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

export type VqConfig = Static<typeof schema>;

/** VideoGPT's smoothing of cluster sizes, and MAGVIT's constant in the logarithm of the batch mean. */
const SMOOTHING = 1e-7;
const EPSILON = 1e-5;

/** Squared distances without the latents' own norm, which no comparison needs: [N, D], [K, D] to [N, K]. */
function scores(z: tf.Tensor2D, codebook: tf.Tensor2D): tf.Tensor2D {
  const norms = tf.sum(tf.square(codebook), 1); // [K]
  return tf.sub(norms, tf.mul(tf.matMul(z, codebook, false, true), 2));
}

/** Builds the quantizer with its codebook and statistics in `scope`. */
export function build(config: VqConfig, scope: Scope): Quantizer {
  const { size, width, ema_decay: decay, learn } = config;
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
    codebook.assign(codes);
    clusterSize.assign(sizes);
    if (clusterSum && sums) {
      clusterSum.assign(sums);
    }
    started.assign(tf.onesLike(started) as tf.Scalar);
  }

  function nearest(z: tf.Tensor5D, table: tf.Tensor2D) {
    const [b, t, h, w] = z.shape;
    const rows = tf.reshape<tf.Rank.R2>(z, [-1, width]); // [N, D]
    const distances = scores(rows, table); // [N, K]
    const index = stopGradient(tf.argMin<tf.Tensor1D>(distances, 1)); // [N] int32
    const ids = tf.reshape<tf.Rank.R5>(index, [b, t, h, w, 1]);
    return { rows, distances, index, ids };
  }

  return {
    type: "vq",
    factors: [size],
    width,
    preNorm: false,

    assign(z) {
      const { index, ids } = nearest(z, codebook);
      return { ids, codes: tf.reshape<tf.Rank.R5>(embedding(codebook, index), z.shape) };
    },

    quantize(z, step, training) {
      const table = training
        ? startedCodebook(stopGradient(tf.reshape<tf.Rank.R2>(z, [-1, width])), step)
        : codebook;
      const { rows, distances, index, ids } = nearest(z, table);
      const chosen = embedding(table, index) as tf.Tensor2D; // [N, D]
      const commitment = tf.mean<tf.Scalar>(tf.squaredDifference(rows, stopGradient(chosen)));
      let loss = tf.mul<tf.Scalar>(commitment, config.commitment_weight);
      if (learn === "gradient") {
        const moved = tf.mean<tf.Scalar>(tf.squaredDifference(stopGradient(rows), chosen));
        loss = tf.add(loss, tf.mul(moved, config.codebook_weight));
      }

      const hot = tf.oneHot(index, size, 1, 0, "float32") as tf.Tensor2D; // [N, K]
      const usage = tf.mean(hot, 0); // [K]
      const perplexity = tf.exp<tf.Scalar>(
        tf.neg(tf.sum(tf.mul(usage, tf.log(tf.add(usage, 1e-10))))),
      );
      const metrics: { [name: string]: tf.Scalar } = { commitment, perplexity };
      if (config.entropy_weight > 0) {
        const logits = tf.div(tf.neg(distances), config.entropy_temperature);
        const logProbabilities = tf.logSoftmax(logits) as tf.Tensor2D; // [N, K]
        const probabilities = tf.exp(logProbabilities);
        const sample = tf.div<tf.Scalar>(
          tf.neg(tf.sum(tf.mul(probabilities, logProbabilities))),
          rows.shape[0],
        );
        const mean = tf.mean(probabilities, 0); // [K]
        const batch = tf.neg<tf.Scalar>(tf.sum(tf.mul(mean, tf.log(tf.add(mean, EPSILON)))));
        loss = tf.add(loss, tf.mul(tf.sub(sample, batch), config.entropy_weight));
        metrics.sample_entropy = sample;
        metrics.batch_entropy = batch;
      }
      if (training) {
        update(rows, hot, table, step);
      }
      const codes = straightThrough(z, tf.reshape<tf.Rank.R5>(stopGradient(chosen), z.shape));
      return { codes, ids, loss, metrics };
    },

    lookup(ids) {
      const [b, t, h, w] = ids.shape;
      return tf.reshape(embedding(codebook, tf.reshape(ids, [-1])), [b, t, h, w, width]);
    },
  };
}
