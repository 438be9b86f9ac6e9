import * as tf from "@tensorflow/tfjs-core";
import { expect, test } from "vitest";
import { openDevice } from "../../src/runtime/registry.ts";
import { float32 } from "../../src/runtime/tensors.ts";
import { Random } from "../../src/runtime/random.ts";
import { conv3d, groupNorm } from "../../src/runtime/ops.ts";

const random = new Random(0, "t");
const x = random.normals(2 * 5 * 8 * 8 * 16);
const w = random.normals(27 * 16 * 32).map((v) => v * 0.1);
async function run(type: "cpu" | "reference") {
  const device = await openDevice({ type });
  const kernel = tf.variable(tf.tensor(w, [3, 3, 3, 16, 32]));
  const scale = tf.variable(tf.ones([32]) as tf.Tensor1D),
    shift = tf.variable(tf.zeros([32]) as tf.Tensor1D);
  const step = device.compile("step", ({ x }) => {
    const { value, grads } = tf.variableGrads(
      () => {
        const y = conv3d(x as tf.Tensor5D, kernel as tf.Tensor5D, {
          pads: [
            [2, 0],
            [1, 1],
            [1, 1],
          ],
        });
        return tf.mean(
          tf.square(tf.sub(groupNorm(y, scale, shift, { groups: 8, activation: "silu" }), 1)),
        );
      },
      [kernel, scale, shift] as tf.Variable[],
    );
    for (const v of [kernel, scale, shift] as tf.Variable[])
      v.assign(tf.sub(v, tf.mul(grads[v.name]!, 0.5)));
    return { value, g: grads[kernel.name]! };
  });
  const a = await step({ x: float32([2, 5, 8, 8, 16], x) });
  const b = await step({ x: float32([2, 5, 8, 8, 16], x) });
  return { a, b, kernel: kernel.dataSync().slice() };
}
test("smoke", async () => {
  const r = await run("reference");
  const c = await run("cpu");
  console.log(r.a.value!.data, c.a.value!.data, r.b.value!.data, c.b.value!.data);
  const err = (p: Float32Array, q: Float32Array) =>
    Math.sqrt(p.reduce((s, v, i) => s + (v - q[i]!) ** 2, 0) / q.reduce((s, v) => s + v * v, 0));
  console.log(
    err(c.a.g!.data as Float32Array, r.a.g!.data as Float32Array),
    err(c.kernel as Float32Array, r.kernel as Float32Array),
  );
  expect(err(c.a.g!.data as Float32Array, r.a.g!.data as Float32Array)).toBeLessThan(1e-5);
});
