/**
 * @file The transformer over visual tokens (Vaswani et al. 2017), pre-norm as in GPT-2, with one
 * weight layout for both objectives: bidirectional (BERT, MaskGIT, MAGVIT) and causal.
 *
 * Tokens are factorised (MAGVIT-v2, Yu et al. 2024): a token has F sub-ids; their embeddings are
 * summed at the input, and the output has one softmax for each sub-vocabulary. All embeddings live in
 * one table and all heads in one projection, so F costs no extra operations.
 *
 * A class is a token of its own in front of the sequence. Its table has one row more than there are
 * classes: the last is the null class of classifier-free guidance (Ho & Salimans 2022), which is also
 * what a set without classes uses.
 *
 * Shapes: B batch, N tokens, n positions of a call, F factors, V vocabulary of a factor, D width,
 * h heads, d head width.
 */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, Type } from "../config/schema.ts";
import { attention, cachedAttention, cacheWrite, embedding, gelu } from "../runtime/ops.ts";
import { dense, layerNorm } from "./layers.ts";
import { buildPositions } from "./positions.ts";
import { normal, type Scope, zeros } from "./scope.ts";
import { sizeProperties, tieProperty } from "./sizes.ts";

export const transformerSchema = closed(
  {
    type: Type.Literal("transformer", { description: "A pre-norm transformer." }),
    ...sizeProperties("token"),
    ...tieProperty,
  },
  { description: "Sizes of the transformer over tokens." },
);
export type TransformerConfig = Static<typeof transformerSchema>;

/** What a transformer is built for. `TokenSpace` of the objectives has this shape. */
export interface TransformerSpace {
  readonly grid: readonly [number, number, number];
  readonly factors: readonly number[];
  readonly classes: number;
}

export interface TransformerOptions {
  /** Make an embedding of `[MASK]`. */
  readonly mask: boolean;
  /** Number of task prompts; a prompt is a token of its own in front of the class. Default none. */
  readonly prompts?: number;
  /** Make the vectors that mark the tokens of a condition before the sequence. Default false. */
  readonly prefix?: boolean;
}

/** What stands before the sequence besides the class. */
export interface Before {
  /** [B] int32: the task prompt of each sample. */
  readonly prompts?: tf.Tensor1D;
  /** Tokens of a condition. */
  readonly prefix?: {
    /** [B, P, F] int32 */
    readonly ids: tf.Tensor3D;
    /** [P] int32: the place of each in the sequence's grid. */
    readonly places: tf.Tensor1D;
    /** [B] bool: samples whose condition is replaced by [MASK]. */
    readonly hidden: tf.Tensor1D;
  };
}

/** The keys and values that a causal block has seen, [B, h, N, d] each: as variables, kept between calls. */
export type Cache = readonly { readonly key: tf.Variable; readonly value: tf.Variable }[];

/** A cache's values: what a step reads, and what it leaves. */
export type CacheValues = readonly { readonly key: tf.Tensor4D; readonly value: tf.Tensor4D }[];

/**
 * Initial standard deviation of embeddings and projections, "small init" (Nguyen & Salazar 2019,
 * "Transformers without tears", §3.1): 0.02 at width 1000, where BERT and GPT-2 use it, and larger for
 * narrower models, which a fixed 0.02 would leave all but linear and slow to learn.
 */
export const initStd = (width: number) => Math.sqrt(2 / (5 * width));

/** A fault of the sizes against each other, in the words of the config, or nothing. */
export function checkTransformer(
  config: Pick<TransformerConfig, "width" | "heads">,
): { path: string; message: string; hint: string }[] {
  if (config.width % config.heads === 0) {
    return [];
  }
  const divisors = [...Array(config.width + 1).keys()].filter((n) => n && config.width % n === 0);
  return [
    {
      path: "heads",
      message: `${config.heads} heads do not divide the width ${config.width}`,
      hint: `use one of ${divisors.join(", ")} heads or another width`,
    },
  ];
}

/** Number of tokens of a grid. */
export function tokenCount(space: Pick<TransformerSpace, "grid">): number {
  return space.grid[0] * space.grid[1] * space.grid[2];
}

