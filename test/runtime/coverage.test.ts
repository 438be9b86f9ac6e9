/**
 * @file The cases of this folder reach every kernel that can be compiled, its gradient where it has
 * one, and every lowering rule: a kernel added without a case fails here.
 */

import * as tf from "@tensorflow/tfjs-core";
import { beforeAll, expect, test } from "vitest";
import { liveNodes } from "../../src/runtime/graph.ts";
import { KERNEL_RULES, type KernelRule } from "../../src/runtime/kernels.ts";
import { signature } from "../../src/runtime/compiled.ts";
import { FEATURES, NATIVE_NODES } from "../../src/runtime/native/device.ts";
import { ONNX_RULES } from "../../src/runtime/onnx/device.ts";
import { TORCH_FEATURES, TORCH_RULES } from "../../src/runtime/torch/lowering.ts";
import { traceFunction } from "../../src/runtime/trace.ts";
import { allCases } from "./cases/all.ts";
import { caseFunction } from "./case.ts";
import { device } from "./harness.ts";

const kernels = new Set<string>();
const gradients = new Set<string>();
const nodes = new Set<string>();

/** Nodes that hold values and compute nothing. */
const LEAVES = ["Input", "State", "Constant", "Fill"];

/** Nodes of kernels that are composed of others on engines without them. */
const ONLY_NATIVE = ["CacheWrite", "CachedAttention", "SumOfSquares", "AdamW", "Barrier"];

/** They take several processes: test/runtime/parallel.test.ts. */
const COLLECTIVES = ["TesseraAllReduce", "TesseraAllReduceMean"];

/** Kernels whose gradient is registered and not compared, each with its reason. */
const WITHOUT_GRADIENT: { readonly [kernel: string]: string } = {
  OneHot: "its input is integers",
  ...Object.fromEntries(
    ["FloorDiv", "ArgMax", "ArgMin"].map((kernel) => [kernel, "its result is integers"]),
  ),
  ...Object.fromEntries(
    ["All", "Any", "IsNan", "IsInf", "IsFinite", "GreaterEqual"].map((kernel) => [
      kernel,
      "its result is truth values",
    ]),
  ),
};

beforeAll(async () => {
  await device("cpu");
  const rules = KERNEL_RULES as { [kernel: string]: KernelRule };
  for (const [kernel, rule] of Object.entries(rules)) {
    rules[kernel] = {
      ...rule,
      trace: (...given) => {
        kernels.add(kernel);
        return rule.trace(...given);
      },
    };
    const registered = tf.getGradient(kernel);
    if (registered) {
      const { gradFunc } = registered;
      registered.gradFunc = (...given) => {
        gradients.add(kernel);
        return gradFunc(...given);
      };
    }
  }
  for (const kernelCase of allCases) {
    const inputs = signature(kernelCase.inputs);
    const { graph } = traceFunction(kernelCase.name, caseFunction(kernelCase), inputs, FEATURES);
    for (const node of liveNodes(graph)) {
      nodes.add(node.op);
    }
  }
});

test("every kernel rule is reached by a case", () => {
  const alone = Object.keys(KERNEL_RULES).filter((kernel) => !COLLECTIVES.includes(kernel));
  expect(alone.filter((kernel) => !kernels.has(kernel))).toEqual([]);
});

test("every kernel with a gradient is differentiated by a case", () => {
  const missing = Object.keys(KERNEL_RULES).filter(
    (kernel) => tf.getGradient(kernel) && !gradients.has(kernel) && !COLLECTIVES.includes(kernel),
  );
  expect(missing.filter((kernel) => !WITHOUT_GRADIENT[kernel])).toEqual([]);
  expect(Object.keys(WITHOUT_GRADIENT).filter((kernel) => gradients.has(kernel))).toEqual([]);
});

test("every node that a kernel becomes runs on the native engine", () => {
  expect([...nodes].filter((op) => !LEAVES.includes(op) && !NATIVE_NODES.includes(op))).toEqual([]);
});

test("every node that a kernel becomes has a lowering to ONNX, and every lowering is used", () => {
  const lowered = Object.keys(ONNX_RULES);
  expect(
    [...nodes].filter((op) => !LEAVES.includes(op) && !ONLY_NATIVE.includes(op) && !ONNX_RULES[op]),
  ).toEqual([]);
  expect(lowered.filter((op) => !nodes.has(op))).toEqual([]);
});

test("every node that a kernel becomes has a form for PyTorch, and every form is used", () => {
  // Kernels of single devices: those that this one does not ask for stay compositions.
  const others = ["AdamW", "SumOfSquares", "Barrier"].filter(
    (op) => !TORCH_FEATURES.has(`Tessera${op}`),
  );
  expect(
    [...nodes].filter((op) => !LEAVES.includes(op) && !others.includes(op) && !TORCH_RULES[op]),
  ).toEqual([]);
  // Loops are no kernel: scan.test.ts has their cases.
  const forms = Object.keys(TORCH_RULES).filter(
    (op) => op !== "Scan" && !COLLECTIVES.includes(`Tessera${op}`),
  );
  expect(forms.filter((op) => !nodes.has(op))).toEqual([]);
});
