/**
 * @file I3D (Carreira & Zisserman 2017): Inception-v1 inflated to 3D, as the Fréchet video distance
 * takes it (Unterthiner et al. 2018): 400 logits averaged over time. Batch norms are folded into the
 * convolutions when weights are read, with the epsilon that the caller names: 1e-3 in the original
 * TensorFlow graph, 1e-5 in several PyTorch ports, which moves the distance.
 */

import * as tf from "@tensorflow/tfjs-core";
import type { Weights } from "../../runtime/weight-files/weights.ts";
import { Scope } from "../scope.ts";
import { frozenConv3d, type Layer3D } from "./parts.ts";
import {
  assignWeights,
  type BatchNormNames,
  foldedBias,
  foldedKernel,
  ownLayout,
  type Recipe,
  take,
  torchKernel,
  type WeightLayout,
} from "./recipes.ts";

/** Widths of a mixed block: 1×1, 1×1 → 3×3, 1×1 → 3×3, pool → 1×1. */
type Widths = readonly [number, number, number, number, number, number];

const mixed: { readonly [name: string]: Widths } = {
  Mixed_3b: [64, 96, 128, 16, 32, 32],
  Mixed_3c: [128, 128, 192, 32, 96, 64],
  Mixed_4b: [192, 96, 208, 16, 48, 64],
  Mixed_4c: [160, 112, 224, 24, 64, 64],
  Mixed_4d: [128, 128, 256, 24, 64, 64],
  Mixed_4e: [112, 144, 288, 32, 64, 64],
  Mixed_4f: [256, 160, 320, 32, 128, 128],
  Mixed_5b: [256, 160, 320, 32, 128, 128],
  Mixed_5c: [384, 192, 384, 48, 128, 128],
};

/** The batch norms' epsilon in the TensorFlow graph: a float32. */
export const i3dEpsilon = Math.fround(1e-3);

/** Length of the features of the Fréchet distance. */
export const i3dLogits = 400;

/** The fewest frames that leave two steps for the last pooling. */
export const i3dMinimumFrames = 9;

/** The side of the pictures that the last pooling is made for. */
export const i3dSide = 224;

export interface I3d {
  readonly scope: Scope;
  /** Every endpoint by its name in TensorFlow, of clips [B, T, H, W, 3] in [-1, 1] of any size. */
  endpoints(clips: tf.Tensor5D): { readonly [endpoint: string]: tf.Tensor };
  /** Clips [B, T >= 9, 224, 224, 3] in [-1, 1] to logits, mean over time: [B, 400]. */
  logits(clips: tf.Tensor5D): tf.Tensor2D;
  /** The features below the logits, mean over time: [B, 1024] (MAGVIT's "pool"). */
  pool(clips: tf.Tensor5D): tf.Tensor2D;
}

