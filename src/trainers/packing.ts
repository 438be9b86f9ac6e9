/**
 * @file Parameters as a few long vectors. An optimizer's arithmetic is elementwise, so it may run on
 * any concatenation of the parameters: a model of 200 small tensors costs a handful of operations
 * instead of thousands. How long a vector may be is the device's choice: a core's cache on a processor.
 */

import * as tf from "@tensorflow/tfjs-core";
import { activeHints } from "../runtime/hints.ts";
import { type HostTensor, sizeOf } from "../runtime/tensors.ts";

/** Some parameters laid end to end. */
export interface Pack {
  readonly names: readonly string[];
  readonly variables: readonly tf.Variable[];
  /** The number of values. */
  readonly size: number;
  /** Whether weight decay acts on these: tensors of rank 2 and more, not biases and norm scales. */
  readonly decayed: boolean;
}

/** Group parameters into packs, in their given order; decayed and other parameters apart. */
export function packParameters(parameters: ReadonlyMap<string, tf.Variable>): Pack[] {
  const packs: Pack[] = [];
  for (const decayed of [true, false]) {
    let names: string[] = [];
    let variables: tf.Variable[] = [];
    let size = 0;
    const close = () => {
      if (names.length > 0) {
        packs.push({ names, variables, size, decayed });
        names = [];
        variables = [];
        size = 0;
      }
    };
    for (const [name, variable] of parameters) {
      if (variable.rank >= 2 !== decayed) {
        continue;
      }
      if (size + variable.size > activeHints().packSize) {
        close();
      }
      names.push(name);
      variables.push(variable);
      size += variable.size;
    }
    close();
  }
  return packs;
}

/**
 * One vector of a pack's tensors.
 * @param tensors one for each of a pack's variables, in its order and of its size
 * @returns [pack.size]
 */
export function joinPack(tensors: readonly tf.Tensor[]): tf.Tensor1D {
  const flat = tensors.map((tensor) => tf.reshape(tensor, [tensor.size]) as tf.Tensor1D);
  return flat.length === 1 ? flat[0]! : tf.concat1d(flat);
}

/** The inverse of `joinPack`: tensors of the variables' shapes. */
export function splitPack(pack: Pack, vector: tf.Tensor1D): tf.Tensor[] {
  let start = 0;
  return pack.variables.map((variable) => {
    const part = variable.size === pack.size ? vector : tf.slice1d(vector, start, variable.size);
    start += variable.size;
    return tf.reshape(part, variable.shape);
  });
}

/** A pack's vector on the host as named tensors: what a checkpoint holds. */
export function nameValues(
  pack: Pack,
  vector: Float32Array,
  prefix: string,
): [name: string, tensor: HostTensor][] {
  let start = 0;
  return pack.variables.map((variable, i) => {
    const data = vector.slice(start, start + variable.size);
    start += variable.size;
    return [
      `${prefix}${pack.names[i]!}`,
      { dtype: "float32", shape: [...variable.shape], data },
    ] as const satisfies [string, HostTensor];
  });
}

/** The inverse of `nameValues`. Throws when a tensor is missing or has another shape. */
export function joinValues(
  pack: Pack,
  tensors: ReadonlyMap<string, HostTensor>,
  prefix: string,
): Float32Array {
  const vector = new Float32Array(pack.size);
  let start = 0;
  for (const [i, name] of pack.names.entries()) {
    vector.set(valuesOf(tensors, prefix + name, pack.variables[i]!.shape), start);
    start += pack.variables[i]!.size;
  }
  return vector;
}

/** The float32 values of one tensor of a checkpoint, checked against the shape that is needed. */
export function valuesOf(
  tensors: ReadonlyMap<string, HostTensor>,
  name: string,
  shape: readonly number[],
): Float32Array {
  const tensor = tensors.get(name);
  if (tensor === undefined) {
    throw new Error(`the checkpoint has no tensor "${name}"`);
  }
  if (tensor.shape.join() !== shape.join() || !(tensor.data instanceof Float32Array)) {
    throw new Error(
      `tensor "${name}" of the checkpoint is ${tensor.dtype} [${tensor.shape.join(", ")}], ` +
        `the model needs float32 [${shape.join(", ")}] (${sizeOf(shape)} values)`,
    );
  }
  return tensor.data;
}

/** Give a variable new values from the host. */
export function setVariable(variable: tf.Variable, values: Float32Array): void {
  const tensor = tf.tensor(values, variable.shape, "float32");
  variable.assign(tensor);
  tensor.dispose();
}

/** The values of a float32 variable on the host (a copy). */
export async function getVariable(variable: tf.Variable): Promise<Float32Array> {
  return Float32Array.from(await variable.data<"float32">());
}
