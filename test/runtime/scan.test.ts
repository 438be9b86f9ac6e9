/**
 * @file `scan` on every device: a loop where the device has loops, the body repeated elsewhere, the same
 * values either way; gradients; what is refused; and that the graph does not grow with the turns.
 */

import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, test } from "vitest";
import type { Traceable } from "../../src/runtime/device.ts";
import { liveNodes, printGraph } from "../../src/runtime/graph.ts";
import { FEATURES } from "../../src/runtime/native/device.ts";
import { cachedAttention, cacheWrite, gelu } from "../../src/runtime/ops.ts";
import { scan, SCAN } from "../../src/runtime/scan.ts";
import { float32, type HostTensors } from "../../src/runtime/tensors.ts";
import { traceFunction } from "../../src/runtime/trace.ts";
import { type KernelCase, normals } from "./case.ts";
import { compare, device, evaluate, TESTED, type Tested } from "./harness.ts";

const DEVICES: readonly Tested[] = ["reference", ...TESTED];

const run = async (on: Tested, fn: Traceable, inputs: HostTensors) =>
  (await device(on)).compile("f", fn)(inputs);

/** Sums so far, the last two numbers in turn, and a flag: carries of several types, one that swaps. */
const recurrence: Traceable = ({ x, flags }) => {
  const count = x!.shape[0]!;
  const { carry, outputs } = scan(
    count,
    {
      carry: {
        sum: tf.zeros([2]),
        old: tf.tensor1d([1], "int32"),
        young: tf.tensor1d([1], "int32"),
        any: tf.tensor1d([false], "bool"),
      },
      slices: { x: x!, flags: flags! },
    },
    (index, { sum, old, young, any }, slices) => {
      const next = tf.add(sum!, slices.x!);
      return {
        carry: {
          sum: next,
          old: young!,
          young: tf.add(old!, young!),
          any: tf.logicalOr(any!, tf.reshape(slices.flags!, [1])),
        },
        outputs: { sums: next, turn: index, was: any! },
      };
    },
  );
  return { ...carry, ...outputs };
};

