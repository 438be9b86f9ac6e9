/**
 * @file SPAE's semantic candidates (Yu et al., NeurIPS 2023, §3): which words fit a clip, by an embedding
 * pair. The paper takes CLIP; here the image side is the feature network that comes along
 * (`moving-shapes`), and the word side a table in its feature space, made from captions.
 */

import { fileURLToPath } from "node:url";
import * as tf from "@tensorflow/tfjs-core";
import { featureWidth, movingShapesNet } from "../models/features/moving-shapes-net.ts";
import { assignWeights, ownLayout } from "../models/features/recipes.ts";
import { Scope } from "../models/scope.ts";
import { stopGradient } from "../runtime/ops.ts";
import { openWeights } from "../runtime/weight-files/open.ts";
import { readWords, type SpaeConfig } from "./quantizers/spae.ts";

const ownWeights = fileURLToPath(
  new URL("../../src/eval/weights/moving-shapes-v1.safetensors", import.meta.url),
);

/** The features [B, 64] of clips in [-1, 1], with the published weights. The device must be active. */
export function imageSide(): (clips: tf.Tensor5D) => tf.Tensor2D {
  const scope = Scope.blank(0);
  const net = movingShapesNet(scope);
  const weights = openWeights(ownWeights);
  assignWeights(scope, weights, [ownLayout], "moving-shapes-v1");
  weights.close();
  return (clips) => net.features(clips);
}

/**
 * Candidates as weights with rows of sum one, [B, K], for clips [B, T, H, W, 3] in [-1, 1]; undefined
 * where the config has no semantic loss.
 */
export function buildSemantic(
  quantizer: Pick<SpaeConfig, "size" | "semantic">,
): ((clips: tf.Tensor5D) => tf.Tensor2D) | undefined {
  const { semantic, size } = quantizer;
  if (!semantic) {
    return undefined;
  }
  const table = readWords("semantic.file", semantic.file, "image_space", [size, featureWidth]);
  const features = imageSide();
  return (clips) => {
    const unit = (x: tf.Tensor2D): tf.Tensor2D =>
      tf.mul(x, tf.rsqrt(tf.add(tf.sum(tf.square(x), 1, true), 1e-12)));
    const words = unit(tf.tensor2d(table, [size, featureWidth]));
    const scores = tf.matMul(unit(features(clips)), words, false, true); // [B, K]
    const least = tf.min(scores, 1, true);
    const relative = tf.div(
      tf.sub(scores, least),
      tf.add(tf.sub(tf.max(scores, 1, true), least), 1e-9),
    );
    const chosen = tf.cast(tf.greaterEqual(relative, semantic.threshold), "float32");
    return stopGradient(tf.div<tf.Tensor2D>(chosen, tf.sum(chosen, 1, true)));
  };
}
