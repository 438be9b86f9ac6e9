/**
 * @file The transformer of latent diffusion in windows, W.A.L.T (Gupta et al. 2023, "Photorealistic
 * video generation with diffusion models", §3): blocks attend by turns inside spatial windows (one
 * latent frame) and spatio-temporal ones, so that the cost is linear in the size of the grid.
 *
 * - Queries and keys are normalised for each head (Dehghani et al. 2023, ViT-22B).
 * - Time and class act through adaptive layer norms (DiT, Peebles & Xie 2023). Their maps would be a
 *   third of the parameters, so only the first block has a full one; block i adds a product of two
 *   narrow matrices (AdaLN-LoRA, §3.3): A_i = A_1(c) + B_i A_i c.
 * - Gates start at 0 and so does the output: the untrained network predicts 0.
 *
 * Shapes: B batch, N = t·h·w positions, D width, C channels of a latent.
 */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, Type } from "../config/schema.ts";
import { attention, embedding, gelu, layerNorm as layerNormOp, silu } from "../runtime/ops.ts";
import { dense, layerNorm } from "./layers.ts";
import { buildPositions } from "./positions.ts";
import { normal, type Scope, zeros } from "./scope.ts";
import { sizeProperties } from "./sizes.ts";
import { initStd } from "./transformer.ts";
import { fromWindows, toWindows, windowOn } from "./windows.ts";

const window = (what: string, fallback: number[]) =>
  Type.Array(Type.Integer({ minimum: 0 }), {
    minItems: 3,
    maxItems: 3,
    default: fallback,
    description: `Sides (frames, rows, columns) in latents of ${what}; 0 is the whole side, and no window is larger than the grid.`,
  });

export const diffusionTransformerSchema = closed(
  {
    type: Type.Literal("diffusion-transformer", {
      description: "A transformer over continuous latents with attention in windows (W.A.L.T).",
    }),
    ...sizeProperties(
      "latent",
      "Number of blocks; spatial and spatio-temporal ones by turns, spatial first.",
    ),
    spatial_window: window("the windows of the first, third, ... block", [1, 0, 0]),
    temporal_window: window("the windows of the second, fourth, ... block", [0, 8, 8]),
    lora_rank: Type.Integer({
      minimum: 1,
      default: 2,
      description: "Rank of what a block adds to the first block's adaptive norms.",
    }),
    qk_norm: Type.Boolean({ default: true, description: "Normalise queries and keys." }),
  },
  { description: "Sizes of the transformer over continuous latents." },
);
export type DiffusionTransformerConfig = Static<typeof diffusionTransformerSchema>;

/** What a diffusion transformer is built for. */
export interface LatentSpace {
  readonly grid: readonly [number, number, number];
  /** Channels C of a latent. */
  readonly width: number;
  readonly classes: number;
}

/** Windows that do not tile the grid, in the words of the config. */
export function checkWindows(
  config: DiffusionTransformerConfig,
  grid: readonly [number, number, number],
): { path: string; message: string; hint: string }[] {
  return (["spatial_window", "temporal_window"] as const).flatMap((path) => {
    const used = windowOn(grid, config[path]);
    return grid.every((side, axis) => side % used[axis]! === 0)
      ? []
      : [
          {
            path,
            message: `windows of ${used.join("×")} do not tile the latent grid of ${grid.join("×")}`,
            hint: "use sides that divide the grid's, or 0 for a whole side",
          },
        ];
  });
}

/** Sines and cosines that tell the network its time. */
export const TIME_FEATURES = 64;

/**
 * Sinusoids of times (DDPM, Ho et al. 2020): half sines, half cosines.
 * @returns [times, TIME_FEATURES] row-major
 */
export function timeFeatures(times: readonly number[]): Float32Array {
  const half = TIME_FEATURES / 2;
  const values = new Float32Array(times.length * TIME_FEATURES);
  for (const [i, time] of times.entries()) {
    for (let k = 0; k < half; k++) {
      const angle = time * 10_000 ** (-k / half);
      values[i * TIME_FEATURES + k] = Math.sin(angle);
      values[i * TIME_FEATURES + half + k] = Math.cos(angle);
    }
  }
  return values;
}

