/**
 * @file The small clips of super-resolution: a clip's frames with each side divided by a factor, and
 * their tokens by the same tokenizer, which must be free of the clip's size (a CNN, patches). VideoPoet
 * (Kondratyuk et al. 2024, §3.4) reduces by bicubic interpolation; we by the triangle filter.
 */

import { resizeBilinear } from "../data/resize.ts";
import type { Scope } from "../models/scope.ts";
import { buildTokenizer, checkTokenizer, type TokenizerConfig } from "./registry.ts";
import type { ClipShape, Tokenizer } from "./tokenizer.ts";

/** The shape of a small clip; undefined where the sides are no multiples of the factor. */
export function lowShape(
  { frames, height, width }: ClipShape,
  factor: number,
): ClipShape | undefined {
  return height % factor === 0 && width % factor === 0
    ? { frames, height: height / factor, width: width / factor }
    : undefined;
}

/**
 * Reduce a clip.
 * @param clip [T, H, W, 3] bytes
 * @returns [T, H / factor, W / factor, 3] bytes, rounded to the nearest
 */
export function reduceClip(clip: Uint8Array, shape: ClipShape, factor: number): Uint8Array {
  const { frames, height, width } = shape;
  const plane = height * width * 3;
  const size = [height / factor, width / factor] as const;
  const out = new Uint8Array((frames * plane) / factor ** 2);
  for (let t = 0; t < frames; t++) {
    const frame = clip.subarray(t * plane, (t + 1) * plane);
    const small = resizeBilinear(frame, [height, width, 3], size, "bilinear-antialias");
    out.set(
      small.map((value) => Math.floor(value + 0.5)),
      t * size[0] * size[1] * 3,
    );
  }
  return out;
}

/**
 * Enlarge a small clip by interpolation (half-pixel centres): what super-resolution is measured against.
 * @param clip [T, H / factor, W / factor, 3] bytes
 * @param shape of the large clip
 */
export function enlargeClip(clip: Uint8Array, shape: ClipShape, factor: number): Uint8Array {
  const { frames, height, width } = shape;
  const [h, w] = [height / factor, width / factor];
  const out = new Uint8Array(frames * height * width * 3);
  for (let t = 0; t < frames; t++) {
    const frame = clip.subarray(t * h * w * 3, (t + 1) * h * w * 3);
    const large = resizeBilinear(frame, [h, w, 3], [height, width], "bilinear-half-pixel");
    out.set(
      large.map((value) => Math.floor(value + 0.5)),
      t * height * width * 3,
    );
  }
  return out;
}

/** What is wrong with a tokenizer that is to encode clips and their small versions. */
export function checkLow(
  config: TokenizerConfig,
  clip: ClipShape,
  factor: number,
): { path: string; message: string; hint: string }[] {
  const small = lowShape(clip, factor);
  if (small === undefined) {
    return [
      {
        path: "objective.factor",
        message: `clips of ${clip.height}×${clip.width} pixels cannot be divided by ${factor}`,
        hint: "choose sides that are multiples of the factor",
      },
    ];
  }
  if (!["magvit", "magvit2", "vqgan", "patches"].includes(config.type)) {
    return [
      {
        path: "tokenizer",
        message: `a ${config.type} tokenizer is tied to one size of clips`,
        hint: "super-resolution needs one that encodes small and large clips: magvit, magvit2, vqgan, patches",
      },
    ];
  }
  return checkTokenizer(config, small).map((problem) => ({
    ...problem,
    path: `tokenizer.${problem.path}`,
    message: `${problem.message} (for the small clips of ${small.height}×${small.width} pixels)`,
  }));
}

/** The same tokenizer for small clips: another grid over the same variables. */
export function lowTokenizer(
  config: TokenizerConfig,
  clip: ClipShape,
  factor: number,
  scope: Scope,
): Tokenizer {
  const small = lowShape(clip, factor);
  if (small === undefined) {
    throw new RangeError(`clips of ${clip.height}×${clip.width} cannot be divided by ${factor}`);
  }
  return buildTokenizer(config, small, scope.shared());
}
