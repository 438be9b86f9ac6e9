/** @file Traces a function into a graph: runs it once on tensors that have shapes and no values. */

import * as tf from "@tensorflow/tfjs-core";
import {
  BACKEND,
  bindVariable,
  randomnessError,
  tesseraBackend,
  unbindVariables,
  valueOf,
} from "./backend.ts";
import type { TensorMap, Traceable } from "./device.ts";
import { type Graph, GraphTracer, type Value } from "./graph.ts";
import type { HostDType } from "./tensors.ts";
import { TURN } from "./loops.ts";
import { whileTracing } from "./tracing.ts";

/** Shape and type of one input, as the caller hands it in. */
export interface InputSpec {
  readonly name: string;
  readonly dtype: HostDType;
  readonly shape: readonly number[];
}

/** A traced function: its graph and the variables that its states are, in the graph's order. */
export interface Traced {
  readonly graph: Graph;
  readonly variables: readonly tf.Variable[];
}

/** Types of TensorFlow.js's engine that its declarations keep private. */
interface EngineState {
  readonly registeredVariables: { readonly [name: string]: tf.Variable };
}

/**
 * Run `fn` on symbolic inputs and return what it did as a graph.
 * @param features kernels of the device's own that may become nodes; see `GraphTracer`
 * @throws Error when `fn` reads a tensor's values, draws random numbers, makes variables, or uses a
 *   kernel that has no compiled form; the message says what to do instead
 */
export function traceFunction(
  name: string,
  fn: Traceable,
  inputs: readonly InputSpec[],
  features?: ReadonlySet<string>,
): Traced {
  const backend = tesseraBackend();
  if (tf.getBackend() !== BACKEND) {
    throw new Error(
      `"${name}" is compiled for a device that is not the active one: call device.activate()`,
    );
  }
  const tracer = new GraphTracer(features);
  const registered = (tf.engine().state as unknown as EngineState).registeredVariables;
  for (const variable of Object.values(registered)) {
    if (backend.has(variable.dataId)) {
      backend.detach(variable); // each state is known by its variable's own tensor
    }
  }
  const before = new Map(Object.values(registered).map((variable) => [variable, variable.dataId]));
  const used: { variable: tf.Variable; value: Value }[] = [];

  for (const variable of before.keys()) {
    if (!backend.has(variable.dataId)) {
      continue; // a variable of another device
    }
    const index = used.length;
    const value = tracer.make("State", [], { index }, [
      { shape: variable.shape, dtype: variable.dtype as "float32" },
    ])[0]!;
    bindVariable(variable.dataId, value);
    used.push({ variable, value });
  }

  // While tracing, `assign` only changes what the variable stands for.
  const prototype = tf.Variable.prototype as {
    assign: (this: tf.Variable, value: tf.Tensor) => void;
  };
  const { assign } = prototype;
  const { random } = Math;
  const next = new Map<tf.Variable, Value>();
  const stands: object[] = []; // what variables stand for while tracing
  prototype.assign = function (this: tf.Variable, value: tf.Tensor): void {
    if (!tf.util.arraysEqual(value.shape, this.shape) || value.dtype !== this.dtype) {
      throw new Error(
        `a variable of shape [${this.shape.join(", ")}] (${this.dtype}) was assigned a tensor of shape [${value.shape.join(", ")}] (${value.dtype})`,
      );
    }
    if (tracer.loops > 0) {
      throw new Error(
        `the variable "${this.name}" was assigned inside the body of a scan: carry its value and assign it afterwards`,
      );
    }
    const assigned = valueOf(value);
    next.set(this, assigned);
    const { dataId } = backend.symbol(assigned);
    stands.push(dataId);
    (this as { dataId: object }).dataId = dataId;
  };
  Math.random = () => {
    throw randomnessError();
  };
  try {
    return whileTracing(tracer, () => {
      const symbols = inputs.map((input) => {
        const dtype = input.dtype === "uint8" ? ("int32" as const) : input.dtype;
        const attrs = { name: input.name, type: input.dtype };
        return tracer.make("Input", [], attrs, [{ shape: input.shape, dtype }])[0]!;
      });
      const outputs: { name: string; value: Value }[] = [];
      tf.tidy(() => {
        const given = Object.fromEntries(
          inputs.map((input, i) => [
            input.name,
            tf.engine().makeTensorFromTensorInfo(backend.symbol(symbols[i]!)),
          ]),
        );
        for (const [output, tensor] of Object.entries(checkOutputs(name, fn(given)))) {
          outputs.push({ name: output, value: valueOf(tensor) });
        }
      });
      const made = Object.values(registered).find((variable) => !before.has(variable));
      if (made) {
        throw new Error(
          `the variable "${made.name}" was made inside the compiled function "${name}": make variables before and use them inside`,
        );
      }
      refuseLeaks([...outputs.map(({ value }) => value), ...next.values()]);
      const reads = readStates(tracer, outputs, next);
      const states = used.filter(({ variable, value }) => reads.has(value) || next.has(variable));
      return {
        variables: states.map(({ variable }) => variable),
        graph: {
          name,
          inputs: inputs.map((input, i) => ({ name: input.name, value: symbols[i]! })),
          outputs,
          states: states.map(({ variable, value }) => {
            const assigned = next.get(variable);
            return assigned && assigned !== value ? { value, next: assigned } : { value };
          }),
        },
      };
    });
  } finally {
    Math.random = random;
    prototype.assign = assign;
    unbindVariables();
    for (const variable of Object.values(registered)) {
      if (!before.has(variable)) {
        variable.dispose();
      }
    }
    for (const [variable, dataId] of before) {
      (variable as { dataId: object }).dataId = dataId;
    }
    for (const dataId of stands) {
      backend.disposeData(dataId, true);
    }
  }
}

