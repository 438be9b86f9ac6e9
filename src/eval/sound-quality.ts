/**
 * @file How near decoded sound is to the original: scale-invariant signal-to-distortion ratio (Le Roux et
 * al., "SDR - half-baked or well done?", ICASSP 2019), signal-to-noise ratio, and the distance of log-mel
 * spectrograms.
 */

import { fftInPlace } from "../data/fft.ts";

type Wave = ArrayLike<number>;

const sumOf = (n: number, f: (i: number) => number): number => {
  let sum = 0;
  for (let i = 0; i < n; i++) {
    sum += f(i);
  }
  return sum;
};

/** Mean square of a sound. */
export function power(wave: Wave): number {
  return sumOf(wave.length, (i) => wave[i]! ** 2) / wave.length;
}

/** A ratio in dB, at most 100 and at least -100. */
const decibels = (ratio: number): number =>
  Math.min(100, Math.max(-100, 10 * Math.log10(ratio))) || -100;

/** 10 log10(|s|² / |s - ŝ|²). */
export function snr(original: Wave, made: Wave): number {
  const noise = sumOf(original.length, (i) => (original[i]! - made[i]!) ** 2) / original.length;
  return decibels(power(original) / noise);
}

/** 10 log10(|αs|² / |αs - ŝ|²) with α = ⟨ŝ, s⟩ / |s|², both of mean zero: no matter how loud ŝ is. */
export function siSdr(original: Wave, made: Wave): number {
  const n = original.length;
  const mean = (wave: Wave): number => sumOf(n, (i) => wave[i]!) / n;
  const [meanS, meanM] = [mean(original), mean(made)];
  const s = (i: number): number => original[i]! - meanS;
  const m = (i: number): number => made[i]! - meanM;
  const alpha = sumOf(n, (i) => s(i) * m(i)) / sumOf(n, (i) => s(i) ** 2);
  const target = sumOf(n, (i) => (alpha * s(i)) ** 2);
  const noise = sumOf(n, (i) => (alpha * s(i) - m(i)) ** 2);
  return decibels(target / noise);
}

const toMel = (hertz: number): number => 2595 * Math.log10(1 + hertz / 700);
const toHertz = (mel: number): number => 700 * (10 ** (mel / 2595) - 1);

/** Mel bands of a rate: their number and how each bin of a window counts to each. */
export interface MelBank {
  readonly window: number;
  readonly hop: number;
  readonly size: number;
  readonly bands: readonly (readonly (readonly [bin: number, weight: number])[])[];
}

/** The bank of `sound:log-mel`; bands that hold no bin are left out. */
export function melBank(rate: number): MelBank {
  const window = Math.max(16, Math.round(0.025 * rate));
  const size = 2 ** Math.ceil(Math.log2(window));
  const [low, high] = [toMel(60), toMel(rate / 2)];
  const edges = Array.from(
    { length: 42 },
    (_, i) => (toHertz(low + ((high - low) * i) / 41) * size) / rate,
  );
  const bands = Array.from({ length: 40 }, (_, band) => {
    const [left, middle, right] = edges.slice(band, band + 3) as [number, number, number];
    const bins: [number, number][] = [];
    for (let k = Math.ceil(left); k <= Math.min(size / 2, Math.floor(right)); k++) {
      const weight = Math.min((k - left) / (middle - left), (right - k) / (right - middle));
      if (weight > 0) {
        bins.push([k, weight]);
      }
    }
    return bins;
  }).filter((bins) => bins.length > 0);
  return { window, hop: Math.max(1, Math.round(0.01 * rate)), size, bands };
}

const FLOOR = 1e-6;

/** Log-mel energies in dB, frame by frame: [frames · bands]. */
export function logMel(wave: Wave, { window, hop, size, bands }: MelBank): Float64Array {
  const frames = Math.max(1, 1 + Math.floor((wave.length - window) / hop));
  const out = new Float64Array(frames * bands.length);
  for (let f = 0; f < frames; f++) {
    const re = new Float64Array(size);
    const im = new Float64Array(size);
    for (let i = 0; i < window; i++) {
      const hann = 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / window);
      re[i] = hann * (wave[f * hop + i] ?? 0);
    }
    fftInPlace(re, im, -1);
    for (const [b, bins] of bands.entries()) {
      let energy = 0;
      for (const [k, weight] of bins) {
        energy += (weight * (re[k]! ** 2 + im[k]! ** 2)) / window;
      }
      out[f * bands.length + b] = 10 * Math.log10(energy + FLOOR);
    }
  }
  return out;
}

/** Mean absolute difference of two sounds' log-mel energies, dB. */
export function logMelDistance(original: Wave, made: Wave, bank: MelBank): number {
  const [a, b] = [logMel(original, bank), logMel(made, bank)];
  return sumOf(a.length, (i) => Math.abs(a[i]! - b[i]!)) / a.length;
}
