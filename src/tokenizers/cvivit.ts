/**
 * @file C-ViViT: Villegas et al., "Phenaki: Variable Length Video Generation from Open Domain Textual
 * Descriptions" (ICLR 2023), §2.1, the factorised-attention tokenizer that MAGVIT-v2 compares with.
 * The first frame is cut into patches of 1×p×p, the others into t×p×p, each kind with a linear
 * embedding of its own. Transformer blocks attend over the patches of a frame (all to all), then over
 * the frames of a place (causally). The decoder does the same in reverse order.
 *
 * Blocks are pre-norm, with a learned bias-free position embedding a place (space) and a frame (time).
 * Attention over time looks back at all earlier frames: pieces of a clip keep the keys and values of all
 * before, and a stream is no longer than the clips that the network has places for.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import { dense, layerNorm } from "../models/layers.ts";
import { normal, type Scope } from "../models/scope.ts";
import { atBeginning, stepsBefore, wholePast } from "../models/streaming.ts";
import { attention, type Block, depthToSpace3d, gelu, spaceToDepth3d } from "../runtime/ops.ts";
import { assembleTokenizer, checkQuantizer, trainingProperties } from "./autoencoder.ts";
import type { Problem } from "./cnn.ts";
import { quantizerSchema } from "./quantizers/registry.ts";
import type { ClipShape, Tokenizer } from "./tokenizer.ts";

export const schema = closed(
  {
    type: Type.Literal("cvivit"),
    patch_size: Type.Integer({ minimum: 1, default: 8, description: "Side of a patch." }),
    temporal_patch_size: Type.Integer({
      minimum: 1,
      default: 2,
      description: "Frames of a patch, but for the first frame, which is one by itself.",
    }),
    hidden: Type.Integer({ minimum: 1, default: 512, description: "Channels of the blocks." }),
    heads: Type.Integer({
      minimum: 1,
      default: 8,
      description: "Attention heads; must divide hidden.",
    }),
    mlp_ratio: Type.Number({
      exclusiveMinimum: 0,
      default: 4,
      description: "Width of the feed-forward layer as a multiple of hidden.",
    }),
    spatial_blocks: Type.Integer({
      minimum: 0,
      default: 4,
      description: "Blocks over the patches of a frame, in encoder and decoder each.",
    }),
    temporal_blocks: Type.Integer({
      minimum: 0,
      default: 4,
      description: "Causal blocks over the frames of a place, in encoder and decoder each.",
    }),
    quantizer: quantizerSchema,
    ...trainingProperties({ l2_weight: 1 }),
  },
  { description: "C-ViViT: factorised attention over space and, causally, time (Phenaki)." },
);

export type CvivitConfig = Static<typeof schema>;

function latentsOf(config: CvivitConfig, { frames, height, width }: ClipShape): Block {
  const { patch_size: side, temporal_patch_size: t } = config;
  return [1 + (frames - 1) / t, height / side, width / side];
}

/** Mistakes that show only against other keys or the clips' shape. */
export function check(config: CvivitConfig, clip: ClipShape): Problem[] {
  const problems: Problem[] = [];
  const { patch_size: side, temporal_patch_size: t } = config;
  if ((clip.frames - 1) % t !== 0) {
    problems.push({
      path: "temporal_patch_size",
      message: `clips of ${clip.frames} frames do not fit patches of ${t}: expected 1 + ${t}·n frames`,
      hint: "use another number of frames or temporal_patch_size",
    });
  }
  if (clip.height % side !== 0 || clip.width % side !== 0) {
    problems.push({
      path: "patch_size",
      message: `patches of ${side} do not fit clips of ${clip.height}×${clip.width}`,
      hint: "use a patch_size that divides both sides",
    });
  }
  if (config.hidden % config.heads !== 0) {
    problems.push({
      path: "heads",
      message: `${config.heads} heads do not divide ${config.hidden} channels`,
      hint: "use another number of heads",
    });
  }
  const latents = problems.length > 0 ? undefined : latentsOf(config, clip);
  return [...problems, ...checkQuantizer(config.quantizer, latents)];
}

/** A pre-norm transformer block over sequences [M, n, D]. */
function block(scope: Scope, config: CvivitConfig, causal: boolean) {
  const { hidden, heads } = config;
  const inner = Math.round(hidden * config.mlp_ratio);
  const norm1 = layerNorm(scope.child("norm1"), { width: hidden });
  const project = dense(scope.child("qkv"), { inputs: hidden, outputs: 3 * hidden });
  const merge = dense(scope.child("merge"), { inputs: hidden, outputs: hidden });
  const norm2 = layerNorm(scope.child("norm2"), { width: hidden });
  const up = dense(scope.child("up"), { inputs: hidden, outputs: inner });
  const down = dense(scope.child("down"), { inputs: inner, outputs: hidden });
  return (x: tf.Tensor3D): tf.Tensor3D => {
    const [rows, n] = x.shape;
    let flat = tf.reshape<tf.Rank.R2>(x, [rows * n, hidden]);
    const qkv = tf.reshape(project(norm1(flat)), [rows, n, 3 * heads, hidden / heads]);
    const [query, key, value] = tf.split<tf.Tensor4D>(tf.transpose(qkv, [0, 2, 1, 3]), 3, 1);
    const [keys, values] = causal ? [wholePast(key!), wholePast(value!)] : [key!, value!];
    const seen = tf.transpose(attention(query!, keys, values, { causal }), [0, 2, 1, 3]);
    flat = tf.add(flat, merge(tf.reshape(seen, [rows * n, hidden])));
    flat = tf.add(flat, down(gelu(up(norm2(flat)))));
    return tf.reshape(flat, [rows, n, hidden]);
  };
}

