/**
 * @file Devices "cuda" and "torch-cpu": graphs handed once to an addon over libtorch (native/torch/), which
 * runs them with PyTorch's own kernels. Variables live on the device: their host values are fetched only
 * when somebody reads them, and sent only after somebody has changed them.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../../config/errors.ts";
import { BACKEND, tesseraBackend } from "../backend.ts";
import { setRanks } from "../collective.ts";
import { compiledFunction } from "../compiled.ts";
import type { Device, Traceable } from "../device.ts";
import { setHints } from "../hints.ts";
import type { DType } from "../graph.ts";
import type { HostTensor, HostTensors } from "../tensors.ts";
import { type InputSpec, type Traced, traceFunction } from "../trace.ts";
import { type Group, type Membership, openGroup } from "../group.ts";
import { orderCollectives } from "./collectives.ts";
import { fewRows } from "./few-rows.ts";
import { fuse } from "./fuse.ts";
import { sumInGelu } from "./gelu-sums.ts";
import { writeInPlace } from "./in-place.ts";
import { TORCH_FEATURES, TORCH_RULES } from "./lowering.ts";
import {
  type Addon,
  loadAddon,
  type NativeBody,
  type NativeBuffer,
  type NativePlan,
  type NativeProgram,
} from "./native.ts";
import { carryInPlace, outOfLoops } from "./loops.ts";
import { addInNorms } from "./residual-norms.ts";
import { separate } from "./fixed.ts";
import { padInNorms } from "./padded-norms.ts";
import {
  lastUses,
  type Plan,
  plannerFor,
  type Precision,
  type Slot,
  type Type,
  withoutDead,
} from "./plan.ts";

export interface TorchOptions {
  readonly type: "cuda" | "torch-cpu";
  /** Which GPU. */
  readonly index?: number;
  readonly precision?: Precision;
  /** Replay compiled functions as CUDA graphs. */
  readonly cuda_graph?: boolean;
  /** Only algorithms whose sums always run in one order. */
  readonly deterministic?: boolean;
  /** Threads of torch-cpu; 0 takes PyTorch's own choice. */
  readonly threads?: number;
}

interface Executable {
  readonly traced: Traced;
  /** Absent where there is nothing to compute: no outputs and no new states. */
  readonly program?: NativeProgram;
}

const HOST_TYPES = { float32: "f32", int32: "i32", bool: "bool", uint8: "u8" } as const;

/** A plan as it is run. */
export function optimised(
  plan: Plan,
  { fused, cuda }: { readonly fused: boolean; readonly cuda: boolean },
): Plan {
  const finished = (part: Plan): Plan => {
    const instructions = part.instructions.map((each) =>
      each.body ? { ...each, body: finished(carryInPlace(each.body)) } : each,
    );
    const whole = { ...part, instructions };
    const normed = sumInGelu(addInNorms(cuda ? padInNorms(whole) : whole));
    return fused ? writeInPlace(fuse(normed)) : normed;
  };
  const outside = carryInPlace(fewRows(outOfLoops(withoutDead(plan))));
  return orderCollectives(separate(outside, finished));
}

