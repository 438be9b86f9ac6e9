/**
 * @file The Fréchet video distances of the literature, each with the choices that its published code
 * makes. All take the 400 logits of I3D averaged over time (Unterthiner et al. 2018), but for
 * `cd-videomae`; what differs is how pixels reach the network and how the covariance is divided, and
 * that alone moves the number by more than most improvements do.
 */

import { i3dEpsilon, i3dMinimumFrames } from "../../models/features/i3d.ts";
import type { CovarianceDivisor } from "./frechet.ts";

/** How decoded pixels in [0, 1] become what the network sees. */
export type Rounding =
  /** Nearest of 256 levels, as a stored video has them. */
  | "round"
  /** `(x · 255)` cut to a byte. */
  | "truncate"
  /** Not rounded at all. */
  | "none";

export type Resize =
  /** tf.image.resize_bilinear of TensorFlow 1: source = target · in / out. No aspect preservation. */
  | "tf1-legacy"
  /** PyTorch's bilinear with half-pixel centres. No aspect preservation. */
  | "half-pixel"
  /** The shorter side to 224 with half-pixel centres, the centre cropped. */
  | "half-pixel-crop";

/** Every choice of one Fréchet video distance. */
export interface VideoProtocol {
  readonly measures: string;
  readonly network: "i3d" | "videomae-g";
  /** Epsilon of I3D's batch norms. */
  readonly bn_epsilon: number | undefined;
  readonly rounding: Rounding;
  readonly resize: Resize;
  /** Range that the network sees. */
  readonly range: "-1..1" | "0..1";
  readonly covariance: CovarianceDivisor;
  /** Frames a clip must have: at least, or exactly. */
  readonly frames: { readonly least: number; readonly most?: number };
  /** Real and fake clips that the published code takes; another number is another score. */
  readonly clips: number;
  /** Times that generation is repeated, for mean ± deviation. */
  readonly repeats: number;
}

const i3d = {
  network: "i3d",
  bn_epsilon: i3dEpsilon,
  rounding: "round",
  resize: "tf1-legacy",
  range: "-1..1",
  covariance: "unbiased",
  frames: { least: i3dMinimumFrames },
  clips: 2048,
  repeats: 1,
} as const;

export const videoProtocols = {
  "tf-original": {
    ...i3d,
    measures:
      "The original FVD (google-research/frechet_video_distance): TensorFlow 1 resizing, unbiased covariance.",
  },
  magvit: {
    ...i3d,
    measures:
      "MAGVIT's flax port: pixels not rounded, TensorFlow 1 resizing, 10,000 clips, four repeats.",
    rounding: "none",
    clips: 10_000,
    repeats: 4,
  },
  styleganv: {
    ...i3d,
    measures:
      "StyleGAN-V: bytes, resizing inside its TorchScript network, covariance divided by N, 2048 clips.",
    resize: "half-pixel",
    covariance: "biased",
  },
  videogpt: {
    ...i3d,
    measures:
      "VideoGPT: bytes by truncation, shorter side to 224 and centre crop, batch norms with epsilon 1e-5, 256 clips.",
    bn_epsilon: 1e-5,
    rounding: "truncate",
    resize: "half-pixel-crop",
    clips: 256,
  },
  tats: {
    ...i3d,
    measures:
      "TATS, also OmniTokenizer and SEED-Voken: bytes by truncation, half-pixel resizing, epsilon 1e-5, 2048 clips.",
    bn_epsilon: 1e-5,
    rounding: "truncate",
    resize: "half-pixel",
  },
  tokenbench: {
    ...i3d,
    measures:
      "TokenBench (Cosmos): pixels not rounded, shorter side to 224 and centre crop, unbiased covariance.",
    rounding: "none",
    resize: "half-pixel-crop",
  },
  larp: {
    ...i3d,
    measures:
      "LARP: pixels not rounded, half-pixel resizing, covariance divided by N, 12 to 16 frames.",
    rounding: "none",
    resize: "half-pixel",
    covariance: "biased",
    frames: { least: 12, most: 16 },
    clips: 10_000,
  },
  "cd-videomae": {
    measures:
      "Content-debiased FVD (Ge et al. 2024): 1408 features of VideoMAE-v2 ViT-g, 16 frames in [0, 1], covariance divided by N.",
    network: "videomae-g",
    bn_epsilon: undefined,
    rounding: "truncate",
    resize: "half-pixel",
    range: "0..1",
    covariance: "biased",
    frames: { least: 16, most: 16 },
    clips: 2048,
    repeats: 1,
  },
} as const satisfies { readonly [name: string]: VideoProtocol };

export type VideoProtocolName = keyof typeof videoProtocols;

export const videoProtocolNames = Object.keys(videoProtocols) as VideoProtocolName[];

/** The choices that stand in a score's protocol: all but what the config says again. */
export function fixedChoices(protocol: VideoProtocol): { readonly [choice: string]: unknown } {
  const { network, bn_epsilon, rounding, resize, range } = protocol;
  return {
    features:
      network === "i3d"
        ? "400 logits of I3D, mean over time"
        : "1408 features of VideoMAE-v2 ViT-g, fc_norm of the mean over tokens",
    ...(bn_epsilon === undefined ? {} : { bn_epsilon }),
    rounding,
    resize: `${resize} to 224 x 224`,
    range,
    distance: "symmetric form, float64",
  };
}
