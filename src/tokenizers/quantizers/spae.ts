/**
 * @file The pyramid quantizer of SPAE: Yu et al., "SPAE: Semantic Pyramid AutoEncoder for Multimodal
 * Generation with Frozen LLMs" (NeurIPS 2023), §3. Tokens are words: the codebook is a frozen table of
 * word embeddings. A latent frame becomes a pyramid of layers; layer l takes every `strides[l]`-th
 * position of the grid in each direction (the dilation sub-sampler, from the middle of each block), so
 * a first layer of one token is followed by finer ones.
 *
 * Streaming average quantization: with P(i) the positions of layer i, e_i their words and
 * n_l(x, y) = Σ_{i<l} 1[(x,y) ∈ P(i)],
 *
 *   z_l = z + Σ_{i<l} 1[(x,y) ∈ P(i)] (z - e_i),   word_l = argmin_k |z_l - e(k)|²,
 *   ẑ   = Σ_i 1[(x,y) ∈ P(i)] e_i / Σ_i 1[(x,y) ∈ P(i)],
 *
 * so every layer looks for words at the words' own scale. With `update: residual` layers sum instead:
 * z_l = z - Σ e_i and ẑ = Σ e_i. Where only some layers are looked at, a position that none of them
 * holds takes the token of its block in the finest of them.
 *
 * The tokens of a frame are one row, coarse layers first: the token grid is (t, 1, Σ h·w / s²).
 *
 * The semantic loss pulls the latents of the first layers to candidate words of the clip,
 * -log softmax(-|z_l - e(c)|²); which words are candidates the tokenizer says (`semantic_targets`).
 */

import { existsSync, readFileSync } from "node:fs";
import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../../config/errors.ts";
import { closed, type Static, Type } from "../../config/schema.ts";
import { type Initializer, normal, type Scope } from "../../models/scope.ts";
import { embedding, stopGradient, straightThrough } from "../../runtime/ops.ts";
import { Random } from "../../runtime/random.ts";
import { decodeSafetensors } from "../../runtime/safetensors.ts";
import { float32 } from "../../runtime/tensors.ts";
import { nearestCodes, scores } from "./codebook.ts";
import { gridOf, type Quantizer, rowsOf, usageMetrics } from "./quantizer.ts";

export const schema = closed(
  {
    type: Type.Literal("spae"),
    words: Type.Optional(
      Type.String({
        description:
          "A safetensors file whose tensor `embeddings` [size, width] is the frozen codebook. Without it the codebook is fixed random vectors.",
      }),
    ),
    size: Type.Integer({
      minimum: 2,
      maximum: 65536,
      default: 1024,
      description: "Number of words.",
    }),
    width: Type.Integer({ minimum: 1, default: 64, description: "Channels of a word embedding." }),
    strides: Type.Array(Type.Integer({ minimum: 1 }), {
      minItems: 1,
      maxItems: 16,
      default: [16, 8, 4, 2, 1, 1],
      description:
        "Distance between neighbouring tokens of each layer in latent positions, coarse layers first; each must divide the latent's sides. On 16×16 the default has 1, 4, 16, 64, 256 and 256 tokens.",
    }),
    update: Type.Union([Type.Literal("average"), Type.Literal("residual")], {
      default: "average",
      description:
        "How layers build on one another: streaming average (SPAE) or the sum of residual quantization.",
    }),
    commitment_weight: Type.Number({
      minimum: 0,
      default: 0.25,
      description: "Weight of the commitment loss, which moves latents to their words.",
    }),
    layer_dropout: Type.Number({
      minimum: 0,
      maximum: 1,
      default: 0,
      description:
        "Share of the training clips that are decoded from their first few layers only, as many as a draw says.",
    }),
    semantic: Type.Optional(
      Type.Object(
        {
          file: Type.String({
            description:
              "A safetensors file whose tensor `image_space` [size, 64] holds the words in the feature space of the network that looks at the clips (`tessera words` makes one from captions).",
          }),
          layers: Type.Integer({
            minimum: 1,
            default: 4,
            description: "First layers that the loss acts on.",
          }),
          weight: Type.Number({
            minimum: 0,
            default: 0.3,
            description: "Weight of the semantic loss.",
          }),
          threshold: Type.Number({
            minimum: 0,
            maximum: 1,
            default: 0.8,
            description:
              "A word is a candidate where its similarity to the clip, between the least (0) and the most similar word (1), is at least this.",
          }),
        },
        {
          additionalProperties: false,
          description:
            "Pull the first layers to words that fit the clip, by an embedding pair; none when left out.",
        },
      ),
    ),
  },
  { description: "A pyramid of words from a frozen vocabulary (SPAE)." },
);