export interface DiffusionTransformer {
  readonly scope: Scope;
  /** The label that stands for "no class". */
  readonly nullClass: number;
  /**
   * Traceable.
   * @param x [B, t, h, w, inputs]
   * @param time [B, TIME_FEATURES]
   * @param labels [B] int32 in [0, classes]
   * @param images [B] of 0 and 1: samples whose first latent frame is an image by itself. In windows over
   *   several frames each of their positions sees itself alone (§3.2), so frames do not mix
   * @returns [B, t, h, w, C]
   */
  predict(
    x: tf.Tensor5D,
    time: tf.Tensor2D,
    labels: tf.Tensor1D,
    images?: tf.Tensor1D,
  ): tf.Tensor5D;
}

/** A layer norm without a scale and shift of its own. */
function plainNorm<T extends tf.Tensor>(x: T, width: number): T {
  return layerNormOp(x, tf.ones<tf.Rank.R1>([width]), tf.zeros<tf.Rank.R1>([width]));
}

/**
 * Make the variables in `scope` and return the network.
 * @param inputs channels of what it is given
 */
export function buildDiffusionTransformer(
  config: DiffusionTransformerConfig,
  space: LatentSpace,
  inputs: number,
  scope: Scope,
): DiffusionTransformer {
  const { width, depth } = config;
  const { grid } = space;
  for (const { path, message, hint } of checkWindows(config, grid)) {
    throw new RangeError(`${path}: ${message}; ${hint}`);
  }
  const embed = dense(scope.child("embed/latents"), { inputs, outputs: width });
  // As loud as the latents they are added to, which the embedding leaves at a variance of about 1.
  const positions = buildPositions(scope.child("embed"), config.positions, width, grid, 0.5);
  const classTable = scope.param(
    "embed/classes",
    [space.classes + 1, width],
    normal(0.5),
  ) as tf.Tensor2D;
  const timeUp = dense(scope.child("embed/time1"), { inputs: TIME_FEATURES, outputs: width });
  const timeDown = dense(scope.child("embed/time2"), { inputs: width, outputs: width });
  const shared = dense(scope.child("adaptive"), { inputs: width, outputs: 6 * width, init: zeros });
  const blocks = Array.from({ length: depth }, (_, i) =>
    buildBlock(
      scope.child(`block${i}`),
      config,
      grid,
      windowOn(grid, i % 2 === 0 ? config.spatial_window : config.temporal_window),
      i > 0,
    ),
  );
  const last = dense(scope.child("head/adaptive"), {
    inputs: width,
    outputs: 2 * width,
    init: zeros,
  });
  const head = dense(scope.child("head"), { inputs: width, outputs: space.width, init: zeros });

  return {
    scope,
    nullClass: space.classes,
    predict(x, time, labels, images) {
      const [batch, t, h, w] = x.shape;
      const flat = tf.reshape(embed(x), [batch, t * h * w, width]);
      let y = tf.add(flat, positions()) as tf.Tensor3D; // [B, N, D]
      const moment = timeDown(silu(timeUp(time))); // [B, D]
      const condition = silu(tf.add(moment, embedding(classTable, labels))) as tf.Tensor2D;
      const base = shared(condition) as tf.Tensor2D; // [B, 6·D]
      for (const block of blocks) {
        y = block(y, condition, base, images);
      }
      const [scale, shift] = modulation(last(condition) as tf.Tensor2D, 2, width);
      const z = modulate(plainNorm(y, width), scale!, shift!);
      return tf.reshape(head(z), [batch, t, h, w, space.width]) as tf.Tensor5D;
    },
  };
}

/** [B, k·D] as k times [B, 1, D]. */
function modulation(values: tf.Tensor2D, count: number, width: number): tf.Tensor3D[] {
  return tf.split(values, count, 1).map((part) => tf.reshape(part, [-1, 1, width]));
}

