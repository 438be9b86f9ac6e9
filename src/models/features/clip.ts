/**
 * @file CLIP (Radford et al. 2021), image and text towers in the layout of ViT-B/32, for CLIPSIM: the
 * cosine of a frame's and a caption's embedding.
 */

import * as tf from "@tensorflow/tfjs-core";
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
import { frozenLayerNorm, frozenTransformer, rowsOf } from "./vision-transformer.ts";

export interface ClipOptions {
  /** Side of a picture and of a patch. */
  readonly image: number;
  readonly patch: number;
  readonly imageWidth: number;
  readonly imageDepth: number;
  readonly imageHeads: number;
  readonly vocabulary: number;
  readonly context: number;
  readonly textWidth: number;
  readonly textDepth: number;
  readonly textHeads: number;
  /** Width of the shared embedding. */
  readonly embedding: number;
}

/** The sizes of ViT-B/32. */
export const clipB32: ClipOptions = {
  image: 224,
  patch: 32,
  imageWidth: 768,
  imageDepth: 12,
  imageHeads: 12,
  vocabulary: 49_408,
  context: 77,
  textWidth: 512,
  textDepth: 12,
  textHeads: 8,
  embedding: 512,
};

/** Pixels in [0, 1] less the mean, over the deviation. */
export const clipStatistics = {
  mean: [0.48145466, 0.4578275, 0.40821073],
  deviation: [0.26862954, 0.26130258, 0.27577711],
} as const;

const epsilon = 1e-5;

export interface Clip {
  readonly scope: Scope;
  readonly options: ClipOptions;
  /** Pictures [N, image, image, 3] in [0, 1] to embeddings of length 1, [N, embedding]. */
  image(pictures: tf.Tensor4D): tf.Tensor2D;
  /**
   * Texts to embeddings of length 1, [N, embedding].
   * @param ids [N, context] int32, padded behind the end token
   * @param ends [N] int32, where each end token stands
   */
  text(ids: tf.Tensor2D, ends: tf.Tensor1D): tf.Tensor2D;
}

/** Build the network's variables in `scope`, all zeros; `loadClip` fills them. */
export function buildClip(scope: Scope, options: ClipOptions = clipB32): Clip {
  const { image: side, patch, imageWidth, textWidth, context, vocabulary, embedding } = options;
  const visual = scope.child("image");
  const grid = side / patch;
  const kernel = visual
    .child("patch")
    .state("kernel", [patch, patch, 3, imageWidth]) as tf.Tensor4D;
  const first = visual.state("class", [imageWidth]);
  const places = visual.state("positions", [grid * grid + 1, imageWidth]);
  const before = frozenLayerNorm(visual.child("norm_before"), imageWidth, epsilon);
  const through = frozenTransformer(visual, {
    width: imageWidth,
    depth: options.imageDepth,
    heads: options.imageHeads,
    hidden: 4 * imageWidth,
    activation: "quick-gelu",
    epsilon,
  });
  const after = frozenLayerNorm(visual.child("norm_after"), imageWidth, epsilon);
  const project = visual.child("project").state("kernel", [imageWidth, embedding]) as tf.Tensor2D;

  const textual = scope.child("text");
  const table = textual.child("tokens").state("table", [vocabulary, textWidth]) as tf.Tensor2D;
  const order = textual.state("positions", [context, textWidth]);
  const read = frozenTransformer(textual, {
    width: textWidth,
    depth: options.textDepth,
    heads: options.textHeads,
    hidden: 4 * textWidth,
    activation: "quick-gelu",
    epsilon,
    causal: true,
  });
  const last = frozenLayerNorm(textual.child("norm_after"), textWidth, epsilon);
  const projectText = textual
    .child("project")
    .state("kernel", [textWidth, embedding]) as tf.Tensor2D;

  return {
    scope,
    options,
    image(pictures) {
      const [n, height, width] = pictures.shape;
      if (height !== side || width !== side) {
        throw new RangeError(`CLIP takes pictures of ${side} x ${side}, got ${height} x ${width}`);
      }
      const { mean, deviation } = clipStatistics;
      const normal = tf.div(tf.sub(pictures, [...mean]), [...deviation]) as tf.Tensor4D;
      const patches = tf.conv2d(normal, kernel, patch, "valid"); // [N, g, g, width]
      const tokens = tf.reshape(patches, [n, grid * grid, imageWidth]);
      const classes = tf.tile(tf.reshape(first, [1, 1, imageWidth]), [n, 1, 1]);
      const placed = tf.add(tf.concat([classes, tokens], 1), places);
      const y = through(before(placed) as tf.Tensor3D); // [N, 1 + g², width]
      const summary = tf.reshape(tf.slice(y, [0, 0, 0], [n, 1, imageWidth]), [n, imageWidth]);
      return unit(tf.matMul(after(summary) as tf.Tensor2D, project));
    },
    text(ids, ends) {
      const [n, length] = ids.shape;
      const words = tf.reshape(tf.gather(table, tf.reshape(ids, [n * length])), [
        n,
        length,
        textWidth,
      ]);
      const y = last(read(tf.add(words, order) as tf.Tensor3D)); // [N, context, width]
      // The end token's row of each text.
      const rows = tf.reshape(y, [n * length, textWidth]);
      const starts = tf.tensor1d(
        Int32Array.from({ length: n }, (_, i) => i * length),
        "int32",
      );
      const summary = tf.gather(rows, tf.add(starts, ends)) as tf.Tensor2D;
      return unit(tf.matMul(summary, projectText));
    },
  };
}

