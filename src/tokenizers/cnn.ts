/**
 * @file The 3D CNN encoder and decoder that MAGVIT (Yu et al., CVPR 2023, appendix A.1) and
 * MAGVIT-v2 (Yu et al., ICLR 2024, §3.2) share: a stem, levels of residual blocks with resampling
 * between them, residual blocks at the bottleneck, and the mirror image of it. The two differ in how
 * they resample and in causality, which `CnnStyle` says.
 */

import * as tf from "@tensorflow/tfjs-core";
import { type Static, type TObject, Type } from "../config/schema.ts";
import {
  averagePool,
  conv,
  dense,
  depthToSpaceConv,
  dropLeadingFrames,
  groupNorm,
  type Layer,
  nearestConv,
  nearestUpsample,
  residualBlock,
  sequence,
  stridedConv,
} from "../models/layers.ts";
import { framesBefore } from "../models/borders.ts";
import { blurPool } from "../models/blur-pool.ts";
import type { Scope } from "../models/scope.ts";
import { atBeginning, leadFrames } from "../models/streaming.ts";
import { type Block, depthToSpace3d, spaceToDepth3d } from "../runtime/ops.ts";
import type { ClipShape } from "./tokenizer.ts";

/** Default values that differ between the tokenizers. */
interface CnnDefaults {
  readonly base_channels: number;
  readonly blocks: number;
  readonly temporal_strides: number[];
  readonly down: Down;
  readonly up: Up;
}

type Down = "average-pool" | "strided-conv" | "blur-pool";
type Up = "nearest-conv" | "depth-to-space";

/** The config keys of the network, the same for all tokenizers of this family. */
export function cnnProperties(defaults: CnnDefaults) {
  const stride = Type.Integer({ minimum: 1, maximum: 4 });
  return {
    base_channels: Type.Integer({
      minimum: 1,
      default: defaults.base_channels,
      description: "Channels of the first level.",
    }),
    channel_multipliers: Type.Array(Type.Integer({ minimum: 1 }), {
      minItems: 1,
      default: [1, 2, 2, 4],
      description: "Channels of each level as a multiple of base_channels, from pixels to latents.",
    }),
    temporal_strides: Type.Array(stride, {
      default: defaults.temporal_strides,
      description: "Temporal down-sampling after each level but the last: 1 keeps, 2 halves.",
    }),
    spatial_strides: Type.Array(stride, {
      default: [2, 2, 2],
      description: "Spatial down-sampling after each level but the last: 1 keeps, 2 halves.",
    }),
    patch_size: Type.Integer({
      minimum: 1,
      default: 1,
      description:
        "Side of the square pixel blocks folded into channels before the stem and unfolded after the head. The papers use 1; larger patches make small models many times as fast.",
    }),
    temporal_patch_size: Type.Integer({
      minimum: 1,
      default: 1,
      description:
        "Frames folded into channels along with patch_size. Causal tokenizers repeat the first frame in front, so that it fills a patch by itself.",
    }),
    down: Type.Union(
      [Type.Literal("average-pool"), Type.Literal("strided-conv"), Type.Literal("blur-pool")],
      {
        default: defaults.down,
        description:
          "How the encoder down-samples: means (MAGVIT), strided convolutions (MAGVIT-v2), or a convolution and a low-pass filter of taps 1 3 3 1.",
      },
    ),
    up: Type.Union([Type.Literal("nearest-conv"), Type.Literal("depth-to-space")], {
      default: defaults.up,
      description:
        "How the decoder up-samples: repetition and a convolution (MAGVIT), or a convolution to more channels that become positions (MAGVIT-v2).",
    }),
    padding: Type.Union(
      [Type.Literal("zero"), Type.Literal("reflect"), Type.Literal("replicate")],
      {
        default: "zero",
        description:
          "What convolutions see beyond the border. The time of causal networks is continued by copies of the first frame under reflect and replicate.",
      },
    ),
    output_norm: Type.Boolean({
      default: true,
      description:
        "Group norm and SiLU before the last convolution of the encoder and of the decoder, as the papers have it. Without it a linear path runs from pixels to codes and back, and short trainings go much further.",
    }),
    blocks: Type.Integer({
      minimum: 0,
      default: defaults.blocks,
      description: "Residual blocks of each level of the encoder and of the decoder.",
    }),
    bottleneck_blocks: Type.Integer({
      minimum: 0,
      default: 2,
      description: "Residual blocks at the latent grid, in the encoder and in the decoder each.",
    }),
    norm_groups: Type.Integer({
      minimum: 1,
      default: 32,
      description:
        "Groups of the group norms; where it does not divide the channels, their greatest common divisor.",
    }),
  };
}

