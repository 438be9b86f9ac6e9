/**
 * @file Structural similarity (Wang et al., "Image Quality Assessment: From Error Visibility to
 * Structural Similarity", 2004):
 *
 *   SSIM = (2 μx μy + C1)(2 σxy + C2) / ((μx² + μy² + C1)(σx² + σy² + C2)),  C1 = (0.01 L)², C2 = (0.03 L)²
 *
 * Window, border, covariance and colour differ between libraries, and the same two pictures get
 * 0.76 or 0.83. So a convention has a name, and there is no SSIM without one.
 */

import { UserError } from "../config/errors.ts";
import type { Pixels } from "./psnr.ts";

/** What a named convention fixes. */
export interface SsimConvention {
  readonly window: "gaussian 11, sigma 1.5" | "uniform 7";
  readonly border: "valid" | "reflect, full map";
  readonly covariance: "population" | "sample";
  readonly colour: "mean over RGB" | "luma 0.2125 0.7154 0.0721";
  /** Which moments are clamped where rounding makes them impossible. */
  readonly clamp: "none" | "variance >= 0" | "variance >= 0, |covariance| <= sqrt of their product";
  readonly used_by: string;
}

export const ssimConventions = {
  "gaussian-valid": {
    window: "gaussian 11, sigma 1.5",
    border: "valid",
    covariance: "population",
    colour: "mean over RGB",
    clamp: "none",
    used_by: "tf.image.ssim, pytorch_msssim, VidTok, DCVC",
  },
  skimage7: {
    window: "uniform 7",
    border: "valid",
    covariance: "sample",
    colour: "mean over RGB",
    clamp: "none",
    used_by: "scikit-image's default, TokenBench (Cosmos)",
  },
  "magvit-gray": {
    window: "gaussian 11, sigma 1.5",
    border: "valid",
    covariance: "population",
    colour: "luma 0.2125 0.7154 0.0721",
    clamp: "variance >= 0, |covariance| <= sqrt of their product",
    used_by: "MAGVIT",
  },
  torchmetrics: {
    window: "gaussian 11, sigma 1.5",
    border: "reflect, full map",
    covariance: "population",
    colour: "mean over RGB",
    clamp: "variance >= 0",
    used_by: "torchmetrics",
  },
} as const satisfies Record<string, SsimConvention>;

export type SsimName = keyof typeof ssimConventions;

/** A frame's sides; values are interleaved [H, W, C]. */
export interface FrameShape {
  readonly height: number;
  readonly width: number;
  readonly channels: number;
}

/** The 1D taps of a window, summing to 1. */
export function windowTaps(window: SsimConvention["window"]): Float64Array {
  if (window === "uniform 7") {
    return new Float64Array(7).fill(1 / 7);
  }
  const taps = Float64Array.from({ length: 11 }, (_, i) =>
    Math.exp(-((i - 5) ** 2) / (2 * 1.5 ** 2)),
  );
  const sum = taps.reduce((total, tap) => total + tap, 0);
  return taps.map((tap) => tap / sum);
}

/** The smallest side of a frame that a convention is defined for. */
export function smallestSide(name: SsimName): number {
  const { window, border } = ssimConventions[name];
  const taps = window === "uniform 7" ? 7 : 11;
  return border === "valid" ? taps : (taps + 1) / 2;
}

/** Throws a UserError when frames are too small for a convention's window. */
export function checkSsimSize(
  name: SsimName,
  { height, width }: Omit<FrameShape, "channels">,
): void {
  const least = smallestSide(name);
  if (Math.min(height, width) < least) {
    throw new UserError(
      `ssim:${name} needs frames of at least ${least} x ${least} pixels, got ${height} x ${width}`,
      "use larger clips, or leave this convention out of the suite's `ssim` list",
    );
  }
}

/**
 * Mean SSIM of one frame.
 * @param reference H·W·C values in [0, peak]
 * @param distorted as many
 * @returns a number in [-1, 1]; 1 for equal frames, constant ones included
 */
