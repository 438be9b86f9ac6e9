/**
 * @file A decoder-only transformer over one flat vocabulary with bidirectional attention over a prefix
 * (prefix LM; Raffel et al. 2020, §3.2.1; VideoPoet, Kondratyuk et al. 2024). It shares its blocks with
 * the transformer over visual tokens.
 *
 * A slot's input is the sum of its token's embedding, its place's (text position, cell of the latent
 * grid, audio frame and level) and its role's (given or made). Places are data, so one model serves
 * sequences of any make-up.
 *
 * Shapes: B batch, S slots of a sequence, P slots of its prefix, V vocabulary, D width, h heads.
 */

import * as tf from "@tensorflow/tfjs-core";
import { attention, embedding } from "../runtime/ops.ts";
import { layerNorm } from "./layers.ts";
import { buildPositions, type Positions } from "./positions.ts";
import { normal, type Scope, zeros } from "./scope.ts";
import {
  type Attend,
  attendCached,
  buildBlock,
  type Cache,
  type CacheValues,
  initStd,
  type TransformerConfig,
} from "./transformer.ts";

/** The places of each modality; place 0 is that of special tokens, then text, grid, audio. */
export interface Places {
  readonly text: number;
  readonly grid: readonly [number, number, number];
  /** Frames and levels; 0 frames without sound. */
  readonly audio: readonly [frames: number, levels: number];
  /** Channels W of a text encoder's vectors; 0 or left out where text is tokens. */
  readonly textWidth?: number;
}

/** The first place of each modality. */
export function firstPlaces({ text, grid }: Places): {
  readonly text: number;
  readonly visual: number;
  readonly audio: number;
} {
  return { text: 1, visual: 1 + text, audio: 1 + text + grid[0] * grid[1] * grid[2] };
}

/** One sequence's slots as the model takes them. */
export interface SlotTensors {
  /** [B, S] int32 */
  readonly ids: tf.Tensor2D;
  /** [B, S] int32 */
  readonly places: tf.Tensor2D;
  /** [B, S] int32: 0 given, 1 made. */
  readonly roles: tf.Tensor2D;
  /** Where text is vectors: a table [R, W] whose first row is zeros, and each slot's row [B, S] int32. */
  readonly vectors?: { readonly table: tf.Tensor2D; readonly rows: tf.Tensor2D };
}

export interface PrefixLm {
  readonly scope: Scope;
  readonly vocabulary: number;
  /**
   * Logits of the next token after each of the last `count` slots.
   * @param prefix [B] int32: slots of each prefix
   * @returns [B·count, V]
   */
  logits(slots: SlotTensors, prefix: tf.Tensor1D, count: number): tf.Tensor2D;
  /**
   * Put a prefix into the cache; its slots see each other.
   * @returns logits [B, V] of the first token after it
   */
  prefill(slots: SlotTensors, cache: Cache): tf.Tensor2D;
  /**
   * Put one token into the cache.
   * @param position [1] int32: its slot
   * @returns logits [B, V] of the token after it, and the cache with this one
   */
  step(
    slot: SlotTensors,
    position: tf.Tensor1D,
    cache: CacheValues,
  ): { readonly logits: tf.Tensor2D; readonly cache: CacheValues };
  /** A cache of `slots` slots for `batch` sequences. */
  buildCache(batch: number, slots: number): Cache;
}

