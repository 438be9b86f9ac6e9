/**
 * @file Kernels that enter the graph as others, so that every engine has them: dilated convolutions (a
 * filter with zeros between its taps), depthwise convolutions (groups, or a block-diagonal filter), products
 * along an axis, gradients of 3D max pooling (over the frame, then over time), symmetric padding.
 */

import * as tf from "@tensorflow/tfjs-core";
import type { Attrs, GraphTracer, Shape, Value } from "./graph.ts";
import { sizeOf } from "./tensors.ts";

function reshape(tracer: GraphTracer, x: Value, shape: Shape): Value {
  return tracer.add("Reshape", [x], {}, [{ shape, dtype: x.dtype }])[0]!;
}

function slice(
  tracer: GraphTracer,
  x: Value,
  begin: readonly number[],
  size: readonly number[],
  steps: readonly number[] = size.map(() => 1),
): Value {
  return tracer.add("Slice", [x], { begin, size, steps }, [{ shape: size, dtype: x.dtype }])[0]!;
}

function pad(
  tracer: GraphTracer,
  x: Value,
  paddings: readonly (readonly [number, number])[],
  constantValue: number,
): Value {
  const shape = x.shape.map((side, i) => side + paddings[i]![0] + paddings[i]![1]);
  return tracer.add("PadV2", [x], { paddings, constantValue }, [{ shape, dtype: x.dtype }])[0]!;
}

function multiply(tracer: GraphTracer, a: Value, b: Value): Value {
  const shape = tf.broadcast_util.assertAndGetBroadcastShape([...a.shape], [...b.shape]);
  return tracer.add("Multiply", [a, b], {}, [{ shape, dtype: a.dtype }])[0]!;
}

/** A filter with `dilations[i] - 1` zeros between the taps of its axis i; filters lead with their axes. */
export function dilatedFilter(
  tracer: GraphTracer,
  filter: Value,
  dilations: readonly number[],
): Value {
  return dilations.reduce((taps, d, axis) => {
    const side = taps.shape[axis]!;
    if (d === 1 || side === 1) {
      return taps;
    }
    const [before, after] = [taps.shape.slice(0, axis + 1), taps.shape.slice(axis + 1)];
    const apart = reshape(tracer, taps, [...before, 1, ...after]);
    const none = [0, 0] as const;
    const zeros = apart.shape.map((_, i) => (i === axis + 1 ? ([0, d - 1] as const) : none));
    const wide = reshape(tracer, pad(tracer, apart, zeros, 0), [
      ...before.slice(0, axis),
      side * d,
      ...after,
    ]);
    const size = wide.shape.map((s, i) => (i === axis ? (side - 1) * d + 1 : s));
    return slice(
      tracer,
      wide,
      size.map(() => 0),
      size,
    );
  }, filter);
}

/** Dilations of a TensorFlow.js convolution along its `rank` spatial axes. */
export function dilationsOf(attrs: Attrs, rank: number): number[] {
  const given = ([] as number[]).concat((attrs["dilations"] as number | number[] | undefined) ?? 1);
  return Array.from({ length: rank }, (_, i) => (given.length === 1 ? given[0]! : given[i]!));
}

/**
 * Products of all values up to each one along an axis, in log₂(n) multiplications of the tensor with itself
 * moved by 1, 2, 4, ... places (Hillis & Steele 1986).
 */
export function cumulativeProduct(
  tracer: GraphTracer,
  x: Value,
  axis: number,
  exclusive: boolean,
  reverse: boolean,
): Value {
  const n = x.shape[axis]!;
  /** The tensor moved by `by` places, ones in front (or behind, in reverse). */
  const moved = (y: Value, by: number): Value => {
    const size = y.shape.map((side, i) => (i === axis ? n - by : side));
    const begin = y.shape.map((_, i) => (i === axis && reverse ? by : 0));
    const paddings = y.shape.map((_, i): readonly [number, number] =>
      i === axis ? (reverse ? [0, by] : [by, 0]) : [0, 0],
    );
    return pad(tracer, slice(tracer, y, begin, size), paddings, 1);
  };
  let y = x;
  for (let by = 1; by < n; by *= 2) {
    y = multiply(tracer, y, moved(y, by));
  }
  return exclusive && n > 0 ? moved(y, 1) : y;
}

/** A tensor with reflections that repeat its border: ... 1 0 | 0 1 2 | 2 1 ... */
export function symmetricPad(
  tracer: GraphTracer,
  x: Value,
  paddings: readonly (readonly [number, number])[],
): Value {
  return paddings.reduce((y, [before, after], axis) => {
    const side = y.shape[axis]!;
    const part = (start: number, length: number): Value => {
      const size = y.shape.map((s, i) => (i === axis ? length : s));
      const begin = y.shape.map((_, i) => (i === axis ? start + length - 1 : 0));
      const steps = y.shape.map((_, i) => (i === axis ? -1 : 1));
      return slice(tracer, y, begin, size, steps);
    };
    const parts = [
      ...(before > 0 ? [part(0, before)] : []),
      y,
      ...(after > 0 ? [part(side - after, after)] : []),
    ];
    const shape = y.shape.map((s, i) => (i === axis ? before + side + after : s));
    return parts.length === 1
      ? y
      : tracer.add("Concat", parts, { axis }, [{ shape, dtype: y.dtype }])[0]!;
  }, x);
}

/**
 * The filter of a depthwise convolution [kh, kw, C, M] as that of a plain one.
 * @returns with groups [1, kh, kw, 1, C·M]; else [1, kh, kw, C, C·M], zero where channels do not meet
 */
export function depthwiseFilter(tracer: GraphTracer, filter: Value, groups: boolean): Value {
  const [kh, kw, c, m] = filter.shape as [number, number, number, number];
  if (groups) {
    return reshape(tracer, filter, [1, kh, kw, 1, c * m]);
  }
  const spread = multiply(tracer, reshape(tracer, filter, [kh, kw, c, 1, m]), diagonal(tracer, c));
  return reshape(tracer, spread, [1, kh, kw, c, c * m]);
}

/** The inverse for a gradient: what `depthwiseFilter` spread out, put together again. */
export function depthwiseGradient(tracer: GraphTracer, grad: Value, shape: Shape): Value {
  const [kh, kw, c, m] = shape as [number, number, number, number];
  if (sizeOf(grad.shape) === sizeOf(shape)) {
    return reshape(tracer, grad, shape);
  }
  const apart = reshape(tracer, grad, [kh, kw, c, c, m]);
  const own = multiply(tracer, apart, diagonal(tracer, c));
  return tracer.add("Sum", [own], { axes: [3], keepDims: false }, [
    { shape, dtype: "float32" },
  ])[0]!;
}

/** [C, C, 1]: one where channels are the same. */
function diagonal(tracer: GraphTracer, c: number): Value {
  const data = new Float32Array(c * c);
  for (let i = 0; i < c; i++) {
    data[i * (c + 1)] = 1;
  }
  return tracer.constant({ dtype: "float32", shape: [c, c, 1], data });
}
