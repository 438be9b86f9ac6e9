/**
 * @file What a device is: it compiles functions written in ordinary TensorFlow.js and runs them.
 *
 * ```ts
 * const device = await openDevice({ type: "cpu" });
 * const step = device.compile("train", ({ clips, labels }) => {
 *   const { value, grads } = tf.variableGrads(() => loss(clips, labels), parameters);
 *   optimizer.apply(grads); // tf.Variable.assign inside
 *   return { loss: value };
 * });
 * const { loss } = await step({ clips: uint8([8, 17, 64, 64, 3], bytes), labels: int32([8], ids) });
 * ```
 *
 * A function is traced once for each signature (names, shapes and dtypes of its inputs). Values of
 * `tf.Variable`s are state: they are read at each call and replaced by what `assign` gave them.
 * Everything else a call depends on must come through its inputs: captured numbers and tensors are
 * constants of the trace, reading a tensor's values while tracing is an error, and so are
 * TensorFlow.js's random operations (pass noise in; see random.ts).
 */

import type * as tf from "@tensorflow/tfjs-core";
import type { Group } from "./group.ts";
import type { HostTensors } from "./tensors.ts";

/** Named symbolic tensors: what a traced function is given and what it returns. */
export type TensorMap = { [name: string]: tf.Tensor };

/** A function that a device can compile. It must be pure but for variables' `assign`. */
export type Traceable = (inputs: { readonly [name: string]: tf.Tensor }) => TensorMap;

/** Runs one compiled function: host tensors in, host tensors out. Calls must not overlap. */
export interface Compiled {
  (inputs: HostTensors): Promise<HostTensors>;
  readonly name: string;
}

export interface DeviceInfo {
  readonly type: string;
  /** What computes, where a device has more than one engine. */
  readonly engine?: string;
  /** One line for people: engine, version, threads or GPU name. */
  readonly description: string;
}

export interface Device {
  readonly type: string;
  readonly info: DeviceInfo;
  /**
   * Whether `scan` (scan.ts) is a loop here. Elsewhere its body is repeated in the graph, so that many turns
   * are better done by several calls of a function with few.
   */
  readonly loops?: boolean;
  /** Make this device the one that tf operations and new variables belong to. `openDevice` does. */
  activate(): void;
  /** Trace, optimise and lower `fn` on first use of each input signature; see the file comment. */
  compile(name: string, fn: Traceable): Compiled;
  /** Bytes of the device's own memory in use now and at most so far, where it has its own. */
  memory?(): { readonly now: number; readonly most: number };
  /** The ranks that train together on devices like this one, where it has joined any. */
  readonly group?: Group;
  dispose(): void;
}