/** Blocks over space and time of [B, t, h, w, D], in the order asked for. */
function trunk(scope: Scope, config: CvivitConfig, grid: Block, order: readonly string[]) {
  const { hidden } = config;
  const [frames, height, width] = grid;
  const place = scope.param("positions/space", [1, height * width, hidden], normal(0.02));
  const time = scope.param("positions/time", [1, frames, hidden], normal(0.02)) as tf.Tensor3D;
  const spatial = Array.from({ length: config.spatial_blocks }, (_, i) =>
    block(scope.child(`spatial${i}`), config, false),
  );
  const temporal = Array.from({ length: config.temporal_blocks }, (_, i) =>
    block(scope.child(`temporal${i}`), config, true),
  );
  const norm = layerNorm(scope.child("norm"), { width: hidden });
  return (x: tf.Tensor5D): tf.Tensor5D => {
    const [b, t, h, w] = x.shape;
    const before = stepsBefore(t);
    if (before + t > frames) {
      throw new UserError(
        `C-ViViT has places for ${frames} latent frames and got ${before + t}`,
        "build it for longer clips (dataset.frames), or use a convolutional tokenizer, which takes any length",
      );
    }
    let y = x;
    for (const axis of order) {
      if (axis === "space") {
        let rows = tf.reshape<tf.Rank.R3>(y, [b * t, h * w, hidden]);
        rows = tf.add(rows, place);
        rows = spatial.reduce((z, one) => one(z), rows);
        y = tf.reshape(rows, [b, t, h, w, hidden]);
      } else {
        const columns = tf.transpose(tf.reshape(y, [b, t, h * w, hidden]), [0, 2, 1, 3]);
        let rows = tf.reshape<tf.Rank.R3>(columns, [b * h * w, t, hidden]);
        rows = tf.add(rows, tf.slice(time, [0, before, 0], [1, t, hidden]));
        rows = temporal.reduce((z, one) => one(z), rows);
        const back = tf.transpose(tf.reshape(rows, [b, h * w, t, hidden]), [0, 2, 1, 3]);
        y = tf.reshape(back, [b, t, h, w, hidden]);
      }
    }
    return norm(y);
  };
}

/** Builds the tokenizer for clips that pass `check`. */
export function build(config: CvivitConfig, clip: ClipShape, scope: Scope): Tokenizer {
  const { patch_size: side, temporal_patch_size: frames, hidden } = config;
  const latents = latentsOf(config, clip);
  const first: Block = [1, side, side];
  const rest: Block = [frames, side, side];
  const pixels = 3 * side * side;

  return assembleTokenizer(config, clip, scope, {
    causal: true,
    latents,
    encoder(at, width) {
      const embedFirst = dense(at.child("first"), { inputs: pixels, outputs: hidden });
      const embedRest = dense(at.child("rest"), { inputs: frames * pixels, outputs: hidden });
      const run = trunk(at, config, latents, ["space", "time"]);
      const project = dense(at.child("project"), { inputs: hidden, outputs: width });
      return (x) => {
        const [b, t, h, w, c] = x.shape;
        if (!atBeginning()) {
          return project(run(embedRest(spaceToDepth3d(x, rest)) as tf.Tensor5D)) as tf.Tensor5D;
        }
        const one = tf.slice(x, [0, 0, 0, 0, 0], [b, 1, h, w, c]);
        const parts = [embedFirst(spaceToDepth3d(one, first)) as tf.Tensor5D];
        if (t > 1) {
          const later = tf.slice(x, [0, 1, 0, 0, 0], [b, t - 1, h, w, c]);
          parts.push(embedRest(spaceToDepth3d(later, rest)) as tf.Tensor5D);
        }
        return project(run(tf.concat(parts, 1))) as tf.Tensor5D;
      };
    },
    decoder(at, width) {
      const stem = dense(at.child("stem"), { inputs: width, outputs: hidden });
      const run = trunk(at, config, latents, ["time", "space"]);
      const headFirst = dense(at.child("first"), { inputs: hidden, outputs: pixels });
      const headRest = dense(at.child("rest"), { inputs: hidden, outputs: frames * pixels });
      return (z) => {
        const y = run(stem(z) as tf.Tensor5D);
        if (!atBeginning()) {
          return depthToSpace3d(headRest(y) as tf.Tensor5D, rest);
        }
        const [b, t, h, w, c] = y.shape;
        const one = tf.slice(y, [0, 0, 0, 0, 0], [b, 1, h, w, c]);
        const parts = [depthToSpace3d(headFirst(one) as tf.Tensor5D, first)];
        if (t > 1) {
          const later = tf.slice(y, [0, 1, 0, 0, 0], [b, t - 1, h, w, c]);
          parts.push(depthToSpace3d(headRest(later) as tf.Tensor5D, rest));
        }
        return tf.concat(parts, 1);
      };
    },
  });
}
