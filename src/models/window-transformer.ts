/**
 * @file The transformer of super-resolution in token space (VideoPoet, Kondratyuk et al. 2024, §3.4):
 * bidirectional over the tokens of the large clip, with attention in windows along one axis after the
 * other (multi-axis: vertical, horizontal, temporal, by turns), cross-attention to the tokens of the
 * small clip in the windows that lie at the same place, and cross-attention to a text.
 *
 * A window of the large grid and the window of the small one that covers the same pixels are attended
 * together, so the cost of both grows linearly with the clip. A window of [0, 0, 0] is the whole grid:
 * full attention, to compare with. The small grid's positions are the means of those of the tokens they
 * cover, and the keys of the small tokens start as the queries' own projection, so that attention begins
 * at the token beneath.
 *
 * Shapes: B batch, N tokens, M tokens of the small clip, L words, F factors, V vocabulary of a factor,
 * D width, h heads, n positions of a window, m those of its partner.
 */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, Type } from "../config/schema.ts";
import { attention, depthToSpace3d, embedding, gelu } from "../runtime/ops.ts";
import { Random } from "../runtime/random.ts";
import { dense, layerNorm } from "./layers.ts";
import { buildPositions } from "./positions.ts";
import { type Initializer, normal, type Scope, zeros } from "./scope.ts";
import { sizeProperties, tieProperty } from "./sizes.ts";
import { initStd, tokenCount } from "./transformer.ts";
import { fromWindows, toWindows, windowOn } from "./windows.ts";

export const windowTransformerSchema = closed(
  {
    type: Type.Literal("window-transformer", {
      description:
        "Attention in windows, with cross-attention to a small clip and a text (VideoPoet).",
    }),
    ...sizeProperties("token", "Number of blocks; they take the windows by turns."),
    ...tieProperty,
    windows: Type.Array(Type.Array(Type.Integer({ minimum: 0 }), { minItems: 3, maxItems: 3 }), {
      minItems: 1,
      default: [
        [1, 0, 4],
        [1, 4, 0],
        [0, 4, 4],
      ],
      description:
        "Sides (frames, rows, columns) in tokens of the windows of the first block, the second, ...; 0 is the whole side. [[0, 0, 0]] attends to everything.",
    }),
    low_input: Type.Boolean({
      default: false,
      description:
        "Besides cross-attention, each small token is added to the input of the tokens that it covers, by a linear map for each of their places; the papers' networks have cross-attention alone.",
    }),
  },
  { description: "Sizes of the transformer of super-resolution." },
);
export type WindowTransformerConfig = Static<typeof windowTransformerSchema>;

type Grid = readonly [number, number, number];

/** What it is built for. */
export interface WindowSpace {
  readonly grid: Grid;
  readonly factors: readonly number[];
  /** The grid of the small clip's tokens; left out, there is none. */
  readonly low?: Grid;
  /** The words of a text and how many a text has at most; left out, there is no text. */
  readonly text?: { readonly size: number; readonly length: number };
}

/** What stands beside the tokens. */
export interface Beside {
  /** Small clips: ids [B, M, F] int32; `hidden` [B] bool, samples that are not shown theirs. */
  readonly low?: { readonly ids: tf.Tensor3D; readonly hidden: tf.Tensor1D };
  /** Texts: ids [B, L] int32, -1 behind their ends; `hidden` [B] bool. */
  readonly text?: { readonly ids: tf.Tensor2D; readonly hidden: tf.Tensor1D };
}

export interface WindowTransformer {
  readonly scope: Scope;
  readonly space: WindowSpace;
  readonly tokens: number;
  /**
   * Traceable: logits of every token given those that are not masked.
   * @param ids [B, N, F] int32; values at masked positions have no influence
   * @param masked [B, N] bool
   * @returns for each factor [B·N, V]
   */
  predict(ids: tf.Tensor3D, masked: tf.Tensor2D, beside: Beside): tf.Tensor2D[];
}

