/**
 * @file A small audio tokenizer without a network: the log-magnitude spectra of overlapping frames,
 * quantized by a residual vector quantizer whose codebooks are k-means centres of training frames.
 * Waveforms are made again by Griffin & Lim's phase recovery (1984). It stands where VideoPoet has
 * SoundStream: frames × levels of codes, each level with a codebook of its own.
 *
 * Everything runs on the host in float64 and is a pure function of the training waveforms.
 */

import { fftInPlace } from "../data/fft.ts";
import { Random } from "../runtime/random.ts";

export interface SpectralConfig {
  /** Samples of a window, a power of two; frames are half a window apart. */
  readonly window: number;
  /** Residual levels. */
  readonly levels: number;
  /** Codes a level. */
  readonly codes: number;
}

/** Turns waveforms of one length into codes and back. */
export interface AudioTokenizer {
  readonly samples: number;
  readonly frames: number;
  readonly levels: number;
  /** Codes a level. */
  readonly codes: number;
  /** Codes [frames, levels]. */
  encode(wave: Float32Array): Int32Array;
  /** A waveform of `samples` values in [-1, 1]. */
  decode(codes: ArrayLike<number>): Float32Array;
}

/** Magnitudes below this count as silence. */
const FLOOR = 1e-3;
const ITERATIONS = 40;

/** Number of frames of a waveform. */
export function spectralFrames(samples: number, window: number): number {
  return Math.ceil(samples / (window / 2)) + 1;
}

const sineWindow = (n: number): Float64Array =>
  Float64Array.from({ length: n }, (_, i) => Math.sin((Math.PI * (i + 0.5)) / n));

/** Short-time spectra [frames][bins] as real and imaginary parts. */
function spectra(wave: ArrayLike<number>, samples: number, window: number) {
  const hop = window / 2;
  const weights = sineWindow(window);
  return Array.from({ length: spectralFrames(samples, window) }, (_, frame) => {
    const real = new Float64Array(window);
    const imaginary = new Float64Array(window);
    for (let i = 0; i < window; i++) {
      real[i] = weights[i]! * (wave[(frame - 1) * hop + i] ?? 0);
    }
    fftInPlace(real, imaginary, -1);
    return { real, imaginary };
  });
}

/** Overlap-add of spectra: the inverse of `spectra`. */
function overlapAdd(
  frames: readonly { readonly real: Float64Array; readonly imaginary: Float64Array }[],
  samples: number,
  window: number,
): Float64Array {
  const hop = window / 2;
  const weights = sineWindow(window);
  const wave = new Float64Array(samples);
  for (const [frame, spectrum] of frames.entries()) {
    const real = spectrum.real.slice();
    const imaginary = spectrum.imaginary.slice();
    fftInPlace(real, imaginary, 1);
    for (let i = 0; i < window; i++) {
      const at = (frame - 1) * hop + i;
      if (at >= 0 && at < samples) {
        wave[at]! += (weights[i]! * real[i]!) / window;
      }
    }
  }
  return wave;
}

/** Log magnitudes [frames][window / 2 + 1] of a waveform. */
export function logSpectra(wave: ArrayLike<number>, samples: number, window: number) {
  const scale = 4 / window;
  return spectra(wave, samples, window).map(({ real, imaginary }) =>
    Float64Array.from({ length: window / 2 + 1 }, (_, k) =>
      Math.log(FLOOR + scale * Math.hypot(real[k]!, imaginary[k]!)),
    ),
  );
}

const distance = (a: Float64Array, book: Float64Array, code: number): number => {
  let sum = 0;
  for (let i = 0, at = code * a.length; i < a.length; i++, at++) {
    sum += (a[i]! - book[at]!) ** 2;
  }
  return sum;
};

function nearest(vector: Float64Array, book: Float64Array): number {
  let [best, least] = [0, Number.POSITIVE_INFINITY];
  for (let code = 0; code < book.length / vector.length; code++) {
    const d = distance(vector, book, code);
    if (d < least) {
      [best, least] = [code, d];
    }
  }
  return best;
}

