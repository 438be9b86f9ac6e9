/** @file Variables in compiled functions: what steps read, replace, share and leave alone. */

import * as tf from "@tensorflow/tfjs-core";
import fc from "fast-check";
import { afterEach, describe, expect, test } from "vitest";
import type { Device } from "../../src/runtime/device.ts";
import { conv3d, groupNorm } from "../../src/runtime/ops.ts";
import { float32, type HostTensors, int32, item } from "../../src/runtime/tensors.ts";
import { normals } from "./case.ts";
import { compare, device, TESTED } from "./harness.ts";

afterEach(() => tf.disposeVariables());

const ALL = ["reference", ...TESTED] as const;

const vector = (...values: number[]): tf.Variable => tf.variable(tf.tensor1d(values));
const read = (variable: tf.Tensor): number[] => Array.from(variable.dataSync());
const x = (...values: number[]) => float32([values.length], values);
const values = (tensors: HostTensors, name: string): number[] => Array.from(tensors[name]!.data);

describe.each(ALL)("state on %s", (type) => {
  test("a step reads a variable and replaces it; its value can be read between steps", async () => {
    const on = await device(type);
    const v = vector(1, 2);
    const step = on.compile("add", ({ x: given }) => {
      const before = tf.clone(v);
      v.assign(tf.add(v, given!));
      return { before, after: v };
    });
    const first = await step({ x: x(10, 20) });
    expect(values(first, "before")).toEqual([1, 2]);
    expect(values(first, "after")).toEqual([11, 22]);
    expect(read(v)).toEqual([11, 22]);
    const second = await step({ x: x(1, 1) });
    expect(values(second, "after")).toEqual([12, 23]);
    expect(read(v)).toEqual([12, 23]);
  });

  test("results, reads and clones taken before a step keep their values after it", async () => {
    const on = await device(type);
    const v = vector(1, 2);
    const step = on.compile("double", () => {
      v.assign(tf.mul(v, 2));
      return { v };
    });
    const results: HostTensors[] = [];
    const reads: (Float32Array | Int32Array | Uint8Array)[] = [];
    const clones: tf.Tensor[] = [];
    for (let i = 0; i < 5; i++) {
      reads.push(v.dataSync());
      clones.push(tf.clone(v), v.add(0));
      results.push(await step({}));
    }
    expect(results.map((r) => values(r, "v")[0])).toEqual([2, 4, 8, 16, 32]);
    expect(reads.map((r) => r[0])).toEqual([1, 2, 4, 8, 16]);
    expect(clones.map((c) => read(c)[0])).toEqual([1, 1, 2, 2, 4, 4, 8, 8, 16, 16]);
    expect(read(v)).toEqual([32, 64]);
  });

  test("several functions share variables", async () => {
    const on = await device(type);
    const v = vector(0);
    const add = on.compile("add", ({ x: given }) => {
      v.assign(tf.add(v, given!));
      return {};
    });
    const double = on.compile("double", () => {
      v.assign(tf.mul(v, 2));
      return {};
    });
    const look = on.compile("look", () => ({ half: tf.div(v, 2) }));
    await add({ x: x(3) });
    await double({});
    expect(item((await look({})).half)).toBe(3);
    await double({});
    await add({ x: x(1) });
    expect(item((await look({})).half)).toBe(6.5);
    expect(read(v)).toEqual([13]);
  });

  test("assigning between steps is seen by the next one", async () => {
    const on = await device(type);
    const v = vector(1);
    const step = on.compile("add one", () => {
      v.assign(tf.add(v, 1));
      return { v };
    });
    await step({});
    v.assign(tf.tensor1d([100]));
    expect(read(v)).toEqual([100]);
    expect(item((await step({})).v)).toBe(101);
    const source = tf.tensor1d([7]);
    v.assign(source);
    await step({});
    expect(read(source)).toEqual([7]);
    expect(read(v)).toEqual([8]);
  });

  test("two variables that were given one tensor stay apart afterwards", async () => {
    const on = await device(type);
    const start = tf.tensor([5, 6]);
    const a = tf.variable(start);
    const b = tf.variable(tf.zeros([2]));
    b.assign(start);
    const step = on.compile("one of two", () => {
      a.assign(tf.add(a, 1));
      return { b };
    });
    await step({});
    await step({});
    expect([read(a), read(b), read(start)]).toEqual([
      [7, 8],
      [5, 6],
      [5, 6],
    ]);
    const both = on.compile("both the same", ({ x: given }) => {
      const made = tf.mul(given!, 2);
      a.assign(made);
      b.assign(made);
      return { made };
    });
    await both({ x: x(1, 2) });
    await step({});
    expect([read(a), read(b)]).toEqual([
      [3, 5],
      [2, 4],
    ]);
  });

  test("two variables change places in one step", async () => {
    const on = await device(type);
    const [a, b] = [vector(1, 2), vector(3, 4)];
    const swap = on.compile("swap", () => {
      const [left, right] = [tf.clone(a), tf.clone(b)];
      a.assign(right);
      b.assign(left);
      return { a };
    });
    await swap({});
    expect([read(a), read(b)]).toEqual([
      [3, 4],
      [1, 2],
    ]);
    await swap({});
    await swap({});
    expect([read(a), read(b)]).toEqual([
      [3, 4],
      [1, 2],
    ]);
  });

  test("a variable becomes another: the other's value of before the step", async () => {
    const on = await device(type);
    const [a, b] = [vector(1), vector(10)];
    const step = on.compile("follow", () => {
      a.assign(tf.clone(b));
      b.assign(tf.add(b, 1));
      return { a, b };
    });
    await step({});
    const last = await step({});
    expect([values(last, "a"), values(last, "b")]).toEqual([[11], [12]]);
    expect([read(a), read(b)]).toEqual([[11], [12]]);
  });

  test("a variable assigned twice keeps the last value, and reads in between see the first", async () => {
    const on = await device(type);
    const v = vector(1);
    const step = on.compile("twice", () => {
      v.assign(tf.add(v, 1));
      const between = tf.mul(v, 10);
      v.assign(tf.mul(v, 3));
      return { between };
    });
    expect(item((await step({})).between)).toBe(20);
    expect(item((await step({})).between)).toBe(70);
    expect(read(v)).toEqual([21]);
  });

  test("outputs may be an input, a state, a constant, or the same value twice", async () => {
    const on = await device(type);
    const v = vector(4, 5);
    const step = on.compile("pass", ({ x: given }) => {
      const sum = tf.add(given!, v);
      return { given: given!, v, sum, again: sum, three: tf.fill([2], 3), c: tf.tensor1d([1, 2]) };
    });
    const out = await step({ x: x(1, 2) });
    expect(Object.fromEntries(Object.keys(out).map((k) => [k, values(out, k)]))).toEqual({
      given: [1, 2],
      v: [4, 5],
      sum: [5, 7],
      again: [5, 7],
      three: [3, 3],
      c: [1, 2],
    });
    v.assign(tf.tensor1d([0, 0]));
    expect(values(out, "v")).toEqual([4, 5]);
  });

  test("a variable assigned an input, a constant and its own value", async () => {
    const on = await device(type);
    const [a, b, c] = [vector(1, 1), vector(2, 2), vector(3, 3)];
    const step = on.compile("sources", ({ x: given }) => {
      a.assign(given! as tf.Tensor1D);
      b.assign(tf.zeros([2]));
      c.assign(c);
      return {};
    });
    const given = x(8, 9);
    await step({ x: given });
    given.data.fill(0);
    expect([a, b, c].map(read)).toEqual([
      [8, 9],
      [0, 0],
      [3, 3],
    ]);
  });

  test("integer and boolean variables; scalars; no values", async () => {
    const on = await device(type);
    const count = tf.variable(tf.scalar(0, "int32"));
    const flags = tf.variable(tf.tensor1d([true, false], "bool"));
    const none = tf.variable(tf.zeros([0, 3]));
    const step = on.compile("types", () => {
      count.assign(tf.add(count, tf.scalar(1, "int32")));
      flags.assign(tf.logicalNot(flags));
      none.assign(tf.add(none, 1));
      return { none };
    });
    await step({});
    await step({});
    const last = await step({});
    expect(read(count)).toEqual([3]);
    expect(read(flags)).toEqual([0, 1]);
    expect(last.none!.shape).toEqual([0, 3]);
  });

  test("another shape of input is another trace over the same variables", async () => {
    const on = await device(type);
    const total = tf.variable(tf.scalar(0));
    const step = on.compile("total", ({ x: given }) => {
      total.assign(tf.add(total, tf.sum(given!)));
      return { size: tf.scalar(given!.size) };
    });
    expect(item((await step({ x: x(1, 2) })).size)).toBe(2);
    expect(item((await step({ x: x(1, 2, 3) })).size)).toBe(3);
    expect(item((await step({ x: x(4, 4) })).size)).toBe(2);
    expect(item((await step({ x: int32([1], [5]) })).size)).toBe(1);
    expect(read(total)).toEqual([22]);
  });

  test("a variable that the function does not use stays out of it", async () => {
    const on = await device(type);
    const [used, other] = [vector(1), vector(2)];
    const step = on.compile("one", () => {
      used.assign(tf.add(used, 1));
      return {};
    });
    await step({});
    other.dispose();
    await step({});
    expect(read(used)).toEqual([3]);
  });

  test("gradients by tf.variableGrads, tf.grad and tf.customGrad", async () => {
    const on = await device(type);
    const v = vector(2, 3);
    const step = on.compile("gradients", ({ x: given }) => {
      const { value, grads } = tf.variableGrads(() => tf.sum(tf.mul(tf.square(v), given!)), [v]);
      const slope = tf.grad((z) => tf.sum(tf.pow(z, 3)))(given!);
      const clipped = tf.customGrad((z) => ({
        value: tf.relu(z as tf.Tensor),
        gradFunc: (dy) => tf.mul(dy, 10),
      }));
      return {
        value,
        v: grads[v.name]!,
        slope,
        custom: tf.grad((z) => tf.sum(clipped(z)))(given!),
      };
    });
    const out = await step({ x: x(1, -1) });
    expect(values(out, "value")).toEqual([-5]);
    expect(values(out, "v")).toEqual([4, -6]);
    expect(values(out, "custom")).toEqual([10, 10]);
    expect(compare(out["slope"]!, x(3, 3), 1e-6)).toBe("");
  });
});

