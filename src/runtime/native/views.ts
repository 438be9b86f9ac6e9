/**
 * @file Views: where a value's elements lie in a buffer. Transposes, slices, reversals and broadcasts only
 * change offset and strides; nothing is moved until a step needs its operand dense.
 */

import { type DType, type Shape, sameShape } from "../graph.ts";
import { sizeOf } from "../tensors.ts";
import type { Buffer } from "./program.ts";

export interface View {
  readonly buffer: Buffer;
  /** In elements from the buffer's start. */
  readonly offset: number;
  readonly shape: Shape;
  /** In elements; 0 repeats, negative reverses. */
  readonly strides: readonly number[];
  readonly dtype: DType;
  /** Pixels: int32 values kept as bytes. */
  readonly pixels?: boolean;
}

/** Bytes an element takes in memory: truth values and pixels are bytes. */
export function widthOf(view: Pick<View, "dtype" | "pixels">): 1 | 4 {
  return view.dtype === "bool" || view.pixels ? 1 : 4;
}

export function denseStrides(shape: Shape): number[] {
  const strides = shape.map(() => 1);
  for (let axis = shape.length - 2; axis >= 0; axis--) {
    strides[axis] = strides[axis + 1]! * shape[axis + 1]!;
  }
  return strides;
}

export function denseView(buffer: Buffer, shape: Shape, dtype: DType, offset = 0): View {
  return { buffer, offset, shape, strides: denseStrides(shape), dtype };
}

/** Axes of a view and how one or more sets of strides run along them. */
export interface Axes {
  readonly dims: number[];
  readonly strides: number[][];
}

/** Drop axes of one position, join neighbours that every set of strides runs through evenly. */
export function collapse(shape: Shape, ...all: (readonly number[])[]): Axes {
  const dims: number[] = [];
  const strides: number[][] = all.map(() => []);
  shape.forEach((side, axis) => {
    if (side === 1) {
      return;
    }
    const joins =
      dims.length > 0 && all.every((set, i) => strides[i]!.at(-1) === set[axis]! * side);
    if (joins) {
      dims[dims.length - 1]! *= side;
    } else {
      dims.push(side);
    }
    all.forEach((set, i) => {
      if (joins) {
        strides[i]!.pop();
      }
      strides[i]!.push(set[axis]!);
    });
  });
  return { dims, strides };
}

/** Whether the elements lie one after the other in row-major order. */
export function isDense(view: View): boolean {
  const { dims, strides } = collapse(view.shape, view.strides);
  return (
    sizeOf(view.shape) === 0 || dims.length === 0 || (dims.length === 1 && strides[0]![0] === 1)
  );
}

/** A view with the axes in another order. */
export function transposed(view: View, perm: readonly number[]): View {
  return {
    ...view,
    shape: perm.map((axis) => view.shape[axis]!),
    strides: perm.map((axis) => view.strides[axis]!),
  };
}

export function sliced(
  view: View,
  begin: readonly number[],
  size: readonly number[],
  steps: readonly number[],
): View {
  const offset = begin.reduce((sum, b, axis) => sum + b * view.strides[axis]!, view.offset);
  return {
    ...view,
    offset: size.includes(0) ? view.offset : offset,
    shape: size,
    strides: view.strides.map((stride, axis) => stride * steps[axis]!),
  };
}

/** Repeat axes of one position (and new leading ones) up to `shape`. */
export function broadcastTo(view: View, shape: Shape): View {
  const lead = shape.length - view.shape.length;
  const strides = shape.map((side, axis) => {
    const own = view.shape[axis - lead];
    return own === undefined || (own === 1 && side !== 1) ? 0 : view.strides[axis - lead]!;
  });
  return { ...view, shape, strides };
}

/** The same elements under another shape, or undefined where that would need a copy. */
export function reshaped(view: View, shape: Shape): View | undefined {
  if (sameShape(view.shape, shape)) {
    return view;
  }
  if (isDense(view)) {
    return { ...view, shape, strides: denseStrides(shape) };
  }
  // Each axis of the new shape must cut or join evenly running axes of the old one.
  const { dims, strides } = collapse(view.shape, view.strides);
  const found: number[] = [];
  let axis = 0;
  let left = dims[0] ?? 1;
  for (const side of shape) {
    if (side === 1) {
      found.push(0);
      continue;
    }
    if (left === 1) {
      axis += 1;
      left = dims[axis] ?? 1;
    }
    if (left % side !== 0) {
      return undefined;
    }
    left /= side;
    found.push(strides[0]![axis]! * left);
  }
  return { ...view, shape, strides: found };
}
