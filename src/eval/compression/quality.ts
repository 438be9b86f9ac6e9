/** @file What the pictures of a rate-distortion point are worth: PSNR, SSIM, MS-SSIM and LPIPS, means over frames. */

import type { LpipsTrunk } from "../../models/features/lpips.ts";
import { msSsimClip, smallestMsSsimSide } from "../ms-ssim.ts";
import { findWeights, missingWeights } from "../networks/published.ts";
import { openPerceptualJudge, type PerceptualJudge } from "../perceptual.ts";
import { frameErrors, psnrPerFrame } from "../psnr.ts";
import { smallestSide, ssimClip } from "../ssim.ts";
import type { EvalContext } from "../suite.ts";

export interface PictureQuality {
  /** dB, mean over frames. */
  readonly psnr: number;
  readonly ssim?: number;
  readonly ms_ssim?: number;
  readonly lpips?: number;
}

/** Decoded RGB bytes, as many as the originals, to what they are worth. */
export type QualityJudge = (decoded: Uint8Array) => Promise<PictureQuality>;

/** LPIPS on one trunk; nothing, and a warning, without its weights. */
export function openLpipsJudge(
  trunk: LpipsTrunk,
  context: EvalContext,
): PerceptualJudge | undefined {
  context.device.activate();
  const found = findWeights(`lpips-${trunk}`, []);
  if (!found) {
    context.warn(`lpips:${trunk}: ${missingWeights(`lpips-${trunk}`)}`);
    return undefined;
  }
  return openPerceptualJudge(context.device, trunk, found);
}

/** The quality of decoded frames; SSIM and MS-SSIM where frames are large enough for their windows. */
export function qualityJudge(
  { height, width }: { readonly height: number; readonly width: number },
  originals: Uint8Array,
  perceptual: PerceptualJudge | undefined,
): QualityJudge {
  const frames = originals.length / (height * width * 3);
  const shape = { height, width, channels: 3 };
  const side = Math.min(height, width);
  return async (decoded) => ({
    psnr: psnrPerFrame(frameErrors(originals, decoded, frames)),
    ...(side >= smallestSide("gaussian-valid") && {
      ssim: ssimClip(originals, decoded, frames, shape, "gaussian-valid"),
    }),
    ...(side >= smallestMsSsimSide && {
      ms_ssim: msSsimClip(originals, decoded, frames, shape, "pytorch"),
    }),
    ...(perceptual && {
      lpips: await perceptual.distance(originals, decoded, [frames, height, width, 3]),
    }),
  });
}
