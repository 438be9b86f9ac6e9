/**
 * @file The changes that conditions make to a clip before the tokenizer encodes it: the paddings of
 * MAGVIT's tasks, and the structure channels of stylisation.
 *
 * VideoPoet (§4.4) stacks optical flow and depth from two networks into three channels and encodes them
 * with the video tokenizer. Without such networks we take what pixels tell: the normal flow of
 * luminance, -I_t ∇I / |∇I|² (Horn & Schunck 1981), in two channels about mid-grey, and the blurred
 * luminance as the third. They hold outline and motion and no colour.
 */

import { tokenCount } from "../models/transformer.ts";
import type { Device } from "../runtime/device.ts";
import { sizeOf, uint8 } from "../runtime/tensors.ts";
import { hostIds } from "../tokenizers/host.ts";
import type { Tokenizer } from "../tokenizers/tokenizer.ts";
import { type ClipVariant, padClip, type TaskLayout } from "./tasks.ts";

/** Where tasks lie on a tokenizer's clips. */
export function layoutOf(tokenizer: Tokenizer, conditionFrames: number): TaskLayout {
  const { frames, height, width } = tokenizer.clip;
  return {
    clip: { frames, height, width, causal: tokenizer.causal },
    grid: tokenizer.grid,
    conditionFrames,
  };
}

/**
 * A changed clip.
 * @param clip [T, H, W, 3] bytes; not changed
 */
export function applyVariant(
  variant: ClipVariant,
  clip: Uint8Array,
  layout: TaskLayout,
): Uint8Array {
  return variant === "flow" ? structureChannels(clip, layout.clip) : padClip(variant, clip, layout);
}

/** Normal flow (x, y) about 128 and blurred luminance: [T, H, W, 3] bytes. */
export function structureChannels(
  clip: Uint8Array,
  { frames, height, width }: TaskLayout["clip"],
): Uint8Array {
  const plane = height * width;
  const light = new Float64Array(frames * plane);
  for (let i = 0; i < light.length; i++) {
    light[i] = 0.299 * clip[3 * i]! + 0.587 * clip[3 * i + 1]! + 0.114 * clip[3 * i + 2]!;
  }
  const at = (t: number, y: number, x: number): number =>
    light[
      (t * height + Math.min(height - 1, Math.max(0, y))) * width +
        Math.min(width - 1, Math.max(0, x))
    ]!;
  const byte = (value: number): number => Math.min(255, Math.max(0, Math.floor(value + 0.5)));
  const out = new Uint8Array(clip.length);
  for (let t = 0; t < frames; t++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        // The first frame has no past: its flow is that to the second.
        const [before, after] = t > 0 ? [t - 1, t] : [0, Math.min(1, frames - 1)];
        const change = at(after, y, x) - at(before, y, x);
        const gx = (at(t, y, x + 1) - at(t, y, x - 1)) / 2;
        const gy = (at(t, y + 1, x) - at(t, y - 1, x)) / 2;
        const steep = gx * gx + gy * gy + 100; // of 255²: flat places have no flow
        let blurred = 0;
        for (let dy = -1; dy <= 1; dy++) {
          for (let dx = -1; dx <= 1; dx++) {
            blurred += at(t, y + dy, x + dx) / 9;
          }
        }
        const to = (t * plane + y * width + x) * 3;
        out[to] = byte(128 - (32 * change * gx) / steep);
        out[to + 1] = byte(128 - (32 * change * gy) / steep);
        out[to + 2] = byte(blurred);
      }
    }
  }
  return out;
}

/** What an encoder of conditions gives back. */
export interface EncodedClips {
  /** [B, N, F] sub-ids; zeros for clips without a variant. */
  readonly ids: Int32Array;
  /** The changed clips [B, T, H, W, 3]; black where there was no variant. */
  readonly shown: Uint8Array;
}

/** Encodes clips that are at hand, each changed in its way: for samples, evaluation and generation. */
export function variantEncoder(
  device: Device,
  tokenizer: Tokenizer,
  conditionFrames: number,
): (
  clips: Uint8Array,
  variants: readonly (ClipVariant | "none" | undefined)[],
) => Promise<EncodedClips> {
  const layout = layoutOf(tokenizer, conditionFrames);
  const encode = hostIds(device, tokenizer, "variants-encode");
  const { frames, height, width } = tokenizer.clip;
  const shape = [frames, height, width, 3];
  const values = sizeOf(shape);
  const length = tokenCount({ grid: tokenizer.grid }) * tokenizer.factors.length;

  return async (clips, variants) => {
    const size = variants.length;
    const shown = new Uint8Array(size * values);
    for (const [i, variant] of variants.entries()) {
      const clip = clips.subarray(i * values, (i + 1) * values);
      if (variant !== undefined) {
        shown.set(variant === "none" ? clip : applyVariant(variant, clip, layout), i * values);
      }
    }
    if (variants.every((variant) => variant === undefined)) {
      return { ids: new Int32Array(size * length), shown };
    }
    const ids = await encode(uint8([size, ...shape], shown));
    return { ids: (ids.data as Int32Array).slice(0, size * length), shown };
  };
}