/** The part of a tokenizer's config that describes its network. */
export type CnnConfig = Static<TObject<ReturnType<typeof cnnProperties>>>;

/** What the tokenizers of the family do differently. */
export interface CnnStyle {
  /** Causal in time, clips of 1 + s·t frames; otherwise clips of s·t frames. */
  readonly causal: boolean;
  /** Norms of single frames, so that none sees another; causal networks have them. */
  readonly perFrame: boolean;
  /** Frames that convolutions see: 3, or 1 for networks of single frames. */
  readonly frames: number;
  /** Adaptive group norm before the residual blocks of each decoder level. */
  readonly adaptiveNorm: boolean;
  /** Group norm without scale and shift before the projection to codes. */
  readonly preNorm: boolean;
}

/** The down-sampling after each level but the last. */
function blocksOf(config: CnnConfig): Block[] {
  return config.temporal_strides.map((t, i) => {
    const s = config.spatial_strides[i]!;
    return [t, s, s];
  });
}

const product = (values: readonly number[]): number => values.reduce((a, b) => a * b, 1);

/** Total down-sampling along (t, h, w), patches included. */
export function totalStride(config: CnnConfig): Block {
  const space = config.patch_size * product(config.spatial_strides);
  return [config.temporal_patch_size * product(config.temporal_strides), space, space];
}

/** The latent grid of clips that fit the strides. */
export function latentGrid(config: CnnConfig, clip: ClipShape, causal: boolean): Block {
  const [t, h, w] = totalStride(config);
  const frames = causal ? 1 + (clip.frames - 1) / t : clip.frames / t;
  return [frames, clip.height / h, clip.width / w];
}

/** A mistake in a tokenizer's config that only shows against another key or the clips. */
export interface Problem {
  /** Key path inside the tokenizer's node, e.g. "temporal_strides". */
  readonly path: string;
  readonly message: string;
  readonly hint: string;
}

/** Checks lists against each other and strides against the clips. */
export function checkCnn(config: CnnConfig, clip: ClipShape, causal: boolean): Problem[] {
  const problems: Problem[] = [];
  const gaps = config.channel_multipliers.length - 1;
  for (const path of ["temporal_strides", "spatial_strides"] as const) {
    const length = config[path].length;
    if (length !== gaps) {
      problems.push({
        path,
        message: `has ${length} values, expected ${gaps}: one between each two of the ${gaps + 1} levels of channel_multipliers`,
        hint: `make ${path} a list of ${gaps} values, or change channel_multipliers`,
      });
    }
  }
  const [t, space] = totalStride(config);
  const lead = causal ? 1 : 0;
  if (clip.frames < 1 || (clip.frames - lead) % t !== 0) {
    const fit = causal ? `1 + ${t}·n` : `${t}·n`;
    const below = lead + Math.floor((clip.frames - lead) / t) * t;
    const image = clip.frames === 1 ? " (for images: temporal strides and patches of 1)" : "";
    problems.push({
      path: "temporal_strides",
      message: `clips of ${clip.frames} frames do not fit a temporal down-sampling of ${t}: expected ${fit} frames`,
      hint: `use ${below > 0 ? `${below} or ` : ""}${below + t} frames, or other temporal_strides${image}`,
    });
  }
  for (const side of ["height", "width"] as const) {
    if (clip[side] < 1 || clip[side] % space !== 0) {
      problems.push({
        path: "spatial_strides",
        message: `clips of ${side} ${clip[side]} do not fit a spatial down-sampling of ${space} (spatial_strides × patch_size)`,
        hint: `use a ${side} that is a multiple of ${space}, or other spatial_strides or patch_size`,
      });
    }
  }
  return problems;
}

