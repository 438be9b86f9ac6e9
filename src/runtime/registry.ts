/** @file The devices by name, and the schema of a config's `device` node. */

import { UserError } from "../config/errors.ts";
import { closed, component, type Static, Type } from "../config/schema.ts";
import type { Device } from "./device.ts";
import type { Membership } from "./group.ts";

const cpu = closed(
  {
    type: Type.Literal("cpu"),
    engine: Type.Union([Type.Literal("auto"), Type.Literal("native"), Type.Literal("onnx")], {
      default: "auto",
      description:
        "What runs compiled functions: our own C++ engine, or ONNX Runtime. auto takes the native one where it is built; a run that goes on keeps the engine that it began with.",
    }),
    threads: Type.Integer({
      minimum: 0,
      default: 0,
      semantic: false,
      description: "Threads inside an operation; 0 takes one a core.",
    }),
  },
  { description: "Compiled functions run on the processor. The default." },
);

const reference = closed(
  { type: Type.Literal("reference") },
  { description: "TensorFlow.js in plain JavaScript: slow, the oracle of the tests." },
);

const deterministic = Type.Boolean({
  default: false,
  description:
    "Only algorithms whose sums always run in one order: the same run gives the same bits, at some cost.",
});

const precision = (description: string) =>
  Type.Union([Type.Literal("fp32"), Type.Literal("tf32"), Type.Literal("bf16")], {
    default: "fp32",
    description,
  });

const cuda = closed(
  {
    type: Type.Literal("cuda"),
    index: Type.Integer({
      minimum: 0,
      default: 0,
      semantic: false,
      description:
        "Which GPU, counted as PyTorch does. A process of a data-parallel run takes LOCAL_RANK instead.",
    }),
    precision: precision(
      "fp32; tf32: products and convolutions round their operands to 10 bits of mantissa; bf16: products, convolutions and attention in bfloat16, norms, softmax, losses, sums and the optimizer in float32, as in PyTorch's autocast.",
    ),
    cuda_graph: Type.Boolean({
      default: true,
      semantic: false,
      description: "Capture each compiled function as a CUDA graph after two calls, and replay it.",
    }),
    deterministic,
  },
  {
    description:
      "Compiled functions run on an NVIDIA GPU by the PyTorch that the addon was built against (npm run build:torch).",
  },
);

const torchCpu = closed(
  {
    type: Type.Literal("torch-cpu"),
    threads: Type.Integer({
      minimum: 0,
      default: 0,
      semantic: false,
      description: "Threads inside an operation; 0 takes PyTorch's own choice.",
    }),
    precision: precision("As for cuda; on a processor mainly to try bf16 out."),
    deterministic,
  },
  { description: "As cuda, on the processor: for tests and for machines without ONNX Runtime." },
);

const tfjsNode = closed(
  { type: Type.Literal("tfjs-node") },
  { description: "TensorFlow's C library, eager; needs the package @tensorflow/tfjs-node." },
);

const tfjsNodeGpu = closed(
  { type: Type.Literal("tfjs-node-gpu") },
  {
    description:
      "TensorFlow's C library on an NVIDIA GPU, eager; needs the package @tensorflow/tfjs-node-gpu.",
  },
);

export const devices = {
  cpu: { schema: cpu },
  reference: { schema: reference },
  cuda: { schema: cuda },
  "torch-cpu": { schema: torchCpu },
  "tfjs-node": { schema: tfjsNode },
  "tfjs-node-gpu": { schema: tfjsNodeGpu },
} as const;

export const deviceSchema = component("devices", devices, "Where tensors are computed.");
export type DeviceConfig = Static<typeof deviceSchema>;

/** What `openDevice` takes: a config's node, or a part of one whose other keys have their defaults. */
export type DeviceChoice = {
  [K in DeviceConfig["type"]]: { readonly type: K } & Partial<Extract<DeviceConfig, { type: K }>>;
}[DeviceConfig["type"]];

/**
 * Open a device and make it the active one. Engines are loaded only when asked for.
 * @param membership of a data-parallel training, which the device is to take part in
 */
export async function openDevice(config: DeviceChoice, membership?: Membership): Promise<Device> {
  if (membership && config.type !== "cuda" && config.type !== "torch-cpu") {
    throw new UserError(
      `the device ${config.type} cannot train with ${membership.world} processes`,
      "data-parallel training needs device.type=cuda, or torch-cpu; unset WORLD_SIZE to train alone",
    );
  }
  switch (config.type) {
    case "reference": {
      const { openReferenceDevice } = await import("./reference.ts");
      return openReferenceDevice();
    }
    case "cuda":
    case "torch-cpu": {
      const { openTorchDevice } = await import("./torch/device.ts");
      return openTorchDevice(config, membership);
    }
    case "tfjs-node":
    case "tfjs-node-gpu": {
      const { openTfjsNodeDevice } = await import("./tfjs-node.ts");
      return openTfjsNodeDevice(config.type);
    }
    case "cpu": {
      const options = config.threads === undefined ? {} : { threads: config.threads };
      const { engine = "auto" } = config;
      if (engine !== "onnx") {
        const { findAddon } = await import("./native/addon.ts");
        if (engine === "native" || findAddon().addon) {
          const { openNativeDevice } = await import("./native/device.ts");
          return openNativeDevice(options);
        }
      }
      const { openCpuDevice } = await import("./onnx/device.ts");
      return openCpuDevice(options);
    }
  }
}
