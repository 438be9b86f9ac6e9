/** @file The devices that a machine has, for tests that must hold on each. */

import type * as tf from "@tensorflow/tfjs-core";
import type { Device } from "../../src/runtime/device.ts";
import { type DeviceConfig, openDevice } from "../../src/runtime/registry.ts";
import type { HostTensor, HostTensors } from "../../src/runtime/tensors.ts";

/** Devices by name; those that cannot be opened here are left out, with the reason printed. */
const candidates: readonly (readonly [string, DeviceConfig])[] = [
  ["reference", { type: "reference" }],
  ["cpu native", { type: "cpu", engine: "native", threads: 1 }],
  ["cpu onnx", { type: "cpu", engine: "onnx", threads: 1 }],
  ["torch-cpu", { type: "torch-cpu" } as DeviceConfig],
  ["cuda", { type: "cuda" } as DeviceConfig],
];

/** @param what who asks, for the printed reason */
export async function devicesHere(
  what: string,
): Promise<(readonly [name: string, config: DeviceConfig])[]> {
  const found: (readonly [string, DeviceConfig])[] = [];
  for (const [name, config] of candidates) {
    try {
      (await openDevice(config)).dispose();
      found.push([name, config]);
    } catch (error) {
      process.stderr.write(`${what}: no ${name}: ${(error as Error).message.split("\n")[0]}\n`);
    }
  }
  return found;
}

/** Run a function of one tensor once, compiled. */
export async function runOnce(
  device: Device,
  name: string,
  f: (x: tf.Tensor) => { readonly [name: string]: tf.Tensor },
  x: HostTensor,
): Promise<HostTensors> {
  device.activate();
  return device.compile(name, (inputs) => f(inputs["x"]!))({ x });
}

/**
 * A golden that remembers what is read of it.
 * @returns the golden, and the paths of values (all but `doc` and `shapes`) that nothing has read yet
 */
export function watched<T extends object>(whole: T): { golden: T; unread: () => string[] } {
  const read = new Set<string>();
  const plain = (value: unknown): value is { [key: string]: unknown } =>
    typeof value === "object" && value !== null && !Array.isArray(value);
  const view = (value: object, path: string): object =>
    new Proxy(value, {
      get(target, key) {
        const inner: unknown = Reflect.get(target, key);
        const at = `${path}/${String(key)}`;
        if (plain(inner)) {
          return view(inner, at);
        }
        read.add(at);
        return inner;
      },
    });
  const leaves = (value: unknown, path: string): string[] =>
    plain(value)
      ? Object.entries(value).flatMap(([key, inner]) =>
          key === "doc" || key === "shapes" ? [] : leaves(inner, `${path}/${key}`),
        )
      : [path];
  return {
    golden: view(whole, "") as T,
    unread: () => leaves(whole, "").filter((path) => !read.has(path)),
  };
}
