/**
 * @file Peak signal-to-noise ratio, 10·log10(peak² / MSE), in the two averages that video papers mix:
 * the mean of each frame's PSNR (MAGVIT, VidTok) and the PSNR of one MSE over the whole clip (LARP,
 * BSQ-ViT, TokenBench). The two differ whenever frames differ in quality, so each has a name of its own.
 */

import { UserError } from "../config/errors.ts";

/** Values of pixels in [0, 255], row-major; float or byte. */
export type Pixels = Uint8Array | Float32Array | Float64Array;

/** Papers cap the PSNR of identical frames, which is infinite; this is the cap of the protocols here. */
export const psnrCap = 100;

/**
 * PSNR in dB of a mean squared error; `Infinity` when the error is 0.
 * @param mse mean squared error on the scale of `peak`
 */
export function psnr(mse: number, peak = 255): number {
  if (!(mse >= 0)) {
    throw new RangeError(`a mean squared error is a number >= 0, got ${mse}`);
  }
  return 10 * Math.log10((peak * peak) / mse);
}

/**
 * The mean squared error of each frame of a clip, in float64.
 * @param reference T·H·W·C values
 * @param distorted as many
 * @param frames T
 * @returns T values
 */
export function frameErrors(reference: Pixels, distorted: Pixels, frames: number): Float64Array {
  if (reference.length !== distorted.length) {
    throw new UserError(
      `PSNR compares clips of one size, got ${reference.length} and ${distorted.length} values`,
      "resize one of them first; the metrics never resize on their own",
    );
  }
  if (frames < 1 || reference.length === 0 || reference.length % frames !== 0) {
    throw new UserError(`${reference.length} values are not ${frames} frames of one size`);
  }
  const size = reference.length / frames;
  const errors = new Float64Array(frames);
  for (let t = 0; t < frames; t++) {
    let sum = 0;
    for (let i = t * size; i < (t + 1) * size; i++) {
      const difference = reference[i]! - distorted[i]!;
      sum += difference * difference;
    }
    if (!Number.isFinite(sum)) {
      throw new UserError(
        `frame ${t} holds values that are not finite, so it has no PSNR`,
        "a tokenizer whose training diverged decodes NaN: look at its loss curve",
      );
    }
    errors[t] = sum / size;
  }
  return errors;
}

/** `psnr:per-frame`: the mean over frames of each frame's PSNR, each capped at `cap` dB. */
export function psnrPerFrame(errors: Float64Array, cap = psnrCap): number {
  let sum = 0;
  for (const error of errors) {
    sum += Math.min(cap, psnr(error));
  }
  return sum / errors.length;
}

/** `psnr:pooled`: the PSNR of the clip's one MSE over all frames, capped at `cap` dB. */
export function psnrPooled(errors: Float64Array, cap = psnrCap): number {
  let sum = 0;
  for (const error of errors) {
    sum += error;
  }
  return Math.min(cap, psnr(sum / errors.length));
}

/**
 * The best prediction that ignores motion: each clip's mean frame, shown at all times. A tokenizer
 * that does not beat it has learned nothing of time.
 * @param clip T·size values
 * @param round whether to round to whole numbers, as a picture of bytes would
 * @returns T·size values, every frame the same
 */
export function meanFrameClip(clip: Pixels, frames: number, round: boolean): Float64Array {
  const size = clip.length / frames;
  const predicted = new Float64Array(clip.length);
  for (let i = 0; i < size; i++) {
    let sum = 0;
    for (let t = 0; t < frames; t++) {
      sum += clip[t * size + i]!;
    }
    const mean = round ? Math.round(sum / frames) : sum / frames;
    for (let t = 0; t < frames; t++) {
      predicted[t * size + i] = mean;
    }
  }
  return predicted;
}
