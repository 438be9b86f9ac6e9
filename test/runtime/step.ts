/**
 * @file A few training steps with every kind of kernel, and the digest of all that came out: what a
 * process must give again, byte for byte. Run as a program it prints the digest.
 */

import { createHash } from "node:crypto";
import { pathToFileURL } from "node:url";
import * as tf from "@tensorflow/tfjs-core";
import {
  attention,
  conv3d,
  gelu,
  groupNorm,
  layerNorm,
  softmaxCrossEntropy,
  spaceToDepth3d,
} from "../../src/runtime/ops.ts";
import { Random } from "../../src/runtime/random.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { float32, int32, sizeOf } from "../../src/runtime/tensors.ts";

/** Train a small network for `steps` steps on the device `cpu`; sha256 of losses and weights. */
export async function trainingDigest(steps = 3): Promise<string> {
  const device = await openDevice({ type: "cpu" });
  const variable = (name: string, shape: readonly number[], scale: number) => {
    const values = new Random(1, name).normals(sizeOf(shape)).map((v) => v * scale);
    return tf.variable(tf.tensor(values, [...shape]));
  };
  const stem = variable("stem", [3, 3, 3, 3, 16], 0.2);
  const down = variable("down", [3, 3, 3, 16, 32], 0.1);
  const [scale, shift] = [variable("scale", [32], 1), variable("shift", [32], 0.1)];
  const project = variable("project", [32 * 4, 32], 0.1);
  const table = variable("table", [11, 32], 0.5);
  const head = variable("head", [32, 11], 0.2);
  const all = [stem, down, scale, shift, project, table, head] as tf.Variable[];
  const norm = [scale, shift] as unknown as [tf.Tensor1D, tf.Tensor1D];
  const step = device.compile("step", ({ clip, labels }) => {
    const { value, grads } = tf.variableGrads(() => {
      const around = [1, 1] as const;
      let x = conv3d(clip as tf.Tensor5D, stem as unknown as tf.Tensor5D, {
        pads: [[2, 0], around, around],
      });
      x = conv3d(x, down as unknown as tf.Tensor5D, {
        pads: [[2, 0], around, around],
        strides: [1, 2, 2],
      });
      x = groupNorm(x, ...norm, { groups: 8, activation: "silu" });
      const patches = tf.reshape(spaceToDepth3d(x, [1, 2, 2]), [2, -1, 128]); // [B, N, 128]
      const rows = tf.matMul(tf.reshape(patches, [-1, 128]), project as unknown as tf.Tensor2D);
      const tokens = layerNorm(tf.add(rows, tf.gather(table, labels!)), ...norm);
      const heads = tf.transpose(tf.reshape(tokens, [2, -1, 4, 8]), [0, 2, 1, 3]) as tf.Tensor4D;
      const mixed = tf.transpose(attention(heads, heads, heads, { causal: true }), [0, 2, 1, 3]);
      const out = gelu(tf.reshape(mixed, [-1, 32]));
      const logits = tf.matMul(out, head as unknown as tf.Tensor2D) as tf.Tensor2D;
      return tf.mean(softmaxCrossEntropy(logits, labels as tf.Tensor1D, 0.1)).asScalar();
    }, all);
    for (const parameter of all) {
      parameter.assign(tf.sub(parameter, tf.mul(grads[parameter.name]!, 0.1)));
    }
    return { value };
  });
  const hash = createHash("sha256");
  const add = (data: Float32Array) =>
    hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  for (let i = 0; i < steps; i++) {
    const random = new Random(2, "batch", i);
    const clip = float32([2, 5, 8, 8, 3], random.normals(2 * 5 * 8 * 8 * 3));
    const labels = int32(
      [2 * 5 * 4],
      Array.from({ length: 40 }, () => random.int(11)),
    );
    add((await step({ clip, labels })).value!.data as Float32Array);
  }
  for (const parameter of all) {
    add(parameter.dataSync() as Float32Array);
  }
  tf.dispose(all);
  return hash.digest("hex");
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  process.stdout.write(await trainingDigest());
}