/** A built transformer. Its functions are traceable, but for `buildCache`. */
export interface Transformer {
  readonly config: TransformerConfig;
  readonly space: TransformerSpace;
  readonly scope: Scope;
  /** The label that stands for "no class". */
  readonly nullClass: number;
  /** Sequence length N. */
  readonly tokens: number;
  /**
   * Logits of every token given all tokens that are not masked.
   * @param ids [B, N, F] int32; values at masked positions have no influence
   * @param masked [B, N] bool
   * @param labels [B] int32 in [0, classes]; `nullClass` is "no class"
   * @param before task prompts and condition tokens, where the transformer was built for them
   * @returns for each factor [B·N, V]
   */
  bidirectional(
    ids: tf.Tensor3D,
    masked: tf.Tensor2D,
    labels: tf.Tensor1D,
    before?: Before,
  ): tf.Tensor2D[];
  /**
   * Logits of token i given the class and tokens 0..i-1, for all i at once. The input at place i is
   * token i-1 (the class at place 0) with the position embedding of token i, the one predicted.
   * @param ids [B, N, F] int32
   * @param labels [B] int32 in [0, classes]
   * @returns for each factor [B·N, V]
   */
  causal(ids: tf.Tensor3D, labels: tf.Tensor1D): tf.Tensor2D[];
  /**
   * One place of the causal pass: the logits of token `position` from the token before it, with
   * earlier keys and values read from `cache` and this place's put to them. What the cache holds
   * from `position` on is not looked at, so it needs no clearing.
   * @param previous [B, F] int32, token position-1; ignored when position is 0
   * @param labels [B] int32 in [0, classes]
   * @param position [1] int32 in [0, N)
   * @returns for each factor [B, V], and the cache with this place
   */
  causalStep(
    previous: tf.Tensor2D,
    labels: tf.Tensor1D,
    position: tf.Tensor1D,
    cache: CacheValues,
  ): { readonly logits: tf.Tensor2D[]; readonly cache: CacheValues };
  /** A cache for `batch` sequences, filled with zeros. The caller disposes its variables. */
  buildCache(batch: number): Cache;
}