export type SpaeConfig = Static<typeof schema>;

/** A table of the words from a file: [size, width]. */
export function readWords(
  key: "words" | "semantic.file",
  path: string,
  name: "embeddings" | "image_space",
  [size, width]: readonly [number, number],
): Float32Array {
  if (!existsSync(path)) {
    throw new UserError(
      `tokenizer.quantizer.${key}: there is no file ${path}`,
      `give the path of a safetensors file with a tensor \`${name}\`, or leave the key out`,
    );
  }
  const found = decodeSafetensors(readFileSync(path)).tensors.get(name);
  const shape = found ? `[${found.shape.join(", ")}]` : "missing";
  if (shape !== `[${size}, ${width}]`) {
    throw new UserError(
      `tokenizer.quantizer.${key}: the tensor \`${name}\` of ${path} is ${shape}, expected [${size}, ${width}]`,
      "set quantizer.size and quantizer.width to the file's sides",
    );
  }
  return Float32Array.from(found!.data);
}

/** The words of a codebook's file by id: its metadata `words`, a JSON list. */
export function readLexicon(path: string, size: number): readonly string[] {
  const listed = existsSync(path)
    ? decodeSafetensors(readFileSync(path)).metadata?.["words"]
    : undefined;
  let words: unknown;
  try {
    words = JSON.parse(listed ?? "");
  } catch {
    words = undefined; // told below
  }
  if (!Array.isArray(words) || words.length !== size) {
    throw new UserError(
      `tokenizer.quantizer.words: ${path} does not say what its ${size} words are`,
      "write them as a JSON list into the file's metadata under `words`, as `tessera words` does",
    );
  }
  return words.map(String);
}

/** The words' embeddings from a file, as an initial value. */
function wordsOf(path: string, size: number, width: number): Initializer {
  return () => readWords("words", path, "embeddings", [size, width]);
}

/** Where the tokens of a layer lie in a grid of h × w, and which token each position falls to. */
interface Layer {
  readonly count: number;
  /** Row of each token in the grid, [count]. */
  readonly positions: Int32Array;
  /** Token of the block that a position lies in, [h·w]. */
  readonly block: Int32Array;
  /** 1 at the positions that the layer holds, [h·w]. */
  readonly held: Float32Array;
}

function layerOf(stride: number, h: number, w: number): Layer {
  const columns = w / stride;
  const offset = Math.floor(stride / 2);
  const count = (h / stride) * columns;
  const positions = Int32Array.from({ length: count }, (_, i) => {
    const y = Math.floor(i / columns) * stride + offset;
    return y * w + (i % columns) * stride + offset;
  });
  const block = Int32Array.from(
    { length: h * w },
    (_, i) => Math.floor(Math.floor(i / w) / stride) * columns + Math.floor((i % w) / stride),
  );
  const held = new Float32Array(h * w);
  for (const position of positions) {
    held[position] = 1;
  }
  return { count, positions, block, held };
}