/** Build the network's variables in `scope`, all zeros; `loadI3d` fills them. */
export function buildI3d(scope: Scope): I3d {
  const unit = (
    name: string,
    inputs: number,
    outputs: number,
    side: number,
    strides: readonly [number, number, number] = [1, 1, 1],
    relu = true,
  ): Layer3D => {
    const inner = name.split("/").reduce((at, part) => at.child(part), scope);
    return frozenConv3d(inner, { inputs, outputs, kernel: [side, side, side], strides, relu });
  };
  const stages: [name: string, layer: Layer3D][] = [
    ["Conv3d_1a_7x7", unit("Conv3d_1a_7x7", 3, 64, 7, [2, 2, 2])],
    ["MaxPool3d_2a_3x3", maxPool([1, 3, 3], [1, 2, 2])],
    ["Conv3d_2b_1x1", unit("Conv3d_2b_1x1", 64, 64, 1)],
    ["Conv3d_2c_3x3", unit("Conv3d_2c_3x3", 64, 192, 3)],
    ["MaxPool3d_3a_3x3", maxPool([1, 3, 3], [1, 2, 2])],
  ];
  let channels = 192;
  for (const [name, [a, b1, b2, c1, c2, d]] of Object.entries(mixed)) {
    if (name === "Mixed_4b") {
      stages.push(["MaxPool3d_4a_3x3", maxPool([3, 3, 3], [2, 2, 2])]);
    } else if (name === "Mixed_5b") {
      stages.push(["MaxPool3d_5a_2x2", maxPool([2, 2, 2], [2, 2, 2])]);
    }
    const branches: Layer3D[][] = [
      [unit(`${name}/Branch_0/Conv3d_0a_1x1`, channels, a, 1)],
      [
        unit(`${name}/Branch_1/Conv3d_0a_1x1`, channels, b1, 1),
        unit(`${name}/Branch_1/Conv3d_0b_3x3`, b1, b2, 3),
      ],
      [
        unit(`${name}/Branch_2/Conv3d_0a_1x1`, channels, c1, 1),
        unit(`${name}/Branch_2/${wideBranch(name)}`, c1, c2, 3),
      ],
      [maxPool([3, 3, 3], [1, 1, 1]), unit(`${name}/Branch_3/Conv3d_0b_1x1`, channels, d, 1)],
    ];
    stages.push([
      name,
      (x) =>
        tf.concat(
          branches.map((layers) => layers.reduce((y, layer) => layer(y), x)),
          4,
        ),
    ]);
    channels = a + b2 + c2 + d;
  }
  const classify = unit("Logits/Conv3d_0c_1x1", channels, i3dLogits, 1, [1, 1, 1], false);

  const trunk = (clips: tf.Tensor5D): { readonly [endpoint: string]: tf.Tensor5D } => {
    const found: { [endpoint: string]: tf.Tensor5D } = {};
    let x = clips;
    for (const [name, layer] of stages) {
      x = layer(x);
      found[name] = x;
    }
    return found;
  };
  const pooled = (clips: tf.Tensor5D): tf.Tensor5D => {
    checkClips(clips);
    return averageOver(trunk(clips)["Mixed_5c"]!);
  };
  const overTime = (x: tf.Tensor5D): tf.Tensor2D =>
    tf.mean(tf.reshape(x, [x.shape[0], x.shape[1], x.shape[4]]), 1); // [B, C]
  return {
    scope,
    endpoints(clips) {
      const found = trunk(clips);
      const last = found["Mixed_5c"]!;
      const [, t, h, w] = last.shape;
      if (t < 2 || h !== 7 || w !== 7) {
        return found;
      }
      const pool = averageOver(last); // [B, T'-1, 1, 1, 1024]
      const logits = classify(pool);
      return {
        ...found,
        AvgPool: pool,
        Logits: tf.reshape(logits, [logits.shape[0], logits.shape[1], i3dLogits]),
        LogitsMean: overTime(logits),
        Pool1024Mean: overTime(pool),
      };
    },
    logits: (clips) => overTime(classify(pooled(clips))),
    pool: (clips) => overTime(pooled(clips)),
  };
}

function checkClips({ shape: [, frames, height, width] }: tf.Tensor5D): void {
  if (frames < i3dMinimumFrames || height !== i3dSide || width !== i3dSide) {
    throw new RangeError(
      `I3D takes clips of at least ${i3dMinimumFrames} frames of ${i3dSide} x ${i3dSide}, got ${frames} of ${height} x ${width}`,
    );
  }
}

function maxPool(side: [number, number, number], strides: [number, number, number]): Layer3D {
  return (x) => tf.maxPool3d(x, side, strides, "same");
}

/** The last pooling: windows of 2 × 7 × 7, step 1, no padding. */
function averageOver(x: tf.Tensor5D): tf.Tensor5D {
  return tf.avgPool3d(x, [2, 7, 7], 1, "valid");
}

/** The graph's one irregular name. */
function wideBranch(block: string): string {
  return block === "Mixed_5b" ? "Conv3d_0a_3x3" : "Conv3d_0b_3x3";
}

/** A unit's kernel or bias out of a convolution and the batch norm behind it. */
function unitRecipe(
  variable: string,
  names: (unit: string) => {
    kernel: string;
    bias: string;
    norm: Omit<BatchNormNames, "epsilon">;
    perm?: readonly number[];
  },
  epsilon: number,
): Recipe | undefined {
  const [, unit, part] = /^(.+)\/(kernel|bias)$/.exec(variable) ?? [];
  if (unit === undefined) {
    return undefined;
  }
  const { kernel, bias, norm, perm } = names(unit);
  if (unit.startsWith("Logits")) {
    return part === "kernel" ? take(kernel, perm) : take(bias);
  }
  const full = { ...norm, epsilon };
  return part === "kernel" ? foldedKernel(kernel, full, perm) : foldedBias(full);
}

