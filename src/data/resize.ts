/**
 * @file Resizing with the published conventions, in float64: bilinear as TensorFlow 1 has it
 * (src = dst · in / out), as PyTorch has it (half-pixel centres), with aligned corners, and with
 * half-pixel centres and a triangle that widens with the reduction (antialias). swscale's filters,
 * which are faster, are in scaler.ts; neither gives the other's bytes.
 */

/** Conventions by the name that a config gives them. */
export const bilinearConventions = {
  "bilinear-tf1": "bilinear, src = dst · in / out (TensorFlow 1, align_corners and half_pixel_centers false)",
  "bilinear-half-pixel": "bilinear, half-pixel centres, no antialiasing (PyTorch, align_corners false)",
  "bilinear-align-corners": "bilinear, first and last pixels on each other (align_corners true)",
  "bilinear-antialias": "bilinear, half-pixel centres, triangle widened by the reduction (PIL, tf.image antialias)",
} as const; // biome-ignore format: one line each

export type BilinearConvention = keyof typeof bilinearConventions;

/** For every output place, the first input place and the weights from there. */
interface Taps {
  readonly first: Int32Array;
  /** Weights of output i: values i·width .. i·width + width − 1. */
  readonly weights: Float64Array;
  readonly width: number;
}

const cache = new Map<string, Taps>();

function tapsOf(from: number, to: number, convention: BilinearConvention): Taps {
  const key = `${from}/${to}/${convention}`;
  let taps = cache.get(key);
  if (taps === undefined) {
    taps = convention === "bilinear-antialias" ? triangle(from, to) : twoTaps(from, to, convention);
    if (cache.size > 64) {
      cache.clear();
    }
    cache.set(key, taps);
  }
  return taps;
}

function twoTaps(from: number, to: number, convention: BilinearConvention): Taps {
  const first = new Int32Array(to);
  const weights = new Float64Array(to * 2);
  for (let i = 0; i < to; i++) {
    const at =
      convention === "bilinear-tf1"
        ? (i * from) / to
        : convention === "bilinear-align-corners"
          ? to > 1
            ? (i * (from - 1)) / (to - 1)
            : 0
          : Math.max(0, ((i + 0.5) * from) / to - 0.5);
    const low = Math.min(from - 1, Math.floor(at));
    const part = low === from - 1 ? 0 : at - low;
    first[i] = Math.min(low, Math.max(0, from - 2));
    const shift = low - first[i]!;
    weights[i * 2 + shift] = 1 - part;
    if (shift === 0) {
      weights[i * 2 + 1] = part;
    }
  }
  return { first, weights, width: 2 };
}

/** The triangle of radius max(1, in / out) around each output's centre, normalised at the edges. */
function triangle(from: number, to: number): Taps {
  const scale = from / to;
  const radius = Math.max(1, scale);
  const width = Math.min(from, Math.ceil(radius) * 2 + 1);
  const first = new Int32Array(to);
  const weights = new Float64Array(to * width);
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale;
    const low = Math.max(0, Math.floor(centre - radius + 0.5));
    const high = Math.min(from, Math.floor(centre + radius + 0.5));
    first[i] = Math.max(0, Math.min(low, from - width));
    let sum = 0;
    for (let j = low; j < high; j++) {
      const weight = Math.max(0, 1 - Math.abs(j + 0.5 - centre) / radius);
      weights[i * width + j - first[i]!] = weight;
      sum += weight;
    }
    for (let k = 0; k < width; k++) {
      weights[i * width + k] = weights[i * width + k]! / sum;
    }
  }
  return { first, weights, width };
}

/**
 * Resize one picture.
 * @param source [h, w, channels]
 * @returns [height, width, channels], not rounded
 */
export function resizeBilinear(
  source: ArrayLike<number>,
  [h, w, channels]: readonly [number, number, number],
  [height, width]: readonly [number, number],
  convention: BilinearConvention,
): Float64Array {
  const across = tapsOf(w, width, convention);
  const down = tapsOf(h, height, convention);
  const rows = new Float64Array(h * width * channels);
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < width; x++) {
      const from = (y * w + across.first[x]!) * channels;
      for (let c = 0; c < channels; c++) {
        let sum = 0;
        for (let k = 0; k < across.width; k++) {
          const weight = across.weights[x * across.width + k]!;
          sum += weight === 0 ? 0 : weight * source[from + k * channels + c]!;
        }
        rows[(y * width + x) * channels + c] = sum;
      }
    }
  }
  const line = width * channels;
  const out = new Float64Array(height * line);
  for (let y = 0; y < height; y++) {
    for (let k = 0; k < down.width; k++) {
      const weight = down.weights[y * down.width + k]!;
      const from = (down.first[y]! + k) * line;
      if (weight !== 0) {
        for (let i = 0; i < line; i++) {
          out[y * line + i] = out[y * line + i]! + weight * rows[from + i]!;
        }
      }
    }
  }
  return out;
}
