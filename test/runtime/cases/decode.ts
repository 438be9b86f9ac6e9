/**
 * @file Decoding token after token with weights that stay: what devices join into few kernels. Logits of some
 * places through the cache, on a device and on `reference`.
 */

import * as tf from "@tensorflow/tfjs-core";
import { Scope } from "../../../src/models/scope.ts";
import { buildTransformer, cacheValues } from "../../../src/models/transformer.ts";
import type { Device } from "../../../src/runtime/device.ts";
import { Random } from "../../../src/runtime/random.ts";
import { float32, int32 } from "../../../src/runtime/tensors.ts";

const SPACE = { grid: [4, 6, 8] as const, factors: [64], classes: 3 };

/** Logits [places · batch · 64] of a small transformer, one place after the other, at given places. */
export async function decodedLogits(
  device: Device,
  batch: number,
  places: readonly number[],
): Promise<Float32Array> {
  device.activate();
  const scope = Scope.root(1).child("decode");
  const transformer = buildTransformer(
    {
      type: "transformer",
      width: 256,
      depth: 2,
      heads: 4,
      mlp_ratio: 2,
      positions: "learned",
      tie_weights: true,
    } as Parameters<typeof buildTransformer>[0],
    SPACE,
    { mask: false },
    scope,
  );
  for (const [name, variable] of scope.trainable()) {
    const values = new Random(2, name).normals(variable.size);
    const scale = name.endsWith("scale") ? 0.1 : 0.05;
    const shift = name.endsWith("scale") ? 1 : 0;
    variable.assign(
      tf.tensor(
        values.map((x) => x * scale + shift),
        variable.shape,
      ),
    );
  }
  const cache = transformer.buildCache(batch);
  // What earlier places would have left.
  for (const [i, entry] of cache.entries()) {
    for (const [kind, variable] of Object.entries(entry)) {
      const values = new Random(3, `${kind}${i}`).normals(variable.size);
      variable.assign(tf.tensor(values, variable.shape));
    }
  }
  const step = device.compile("decode", (inputs) => {
    const { logits, cache: left } = transformer.causalStep(
      inputs.previous as tf.Tensor2D,
      inputs.labels as tf.Tensor1D,
      inputs.position as tf.Tensor1D,
      cacheValues(cache),
    );
    for (const [i, { key, value }] of left.entries()) {
      cache[i]!.key.assign(key);
      cache[i]!.value.assign(value);
    }
    return { logits: logits[0]! };
  });
  const all: number[] = [];
  for (const [n, position] of places.entries()) {
    const { logits } = await step({
      previous: int32(
        [batch, 1],
        Array.from({ length: batch }, (_, b) => (7 * n + b) % 64),
      ),
      labels: int32(
        [batch],
        Array.from({ length: batch }, (_, b) => b % 3),
      ),
      position: int32([1], [position]),
    });
    all.push(...logits!.data);
  }
  for (const entry of cache) {
    entry.key.dispose();
    entry.value.dispose();
  }
  scope.dispose();
  return float32([all.length], all).data as Float32Array;
}

/** The largest difference of two results, relative to the largest value. */
export function relativeError(got: Float32Array, want: Float32Array): number {
  const largest = want.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  return got.reduce((most, x, i) => Math.max(most, Math.abs(x - want[i]!)), 0) / largest;
}
