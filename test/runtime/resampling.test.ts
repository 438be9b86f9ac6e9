/** @file Pooling, resizing and batch normalisation: every device against `reference`. */

import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, test } from "vitest";
import { linearMaps, resamplingCases } from "./cases/resampling.ts";
import { normals } from "./case.ts";
import { device, disagreement, TESTED } from "./harness.ts";

describe.each(TESTED)("resampling on %s", (type) => {
  test.each(resamplingCases)("$name", async (kernelCase) => {
    expect(await disagreement(type, kernelCase)).toBe("");
  });

  // For a linear map A, the gradient g of <w, A x> is the one with <g, z> = <w, A z> for every z.
  test("gradients of the linear ones are their transposes", async () => {
    const on = await device(type);
    const names = Object.keys(linearMaps);
    const check = on.compile("transposes", ({ x, z }) =>
      Object.fromEntries(
        names.map((name) => {
          const map = linearMaps[name]!;
          const image = map(z as tf.Tensor4D);
          const weights = tf.tensor(normals(`w ${name}`, image.shape).data, image.shape);
          const g = tf.grad((v) => tf.sum(tf.mul(map(v as tf.Tensor4D), weights)))(x!);
          const sides = [tf.sum(tf.mul(g, z!)), tf.sum(tf.mul(weights, image))];
          return [name, tf.stack(sides)];
        }),
      ),
    );
    const shape = [2, 5, 6, 3];
    const results = await check({ x: normals("adjoint x", shape), z: normals("adjoint z", shape) });
    const far = names.filter((name) => {
      const [left, right] = results[name]!.data as Float32Array;
      return !(Math.abs(left! - right!) < 1e-3);
    });
    expect(far).toEqual([]);
  });
});
