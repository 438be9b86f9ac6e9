/**
 * @file A function as an ONNX model with the present values of its variables inside, for other programs
 * and machines: the same lowering as the cpu device's, without the layouts of one machine.
 */

import { tesseraBackend } from "../backend.ts";
import type { Traceable } from "../device.ts";
import { type InputSpec, traceFunction } from "../trace.ts";
import { ONNX_RULES } from "./device.ts";
import { lowerGraph } from "./lowering.ts";

/**
 * Trace and lower a function. Its variables must belong to the active, compiled device. Input i is named
 * "input<i>" and output i "output<i>", in the order of `inputs` and of what the function returns.
 * @throws Error when the function assigns variables: a model has no state
 */
export function exportOnnx(name: string, fn: Traceable, inputs: readonly InputSpec[]): Uint8Array {
  const { graph, variables } = traceFunction(name, fn, inputs);
  if (graph.states.some(({ next }) => next)) {
    throw new Error(`"${name}" changes variables: only functions without state can be exported`);
  }
  const backend = tesseraBackend();
  const values = variables.map((variable) => backend.peekState(variable.dataId));
  return lowerGraph(graph, ONNX_RULES, { blockSize: 1 }, values);
}
