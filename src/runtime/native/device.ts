/**
 * @file The native engine of device `cpu`: compiled functions run as programs of our own C++ addon. States
 * are written in place where the plan allows it, else into a second buffer that takes turns with the first.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../../config/errors.ts";
import { BACKEND, tesseraBackend, type Values } from "../backend.ts";
import { compiledFunction } from "../compiled.ts";
import { usableCores } from "../cores.ts";
import type { Device, Traceable } from "../device.ts";
import type { Graph } from "../graph.ts";
import { SCAN } from "../scan.ts";
import { type HostTensor, type HostTensors, sizeOf } from "../tensors.ts";
import { type InputSpec, type Traced, traceFunction } from "../trace.ts";
import { type Addon, findAddon, type Program } from "./addon.ts";
import { lowerGraph, type Rule } from "./lowering.ts";
import { movingRules } from "./moving-rules.ts";
import { networkRules, overwriting } from "./network-rules.ts";
import { POINTWISE } from "./pointwise-nodes.ts";
import { productRules } from "./product-rules.ts";
import { printProfile } from "./profile.ts";
import type { Plan } from "./program.ts";
import { reductionRules } from "./reduction-rules.ts";
import { scanInPlace, scanRule } from "./scan-rule.ts";
import { VIEW_OPS } from "./uses.ts";

const RULES: { readonly [op: string]: Rule } = {
  ...movingRules,
  ...reductionRules,
  ...productRules,
  ...networkRules,
  Scan: scanRule,
};

/** Every node that this engine runs. */
export const NATIVE_NODES: readonly string[] = [
  ...new Set([...Object.keys(POINTWISE), ...VIEW_OPS, ...Object.keys(RULES)]),
];

/** Kernels of Tessera's that not every engine has. */
export const FEATURES: ReadonlySet<string> = new Set([
  "TesseraCacheWrite",
  "TesseraCachedAttention",
  "TesseraAdamW",
  "TesseraBarrier",
  SCAN,
  "groups",
]);

interface Executable {
  readonly traced: Traced;
  readonly program: Program;
  readonly plan: Plan;
  readonly inPlace: readonly boolean[];
  calls: number;
}

/** Open the device with the native engine. Throws a UserError where it is not built. */
export async function openNativeDevice({
  threads = 0,
}: {
  readonly threads?: number;
} = {}): Promise<Device> {
  tesseraBackend();
  const { addon, missing } = findAddon();
  if (!addon) {
    throw new UserError(missing, "or use device.engine=onnx, which is slower");
  }
  const count = threads > 0 ? threads : usableCores();
  const profiled = process.env["TESSERA_PROFILE"] === "1";
  const executables = new Set<Executable>();

  const build = async (
    name: string,
    fn: Traceable,
    inputs: readonly InputSpec[],
  ): Promise<Executable> => {
    const traced = traceFunction(name, fn, inputs, FEATURES);
    const { plan, inPlace } = planGraph(traced.graph, addon, count, profiled);
    const program = addon.create(plan);
    const executable = { traced, program, plan, inPlace, calls: 0 };
    executables.add(executable);
    return executable;
  };

  const device: Device = {
    type: "cpu",
    loops: true,
    info: {
      type: "cpu",
      engine: "native",
      description: `native engine (${addon.about()}), ${count} thread${count === 1 ? "" : "s"}`,
    },
    activate: () => {
      void tf.setBackend(BACKEND); // done at once: the backend exists
    },
    compile: (name, fn) =>
      compiledFunction(
        name,
        (inputs) => build(name, fn, inputs),
        (executable, inputs) => execute(addon, executable, inputs),
      ),
    dispose: () => {
      if (profiled) {
        for (const { traced, program, plan, calls } of executables) {
          printProfile(traced.graph.name, plan, addon.steps(), addon.profile(program), calls);
        }
      }
      executables.clear();
    },
  };
  await tf.setBackend(BACKEND);
  await tf.ready();
  return device;
}

/** The plan of a graph, and which of its states are written in place. */
export function planGraph(
  graph: Graph,
  addon: Pick<Addon, "steps" | "instructions">,
  threads: number,
  profile: boolean,
): { readonly plan: Plan; readonly inPlace: readonly boolean[] } {
  const { builder, inPlace } = lowerGraph(graph, {
    rules: RULES,
    overwriting: { ...overwriting, Scan: scanInPlace },
    instructions: addon.instructions(),
  });
  return { plan: builder.finish(addon.steps(), threads, profile), inPlace };
}

function emptyArray(
  dtype: HostTensor["dtype"],
  size: number,
): Float32Array | Int32Array | Uint8Array {
  return dtype === "float32"
    ? new Float32Array(size)
    : dtype === "int32"
      ? new Int32Array(size)
      : new Uint8Array(size);
}

async function execute(
  addon: Addon,
  executable: Executable,
  inputs: HostTensors,
): Promise<HostTensors> {
  const { traced, program, inPlace } = executable;
  const { graph, variables } = traced;
  const backend = tesseraBackend();
  const states: Values[] = [];
  const nexts: Values[] = [];
  graph.states.forEach(({ next }, i) => {
    const variable = variables[i]!;
    if (!next) {
      states.push(backend.peekState(variable.dataId));
      nexts.push(emptyArray("float32", 0));
      return;
    }
    backend.detach(variable);
    if (inPlace[i]) {
      states.push(backend.ownState(variable.dataId));
      nexts.push(emptyArray("float32", 0));
    } else {
      const buffers = backend.takeState(variable.dataId);
      states.push(buffers.current);
      nexts.push(buffers.next);
    }
  });
  const outputs = graph.outputs.map(({ value }) => emptyArray(value.dtype, sizeOf(value.shape)));
  const given = graph.inputs.map(({ name }) => inputs[name]!.data);
  try {
    await addon.run(program, given, states, nexts, outputs);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw new Error(
      `the compiled function "${graph.name}" failed in the native engine: ${message}`,
      {
        cause: error,
      },
    );
  }
  executable.calls += 1;
  graph.states.forEach(({ next }, i) => {
    if (next && !inPlace[i]) {
      backend.putState(variables[i]!.dataId);
    }
  });
  return Object.fromEntries(
    graph.outputs.map(({ name, value }, i) => [
      name,
      { dtype: value.dtype, shape: value.shape, data: outputs[i]! },
    ]),
  );
}
