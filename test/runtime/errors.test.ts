/** @file What compiled functions refuse, in which words, and that a refusal leaves nothing behind. */

import * as tf from "@tensorflow/tfjs-core";
import { afterEach, expect, test } from "vitest";
import type { Traceable } from "../../src/runtime/device.ts";
import { float32, item } from "../../src/runtime/tensors.ts";
import { device } from "./harness.ts";

afterEach(() => tf.disposeVariables());

const x = float32([2], [1, 2]);

/** The message of the error that `fn` ends with, line numbers taken out. */
async function refusal(fn: Traceable): Promise<string> {
  const on = await device("cpu");
  return on
    .compile(
      "step",
      fn,
    )({ x })
    .then(
      () => "no error",
      (error: Error) => error.message.replaceAll(/:\d+:\d+/g, ":L:C"),
    );
}

test("reading values", async () => {
  const messages = [
    await refusal(({ x: given }) => ({ y: tf.mul(given!, given!.dataSync()[0]!) })),
    await refusal(({ x: given }) => ({ y: tf.tensor(given!.arraySync() as number[]) })),
  ];
  expect(messages[0]).toMatchInlineSnapshot(
    `"a tensor's values were read (dataSync, data, arraySync, print, ...) inside a compiled function, where they do not exist yet: return the tensor as an output and read it there, or compute with tf operations (called from test/runtime/errors.test.ts:L:C)"`,
  );
  expect(messages[1]).toBe(messages[0]);
  const v = tf.variable(tf.tensor1d([1, 2]));
  expect(await refusal(() => ({ y: tf.scalar(v.dataSync()[0]!) }))).toBe(messages[0]);
});

test("reading values later", async () => {
  let late: Promise<unknown> = Promise.resolve();
  await refusal(({ x: given }) => {
    late = given!.data();
    late.catch(() => {});
    return { y: given! };
  });
  await expect(late).rejects.toThrow(/values were read .* inside a compiled function/);
});

test("random numbers", async () => {
  const messages = [
    await refusal(({ x: given }) => ({ y: tf.add(given!, tf.randomNormal([2])) })),
    await refusal(({ x: given }) => ({
      y: tf.add(given!, tf.randomUniform([2], 0, 1, "float32", 3)),
    })),
    await refusal(({ x: given }) => ({
      y: tf.add(given!, tf.truncatedNormal([2], 0, 1, "float32", 3)),
    })),
    await refusal(({ x: given }) => ({ y: tf.dropout(given!, 0.5, undefined, 3) })),
    await refusal(({ x: given }) => ({ y: tf.mul(given!, Math.random()) })),
  ];
  expect(messages).toMatchInlineSnapshot(`
    [
      "tf.randomNormal inside a compiled function would give the same numbers at every call: draw noise on the host (runtime/random.ts) and pass it as an input (called from test/runtime/errors.test.ts:L:C)",
      "tf.randomUniform inside a compiled function would give the same numbers at every call: draw noise on the host (runtime/random.ts) and pass it as an input (called from test/runtime/errors.test.ts:L:C)",
      "tf.truncatedNormal inside a compiled function would give the same numbers at every call: draw noise on the host (runtime/random.ts) and pass it as an input (called from test/runtime/errors.test.ts:L:C)",
      "tf.dropout inside a compiled function would give the same numbers at every call: draw noise on the host (runtime/random.ts) and pass it as an input (called from test/runtime/errors.test.ts:L:C)",
      "Math.random inside a compiled function would give the same numbers at every call: draw noise on the host (runtime/random.ts) and pass it as an input (called from test/runtime/errors.test.ts:L:C)",
    ]
  `);
});

test("making variables", async () => {
  expect(
    await refusal(({ x: given }) => ({ y: tf.add(given!, tf.variable(tf.ones([2]))) })),
  ).toMatchInlineSnapshot(
    `"the variable "1" was made inside the compiled function "step": make variables before and use them inside"`,
  );
  expect(await refusal(({ x: given }) => ({ y: given! }))).toBe("no error");
});

test("assigning another shape or type", async () => {
  const v = tf.variable(tf.tensor1d([1, 2]));
  const assign = (value: tf.Tensor): Traceable => {
    return ({ x: given }) => {
      v.assign(value as tf.Tensor1D);
      return { y: given! };
    };
  };
  expect([
    await refusal(assign(tf.zeros([3]))),
    await refusal(assign(tf.zeros([2], "int32"))),
  ]).toMatchInlineSnapshot(`
    [
      "a variable of shape [2] (float32) was assigned a tensor of shape [3] (float32)",
      "a variable of shape [2] (float32) was assigned a tensor of shape [2] (int32)",
    ]
  `);
});

