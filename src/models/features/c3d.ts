/**
 * @file C3D (Tran et al. 2015) fine-tuned on UCF-101, for the video inception score as TGAN
 * (Saito et al. 2017) defined it and MAGVIT computes it: 16 frames of 112 × 112 in BGR, 0 to 255 less
 * the training set's mean, to 101 logits.
 */

import * as tf from "@tensorflow/tfjs-core";
import type { Weights } from "../../runtime/weight-files/weights.ts";
import { Scope } from "../scope.ts";
import { frozenConv3d, frozenDense, type Layer3D } from "./parts.ts";
import {
  assignWeights,
  ownLayout,
  type Recipe,
  take,
  torchKernel,
  type WeightLayout,
} from "./recipes.ts";

/** What one clip must be. */
export const c3dClip = { frames: 16, height: 112, width: 112 } as const;

export interface C3dOptions {
  /** Classes. Default 101, those of UCF-101. */
  readonly classes?: number;
  /** All widths divided by this, for tests. Default 1. */
  readonly thinner?: number;
}

export interface C3d {
  readonly scope: Scope;
  /** Clips [B, 16, 112, 112, 3], RGB in [0, 1], to logits [B, classes]. */
  logits(clips: tf.Tensor5D): tf.Tensor2D;
  /** The features below, after the ReLU of fc7: [B, 4096]. */
  features(clips: tf.Tensor5D): tf.Tensor2D;
}

const convolutions = [
  ["conv1a", 64],
  ["conv2a", 128],
  ["conv3a", 256],
  ["conv3b", 256],
  ["conv4a", 512],
  ["conv4b", 512],
  ["conv5a", 512],
  ["conv5b", 512],
] as const;

/** Build the network's variables in `scope`, all zeros; `loadC3d` fills them. */
export function buildC3d(scope: Scope, { classes = 101, thinner = 1 }: C3dOptions = {}): C3d {
  const { frames, height, width } = c3dClip;
  // Added to 0..255 BGR pixels: minus the mean clip.
  const offset = scope.state("x_offset", [frames, height, width, 3]);
  let inputs = 3;
  const layers = new Map<string, Layer3D>();
  for (const [name, full] of convolutions) {
    const outputs = full / thinner;
    layers.set(name, frozenConv3d(scope.child(name), { inputs, outputs, kernel: [3, 3, 3] }));
    inputs = outputs;
  }
  const wide = 4096 / thinner;
  const fc6 = frozenDense(scope.child("fc6"), { inputs: inputs * 16, outputs: wide, relu: true });
  const fc7 = frozenDense(scope.child("fc7"), { inputs: wide, outputs: wide, relu: true });
  const fc8 = frozenDense(scope.child("fc8"), { inputs: wide, outputs: classes });
  const features = (clips: tf.Tensor5D): tf.Tensor2D => {
    const [batch, t, h, w] = clips.shape;
    if (t !== frames || h !== height || w !== width) {
      throw new RangeError(
        `C3D takes clips of ${frames} x ${height} x ${width}, got ${t} x ${h} x ${w}`,
      );
    }
    const bgr = tf.reverse(clips, 4);
    let x = tf.add(tf.mul(bgr, 255), offset) as tf.Tensor5D;
    const through = (...names: string[]): void => {
      for (const name of names) {
        x = layers.get(name)!(x);
      }
    };
    const pool = (time: number): void => {
      x = tf.maxPool3d(x, [time, 2, 2], [time, 2, 2], "valid");
    };
    through("conv1a");
    pool(1);
    through("conv2a");
    pool(2);
    through("conv3a", "conv3b");
    pool(2);
    through("conv4a", "conv4b");
    pool(2);
    through("conv5a", "conv5b");
    // One row and column of zeros behind: 7 becomes 8, which pools to 4.
    x = tf.pad(x, [
      [0, 0],
      [0, 0],
      [0, 1],
      [0, 1],
      [0, 0],
    ]);
    pool(2);
    const flat = tf.reshape(tf.transpose(x, [0, 4, 1, 2, 3]), [batch, inputs * 16]); // C, T, H, W
    return fc7(fc6(flat)) as tf.Tensor2D;
  };
  return { scope, features, logits: (clips) => fc8(features(clips)) as tf.Tensor2D };
}

/** MAGVIT's c3d_ucf101.flax, with or without the outer "params". */
function flaxLayout(root: string): WeightLayout {
  return { name: "flax (MAGVIT)", recipe: (variable) => take(root + variable) };
}

/** TGAN2's conv3d_deepnetA_ucf.npz (Chainer's [out, in, t, h, w]) with the mean of mean2.npz. */
const chainerLayout: WeightLayout = {
  name: "Chainer (TGAN2)",
  recipe(variable) {
    if (variable === "x_offset") {
      return meanClip;
    }
    const [layer, part] = variable.split("/");
    if (part === "bias") {
      return take(`${layer}/b`);
    }
    return take(`${layer}/W`, layer!.startsWith("fc") ? [1, 0] : torchKernel[3]);
  },
};

/**
 * mean2.npz holds [3, 16, 128, 171] (BGR), of which TGAN2 takes columns 21 to 148 and resizes to
 * 112 × 112 with aligned corners.
 */
const meanClip: Recipe = {
  needs: ["mean"],
  make([mean], [frames, height, width, channels]) {
    const values = mean!.values;
    const [rows, columns, first] = [128, 171, 21];
    if (values.length !== channels! * frames! * rows * columns) {
      return undefined;
    }
    const out = new Float32Array(frames! * height! * width! * channels!);
    const used = 128;
    let at = 0;
    for (let t = 0; t < frames!; t++) {
      for (let y = 0; y < height!; y++) {
        const row = (y * (rows - 1)) / (height! - 1);
        const [y0, fy] = [Math.floor(row), row - Math.floor(row)];
        const y1 = Math.min(rows - 1, y0 + 1);
        for (let x = 0; x < width!; x++) {
          const column = (x * (used - 1)) / (width! - 1);
          const [x0, fx] = [Math.floor(column), column - Math.floor(column)];
          const x1 = Math.min(used - 1, x0 + 1);
          for (let c = 0; c < channels!; c++) {
            const of = (line: number, place: number): number =>
              values[((c * frames! + t) * rows + line) * columns + first + place]!;
            const above = of(y0, x0) * (1 - fx) + of(y0, x1) * fx;
            const below = of(y1, x0) * (1 - fx) + of(y1, x1) * fx;
            out[at++] = -(above * (1 - fy) + below * fy);
          }
        }
      }
    }
    return out;
  },
};

/** Fill the variables from MAGVIT's flax file, TGAN2's two npz files (merged) or a converted file. */
export function loadC3d(c3d: C3d, weights: Weights): string {
  const layouts = [ownLayout, flaxLayout("params/"), chainerLayout];
  return assignWeights(c3d.scope, weights, layouts, "C3D");
}

/** Build and fill. The device that the variables shall belong to must be active. */
export function openC3d(weights: Weights, options: C3dOptions = {}): C3d {
  const c3d = buildC3d(Scope.blank(0), options);
  loadC3d(c3d, weights);
  return c3d;
}
