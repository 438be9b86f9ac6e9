/** @file What devices that compile share: one executable for each signature of a function's inputs. */

import type { Compiled } from "./device.ts";
import type { HostTensors } from "./tensors.ts";
import type { InputSpec } from "./trace.ts";

/** Names, types and shapes of the inputs, in the order of names. */
export function signature(inputs: HostTensors): InputSpec[] {
  return Object.keys(inputs)
    .sort()
    .map((name) => ({ name, dtype: inputs[name]!.dtype, shape: inputs[name]!.shape }));
}

/** Runs the executable of a call's signature, building it on first use. Calls must not overlap. */
export function compiledFunction<Executable>(
  name: string,
  build: (inputs: readonly InputSpec[]) => Promise<Executable>,
  execute: (executable: Executable, inputs: HostTensors) => Promise<HostTensors>,
): Compiled {
  const executables = new Map<string, Promise<Executable>>();
  let running = false;
  const call = async (inputs: HostTensors): Promise<HostTensors> => {
    if (running) {
      throw new Error(`"${name}" was called while an earlier call was running: await each call`);
    }
    running = true;
    try {
      const specs = signature(inputs);
      const key = JSON.stringify(specs);
      let executable = executables.get(key);
      if (!executable) {
        executable = build(specs);
        executables.set(key, executable);
        executable.catch(() => executables.delete(key));
      }
      return await execute(await executable, inputs);
    } finally {
      running = false;
    }
  };
  return Object.defineProperty(call, "name", { value: name }) as Compiled;
}
