/**
 * @file The native engine's plan: loops joined, states written in place only where that is safe, one arena
 * with memory used again, and the same bytes whatever shares the machine. Skipped where it is not built.
 */

import * as tf from "@tensorflow/tfjs-core";
import { afterEach, describe, expect, test } from "vitest";
import type { Device, Traceable } from "../../src/runtime/device.ts";
import { findAddon } from "../../src/runtime/native/addon.ts";
import { FEATURES, planGraph } from "../../src/runtime/native/device.ts";
import { checkpoint } from "../../src/runtime/checkpoint.ts";
import { cacheWrite, conv3d, gelu } from "../../src/runtime/ops.ts";
import { float32, int32, item } from "../../src/runtime/tensors.ts";
import { type InputSpec, traceFunction } from "../../src/runtime/trace.ts";
import { normals } from "./case.ts";
import { compare, device } from "./harness.ts";

const { addon, missing } = findAddon();
if (missing !== undefined) {
  process.stderr.write(`the native engine's plan is not tested: ${missing}\n`);
}

/** Names of the steps, the states in place and the arena of a function. */
async function planOf(fn: Traceable, inputs: readonly InputSpec[]) {
  await device("cpu native");
  const { graph } = traceFunction("f", fn, inputs, FEATURES);
  const { plan, inPlace } = planGraph(graph, addon!, 2, false);
  const kinds = addon!.steps();
  const steps: string[] = [];
  for (let at = 0; at < plan.ops.length; ) {
    const [code, ins, outs, ints] = plan.ops.subarray(at, at + 4);
    steps.push(kinds[code!]!);
    at += 5 + ins! + outs! + ints!;
  }
  return { steps, inPlace, arena: plan.arena };
}

const x: InputSpec = { name: "x", dtype: "float32", shape: [64, 256] };

function variable(values: readonly number[]): tf.Variable {
  return tf.variable(tf.tensor1d([...values]));
}