/** @param membership of a data-parallel training: the device joins the others' */
export async function openTorchDevice(
  options: TorchOptions,
  membership?: Membership,
): Promise<Device> {
  const addon = loadAddon();
  const index = membership?.localRank ?? options.index ?? 0;
  const { type, precision = "fp32", deterministic = false, threads = 0 } = options;
  const cuda = type === "cuda";
  // The variable is for tests of the generated kernels on a processor (TESSERA_EMULATE=1 npm run build:torch).
  const fused = cuda || process.env["TESSERA_EMULATE"] === "1";
  const graph = cuda && (options.cuda_graph ?? true);
  const opened = openEngine(addon, {
    cuda,
    index,
    tf32: precision === "tf32",
    deterministic,
    threads,
  });
  const { engine } = opened;
  const group = membership && (await joinGroup(addon, membership, cuda, index));
  setRanks(group);
  const features = group ? new Set([...TORCH_FEATURES, "TesseraAllReduce"]) : TORCH_FEATURES;
  const backend = tesseraBackend();
  const owner = {}; // whose buffers the variables' are

  async function build(
    name: string,
    fn: Traceable,
    inputs: readonly InputSpec[],
  ): Promise<Executable> {
    const traced = traceFunction(name, fn, inputs, features);
    const { outputs, states } = traced.graph;
    if (outputs.length === 0 && states.every((state) => !state.next)) {
      return { traced };
    }
    const planner = plannerFor(traced.graph, precision);
    planner.lower(TORCH_RULES);
    const plan = planner.finish();
    return {
      traced,
      program: addon.load(engine, nativePlan(optimised(plan, { fused, cuda }), graph)),
    };
  }

  /** The device's buffer of a variable, its values sent there unless they are there already. */
  function bufferOf(variable: tf.Variable): NativeBuffer {
    return backend.remoteState(variable, owner, (values, shape, dtype) => {
      const made = addon.buffer(engine, { shape, type: HOST_TYPES[dtype as DType] }, values);
      return {
        handle: made,
        read: (into) => addon.read(made, into),
        write: (from) => addon.write(made, from),
      };
    }) as NativeBuffer;
  }

  async function execute(
    { traced, program }: Executable,
    inputs: HostTensors,
  ): Promise<HostTensors> {
    if (!program) {
      return {};
    }
    const { graph: traceGraph, variables } = traced;
    const given = traceGraph.inputs.map(({ name }) => {
      const { data, dtype } = inputs[name]!;
      return { data, type: HOST_TYPES[dtype] as Type };
    });
    for (const [i, { next }] of traceGraph.states.entries()) {
      if (next) {
        backend.detach(variables[i]!);
      }
    }
    const buffers = variables.map(bufferOf);
    let results: ArrayBuffer[];
    try {
      const running = addon.run(program, given, buffers);
      results = await (group ? outlive(running, group) : running);
    } catch (error) {
      throw explain(error, traceGraph.name);
    }
    for (const [i, { next }] of traceGraph.states.entries()) {
      if (next) {
        backend.remoteChanged(variables[i]!.dataId);
      }
    }
    return Object.fromEntries(
      traceGraph.outputs.map(({ name, value }, i) => {
        const data = fromBytes(results[i]!, value.dtype);
        return [name, { dtype: value.dtype, shape: value.shape, data }];
      }),
    );
  }

  // Launching a kernel costs more than cache misses: all parameters as one vector.
  const hints = fused ? { packSize: 2 ** 31 - 1 } : undefined;
  setHints(hints);
  const device: Device = {
    type,
    loops: true,
    info: {
      type,
      description: `PyTorch ${opened.version} on ${opened.name}, ${precision}${deterministic ? ", deterministic" : ""}`,
    },
    activate: () => {
      setHints(hints);
      void tf.setBackend(BACKEND); // done at once: the backend exists
    },
    compile: (name, fn) => compiledFunction(name, (inputs) => build(name, fn, inputs), execute),
    memory: () => {
      const [now, most] = addon.memory(engine, false);
      return { now, most };
    },
    ...(group && { group }),
    dispose: () => {},
  };
  await tf.setBackend(BACKEND);
  await tf.ready();
  return device;
}

