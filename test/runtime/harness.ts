/**
 * @file What the tests of devices share: a case is a function of tensors with its inputs; it runs on
 * `reference` and on another device with the same inputs, values and gradients, and the results must
 * agree in shape, type and value.
 */

import * as tf from "@tensorflow/tfjs-core";
import type { Device, TensorMap, Traceable } from "../../src/runtime/device.ts";
import { conv3d } from "../../src/runtime/ops.ts";
import { Random } from "../../src/runtime/random.ts";
import { devices, openDevice } from "../../src/runtime/registry.ts";
import {
  type HostTensor,
  type HostTensors,
  float32,
  int32,
  sizeOf,
} from "../../src/runtime/tensors.ts";

const opened = new Map<string, Promise<Device>>();

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

/** A device of the registry; "cpu onnx" and "cpu native" name the engine too. */
export type Tested = keyof typeof devices | `cpu ${"native" | "onnx"}`;

const opening = (tested: Tested): Promise<Device> => {
  const [type, engine] = tested.split(" ") as [keyof typeof devices, ("native" | "onnx")?];
  return type === "cpu" && engine ? openDevice({ type, engine }) : openDevice({ type });
};

/**
 * Devices, with each of their engines, that are held against `reference`: those that can be opened here;
 * the others say why not.
 */
export const TESTED: readonly Tested[] = await openable();

async function openable(): Promise<Tested[]> {
  const found: Tested[] = ["cpu onnx"];
  for (const tested of ["cpu native", "torch-cpu", "cuda", "tfjs-node", "tfjs-node-gpu"] as const) {
    try {
      opened.set(tested, Promise.resolve(await opening(tested)));
      found.push(tested);
    } catch (error) {
      process.stderr.write(`not tested on ${tested}: ${(error as Error).message}\n`);
    }
  }
  return found;
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

/** Run the cases on a device that is open already. */
export function useDevice(type: Tested, ready: Device): void {
  opened.set(type, Promise.resolve(ready));
}

/** A device, opened once for the whole file and made the active one. */
export async function device(type: Tested): Promise<Device> {
  let found = opened.get(type);
  if (!found) {
    found = opening(type);
    opened.set(type, found);
  }
  const ready = await found;
  ready.activate();
  return ready;
}

/** Run a case on a device. */
export async function evaluate(type: Tested, kernelCase: KernelCase): Promise<HostTensors> {
  const on = await device(type);
  const results = await on.compile(kernelCase.name, caseFunction(kernelCase))(kernelCase.inputs);
  // Gradients of sums over nothing and the like leave tensors behind on the eager device.
  tf.disposeVariables();
  return results;
}

const known = new WeakMap<KernelCase, Promise<HostTensors>>();

/** What `reference` makes of a case; computed once for all devices. */
function expected(kernelCase: KernelCase): Promise<HostTensors> {
  const found = known.get(kernelCase) ?? evaluate("reference", kernelCase);
  known.set(kernelCase, found);
  return found;
}

/** Run a case on `reference` and on another device: what differs, or "". */
export async function disagreement(type: Tested, kernelCase: KernelCase): Promise<string> {
  const want = await expected(kernelCase);
  const got = await evaluate(type, kernelCase);
  const { tolerance = 1e-5, relativeTo = "whole" } = kernelCase;
  if (Object.keys(got).join() !== Object.keys(want).join()) {
    return `the outputs are ${Object.keys(got).join(", ")}, expected ${Object.keys(want).join(", ")}`;
  }
  return Object.entries(want)
    .map(([name, expected]) => [name, compare(got[name]!, expected, tolerance, relativeTo)])
    .filter(([, message]) => message !== "")
    .map(([name, message]) => `${name}: ${message}`)
    .join("\n");
}

/** What differs, or "". */
export function compare(
  got: HostTensor,
  want: HostTensor,
  tolerance: number,
  relativeTo: Measure = "whole",
): string {
  if (got.dtype !== want.dtype || got.shape.join() !== want.shape.join()) {
    return `expected ${want.dtype} [${want.shape.join()}], got ${got.dtype} [${got.shape.join()}]`;
  }
  if (got.data.length !== want.data.length) {
    return `expected ${want.data.length} values, got ${got.data.length}`;
  }
  const exact = want.dtype !== "float32";
  let largest = 0;
  for (const value of want.data) {
    largest = Number.isFinite(value) ? Math.max(largest, Math.abs(value)) : largest;
  }
  for (let i = 0; i < want.data.length; i++) {
    const a = got.data[i]!;
    const b = want.data[i]!;
    if (a === b || (Number.isNaN(a) && Number.isNaN(b))) {
      continue;
    }
    const size = { each: Math.abs(b), unit: Math.max(1, Math.abs(b)), whole: largest }[relativeTo];
    // 1e-37: the smallest normal float32; ONNX Runtime may flush what is below to zero.
    if (exact || !(Math.abs(a - b) <= tolerance * size + 1e-37)) {
      return `value ${i} of [${want.shape.join()}] is ${a}, expected ${b} (largest ${largest})`;
    }
  }
  return "";
}