describe.skipIf(addon === undefined)("native engine", () => {
  afterEach(() => tf.disposeVariables());

  test("a tree of element-wise operations with a mean at its end is one loop", async () => {
    const { steps, arena } = await planOf(
      ({ x: given }) => {
        const centred = tf.sub(given!, tf.tensor1d(Array.from({ length: 256 }, (_, i) => i)));
        const y = tf.add(tf.mul(tf.sigmoid(centred), centred), tf.relu(given!));
        return { y, mean: tf.mean(tf.square(y)) };
      },
      [x],
    );
    expect(steps).toEqual(["Pointwise"]);
    expect(arena).toBe(0);
  });

  test("what needs a mean of itself is two loops", async () => {
    const { steps } = await planOf(
      ({ x: given }) => ({ y: tf.sub(tf.exp(given!), tf.mean(tf.exp(given!))) }),
      [x],
    );
    expect(steps).toEqual(["Pointwise", "Pointwise"]);
  });

  test("biases, residuals and activations are added where products and convolutions write", async () => {
    const clip: InputSpec = { name: "clip", dtype: "float32", shape: [1, 2, 4, 4, 3] };
    const { steps } = await planOf(
      ({ x: given, clip: c }) => {
        const filter = tf.fill([1, 1, 1, 3, 3], 0.5) as tf.Tensor5D;
        const dense = tf.matMul(given as tf.Tensor2D, tf.ones([256, 8]) as tf.Tensor2D);
        const bias = tf.tensor1d([1, 2, 3]);
        return {
          dense: tf.add(dense, tf.tensor1d([1, 2, 3, 4, 5, 6, 7, 8])),
          clip: tf.add(c!, tf.add(conv3d(c as tf.Tensor5D, filter), bias)),
        };
      },
      [x, clip],
    );
    expect(steps.filter((step) => step !== "Fill" && step !== "Copy").sort()).toEqual([
      "Conv",
      "Gemm",
    ]);
  });

  test("transposes and slices of operands move nothing", async () => {
    const { steps } = await planOf(
      ({ x: given }) => {
        const [a, b] = tf.split(given!, 2, 1) as [tf.Tensor2D, tf.Tensor2D];
        return { y: tf.matMul(a, tf.transpose(b)) };
      },
      [x],
    );
    expect(steps).toEqual(["Gemm"]);
  });

  test("memory is used again: a long chain needs as much as a short one", async () => {
    const chain = (length: number): Traceable => {
      return ({ x: given }) => {
        let y = given as tf.Tensor2D;
        for (let i = 0; i < length; i++) {
          y = tf.softmax(tf.matMul(y, y, false, true)) as tf.Tensor2D; // [64, 64]
        }
        return { y };
      };
    };
    const short = await planOf(chain(3), [x]);
    const long = await planOf(chain(30), [x]);
    expect(long.arena).toBe(short.arena);
    expect(long.arena).toBeLessThanOrEqual(3 * 64 * 64 * 4);
  });

  test("checkpoints need less memory and give the same gradients", async () => {
    const weights = Array.from({ length: 8 }, (_, i) =>
      tf.variable(tf.mul(normalsTensor(`checkpoint ${i}`, [256, 256]), 0.06)),
    );
    const network =
      (checkpointed: boolean): Traceable =>
      ({ x: given }) => {
        const { grads } = tf.variableGrads(() => {
          const blocks = Array.from({ length: 4 }, (_, k) => weights.slice(2 * k, 2 * k + 2));
          let y: tf.Tensor = given!;
          for (const [a, b] of blocks as [tf.Variable, tf.Variable][]) {
            const block = (z: tf.Tensor): tf.Tensor => {
              const inner = gelu(tf.matMul(z as tf.Tensor2D, a as unknown as tf.Tensor2D));
              return tf.add(z, tf.tanh(tf.matMul(inner, b as unknown as tf.Tensor2D)));
            };
            y = checkpointed ? checkpoint((z) => block(z!), [y], [a, b]) : block(y);
          }
          return tf.mean(tf.square(y)) as tf.Scalar;
        }, weights);
        return Object.fromEntries(weights.map((w, i) => [`g${i}`, grads[w.name]!]));
      };
    const wide: InputSpec = { name: "x", dtype: "float32", shape: [2048, 256] };
    const [plain, spare] = [
      await planOf(network(false), [wide]),
      await planOf(network(true), [wide]),
    ];
    expect(spare.arena).toBeLessThan(0.75 * plain.arena);

    const on = await device("cpu native");
    const batch = normals("checkpoint batch", [2048, 256]);
    const want = await on.compile("plain", network(false))({ x: batch });
    const got = await on.compile("spare", network(true))({ x: batch });
    for (const name of Object.keys(want)) {
      expect(compare(got[name]!, want[name]!, 1e-5)).toBe("");
    }
  });

  test("a state is written over when nothing reads the old value afterwards", async () => {
    const [counter, swapped, other, shown] = [1, 2, 3, 4].map((v) => variable([v, v])) as [
      tf.Variable,
      tf.Variable,
      tf.Variable,
      tf.Variable,
    ];
    const fn: Traceable = ({ x: given }) => {
      const old = tf.clone(shown);
      counter.assign(tf.add(counter, tf.mean(given!)));
      const before = tf.clone(swapped);
      swapped.assign(tf.clone(other));
      other.assign(before);
      shown.assign(tf.mul(shown, 2));
      return { old };
    };
    const { inPlace } = await planOf(fn, [x]);
    expect(inPlace).toEqual([true, false, false, false]);

    const on = await device("cpu native");
    const step = on.compile("states", fn);
    const ones = float32([64, 256], new Float32Array(64 * 256).fill(1));
    for (let i = 0; i < 3; i++) {
      const { old } = await step({ x: ones });
      expect(Array.from(old!.data)).toEqual([4 * 2 ** i, 4 * 2 ** i]);
    }
    const values = [counter, swapped, other, shown].map((v) => v.dataSync()[0]);
    expect(values).toEqual([4, 3, 2, 32]);
  });

  test("a cache is written where it is", async () => {
    const cache = tf.variable(tf.zeros([1, 2, 5, 3]));
    const inputs: InputSpec[] = [
      { name: "row", dtype: "float32", shape: [1, 2, 1, 3] },
      { name: "position", dtype: "int32", shape: [1] },
    ];
    const fn: Traceable = ({ row, position }) => {
      const written = cacheWrite(
        cache as unknown as tf.Tensor4D,
        row as tf.Tensor4D,
        position as tf.Tensor1D,
      );
      cache.assign(written);
      return { sum: tf.sum(written) };
    };
    expect((await planOf(fn, inputs)).inPlace).toEqual([true]);
    const step = (await device("cpu native")).compile("cache", fn);
    const row = (value: number) =>
      float32(
        [1, 2, 1, 3],
        Array.from({ length: 6 }, () => value),
      );
    await step({ row: row(1), position: int32([1], [4]) });
    const { sum } = await step({ row: row(10), position: int32([1], [1]) });
    expect(item(sum)).toBe(66);
  });

  test("a thousand steps leave the memory as it was", async () => {
    const on: Device = await device("cpu native");
    const weight = tf.variable(normalsTensor("memory", [64, 64]));
    const step = on.compile("memory", ({ x: given }) => {
      const { value, grads } = tf.variableGrads(
        () =>
          tf.mean(
            tf.square(tf.tanh(tf.matMul(given as tf.Tensor2D, weight as unknown as tf.Tensor2D))),
          ) as tf.Scalar,
        [weight],
      );
      weight.assign(tf.sub(weight, tf.mul(grads[weight.name]!, 0.01)));
      return { value };
    });
    const batch = normals("memory batch", [256, 64]);
    for (let i = 0; i < 100; i++) {
      await step({ x: batch });
    }
    const tensors = tf.memory().numTensors;
    globalThis.gc?.();
    const before = process.memoryUsage();
    for (let i = 0; i < 1000; i++) {
      await step({ x: batch });
    }
    globalThis.gc?.();
    const after = process.memoryUsage();
    expect(tf.memory().numTensors).toBe(tensors);
    // Buffers of the step are 64 KiB and more: a leak of one a step would be 64 MiB.
    expect(after.rss - before.rss).toBeLessThan(40 * 2 ** 20);
  });

  test("a call leaves the event loop free", async () => {
    const on = await device("cpu native");
    const slow = on.compile("slow", ({ x: given }) => {
      let y = given as tf.Tensor2D;
      for (let i = 0; i < 40; i++) {
        y = tf.tanh(tf.matMul(y, given as tf.Tensor2D)) as tf.Tensor2D;
      }
      return { y };
    });
    const big = normals("event loop", [512, 512], 0.05);
    await slow({ x: big });
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    await slow({ x: big });
    clearInterval(timer);
    expect(ticks).toBeGreaterThan(0);
  });
});

function normalsTensor(label: string, shape: [number, number]): tf.Tensor2D {
  return tf.tensor2d(normals(label, shape).data as Float32Array, shape);
}
