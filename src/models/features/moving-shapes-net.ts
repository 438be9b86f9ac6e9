/**
 * @file `moving-shapes-v1`: the feature network of Fréchet distances where no published network's
 * weights are at hand. A small 3D CNN that reads motion, shape and colour off clips of the
 * `moving-shapes` set; its 64 features are the mean over time and space before the three linear
 * classifiers, so clips of any length and size fit. Distances on it are for comparing runs of this
 * framework with one another; they are not FVD and say nothing about photographs.
 *
 * Trained by scripts/train-feature-network.ts in 2400 steps of 16 clips (5 minutes on two busy cores).
 * Accuracy on 960 clips of the validation stream, chance 8.3 / 16.7 / 12.5 %:
 *
 *   T x H x W      motion   shape    colour
 *   17 x 32 x 32   73.7 %   36.9 %   99.4 %
 *    9 x 32 x 32   77.8 %   36.5 %   99.5 %
 *   12 x 48 x 48   75.6 %   38.7 %   99.3 %
 *
 * So it judges colour and motion well, and outlines only roughly.
 */

import * as tf from "@tensorflow/tfjs-core";
import { conv, dense, groupNorm, type Layer, sequence } from "../layers.ts";
import { fanIn, type Scope } from "../scope.ts";
import type { Block } from "../../runtime/ops.ts";

/** Length of a feature vector. */
export const featureWidth = 64;

/** The factors that the network is trained to tell, with their number of values. */
export const heads = { motion: 12, shape: 6, colour: 8 } as const;

export type Head = keyof typeof heads;

/** The convolutions: width, kernel (t, h, w), stride (t, h, w). About 90,000 weights in all. */
const stages: readonly (readonly [width: number, kernel: Block, strides: Block])[] = [
  [16, [3, 3, 3], [1, 2, 2]],
  [24, [3, 3, 3], [2, 2, 2]],
  [32, [3, 3, 3], [1, 1, 1]],
  [64, [3, 3, 3], [2, 2, 2]],
];

export interface MovingShapesNet {
  /** Clips [B, T, H, W, 3] in [-1, 1] to features [B, 64]; T, H, W >= 1. */
  features(clips: tf.Tensor5D): tf.Tensor2D;
  /** What the four stages make of clips [B, T, H, W, 3] in [-1, 1]: [B, T_l, H_l, W_l, C_l] each. */
  maps(clips: tf.Tensor5D): tf.Tensor5D[];
  /** Features [B, 64] to the logits of each head. */
  logits(features: tf.Tensor2D): { readonly [head in Head]: tf.Tensor2D };
}

/** Build the network's variables in `scope`. */
export function movingShapesNet(scope: Scope): MovingShapesNet {
  let inputs = 3;
  const layers: Layer[] = [];
  stages.forEach(([outputs, kernel, strides], i) => {
    const stage = scope.child(`stage${i}`);
    layers.push(
      conv(stage.child("conv"), {
        inputs,
        outputs,
        kernel,
        strides,
        padding: "same",
        bias: false,
        init: fanIn(2),
      }),
      groupNorm(stage.child("norm"), { channels: outputs, groups: 8, activation: "silu" }),
    );
    inputs = outputs;
  });
  const trunk = sequence(layers);
  const maps = (clips: tf.Tensor5D): tf.Tensor5D[] => {
    let x = clips;
    return stages.map((_, i) => (x = layers[2 * i + 1]!(layers[2 * i]!(x))));
  };
  const classifiers = Object.entries(heads).map(
    ([head, outputs]) =>
      [head as Head, dense(scope.child(head), { inputs: featureWidth, outputs })] as const,
  );
  return {
    maps,
    features(clips) {
      const last = trunk(clips); // [B, T', H', W', 64]
      return tf.mean(tf.reshape(last, [clips.shape[0], -1, featureWidth]), 1);
    },
    logits: (features) =>
      Object.fromEntries(
        classifiers.map(([head, classify]) => [head, classify(features) as tf.Tensor2D]),
      ) as { [head in Head]: tf.Tensor2D },
  };
}
