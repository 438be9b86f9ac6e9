/**
 * @file Tessera's own kernels and their gradients, as TensorFlow.js sees them. They exist only while a
 * function is traced (kernels.ts gives them shapes, a device lowers them); elsewhere ops.ts computes
 * the same with ordinary tf operations, so the reference device checks both values and gradients.
 */

import * as tf from "@tensorflow/tfjs-core";

type Attrs = { readonly [name: string]: unknown };

function run(
  kernel: string,
  inputs: { readonly [name: string]: tf.Tensor },
  attrs: Attrs,
): tf.Tensor | tf.Tensor[] {
  return tf.engine().runKernel(kernel, inputs as tf.NamedTensorMap, attrs as tf.NamedAttrMap);
}

/** Run one of Tessera's kernels with one output. */
export function runKernel(
  kernel: string,
  inputs: { readonly [name: string]: tf.Tensor },
  attrs: Attrs = {},
): tf.Tensor {
  return run(kernel, inputs, attrs) as tf.Tensor;
}

/** Run one of Tessera's kernels with several outputs. */
export function runKernels(
  kernel: string,
  inputs: { readonly [name: string]: tf.Tensor },
  attrs: Attrs = {},
): tf.Tensor[] {
  const outputs = run(kernel, inputs, attrs);
  return Array.isArray(outputs) ? outputs : [outputs]; // TensorFlow.js unwraps a single one
}

function gradient(
  kernelName: string,
  inputsToSave: string[],
  gradFunc: (
    dy: tf.Tensor,
    saved: tf.Tensor[],
    attrs: Attrs,
  ) => { [input: string]: () => tf.Tensor },
): void {
  tf.registerGradient({
    kernelName,
    inputsToSave,
    gradFunc: (dy, saved, attrs) => gradFunc(dy as tf.Tensor, saved, attrs as Attrs),
  });
}

gradient("TesseraConv", ["x", "filter"], (dy, [x, filter], attrs) => ({
  x: () =>
    runKernel("TesseraConvInputGrad", { dy, filter: filter! }, { ...attrs, shape: x!.shape }),
  filter: () =>
    runKernel("TesseraConvFilterGrad", { x: x!, dy }, { ...attrs, shape: filter!.shape }),
}));

for (const norm of ["TesseraGroupNorm", "TesseraLayerNorm"]) {
  gradient(norm, ["x", "scale", "shift"], (dy, [x, scale, shift], attrs) => {
    const inputs = { x: x!, scale: scale!, shift: shift!, dy };
    // Asked for three times, made once: the tracer merges equal nodes.
    const at = (i: number) => () => (run(`${norm}Grad`, inputs, attrs) as tf.Tensor[])[i]!;
    return { x: at(0), scale: at(1), shift: at(2) };
  });
}

gradient("TesseraAttention", ["query", "key", "value"], (dy, [query, key, value], attrs) => {
  const inputs = { query: query!, key: key!, value: value!, dy };
  const at = (i: number) => () => (run("TesseraAttentionGrad", inputs, attrs) as tf.Tensor[])[i]!;
  return { query: at(0), key: at(1), value: at(2) };
});

for (const activation of ["TesseraSilu", "TesseraGelu"]) {
  gradient(activation, ["x"], (dy, [x]) => ({
    x: () => runKernel(`${activation}Grad`, { x: x!, dy }),
  }));
}

gradient("TesseraDepthToSpace3d", [], (dy, _saved, attrs) => ({
  x: () => runKernel("TesseraSpaceToDepth3d", { x: dy }, attrs),
}));
gradient("TesseraSpaceToDepth3d", [], (dy, _saved, attrs) => ({
  x: () => runKernel("TesseraDepthToSpace3d", { x: dy }, attrs),
}));

// The adjoint of a sum over ranks; see collective.ts.
gradient("TesseraAllReduce", [], (dy) => ({ x: () => runKernel("TesseraAllReduce", { x: dy }) }));

gradient("TesseraSoftmaxCrossEntropy", ["logits", "labels"], (dy, [logits, labels], attrs) => ({
  logits: () =>
    runKernel("TesseraSoftmaxCrossEntropyGrad", { logits: logits!, labels: labels!, dy }, attrs),
  labels: () => tf.zerosLike(labels!),
}));
