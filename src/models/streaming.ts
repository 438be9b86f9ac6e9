/**
 * @file Streaming of causal networks: a clip of any length goes through piece by piece, and each layer
 * that looks back in time keeps the few frames that the next piece needs. The pieces' outputs joined
 * are those of the whole clip.
 *
 * Layers know of it in one place: `leadFrames`, what stands in front of their first frame. Within
 * `withStream` that is the frames kept from the piece before (zeros or copies for the first piece);
 * outside it is the padding of a whole clip.
 */

import * as tf from "@tensorflow/tfjs-core";

/** The frames that layers keep from one piece to the next, in the order in which layers ask. */
export interface Stream {
  /** Whether this piece is the beginning of the clip. */
  readonly first: boolean;
  /** From the piece before; empty for the first. */
  readonly kept: readonly tf.Tensor[];
  /** For the next piece; filled while the network runs. */
  readonly keeps: tf.Tensor[];
}

let active: Stream | undefined;

/** Run a network on one piece of a stream. */
export function withStream<T>(stream: Stream, run: () => T): T {
  const before = active;
  active = stream;
  try {
    return run();
  } finally {
    active = before;
  }
}

/** Whether the present piece begins its clip; always so outside of streams. */
export function atBeginning(): boolean {
  return active?.first ?? true;
}

/** Whether a stream is under way. */
export function streaming(): boolean {
  return active !== undefined;
}

/**
 * `x` with what a causal layer sees before its first frame: `kernel` - 1 frames at the beginning of a
 * clip, later what the piece before left.
 * @param x [B, T, H, W, C], of a length that the layer's stride takes a whole number of times (plus
 *   one at the beginning of a clip)
 * @param begin the `count` frames before the beginning of a clip
 */
export function leadFrames(
  x: tf.Tensor5D,
  kernel: number,
  stride: number,
  begin: (count: number) => tf.Tensor5D,
): tf.Tensor5D {
  const front: tf.Tensor5D[] = [];
  const carried = Math.max(kernel - stride, 0);
  if (atBeginning()) {
    if (kernel > 1) {
      front.push(begin(kernel - 1));
    }
  } else if (carried > 0) {
    front.push(active!.kept[active!.keeps.length] as tf.Tensor5D);
  }
  const joined = front.length > 0 ? (tf.concat([...front, x], 1) as tf.Tensor5D) : x;
  if (active && carried > 0) {
    const [b, t, h, w, c] = joined.shape;
    active.keeps.push(tf.slice(joined, [0, t - carried, 0, 0, 0], [b, carried, h, w, c]));
  }
  if (!atBeginning() && kernel < stride) {
    // A window that is shorter than its step begins some frames into the piece.
    const [b, t, h, w, c] = joined.shape;
    return tf.slice(joined, [0, stride - kernel, 0, 0, 0], [b, t - stride + kernel, h, w, c]);
  }
  return joined;
}

/**
 * All that a layer of attention looks back at: the rows of the pieces before, and those of this one.
 * What is kept grows with the clip.
 * @param rows [..., n, d], one row a step in time
 */
export function wholePast<T extends tf.Tensor>(rows: T): T {
  if (!active) {
    return rows;
  }
  const kept = active.kept[active.keeps.length];
  const joined = active.first || !kept ? rows : (tf.concat([kept, rows], rows.rank - 2) as T);
  active.keeps.push(joined);
  return joined;
}

/** Steps in time that came before this piece; 0 outside of streams. @param count steps of this piece */
export function stepsBefore(count: number): number {
  if (!active) {
    return 0;
  }
  const before = active.first ? 0 : active.kept[active.keeps.length]!.size;
  active.keeps.push(tf.zeros([before + count])); // its length is the message
  return before;
}
