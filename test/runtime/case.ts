/**
 * @file A case of a kernel: a function of tensors with its inputs, and inputs that depend on a label alone.
 * Cases are held against `reference` on every device (harness.ts), and tell which nodes a kernel becomes
 * (scripts/kernel-table.ts).
 */

import * as tf from "@tensorflow/tfjs-core";
import type { TensorMap, Traceable } from "../../src/runtime/device.ts";
import { conv3d } from "../../src/runtime/ops.ts";
import { Random } from "../../src/runtime/random.ts";
import {
  float32,
  type HostTensor,
  type HostTensors,
  int32,
  sizeOf,
} from "../../src/runtime/tensors.ts";

export type Tensors = { readonly [name: string]: tf.Tensor };

/**
 * What an error is relative to: "each" value; each value or 1, whichever is larger ("unit"); or the
 * largest of the "whole" tensor (default), which is right for sums whose terms cancel.
 */
export type Measure = "each" | "unit" | "whole";

export interface KernelCase {
  readonly name: string;
  readonly inputs: HostTensors;
  readonly run: (inputs: Tensors) => tf.Tensor | readonly tf.Tensor[];
  /** Names of float32 inputs to differentiate a weighted sum of all float32 outputs by. */
  readonly gradients?: readonly string[];
  /** Allowed error; default 1e-5. */
  readonly tolerance?: number;
  readonly relativeTo?: Measure;
}

/** Standard normal values that depend on the label alone. */
export function normals(label: string, shape: readonly number[], scale = 1): HostTensor {
  const values = new Random(7, `test/${label}`).normals(sizeOf(shape));
  return float32(
    shape,
    values.map((x) => x * scale),
  );
}

/** Uniform values in [low, high). */
export function uniforms(
  label: string,
  shape: readonly number[],
  low: number,
  high: number,
): HostTensor {
  const values = new Random(7, `test/${label}`).uniforms(sizeOf(shape));
  return float32(
    shape,
    values.map((x) => low + x * (high - low)),
  );
}

/** Uniform integers in [low, high). */
export function integers(
  label: string,
  shape: readonly number[],
  low: number,
  high: number,
): HostTensor {
  const random = new Random(7, `test/${label}`);
  return int32(
    shape,
    Array.from({ length: sizeOf(shape) }, () => low + random.int(high - low)),
  );
}

/**
 * The same values after a convolution that changes nothing. On a compiled device they then lie in the
 * convolution's layout, so what follows is tested in that layout.
 */
export function afterConvolution(x: tf.Tensor): tf.Tensor {
  const channels = x.shape.at(-1)!;
  const kernel = new Float32Array(9 * channels * channels);
  for (let c = 0; c < channels; c++) {
    kernel[4 * channels * channels + c * channels + c] = 1;
  }
  const clip = x.shape.length === 4 ? tf.expandDims(x, 1) : x;
  const pads = [
    [0, 0],
    [1, 1],
    [1, 1],
  ] as const;
  const filter = tf.tensor(kernel, [1, 3, 3, channels, channels]) as tf.Tensor5D;
  return tf.reshape(conv3d(clip as tf.Tensor5D, filter, { pads }), x.shape);
}

/** Fixed weights of different sizes, so that no error hides in a sum. */
function weightsLike(x: tf.Tensor, salt: number): tf.Tensor {
  const values = Float32Array.from({ length: x.size }, (_, i) => Math.cos(1.7 * i + salt) + 0.2);
  return tf.tensor(values, x.shape);
}

/** The case as one function: its outputs, and the gradients of their weighted sum. */
export function caseFunction({ run, gradients = [] }: KernelCase): Traceable {
  const outputsOf = (inputs: Tensors): readonly tf.Tensor[] => {
    const out = run(inputs);
    return Array.isArray(out) ? (out as tf.Tensor[]) : [out as tf.Tensor];
  };
  return (inputs) => {
    const results: TensorMap = {};
    if (gradients.length > 0) {
      const differentiated = tf.grads((...values: tf.Tensor[]) => {
        const given = Object.fromEntries(gradients.map((name, i) => [name, values[i]!]));
        const terms = outputsOf({ ...inputs, ...given })
          .filter((y) => y.dtype === "float32")
          .map((y, i) => tf.sum(tf.mul(y, weightsLike(y, i))));
        return tf.addN(terms);
      });
      const found = differentiated(gradients.map((name) => inputs[name]!));
      gradients.forEach((name, i) => {
        results[`gradient of ${name}`] = found[i]!;
      });
    }
    outputsOf(inputs).forEach((y, i) => {
      results[`output ${i}`] = y;
    });
    return results;
  };
}