/** Builds the quantizer: the frozen words are state in `scope`. */
export function build(config: SpaeConfig, scope: Scope): Quantizer {
  const { size, width, strides } = config;
  const average = config.update === "average";
  const init = config.words ? wordsOf(config.words, size, width) : normal(1 / Math.sqrt(width));
  const codebook = scope.state("words", [size, width], init) as tf.Variable<tf.Rank.R2>;
  const factors = [size];

  const layersOf = (h: number, w: number): Layer[] => strides.map((s) => layerOf(s, h, w));

  /** Rows of `table` [frames·rows, D] at `index` of each frame: [frames·index.length, D]. */
  const pick = (table: tf.Tensor2D, rows: number, index: Int32Array): tf.Tensor2D => {
    const frames = table.shape[0] / rows;
    const all = Int32Array.from(
      { length: frames * index.length },
      (_, i) => Math.floor(i / index.length) * rows + index[i % index.length]!,
    );
    return embedding(table, tf.tensor1d(all, "int32")) as tf.Tensor2D;
  };
  /** A constant mask of one frame's positions as a column over all frames: [frames·h·w, 1]. */
  const column = (mask: Float32Array, frames: number): tf.Tensor2D =>
    tf.tile(tf.tensor2d(mask, [mask.length, 1]), [frames, 1]);

  /** The decoder's latents from the layers' words, [n_l·frames, D] each. */
  function combine(
    words: readonly tf.Tensor2D[],
    layers: readonly Layer[],
    frames: number,
    used: number,
  ): tf.Tensor2D {
    const seen = new Float32Array(layers[0]!.held.length);
    let sum: tf.Tensor2D | undefined;
    for (let l = 0; l < used; l++) {
      const layer = layers[l]!;
      const dense = tf.mul<tf.Tensor2D>(
        pick(words[l]!, layer.count, layer.block),
        column(layer.held, frames),
      );
      sum = sum ? tf.add(sum, dense) : dense;
      layer.held.forEach((on, i) => (seen[i]! += on));
    }
    const finest = strides
      .slice(0, used)
      .reduce((best, s, l) => (s <= strides[best]! ? l : best), 0);
    const share = average ? seen.map((n) => 1 / Math.max(n, 1)) : seen.map(() => 1);
    const filled = tf.mul(sum!, column(share, frames));
    const empty = seen.map((n) => (n === 0 ? 1 : 0));
    if (!empty.some((on) => on === 1)) {
      return filled as tf.Tensor2D;
    }
    const blocks = pick(words[finest]!, layers[finest]!.count, layers[finest]!.block);
    return tf.add(filled, tf.mul(blocks, column(empty, frames)));
  }

  /** Words layer by layer for z [B, t, h, w, D]. */
  function walk(z: tf.Tensor5D) {
    const [b, t, h, w] = gridOf(z);
    const frames = b * t;
    const layers = layersOf(h, w);
    const rows = rowsOf(z); // [frames·h·w, D]
    let sum: tf.Tensor2D | undefined; // of the words so far, dense
    const seen = new Float32Array(h * w);
    const words: tf.Tensor2D[] = [];
    const ids: tf.Tensor1D[] = [];
    const targets: tf.Tensor2D[] = [];
    for (const layer of layers) {
      const here = pick(rows, h * w, layer.positions); // [frames·n, D]
      let target = here;
      if (sum) {
        const before = pick(sum, h * w, layer.positions);
        const times = layer.positions.reduce<number[]>((all, p) => [...all, seen[p]! + 1], []);
        const many = column(Float32Array.from(times), frames);
        target = tf.sub(average ? tf.mul(here, many) : here, before);
      }
      const index = stopGradient(tf.argMin<tf.Tensor1D>(scores(target, codebook), 1));
      const found = embedding(codebook, index) as tf.Tensor2D;
      const dense = tf.mul<tf.Tensor2D>(
        pick(found, layer.count, layer.block),
        column(layer.held, frames),
      );
      sum = sum ? tf.add(sum, dense) : dense;
      layer.held.forEach((on, i) => (seen[i]! += on));
      words.push(found);
      ids.push(index);
      targets.push(target);
    }
    const tokens = layers.reduce((count, layer) => count + layer.count, 0);
    const joined = tf.concat(
      ids.map((index, l) => tf.reshape(index, [b, t, layers[l]!.count])),
      2,
    );
    return {
      layers,
      frames,
      words,
      targets,
      ids: tf.reshape<tf.Rank.R5>(joined, [b, t, 1, tokens, 1]),
    };
  }

  const lookup = (ids: tf.Tensor5D): tf.Tensor5D =>
    tf.reshape(embedding(codebook, tf.reshape(ids, [-1])), [...gridOf(ids), width]);

  /** The semantic loss: targets of the first layers, candidates [B, K] with rows of sum one. */
  function semantic(
    { targets, layers, frames }: ReturnType<typeof walk>,
    candidates: tf.Tensor2D,
  ): tf.Scalar {
    const used = Math.min(config.semantic!.layers, strides.length);
    const [clips, k] = candidates.shape;
    const each = targets.slice(0, used).map((target, l) => {
      const logProbabilities = tf.logSoftmax<tf.Tensor2D>(tf.neg(scores(target, codebook)));
      const times = (frames / clips) * layers[l]!.count;
      const tiled = tf.reshape(tf.tile(tf.expandDims(candidates, 1), [1, times, 1]), [-1, k]);
      return tf.neg(tf.mean<tf.Scalar>(tf.sum(tf.mul(tiled, logProbabilities), 1)));
    });
    return tf.div(
      each.reduce((a, b) => tf.add(a, b)),
      used,
    );
  }

  return {
    type: "spae",
    factors,
    latentWidth: width,
    width,
    preNorm: false,
    remedy: "raise quantizer.commitment_weight, or give words of a scale nearer to the latents'",

    lexical: {
      layers: (h, w) => strides.map((s) => (h / s) * (w / s)),
      ...(config.words && { words: () => readLexicon(config.words!, size) }),
    },

    tokenGrid: ([t, h, w]) => [t, 1, strides.reduce((n, s) => n + (h / s) * (w / s), 0)],

    ...(config.layer_dropout > 0 && {
      inputs: ([clips]: readonly number[], seed: number, step: number) => {
        const draws = new Random(seed, "spae/layers", step).uniforms(2 * clips!);
        const used = Float32Array.from({ length: clips! }, (_, i) =>
          draws[i]! < config.layer_dropout
            ? 1 + Math.floor(draws[clips! + i]! * strides.length)
            : strides.length,
        );
        return { spae_layers: float32([clips!], used) };
      },
    }),

    assign(z) {
      const { ids } = walk(z);
      return { ids, codes: lookup(ids) };
    },

    quantize(z, _step, _training, noise) {
      const [b, t, h, w] = gridOf(z);
      const walked = walk(z);
      const { layers, frames, words, ids } = walked;
      const whole = combine(words, layers, frames, strides.length);
      let given = whole;
      const used = noise?.["spae_layers"]; // [B]
      if (used) {
        // Each clip takes the sum over "exactly n layers" of that many layers' latents.
        const parts = strides.map((_, n) => {
          const on = tf.cast(tf.equal(used, n + 1), "float32");
          const rows = tf.reshape(tf.tile(tf.reshape(on, [b, 1]), [1, t * h * w]), [-1, 1]);
          return tf.mul<tf.Tensor2D>(combine(words, layers, frames, n + 1), rows);
        });
        given = parts.reduce((a, c) => tf.add(a, c));
      }
      const commitment = tf.mean<tf.Scalar>(tf.squaredDifference(rowsOf(z), stopGradient(whole)));
      let loss = tf.mul<tf.Scalar>(commitment, config.commitment_weight);
      const metrics: { [name: string]: tf.Scalar } = {
        commitment,
        ...usageMetrics(ids, factors),
      };
      const candidates = noise?.["semantic_targets"] as tf.Tensor2D | undefined;
      if (candidates && config.semantic) {
        metrics["semantic"] = semantic(walked, candidates);
        loss = tf.add(loss, tf.mul(metrics["semantic"], config.semantic.weight));
      }
      const codes = straightThrough(z, tf.reshape<tf.Rank.R5>(given, z.shape));
      return { codes, ids, loss, metrics };
    },

    lookup,
    indices: (codes) => nearestCodes(codes, codebook),

    assemble(codes, used = strides.length) {
      const [b, t, , tokens, d] = codes.shape;
      // The latent grid of so many tokens: the strides leave h·w, and frames are as wide as high.
      const inverse = strides.reduce((sum, s) => sum + 1 / (s * s), 0);
      const side = Math.round(Math.sqrt(tokens / inverse));
      const layers = layersOf(side, side);
      let start = 0;
      const words = layers.map(({ count }) => {
        const part = tf.slice(codes, [0, 0, 0, start, 0], [b, t, 1, count, d]);
        start += count;
        return tf.reshape<tf.Rank.R2>(part, [-1, d]);
      });
      const latents = combine(words, layers, b * t, used);
      return tf.reshape(latents, [b, t, side, side, d]);
    },
  };
}

/** A mistake of a pyramid against its latent grid, or nothing. */
export function checkPyramid(
  { strides }: Pick<SpaeConfig, "strides">,
  [, h, w]: readonly [number, number, number],
): string | undefined {
  const bad = strides.find((s) => h % s !== 0 || w % s !== 0);
  if (bad !== undefined) {
    return `a stride of ${bad} does not divide the latent grid of ${h}×${w}`;
  }
  return h === w ? undefined : `the pyramid needs square latents, the grid is ${h}×${w}`;
}