const modulate = (x: tf.Tensor3D, scale: tf.Tensor3D, shift: tf.Tensor3D): tf.Tensor3D =>
  tf.add(tf.mul(x, tf.add(scale, 1)), shift);

type ConditionedBlock = (
  x: tf.Tensor3D,
  condition: tf.Tensor2D,
  base: tf.Tensor2D,
  images?: tf.Tensor1D,
) => tf.Tensor3D;

/** One block; `own` says whether it adds low-rank maps of its own to the shared adaptive norms. */
function buildBlock(
  scope: Scope,
  config: DiffusionTransformerConfig,
  grid: readonly [number, number, number],
  sides: readonly [number, number, number],
  own: boolean,
): ConditionedBlock {
  const { width, heads, depth, mlp_ratio, lora_rank: rank, qk_norm: normalise } = config;
  const std = initStd(width);
  const inner = Math.round(width * mlp_ratio);
  const side = width / heads;
  const residual = normal(std / Math.sqrt(2 * depth));
  const narrow = own
    ? dense(scope.child("lora/a"), { inputs: width, outputs: rank, bias: false, init: normal(std) })
    : undefined;
  const wide = own
    ? dense(scope.child("lora/b"), { inputs: rank, outputs: 6 * width, bias: false, init: zeros })
    : undefined;
  const project = dense(scope.child("qkv"), {
    inputs: width,
    outputs: 3 * width,
    init: normal(std),
  });
  const same = <T extends tf.Tensor>(x: T): T => x;
  const queryNorm = normalise ? layerNorm(scope.child("query_norm"), { width: side }) : same;
  const keyNorm = normalise ? layerNorm(scope.child("key_norm"), { width: side }) : same;
  const merge = dense(scope.child("merge"), { inputs: width, outputs: width, init: residual });
  const up = dense(scope.child("up"), { inputs: width, outputs: inner, init: normal(std) });
  const down = dense(scope.child("down"), { inputs: inner, outputs: width, init: residual });

  /** [B, N, D] to [B, N, D]: attention inside the windows. */
  function attend(x: tf.Tensor3D, images: tf.Tensor1D | undefined): tf.Tensor3D {
    const [batch, count] = x.shape;
    const onGrid = tf.reshape(project(x), [batch, ...grid, 3 * width]) as tf.Tensor5D;
    const windows = toWindows(onGrid, sides); // [B·W, n, 3·D]
    const [many, n] = windows.shape;
    const byHead = tf.transpose(tf.reshape(windows, [many, n, 3 * heads, side]), [0, 2, 1, 3]);
    const [query, key, value] = tf.split(byHead, 3, 1) as tf.Tensor4D[]; // [B·W, h, n, d]
    let mixed = attention(queryNorm(query!), keyNorm(key!), value!);
    if (images && sides[0] > 1) {
      const each = tf.tile(tf.expandDims(images, 1), [1, many / batch]); // [B, W]
      const alone = tf.reshape(each, [many, 1, 1, 1]);
      mixed = tf.add(tf.mul(mixed, tf.sub(1, alone)), tf.mul(value!, alone));
    }
    const rows = tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [many, n, width]) as tf.Tensor3D;
    return merge(tf.reshape(fromWindows(rows, grid, sides), [batch, count, width])) as tf.Tensor3D;
  }

  return (x, condition, base, images) => {
    const all = narrow && wide ? tf.add(base, wide(narrow(condition))) : base;
    const [scale1, shift1, gate1, scale2, shift2, gate2] = modulation(
      all as tf.Tensor2D,
      6,
      width,
    ) as [tf.Tensor3D, tf.Tensor3D, tf.Tensor3D, tf.Tensor3D, tf.Tensor3D, tf.Tensor3D];
    const seen = attend(modulate(plainNorm(x, width), scale1, shift1), images);
    const y = tf.add(x, tf.mul(gate1, seen)) as tf.Tensor3D;
    const thought = down(gelu(up(modulate(plainNorm(y, width), scale2, shift2))));
    return tf.add(y, tf.mul(gate2, thought)) as tf.Tensor3D;
  };
}
