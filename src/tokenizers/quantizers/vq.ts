/**
 * @file Vector quantization: van den Oord et al., "Neural Discrete Representation Learning" (VQ-VAE,
 * NeurIPS 2017), eq. 3, with the codebook of codebook.ts and the entropy penalty of MAGVIT (Yu et
 * al., CVPR 2023).
 *
 * The losses are means over all elements. With `groups` G > 1 this is product quantization (Jegou et
 * al., 2011): the channels are cut into G parts, each with a codebook of its own, and a token is G
 * sub-ids; the vocabulary is K^G at the cost of G·K codes.
 */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, Type } from "../../config/schema.ts";
import type { Scope } from "../../models/scope.ts";
import { straightThrough } from "../../runtime/ops.ts";
import { buildCodebook, codebookLoss, codebookProperties, codebookRemedy } from "./codebook.ts";
import { type Grid, gridOf, type Quantizer, rowsOf, usageMetrics } from "./quantizer.ts";

export const schema = closed(
  {
    type: Type.Literal("vq"),
    groups: Type.Integer({
      minimum: 1,
      maximum: 16,
      default: 1,
      description:
        "Parts that the channels are cut into, each with its own codebook: a token has this many sub-ids. Must divide width.",
    }),
    factor_size: Type.Optional(
      Type.Integer({
        minimum: 2,
        maximum: 65_536,
        description:
          "Gives the index of a codebook larger than this as two sub-ids, so that a transformer has two small heads instead of a large one, as with lfq and fsq: id = ids[0] + factor_size · ids[1]. A power of two that divides size; only with one group.",
      }),
    ),
    ...codebookProperties({ learn: "gradient", entropy_weight: 0.1 }),
  },
  { description: "Vector quantization with a learned codebook (VQ-VAE, MAGVIT)." },
);

export type VqConfig = Static<typeof schema>;

/** Builds the quantizer with its codebooks and statistics in `scope`. `groups` must divide `width`. */
export function build(config: VqConfig, scope: Scope): Quantizer {
  const { size, width, groups } = config;
  const part = width / groups;
  const base =
    config.factor_size !== undefined && config.factor_size < size ? config.factor_size : 0;
  const factors = base > 0 ? [base, size / base] : Array.from({ length: groups }, () => size);
  const codebooks = Array.from({ length: groups }, () => size).map((_, g) =>
    buildCodebook(config, part, groups === 1 ? scope : scope.child(`group${g}`)),
  );

  /** The rows of each group: [B, t, h, w, D] to G times [N, D / G]. */
  const split = (z: tf.Tensor5D): tf.Tensor2D[] => {
    const rows = rowsOf(z);
    return groups === 1
      ? [rows]
      : codebooks.map((_, g) => tf.slice(rows, [0, g * part], [rows.shape[0], part]));
  };
  const join = (parts: tf.Tensor2D[], grid: Grid): tf.Tensor5D =>
    tf.reshape(groups === 1 ? parts[0]! : tf.concat(parts, 1), [...grid, width]);
  const joinIds = (indexes: tf.Tensor1D[], grid: Grid): tf.Tensor5D => {
    const parts = base > 0 ? digits(indexes[0]!, base) : indexes;
    return tf.reshape(parts.length === 1 ? parts[0]! : tf.stack(parts, 1), [...grid, parts.length]);
  };
  const indices = (z: tf.Tensor5D): tf.Tensor5D =>
    joinIds(
      split(z).map((rows, g) => codebooks[g]!.assign(rows)),
      gridOf(z),
    );
  const lookup = (ids: tf.Tensor5D): tf.Tensor5D => {
    const rows = base > 0 ? fromDigits(rowsOf(ids), base) : rowsOf(ids); // [N, G]
    const n = rows.shape[0];
    const codes = codebooks.map((codebook, g) =>
      codebook.lookup(tf.reshape<tf.Rank.R1>(tf.slice(rows, [0, g], [n, 1]), [n])),
    );
    return join(codes, gridOf(ids));
  };

  return {
    type: "vq",
    factors,
    latentWidth: width,
    width,
    preNorm: false,
    remedy: codebookRemedy,

    assign(z) {
      const ids = indices(z);
      return { ids, codes: lookup(ids) };
    },

    quantize(z, step, training) {
      const grid = gridOf(z);
      const parts = split(z).map((rows, g) => codebooks[g]!.quantize(rows, step, training));
      const { loss, metrics } = codebookLoss(config, parts, true);
      const ids = joinIds(
        parts.map(({ index }) => index),
        grid,
      );
      const rows = join(
        parts.map((one) => one.rows),
        grid,
      );
      const chosen = join(
        parts.map((one) => one.chosen),
        grid,
      );
      return {
        codes: straightThrough(rows, chosen),
        ids,
        loss,
        metrics: { ...metrics, ...usageMetrics(ids, factors) },
      };
    },

    lookup,
    indices,
  };
}

/** The two digits of indices [N] in a base that is a power of two, the low one first. */
function digits(index: tf.Tensor1D, base: number): tf.Tensor1D[] {
  // Exact: dividing by a power of two rounds nothing, and an index fits in float32.
  const whole: tf.Tensor1D = tf.cast(index, "float32");
  const high: tf.Tensor1D = tf.floor(tf.mul<tf.Tensor1D>(whole, 1 / base));
  const low = tf.sub<tf.Tensor1D>(whole, tf.mul<tf.Tensor1D>(high, base));
  return [tf.cast<tf.Tensor1D>(low, "int32"), tf.cast<tf.Tensor1D>(high, "int32")];
}

/** Indices [N, 1] of their digits [N, 2]. */
function fromDigits(ids: tf.Tensor2D, base: number): tf.Tensor2D {
  const weights = tf.tensor2d([1, base], [2, 1]);
  return tf.cast(tf.matMul(tf.cast<tf.Tensor2D>(ids, "float32"), weights), "int32");
}