describe.each(TESTED)("training on %s", (type) => {
  /** A small network trained with momentum: losses and final weights. */
  async function train(on: Device, steps: number): Promise<HostTensors> {
    const kernel = tf.variable(
      tf.tensor(normals("kernel", [3, 3, 3, 2, 4], 0.2).data, [3, 3, 3, 2, 4]),
    );
    const scale = tf.variable(tf.ones([4]));
    const shift = tf.variable(tf.zeros([4]));
    const head = tf.variable(tf.tensor(normals("head", [4, 3], 0.3).data, [4, 3]));
    const parameters = [kernel, scale, shift, head] as tf.Variable[];
    const momenta = parameters.map((p) => tf.variable(tf.zeros(p.shape), false));
    const step = on.compile("train", ({ clip, label }) => {
      const { value, grads } = tf.variableGrads(() => {
        const pads = [
          [2, 0],
          [1, 1],
          [1, 1],
        ] as const;
        const features = groupNorm(
          conv3d(clip as tf.Tensor5D, kernel as unknown as tf.Tensor5D, { pads }),
          scale as unknown as tf.Tensor1D,
          shift as unknown as tf.Tensor1D,
          { groups: 2, activation: "silu" },
        );
        const logits = tf.matMul(tf.mean(features, [1, 2, 3]), head as unknown as tf.Tensor2D);
        return tf.losses.softmaxCrossEntropy(label!, logits).asScalar();
      }, parameters);
      parameters.forEach((parameter, i) => {
        const momentum = tf.add(tf.mul(momenta[i]!, 0.9), grads[parameter.name]!);
        momenta[i]!.assign(momentum);
        parameter.assign(tf.sub(parameter, tf.mul(momentum, 0.1)));
      });
      return { value };
    });
    const results: { [name: string]: HostTensors[string] } = {};
    for (let i = 0; i < steps; i++) {
      const clip = normals(`clip ${i}`, [2, 3, 4, 4, 2]);
      const label = float32([2, 3], i % 2 === 0 ? [1, 0, 0, 0, 1, 0] : [0, 0, 1, 1, 0, 0]);
      results[`loss ${i}`] = (await step({ clip, label })).value!;
    }
    [...parameters, ...momenta].forEach((p, i) => {
      const data = p.dataSync().slice() as Float32Array;
      results[`variable ${i}`] = { dtype: "float32", shape: p.shape, data };
    });
    return results;
  }

  test("many steps give what the reference gives", async () => {
    const want = await train(await device("reference"), 20);
    tf.disposeVariables();
    const got = await train(await device(type), 20);
    for (const [name, expected] of Object.entries(want)) {
      expect(`${name}: ${compare(got[name]!, expected, 2e-4)}`).toBe(`${name}: `);
    }
  });

  test("memory stays flat over 300 steps", async () => {
    const on = await device(type);
    const big = tf.variable(tf.zeros([256, 1024])); // 1 MB
    const step = on.compile("grow", ({ x: given }) => {
      big.assign(tf.add(tf.mul(big, 0.5), tf.sum(given!)));
      return { copy: tf.mul(big, 2) };
    });
    const run = async (count: number) => {
      for (let i = 0; i < count; i++) {
        await step({ x: x(i, 1) });
        await new Promise((done) => setImmediate(done));
      }
    };
    await run(60);
    const tensors = tf.memory().numTensors;
    const before = process.memoryUsage().rss;
    await run(300);
    expect(tf.memory().numTensors).toBe(tensors);
    // Outputs of 1 MB a step wait for the garbage collector; a leak would hold 300 MB.
    expect((process.memoryUsage().rss - before) / 2 ** 20).toBeLessThan(100);
  });
});