/** Throws where a tensor of a loop's body was used outside of it. */
function refuseLeaks(results: readonly Value[]): void {
  const seen = new Set<object>();
  const stack = [...results];
  for (let value = stack.pop(); value; value = stack.pop()) {
    if (value.node.op === TURN) {
      throw new Error(
        "a tensor made inside the body of a scan was used outside of it: return it, as a carry or an output",
      );
    }
    if (!seen.has(value.node)) {
      seen.add(value.node);
      stack.push(...value.node.inputs);
    }
  }
}

/** What a function returned, if it is tensors by name. */
function checkOutputs(name: string, outputs: unknown): TensorMap {
  const refuse = (what: string): never => {
    throw new Error(
      `the compiled function "${name}" must return an object of named tensors, but ${what}`,
    );
  };
  if (outputs instanceof Promise) {
    refuse("it is async and returned a promise");
  }
  if (outputs instanceof tf.Tensor) {
    refuse("it returned one tensor: give it a name, { value: tensor }");
  }
  if (typeof outputs !== "object" || outputs === null) {
    refuse(`it returned ${String(outputs)}`);
  }
  for (const [key, value] of Object.entries(outputs as object)) {
    if (!(value instanceof tf.Tensor)) {
      refuse(`its output "${key}" is not a tensor: wrap numbers in tf.scalar`);
    }
  }
  return outputs as TensorMap;
}

/** The state values that outputs or new states depend on. */
function readStates(
  _tracer: GraphTracer,
  outputs: readonly { readonly value: Value }[],
  next: ReadonlyMap<tf.Variable, Value>,
): Set<Value> {
  const found = new Set<Value>();
  const seen = new Set<object>();
  const stack = [...outputs.map((output) => output.value), ...next.values()];
  for (let value = stack.pop(); value; value = stack.pop()) {
    if (value.node.op === "State") {
      found.add(value);
    }
    if (!seen.has(value.node)) {
      seen.add(value.node);
      stack.push(...value.node.inputs);
    }
  }
  return found;
}
