/** @file What tracing makes of small functions: simplifications, shared and dead operations. */

import * as tf from "@tensorflow/tfjs-core";
import { afterEach, beforeAll, expect, test } from "vitest";
import type { Traceable } from "../../src/runtime/device.ts";
import { printGraph } from "../../src/runtime/graph.ts";
import { conv3d, groupNorm, stopGradient } from "../../src/runtime/ops.ts";
import { traceFunction } from "../../src/runtime/trace.ts";
import { device } from "./harness.ts";

beforeAll(() => device("cpu"));
afterEach(() => tf.disposeVariables());

const print = (fn: Traceable, shape: readonly number[] = [2, 3]): string =>
  printGraph(traceFunction("f", fn, [{ name: "x", dtype: "float32", shape }]).graph);

test("operations that change nothing vanish", () => {
  expect(
    print(({ x }) => {
      let y = tf.clone(tf.reshape(tf.expandDims(x!, 0), [2, 3]));
      y = tf.cast(tf.add(tf.mul(y, 1), 0), "float32");
      y = tf.div(tf.sub(y, tf.zeros([2, 3])), 1);
      y = tf.pad(tf.slice(tf.tile(y, [1, 1]), [0, 0], [2, 3]), [
        [0, 0],
        [0, 0],
      ]);
      return { y: tf.concat([y], 0) };
    }),
  ).toMatchInlineSnapshot(`
    "graph f
      %0 float32[2,3] = Input() {"name":"x","type":"float32"}
      output y = %0"
  `);
});

test("a slice that reverses is not one that changes nothing", () => {
  expect(
    print(({ x }) => ({ y: tf.stridedSlice(x!, [1, 0], [0, 3], [-1, 1], 0, 1) })),
  ).toMatchInlineSnapshot(`
    "graph f
      %0 float32[2,3] = Input() {"name":"x","type":"float32"}
      %1 float32[2,3] = Slice(%0) {"begin":[1,0],"size":[2,3],"steps":[-1,1]}
      output y = %1"
  `);
});

test("an operation asked for twice is made once; another attribute makes another", () => {
  expect(
    print(({ x }) => ({
      a: tf.add(tf.exp(x!), tf.exp(tf.clone(x!))),
      b: tf.sum(x!, 0),
      c: tf.sum(x!, 1),
      d: tf.sum(x!, [0]),
    })),
  ).toMatchInlineSnapshot(`
    "graph f
      %0 float32[2,3] = Input() {"name":"x","type":"float32"}
      %1 float32[2,3] = Exp(%0)
      %2 float32[2,3] = Add(%1, %1)
      %3 float32[3] = Sum(%0) {"axes":[0],"keepDims":false}
      %4 float32[2] = Sum(%0) {"axes":[1],"keepDims":false}
      output a = %2
      output b = %3
      output c = %4
      output d = %3"
  `);
});

test("what no output needs is dropped, also unused inputs' work", () => {
  expect(
    print(({ x }) => {
      tf.matMul(x!, x!, false, true);
      return { y: tf.neg(x!) };
    }),
  ).toMatchInlineSnapshot(`
    "graph f
      %0 float32[2,3] = Input() {"name":"x","type":"float32"}
      %2 float32[2,3] = Neg(%0)
      output y = %2"
  `);
});

test("constants are folded, and a repeated value is one number", () => {
  expect(
    print(({ x }) => {
      const two = tf.add(tf.ones([3]), tf.fill([3], 1));
      const ramp = tf.mul(tf.range(0, 3), tf.scalar(10));
      return { y: tf.add(tf.mul(x!, two), tf.exp(tf.sub(ramp, ramp))), z: tf.mul(x!, 0) };
    }),
  ).toMatchInlineSnapshot(`
    "graph f
      %0 float32[2,3] = Input() {"name":"x","type":"float32"}
      %1 float32[3] = Fill() {"value":2}
      %2 float32[2,3] = Multiply(%0, %1)
      %3 float32[3] = Fill() {"value":1}
      %4 float32[2,3] = Add(%2, %3)
      %6 float32[2,3] = Fill() {"value":0}
      output y = %4
      output z = %6"
  `);
});

test("states: read, read and replaced, replaced only, and not used", () => {
  const [read, both, write, never] = [1, 2, 3, 4].map((v) => tf.variable(tf.scalar(v))) as [
    tf.Variable,
    tf.Variable,
    tf.Variable,
    tf.Variable,
  ];
  expect(
    print(({ x }) => {
      both.assign(tf.add(both, read));
      write.assign(tf.sum(x!));
      tf.mul(never, 2);
      return { y: both };
    }),
  ).toMatchInlineSnapshot(`
    "graph f
      %4 float32[2,3] = Input() {"name":"x","type":"float32"}
      %0 float32[] = State() {"index":0}
      %1 float32[] = State() {"index":1}
      %2 float32[] = State() {"index":2}
      %5 float32[] = Add(%1, %0)
      %6 float32[] = Sum(%4) {"axes":[0,1],"keepDims":false}
      output y = %5
      state 1 := %5
      state 2 := %6"
  `);
});