function tensorflowLayout(epsilon: number): WeightLayout {
  return {
    name: "TensorFlow",
    recipe: (variable) =>
      unitRecipe(
        variable,
        (unit) => {
          const path = `RGB/inception_i3d/${unit}`;
          const norm = `${path}/batch_norm`;
          return {
            kernel: `${path}/conv_3d/w`,
            bias: `${path}/conv_3d/b`,
            norm: {
              beta: `${norm}/beta`,
              mean: `${norm}/moving_mean`,
              variance: `${norm}/moving_variance`,
            },
          };
        },
        epsilon,
      ),
  };
}

/** MAGVIT's port: branches are named with a dot, and its Mixed_5b is regular. */
function flaxLayout(epsilon: number, root: string): WeightLayout {
  return {
    name: "flax (MAGVIT)",
    recipe: (variable) =>
      unitRecipe(
        variable,
        (unit) => {
          const path =
            root +
            unit
              .replace("Branch_2/Conv3d_0a_3x3", "Branch_2/Conv3d_0b_3x3")
              .replace(/(Branch_\d|Logits)\//, "$1.");
          const norm = `${path}/batch_norm`;
          return {
            kernel: `${path}/conv_3d/kernel`,
            bias: `${path}/conv_3d/bias`,
            norm: {
              beta: `${norm}/beta`,
              mean: `${norm}/moving_mean`,
              variance: `${norm}/moving_variance`,
            },
          };
        },
        epsilon,
      ),
  };
}

/** Branches as pytorch-i3d names them: b0, b1a, b1b, b2a, b2b, b3b. */
function pytorchBranch(unit: string): string {
  return unit
    .replace("Logits/Conv3d_0c_1x1", "logits")
    .replace("/Branch_0/Conv3d_0a_1x1", ".b0")
    .replace(/\/Branch_(\d)\/Conv3d_0a_1x1/, ".b$1a")
    .replace(/\/Branch_(\d)\/Conv3d_0[ab]_(3x3|1x1)/, ".b$1b");
}

/** Branches as kinetics_i3d_pytorch names them: sequences inside `branch_k`. */
function sequenceBranch(unit: string): string {
  return unit
    .toLowerCase()
    .replace("logits/", "")
    .replace("/branch_0/conv3d_0a_1x1", ".branch_0")
    .replace(/\/branch_([12])\/conv3d_0a_1x1/, ".branch_$1.0")
    .replace(/\/branch_([12])\/conv3d_0[ab]_3x3/, ".branch_$1.1")
    .replace("/branch_3/conv3d_0b_1x1", ".branch_3.1");
}

function pytorchLayout(
  name: string,
  epsilon: number,
  path: (unit: string) => string,
  normName: string,
): WeightLayout {
  return {
    name,
    recipe: (variable) =>
      unitRecipe(
        variable,
        (unit) => {
          const at = path(unit);
          const norm = `${at}.${normName}`;
          return {
            kernel: `${at}.conv3d.weight`,
            bias: `${at}.conv3d.bias`,
            norm: {
              gamma: `${norm}.weight`,
              beta: `${norm}.bias`,
              mean: `${norm}.running_mean`,
              variance: `${norm}.running_var`,
            },
            perm: torchKernel[3],
          };
        },
        epsilon,
      ),
  };
}

/**
 * Fill the variables from the TensorFlow checkpoint, MAGVIT's flax file, a PyTorch port (pytorch-i3d
 * as VideoGPT and TATS use it, or kinetics_i3d_pytorch) or a converted file.
 * @param epsilon of the batch norms, folded in here; a converted file has one folded in already
 */
export function loadI3d(i3d: I3d, weights: Weights, epsilon: number = i3dEpsilon): string {
  const layouts = [
    ownLayout,
    tensorflowLayout(epsilon),
    flaxLayout(epsilon, ""),
    flaxLayout(epsilon, "params/"),
    pytorchLayout("pytorch-i3d", epsilon, pytorchBranch, "bn"),
    pytorchLayout("kinetics_i3d_pytorch", epsilon, sequenceBranch, "batch3d"),
  ];
  return assignWeights(i3d.scope, weights, layouts, "I3D");
}

/** Build and fill. The device that the variables shall belong to must be active. */
export function openI3d(weights: Weights, epsilon: number = i3dEpsilon): I3d {
  const i3d = buildI3d(Scope.blank(0));
  loadI3d(i3d, weights, epsilon);
  return i3d;
}
