/**
 * @file Log-mel spectrograms as pictures: Hann windows of 25 ms, power of the discrete Fourier transform,
 * triangular bands equally wide in mel (2595 · log10(1 + f / 700)) from 60 Hz to half of the rate, in
 * decibels from −80 to 0 below the loudest that a full-scale sine can be, as grey levels from 0 to 255. Low bands are
 * below, time runs to the right.
 */

import { fftInPlace } from "./fft.ts";

const FLOOR_DB = 80;

const toMel = (hertz: number): number => 2595 * Math.log10(1 + hertz / 700);
const toHertz = (mel: number): number => 700 * (10 ** (mel / 2595) - 1);

/**
 * The picture of a waveform.
 * @param audio mono, in [-1, 1]
 * @returns grey RGB [bands, columns, 3]
 */
export function melPicture(
  audio: Float32Array,
  rate: number,
  bands: number,
  columns: number,
): Uint8Array {
  const window = Math.max(16, Math.round(0.025 * rate));
  const size = 2 ** Math.ceil(Math.log2(window));
  const [low, high] = [toMel(60), toMel(rate / 2)];
  const edges = Array.from({ length: bands + 2 }, (_, i) => (toHertz(low + ((high - low) * i) / (bands + 1)) * size) / rate); // biome-ignore format: one call
  const out = new Uint8Array(bands * columns * 3);
  const re = new Float64Array(size);
  const im = new Float64Array(size);
  for (let column = 0; column < columns; column++) {
    const centre = ((column + 0.5) * audio.length) / columns;
    re.fill(0);
    im.fill(0);
    for (let i = 0; i < window; i++) {
      const at = Math.floor(centre - window / 2) + i;
      re[i] = (audio[at] ?? 0) * (0.5 - 0.5 * Math.cos((2 * Math.PI * i) / window));
    }
    fftInPlace(re, im, -1);
    for (let band = 0; band < bands; band++) {
      const [left, middle, right] = [edges[band]!, edges[band + 1]!, edges[band + 2]!];
      let power = 0;
      let weights = 0;
      for (let k = Math.floor(left); k <= Math.ceil(right) && k <= size / 2; k++) {
        const weight = Math.max(0, Math.min((k - left) / (middle - left), (right - k) / (right - middle))); // biome-ignore format: one formula
        power += weight * (re[k]! ** 2 + im[k]! ** 2);
        weights += weight;
      }
      // Narrow low bands may lie between two lines of the transform: take the nearest.
      const line = Math.round(middle);
      const mean = weights > 0 ? power / weights : re[line]! ** 2 + im[line]! ** 2;
      const decibels = 10 * Math.log10(mean / (window / 4) ** 2 + 1e-12);
      const grey = Math.round(255 * Math.min(1, Math.max(0, 1 + decibels / FLOOR_DB)));
      const to = ((bands - 1 - band) * columns + column) * 3;
      out.fill(grey, to, to + 3);
    }
  }
  return out;
}