export function ssim(
  reference: Pixels,
  distorted: Pixels,
  shape: FrameShape,
  name: SsimName,
  peak = 255,
): number {
  const { height, width, channels } = shape;
  const size = height * width * channels;
  if (reference.length !== size || distorted.length !== size) {
    throw new UserError(
      `SSIM expects two frames of ${height} x ${width} x ${channels} values, got ${reference.length} and ${distorted.length}`,
    );
  }
  checkSsimSize(name, shape);
  const convention: SsimConvention = ssimConventions[name];
  const gray = convention.colour !== "mean over RGB" && channels === 3;
  const planes = gray ? 1 : channels;
  let sum = 0;
  for (let channel = 0; channel < planes; channel++) {
    const x = gray ? luma(reference) : plane(reference, channel, channels);
    const y = gray ? luma(distorted) : plane(distorted, channel, channels);
    sum += planeSsim(x, y, height, width, convention, peak).ssim;
  }
  const value = sum / planes;
  if (!Number.isFinite(value)) {
    throw new UserError(
      "a frame holds values that are not finite, so it has no SSIM",
      "a tokenizer whose training diverged decodes NaN: look at its loss curve",
    );
  }
  return value;
}

/** Mean over the frames of a clip [T, H, W, C] of each frame's SSIM. */
export function ssimClip(
  reference: Pixels,
  distorted: Pixels,
  frames: number,
  shape: FrameShape,
  name: SsimName,
): number {
  const size = shape.height * shape.width * shape.channels;
  let sum = 0;
  for (let t = 0; t < frames; t++) {
    const from = t * size;
    sum += ssim(
      reference.subarray(from, from + size),
      distorted.subarray(from, from + size),
      shape,
      name,
    );
  }
  return sum / frames;
}

/** One channel of interleaved values. */
export function plane(values: Pixels, channel: number, channels: number): Float64Array {
  const out = new Float64Array(values.length / channels);
  for (let i = 0; i < out.length; i++) {
    out[i] = values[i * channels + channel]!;
  }
  return out;
}

/** MAGVIT's gray: the Rec. 709 weights as scikit-image rounds them. */
function luma(values: Pixels): Float64Array {
  const out = new Float64Array(values.length / 3);
  for (let i = 0; i < out.length; i++) {
    out[i] = 0.2125 * values[3 * i]! + 0.7154 * values[3 * i + 1]! + 0.0721 * values[3 * i + 2]!;
  }
  return out;
}

/**
 * The mean over one plane's map of SSIM and of its contrast-structure factor
 * (2 σxy + C2) / (σx² + σy² + C2), which multi-scale SSIM needs alone.
 * @param crop leave out this many map values at each border
 */
export function planeSsim(
  x: Float64Array,
  y: Float64Array,
  height: number,
  width: number,
  convention: Pick<SsimConvention, "window" | "border" | "covariance" | "clamp">,
  peak: number,
  crop = 0,
): { ssim: number; contrast: number } {
  const taps = windowTaps(convention.window);
  const padding = convention.border === "valid" ? 0 : (taps.length - 1) / 2;
  const filter = (values: Float64Array): Float64Array =>
    filterValid(
      reflect(values, height, width, padding),
      height + 2 * padding,
      width + 2 * padding,
      taps,
    );
  const mx = filter(x);
  const my = filter(y);
  const xy = filter(product(x, y));
  // Without clamping only the sum of both variances counts: one filter less.
  const clamped = convention.clamp !== "none";
  const xx = filter(clamped ? product(x, x) : squares(x, y));
  const yy = clamped ? filter(product(y, y)) : undefined;
  const c1 = (0.01 * peak) ** 2;
  const c2 = (0.03 * peak) ** 2;
  const window = taps.length * taps.length;
  const scale = convention.covariance === "sample" ? window / (window - 1) : 1;
  const mapHeight = height + 2 * padding - taps.length + 1;
  const mapWidth = width + 2 * padding - taps.length + 1;
  let ssimSum = 0;
  let contrastSum = 0;
  let count = 0;
  for (let row = crop; row < mapHeight - crop; row++) {
    for (let column = crop; column < mapWidth - crop; column++) {
      const i = row * mapWidth + column;
      const ux = mx[i]!;
      const uy = my[i]!;
      let both = scale * (xx[i]! - ux * ux - uy * uy);
      let vxy = scale * (xy[i]! - ux * uy);
      if (yy) {
        const vx = Math.max(0, scale * (xx[i]! - ux * ux));
        const vy = Math.max(0, scale * (yy[i]! - uy * uy));
        both = vx + vy;
        if (convention.clamp !== "variance >= 0") {
          vxy = Math.sign(vxy) * Math.min(Math.sqrt(vx * vy), Math.abs(vxy));
        }
      }
      const contrast = (2 * vxy + c2) / (both + c2);
      contrastSum += contrast;
      ssimSum += ((2 * ux * uy + c1) / (ux * ux + uy * uy + c1)) * contrast;
      count += 1;
    }
  }
  return { ssim: ssimSum / count, contrast: contrastSum / count };
}

