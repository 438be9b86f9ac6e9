/** @file What the planner of the devices cuda and torch-cpu makes of a graph; needs no PyTorch. */

import * as tf from "@tensorflow/tfjs-core";
import { beforeAll, expect, test } from "vitest";
import { tesseraBackend } from "../../src/runtime/backend.ts";
import type { Traceable } from "../../src/runtime/device.ts";
import { cacheWrite, gelu, layerNorm } from "../../src/runtime/ops.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { scan } from "../../src/runtime/scan.ts";
import { optimised } from "../../src/runtime/torch/device.ts";
import { fuse } from "../../src/runtime/torch/fuse.ts";
import { separate } from "../../src/runtime/torch/fixed.ts";
import { writeInPlace } from "../../src/runtime/torch/in-place.ts";
import { TORCH_FEATURES, TORCH_RULES } from "../../src/runtime/torch/lowering.ts";
import { isBuilt, loadAddon } from "../../src/runtime/torch/native.ts";
import {
  type Plan,
  plannerFor,
  type Precision,
  withoutDead,
} from "../../src/runtime/torch/plan.ts";
import { traceFunction } from "../../src/runtime/trace.ts";

beforeAll(async () => {
  tesseraBackend();
  await openDevice({ type: "cpu", engine: "onnx" });
});

function planOf(fn: Traceable, shape: number[], precision: Precision = "fp32"): Plan {
  const { graph } = traceFunction("f", fn, [{ name: "x", dtype: "float32", shape }]);
  const planner = plannerFor(graph, precision);
  planner.lower(TORCH_RULES);
  return withoutDead(planner.finish());
}

const ops = (plan: Plan) => plan.instructions.map(({ op }) => op);

/** A loop that multiplies a carried state by weights, with the plan that a device runs. */
function loopPlan(precision: Precision) {
  const weights = tf.variable(tf.ones([64, 64])) as tf.Variable<tf.Rank.R2>;
  const state = tf.variable(tf.zeros([1, 2, 8, 32])) as tf.Variable<tf.Rank.R4>;
  const fn: Traceable = ({ x }) => {
    const { carry, outputs } = scan(
      8,
      { carry: { cache: state, last: tf.slice(x!, [0, 0], [1, 64]) }, slices: { x: x! } },
      (index, { cache, last }, slices) => {
        const y = tf.matMul(last as tf.Tensor2D, tf.mul(weights, 2) as tf.Tensor2D);
        const sum = tf.add(y, tf.expandDims(slices.x!, 0));
        const rows = tf.reshape(sum, [1, 2, 1, 32]) as tf.Tensor4D;
        const next = cacheWrite(cache as tf.Tensor4D, rows, index);
        return { carry: { cache: next, last: sum }, outputs: { sum } };
      },
    );
    state.assign(carry.cache as tf.Tensor4D);
    return { sums: outputs.sum! };
  };
  const inputs = [{ name: "x", dtype: "float32", shape: [8, 64] }] as const;
  const { graph } = traceFunction("f", fn, inputs, TORCH_FEATURES);
  const planner = plannerFor(graph, precision);
  planner.lower(TORCH_RULES);
  const plan = optimised(planner.finish(), { fused: true, cuda: true });
  weights.dispose();
  state.dispose();
  return plan;
}

test("what a loop computes of weights alone is made once, outside of it and between calls", () => {
  const plan = loopPlan("bf16");
  const loop = plan.instructions.find(({ body }) => body)!;
  const fixed = plan.instructions.filter((each) => each.fixed).flatMap(({ outputs }) => outputs);
  // The product takes the doubled weights in bfloat16, which come from outside.
  const product = loop.body!.instructions.find(({ op }) => op === "BatchMatMul")!;
  const captured = loop.body!.inputs.findIndex(({ slot }) => slot.id === product.inputs[1]!.id);
  const [, carries] = loop.ints as [number, number];
  const given = loop.inputs[carries + captured - 1]!; // the turn's number is no input of the loop
  expect(given.type).toBe("bf16");
  expect(fixed.map(({ id }) => id)).toContain(given.id);
});

test("a loop writes over a state that it alone reads and makes", () => {
  const loop = loopPlan("fp32").instructions.find(({ body }) => body)!;
  expect(loop.ints).toEqual([8, 2, 1, 1, 0]);
  expect(loop.body!.instructions.find(({ op }) => op === "CacheWrite")!.ints).toEqual([1]);
});