/** Join the other ranks. Whoever dies takes the others along, whatever their devices wait for. */
async function joinGroup(
  addon: Addon,
  membership: Membership,
  cuda: boolean,
  index: number,
): Promise<Group> {
  const { rank, world, host, port, external } = membership;
  const group = await openGroup(membership, (note) => {
    try {
      const backend = cuda ? "nccl" : "gloo";
      return addon.join({ backend, rank, world, host, port, external, seconds: 300, note, index });
    } catch (error) {
      const reason = error instanceof Error ? error.message.split("\n")[0] : String(error);
      throw new UserError(
        `rank ${rank} could not join the ${world} ranks at ${host}:${port}: ${reason}`,
        "all ranks must be started within five minutes and reach MASTER_ADDR; the port must be free",
        { cause: error },
      );
    }
  });
  group.lost.catch(() => addon.abandon(20, 2));
  // Libraries that hold connections are not taken apart: they might wait for those who are gone.
  process.once("exit", (code) => addon.abandon(0, code));
  return group;
}

/** What a call gives, or why it never will: a rank that died, rather than what that does to the others. */
async function outlive<T>(running: Promise<T>, { lost }: Group): Promise<T> {
  try {
    return await Promise.race([running, lost]);
  } catch (error) {
    // A broken connection may be noticed before its reason is.
    const patience = new Promise<never>((_, reject) => setTimeout(reject, 2000, error));
    return await Promise.race([lost, patience]);
  }
}

function openEngine(
  addon: Addon,
  options: Parameters<Addon["open"]>[0],
): ReturnType<Addon["open"]> {
  try {
    return addon.open(options);
  } catch (error) {
    const reason = error instanceof Error ? error.message.split("\n")[0] : String(error);
    throw new UserError(
      `the device ${options.cuda ? "cuda" : "torch-cpu"} cannot be opened: ${reason}`,
      options.cuda
        ? "use a machine with an NVIDIA GPU and a PyTorch for CUDA (then npm run build:torch), or device=cpu"
        : "use device=cpu",
      { cause: error },
    );
  }
}

function fromBytes(bytes: ArrayBuffer, dtype: DType): HostTensor["data"] {
  return dtype === "float32"
    ? new Float32Array(bytes)
    : dtype === "int32"
      ? new Int32Array(bytes)
      : new Uint8Array(bytes);
}

/** The plan as plain numbers, with what each instruction frees. */
export function nativePlan(plan: Plan, graph: boolean): NativePlan {
  return { ...nativeBody(plan), graph };
}

function nativeBody(plan: Plan): NativeBody {
  const frees = lastUses(plan);
  const spec = ({ shape, type }: Slot) => ({ shape, type });
  return {
    name: plan.name,
    slots: plan.slots,
    instructions: plan.instructions.map((instruction, k) => ({
      op: instruction.op,
      inputs: instruction.inputs.map(({ id }) => id),
      outputs: instruction.outputs.map(({ id }) => id),
      specs: instruction.outputs.filter((slot) => !slot.opaque).map(spec),
      ints: instruction.ints,
      floats: instruction.floats,
      text: instruction.text,
      where: instruction.where,
      fixed: instruction.fixed === true,
      ...(instruction.body && { body: nativeBody(instruction.body) }),
      free: frees[k]!.map(({ id }) => id),
    })),
    inputs: plan.inputs.map(({ slot }) => ({ slot: slot.id, ...spec(slot) })),
    constants: plan.constants.map(({ slot, data }) => ({ slot: slot.id, ...spec(slot), data })),
    states: plan.states.map(({ slot, next }) => ({ slot: slot.id, next: next ? next.id : -1 })),
    outputs: plan.outputs.map(({ slot, type }) => ({ slot: slot.id, shape: slot.shape, type })),
  };
}

function explain(error: unknown, name: string): Error {
  if (error instanceof UserError) {
    return error;
  }
  const message = error instanceof Error ? error.message : String(error);
  if (/out of memory|can't allocate memory|bad_alloc/i.test(message)) {
    return new UserError(
      `out of memory in the compiled function "${name}": ${message.split("\n")[0]}`,
      "lower the batch size, the clip's size or the model's width, or use precision: bf16",
      { cause: error },
    );
  }
  return new Error(`the compiled function "${name}" failed in PyTorch: ${message}`, {
    cause: error,
  });
}
