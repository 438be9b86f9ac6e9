/**
 * @file Residual vector quantization: Zeghidour et al., "SoundStream: An End-to-End Neural Audio Codec"
 * (2021), §III-C; for images Lee et al., "Autoregressive Image Generation using Residual Quantization"
 * (CVPR 2022). Level 0 quantizes the latent, level l what the levels before it left over; the code is
 * the sum of the levels' codes. A token is L sub-ids, coarse first, and its vocabulary K^L.
 *
 * Quantizer dropout (SoundStream, §III-C): a share of the clips of a training step is coded with the
 * first n levels only, n drawn evenly from 1 to L, so that one model serves all rates. Levels that a
 * clip does not use neither add to its code nor learn from it. The draw comes from the host.
 */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, Type } from "../../config/schema.ts";
import type { Scope } from "../../models/scope.ts";
import { stopGradient, straightThrough } from "../../runtime/ops.ts";
import { Random } from "../../runtime/random.ts";
import { float32 } from "../../runtime/tensors.ts";
import { buildCodebook, codebookLoss, codebookProperties, codebookRemedy } from "./codebook.ts";
import { gridOf, type Quantizer, rowsOf, usageMetrics } from "./quantizer.ts";

export const schema = closed(
  {
    type: Type.Literal("rvq"),
    levels: Type.Integer({
      minimum: 1,
      maximum: 32,
      default: 4,
      description: "Codebooks L one after the other: a token has this many sub-ids, coarse first.",
    }),
    dropout: Type.Number({
      minimum: 0,
      maximum: 1,
      default: 0,
      description:
        "Share of the training clips that are coded with the first few levels only, as many as a draw says.",
    }),
    ...codebookProperties({ learn: "ema", entropy_weight: 0 }),
  },
  { description: "Residual vector quantization (SoundStream)." },
);

export type RvqConfig = Static<typeof schema>;

/** Levels in use a clip: all, or for a share `dropout` of the clips a number drawn from 1 to L. */
export function drawLevels(
  clips: number,
  { levels, dropout }: Pick<RvqConfig, "levels" | "dropout">,
  seed: number,
  step: number,
): Float32Array {
  const draws = new Random(seed, "rvq/levels", step).uniforms(2 * clips);
  return Float32Array.from({ length: clips }, (_, i) =>
    draws[i]! < dropout ? 1 + Math.floor(draws[clips + i]! * levels) : levels,
  );
}

/** Builds the quantizer with its codebooks in `scope`. */
export function build(config: RvqConfig, scope: Scope): Quantizer {
  const { size, width, levels } = config;
  const factors = Array.from({ length: levels }, () => size);
  const codebooks = factors.map((_, l) => buildCodebook(config, width, scope.child(`level${l}`)));

  function lookup(ids: tf.Tensor5D): tf.Tensor5D {
    const rows = rowsOf(ids); // [N, L]
    const n = rows.shape[0];
    const codes = codebooks.map((codebook, l) =>
      codebook.lookup(tf.reshape<tf.Rank.R1>(tf.slice(rows, [0, l], [n, 1]), [n])),
    );
    const sum = codes.reduce((a, b) => tf.add(a, b));
    return tf.reshape(sum, [...gridOf(ids), width]);
  }

  return {
    type: "rvq",
    factors,
    latentWidth: width,
    width,
    preNorm: false,
    remedy: codebookRemedy,

    ...(config.dropout > 0 && {
      inputs: ([clips]: readonly number[], seed: number, step: number) => ({
        rvq_levels: float32([clips!], drawLevels(clips!, config, seed, step)),
      }),
    }),

    assign(z) {
      let rest = rowsOf(z);
      const ids = codebooks.map((codebook) => {
        const index = codebook.assign(rest);
        rest = tf.sub(rest, codebook.lookup(index));
        return index;
      });
      const joined = tf.reshape<tf.Rank.R5>(tf.stack(ids, 1), [...gridOf(z), levels]);
      return { ids: joined, codes: lookup(joined) };
    },

    quantize(z, step, training, noise) {
      const grid = gridOf(z);
      const [clips, t, h, w] = grid;
      const used = noise?.["rvq_levels"]; // [B]
      let rest = rowsOf(z);
      let code: tf.Tensor2D | undefined;
      const parts = codebooks.map((codebook, l) => {
        const on = used && tf.cast(tf.greater(used, l), "float32"); // [B]
        const weights =
          on &&
          tf.reshape<tf.Rank.R2>(tf.tile(tf.reshape(on, [clips, 1]), [1, t * h * w]), [-1, 1]);
        const part = codebook.quantize(rest, step, training, weights);
        // Later levels see the residual without a gradient through earlier codes.
        const chosen = weights ? (tf.mul(part.chosen, weights) as tf.Tensor2D) : part.chosen;
        rest = tf.sub(rest, stopGradient(chosen));
        code = code ? tf.add(code, chosen) : chosen;
        return part;
      });
      const { loss, metrics } = codebookLoss(config, parts, false);
      const ids = tf.reshape<tf.Rank.R5>(
        tf.stack(
          parts.map(({ index }) => index),
          1,
        ),
        [...grid, levels],
      );
      return {
        codes: straightThrough(z, tf.reshape<tf.Rank.R5>(code!, [...grid, width])),
        ids,
        loss,
        metrics: { ...metrics, ...usageMetrics(ids, factors) },
      };
    },

    lookup,
  };
}
