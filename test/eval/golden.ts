/** @file The deterministic inputs that the golden files were computed from, and a reader of them. */

import { readFileSync } from "node:fs";

/** One golden file of test/goldens. */
export function golden<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(`../goldens/${name}.json`, import.meta.url), "utf8")) as T;
}

/** `count` values frac(sin((i + 1)·12.9898)·43758.5453), i from `start`. */
export function fracsin(count: number, start = 0): Float64Array {
  return Float64Array.from({ length: count }, (_, i) => {
    const value = Math.sin((start + i + 1) * 12.9898) * 43758.5453;
    return value - Math.floor(value);
  });
}

/** The i-th output of mulberry32 seeded with `seed`. */
export function mulberry(seed: number, i: number): number {
  const a = (seed + Math.imul(i + 1, 0x6d2b79f5)) >>> 0;
  let t = Math.imul(a ^ (a >>> 15), a | 1) >>> 0;
  t = (t ^ (t + Math.imul(t ^ (t >>> 7), t | 61))) >>> 0;
  return (t ^ (t >>> 14)) >>> 0;
}

const triangle = (v: number, p: number): number =>
  Math.abs((((v % (2 * p)) + 2 * p) % (2 * p)) - p);

/** A smooth test picture, interleaved [H, W, C], rolled right by `roll` pixels. */
export function referenceImage(
  channels: number,
  height: number,
  width: number,
  roll = 0,
): Uint8Array {
  const out = new Uint8Array(height * width * channels);
  for (let y = 0; y < height; y++) {
    for (let column = 0; column < width; column++) {
      const x = (((column - roll) % width) + width) % width;
      for (let c = 0; c < channels; c++) {
        const value =
          triangle(x * 3 + y * 2 + c * 11, 97) +
          triangle(x - 2 * y + 40 * c + 500, 61) +
          triangle(Math.floor((x * y) / 16) + 7 * c, 53) +
          22;
        out[(y * width + column) * channels + c] = Math.min(255, Math.max(0, value));
      }
    }
  }
  return out;
}

/** The picture with integer noise, and 5 darker in its right half. */
export function distortedImage(
  reference: Uint8Array,
  channels: number,
  height: number,
  width: number,
  seed = 7,
  amplitude = 24,
): Uint8Array {
  const out = new Uint8Array(reference.length);
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const noise =
          (mulberry(seed, (c * height + y) * width + x) % amplitude) - Math.floor(amplitude / 2);
        const at = (y * width + x) * channels + c;
        const value = reference[at]! + noise + (x >= Math.floor(width / 2) ? -5 : 0);
        out[at] = Math.min(255, Math.max(0, value));
      }
    }
  }
  return out;
}
