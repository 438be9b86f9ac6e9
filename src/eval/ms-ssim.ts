/**
 * @file Multi-scale SSIM (Wang, Simoncelli & Bovik 2003): contrast-structure at four scales and full
 * SSIM at the fifth, as a weighted product. Libraries differ in how they halve an odd side and in
 * whether channels are averaged before the product, so a convention has a name here too.
 */

import { UserError } from "../config/errors.ts";
import type { Pixels } from "./psnr.ts";
import { type FrameShape, plane, planeSsim, ssimConventions } from "./ssim.ts";

/** Exponents of the scales, finest first. */
export const scaleWeights = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333] as const;

/** What a named convention fixes. */
export interface MsSsimConvention {
  /** How a side of odd length is halved by 2 x 2 means. */
  readonly halving: "zeros on both sides of an odd axis" | "last row mirrored" | "last row dropped";
  readonly window: keyof typeof ssimConventions;
  /** Map values left out at each border of the contrast-structure maps. */
  readonly crop: number;
  readonly channels: "product a channel, then mean" | "mean over channels, then product";
  readonly used_by: string;
}

export const msSsimConventions = {
  pytorch: {
    halving: "zeros on both sides of an odd axis",
    window: "gaussian-valid",
    crop: 0,
    channels: "product a channel, then mean",
    used_by: "pytorch_msssim",
  },
  tf: {
    halving: "last row mirrored",
    window: "gaussian-valid",
    crop: 0,
    channels: "product a channel, then mean",
    used_by: "tf.image.ssim_multiscale",
  },
  floor: {
    halving: "last row dropped",
    window: "gaussian-valid",
    crop: 0,
    channels: "product a channel, then mean",
    used_by: "implementations on plain 2 x 2 pooling",
  },
  torchmetrics: {
    halving: "last row dropped",
    window: "torchmetrics",
    crop: 5,
    channels: "mean over channels, then product",
    used_by: "torchmetrics",
  },
} as const satisfies Record<string, MsSsimConvention>;

export type MsSsimName = keyof typeof msSsimConventions;

/** The smallest side: the 11-tap window must fit, with room to spare, after four halvings. */
export const smallestMsSsimSide = 161;

interface Plane {
  readonly values: Float64Array;
  readonly height: number;
  readonly width: number;
}

/** Half as large by 2 x 2 means. */
function halve({ values, height, width }: Plane, halving: MsSsimConvention["halving"]): Plane {
  const lead = halving === "zeros on both sides of an odd axis" ? 1 : 0;
  const rowLead = lead * (height % 2);
  const columnLead = lead * (width % 2);
  const mirrored = halving === "last row mirrored";
  const half = (side: number): number =>
    halving === "last row dropped" ? Math.floor(side / 2) : Math.ceil(side / 2);
  const [outHeight, outWidth] = [half(height), half(width)];
  const at = (row: number, column: number): number => {
    const y = mirrored ? Math.min(row, height - 1) : row;
    const x = mirrored ? Math.min(column, width - 1) : column;
    return y >= 0 && x >= 0 && y < height && x < width ? values[y * width + x]! : 0;
  };
  const out = new Float64Array(outHeight * outWidth);
  for (let row = 0; row < outHeight; row++) {
    for (let column = 0; column < outWidth; column++) {
      const y = 2 * row - rowLead;
      const x = 2 * column - columnLead;
      out[row * outWidth + column] =
        (at(y, x) + at(y, x + 1) + at(y + 1, x) + at(y + 1, x + 1)) / 4;
    }
  }
  return { values: out, height: outHeight, width: outWidth };
}

/** Throws a UserError when frames are too small for five scales. */
export function checkMsSsimSize({ height, width }: Omit<FrameShape, "channels">): void {
  if (Math.min(height, width) < smallestMsSsimSide) {
    throw new UserError(
      `multi-scale SSIM needs frames of at least ${smallestMsSsimSide} pixels a side, got ${height} x ${width}`,
      "use SSIM for small frames: leave the suite's `ms_ssim` list empty",
    );
  }
}

/** Mean over the frames of a clip [T, H, W, C] of each frame's multi-scale SSIM. */
export function msSsimClip(
  reference: Pixels,
  distorted: Pixels,
  frames: number,
  shape: FrameShape,
  name: MsSsimName,
): number {
  const size = shape.height * shape.width * shape.channels;
  let sum = 0;
  for (let from = 0; from < frames * size; from += size) {
    const to = from + size;
    sum += msSsim(reference.subarray(from, to), distorted.subarray(from, to), shape, name);
  }
  return sum / frames;
}

/**
 * Multi-scale SSIM of one frame.
 * @param reference H·W·C values in [0, peak], sides at least 161
 * @returns a number in [0, 1]: negative contrast at a scale counts as 0
 */
export function msSsim(
  reference: Pixels,
  distorted: Pixels,
  { height, width, channels }: FrameShape,
  name: MsSsimName,
  peak = 255,
): number {
  checkMsSsimSize({ height, width });
  const convention: MsSsimConvention = msSsimConventions[name];
  const window = ssimConventions[convention.window];
  // [scale][channel]: what enters the product.
  const factors: number[][] = scaleWeights.map(() => []);
  for (let channel = 0; channel < channels; channel++) {
    let x: Plane = { values: plane(reference, channel, channels), height, width };
    let y: Plane = { values: plane(distorted, channel, channels), height, width };
    scaleWeights.forEach((_, scale) => {
      const last = scale === scaleWeights.length - 1;
      const crop = last ? 0 : convention.crop;
      const at = planeSsim(x.values, y.values, x.height, x.width, window, peak, crop);
      factors[scale]!.push(last ? at.ssim : at.contrast);
      x = halve(x, convention.halving);
      y = halve(y, convention.halving);
    });
  }
  const product = (of: (values: readonly number[]) => number): number =>
    factors.reduce(
      (total, values, scale) => total * Math.max(0, of(values)) ** scaleWeights[scale]!,
      1,
    );
  const mean = (values: readonly number[]): number =>
    values.reduce((sum, value) => sum + value, 0) / values.length;
  return convention.channels === "mean over channels, then product"
    ? product(mean)
    : mean(Array.from({ length: channels }, (_, channel) => product((values) => values[channel]!)));
}