test("a stopped gradient leaves nothing of the path behind", () => {
  const w = tf.variable(tf.tensor2d([1, 2, 3, 4, 5, 6], [3, 2]));
  expect(
    print(({ x }) => {
      const { grads } = tf.variableGrads(() => {
        const y = tf.matMul(x as tf.Tensor2D, w as unknown as tf.Tensor2D);
        return tf.sum(tf.mul(tf.square(y), stopGradient(tf.exp(y))));
      }, [w]);
      return { g: grads[w.name]! };
    }),
  ).toMatchInlineSnapshot(`
    "graph f
      %1 float32[2,3] = Input() {"name":"x","type":"float32"}
      %0 float32[3,2] = State() {"index":0}
      %2 float32[2,2] = BatchMatMul(%1, %0) {"transposeA":false,"transposeB":false}
      %4 float32[2,2] = Exp(%2)
      %8 float32[] = Fill() {"value":2}
      %9 float32[2,2] = Multiply(%2, %8)
      %10 float32[2,2] = Multiply(%4, %9)
      %11 float32[3,2] = BatchMatMul(%1, %10) {"transposeA":true,"transposeB":false}
      output g = %11"
  `);
});

test("one normalisation and its gradients: three results of one node", () => {
  const scale = tf.variable(tf.ones([4]));
  const shift = tf.variable(tf.zeros([4]));
  expect(
    print(
      ({ x }) => {
        const { grads } = tf.variableGrads(
          () =>
            tf.sum(
              groupNorm(x!, scale as unknown as tf.Tensor1D, shift as unknown as tf.Tensor1D, {
                groups: 2,
                activation: "silu",
              }),
            ),
          [scale, shift] as tf.Variable[],
        );
        return { scale: grads[scale.name]!, shift: grads[shift.name]! };
      },
      [1, 2, 2, 2, 4],
    ),
  ).toMatchInlineSnapshot(`
    "graph f
      %2 float32[1,2,2,2,4] = Input() {"name":"x","type":"float32"}
      %0 float32[4] = State() {"index":0}
      %1 float32[4] = State() {"index":1}
      %5 float32[1,2,2,2,4] = Fill() {"value":1}
      %6 float32[1,2,2,2,4], %7 float32[4], %8 float32[4] = GroupNormGrad(%2, %0, %1, %5) {"groups":2,"epsilon":0.000001,"activation":"silu"}
      output scale = %7
      output shift = %8"
  `);
});

test("a 2D convolution is a 3D one of one frame", () => {
  expect(
    print(
      ({ x }) => ({ y: tf.conv2d(x as tf.Tensor4D, tf.zeros([3, 3, 1, 2]), [2, 1], "same") }),
      [1, 4, 4, 1],
    ),
  ).toMatchInlineSnapshot(`
    "graph f
      %0 float32[1,4,4,1] = Input() {"name":"x","type":"float32"}
      %2 float32[1,1,4,4,1] = Reshape(%0)
      %3 float32[1,3,3,1,2] = Fill() {"value":0}
      %4 float32[1,1,2,4,2] = Conv(%2, %3) {"strides":[1,2,1],"pads":[[0,0],[0,1],[1,1]]}
      %5 float32[1,2,4,2] = Reshape(%4)
      output y = %5"
  `);
});

test("a deep function is traced without deep recursion", () => {
  const lines = print(({ x }) => {
    let y = x!;
    for (let i = 0; i < 20_000; i++) {
      y = tf.sin(y);
    }
    return { y };
  }).split("\n");
  expect(lines.length).toBe(20_003);
});

test("conv3d pads inside its node", () => {
  expect(
    print(
      ({ x }) => ({
        y: conv3d(x as tf.Tensor5D, tf.zeros([3, 1, 1, 1, 2]), {
          pads: [
            [2, 0],
            [0, 0],
            [0, 0],
          ],
        }),
      }),
      [1, 5, 2, 2, 1],
    ),
  ).toMatchInlineSnapshot(`
    "graph f
      %0 float32[1,5,2,2,1] = Input() {"name":"x","type":"float32"}
      %1 float32[3,1,1,1,2] = Fill() {"value":0}
      %2 float32[1,5,2,2,2] = Conv(%0, %1) {"strides":[1,1,1],"pads":[[2,0],[0,0],[0,0]]}
      output y = %2"
  `);
});
