/** @file A look at a split: statistics of some of its clips, and the clips on a contact sheet. */

import { Random } from "../runtime/random.ts";
import type { Dataset, Sample } from "./dataset.ts";
import { contactSheet, type Picture } from "./image.ts";
import { drawSample } from "./loader.ts";

export interface SplitStatistics {
  readonly clips: number;
  readonly looked_at: number;
  /** Of R, G, B in 0..255. */
  readonly mean: readonly number[];
  readonly std: readonly number[];
  /** Share of pixel values that are 0 or 255: clipped, or padded. */
  readonly extreme_share: number;
  /** Mean absolute difference of neighbouring frames, 0..255. */
  readonly motion: number;
  /** Share of neighbouring frames that are equal to the byte: repeated frames. */
  readonly still_share: number;
  /** Of the sound, where there is some. */
  readonly sound_rms?: number;
  readonly silent_share?: number;
  /** Clips by class among those looked at, most first. */
  readonly labels: readonly { readonly name: string; readonly clips: number }[];
  readonly captioned: number;
}

export interface Inspection {
  readonly statistics: SplitStatistics;
  readonly sheet: Picture;
  /** Names and captions of the rows of the sheet. */
  readonly rows: readonly {
    readonly id: string;
    readonly label: string;
    readonly caption: string;
  }[];
}

/**
 * Look at some clips of a split, chosen by seed.
 * @param count clips for the statistics; the first `rows` of them make the sheet
 */
export async function inspectDataset(
  dataset: Dataset,
  count: number,
  rows: number,
  columns: number,
): Promise<Inspection> {
  const chosen = new Random(0, "data/inspect").permutation(dataset.size).subarray(0, count);
  const shown: Sample[] = [];
  const sums = new Sums(dataset);
  for (let from = 0; from < chosen.length; from += 16) {
    const some = chosen.subarray(from, from + 16);
    const samples = await Promise.all(
      Array.from(some, (index) => drawSample(dataset, { index, visit: 0 })),
    );
    for (const sample of samples) {
      sums.add(sample);
      if (shown.length < rows) {
        shown.push(sample);
      }
    }
  }
  const { frames, height, width } = dataset;
  const sheet = contactSheet(
    shown.map(({ clip }) => ({ data: clip, frames, height, width })),
    { columns },
  );
  return {
    statistics: sums.done(),
    sheet,
    rows: shown.map(({ id, label, caption }) => ({
      id,
      label: dataset.classes[label] ?? "",
      caption,
    })),
  };
}

class Sums {
  readonly #dataset: Dataset;
  readonly #sum = [0, 0, 0];
  readonly #squares = [0, 0, 0];
  readonly #labels = new Map<string, number>();
  #pixels = 0;
  #extreme = 0;
  #difference = 0;
  #differences = 0;
  #still = 0;
  #pairs = 0;
  #clips = 0;
  #captioned = 0;
  #sound = 0;
  #soundSamples = 0;
  #silent = 0;

  constructor(dataset: Dataset) {
    this.#dataset = dataset;
  }

  add({ clip, label, caption, audio }: Sample): void {
    const { frames, classes } = this.#dataset;
    const size = clip.length / frames;
    this.#clips += 1;
    this.#captioned += caption === "" ? 0 : 1;
    this.#pixels += clip.length / 3;
    for (let i = 0; i < clip.length; i++) {
      const value = clip[i]!;
      const c = i % 3;
      this.#sum[c] = this.#sum[c]! + value;
      this.#squares[c] = this.#squares[c]! + value * value;
      this.#extreme += value === 0 || value === 255 ? 1 : 0;
    }
    for (let t = 1; t < frames; t++) {
      let difference = 0;
      for (let i = 0; i < size; i++) {
        difference += Math.abs(clip[t * size + i]! - clip[(t - 1) * size + i]!);
      }
      this.#difference += difference;
      this.#differences += size;
      this.#still += difference === 0 ? 1 : 0;
      this.#pairs += 1;
    }
    if (label >= 0) {
      const name = classes[label] ?? String(label);
      this.#labels.set(name, (this.#labels.get(name) ?? 0) + 1);
    }
    if (audio) {
      const energy = audio.reduce((sum, value) => sum + value * value, 0);
      this.#sound += energy;
      this.#soundSamples += audio.length;
      this.#silent += energy === 0 ? 1 : 0;
    }
  }

  done(): SplitStatistics {
    const mean = this.#sum.map((sum) => sum / this.#pixels);
    return {
      clips: this.#dataset.size,
      looked_at: this.#clips,
      mean,
      std: this.#squares.map((sum, c) => Math.sqrt(Math.max(0, sum / this.#pixels - mean[c]! ** 2))), // biome-ignore format: one call
      extreme_share: this.#extreme / (3 * this.#pixels),
      motion: this.#differences > 0 ? this.#difference / this.#differences : 0,
      still_share: this.#pairs > 0 ? this.#still / this.#pairs : 0,
      ...(this.#soundSamples > 0 && {
        sound_rms: Math.sqrt(this.#sound / this.#soundSamples),
        silent_share: this.#silent / this.#clips,
      }),
      labels: [...this.#labels].sort(([, a], [, b]) => b - a).map(([name, clips]) => ({ name, clips })), // biome-ignore format: one call
      captioned: this.#captioned,
    };
  }
}