/** The partner of a window on the small grid. */
export function lowWindow(grid: Grid, low: Grid, window: Grid): Grid {
  return window.map((side, axis) => (side * low[axis]!) / grid[axis]!) as unknown as Grid;
}

/** Windows that do not tile the grids, in the words of the config. */
export function checkMultiAxis(
  config: Pick<WindowTransformerConfig, "windows">,
  grid: Grid,
  low: Grid | undefined,
): { path: string; message: string; hint: string }[] {
  return config.windows.flatMap((wanted, i) => {
    const used = windowOn(grid, wanted);
    const tiles = grid.every((side, axis) => side % used[axis]! === 0);
    const partner = low && lowWindow(grid, low, used);
    const paired = partner?.every((side) => Number.isInteger(side)) ?? true;
    return tiles && paired
      ? []
      : [
          {
            path: `windows[${i}]`,
            message: tiles
              ? `a window of ${used.join("×")} covers ${partner!.join("×")} of the ${low!.join("×")} tokens of the small clip`
              : `windows of ${used.join("×")} do not tile the grid of ${grid.join("×")}`,
            hint: tiles
              ? "use even sides along rows and columns, or 0 for a whole side"
              : "use sides that divide the grid's, or 0 for a whole side",
          },
        ];
  });
}

/** Make the variables in `scope` and return the network. */
export function buildWindowTransformer(
  config: WindowTransformerConfig,
  space: WindowSpace,
  scope: Scope,
): WindowTransformer {
  const { width, depth } = config;
  const { grid, factors, low, text } = space;
  for (const { path, message, hint } of checkMultiAxis(config, grid, low)) {
    throw new RangeError(`${path}: ${message}; ${hint}`);
  }
  const std = initStd(width);
  const vocabulary = factors.reduce((sum, size) => sum + size, 0);
  const embed = scope.child("embed");
  const table = embed.param("tokens", [vocabulary, width], normal(std)) as tf.Tensor2D;
  const maskVector = embed.param("mask", [width], normal(std));
  // Louder than the tokens: where a query stands decides which small token it is to find.
  const positions = buildPositions(embed, config.positions, width, grid, 3 * std);
  const lowTable = low && (embed.param("low", [2, width], normal(std)) as tf.Tensor2D);
  const lowNorm = low && layerNorm(scope.child("low/norm"), { width });
  const covered = low ? grid.map((side, axis) => side / low[axis]!) : [];
  const spread =
    low && config.low_input
      ? dense(scope.child("low/spread"), {
          inputs: width,
          outputs: width * covered.reduce((product, side) => product * side, 1),
          init: normal(std),
        })
      : undefined;
  // One row more than there are words: what stands behind a text's end, and for a hidden text.
  const words = text && (embed.param("words", [text.size + 1, width], normal(std)) as tf.Tensor2D);
  const places = text && embed.param("places", [text.length, width], normal(std));
  const textNorm = text && layerNorm(scope.child("text/norm"), { width });
  const blocks = Array.from({ length: depth }, (_, i) => {
    const window = windowOn(grid, config.windows[i % config.windows.length]!);
    return buildWindowBlock(scope.child(`block${i}`), config, space, window);
  });
  const norm = layerNorm(scope.child("head/norm"), { width });
  const head = config.tie_weights
    ? undefined
    : (scope.param("head/kernel", [width, vocabulary], normal(std)) as tf.Tensor2D);
  const headBias = scope.param("head/bias", [vocabulary], zeros);

  const embedTokens = (ids: tf.Tensor3D): tf.Tensor3D => {
    let start = 0;
    const offsets = factors.map((size) => (start += size) - size);
    return tf.sum(embedding(table, tf.add(ids, tf.tensor1d(offsets, "int32"))), 2) as tf.Tensor3D;
  };

  /** The small clip's tokens as keys and values are made of: [B, M, F] to [B, M, D]. */
  function lowStates({ ids, hidden }: NonNullable<Beside["low"]>): tf.Tensor3D {
    const [batch] = ids.shape;
    const hide = tf.reshape(tf.cast(hidden, "float32"), [batch, 1, 1]);
    const own = tf.add(embedTokens(ids), tf.slice(lowTable!, 0, 1));
    const shown = tf.add(tf.mul(own, tf.sub(1, hide)), tf.mul(tf.slice(lowTable!, 1, 1), hide));
    return lowNorm!(tf.add(shown, pooled(positions(), grid, low!))) as tf.Tensor3D;
  }

  /** Texts: [B, L] to [B, L, D]. */
  function textStates({ ids, hidden }: NonNullable<Beside["text"]>): tf.Tensor3D {
    const end = tf.scalar(text!.size, "int32");
    const gone = tf.logicalOr(tf.less(ids, 0), tf.expandDims(hidden, 1));
    const rows = tf.where(gone, tf.mul(tf.onesLike(ids), end), ids);
    return textNorm!(tf.add(embedding(words!, rows), places!)) as tf.Tensor3D;
  }

  return {
    scope,
    space,
    tokens: tokenCount(space),
    predict(ids, masked, beside) {
      if ((beside.low !== undefined) !== (low !== undefined)) {
        throw new Error(
          "small clips are given to a window transformer exactly if it was built with",
        );
      }
      const hidden = tf.expandDims(tf.cast(masked, "float32"), -1); // [B, N, 1]
      const seen = tf.mul(embedTokens(ids), tf.sub(1, hidden)); // [B, N, D]
      const small = beside.low && lowStates(beside.low);
      let y = tf.add(tf.add(seen, tf.mul(hidden, maskVector)), positions()) as tf.Tensor3D;
      if (small && spread) {
        const cells = tf.reshape(spread(small), [small.shape[0], ...low!, -1]) as tf.Tensor5D;
        const beneath = depthToSpace3d(cells, covered as [number, number, number]); // [B, t, h, w, D]
        y = tf.add(y, tf.reshape(beneath, y.shape));
      }
      const given = {
        ...(small && { low: small }),
        ...(beside.text && text && { text: textStates(beside.text) }),
      };
      for (const block of blocks) {
        y = block(y, given);
      }
      const normed = norm(tf.reshape(y, [-1, width])); // [B·N, D]
      const products = head ? tf.matMul(normed, head) : tf.matMul(normed, table, false, true);
      const all = tf.add(products, headBias) as tf.Tensor2D; // [B·N, sum of V]
      return factors.length === 1 ? [all] : tf.split(all, [...factors], 1);
    },
  };
}

