/** @file LPIPS of clips on published weights: the mean over frames, frame by frame on the device. */

import type * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import { lpipsMinimumSide, type LpipsTrunk, openLpips } from "../models/features/lpips.ts";
import type { Device } from "../runtime/device.ts";
import { float32 } from "../runtime/tensors.ts";
import { type FoundWeights, openFound } from "./networks/published.ts";
import type { Pixels } from "./psnr.ts";

export interface PerceptualJudge {
  readonly trunk: LpipsTrunk;
  readonly sha256: string;
  /** Mean over frames of LPIPS of two clips [T, H, W, 3] in 0..255. */
  distance(original: Pixels, decoded: Pixels, shape: readonly number[]): Promise<number>;
  dispose(): void;
}

/** Frames a call: VGG16 needs much memory a frame. */
const framesAtOnce = 4;

/** Open LPIPS on a trunk. The device must be active. */
export function openPerceptualJudge(
  device: Device,
  trunk: LpipsTrunk,
  found: FoundWeights,
): PerceptualJudge {
  const weights = openFound(found);
  let lpips: ReturnType<typeof openLpips>;
  try {
    lpips = openLpips(trunk, weights);
  } finally {
    weights.close();
  }
  const run = device.compile(`eval/lpips/${trunk}`, ({ a, b }) => ({
    distances: lpips.distance(a as tf.Tensor4D, b as tf.Tensor4D),
  }));
  return {
    trunk,
    sha256: found.sha256,
    async distance(original, decoded, shape) {
      const [frames, height, width, channels] = shape as [number, number, number, number];
      const least = lpipsMinimumSide[trunk];
      if (Math.min(height, width) < least) {
        throw new UserError(
          `LPIPS on ${trunk} needs frames of at least ${least} x ${least}, the data set gives ${height} x ${width}`,
          "leave it out of the suite's `lpips`, or use larger clips",
        );
      }
      const values = height * width * channels;
      const part = Math.min(framesAtOnce, frames);
      const place = (clip: Pixels, from: number) => {
        const data = new Float32Array(part * values);
        for (let i = 0; i < part; i++) {
          // The last part repeats the last frame: one shape, one compilation.
          const frame = Math.min(from + i, frames - 1);
          for (let v = 0; v < values; v++) {
            data[i * values + v] = clip[frame * values + v]! / 127.5 - 1;
          }
        }
        return float32([part, height, width, channels], data);
      };
      let sum = 0;
      for (let from = 0; from < frames; from += part) {
        const { distances } = await run({ a: place(original, from), b: place(decoded, from) });
        for (let i = 0; i < Math.min(part, frames - from); i++) {
          sum += distances!.data[i]!;
        }
      }
      return sum / frames;
    },
    dispose: () => lpips.scope.dispose(),
  };
}