/** Make the model's variables in `scope`. */
export function buildPrefixLm(
  config: TransformerConfig,
  vocabulary: number,
  places: Places,
  scope: Scope,
): PrefixLm {
  const { width, depth, heads } = config;
  const std = initStd(width);
  const embed = scope.child("embed");
  const table = embed.param("tokens", [vocabulary, width], normal(std)) as tf.Tensor2D;
  const roleTable = embed.param("roles", [2, width], normal(std)) as tf.Tensor2D;
  const { textWidth = 0 } = places;
  const textMap =
    textWidth > 0
      ? (embed.param("text/map", [textWidth, width], normal(std)) as tf.Tensor2D)
      : undefined;
  const positions = config.positions satisfies Positions;
  const parts = [
    places.text > 0
      ? (embed.param("text/positions", [places.text, width], normal(std)) as tf.Tensor2D)
      : undefined,
    buildPositions(embed.child("visual"), positions, width, places.grid, std),
    places.audio[0] > 0
      ? buildPositions(embed.child("audio"), positions, width, [...places.audio, 1], std)
      : undefined,
  ];
  const blocks = Array.from({ length: depth }, (_, i) =>
    buildBlock(scope.child(`block${i}`), config),
  );
  const norm = layerNorm(scope.child("head/norm"), { width });
  const head = config.tie_weights
    ? undefined
    : (scope.param("head/kernel", [width, vocabulary], normal(std)) as tf.Tensor2D);
  const headBias = scope.param("head/bias", [vocabulary], zeros);

  /** All place embeddings [places, D]; specials have none. */
  function placeTable(): tf.Tensor2D {
    const rows = parts.flatMap((part) =>
      part === undefined ? [] : [typeof part === "function" ? part() : part],
    );
    return tf.concat([tf.zeros<tf.Rank.R2>([1, width]), ...rows], 0);
  }

  /** [B, S] to [B, S, D]. */
  function embedSlots({ ids, places: at, roles, vectors }: SlotTensors): tf.Tensor3D {
    const placed = tf.add(embedding(table, ids), embedding(placeTable(), at));
    const sum = tf.add<tf.Tensor3D>(placed, embedding(roleTable, roles));
    if (!textMap || !vectors) {
      return sum;
    }
    const mapped = tf.matMul<tf.Tensor2D>(vectors.table, textMap); // [R, D], the first row zeros
    return tf.add(sum, embedding(mapped, vectors.rows) as tf.Tensor3D);
  }

  const run = (x: tf.Tensor3D, attend: Attend) =>
    blocks.reduce((y, block, index) => block(y, attend, index), x);

  /** The logits after the last `count` slots: [B·count, V]. */
  function readOut(y: tf.Tensor3D, count: number): tf.Tensor2D {
    const [batch, slots] = y.shape;
    const last = tf.slice(y, [0, slots - count, 0], [batch, count, width]);
    const normed = norm(tf.reshape(last, [-1, width]));
    const products = head ? tf.matMul(normed, head) : tf.matMul(normed, table, false, true);
    return tf.add(products, headBias) as tf.Tensor2D;
  }

  return {
    scope,
    vocabulary,

    logits(slots, prefix, count) {
      const [batch, length] = slots.ids.shape;
      const bias = prefixBias(prefix, batch, length);
      return readOut(
        run(embedSlots(slots), (query, key, value) => attention(query, key, value, { bias })),
        count,
      );
    },

    prefill(slots, cache) {
      const length = slots.ids.shape[1];
      const room = cache[0]!.key.shape[2]! - length;
      const y = run(embedSlots(slots), (query, key, value, block) => {
        const entry = cache[block]!;
        const padded = (x: tf.Tensor4D) =>
          tf.pad(x, [
            [0, 0],
            [0, 0],
            [0, room],
            [0, 0],
          ]);
        entry.key.assign(padded(key));
        entry.value.assign(padded(value));
        return attention(query, key, value);
      });
      return readOut(y, 1);
    },

    step(slot, position, cache) {
      const left: { key: tf.Tensor4D; value: tf.Tensor4D }[] = [];
      const y = run(embedSlots(slot), (query, key, value, block) => {
        const { mixed, ...entry } = attendCached(cache[block]!, query, key, value, position);
        left.push(entry);
        return mixed;
      });
      return { logits: readOut(y, 1), cache: left };
    },

    buildCache(batch, slots) {
      const variable = () => {
        const initial = tf.zeros([batch, heads, slots, width / heads]);
        const made = tf.variable(initial, false);
        initial.dispose();
        return made;
      };
      return blocks.map(() => ({ key: variable(), value: variable() }));
    },
  };
}

/**
 * What slot i may see: slots up to i, and the whole prefix.
 * @returns [B, 1, S, S]: 0 keeps, -1e9 hides
 */
function prefixBias(prefix: tf.Tensor1D, batch: number, length: number): tf.Tensor {
  const slots = Int32Array.from({ length }, (_, i) => i);
  const columns = tf.tensor2d(slots, [1, length], "int32");
  const given = tf.cast(tf.less(columns, tf.reshape(prefix, [batch, 1])), "float32"); // [B, S]
  const past = Float32Array.from({ length: length * length }, (_, i) =>
    Number(i % length <= Math.floor(i / length)),
  );
  const seen = tf.maximum(
    tf.reshape(given, [batch, 1, 1, length]),
    tf.tensor4d(past, [1, 1, length, length]),
  );
  return tf.mul(tf.sub(seen, 1), 1e9);
}
