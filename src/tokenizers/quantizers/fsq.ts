/**
 * @file Finite scalar quantization: Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple"
 * (ICLR 2024), §3.1 and the code of its appendix A.1. Channel d of the latent is bounded and rounded
 * to one of L_d values; the vocabulary is ∏ L_d, there is no codebook and no loss of its own.
 *
 * A token's index is Σ level_d · ∏_{e<d} L_e: the first channel is the least significant digit. It is
 * given as sub-ids of consecutive channels, as many in one as fit `factor_size`. Codes are the rounded
 * values over ⌊L/2⌋, so they lie in [-1, 1].
 */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, Type } from "../../config/schema.ts";
import { stopGradient } from "../../runtime/ops.ts";
import { gridOf, type Quantizer, rowsOf, usageMetrics } from "./quantizer.ts";

export const schema = closed(
  {
    type: Type.Literal("fsq"),
    levels: Type.Array(Type.Integer({ minimum: 2, maximum: 256 }), {
      minItems: 1,
      maxItems: 64,
      default: [8, 5, 5, 5],
      description:
        "Values that each channel can take. The paper recommends [8, 6, 5] for 2^8, [8, 5, 5, 5] for 2^10, [7, 5, 5, 5, 5] for 2^12, [8, 8, 8, 6, 5] for 2^14 and [8, 8, 8, 5, 5, 5] for 2^16.",
    }),
    factor_size: Type.Integer({
      minimum: 2,
      maximum: 65536,
      default: 65536,
      description:
        "Largest sub-id vocabulary: consecutive channels share one as long as they fit. A channel of more levels is a sub-id by itself.",
    }),
    bound: Type.Union([Type.Literal("paper"), Type.Literal("widened"), Type.Literal("symmetric")], {
      default: "paper",
      description:
        "How a channel is bounded before rounding: the paper's scaled and shifted tanh; the same a little wider, with the shift by artanh (vector-quantize-pytorch); or evenly spaced levels from -1 to 1, symmetric for even counts too.",
    }),
    pre_norm: Type.Boolean({
      default: false,
      description:
        "Normalise the encoder's features (group norm without scale and shift) before their projection.",
    }),
  },
  { description: "Finite scalar quantization: channels rounded to a few values (FSQ)." },
);

export type FsqConfig = Static<typeof schema>;

const EPSILON = 1e-3;

/** Rounding with the gradient of the identity; halves go to the even number. */
const round = (x: tf.Tensor2D): tf.Tensor2D => tf.add(x, stopGradient(tf.sub(tf.round(x), x)));

/** The level sizes of each sub-id: runs of channels whose product stays within `most`. */
export function factorRuns(levels: readonly number[], most: number): number[][] {
  const runs: number[][] = [];
  let product = Number.POSITIVE_INFINITY;
  for (const size of levels) {
    if (product * size > most) {
      runs.push([]);
      product = 1;
    }
    runs.at(-1)!.push(size);
    product *= size;
  }
  return runs;
}

/** The bounded channels before rounding, in units of levels: [N, D] to itself. */
export function boundChannels(z: tf.Tensor2D, { levels, bound }: FsqConfig): tf.Tensor2D {
  const row = (f: (size: number) => number): tf.Tensor1D =>
    tf.tensor1d(Float32Array.from(levels, f));
  if (bound === "symmetric") {
    const top = row((size) => size - 1);
    return tf.div(tf.mul(tf.add(tf.tanh(z), 1), top), 2); // in (0, L - 1)
  }
  const widen = bound === "widened" ? 1 : -1;
  const half = (size: number) => ((size - 1) * (1 + widen * EPSILON)) / 2;
  const offset = (size: number) => (size % 2 === 0 ? 0.5 : 0);
  const shift = (size: number) => {
    const ratio = offset(size) / half(size);
    return bound === "widened" ? Math.atanh(ratio) : Math.tan(ratio);
  };
  return tf.sub(tf.mul(tf.tanh(tf.add(z, row(shift))), row(half)), row(offset));
}