/** Rows at length 1. */
function unit(x: tf.Tensor2D): tf.Tensor2D {
  return tf.div(x, tf.sqrt(tf.sum(tf.square(x), 1, true)));
}

const joint = { query: 0, key: 1, value: 2 } as const;

/** OpenAI's state (also open_clip's). */
const openaiLayout: WeightLayout = {
  name: "OpenAI",
  recipe(variable): Recipe | undefined {
    const root = variable.startsWith("image/") ? "visual." : "";
    const rest = variable.replace(/^(image|text)\//, "");
    const simple: { [variable: string]: Recipe } = {
      "image/patch/kernel": take("visual.conv1.weight", torchKernel[2]),
      "image/class": take("visual.class_embedding"),
      "image/positions": take("visual.positional_embedding"),
      "image/norm_before/scale": take("visual.ln_pre.weight"),
      "image/norm_before/shift": take("visual.ln_pre.bias"),
      "image/norm_after/scale": take("visual.ln_post.weight"),
      "image/norm_after/shift": take("visual.ln_post.bias"),
      "image/project/kernel": take("visual.proj"),
      "text/tokens/table": take("token_embedding.weight"),
      "text/positions": take("positional_embedding"),
      "text/norm_after/scale": take("ln_final.weight"),
      "text/norm_after/shift": take("ln_final.bias"),
      "text/project/kernel": take("text_projection"),
    };
    if (simple[variable]) {
      return simple[variable];
    }
    const [, index, path, part] = /^block(\d+)\/(.+)\/(\w+)$/.exec(rest) ?? [];
    if (path === undefined) {
      return undefined;
    }
    const at = `${root}transformer.resblocks.${index}`;
    const weight = part === "kernel";
    const [, name] = /^attention\/(query|key|value)$/.exec(path) ?? [];
    if (name !== undefined) {
      const tensor = `${at}.attn.in_proj_${weight ? "weight" : "bias"}`;
      return rowsOf(tensor, joint[name as keyof typeof joint], 3);
    }
    const linear = {
      "attention/output": "attn.out_proj",
      "mlp/in": "mlp.c_fc",
      "mlp/out": "mlp.c_proj",
    }[path];
    if (linear !== undefined) {
      return weight ? take(`${at}.${linear}.weight`, [1, 0]) : take(`${at}.${linear}.bias`);
    }
    const norm = path === "norm1" ? "ln_1" : "ln_2";
    return take(`${at}.${norm}.${part === "scale" ? "weight" : "bias"}`);
  },
};

/** The Hugging Face hub's names (safetensors). */
const hubLayout: WeightLayout = {
  name: "Hugging Face",
  recipe(variable): Recipe | undefined {
    const model = variable.startsWith("image/") ? "vision_model" : "text_model";
    const simple: { [variable: string]: Recipe } = {
      "image/patch/kernel": take("vision_model.embeddings.patch_embedding.weight", torchKernel[2]),
      "image/class": take("vision_model.embeddings.class_embedding"),
      "image/positions": take("vision_model.embeddings.position_embedding.weight"),
      "image/norm_before/scale": take("vision_model.pre_layrnorm.weight"), // their spelling
      "image/norm_before/shift": take("vision_model.pre_layrnorm.bias"),
      "image/norm_after/scale": take("vision_model.post_layernorm.weight"),
      "image/norm_after/shift": take("vision_model.post_layernorm.bias"),
      "image/project/kernel": take("visual_projection.weight", [1, 0]),
      "text/tokens/table": take("text_model.embeddings.token_embedding.weight"),
      "text/positions": take("text_model.embeddings.position_embedding.weight"),
      "text/norm_after/scale": take("text_model.final_layer_norm.weight"),
      "text/norm_after/shift": take("text_model.final_layer_norm.bias"),
      "text/project/kernel": take("text_projection.weight", [1, 0]),
    };
    if (simple[variable]) {
      return simple[variable];
    }
    const [, index, path, part] = /^\w+\/block(\d+)\/(.+)\/(\w+)$/.exec(variable) ?? [];
    if (path === undefined) {
      return undefined;
    }
    const names: { [path: string]: string } = {
      "attention/query": "self_attn.q_proj",
      "attention/key": "self_attn.k_proj",
      "attention/value": "self_attn.v_proj",
      "attention/output": "self_attn.out_proj",
      "mlp/in": "mlp.fc1",
      "mlp/out": "mlp.fc2",
      norm1: "layer_norm1",
      norm2: "layer_norm2",
    };
    const at = `${model}.encoder.layers.${index}.${names[path]}`;
    if (part === "kernel") {
      return take(`${at}.weight`, [1, 0]);
    }
    return take(part === "scale" ? `${at}.weight` : `${at}.bias`);
  },
};

/** Fill the variables from OpenAI's file, the hub's or a converted one. */
export function loadClip(clip: Clip, weights: Weights): string {
  return assignWeights(clip.scope, weights, [ownLayout, openaiLayout, hubLayout], "CLIP");
}

/**
 * The sizes of the network whose weights these are, by the shapes of its tensors, as OpenAI's own loader
 * finds them: heads are 64 wide. ViT-B/32's where the file is not recognised; loading then says what it
 * lacks.
 */
export function clipOptionsOf({ tensors }: Weights): ClipOptions {
  const shape = (...names: string[]): readonly number[] | undefined =>
    names.map((name) => tensors.get(name)?.shape).find((found) => found !== undefined);
  const depth = (...patterns: RegExp[]): number =>
    Math.max(0, ...patterns.flatMap((pattern) => [...tensors.keys()].map((name) => Number(pattern.exec(name)?.[1] ?? -1) + 1))); // biome-ignore format: one call
  const own = shape("image/patch/kernel"); // [p, p, 3, width]
  const kernel = shape("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"); // [width, 3, p, p]
  const places = shape("image/positions", "visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"); // biome-ignore format: one call
  const table = shape("text/tokens/table", "token_embedding.weight", "text_model.embeddings.token_embedding.weight"); // biome-ignore format: one call
  const order = shape("text/positions", "positional_embedding", "text_model.embeddings.position_embedding.weight"); // biome-ignore format: one call
  const projected = shape("image/project/kernel", "visual.proj");
  const projection = shape("visual_projection.weight"); // [embedding, width]
  const embedding = projected?.at(-1) ?? projection?.[0];
  const patch = own?.[0] ?? kernel?.[2];
  const imageWidth = own?.[3] ?? kernel?.[0];
  if (!patch || !imageWidth || !places || !table || !order || !embedding) {
    return clipB32;
  }
  const [vocabulary, textWidth] = table as [number, number];
  return {
    image: Math.round(Math.sqrt(places[0]! - 1)) * patch,
    patch,
    imageWidth,
    imageDepth: depth(/^image\/block(\d+)\//, /^visual\.transformer\.resblocks\.(\d+)\./, /^vision_model\.encoder\.layers\.(\d+)\./), // biome-ignore format: one call
    imageHeads: Math.max(1, Math.floor(imageWidth / 64)),
    vocabulary,
    context: order[0]!,
    textWidth,
    textDepth: depth(/^text\/block(\d+)\//, /^transformer\.resblocks\.(\d+)\./, /^text_model\.encoder\.layers\.(\d+)\./), // biome-ignore format: one call
    textHeads: Math.max(1, Math.floor(textWidth / 64)),
    embedding,
  };
}

/** Build and fill. The device that the variables shall belong to must be active. */
export function openClip(weights: Weights, options: ClipOptions = clipOptionsOf(weights)): Clip {
  const clip = buildClip(Scope.blank(0), options);
  loadClip(clip, weights);
  return clip;
}
