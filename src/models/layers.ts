/**
 * @file Layers of the networks: functions `(scope, options) => (x) => y` over the operations of
 * runtime/ops.ts. The 3D residual CNN parts follow MAGVIT (Yu et al., CVPR 2023, appendix A.1); the
 * causal convolution and the depth-to-space up-sampler follow MAGVIT-v2 (Yu et al., ICLR 2024, §3.2).
 *
 * All video tensors are channel-last, [B, T, H, W, C]. A *causal* layer never lets a frame see a
 * later one: convolutions pad kt - 1 frames in front and none behind, and norms take their
 * statistics frame by frame (a norm over time would leak the future).
 */

import * as tf from "@tensorflow/tfjs-core";
import {
  type Block,
  conv3d,
  depthToSpace3d,
  groupNorm as groupNormOp,
  layerNorm as layerNormOp,
  type Pad,
} from "../runtime/ops.ts";
import { sizeOf } from "../runtime/tensors.ts";
import { type Border, framesBefore, padAxis } from "./borders.ts";
import { atBeginning, leadFrames, streaming } from "./streaming.ts";
import { fanIn, type Initializer, ones, type Scope, zeros } from "./scope.ts";

/** A layer over clips or latents, [B, T, H, W, C] to [B, T', H', W', C']. */
export type Layer = (x: tf.Tensor5D) => tf.Tensor5D;

type Shape5D = [number, number, number, number, number];

/** Layers one after the other. */
export function sequence(layers: readonly Layer[]): Layer {
  return (x) => layers.reduce((value, layer) => layer(value), x);
}

export interface DenseOptions {
  readonly inputs: number;
  readonly outputs: number;
  /** Add a learned bias. Default true. */
  readonly bias?: boolean;
  /** Of the kernel [inputs, outputs]. Default normal with variance 1 / inputs. */
  readonly init?: Initializer;
}

/** A linear map of the last axis: [..., inputs] to [..., outputs]. */
export function dense(scope: Scope, options: DenseOptions): (x: tf.Tensor) => tf.Tensor {
  const { inputs, outputs, bias = true, init = fanIn() } = options;
  const kernel = scope.param("kernel", [inputs, outputs], init) as tf.Tensor2D;
  const shift = bias ? scope.param("bias", [outputs], zeros) : undefined;
  return (x) => {
    const rows = tf.reshape(x, [sizeOf(x.shape) / inputs, inputs]); // [M, inputs]
    const product = tf.matMul(rows, kernel); // [M, outputs]
    const y = shift ? tf.add(product, shift) : product;
    return tf.reshape(y, [...x.shape.slice(0, -1), outputs]);
  };
}

/**
 * How a convolution fills the borders with zeros. "same": output side = ceil(side / stride), the odd
 * zero behind (as TensorFlow does). "causal": the same in space, and kt - 1 frames in front in time,
 * so that 1 + s·t frames give 1 + t and the first sees only itself. "valid": none.
 */
export type Padding = "same" | "causal" | "valid";

export interface ConvLayerOptions {
  readonly inputs: number;
  readonly outputs: number;
  /** Sides (t, h, w). Default 3×3×3. */
  readonly kernel?: Block;
  /** Steps (t, h, w). Default 1. */
  readonly strides?: Block;
  /** Default "same". */
  readonly padding?: Padding;
  /** What lies beyond the border. Default zeros. */
  readonly border?: Border;
  /** Add a learned bias. Default true. */
  readonly bias?: boolean;
  /** Of the kernel [kt, kh, kw, inputs, outputs]. Default normal with variance 1 / fan-in. */
  readonly init?: Initializer;
}

/** The zeros before and after an axis of `side` values under TensorFlow's "SAME" rule. */
export function samePad(side: number, kernel: number, stride: number): Pad {
  const total = Math.max((Math.ceil(side / stride) - 1) * stride + kernel - side, 0);
  const before = Math.floor(total / 2);
  return [before, total - before];
}