/** Builds the quantizer. It has no variables. */
export function build(config: FsqConfig): Quantizer {
  const { levels, bound } = config;
  const width = levels.length;
  const runs = factorRuns(levels, config.factor_size);
  const factors = runs.map((run) => run.reduce((a, b) => a * b, 1));
  const symmetric = bound === "symmetric";
  const row = (f: (size: number) => number): tf.Tensor1D =>
    tf.tensor1d(Float32Array.from(levels, f));

  // pack [D, F] holds a channel's place value in its sub-id; unpack [F, D] its inverse.
  const pack = new Float32Array(width * runs.length);
  const unpack = new Float32Array(runs.length * width);
  let channel = 0;
  runs.forEach((run, f) => {
    let place = 1;
    for (const size of run) {
      pack[channel * runs.length + f] = place;
      unpack[f * width + channel] = 1 / place;
      place *= size;
      channel += 1;
    }
  });

  /** Codes of level numbers [N, D] in 0..L-1. */
  const codesOf = (digits: tf.Tensor2D): tf.Tensor2D =>
    symmetric
      ? tf.sub(
          tf.mul(
            digits,
            row((size) => 2 / (size - 1)),
          ),
          1,
        )
      : tf.mul(
          tf.sub(
            digits,
            row((size) => Math.floor(size / 2)),
          ),
          row((s) => 1 / Math.floor(s / 2)),
        );
  /** The inverse of `codesOf`, rounded. */
  const digitsOf = (codes: tf.Tensor2D): tf.Tensor2D =>
    tf.round(
      symmetric
        ? tf.mul(
            tf.add(codes, 1),
            row((size) => (size - 1) / 2),
          )
        : tf.add(
            tf.mul(
              codes,
              row((s) => Math.floor(s / 2)),
            ),
            row((s) => Math.floor(s / 2)),
          ),
    );
  const idsOf = (digits: tf.Tensor2D): tf.Tensor2D =>
    tf.cast(tf.matMul(digits, tf.tensor2d(pack, [width, runs.length])), "int32");

  /** Level numbers with a straight-through gradient. */
  function quantized(z: tf.Tensor5D): tf.Tensor2D {
    const bounded = boundChannels(rowsOf(z), config);
    if (symmetric) {
      // floor(x + 1/2) rather than rounding to even: the levels are cut evenly.
      const x = tf.add(bounded, 0.5);
      return tf.add(bounded, stopGradient(tf.sub(tf.floor(x), bounded)));
    }
    return tf.add(
      round(bounded),
      row((size) => Math.floor(size / 2)),
    );
  }

  function assign(z: tf.Tensor5D) {
    const digits = quantized(z);
    const grid = gridOf(z);
    return {
      codes: tf.reshape<tf.Rank.R5>(codesOf(digits), [...grid, width]),
      ids: tf.reshape<tf.Rank.R5>(idsOf(stopGradient(digits)), [...grid, runs.length]),
    };
  }

  return {
    type: "fsq",
    factors,
    latentWidth: width,
    width,
    preNorm: config.pre_norm,
    remedy:
      "normalise the features first (quantizer.pre_norm=true), use fewer levels, or lower the learning rate",
    assign,

    quantize(z) {
      const { codes, ids } = assign(z);
      return { codes, ids, loss: tf.scalar(0), metrics: usageMetrics(ids, factors) };
    },

    lookup(ids) {
      const rows = tf.cast(rowsOf(ids), "float32"); // [N, F]
      // The half keeps the quotient clear of whole numbers: place values are no powers of two.
      const moved = tf.matMul(tf.add(rows, 0.5), tf.tensor2d(unpack, [runs.length, width]));
      const shifted = tf.floor(moved); // [N, D]
      const whole = tf.floor(
        tf.div(
          tf.add(shifted, 0.5),
          row((size) => size),
        ),
      );
      const digits = tf.sub<tf.Tensor2D>(
        shifted,
        tf.mul(
          whole,
          row((size) => size),
        ),
      );
      return tf.reshape(codesOf(digits), [...gridOf(ids), width]);
    },

    indices: (codes) => tf.reshape(idsOf(digitsOf(rowsOf(codes))), [...gridOf(codes), runs.length]),
  };
}