/** k-means centres [codes, width]; a centre that wins nothing moves to a random vector. */
function kMeans(vectors: readonly Float64Array[], codes: number, random: Random): Float64Array {
  const width = vectors[0]!.length;
  const book = new Float64Array(codes * width);
  const first = random.permutation(vectors.length);
  for (let code = 0; code < codes; code++) {
    book.set(vectors[first[code % vectors.length]!]!, code * width);
  }
  for (let round = 0; round < 8; round++) {
    const sums = new Float64Array(codes * width);
    const counts = new Int32Array(codes);
    for (const vector of vectors) {
      const code = nearest(vector, book);
      counts[code]!++;
      for (let i = 0; i < width; i++) {
        sums[code * width + i]! += vector[i]!;
      }
    }
    for (let code = 0; code < codes; code++) {
      if (counts[code]! > 0) {
        for (let i = 0; i < width; i++) {
          book[code * width + i] = sums[code * width + i]! / counts[code]!;
        }
      } else {
        book.set(vectors[random.int(vectors.length)]!, code * width);
      }
    }
  }
  return book;
}

/**
 * Fit the codebooks of all levels to training waveforms.
 * @returns [levels, codes, window / 2 + 1]
 */
export function fitSpectral(
  waves: readonly Float32Array[],
  config: SpectralConfig,
  seed: number,
): Float32Array {
  const { window, levels, codes } = config;
  let rest = waves.flatMap((wave) => logSpectra(wave, wave.length, window));
  const bins = window / 2 + 1;
  const books = new Float32Array(levels * codes * bins);
  for (let level = 0; level < levels; level++) {
    const book = kMeans(rest, codes, new Random(seed, "audio/codebook", level));
    books.set(Float32Array.from(book), level * codes * bins);
    rest = rest.map((vector) => {
      const at = nearest(vector, book) * bins;
      return vector.map((value, i) => value - book[at + i]!);
    });
  }
  return books;
}

/** The tokenizer of fitted codebooks for waveforms of `samples` values. */
export function spectralTokenizer(
  books: Float32Array,
  { window, levels, codes }: SpectralConfig,
  samples: number,
): AudioTokenizer {
  const bins = window / 2 + 1;
  const level = Array.from({ length: levels }, (_, l) =>
    Float64Array.from(books.subarray(l * codes * bins, (l + 1) * codes * bins)),
  );
  const frames = spectralFrames(samples, window);
  return {
    samples,
    frames,
    levels,
    codes,
    encode(wave) {
      const out = new Int32Array(frames * levels);
      for (const [frame, spectrum] of logSpectra(wave, samples, window).entries()) {
        let rest = spectrum;
        for (const [l, book] of level.entries()) {
          const code = nearest(rest, book);
          out[frame * levels + l] = code;
          rest = rest.map((value, i) => value - book[code * bins + i]!);
        }
      }
      return out;
    },
    decode(ids) {
      const magnitudes = Array.from({ length: frames }, (_, frame) =>
        Float64Array.from({ length: bins }, (_unused, k) => {
          const log = level.reduce(
            (sum, book, l) => sum + book[ids[frame * levels + l]! * bins + k]!,
            0,
          );
          return Math.max(0, Math.exp(log) - FLOOR) * (window / 4);
        }),
      );
      // Phases that a stationary tone would have, then Griffin and Lim's alternation.
      let phases = magnitudes.map((_, frame) =>
        Float64Array.from({ length: bins }, (_unused, k) => Math.PI * k * frame),
      );
      let wave: Float64Array = new Float64Array(samples);
      for (let i = 0; i < ITERATIONS; i++) {
        wave = overlapAdd(
          magnitudes.map((magnitude, frame) => polar(magnitude, phases[frame]!, window)),
          samples,
          window,
        );
        phases = spectra(wave, samples, window).map(({ real, imaginary }) =>
          Float64Array.from({ length: bins }, (_, k) => Math.atan2(imaginary[k]!, real[k]!)),
        );
      }
      return Float32Array.from(wave, (value) => Math.min(1, Math.max(-1, value)));
    },
  };
}

/** The full spectrum of a real signal from magnitudes and phases of its first half. */
function polar(magnitude: Float64Array, phase: Float64Array, window: number) {
  const real = new Float64Array(window);
  const imaginary = new Float64Array(window);
  for (let k = 0; k <= window / 2; k++) {
    real[k] = magnitude[k]! * Math.cos(phase[k]!);
    imaginary[k] = magnitude[k]! * Math.sin(phase[k]!);
    if (k > 0 && k < window / 2) {
      real[window - k] = real[k]!;
      imaginary[window - k] = -imaginary[k]!;
    }
  }
  return { real, imaginary };
}
