/** @file What the planner of the devices cuda and torch-cpu makes of a graph; needs no PyTorch. */

import * as tf from "@tensorflow/tfjs-core";
import { beforeAll, expect, test } from "vitest";
import { tesseraBackend } from "../../src/runtime/backend.ts";
import type { Traceable } from "../../src/runtime/device.ts";
import { gelu, layerNorm } from "../../src/runtime/ops.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { fuse } from "../../src/runtime/torch/fuse.ts";
import { separate } from "../../src/runtime/torch/fixed.ts";
import { writeInPlace } from "../../src/runtime/torch/in-place.ts";
import { TORCH_RULES } from "../../src/runtime/torch/lowering.ts";
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