/** Means of position embeddings [N, D] over the tokens that each one of the small grid covers: [M, D]. */
function pooled(positions: tf.Tensor2D, [t, h, w]: Grid, [lt, lh, lw]: Grid): tf.Tensor2D {
  const width = positions.shape[1];
  const cells = tf.reshape(positions, [lt, t / lt, lh, h / lh, lw, (w / lw) * width]);
  const rows = tf.mean(tf.mean(cells, 3), 1); // [lt, lh, lw, (w/lw)·D]
  return tf.mean(tf.reshape(rows, [lt * lh * lw, w / lw, width]), 1);
}

type Given = { readonly low?: tf.Tensor3D; readonly text?: tf.Tensor3D };

/** One block: self-attention and cross-attentions in its windows, then the MLP, each with a norm. */
function buildWindowBlock(
  scope: Scope,
  config: WindowTransformerConfig,
  { grid, low, text }: WindowSpace,
  window: Grid,
): (x: tf.Tensor3D, given: Given) => tf.Tensor3D {
  const { width, heads, depth, mlp_ratio } = config;
  const side = width / heads;
  const inner = Math.round(width * mlp_ratio);
  const plain = normal(initStd(width));
  const residual = normal(initStd(width) / Math.sqrt(2 * depth));
  const linear = (name: string, inputs: number, outputs: number, init = plain) =>
    dense(scope.child(name), { inputs, outputs, init });
  const norm1 = layerNorm(scope.child("norm1"), { width });
  const project = linear("qkv", width, 3 * width);
  const merge = linear("merge", width, width, residual);
  const norm2 = layerNorm(scope.child("norm2"), { width });
  const up = linear("up", width, inner);
  const down = linear("down", inner, width, residual);
  const partner = low && lowWindow(grid, low, window);
  const lowCross = low && buildCross("low", true);
  const textCross = text && buildCross("text", false);

  /** Rows [b, n, k·D] as k·h heads: [b, k·h, n, d]. */
  const byHead = (rows: tf.Tensor3D, count: number): tf.Tensor4D =>
    tf.transpose(
      tf.reshape(rows, [rows.shape[0], rows.shape[1], count * heads, side]),
      [0, 2, 1, 3],
    ) as tf.Tensor4D;
  /** And back: [b, h, n, d] to [b, n, D]. */
  const joined = (mixed: tf.Tensor4D): tf.Tensor3D =>
    tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [mixed.shape[0], mixed.shape[2], width]);
  /** [B, N, C] to windows [B·W, n, C] of a grid, and back. */
  const cut = (x: tf.Tensor3D, of: Grid, by: Grid): tf.Tensor3D =>
    toWindows(tf.reshape(x, [x.shape[0], ...of, x.shape[2]]) as tf.Tensor5D, by);
  const paste = (x: tf.Tensor3D, batch: number): tf.Tensor3D =>
    tf.reshape(fromWindows(x, grid, window), [batch, -1, width]);

  /** Queries from the stream, keys and values from what stands beside it. */
  function buildCross(name: string, aligned: boolean) {
    const norm = layerNorm(scope.child(`${name}/norm`), { width });
    // 1.5 times louder: the scores of equal places then stand out by a few units.
    const sharp = normal(1.5 * initStd(width));
    const start = () => new Random(scope.seed, `${scope.prefix}${name}/aligned`);
    const same: Initializer = (shape) => sharp(shape, start());
    const keysSame: Initializer = ([rows, columns], random) => {
      const keys = sharp([rows!, columns! / 2], start());
      const values = plain([rows!, columns! / 2], random);
      return Float32Array.from({ length: rows! * columns! }, (_, i) => {
        const [row, column] = [Math.floor(i / columns!), i % columns!];
        const half = columns! / 2;
        return column < half ? keys[row * half + column]! : values[row * half + column - half]!;
      });
    };
    const query = linear(`${name}/query`, width, width, aligned ? same : plain);
    const keyValue = linear(`${name}/kv`, width, 2 * width, aligned ? keysSame : plain);
    const back = linear(`${name}/merge`, width, width, residual);
    return { norm, query, keyValue, back };
  }

  return (x, given) => {
    const [batch] = x.shape;
    const qkv = cut(project(norm1(x)) as tf.Tensor3D, grid, window);
    const [query, key, value] = tf.split(byHead(qkv, 3), 3, 1) as tf.Tensor4D[];
    const own = joined(attention(query!, key!, value!)); // [B·W, n, D]
    let y = tf.add(x, merge(paste(own, batch))) as tf.Tensor3D;
    if (lowCross && given.low) {
      const asked = byHead(cut(lowCross.query(lowCross.norm(y)) as tf.Tensor3D, grid, window), 1);
      const states = cut(lowCross.keyValue(given.low) as tf.Tensor3D, low!, partner!); // [B·W, m, 2·D]
      const [keys, values] = tf.split(byHead(states, 2), 2, 1) as tf.Tensor4D[];
      const found = joined(attention(asked, keys!, values!));
      y = tf.add(y, lowCross.back(paste(found, batch)));
    }
    if (textCross && given.text) {
      const asked = byHead(textCross.query(textCross.norm(y)) as tf.Tensor3D, 1);
      const states = byHead(textCross.keyValue(given.text) as tf.Tensor3D, 2);
      const [keys, values] = tf.split(states, 2, 1) as tf.Tensor4D[];
      y = tf.add(y, textCross.back(joined(attention(asked, keys!, values!))));
    }
    return tf.add(y, down(gelu(up(norm2(y))))) as tf.Tensor3D;
  };
}