/** The sides of a patch, and the convolution that embeds one: the papers' 3×3×3 for single pixels. */
function patching(config: CnnConfig, seen: number) {
  const { patch_size: side, temporal_patch_size: frames } = config;
  const block: Block = [frames, side, side];
  const kernel: Block = product(block) > 1 ? [1, 1, 1] : [seen, 3, 3];
  return { block, kernel, channels: 3 * product(block) };
}

/** Pixels to patches: [B, T, H, W, 3] to [B, T', H', W', 3·t·h·w]. */
export function fold(x: tf.Tensor5D, block: Block, causal: boolean): tf.Tensor5D {
  if (product(block) === 1) {
    return x;
  }
  const [b, , h, w, c] = x.shape;
  const first = tf.slice(x, 0, [b, 1, h, w, c]);
  const lead = causal && atBeginning() ? Array.from({ length: block[0] - 1 }, () => first) : [];
  return spaceToDepth3d(lead.length > 0 ? tf.concat([...lead, x], 1) : x, block);
}

/** The inverse of `fold`. */
export function unfold(y: tf.Tensor5D, block: Block, causal: boolean): tf.Tensor5D {
  const pixels = product(block) > 1 ? depthToSpace3d(y, block) : y;
  return dropLeadingFrames(causal ? block[0] : 1)(pixels);
}

/** The encoder: pixels [B, T, H, W, 3] to latents [B, t, h, w, width]. */
export function encoder(scope: Scope, config: CnnConfig, style: CnnStyle, width: number): Layer {
  const { causal, perFrame, frames } = style;
  const { norm_groups: groups, padding: border } = config;
  const patch = patching(config, frames);
  const padding = causal ? "causal" : "same";
  const strides = blocksOf(config);
  const channelsOf = config.channel_multipliers.map((m) => m * config.base_channels);
  let channels = channelsOf[0]!;
  const layers: Layer[] = [
    conv(scope.child("stem"), {
      inputs: patch.channels,
      kernel: patch.kernel,
      outputs: channels,
      padding,
      border,
      bias: false,
    }),
  ];
  const addBlocks = (at: Scope, count: number, outputs: number): void => {
    for (let i = 0; i < count; i++) {
      const options = { inputs: channels, outputs, causal, groups, perFrame, frames, border };
      layers.push(residualBlock(at.child(`block${i}`), options));
      channels = outputs;
    }
  };
  channelsOf.forEach((outputs, level) => {
    const at = scope.child(`level${level}`);
    addBlocks(at, config.blocks, outputs);
    const block = strides[level];
    if (block && product(block) > 1) {
      const options = { inputs: channels, outputs: channels, causal, block, frames, border };
      if (config.down === "average-pool") {
        if (causal && block[0] > 1) {
          // A mean ends at its frame; copies of the first frame stand before the clip.
          const copies = (x: tf.Tensor5D) => (n: number) => framesBefore(x, n, "replicate");
          layers.push((x) => leadFrames(x, block[0], block[0], copies(x)));
        }
        layers.push(averagePool(block));
      } else if (config.down === "strided-conv") {
        layers.push(stridedConv(at.child("down"), options));
      } else {
        const { block: _, ...whole } = options;
        const kernel = [frames, 3, 3] as const;
        layers.push(
          conv(at.child("down"), { ...whole, kernel, padding }),
          blurPool({ block, causal, border }),
        );
      }
    }
  });
  addBlocks(scope.child("bottleneck"), config.bottleneck_blocks, channelsOf.at(-1)!);
  const norm = { channels, groups, perFrame };
  if (config.output_norm) {
    layers.push(groupNorm(scope.child("norm"), { ...norm, activation: "silu" }));
  }
  if (style.preNorm) {
    layers.push(groupNorm(scope.child("pre_norm"), { ...norm, affine: false }));
  }
  layers.push(
    conv(scope.child("project"), { inputs: channels, outputs: width, kernel: [1, 1, 1] }),
  );
  const network = sequence(layers);
  return (x) => network(fold(x, patch.block, causal));
}

