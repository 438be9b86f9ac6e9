/**
 * @file What convolutions see beyond the border: zeros, the border's pixels again (replicate), or the
 * picture mirrored at it (reflect, without repeating the border). MAGVIT (Yu et al., CVPR 2023, §3.1)
 * uses reflection so that equal content gets equal tokens near a border and far from it.
 *
 * Time of causal layers has no mirror image (it would show the future): there `reflect` repeats the
 * first frame, as `replicate` does. So does an axis that is shorter than its mirror image would be.
 */

import * as tf from "@tensorflow/tfjs-core";
import type { Pad } from "../runtime/ops.ts";

export type Border = "zero" | "reflect" | "replicate";

/** `count` copies of the first or of the last slice along an axis. */
function repeated(x: tf.Tensor5D, axis: 1 | 2 | 3, count: number, end: boolean): tf.Tensor5D {
  const begin = [0, 0, 0, 0, 0];
  begin[axis] = end ? x.shape[axis] - 1 : 0;
  const size = [...x.shape];
  size[axis] = 1;
  const slice = tf.slice(x, begin as [number, number, number, number, number], size as never);
  return (
    count === 1
      ? slice
      : tf.concat(
          Array.from({ length: count }, () => slice),
          axis,
        )
  ) as tf.Tensor5D;
}

/** `count` slices next to the border in mirrored order, the border itself left out. */
function mirrored(x: tf.Tensor5D, axis: 1 | 2 | 3, count: number, end: boolean): tf.Tensor5D {
  const side = x.shape[axis];
  const parts = Array.from({ length: count }, (_, i) => {
    const begin = [0, 0, 0, 0, 0];
    begin[axis] = end ? side - 2 - i : count - i;
    const size = [...x.shape];
    size[axis] = 1;
    return tf.slice(x, begin as [number, number, number, number, number], size as never);
  });
  return (parts.length === 1 ? parts[0]! : tf.concat(parts, axis)) as tf.Tensor5D;
}

/** `x` [B, T, H, W, C] with a border on one axis (1 time, 2 rows, 3 columns). */
export function padAxis(x: tf.Tensor5D, axis: 1 | 2 | 3, pad: Pad, border: Border): tf.Tensor5D {
  if (pad[0] === 0 && pad[1] === 0) {
    return x;
  }
  const side = (count: number, end: boolean): tf.Tensor5D[] => {
    if (count === 0) {
      return [];
    }
    if (border === "zero") {
      const shape = [...x.shape];
      shape[axis] = count;
      return [tf.zeros(shape as [number, number, number, number, number])];
    }
    const mirror = border === "reflect" && count < x.shape[axis];
    return [(mirror ? mirrored : repeated)(x, axis, count, end)];
  };
  return tf.concat([...side(pad[0], false), x, ...side(pad[1], true)], axis) as tf.Tensor5D;
}

/** The frames before the first one of a causal layer. */
export function framesBefore(x: tf.Tensor5D, count: number, border: Border): tf.Tensor5D {
  const [b, , h, w, c] = x.shape;
  return border === "zero" ? tf.zeros([b, count, h, w, c]) : repeated(x, 1, count, false);
}