function product(a: Float64Array, b: Float64Array): Float64Array {
  const out = new Float64Array(a.length);
  for (let i = 0; i < a.length; i++) {
    out[i] = a[i]! * b[i]!;
  }
  return out;
}

/** x² + y². */
function squares(x: Float64Array, y: Float64Array): Float64Array {
  const out = new Float64Array(x.length);
  for (let i = 0; i < x.length; i++) {
    out[i] = x[i]! * x[i]! + y[i]! * y[i]!;
  }
  return out;
}

/** Mirror at the borders without repeating the border itself: c b | a b c | b a. */
function reflect(
  values: Float64Array,
  height: number,
  width: number,
  padding: number,
): Float64Array {
  if (padding === 0) {
    return values;
  }
  const outWidth = width + 2 * padding;
  const out = new Float64Array((height + 2 * padding) * outWidth);
  for (let row = 0; row < height + 2 * padding; row++) {
    const source = mirror(row - padding, height) * width;
    for (let column = 0; column < outWidth; column++) {
      out[row * outWidth + column] = values[source + mirror(column - padding, width)]!;
    }
  }
  return out;
}

function mirror(i: number, side: number): number {
  return i < 0 ? -i : i >= side ? 2 * (side - 1) - i : i;
}

/** Correlation with taps along rows, then along columns, where the window fits. Taps are symmetric. */
function filterValid(
  values: Float64Array,
  height: number,
  width: number,
  taps: Float64Array,
): Float64Array {
  const outWidth = width - taps.length + 1;
  const outHeight = height - taps.length + 1;
  const along = taps.length === 11 ? elevenTaps : symmetricTaps;
  const rows = new Float64Array(height * outWidth);
  for (let row = 0; row < height; row++) {
    along(values, row * width, 1, taps, rows, row * outWidth, outWidth);
  }
  const out = new Float64Array(outHeight * outWidth);
  for (let row = 0; row < outHeight; row++) {
    along(rows, row * outWidth, outWidth, taps, out, row * outWidth, outWidth);
  }
  return out;
}

/** `count` sums of taps times values `step` apart, the first from `from`, one after another. */
function symmetricTaps(
  values: Float64Array,
  from: number,
  step: number,
  taps: Float64Array,
  out: Float64Array,
  to: number,
  count: number,
): void {
  const last = taps.length - 1;
  const half = last / 2;
  for (let i = 0; i < count; i++) {
    let sum = taps[half]! * values[from + i + half * step]!;
    for (let k = 0; k < half; k++) {
      sum += taps[k]! * (values[from + i + k * step]! + values[from + i + (last - k) * step]!);
    }
    out[to + i] = sum;
  }
}

/** The same for the Gaussian's eleven: twice as fast written out. */
function elevenTaps(
  v: Float64Array,
  from: number,
  step: number,
  taps: Float64Array,
  out: Float64Array,
  to: number,
  count: number,
): void {
  const [a, b, c, d, e, f] = taps as unknown as [number, number, number, number, number, number];
  const [s2, s3, s4, s5] = [2 * step, 3 * step, 4 * step, 5 * step];
  for (let i = 0; i < count; i++) {
    const m = from + i + s5;
    out[to + i] =
      f * v[m]! +
      (e * (v[m - step]! + v[m + step]!) + d * (v[m - s2]! + v[m + s2]!)) +
      (c * (v[m - s3]! + v[m + s3]!) + b * (v[m - s4]! + v[m + s4]!)) +
      a * (v[m - s5]! + v[m + s5]!);
  }
}
