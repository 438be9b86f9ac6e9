/**
 * @file Device "cpu": compiled functions run by ONNX Runtime (onnxruntime-node). Parameters stay in
 * two buffers each that take turns, so a step reads one and writes the other and nothing is copied.
 */

import * as tf from "@tensorflow/tfjs-core";
import type ortTypes from "onnxruntime-node";
import { UserError } from "../../config/errors.ts";
import { BACKEND, tesseraBackend } from "../backend.ts";
import { compiledFunction } from "../compiled.ts";
import { usableCores } from "../cores.ts";
import type { Device, Traceable } from "../device.ts";
import type { Graph } from "../graph.ts";
import { setHints } from "../hints.ts";
import type { HostDType, HostTensor, HostTensors } from "../tensors.ts";
import { type InputSpec, type Traced, traceFunction } from "../trace.ts";
import { GraphBuilder } from "./builder.ts";
import { loadOrt, type Ort } from "./library.ts";
import { attentionRules } from "./attention.ts";
import { convolutionRules } from "./convolution.ts";
import { elementwiseRules } from "./elementwise.ts";
import { lowerGraph, type Rule } from "./lowering.ts";
import { normRules } from "./norms.ts";
import { reductionRules } from "./reductions.ts";
import { resamplingRules } from "./resampling.ts";
import { shapingRules } from "./shaping.ts";

/** Every kernel this device runs. */
export const ONNX_RULES: { readonly [op: string]: Rule } = {
  ...elementwiseRules,
  ...shapingRules,
  ...reductionRules,
  ...normRules,
  ...attentionRules,
  ...convolutionRules,
  ...resamplingRules,
};

/** The library, once a device has been opened. */
let ort: Ort;

interface Executable {
  readonly traced: Traced;
  /** Absent where there is nothing to compute: no outputs and no new states. */
  readonly session?: ortTypes.InferenceSession;
}

export interface CpuOptions {
  /** Threads inside an operation; 0 takes one a core. */
  readonly threads?: number;
}

/** Open the compiled CPU device. */
export async function openCpuDevice({ threads = 0 }: CpuOptions = {}): Promise<Device> {
  ort = await loadOrt("the device cpu's engine onnx needs");
  tesseraBackend();
  setHints();
  const count = threads > 0 ? threads : usableCores();
  const options: ortTypes.InferenceSession.SessionOptions = {
    intraOpNumThreads: count,
    interOpNumThreads: 1,
    executionMode: "sequential",
    graphOptimizationLevel: "basic",
    logSeverityLevel: 3,
    // Threads that spin while they wait stall each other when the machine has other work; and
    // arithmetic on denormal numbers is a hundred times slower than on zero.
    extra: { session: { intra_op: { allow_spinning: "0" }, set_denormal_as_zero: "1" } },
  };
  const blockSize = await blockedConvolutions(options);
  const sessions = new Set<ortTypes.InferenceSession>();

  async function build(
    name: string,
    fn: Traceable,
    inputs: readonly InputSpec[],
  ): Promise<Executable> {
    const traced = traceFunction(name, fn, inputs);
    const { outputs, states } = traced.graph;
    if (outputs.length === 0 && states.every((state) => !state.next)) {
      return { traced };
    }
    const model = lowerGraph(traced.graph, ONNX_RULES, { blockSize });
    const session = await ort.InferenceSession.create(model, options);
    sessions.add(session);
    return { traced, session };
  }

  const device: Device = {
    type: "cpu",
    info: {
      type: "cpu",
      engine: "onnx",
      description: `ONNX Runtime ${ort.env.versions.node ?? ""}, ${count} thread${count === 1 ? "" : "s"}${blockSize > 1 ? `, convolutions in blocks of ${blockSize} channels` : ""}`,
    },
    activate: () => {
      setHints();
      void tf.setBackend(BACKEND); // done at once: the backend exists
    },
    compile: (name, fn) => compiledFunction(name, (inputs) => build(name, fn, inputs), execute),
    dispose: () => {
      for (const session of sessions) {
        void session.release();
      }
      sessions.clear();
    },
  };
  await tf.setBackend(BACKEND);
  await tf.ready();
  return device;
}