describe.each(TESTED)("random programs on %s", (type) => {
  const program = fc.array(
    fc.record({
      op: fc.constantFrom("add", "sub", "mul", "copy", "swap", "max"),
      a: fc.nat(2),
      b: fc.nat(2),
    }),
    { minLength: 1, maxLength: 8 },
  );

  async function execute(
    on: Device,
    list: readonly { op: string; a: number; b: number }[],
  ): Promise<number[][]> {
    const all = [vector(1, -2), vector(0.5, 3), vector(-1, 2)];
    const step = on.compile("program", ({ x: given }) => {
      for (const { op, a, b } of list) {
        const [left, right] = [tf.clone(all[a]!), tf.clone(all[b]!)];
        if (op === "copy") {
          all[a]!.assign(right);
        } else if (op === "swap") {
          all[a]!.assign(right);
          all[b]!.assign(left);
        } else {
          const apply = { add: tf.add, sub: tf.sub, mul: tf.mul, max: tf.maximum }[op]!;
          all[a]!.assign(tf.mul(apply(left, tf.add(right, given!)), 0.5));
        }
      }
      return {};
    });
    for (let i = 0; i < 3; i++) {
      await step({ x: x(i, 1) });
    }
    const found = all.map(read);
    tf.disposeVariables();
    return found;
  }

  test("assignments in any order end as eager ones do", async () => {
    await fc.assert(
      fc.asyncProperty(program, async (list) => {
        const want = await execute(await device("reference"), list);
        expect(await execute(await device(type), list)).toEqual(want);
      }),
      { seed: 1, numRuns: 60 },
    );
  });
});