/** 3D convolution with a learned kernel: [B, T, H, W, inputs] to [B, T', H', W', outputs]. */
export function conv(scope: Scope, options: ConvLayerOptions): Layer {
  const { inputs, outputs, kernel: sides = [3, 3, 3], strides = [1, 1, 1] } = options;
  const { padding = "same", border = "zero", bias = true, init = fanIn() } = options;
  const kernel = scope.param("kernel", [...sides, inputs, outputs], init) as tf.Tensor5D;
  const shift = bias ? scope.param("bias", [outputs], zeros) : undefined;
  const pad = (x: tf.Tensor5D, axis: 0 | 1 | 2): Pad => {
    if (padding === "valid") {
      return [0, 0];
    }
    if (padding === "causal" && axis === 0) {
      return [sides[0] - 1, 0];
    }
    return samePad(x.shape[axis + 1]!, sides[axis], strides[axis]);
  };
  return (x) => {
    let pads: readonly [Pad, Pad, Pad] = [pad(x, 0), pad(x, 1), pad(x, 2)];
    let input = x;
    if (padding === "causal" && (streaming() || border !== "zero")) {
      input = leadFrames(x, sides[0], strides[0], (count) => framesBefore(x, count, border));
      pads = [[0, 0], pads[1], pads[2]];
    }
    if (border !== "zero") {
      const axes = padding === "causal" ? ([2, 3] as const) : ([1, 2, 3] as const);
      for (const axis of axes) {
        input = padAxis(input, axis, pads[axis - 1]!, border);
      }
      pads = [
        [0, 0],
        [0, 0],
        [0, 0],
      ];
    }
    const y = conv3d(input, kernel, { strides, pads });
    return shift ? tf.add(y, shift) : y;
  };
}

export interface GroupNormLayerOptions {
  readonly channels: number;
  /** Wanted number of groups; the greatest common divisor with `channels` is used. Default 32. */
  readonly groups?: number;
  /** Statistics of each frame by itself, so that no frame sees a later one. Default false. */
  readonly perFrame?: boolean;
  /** Fused activation. Default "none". */
  readonly activation?: "none" | "silu";
  /** Learn a scale and a shift for each channel. Default true. */
  readonly affine?: boolean;
}

/** Group normalisation of [B, T, H, W, channels], over whole clips or frame by frame. */
export function groupNorm(scope: Scope, options: GroupNormLayerOptions): Layer {
  const { channels, perFrame = false, activation = "none", affine = true } = options;
  const groups = commonDivisor(options.groups ?? 32, channels);
  const scale = affine ? (scope.param("scale", [channels], ones) as tf.Tensor1D) : undefined;
  const shift = affine ? (scope.param("shift", [channels], zeros) as tf.Tensor1D) : undefined;
  return (x) => {
    const [b, t, h, w, c] = x.shape;
    const clips = perFrame ? tf.reshape(x, [b * t, 1, h, w, c]) : x;
    const y = groupNormOp(
      clips,
      scale ?? tf.ones<tf.Rank.R1>([channels]),
      shift ?? tf.zeros<tf.Rank.R1>([channels]),
      { groups, activation },
    );
    return (perFrame ? tf.reshape(y, x.shape) : y) as tf.Tensor5D;
  };
}

function commonDivisor(a: number, b: number): number {
  return b === 0 ? a : commonDivisor(b, a % b);
}

/** Layer normalisation of the last axis with a learned scale and shift: [..., width] to itself. */
export function layerNorm(
  scope: Scope,
  { width, epsilon = 1e-6 }: { readonly width: number; readonly epsilon?: number },
): <T extends tf.Tensor>(x: T) => T {
  const scale = scope.param("scale", [width], ones) as tf.Tensor1D;
  const shift = scope.param("shift", [width], zeros) as tf.Tensor1D;
  return (x) => layerNormOp(x, scale, shift, epsilon);
}

export interface CnnLayerOptions {
  readonly inputs: number;
  readonly outputs: number;
  /** Causal in time: padding in front, norms by frame. */
  readonly causal: boolean;
  /** Groups of the norms. Default 32. */
  readonly groups?: number;
  /** Norms by frame; causal ones are. Default as `causal`. */
  readonly perFrame?: boolean;
  /** Frames that the convolutions see: 3, or 1 for networks of single frames. Default 3. */
  readonly frames?: number;
  /** What lies beyond the border. Default zeros. */
  readonly border?: Border;
}

/**
 * Pre-activation residual block: GN, SiLU, 3×3×3, GN, SiLU, 3×3×3, plus the input, through a 1×1×1
 * convolution where the number of channels changes. The convolutions have no bias (a norm follows).
 */