/**
 * Adaptive group norm: the codes steer the scale and the shift of a normalised feature map, as a
 * style does in StyleGAN. The style of a frame is the spatial mean of the codes of the latent frame
 * it belongs to, so that a causal decoder stays causal.
 * @param times frames of this level a latent frame (the first one of a causal clip has 1)
 */
function adaptiveNorm(
  scope: Scope,
  options: {
    readonly channels: number;
    readonly width: number;
    readonly groups: number;
    readonly causal: boolean;
    readonly perFrame: boolean;
    readonly times: number;
  },
): (x: tf.Tensor5D, codes: tf.Tensor5D) => tf.Tensor5D {
  const { channels, width, groups, causal, perFrame, times } = options;
  const norm = groupNorm(scope, { channels, groups, perFrame, affine: false });
  const toScale = dense(scope.child("scale"), { inputs: width, outputs: channels });
  const toShift = dense(scope.child("shift"), { inputs: width, outputs: channels });
  const spread = sequence([nearestUpsample([times, 1, 1]), dropLeadingFrames(causal ? times : 1)]);
  return (x, codes) => {
    const [b, t, h, w, d] = codes.shape;
    const style = tf.mean(tf.reshape(codes, [b * t, h * w, d]), 1); // [B·t, D]
    const map = (to: (x: tf.Tensor) => tf.Tensor): tf.Tensor5D =>
      spread(tf.reshape(to(style), [b, t, 1, 1, channels])); // [B, T', 1, 1, C]
    return tf.add(tf.mul(norm(x), tf.add(map(toScale), 1)), map(toShift));
  };
}

/** The decoder: codes [B, t, h, w, width] to pixels [B, T, H, W, 3], not clipped. */
export function decoder(scope: Scope, config: CnnConfig, style: CnnStyle, width: number): Layer {
  const { causal, perFrame, frames } = style;
  const { norm_groups: groups, padding: border } = config;
  const patch = patching(config, frames);
  const padding = causal ? "causal" : "same";
  const strides = blocksOf(config);
  const channelsOf = config.channel_multipliers.map((m) => m * config.base_channels);
  let channels = channelsOf.at(-1)!;
  let times = 1;
  const layers: ((x: tf.Tensor5D, codes: tf.Tensor5D) => tf.Tensor5D)[] = [
    conv(scope.child("stem"), {
      inputs: width,
      outputs: channels,
      kernel: [frames, 3, 3],
      padding,
      border,
    }),
  ];
  const addBlocks = (at: Scope, count: number, outputs: number): void => {
    for (let i = 0; i < count; i++) {
      const options = { inputs: channels, outputs, causal, groups, perFrame, frames, border };
      layers.push(residualBlock(at.child(`block${i}`), options));
      channels = outputs;
    }
  };
  addBlocks(scope.child("bottleneck"), config.bottleneck_blocks, channels);
  for (let level = channelsOf.length - 1; level >= 0; level--) {
    const at = scope.child(`level${level}`);
    if (style.adaptiveNorm) {
      const options = { channels, width, groups, causal, perFrame, times };
      layers.push(adaptiveNorm(at.child("adaptive"), options));
    }
    addBlocks(at, config.blocks, channelsOf[level]!);
    const block = strides[level - 1];
    if (block && product(block) > 1) {
      const upsample = config.up === "nearest-conv" ? nearestConv : depthToSpaceConv;
      const options = { inputs: channels, outputs: channels, causal, block, frames, border };
      layers.push(upsample(at.child("up"), options));
      times *= block[0];
    }
  }
  if (config.output_norm) {
    const norm = { channels, groups, perFrame, activation: "silu" } as const;
    layers.push(groupNorm(scope.child("norm"), norm));
  }
  const { kernel, channels: outputs } = patch;
  layers.push(conv(scope.child("head"), { inputs: channels, outputs, kernel, padding, border }));
  return (codes) => {
    const y = layers.reduce((value, layer) => layer(value, codes), codes);
    return unfold(y, patch.block, causal);
  };
}
