/**
 * @file Gradient checkpointing (Chen et al. 2016, "Training deep nets with sublinear memory cost"): what a
 * part of a network computes is not kept for the backward pass but computed again there.
 */

import * as tf from "@tensorflow/tfjs-core";
import { runKernel } from "./own-kernels.ts";
import { hasKernel } from "./tracing.ts";

/** TensorFlow.js's engine, of which `tf.grads` shows less than is needed here. */
interface GradientEngine {
  /** The tape of the differentiation under way. */
  readonly state: { activeTape: unknown };
  gradients(
    f: () => tf.Tensor,
    xs: readonly tf.Tensor[],
    dy: tf.Tensor,
    allowNoGradients: boolean,
  ): { readonly value: tf.Tensor; readonly grads: readonly (tf.Tensor | null)[] };
}

/**
 * The value of `fn(...inputs)` with the gradients of inputs and parameters. Where the device plans its own
 * memory, the values between are given up after the forward pass; on other devices this is `fn` itself.
 * @param parameters all variables that `fn` reads and that gradients are wanted of
 */
export function checkpoint<T extends tf.Tensor>(
  fn: (...inputs: tf.Tensor[]) => T,
  inputs: readonly tf.Tensor[],
  parameters: readonly tf.Variable[],
): T {
  if (!hasKernel("TesseraBarrier")) {
    return fn(...inputs);
  }
  const run = tf.customGrad((...given) => {
    const tensors = given.slice(0, inputs.length) as tf.Tensor[];
    const save = given.at(-1) as unknown as tf.GradSaveFunc;
    save(tensors);
    return {
      value: fn(...tensors),
      gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => {
        // Behind a barrier that waits for dy, so that the two computations are not merged into one.
        const held = saved.map((x) => runKernel("TesseraBarrier", { x, after: dy }));
        const all = [...held, ...parameters];
        const engine = tf.engine() as unknown as GradientEngine;
        const { activeTape } = engine.state; // a second differentiation inside would drop it
        const { grads } = engine.gradients(() => fn(...held), all, dy, true);
        engine.state.activeTape = activeTape;
        return all.map((x, i) => grads[i] ?? tf.zerosLike(x));
      },
    };
  });
  return run(...inputs, ...parameters) as T;
}
