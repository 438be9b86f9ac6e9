/**
 * @file Tensors of a file that somebody else wrote: their names, shapes and types are known at once,
 * their values are read when asked for. What every reader of this folder gives.
 */

import { UserError } from "../../config/errors.ts";
import { type HostTensor, sizeOf } from "../tensors.ts";

/** One tensor of a weight file. */
export interface StoredTensor {
  /** The element type as the file's format calls it, e.g. "F16". */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Its values: real numbers as float32, whole ones as int32, booleans and bytes as they are. */
  read(): HostTensor;
}

/** The tensors of one file, by the names they have there. */
export interface Weights {
  /** What was read, for messages: usually the path. */
  readonly source: string;
  /** e.g. "safetensors", "PyTorch zip". */
  readonly format: string;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** Frees what `read` needs (an open file). */
  close(): void;
}

/** Tensors that are in memory already, as weights. */
export function weightsOf(
  tensors: Iterable<readonly [name: string, tensor: HostTensor]>,
  source = "memory",
): Weights {
  return {
    source,
    format: "memory",
    tensors: new Map(
      Array.from(tensors, ([name, tensor]) => [
        name,
        { dtype: tensor.dtype, shape: tensor.shape, read: () => tensor },
      ]),
    ),
    close: () => undefined,
  };
}

/** Several files as one, e.g. a trunk and the heads on it. Throws a UserError when two hold one name. */
export function mergeWeights(parts: readonly Weights[]): Weights {
  const tensors = new Map<string, StoredTensor>();
  for (const part of parts) {
    for (const [name, tensor] of part.tensors) {
      if (tensors.has(name)) {
        throw new UserError(
          `the tensor "${name}" is in ${part.source} and in another of the files given`,
          "give each file once",
        );
      }
      tensors.set(name, tensor);
    }
  }
  return {
    source: parts.map(({ source }) => source).join(" and "),
    format: [...new Set(parts.map(({ format }) => format))].join(" and "),
    tensors,
    close: () => {
      for (const part of parts) {
        part.close();
      }
    },
  };
}

/**
 * Values in another order of axes: axis i of the result is axis `perm[i]` of `values`.
 * @param shape of `values`
 */
export function permuted(
  values: Float32Array,
  shape: readonly number[],
  perm: readonly number[],
): Float32Array {
  const rank = shape.length;
  const strides = shape.map((_, axis) => sizeOf(shape.slice(axis + 1)));
  const sides = perm.map((axis) => shape[axis]!);
  const steps = perm.map((axis) => strides[axis]!);
  const out = new Float32Array(values.length);
  const at = shape.map(() => 0);
  let from = 0;
  for (let i = 0; i < out.length; i++) {
    out[i] = values[from]!;
    // Count up like an odometer, the last axis fastest.
    for (let axis = rank - 1; axis >= 0; axis--) {
      at[axis]! += 1;
      from += steps[axis]!;
      if (at[axis]! < sides[axis]!) {
        break;
      }
      from -= steps[axis]! * sides[axis]!;
      at[axis] = 0;
    }
  }
  return out;
}