test("a kernel without a compiled form", async () => {
  expect(await refusal(({ x: given }) => ({ y: tf.unique(given!).values }))).toMatchInlineSnapshot(
    `"the TensorFlow.js kernel "Unique" has no compiled form: write it with other tf operations (called from test/runtime/errors.test.ts:L:C)"`,
  );
});

test("a function that does not return tensors", async () => {
  const wrong = (value: unknown): Traceable => (() => value) as unknown as Traceable;
  expect([
    await refusal(wrong(undefined)),
    await refusal(wrong(Promise.resolve({}))),
    await refusal(wrong({ loss: 3 })),
    await refusal(wrong(tf.scalar(1))),
  ]).toMatchInlineSnapshot(`
    [
      "the compiled function "step" must return an object of named tensors, but it returned undefined",
      "the compiled function "step" must return an object of named tensors, but it is async and returned a promise",
      "the compiled function "step" must return an object of named tensors, but its output "loss" is not a tensor: wrap numbers in tf.scalar",
      "the compiled function "step" must return an object of named tensors, but it returned one tensor: give it a name, { value: tensor }",
    ]
  `);
});

test("another device's turn, and another device's variables", async () => {
  const cpu = await device("cpu");
  const step = cpu.compile("step", ({ x: given }) => ({ y: given! }));
  await device("reference");
  const foreign = tf.variable(tf.ones([2]));
  const message = await step({ x }).catch((error: Error) => error.message);
  expect(message).toMatchInlineSnapshot(
    `""step" is compiled for a device that is not the active one: call device.activate()"`,
  );
  expect(await refusal(({ x: given }) => ({ y: tf.add(given!, foreign) }))).toMatchInlineSnapshot(
    `"a tensor of another TensorFlow.js backend, or one already disposed of, was used on a Tessera device: make tensors and variables after opening the device"`,
  );
});

test("calls that overlap", async () => {
  const on = await device("cpu");
  const step = on.compile("step", ({ x: given }) => ({ y: tf.mul(given!, 2) }));
  const first = step({ x });
  await expect(step({ x })).rejects.toThrowErrorMatchingInlineSnapshot(
    `[Error: "step" was called while an earlier call was running: await each call]`,
  );
  expect(Array.from((await first).y!.data)).toEqual([2, 4]);
  expect(Array.from((await step({ x })).y!.data)).toEqual([2, 4]);
});

test("a tensor that was disposed of", async () => {
  const gone = tf.ones([2]);
  gone.dispose();
  expect(await refusal(({ x: given }) => ({ y: tf.add(given!, gone) }))).toMatchInlineSnapshot(
    `"a tensor of another TensorFlow.js backend, or one already disposed of, was used on a Tessera device: make tensors and variables after opening the device"`,
  );
});

test("a refusal leaves variables, Math.random and later compilations as they were", async () => {
  const on = await device("cpu");
  const v = tf.variable(tf.tensor1d([1, 2]));
  const { random } = Math;
  const tensors = tf.memory().numTensors;
  await refusal(({ x: given }) => {
    v.assign(tf.add(v, given!) as tf.Tensor1D);
    return { y: tf.scalar(v.dataSync()[0]!) };
  });
  await refusal(({ x: given }) => {
    tf.variable(tf.ones([2]));
    return { y: tf.unique(given!).values };
  });
  expect(Math.random).toBe(random);
  expect(Array.from(v.dataSync())).toEqual([1, 2]);
  expect(tf.memory().numTensors).toBe(tensors);
  const step = on.compile("good", () => {
    v.assign(tf.mul(v, 2));
    return { sum: tf.sum(v) };
  });
  expect(item((await step({})).sum)).toBe(6);
  expect(Array.from(v.dataSync())).toEqual([2, 4]);
});

test("tensors made while tracing are gone afterwards", async () => {
  const on = await device("cpu");
  const initial = tf.tensor1d([1, 2]);
  const v = tf.variable(initial);
  initial.dispose();
  const before = tf.memory();
  const entries = tf.engine().backend.numDataIds();
  const step = on.compile("tidy", ({ x: given }) => {
    v.assign(tf.add(tf.mul(v, 2), tf.tensor1d([1, 1])));
    v.assign(tf.add(v, 1));
    return { y: tf.add(given!, v) };
  });
  await step({ x });
  await step({ x });
  expect(tf.memory().numTensors).toBe(before.numTensors);
  expect(tf.engine().backend.numDataIds()).toBe(entries);
});
