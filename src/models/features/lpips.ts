/**
 * @file LPIPS (Zhang et al. 2018, eq. 1, version 0.1): how different two pictures look, as the
 * distance of their features in VGG16 (Simonyan & Zisserman 2015) or AlexNet (Krizhevsky et al. 2012)
 * after each stage, channels weighted by learned heads:
 *
 *   d(a, b) = Σ_l mean_{h,w} Σ_c w_lc (â_lc - b̂_lc)²,   f̂ = f / (|f|_channels + 1e-10)
 *
 * As a loss it is differentiable in both pictures, and finite where a feature vector is zero.
 */

import * as tf from "@tensorflow/tfjs-core";
import type { Weights } from "../../runtime/weight-files/weights.ts";
import { Scope } from "../scope.ts";
import { frozenConv2d, type Layer2D } from "./parts.ts";
import {
  assignWeights,
  ownLayout,
  type Recipe,
  take,
  torchKernel,
  type WeightLayout,
} from "./recipes.ts";

/** The networks whose features are compared. */
export type LpipsTrunk = "vgg16" | "alexnet";

interface TrunkConv {
  readonly outputs: number;
  readonly side: number;
  readonly stride: number;
  readonly pad: number;
  /** Its index in torchvision's `features`. */
  readonly index: number;
  /** A max pooling (side, stride 2) before it. */
  readonly pool?: number;
  /** Its ReLU ends a stage, whose features are compared. */
  readonly tap: boolean;
}

/** torchvision's layers up to the last feature map that LPIPS looks at. */
const trunks: { readonly [trunk in LpipsTrunk]: readonly TrunkConv[] } = {
  vgg16: [
    { outputs: 64, index: 0, tap: false },
    { outputs: 64, index: 2, tap: true },
    { outputs: 128, index: 5, tap: false, pool: 2 },
    { outputs: 128, index: 7, tap: true },
    { outputs: 256, index: 10, tap: false, pool: 2 },
    { outputs: 256, index: 12, tap: false },
    { outputs: 256, index: 14, tap: true },
    { outputs: 512, index: 17, tap: false, pool: 2 },
    { outputs: 512, index: 19, tap: false },
    { outputs: 512, index: 21, tap: true },
    { outputs: 512, index: 24, tap: false, pool: 2 },
    { outputs: 512, index: 26, tap: false },
    { outputs: 512, index: 28, tap: true },
  ].map((layer) => ({ side: 3, stride: 1, pad: 1, ...layer })),
  alexnet: [
    { outputs: 64, side: 11, stride: 4, pad: 2, index: 0, tap: true },
    { outputs: 192, side: 5, stride: 1, pad: 2, index: 3, tap: true, pool: 3 },
    { outputs: 384, side: 3, stride: 1, pad: 1, index: 6, tap: true, pool: 3 },
    { outputs: 256, side: 3, stride: 1, pad: 1, index: 8, tap: true },
    { outputs: 256, side: 3, stride: 1, pad: 1, index: 10, tap: true },
  ],
};

/** The smallest side at which every stage still has a pixel. */
export const lpipsMinimumSide: { readonly [trunk in LpipsTrunk]: number } = {
  vgg16: 16,
  alexnet: 31,
};

/** The scaling layer: ImageNet's statistics for pixels in [-1, 1]. */
const shift = [-0.03, -0.088, -0.188];
const scale = [0.458, 0.448, 0.45];

/**
 * How a feature vector is brought to length 1: "lpips", the original, adds 1e-10 to its length;
 * "torchmetrics" takes the length as sqrt(1e-8 + squares).
 */
export type LpipsNorm = "lpips" | "torchmetrics";

export interface Lpips {
  readonly trunk: LpipsTrunk;
  readonly scope: Scope;
  /** The features that are compared, of pictures [N, H, W, 3] in [-1, 1]: [N, H_l, W_l, C_l] each. */
  features(pictures: tf.Tensor4D): tf.Tensor4D[];
  /**
   * Distances of pictures [N, H, W, 3] in [-1, 1], one a pair: [N]. Traceable and differentiable in
   * both. Throws a RangeError when a side is below `lpipsMinimumSide`.
   */
  distance(a: tf.Tensor4D, b: tf.Tensor4D): tf.Tensor1D;
  /** The terms of the sum, one a stage: [N] each. */
  layers(a: tf.Tensor4D, b: tf.Tensor4D): tf.Tensor1D[];
  /** Where they differ: the stages' maps enlarged bilinearly to the picture and summed, [N, H, W]. */
  map(a: tf.Tensor4D, b: tf.Tensor4D): tf.Tensor3D;
}