/** Make a transformer's variables in `scope` and return its functions. */
export function buildTransformer(
  config: TransformerConfig,
  space: TransformerSpace,
  { mask, prompts = 0, prefix = false }: TransformerOptions,
  scope: Scope,
): Transformer {
  for (const { message, hint } of checkTransformer(config)) {
    throw new RangeError(`transformer: ${message}; ${hint}`);
  }
  const { width, depth, heads } = config;
  const { factors, classes, grid } = space;
  const tokens = tokenCount(space);
  const vocabulary = factors.reduce((sum, size) => sum + size, 0);

  const embed = scope.child("embed");
  const table = embed.param("tokens", [vocabulary, width], normal(initStd(width))) as tf.Tensor2D;
  const classTable = embed.param(
    "classes",
    [classes + 1, width],
    normal(initStd(width)),
  ) as tf.Tensor2D;
  const maskVector = mask ? embed.param("mask", [width], normal(initStd(width))) : undefined;
  const promptTable =
    prompts > 0
      ? (embed.param("prompts", [prompts, width], normal(initStd(width))) as tf.Tensor2D)
      : undefined;
  // Row 0 is added to the tokens of a condition, row 1 is the separator behind them.
  const prefixTable = prefix
    ? (embed.param("prefix", [2, width], normal(initStd(width))) as tf.Tensor2D)
    : undefined;
  const positions = buildPositions(embed, config.positions, width, grid, initStd(width));
  const blocks = Array.from({ length: depth }, (_, i) =>
    buildBlock(scope.child(`block${i}`), config),
  );
  const norm = layerNorm(scope.child("head/norm"), { width });
  const head = config.tie_weights
    ? undefined
    : (scope.param("head/kernel", [width, vocabulary], normal(initStd(width))) as tf.Tensor2D);
  const headBias = scope.param("head/bias", [vocabulary], zeros);

  /** Sums of the factors' embeddings: [B, n, F] int32 to [B, n, D]. */
  function embedTokens(ids: tf.Tensor3D): tf.Tensor3D {
    const [batch, count] = ids.shape;
    if (factors.length === 1) {
      return embedding(table, tf.reshape(ids, [batch, count])) as tf.Tensor3D;
    }
    let start = 0;
    const offsets = factors.map((size) => (start += size) - size);
    const rows = tf.add(ids, tf.tensor1d(offsets, "int32")); // [B, n, F]
    return tf.sum(embedding(table, rows), 2) as tf.Tensor3D;
  }

  /** The class tokens: [B] int32 to [B, 1, D]. */
  const embedLabels = (labels: tf.Tensor1D) =>
    tf.expandDims(embedding(classTable, labels), 1) as tf.Tensor3D;

  /** Condition tokens and their separator, then the prompt: parts [B, n, D]. */
  function embedBefore({ prompts: asked, prefix: given }: Before, batch: number): tf.Tensor3D[] {
    if ((asked === undefined) !== (promptTable === undefined)) {
      throw new Error("task prompts are given to a transformer exactly if it was built with them");
    }
    const parts: tf.Tensor3D[] = [];
    if (given) {
      if (prefixTable === undefined || maskVector === undefined) {
        throw new Error("this transformer was built without a prefix");
      }
      const hide = tf.reshape(tf.cast(given.hidden, "float32"), [batch, 1, 1]);
      const shown = tf.add(
        tf.mul(embedTokens(given.ids), tf.sub(1, hide)),
        tf.mul(maskVector, hide),
      ); // [B, P, D]
      const places = tf.gather(positions(), given.places); // [P, D]
      const marked = tf.add(tf.add(shown, places), tf.slice(prefixTable, 0, 1));
      const separator = tf.tile(tf.slice(prefixTable, 1, 1), [batch, 1]); // [B, D]
      parts.push(marked as tf.Tensor3D, tf.expandDims(separator, 1) as tf.Tensor3D);
    }
    if (asked && promptTable) {
      parts.push(tf.expandDims(embedding(promptTable, asked), 1) as tf.Tensor3D);
    }
    return parts;
  }

  const run = (x: tf.Tensor3D, attend: Attend) =>
    blocks.reduce((y, block, index) => block(y, attend, index), x);

  /** Heads: [B, n, D] to [B·n, V] for each factor. */
  function logits(y: tf.Tensor3D): tf.Tensor2D[] {
    const normed = norm(tf.reshape(y, [-1, width])); // [B·n, D]
    const products = head ? tf.matMul(normed, head) : tf.matMul(normed, table, false, true);
    const all = tf.add(products, headBias) as tf.Tensor2D; // [B·n, sum of V]
    return factors.length === 1 ? [all] : tf.split(all, [...factors], 1);
  }

  return {
    config,
    space,
    scope,
    nullClass: classes,
    tokens,

    bidirectional(ids, masked, labels, before = {}) {
      if (maskVector === undefined) {
        throw new Error("this transformer was built without a [MASK] embedding");
      }
      const [batch] = ids.shape;
      const hidden = tf.expandDims(tf.cast(masked, "float32"), -1); // [B, N, 1]
      const seen = tf.mul(embedTokens(ids), tf.sub(1, hidden)); // [B, N, D]
      const filled = tf.add(tf.add(seen, tf.mul(hidden, maskVector)), positions());
      const front = [...embedBefore(before, batch), embedLabels(labels)];
      const x = tf.concat([...front, filled as tf.Tensor3D], 1); // [B, ... + 1 + N, D]
      const y = run(x, attendFully);
      return logits(tf.slice(y, [0, x.shape[1] - tokens, 0], [batch, tokens, width]));
    },

    causal(ids, labels) {
      const [batch, count, parts] = ids.shape;
      let x = embedLabels(labels); // [B, 1, D]
      if (count > 1) {
        const before = tf.slice(ids, [0, 0, 0], [batch, count - 1, parts]); // [B, N-1, F]
        x = tf.concat([x, embedTokens(before)], 1); // [B, N, D]
      }
      return logits(run(tf.add(x, positions()), attendBackward));
    },

    causalStep(previous, labels, position, cache) {
      const first = tf.cast(tf.equal(position, 0), "float32"); // [1]
      const token = embedTokens(tf.expandDims(previous, 1)); // [B, 1, D]
      const input = tf.add(tf.mul(first, embedLabels(labels)), tf.mul(tf.sub(1, first), token));
      const x = tf.add(input, tf.gather(positions(), position)) as tf.Tensor3D; // [B, 1, D]
      const left: { key: tf.Tensor4D; value: tf.Tensor4D }[] = [];
      const y = run(x, (query, key, value, block) => {
        const { mixed, ...entry } = attendCached(cache[block]!, query, key, value, position);
        left.push(entry);
        return mixed;
      });
      return { logits: logits(y), cache: left };
    },

    buildCache(batch) {
      const shape: [number, number, number, number] = [batch, heads, tokens, width / heads];
      const variable = () => {
        const initial = tf.zeros(shape);
        const made = tf.variable(initial, false);
        initial.dispose();
        return made;
      };
      return blocks.map(() => ({ key: variable(), value: variable() }));
    },
  };
}

