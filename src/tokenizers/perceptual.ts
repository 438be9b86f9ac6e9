/**
 * @file Perceptual losses: how far a reconstruction is from the clip in the eyes of a frozen network.
 *
 * - `lpips-vgg16`, `lpips-alexnet`: LPIPS (Zhang et al., CVPR 2018) frame by frame, the mean over
 *   frames, on weight files of the user's.
 * - `moving-shapes`: the small 3D network that comes with the program (it was trained to tell the
 *   factors of procedural clips). `features` is LPIPS without learned heads on its four stages: the
 *   mean squared difference of feature vectors of length one; `logits` is the mean squared difference
 *   of its class logits, the form of MAGVIT's loss, which takes a ResNet-50.
 *
 * The network's variables are its own and never trained or saved.
 */

import { fileURLToPath } from "node:url";
import * as tf from "@tensorflow/tfjs-core";
import { type Static, Type } from "../config/schema.ts";
import { openLpips } from "../models/features/lpips.ts";
import { movingShapesNet } from "../models/features/moving-shapes-net.ts";
import { assignWeights, ownLayout } from "../models/features/recipes.ts";
import { Scope } from "../models/scope.ts";
import { stopGradient } from "../runtime/ops.ts";
import { openWeights } from "../runtime/weight-files/open.ts";
import { mergeWeights } from "../runtime/weight-files/weights.ts";

/** The config key `perceptual` of tokenizers. */
export const perceptualSchema = Type.Object(
  {
    weight: Type.Number({
      minimum: 0,
      default: 0.1,
      description: "Weight of the loss.",
    }),
    network: Type.Union(
      [Type.Literal("moving-shapes"), Type.Literal("lpips-vgg16"), Type.Literal("lpips-alexnet")],
      {
        default: "moving-shapes",
        description:
          "The network that looks: a small one that comes along, or LPIPS on published weights given in `files`.",
      },
    ),
    compare: Type.Union([Type.Literal("features"), Type.Literal("logits")], {
      default: "features",
      description: "What moving-shapes compares: the features of its stages, or its logits.",
    }),
    files: Type.Array(Type.String(), {
      default: [],
      description:
        "Weight files of LPIPS: torchvision's trunk and the heads of the lpips package, or one file with both.",
    }),
  },
  {
    additionalProperties: false,
    description: "A perceptual reconstruction loss; none when left out.",
  },
);

export type PerceptualConfig = Static<typeof perceptualSchema>;

/** Distance of clips [B, T, H, W, 3] in [-1, 1] from others; differentiable in the first. */
export type Perceptual = (made: tf.Tensor5D, real: tf.Tensor5D) => tf.Scalar;

const ownWeights = fileURLToPath(
  new URL("../../src/eval/weights/moving-shapes-v1.safetensors", import.meta.url),
);

/** Mean squared difference of feature vectors of length one. */
function unitDistance(a: tf.Tensor, b: tf.Tensor): tf.Scalar {
  const unit = (x: tf.Tensor) => tf.mul(x, tf.rsqrt(tf.add(tf.sum(tf.square(x), -1, true), 1e-10)));
  return tf.mean(tf.sum(tf.squaredDifference(unit(a), unit(b)), -1));
}

/**
 * Builds the loss and reads its weights. The device whose variables they become must be active.
 * @throws UserError when a weight file is missing or is none
 */
export function buildPerceptual(config: PerceptualConfig): Perceptual {
  if (config.network === "moving-shapes") {
    const scope = Scope.blank(0);
    const net = movingShapesNet(scope);
    const weights = openWeights(ownWeights);
    assignWeights(scope, weights, [ownLayout], "moving-shapes-v1");
    weights.close();
    return (made, real) => {
      if (config.compare === "logits") {
        const [a, b] = [net.logits(net.features(made)), net.logits(net.features(real))];
        const each = Object.keys(a).map((head) => {
          const name = head as keyof typeof a;
          return tf.mean<tf.Scalar>(tf.squaredDifference(a[name], stopGradient(b[name])));
        });
        return tf.div(
          each.reduce((x, y) => tf.add(x, y)),
          each.length,
        );
      }
      const ofReal = net.maps(real);
      const each = net.maps(made).map((map, l) => unitDistance(map, stopGradient(ofReal[l]!)));
      return each.reduce((x, y) => tf.add(x, y));
    };
  }
  const parts = config.files.map((file) => openWeights(file));
  const lpips = openLpips(
    config.network === "lpips-vgg16" ? "vgg16" : "alexnet",
    mergeWeights(parts),
  );
  for (const part of parts) {
    part.close();
  }
  return (made, real) => {
    const [b, t, h, w, c] = made.shape;
    const frames = (x: tf.Tensor5D) => tf.reshape<tf.Rank.R4>(x, [b * t, h, w, c]);
    return tf.mean(lpips.distance(frames(made), stopGradient(frames(real))));
  };
}