test.skipIf(!isBuilt())("sizes that a GPU cannot start are told before it is asked", () => {
  const addon = loadAddon();
  const launchFault = (...sizes: [number, number, number, number]) => addon.launchFault(...sizes);
  expect(launchFault(1, 1, 1, 0)).toBe("");
  expect(launchFault(2 ** 31 - 1, 65_535, 1024, 227 * 1024)).toBe("");
  expect(launchFault(0, 1, 256, 0)).toContain("0 blocks wide");
  expect(launchFault(2 ** 31, 1, 256, 0)).toContain("2147483648 blocks wide");
  expect(launchFault(1, 65_536, 256, 0)).toContain("65536 blocks high");
  expect(launchFault(1, 1, 1025, 0)).toContain("1025 threads");
  expect(launchFault(1, 1, 256, 227 * 1024 + 1)).toContain("shared memory");
});

test("a chain of element-wise operations is one kernel, across reshapes and broadcasts", () => {
  const plan = planOf(
    ({ x }) => {
      const y = tf.reshape(tf.mul(tf.add(x!, tf.tensor1d([1, 2, 3, 4])), 2), [6, 4]);
      return { y: tf.exp(tf.sub(y, 1)) };
    },
    [2, 3, 4],
  );
  expect(ops(fuse(plan))).toEqual(["Fused"]);
});

test("no group waits for itself through the outside", () => {
  const plan = planOf(
    ({ x }) => {
      const a = tf.exp(x!);
      const b = tf.matMul(a as tf.Tensor2D, x as tf.Tensor2D); // between a and the last sum
      return { y: tf.add(tf.tanh(a), tf.abs(b)) };
    },
    [8, 8],
  );
  expect(ops(fuse(plan))).toEqual(["Fused", "BatchMatMul", "Fused"]);
});

test("a state updated from its own elements is written where it lies", () => {
  const variable = tf.variable(tf.ones([64, 64]));
  const plan = planOf(
    ({ x }) => {
      variable.assign(tf.sub(variable, tf.mul(x!, 0.1)));
      return {};
    },
    [64, 64],
  );
  const [kernel] = writeInPlace(fuse(plan)).instructions;
  const over = kernel!.ints.slice(2);
  expect(kernel!.inputs[over[0]!]!.id).toBe(plan.states[0]!.slot.id);
  variable.dispose();
});

test("a state that is read afterwards is not written in place", () => {
  const variable = tf.variable(tf.ones([64, 64]));
  const plan = planOf(
    ({ x }) => {
      const next = tf.add(variable, tf.sum(tf.matMul(x as tf.Tensor2D, x as tf.Tensor2D)));
      const late = tf.matMul(variable as unknown as tf.Tensor2D, next as tf.Tensor2D);
      variable.assign(next);
      return { late };
    },
    [64, 64],
  );
  const fused = writeInPlace(fuse(plan)).instructions.filter(({ op }) => op === "Fused");
  expect(fused.flatMap(({ ints }) => ints.slice(2)).filter((k) => k >= 0)).toEqual([]);
  variable.dispose();
});

test("bf16: products take bfloat16, norms and sums give float32, small products stay exact", () => {
  const weight = tf.variable(tf.ones([128, 256]));
  const pack = tf.variable(tf.ones([256, 2]));
  const scale = tf.variable(tf.ones([128]));
  const plan = planOf(
    ({ x }) => {
      const y = layerNorm(x!, scale as unknown as tf.Tensor1D, tf.zeros([128]) as tf.Tensor1D);
      const h = gelu(tf.matMul(y as tf.Tensor2D, weight as unknown as tf.Tensor2D));
      return {
        h,
        total: tf.sum(h),
        small: tf.matMul(
          tf.slice(h, [0, 0], [32, 32]) as tf.Tensor2D,
          tf.slice(pack, [0, 0], [32, 2]) as tf.Tensor2D,
        ),
      };
    },
    [32, 128],
    "bf16",
  );
  const types = (op: string) =>
    plan.instructions.filter((each) => each.op === op).map(({ outputs }) => outputs[0]!.type);
  expect(types("LayerNorm")).toEqual(["bf16"]); // only the product uses it
  expect(types("BatchMatMul")).toEqual(["bf16", "f32"]);
  expect(types("Gelu")).toEqual(["bf16"]);
  expect(types("Sum")).toEqual(["f32"]);
  for (const variable of [weight, pack, scale]) {
    variable.dispose();
  }
});

test("what depends on weights alone is computed apart, unless the function changes them", () => {
  const weight = tf.variable(tf.ones([128, 128]));
  const use: Traceable = ({ x }) => ({
    y: tf.matMul(x as tf.Tensor2D, weight as unknown as tf.Tensor2D),
  });
  const fixedOf = (fn: Traceable) =>
    separate(planOf(fn, [128, 128], "bf16"), (part) => part)
      .instructions.filter(({ fixed }) => fixed)
      .map(({ op }) => op);
  expect(fixedOf(use)).toEqual(["Cast"]);
  expect(
    fixedOf((inputs) => {
      const { y } = use(inputs);
      weight.assign(tf.add(weight, 1));
      return { y: y! };
    }),
  ).toEqual([]);
  weight.dispose();
});
