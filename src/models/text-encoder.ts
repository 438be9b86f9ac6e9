/**
 * @file A small bidirectional text encoder (Devlin et al., "BERT", NAACL 2019): tokens and their places
 * through blocks of self-attention. It learns from texts alone by predicting masked tokens, and then
 * gives a vector for each token.
 *
 * Shapes: B texts, L tokens of a text (-1 behind its end), V vocabulary, D width.
 */

import * as tf from "@tensorflow/tfjs-core";
import { attention, embedding, softmaxCrossEntropy } from "../runtime/ops.ts";
import { layerNorm } from "./layers.ts";
import { normal, type Scope, zeros } from "./scope.ts";
import { buildBlock, initStd } from "./transformer.ts";

export interface TextEncoderOptions {
  readonly width: number;
  readonly depth: number;
  readonly heads: number;
  /** Tokens V; the mask is one more. */
  readonly vocabulary: number;
  /** The most tokens of a text. */
  readonly length: number;
}

/** A built encoder. Its functions are traceable. */
export interface TextEncoderNetwork {
  /** [B, L] int32 to vectors [B, L, D]; those behind a text's end mean nothing. */
  vectors(ids: tf.Tensor2D): tf.Tensor3D;
  /**
   * The mean -ln p of the masked tokens given the others.
   * @param masked [B, L] float32: 1 where a token is hidden
   */
  loss(ids: tf.Tensor2D, masked: tf.Tensor2D): tf.Scalar;
}

/** Make the encoder's variables in `scope`. */
export function buildTextEncoder(options: TextEncoderOptions, scope: Scope): TextEncoderNetwork {
  const { width, depth, heads, vocabulary, length } = options;
  const std = initStd(width);
  // The last row is the mask.
  const table = scope.param("tokens", [vocabulary + 1, width], normal(std)) as tf.Tensor2D;
  const places = scope.param("places", [length, width], normal(std)) as tf.Tensor2D;
  const config = {
    type: "transformer",
    width,
    depth,
    heads,
    mlp_ratio: 4,
    positions: "learned",
    tie_weights: true,
  } as const;
  const blocks = Array.from({ length: depth }, (_, i) =>
    buildBlock(scope.child(`block${i}`), config),
  );
  const norm = layerNorm(scope.child("norm"), { width });
  const bias = scope.param("bias", [vocabulary + 1], zeros);

  function run(ids: tf.Tensor2D, hidden?: tf.Tensor2D): tf.Tensor3D {
    const [batch, count] = ids.shape;
    const there = tf.cast(tf.greaterEqual(ids, 0), "float32"); // [B, L]
    const safe = tf.maximum(ids, 0);
    const read = hidden
      ? tf.where(tf.greater(hidden, 0), tf.fill(ids.shape, vocabulary, "int32"), safe)
      : safe;
    const x = tf.add(embedding(table, read as tf.Tensor2D), places) as tf.Tensor3D;
    const keep = tf.mul(tf.sub(tf.reshape(there, [batch, 1, 1, count]), 1), 1e9);
    const shown = tf.add(keep, tf.zeros([batch, 1, count, count])); // [B, 1, L, L]
    const y = blocks.reduce(
      (at, block, index) =>
        block(at, (query, key, value) => attention(query, key, value, { bias: shown }), index),
      x,
    );
    return tf.reshape(norm(tf.reshape(y, [batch * count, width])), [batch, count, width]);
  }

  return {
    vectors: (ids) => run(ids),
    loss(ids, masked) {
      const there = tf.mul(masked, tf.cast(tf.greaterEqual(ids, 0), "float32"));
      const y = tf.reshape<tf.Rank.R2>(run(ids, there as tf.Tensor2D), [-1, width]);
      const logits = tf.add(tf.matMul(y, table, false, true), bias) as tf.Tensor2D;
      const targets = tf.cast(tf.reshape(tf.maximum(ids, 0), [-1]), "int32") as tf.Tensor1D;
      const weight = tf.reshape(there, [-1]);
      const nats = softmaxCrossEntropy(logits, targets);
      return tf.div(tf.sum(tf.mul(nats, weight)), tf.maximum(tf.sum(weight), 1));
    },
  };
}
