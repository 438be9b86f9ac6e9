/** @file Equal inputs give equal bytes: again, in another process, and whatever comes later in a clip. */

import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import * as tf from "@tensorflow/tfjs-core";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Device } from "../../src/runtime/device.ts";
import { conv3d, layerNorm, silu } from "../../src/runtime/ops.ts";
import { float32, type HostTensor } from "../../src/runtime/tensors.ts";
import { normals } from "./case.ts";
import { device, TESTED } from "./harness.ts";
import { trainingDigest } from "./step.ts";

const PROGRAM = fileURLToPath(new URL("step.ts", import.meta.url));

test("a training step gives the same bytes again, and in a process of its own", async () => {
  const here = await trainingDigest();
  expect(await trainingDigest()).toBe(here);
  const { stdout } = await promisify(execFile)(process.execPath, ["--import", "tsx", PROGRAM]);
  expect(stdout).toBe(here);
});

describe.each(TESTED)("causality on %s", (type) => {
  const bytes = ({ data }: HostTensor, from: number, to: number): Uint8Array =>
    new Uint8Array(data.buffer, data.byteOffset + 4 * from, 4 * (to - from));

  /** Three causal layers, the second with stride 2 over time, on [B, T, H, W, 3]. */
  function network(on: Device, width: number, kt: number): ReturnType<Device["compile"]> {
    const weights = (name: string, shape: readonly number[]): tf.Tensor5D => {
      const { data } = normals(`${name} ${width} ${kt}`, shape, 0.2);
      const made: tf.Tensor = tf.tensor(data, [...shape]);
      return made as tf.Tensor5D;
    };
    const [a, b, c] = [
      weights("a", [kt, 3, 3, 3, width]),
      weights("b", [3, 3, 3, width, width]),
      weights("c", [kt, 3, 3, width, width]),
    ] as const;
    const one = tf.ones([width]) as tf.Tensor1D;
    const causal = (k: number) =>
      [
        [k - 1, 0],
        [1, 1],
        [1, 1],
      ] as const;
    return on.compile("encode", ({ clip }) => {
      let x = silu(conv3d(clip as tf.Tensor5D, a, { pads: causal(kt) }));
      const half = conv3d(x, b, { pads: causal(3), strides: [2, 2, 2] });
      x = conv3d(layerNorm(half, one, one), c, { pads: causal(kt) });
      return { x };
    });
  }

  test.each([
    [16, 3],
    [5, 3],
    [32, 2],
    [3, 4],
  ])(
    "%i channels, %i taps: a later frame changes no earlier output, to the byte",
    async (width, kt) => {
      const on = await device(type);
      const encode = network(on, width, kt);
      const frames = 9;
      const shape = [1, frames, 6, 6, 3];
      const clip = normals("causal clip", shape);
      const before = (await encode({ clip })).x!;
      const perFrame = before.data.length / before.shape[1]!;
      await fc.assert(
        fc.asyncProperty(
          fc.integer({ min: 1, max: frames - 1 }),
          fc.float({ min: -100, max: 100, noNaN: true }),
          async (at, value) => {
            const changed = clip.data.slice() as Float32Array;
            changed.fill(value, at * 108);
            const after = (await encode({ clip: float32(shape, changed) })).x!;
            // Output frame s sees input frames up to 2 s.
            const safe = Math.ceil(at / 2);
            expect(bytes(after, 0, safe * perFrame)).toEqual(bytes(before, 0, safe * perFrame));
          },
        ),
        { seed: 1, numRuns: 12 },
      );
    },
  );

  test("clips of a batch do not touch each other", async () => {
    const on = await device(type);
    const encode = network(on, 16, 3);
    const clips = normals("two clips", [2, 5, 6, 6, 3]);
    const first = (await encode({ clip: clips })).x!;
    const changed = clips.data.slice() as Float32Array;
    changed.fill(3, changed.length / 2);
    const second = (await encode({ clip: float32(clips.shape, changed) })).x!;
    const half = first.data.length / 2;
    expect(bytes(second, 0, half)).toEqual(bytes(first, 0, half));
  });
});