describe.each(DEVICES)("on %s", (on) => {
  test.each([1, 2, 5])("%i turns of a recurrence", async (count) => {
    const values = Float32Array.from({ length: count * 2 }, (_, i) => i + 0.5);
    const flags = { dtype: "bool", shape: [count], data: new Uint8Array(count) } as const;
    flags.data[Math.min(2, count - 1)] = 1;
    const got = await run(on, recurrence, { x: float32([count, 2], values), flags });
    const sums: number[] = [];
    const fibonacci = [1, 1];
    for (let i = 0; i < count; i++) {
      sums.push(
        (sums[2 * i - 2] ?? 0) + values[2 * i]!,
        (sums[2 * i - 1] ?? 0) + values[2 * i + 1]!,
      );
      fibonacci.push(fibonacci.at(-1)! + fibonacci.at(-2)!);
    }
    expect([...got["sums"]!.data]).toEqual(sums);
    expect([...got["sum"]!.data]).toEqual(sums.slice(-2));
    expect([...got["old"]!.data, ...got["young"]!.data]).toEqual(fibonacci.slice(-2));
    expect([...got["turn"]!.data]).toEqual(Array.from({ length: count }, (_, i) => i));
    expect(got["turn"]!.shape).toEqual([count, 1]);
    expect([...got["any"]!.data]).toEqual([1]);
    expect([...got["was"]!.data]).toEqual(
      Array.from({ length: count }, (_, i) => Number(i > Math.min(2, count - 1))),
    );
  });

  test.each([
    [3, 40, 37, false],
    [8, 70, 64, true],
    [61, 33, 32, false],
    [300, 24, 40, true],
  ])("products of %i rows, %i → %i, transposed %s, with fixed weights", async (m, k, n, turned) => {
    const inputs = {
      x: normals(`scan x ${m}`, [m, k]),
      w: normals(`scan w ${k}`, turned ? [n, k] : [k, n], 0.2),
      v: normals(`scan v ${n}`, [n, k], 0.2),
      bias: normals(`scan bias ${n}`, [n]),
    };
    const kernelCase: KernelCase = {
      name: "products",
      inputs,
      run: ({ x, w, v, bias }) => {
        const { carry, outputs } = scan(3, { carry: { x: x! } }, (_, now) => {
          const product = tf.matMul(now["x"] as tf.Tensor2D, w as tf.Tensor2D, false, turned);
          const hidden = gelu(tf.add(product, bias!));
          return {
            carry: { x: tf.matMul(hidden, v as tf.Tensor2D) },
            outputs: { hidden },
          };
        });
        return [carry["x"]!, outputs["hidden"]!];
      },
    };
    const want = await evaluate("reference", kernelCase);
    const got = await evaluate(on, kernelCase);
    for (const [name, expected] of Object.entries(want)) {
      expect(compare(got[name]!, expected, 1e-4)).toBe("");
    }
  });

  test("a cache in variables, and weights that change between calls", async () => {
    const opened = await device(on);
    const [heads, places, width] = [2, 6, 4];
    const start = tf.zeros([1, heads, places, width]);
    const cache = tf.variable(start, false);
    const weight = tf.variable(tf.ones([heads * width, heads * width]), true);
    const compiled = opened.compile("decode", ({ x }) => {
      const { carry, outputs } = scan(places, { carry: { cache, x: x! } }, (index, now) => {
        const row = tf.reshape(tf.matMul(now["x"] as tf.Tensor2D, weight as unknown as tf.Tensor2D), [1, heads, 1, width]); // biome-ignore format: one call
        const left = cacheWrite(now["cache"] as tf.Tensor4D, row as tf.Tensor4D, index);
        const mixed = cachedAttention(row as tf.Tensor4D, left, left, index);
        const y = tf.mul(tf.reshape(mixed, [1, heads * width]), 0.5);
        return { carry: { cache: left, x: y }, outputs: { y } };
      });
      cache.assign(carry["cache"]! as tf.Tensor4D);
      return { ys: outputs["y"]! };
    });
    const x = float32(
      [1, heads * width],
      Array.from({ length: heads * width }, (_, i) => i / 10),
    );
    const first = await compiled({ x });
    const kept = await cache.data();
    const again = await compiled({ x });
    expect(again["ys"]!.data).toEqual(first["ys"]!.data);
    // Every place was written: its keys are sums of what went in.
    const total = (heads * width * (heads * width - 1)) / 20;
    expect(kept[0]).toBeCloseTo(total, 4);
    expect([...kept].every((value) => value > 0)).toBe(true);
    const twice = tf.fill([heads * width, heads * width], 2);
    weight.assign(twice);
    const other = await compiled({ x });
    expect((await cache.data())[0]).toBeCloseTo(2 * total, 4);
    expect(other["ys"]!.data[0]).toBeCloseTo(2 * first["ys"]!.data[0]!, 4);
    tf.dispose([start, cache, weight, twice]);
  });

  test("a loop in a loop", async () => {
    const got = await run(
      on,
      ({ x }) => {
        const { carry } = scan(3, { carry: { y: x! } }, (index, { y }) => {
          const inner = scan(2, { carry: { z: y! } }, (_, { z }) => ({
            carry: { z: tf.add(tf.mul(z!, 2), tf.cast(index, "float32")) },
          }));
          return { carry: { y: tf.add(inner.carry["z"]!, y!) } };
        });
        return { y: carry["y"]! };
      },
      { x: float32([1], [1]) },
    );
    let y = 1;
    for (let i = 0; i < 3; i++) {
      y += 2 * (2 * y + i) + i;
    }
    expect([...got["y"]!.data]).toEqual([y]);
  });

  test("has gradients", async () => {
    const got = await run(
      on,
      ({ x }) => ({
        gradient: tf.grad((given) => {
          const { carry } = scan(4, { carry: { y: given } }, (_, { y }) => ({
            carry: { y: tf.mul(y!, given) },
          }));
          return tf.sum(carry["y"]!);
        })(x!),
      }),
      { x: float32([2], [1, 2]) },
    );
    expect(compare(got["gradient"]!, float32([2], [5, 80]), 1e-6)).toBe("");
  });

  test("refuses carries that change and slices of another length", async () => {
    const x = float32([2], [1, 2]);
    const grown: Traceable = ({ x: given }) =>
      scan(2, { carry: { y: given! } }, (_, { y }) => ({ carry: { y: tf.concat([y!, y!]) } }))
        .carry;
    await expect(run(on, grown, { x })).rejects.toThrow(/carry "y" .* \[2\] and became .* \[4\]/);
    const short: Traceable = ({ x: given }) =>
      scan(3, { carry: { y: tf.zeros([1]) }, slices: { given: given! } }, (_, carry) => ({ carry }))
        .carry;
    await expect(run(on, short, { x })).rejects.toThrow(/"given" .* \[2\]: expected \[3, \.\.\.\]/);
  });
});

