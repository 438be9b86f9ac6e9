/**
 * @file VideoMAE-v2 ViT-g (Wang et al. 2023) as the content-debiased Fréchet video distance takes it
 * (Ge et al. 2024): the mean of all tokens of the fine-tuned network through its last norm, 1408
 * numbers a clip of 16 frames of 224 × 224 in [0, 1] (without ImageNet's statistics).
 */

import * as tf from "@tensorflow/tfjs-core";
import { conv3d } from "../../runtime/ops.ts";
import type { Weights } from "../../runtime/weight-files/weights.ts";
import { Scope } from "../scope.ts";
import {
  assignWeights,
  ownLayout,
  type Recipe,
  take,
  torchKernel,
  type WeightLayout,
} from "./recipes.ts";
import { frozenLayerNorm, frozenTransformer, rowsOf, zeroRecipe } from "./vision-transformer.ts";

export interface VideoMaeOptions {
  readonly frames: number;
  readonly side: number;
  readonly patch: number;
  /** Frames of one token. */
  readonly tubelet: number;
  readonly width: number;
  readonly depth: number;
  readonly heads: number;
  readonly hidden: number;
}

/** The sizes of ViT-g/14. */
export const videoMaeGiant: VideoMaeOptions = {
  frames: 16,
  side: 224,
  patch: 14,
  tubelet: 2,
  width: 1408,
  depth: 40,
  heads: 16,
  hidden: 6144, // 1408 · 48/11
};

const epsilon = 1e-6;

export interface VideoMae {
  readonly scope: Scope;
  readonly options: VideoMaeOptions;
  /** Clips [B, frames, side, side, 3] in [0, 1] to [B, width]. */
  features(clips: tf.Tensor5D): tf.Tensor2D;
}

/** The fixed sinusoids of token i at channel j (Vaswani et al. 2017): [tokens, width]. */
export function sinusoids(tokens: number, width: number): Float32Array {
  return Float32Array.from({ length: tokens * width }, (_, at) => {
    const [i, j] = [Math.floor(at / width), at % width];
    const angle = i / 10_000 ** ((2 * Math.floor(j / 2)) / width);
    return j % 2 === 0 ? Math.sin(angle) : Math.cos(angle);
  });
}

/** Build the network's variables in `scope`, all zeros; `loadVideoMae` fills them. */
export function buildVideoMae(scope: Scope, options: VideoMaeOptions = videoMaeGiant): VideoMae {
  const { frames, side, patch, tubelet, width } = options;
  const tokens = (frames / tubelet) * (side / patch) ** 2;
  const place = scope.child("patch");
  const kernel = place.state("kernel", [tubelet, patch, patch, 3, width]) as tf.Tensor5D;
  const bias = place.state("bias", [width]);
  const through = frozenTransformer(scope, { ...options, activation: "gelu", epsilon });
  const norm = frozenLayerNorm(scope.child("norm"), width, epsilon);
  const positions = sinusoids(tokens, width);
  return {
    scope,
    options,
    features(clips) {
      const [batch, t, h, w] = clips.shape;
      if (t !== frames || h !== side || w !== side) {
        throw new RangeError(
          `this VideoMAE takes clips of ${frames} x ${side} x ${side}, got ${t} x ${h} x ${w}`,
        );
      }
      const patches = tf.add(conv3d(clips, kernel, { strides: [tubelet, patch, patch] }), bias);
      const sequence = tf.reshape(patches, [batch, tokens, width]);
      const y = through(tf.add(sequence, tf.tensor(positions, [tokens, width])) as tf.Tensor3D);
      return norm(tf.mean(y, 1)) as tf.Tensor2D;
    },
  };
}

/** VideoMAE's own names; the keys' bias is zero and stands in no file. */
const torchLayout: WeightLayout = {
  name: "VideoMAE",
  recipe(variable): Recipe | undefined {
    const simple: { [variable: string]: Recipe } = {
      "patch/kernel": take("patch_embed.proj.weight", torchKernel[3]),
      "patch/bias": take("patch_embed.proj.bias"),
      "norm/scale": take("fc_norm.weight"),
      "norm/shift": take("fc_norm.bias"),
    };
    if (simple[variable]) {
      return simple[variable];
    }
    const [, index, path, part] = /^block(\d+)\/(.+)\/(\w+)$/.exec(variable) ?? [];
    if (path === undefined) {
      return undefined;
    }
    const at = `blocks.${index}`;
    const weight = part === "kernel";
    switch (path) {
      case "attention/query":
        return weight ? rowsOf(`${at}.attn.qkv.weight`, 0, 3) : take(`${at}.attn.q_bias`);
      case "attention/key":
        return weight ? rowsOf(`${at}.attn.qkv.weight`, 1, 3) : zeroRecipe;
      case "attention/value":
        return weight ? rowsOf(`${at}.attn.qkv.weight`, 2, 3) : take(`${at}.attn.v_bias`);
      case "attention/output":
        return weight ? take(`${at}.attn.proj.weight`, [1, 0]) : take(`${at}.attn.proj.bias`);
      case "mlp/in":
        return weight ? take(`${at}.mlp.fc1.weight`, [1, 0]) : take(`${at}.mlp.fc1.bias`);
      case "mlp/out":
        return weight ? take(`${at}.mlp.fc2.weight`, [1, 0]) : take(`${at}.mlp.fc2.bias`);
      default:
        return take(`${at}.${path}.${part === "scale" ? "weight" : "bias"}`);
    }
  },
};

/** Fill the variables from VideoMAE's file or a converted one. */
export function loadVideoMae(mae: VideoMae, weights: Weights): string {
  return assignWeights(mae.scope, weights, [ownLayout, torchLayout], "VideoMAE-v2 ViT-g");
}

/** Build and fill. The device that the variables shall belong to must be active. */
export function openVideoMae(weights: Weights, options: VideoMaeOptions = videoMaeGiant): VideoMae {
  const mae = buildVideoMae(Scope.blank(0), options);
  loadVideoMae(mae, weights);
  return mae;
}