type OrtType = "float32" | "int32" | "bool" | "uint8";

function ortTensor(
  dtype: HostDType,
  data: HostTensor["data"],
  shape: readonly number[],
): ortTypes.Tensor {
  return new ort.Tensor(dtype as OrtType, data as Float32Array, shape);
}

async function execute({ traced, session }: Executable, inputs: HostTensors): Promise<HostTensors> {
  const { graph, variables } = traced;
  const backend = tesseraBackend();
  if (!session) {
    return {};
  }
  const feeds: { [name: string]: ortTypes.Tensor } = {};
  const fetches: { [name: string]: ortTypes.Tensor | null } = {};
  const present = new Set(session.inputNames);
  graph.inputs.forEach(({ name }, i) => {
    if (present.has(`input${i}`)) {
      const { dtype, data, shape } = inputs[name]!;
      feeds[`input${i}`] = ortTensor(dtype, data, shape);
    }
  });
  graph.states.forEach(({ value, next }, i) => {
    if (next) {
      backend.detach(variables[i]!);
    }
    const { dataId } = variables[i]!;
    if (next) {
      const buffers = backend.takeState(dataId);
      feeds[`state${i}`] = ortTensor(value.dtype, buffers.current, value.shape);
      fetches[`next${i}`] = ortTensor(value.dtype, buffers.next, value.shape);
    } else {
      feeds[`state${i}`] = ortTensor(value.dtype, backend.peekState(dataId), value.shape);
    }
  });
  graph.outputs.forEach((_, i) => {
    fetches[`output${i}`] = null;
  });
  let results: ortTypes.InferenceSession.OnnxValueMapType;
  try {
    results = await session.run(feeds, fetches);
  } catch (error) {
    throw explain(error, graph);
  }
  graph.states.forEach(({ next }, i) => {
    if (next) {
      backend.putState(variables[i]!.dataId);
    }
  });
  return Object.fromEntries(
    graph.outputs.map(({ name, value }, i) => {
      const tensor = results[`output${i}`] as ortTypes.Tensor;
      return [name, { dtype: value.dtype, shape: value.shape, data: tensor.data as Float32Array }];
    }),
  );
}

function explain(error: unknown, graph: Graph): Error {
  const message = error instanceof Error ? error.message : String(error);
  if (/alloc|memory/i.test(message)) {
    return new UserError(
      `out of memory in the compiled function "${graph.name}": ${message}`,
      "lower the batch size, the clip's size or the model's width",
      { cause: error },
    );
  }
  return new Error(`the compiled function "${graph.name}" failed in ONNX Runtime: ${message}`, {
    cause: error,
  });
}

/**
 * The channel block of ONNX Runtime's blocked convolutions on this machine (16 with AVX-512, 8 with
 * AVX2), found by reordering channels that hold their own number; 1 when the operators are missing.
 */
async function blockedConvolutions(
  options: ortTypes.InferenceSession.SessionOptions,
): Promise<number> {
  const channels = 64;
  const g = new GraphBuilder("probe");
  g.input("x", "float32", [1, channels, 1, 2]);
  g.op("Nchwc:ReorderInput", ["x"], {}, "y");
  g.output("y", "float32", [1, channels, 1, 2]);
  try {
    const session = await ort.InferenceSession.create(g.finish(), options);
    const x = Float32Array.from({ length: channels * 2 }, (_, i) => Math.floor(i / 2));
    const { y } = await session.run({ x: new ort.Tensor("float32", x, [1, channels, 1, 2]) });
    await session.release();
    const values = y!.data as Float32Array;
    const block = values.findIndex((value, i) => i > 0 && value === 0);
    return block === 8 || block === 16 ? block : 1;
  } catch {
    return 1;
  }
}
