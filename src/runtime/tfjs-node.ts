/**
 * @file Devices "tfjs-node" and "tfjs-node-gpu": TensorFlow's C library through TensorFlow.js's own
 * packages, eager. The packages are not dependencies: whoever wants one installs it.
 */

import * as tf from "@tensorflow/tfjs-core";
import "./tfjs.ts";
import { UserError } from "../config/errors.ts";
import type { Device } from "./device.ts";
import { eagerFunction } from "./reference.ts";

export async function openTfjsNodeDevice(type: "tfjs-node" | "tfjs-node-gpu"): Promise<Device> {
  const name = `@tensorflow/${type}`;
  let version = "";
  try {
    const loaded = (await import(name)) as {
      readonly version?: { readonly [part: string]: string };
    };
    version = loaded.version?.["tfjs-core"] ?? "";
    if (!(await tf.setBackend("tensorflow"))) {
      throw new Error("its backend does not start");
    }
    await tf.ready();
  } catch (error) {
    const reason = error instanceof Error ? error.message.split("\n")[0] : String(error);
    throw new UserError(
      `the device ${type} cannot be opened: ${reason}`,
      `install its package (npm install ${name}; its binary comes from storage.googleapis.com${type === "tfjs-node-gpu" ? ", and it needs CUDA 11" : ""}), or use device=cpu`,
      { cause: error },
    );
  }
  return {
    type,
    info: { type, description: `TensorFlow by ${name} ${version}, eager` },
    activate: () => {
      void tf.setBackend("tensorflow"); // done at once: the backend exists
    },
    compile: (label, fn) => eagerFunction(label, fn),
    dispose: () => {},
  };
}
