/**
 * @file Decoding token after token with weights that stay: what devices join into few kernels. Logits of some
 * places through the cache, on a device and on `reference`, a call a place or many in a loop.
 */

import * as tf from "@tensorflow/tfjs-core";
import { Scope } from "../../../src/models/scope.ts";
import {
  buildTransformer,
  cacheValues,
  keepCache,
  packCache,
  unpackCache,
} from "../../../src/models/transformer.ts";
import type { Device } from "../../../src/runtime/device.ts";
import { Random } from "../../../src/runtime/random.ts";
import { scan } from "../../../src/runtime/scan.ts";
import { float32, int32 } from "../../../src/runtime/tensors.ts";

const SPACE = { grid: [4, 6, 8] as const, factors: [64], classes: 3 };

/** Whatever each place is shown: the token before. */
const shownAt = (batch: number, n: number): Int32Array =>
  Int32Array.from({ length: batch }, (_, b) => (7 * n + b) % 64);
const labelsOf = (batch: number) =>
  int32(
    [batch],
    Array.from({ length: batch }, (_, b) => b % 3),
  );

/** A small transformer of made-up weights, and a cache as earlier places would have left it. */
function prepared(device: Device, batch: number) {
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
  for (const [i, entry] of cache.entries()) {
    for (const [kind, variable] of Object.entries(entry)) {
      const values = new Random(3, `${kind}${i}`).normals(variable.size);
      variable.assign(tf.tensor(values, variable.shape));
    }
  }
  const dispose = (): void => {
    for (const entry of cache) {
      entry.key.dispose();
      entry.value.dispose();
    }
    scope.dispose();
  };
  return { transformer, cache, dispose };
}

/** Logits [places · batch · 64] of a small transformer, one place after the other, at given places. */
export async function decodedLogits(
  device: Device,
  batch: number,
  places: readonly number[],
): Promise<Float32Array> {
  const { transformer, cache, dispose } = prepared(device, batch);
  const step = device.compile("decode", (inputs) => {
    const { logits, cache: left } = transformer.causalStep(
      inputs.previous as tf.Tensor2D,
      inputs.labels as tf.Tensor1D,
      inputs.position as tf.Tensor1D,
      cacheValues(cache),
    );
    keepCache(cache, left);
    return { logits: logits[0]! };
  });
  const all: number[] = [];
  for (const [n, position] of places.entries()) {
    const { logits } = await step({
      previous: int32([batch, 1], shownAt(batch, n)),
      labels: labelsOf(batch),
      position: int32([1], [position]),
    });
    all.push(...logits!.data);
  }
  dispose();
  return float32([all.length], all).data as Float32Array;
}

/** The same at places from the first one on, all in one loop, called twice: the second goes on with the cache. */
export async function scannedLogits(
  device: Device,
  batch: number,
  places: readonly number[],
): Promise<Float32Array> {
  const { transformer, cache, dispose } = prepared(device, batch);
  const half = places.length / 2;
  const decode = device.compile("decode-loop", (inputs) => {
    const { carry, outputs } = scan(
      half,
      { carry: packCache(cacheValues(cache)), slices: { previous: inputs.previous! } },
      (index, entries, { previous }) => {
        const step = transformer.causalStep(
          previous as tf.Tensor2D,
          inputs.labels as tf.Tensor1D,
          tf.add(index, inputs.first!) as tf.Tensor1D,
          unpackCache(entries),
        );
        return { carry: packCache(step.cache), outputs: { logits: step.logits[0]! } };
      },
    );
    keepCache(cache, unpackCache(carry));
    return { logits: outputs.logits! };
  });
  const all: number[] = [];
  for (const first of [0, half]) {
    const previous = Array.from({ length: half }, (_, n) => [...shownAt(batch, first + n)]).flat();
    const { logits } = await decode({
      previous: int32([half, batch, 1], previous),
      labels: labelsOf(batch),
      first: int32([1], [first]),
    });
    all.push(...logits!.data);
  }
  dispose();
  return float32([all.length], all).data as Float32Array;
}

/** The largest difference of two results, relative to the largest value. */
export function relativeError(got: Float32Array, want: Float32Array): number {
  const largest = want.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  return got.reduce((most, x, i) => Math.max(most, Math.abs(x - want[i]!)), 0) / largest;
}