describe("the graph of a loop", () => {
  const trace = async (fn: Traceable, count: number) => {
    await device("cpu");
    const inputs = [
      { name: "x", dtype: "float32", shape: [count, 4] },
      { name: "w", dtype: "int32", shape: [4] },
    ] as const;
    return traceFunction("f", fn, inputs, FEATURES).graph;
  };
  const loop: Traceable = ({ x, w }) => {
    const weights = tf.cast(w!, "float32");
    const { outputs } = scan(
      x!.shape[0]!,
      { carry: { y: tf.zeros([4]) }, slices: { x: x! } },
      (_, { y }, slices) => {
        const fixed = tf.exp(tf.mul(weights, 2)); // the same in every turn
        const next = tf.add(tf.mul(y!, fixed), slices["x"]!);
        return { carry: { y: next }, outputs: { next } };
      },
    );
    return { out: outputs["next"]! };
  };

  test("does not grow with the turns, and what is fixed is computed once", async () => {
    expect(FEATURES.has(SCAN)).toBe(true);
    const few = await trace(loop, 3);
    const many = await trace(loop, 3000);
    expect(liveNodes(many).length).toBe(liveNodes(few).length);
    const node = liveNodes(few).find(({ op }) => op === "Scan")!;
    expect(liveNodes(node.body!).map(({ op }) => op)).not.toContain("Exp");
    expect(liveNodes(few).map(({ op }) => op)).toContain("Exp");
    expect(printGraph(few)).toMatch(/Scan\(.*\n {4}graph body/);
  });

  test("refuses assignments inside and values that leave another way", async () => {
    const state = tf.variable(tf.zeros([4]));
    const assigning: Traceable = ({ x }) =>
      scan(2, { carry: { y: tf.zeros([4]) }, slices: { x: x! } }, (_, { y }, slices) => {
        state.assign(slices["x"]! as tf.Tensor1D);
        return { carry: { y: tf.add(y!, slices["x"]!) } };
      }).carry;
    await expect(trace(assigning, 2)).rejects.toThrow(/assigned inside the body of a scan/);
    state.dispose();
    const leaking: Traceable = ({ x }) => {
      let inner: tf.Tensor | undefined;
      scan(2, { carry: { y: tf.zeros([4]) }, slices: { x: x! } }, (_, { y }, slices) => {
        inner = tf.add(y!, slices["x"]!);
        return { carry: { y: inner } };
      });
      return { inner: tf.mul(inner!, 2) };
    };
    await expect(trace(leaking, 2)).rejects.toThrow(/inside the body of a scan was used outside/);
  });
});

test("turns are numbered from 0 and 0 turns are refused", () => {
  expect(() => scan(0, { carry: {} }, (_, carry) => ({ carry }))).toThrow(/from 1, not 0/);
  expect(() => scan(1.5, { carry: {} }, (_, carry) => ({ carry }))).toThrow(/from 1, not 1.5/);
});
