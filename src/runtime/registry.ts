/** @file The devices by name, and the schema of a config's `device` node. */

import { closed, component, type Static, Type } from "../config/schema.ts";
import type { Device } from "./device.ts";

const cpu = closed(
  {
    type: Type.Literal("cpu"),
    threads: Type.Integer({
      minimum: 0,
      default: 0,
      semantic: false,
      description: "Threads inside an operation; 0 takes one a core.",
    }),
  },
  { description: "Compiled functions run by ONNX Runtime on the processor. The default." },
);

const reference = closed(
  { type: Type.Literal("reference") },
  { description: "TensorFlow.js in plain JavaScript: slow, the oracle of the tests." },
);

export const devices = { cpu: { schema: cpu }, reference: { schema: reference } } as const;

export const deviceSchema = component("devices", devices, "Where tensors are computed.");
export type DeviceConfig = Static<typeof deviceSchema>;

/** Open a device and make it the active one. Engines are loaded only when asked for. */
export async function openDevice(config: {
  readonly type: "cpu" | "reference";
  readonly threads?: number;
}): Promise<Device> {
  if (config.type === "reference") {
    const { openReferenceDevice } = await import("./reference.ts");
    return openReferenceDevice();
  }
  const { openCpuDevice } = await import("./onnx/device.ts");
  return openCpuDevice(config.threads === undefined ? {} : { threads: config.threads });
}