/** What a block does with its queries, keys and values [B, h, n, d]. */
export type Attend = (
  query: tf.Tensor4D,
  key: tf.Tensor4D,
  value: tf.Tensor4D,
  block: number,
) => tf.Tensor4D;

export type TransformerBlock = (x: tf.Tensor3D, attend: Attend, index: number) => tf.Tensor3D;

const attendFully: Attend = (query, key, value) => attention(query, key, value);
const attendBackward: Attend = (query, key, value) =>
  attention(query, key, value, { causal: true });

/**
 * Put one place's key and value [B, h, 1, d] into a block's cache and attend to what is filled.
 * @param position [1] int32: the place
 * @returns the block's cache with this place, and what attention gives, [B, h, 1, d]
 */
export function attendCached(
  entry: CacheValues[number],
  query: tf.Tensor4D,
  key: tf.Tensor4D,
  value: tf.Tensor4D,
  position: tf.Tensor1D,
): { readonly key: tf.Tensor4D; readonly value: tf.Tensor4D; readonly mixed: tf.Tensor4D } {
  const keys = cacheWrite(entry.key, key, position); // [B, h, N, d]
  const values = cacheWrite(entry.value, value, position);
  return { key: keys, value: values, mixed: cachedAttention(query, keys, values, position) };
}

/** The values that a cache's variables have. */
export const cacheValues = (cache: Cache): CacheValues => cache as unknown as CacheValues;

/** Keep a cache for the next call. */
export function keepCache(cache: Cache, values: CacheValues): void {
  cache.forEach((entry, i) => {
    entry.key.assign(values[i]!.key);
    entry.value.assign(values[i]!.value);
  });
}

/** A cache under names, as a scan carries it. */
export function packCache(cache: CacheValues): { [name: string]: tf.Tensor } {
  return Object.fromEntries(
    cache.flatMap(({ key, value }, i) => [
      [`key${i}`, key],
      [`value${i}`, value],
    ]),
  );
}

export function unpackCache(entries: { readonly [name: string]: tf.Tensor }): CacheValues {
  return Array.from({ length: Object.keys(entries).length / 2 }, (_, i) => ({
    key: entries[`key${i}`] as tf.Tensor4D,
    value: entries[`value${i}`] as tf.Tensor4D,
  }));
}

/**
 * x + attention(norm(x)), then x + mlp(norm(x)). Projections back into the residual stream start
 * smaller by sqrt(2 · depth), so that the stream's variance does not grow with depth (GPT-2).
 */
export function buildBlock(scope: Scope, config: TransformerConfig): TransformerBlock {
  const { width, heads, depth, mlp_ratio } = config;
  const inner = Math.round(width * mlp_ratio);
  const residual = normal(initStd(width) / Math.sqrt(2 * depth));
  const norm1 = layerNorm(scope.child("norm1"), { width });
  const project = dense(scope.child("qkv"), {
    inputs: width,
    outputs: 3 * width,
    init: normal(initStd(width)),
  });
  const merge = dense(scope.child("merge"), { inputs: width, outputs: width, init: residual });
  const norm2 = layerNorm(scope.child("norm2"), { width });
  const up = dense(scope.child("up"), {
    inputs: width,
    outputs: inner,
    init: normal(initStd(width)),
  });
  const down = dense(scope.child("down"), { inputs: inner, outputs: width, init: residual });

  return (x, attend, index) => {
    const [batch, count] = x.shape;
    // Rows are flattened to [B·n, D]: one large product for each projection.
    let flat = tf.reshape(x, [batch * count, width]) as tf.Tensor2D;
    const qkv = tf.reshape(project(norm1(flat)), [batch, count, 3 * heads, width / heads]);
    const byHead = tf.transpose(qkv, [0, 2, 1, 3]); // [B, 3h, n, d]
    const [query, key, value] = tf.split(byHead, 3, 1) as tf.Tensor4D[];
    const mixed = tf.transpose(attend(query!, key!, value!, index), [0, 2, 1, 3]); // [B, n, h, d]
    flat = tf.add(flat, merge(tf.reshape(mixed, [batch * count, width])));
    flat = tf.add(flat, down(gelu(up(norm2(flat)))));
    return tf.reshape(flat, [batch, count, width]);
  };
}