export function residualBlock(scope: Scope, options: CnnLayerOptions): Layer {
  const { inputs, outputs, causal, groups = 32, perFrame = causal, frames = 3 } = options;
  const norm = { groups, perFrame, activation: "silu" } as const;
  const around = {
    padding: causal ? "causal" : "same",
    border: options.border ?? "zero",
    kernel: [frames, 3, 3],
    bias: false,
  } as const;
  const branch = sequence([
    groupNorm(scope.child("norm1"), { channels: inputs, ...norm }),
    conv(scope.child("conv1"), { inputs, outputs, ...around }),
    groupNorm(scope.child("norm2"), { channels: outputs, ...norm }),
    conv(scope.child("conv2"), { inputs: outputs, outputs, ...around }),
  ]);
  const shortcut: Layer =
    inputs === outputs
      ? (x) => x
      : conv(scope.child("shortcut"), { inputs, outputs, kernel: [1, 1, 1], bias: false });
  return (x) => tf.add(shortcut(x), branch(x));
}

/** Mean of each block (t, h, w) of positions; the sides must be divisible. No parameters. */
export function averagePool(block: Block): Layer {
  return (x) => {
    // One axis at a time, last first: every step is a mean over the middle of three axes.
    let y = x;
    for (const axis of [3, 2, 1] as const) {
      const size = block[axis - 1]!;
      if (size > 1) {
        const shape: Shape5D = [...y.shape];
        shape[axis] = shape[axis] / size;
        const inner = sizeOf(y.shape.slice(axis + 1));
        y = tf.reshape<tf.Rank.R5>(tf.mean(tf.reshape(y, [-1, size, inner]), 1), shape);
      }
    }
    return y;
  };
}

/** Each position repeated over a block (t, h, w). No parameters. */
export function nearestUpsample(block: Block): Layer {
  return (x) => {
    let y = x;
    for (const axis of [1, 2, 3] as const) {
      const size = block[axis - 1]!;
      if (size > 1) {
        const shape: Shape5D = [...y.shape];
        shape[axis] = shape[axis] * size;
        const rows = tf.reshape(y, [-1, 1, sizeOf(y.shape.slice(axis + 1))]); // [M, 1, inner]
        y = tf.reshape<tf.Rank.R5>(tf.tile(rows, [1, size, 1]), shape);
      }
    }
    return y;
  };
}

/**
 * Drop the first `factor` - 1 frames: what a causal temporal up-sampling by `factor` must do, so that
 * 1 + t latents give 1 + factor·t frames and the first frame comes from the first latent alone.
 */
export function dropLeadingFrames(factor: number): Layer {
  return (x) => {
    const [b, t, h, w, c] = x.shape;
    return factor === 1 || !atBeginning()
      ? x
      : tf.slice(x, [0, factor - 1, 0, 0, 0], [b, t - factor + 1, h, w, c]);
  };
}

export interface ResampleOptions extends CnnLayerOptions {
  /** The factor along (t, h, w). */
  readonly block: Block;
}

/** Down-sampling by a strided 3×3×3 convolution (side 4 where the stride is 4: no pixel is skipped). */
export function stridedConv(scope: Scope, options: ResampleOptions): Layer {
  const { inputs, outputs, causal, block, frames = 3, border = "zero" } = options;
  const [t, h, w] = block;
  const kernel = [Math.max(frames, t), Math.max(3, h), Math.max(3, w)] as const;
  const padding = causal ? "causal" : "same";
  return conv(scope, { inputs, outputs, kernel, strides: block, padding, border });
}

/** Up-sampling by repetition, then a 3×3×3 convolution. */
export function nearestConv(scope: Scope, options: ResampleOptions): Layer {
  const { inputs, outputs, causal, block, frames = 3, border = "zero" } = options;
  const padding = causal ? "causal" : "same";
  return sequence([
    nearestUpsample(block),
    dropLeadingFrames(causal ? block[0] : 1),
    conv(scope, { inputs, outputs, kernel: [frames, 3, 3], padding, border }),
  ]);
}

/** Up-sampling by a 3×3×3 convolution to t·h·w times the channels, then depth to space. */
export function depthToSpaceConv(scope: Scope, options: ResampleOptions): Layer {
  const { inputs, outputs, causal, block, frames = 3, border = "zero" } = options;
  const padding = causal ? "causal" : "same";
  const kernel = [frames, 3, 3] as const;
  return sequence([
    conv(scope, { inputs, outputs: outputs * sizeOf(block), kernel, padding, border }),
    (x) => depthToSpace3d(x, block),
    dropLeadingFrames(causal ? block[0] : 1),
  ]);
}
