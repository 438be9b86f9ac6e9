/**
 * @file Device "reference": TensorFlow.js's own CPU backend, eager and slow. It shares no compiler with
 * the other devices, so it is what their tests compare with.
 */

import * as tf from "@tensorflow/tfjs-core";
import "./tfjs.ts";
import type { Compiled, Device, Traceable } from "./device.ts";
import { setHints } from "./hints.ts";
import type { HostDType, HostTensor, HostTensors } from "./tensors.ts";

export async function openReferenceDevice(): Promise<Device> {
  setHints();
  await tf.setBackend("cpu");
  await tf.ready();
  return {
    type: "reference",
    info: {
      type: "reference",
      description: `TensorFlow.js ${tf.version_core} in plain JavaScript (slow)`,
    },
    activate: () => {
      setHints();
      void tf.setBackend("cpu"); // done at once: the backend exists
    },
    compile: (name, fn) => eagerFunction(name, fn),
    dispose: () => {},
  };
}

/** Runs `fn` at once on the active TensorFlow.js backend; also what other eager devices do. */
export function eagerFunction(name: string, fn: Traceable): Compiled {
  const call = async (inputs: HostTensors): Promise<HostTensors> => {
    const outputs: { [name: string]: tf.Tensor } = {};
    tf.tidy(() => {
      const tensors = Object.fromEntries(
        Object.entries(inputs).map(([key, tensor]) => [key, toTensor(tensor)]),
      );
      for (const [key, tensor] of Object.entries(fn(tensors))) {
        outputs[key] = tf.keep(tf.clone(tensor));
      }
    });
    const results: { [name: string]: HostTensor } = {};
    for (const [key, tensor] of Object.entries(outputs)) {
      const data = (await tensor.data()) as Float32Array | Int32Array | Uint8Array;
      results[key] = { dtype: tensor.dtype as HostDType, shape: tensor.shape, data: data.slice() };
      tensor.dispose();
    }
    return results;
  };
  return Object.defineProperty(call, "name", { value: name }) as Compiled;
}

/** A copy: a variable may keep the tensor, and the caller may reuse the array. */
function toTensor({ dtype, shape, data }: HostTensor): tf.Tensor {
  return dtype === "uint8"
    ? tf.tensor(Int32Array.from(data), [...shape], "int32")
    : tf.tensor(data.slice(), [...shape], dtype);
}
