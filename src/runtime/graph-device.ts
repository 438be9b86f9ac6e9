/**
 * @file A device that traces and computes nothing: it keeps the graphs of the functions that are called on
 * it and gives zeros. For looking at what a model becomes.
 */

import * as tf from "@tensorflow/tfjs-core";
import { BACKEND, tesseraBackend } from "./backend.ts";
import { compiledFunction } from "./compiled.ts";
import type { Device } from "./device.ts";
import type { Graph } from "./graph.ts";
import { SCAN } from "./scan.ts";
import { type HostTensors, sizeOf } from "./tensors.ts";
import { traceFunction } from "./trace.ts";

/** The device, and the graphs of all functions that were called, in the order of their first calls. */
export async function openGraphDevice(
  features?: ReadonlySet<string>,
): Promise<{ readonly device: Device; readonly graphs: readonly Graph[] }> {
  tesseraBackend();
  const graphs: Graph[] = [];
  await tf.setBackend(BACKEND);
  await tf.ready();
  const device: Device = {
    type: "graph",
    info: { type: "graph", description: "traces functions and computes nothing" },
    loops: features?.has(SCAN) === true,
    activate: () => {
      void tf.setBackend(BACKEND); // done at once: the backend exists
    },
    compile: (name, fn) =>
      compiledFunction(
        name,
        (inputs) => {
          const { graph } = traceFunction(name, fn, inputs, features);
          graphs.push(graph);
          return Promise.resolve(graph);
        },
        (graph) => Promise.resolve(zeros(graph)),
      ),
    dispose: () => {},
  };
  return { device, graphs };
}

function zeros({ outputs }: Graph): HostTensors {
  return Object.fromEntries(
    outputs.map(({ name, value: { dtype, shape } }) => {
      const size = sizeOf(shape);
      const data =
        dtype === "float32"
          ? new Float32Array(size)
          : dtype === "int32"
            ? new Int32Array(size)
            : new Uint8Array(size);
      return [name, { dtype, shape, data }];
    }),
  );
}
