/**
 * @file Flicker: what a decoder changes from frame to frame that the clip does not. Frame-wise scores
 * cannot see it, and it is what a viewer notices first.
 */

import type { Pixels } from "./psnr.ts";

export interface Flicker {
  /** Mean |(d[t+1] - d[t]) - (o[t+1] - o[t])| over all values of all pairs of frames; 0 for one frame. */
  readonly all: number;
  /** Mean |d[t+1] - d[t]| over the pixels whose three channels the original keeps; undefined without any. */
  readonly still: number | undefined;
}

/**
 * @param original [T, H, W, 3] in 0..255
 * @param decoded the same shape
 */
export function flickerOf(original: Pixels, decoded: Pixels, frames: number): Flicker {
  const size = original.length / frames;
  let sum = 0;
  let stillSum = 0;
  let stillCount = 0;
  for (let i = 0; i + size < original.length; i += 3) {
    let resting = true;
    let moved = 0;
    for (let c = i; c < i + 3; c++) {
      const change = decoded[c + size]! - decoded[c]!;
      const wanted = original[c + size]! - original[c]!;
      sum += Math.abs(change - wanted);
      moved += Math.abs(change);
      resting &&= wanted === 0;
    }
    if (resting) {
      stillSum += moved;
      stillCount += 3;
    }
  }
  return {
    all: frames > 1 ? sum / (original.length - size) : 0,
    still: stillCount > 0 ? stillSum / stillCount : undefined,
  };
}
