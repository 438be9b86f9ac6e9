/**
 * @file A case (case.ts) on `reference` and on another device with the same inputs, values and gradients: the
 * results must agree in shape, type and value. Opens devices when they are asked for and no others.
 */

import * as tf from "@tensorflow/tfjs-core";
import type { Device } from "../../src/runtime/device.ts";
import { type devices, openDevice } from "../../src/runtime/registry.ts";
import type { HostTensor, HostTensors } from "../../src/runtime/tensors.ts";
import { caseFunction, type KernelCase, type Measure } from "./case.ts";

const opened = new Map<string, Promise<Device>>();

/** A device of the registry; "cpu onnx" and "cpu native" name the engine too. */
export type Tested = keyof typeof devices | `cpu ${"native" | "onnx"}`;

export const opening = (tested: Tested): Promise<Device> => {
  const [type, engine] = tested.split(" ") as [keyof typeof devices, ("native" | "onnx")?];
  return type === "cpu" && engine ? openDevice({ type, engine }) : openDevice({ type });
};

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