/** Build the network's variables in `scope`, all zeros; `loadLpips` fills them. */
export function buildLpips(scope: Scope, trunk: LpipsTrunk, norm: LpipsNorm = "lpips"): Lpips {
  let inputs = 3;
  const stages: { readonly layer: Layer2D; readonly pool?: number; readonly tap: boolean }[] = [];
  const heads: tf.Tensor1D[] = [];
  for (const [i, { outputs, side, stride, pad, pool, tap }] of trunks[trunk].entries()) {
    const layer = frozenConv2d(scope.child(`conv${i}`), {
      inputs,
      outputs,
      kernel: [side, side],
      stride,
      pad: [pad, pad],
    });
    stages.push({ layer, tap, ...(pool && { pool }) });
    if (tap) {
      heads.push(scope.child(`lin${heads.length}`).state("weight", [outputs]) as tf.Tensor1D);
    }
    inputs = outputs;
  }
  const features = (pictures: tf.Tensor4D): tf.Tensor4D[] => {
    const [, height, width] = pictures.shape;
    const least = lpipsMinimumSide[trunk];
    if (Math.min(height, width) < least) {
      throw new RangeError(
        `LPIPS on ${trunk} needs pictures of at least ${least} x ${least} pixels, got ${height} x ${width}`,
      );
    }
    let x = scaled(pictures);
    const taps: tf.Tensor4D[] = [];
    for (const { layer, pool, tap } of stages) {
      x = layer(pool ? tf.maxPool(x, pool, 2, "valid") : x);
      if (tap) {
        taps.push(x);
      }
    }
    return taps;
  };
  const maps = (a: tf.Tensor4D, b: tf.Tensor4D): tf.Tensor3D[] => {
    const ofB = features(b);
    return features(a).map((x, l) => stageMap(x, ofB[l]!, heads[l]!, norm));
  };
  const layers = (a: tf.Tensor4D, b: tf.Tensor4D): tf.Tensor1D[] =>
    maps(a, b).map((map) => tf.mean(map, [1, 2]) as tf.Tensor1D);
  return {
    trunk,
    scope,
    features,
    layers,
    distance: (a, b) => tf.addN(layers(a, b)),
    map(a, b) {
      const [n, height, width] = a.shape;
      const enlarged = maps(a, b).map((map) => {
        const picture = tf.expandDims(map, 3) as tf.Tensor4D;
        return tf.image.resizeBilinear(picture, [height, width], false, true);
      });
      return tf.reshape(tf.addN(enlarged), [n, height, width]);
    },
  };
}

/** The scaling layer: (x - shift) / scale of pictures [N, H, W, 3] in [-1, 1]. */
export function scaled(pictures: tf.Tensor4D): tf.Tensor4D {
  return tf.div(tf.sub(pictures, shift), scale);
}

/** Weighted squared differences of one stage's features [N, H, W, C] at length 1: [N, H, W]. */
export function stageMap(
  a: tf.Tensor4D,
  b: tf.Tensor4D,
  head: tf.Tensor1D,
  norm: LpipsNorm = "lpips",
): tf.Tensor3D {
  const difference = tf.square(tf.sub(unit(a, norm), unit(b, norm)));
  return tf.sum(tf.mul(difference, head), 3);
}

/** Feature vectors at length 1. The floor changes no value and keeps the gradient finite at zero. */
function unit(x: tf.Tensor4D, norm: LpipsNorm): tf.Tensor4D {
  const squares = tf.sum(tf.square(x), 3, true); // [N, H, W, 1]
  const length =
    norm === "lpips"
      ? tf.add(tf.sqrt(tf.maximum(squares, 1e-30)), 1e-10)
      : tf.sqrt(tf.add(squares, 1e-8));
  return tf.div(x, length);
}

/** Names of convolution i's tensors in each convention. */
function torchLayout(
  name: string,
  trunk: LpipsTrunk,
  prefix: (conv: TrunkConv) => string,
): WeightLayout {
  return {
    name,
    recipe(variable): Recipe | undefined {
      const [, kind, index, part] = /^(conv|lin)(\d+)\/(\w+)$/.exec(variable) ?? [];
      if (kind === "lin") {
        return take(`lin${index}.model.1.weight`);
      }
      const conv = trunks[trunk][Number(index)];
      if (!conv) {
        return undefined;
      }
      return part === "bias"
        ? take(`${prefix(conv)}.bias`)
        : take(`${prefix(conv)}.weight`, torchKernel[2]);
    },
  };
}

/** The lpips package keeps torchvision's indices, in slices that end at the taps. */
function slicePrefix(trunk: LpipsTrunk): (conv: TrunkConv) => string {
  return (conv) => {
    const before = trunks[trunk].filter(({ index, tap }) => tap && index < conv.index).length;
    return `net.slice${before + 1}.${conv.index}`;
  };
}

/**
 * Fill the variables from torchvision's trunk with the heads of the lpips package (merge the two
 * files), from a whole state of the lpips package, or from a converted file.
 */
export function loadLpips(lpips: Lpips, weights: Weights): string {
  const { trunk, scope } = lpips;
  const layouts = [
    ownLayout,
    torchLayout("torchvision and lpips", trunk, ({ index }) => `features.${index}`),
    torchLayout("lpips", trunk, slicePrefix(trunk)),
  ];
  return assignWeights(scope, weights, layouts, `LPIPS on ${trunk}`);
}

/** Build and fill. The device that the variables shall belong to must be active. */
export function openLpips(trunk: LpipsTrunk, weights: Weights, norm: LpipsNorm = "lpips"): Lpips {
  const lpips = buildLpips(Scope.blank(0), trunk, norm);
  loadLpips(lpips, weights);
  return lpips;
}
