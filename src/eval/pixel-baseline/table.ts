/** @file Clips on the host as the pixel baseline reads them: classes, centres, bands of sound, bags of words. */

import { UserError } from "../../config/errors.ts";
import type { Dataset, Sample } from "../../data/dataset.ts";
import { wordsOf } from "../../models/text-lm.ts";
import { logSpectra } from "../../tokenizers/spectral-audio.ts";
import { chooseClips } from "../clips.ts";

/** Samples of a clip's sound in a window, frames and bands that the model sees. */
export const SOUND = { window: 256, times: 8, bands: 32 } as const;

/** Clips on the host, as the model reads them. */
export interface Table {
  readonly samples: readonly Sample[];
  readonly labels: Int32Array;
  /** [clips, times · bands] */
  readonly sound: Float32Array;
  /** [clips, words] */
  readonly words: Float32Array;
  /** [clips, T, 2]: (x, y) in halves of the frame's sides from its middle. */
  readonly centres: Float32Array;
}

/** What is read of a split. */
export interface TableConfig {
  readonly reads: readonly string[];
  readonly tasks: readonly string[];
  readonly seed: number;
}

/** Clips of a split with what the model reads beside pixels; words of the first split name the vocabulary. */
export async function readTable(
  config: TableConfig,
  dataset: Dataset,
  count: number,
  vocabulary: string[],
): Promise<Table> {
  const indices = Array.from(chooseClips(dataset.size, count, config.seed));
  const samples = await Promise.all(indices.map((index) => dataset.get(index, 0)));
  if (vocabulary.length === 0) {
    vocabulary.push(...new Set(samples.flatMap(({ caption }) => wordsOf(caption))));
    vocabulary.sort();
  }
  const { frames, height, width } = dataset;
  const words = new Float32Array(samples.length * Math.max(1, vocabulary.length));
  const sound = new Float32Array(samples.length * SOUND.times * SOUND.bands);
  const centres = new Float32Array(samples.length * frames * 2);
  for (const [i, { caption, audio, factors }] of samples.entries()) {
    for (const word of config.reads.includes("caption") ? wordsOf(caption) : []) {
      const at = vocabulary.indexOf(word);
      if (at >= 0) {
        words[i * vocabulary.length + at] = 1;
      }
    }
    if (config.reads.includes("audio") && audio) {
      sound.set(bands(audio), i * SOUND.times * SOUND.bands);
    }
    if (config.tasks.includes("locate")) {
      const [x, y] = [factors?.["x"], factors?.["y"]] as (readonly number[] | undefined)[];
      if (x?.length !== frames || y?.length !== frames) {
        throw new UserError(
          `suite pixel-baseline: clips of ${dataset.type} do not say where their shape is`,
          "leave locate out of `tasks`",
        );
      }
      for (let t = 0; t < frames; t++) {
        centres[(i * frames + t) * 2] = (2 * x[t]!) / width - 1;
        centres[(i * frames + t) * 2 + 1] = (2 * y[t]!) / height - 1;
      }
    }
  }
  const labels = Int32Array.from(samples, ({ label }) => label);
  return { samples, labels, sound, words, centres };
}

/** Log spectra averaged over times and bands, about zero: [times · bands]. */
function bands(wave: Float32Array): Float32Array {
  const spectra = logSpectra(wave, wave.length, SOUND.window);
  const out = new Float32Array(SOUND.times * SOUND.bands);
  const bins = spectra[0]!.length;
  for (const [t, spectrum] of spectra.entries()) {
    const time = Math.floor((t * SOUND.times) / spectra.length);
    const share = Math.max(1, spectra.length / SOUND.times) * Math.max(1, bins / SOUND.bands);
    spectrum.forEach((value, k) => {
      const band = Math.floor((k * SOUND.bands) / bins);
      out[time * SOUND.bands + band]! += value / share;
    });
  }
  const mean = out.reduce((sum, v) => sum + v, 0) / out.length;
  return out.map((v) => v - mean);
}

/** Distance of two paths [T, 2] in pixels, the mean over frames. */
export function meanDistance(
  a: Float32Array,
  b: Float32Array,
  width: number,
  height: number,
): number {
  let sum = 0;
  for (let t = 0; t < a.length; t += 2) {
    sum += Math.hypot(((a[t]! - b[t]!) * width) / 2, ((a[t + 1]! - b[t + 1]!) * height) / 2);
  }
  return sum / (a.length / 2);
}

/** The mean path: [T, 2]. */
export function meanCentres(centres: Float32Array, frames: number): Float32Array {
  const length = frames * 2;
  const count = centres.length / length;
  const mean = new Float32Array(length);
  centres.forEach((value, i) => (mean[i % length]! += value / count));
  return mean;
}
