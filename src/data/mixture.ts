/**
 * @file `mixture`: several data sets as one. An epoch takes a stated number of clips; which source
 * gives each is fixed by the weights, exactly and not by chance: of any run of clips, each source has its
 * share to within one. Weights may change over the epochs, and sources or classes can be balanced. Which
 * clip is drawn is a pure function of (seed, index, visit), as for any other set.
 *
 * Pictures join videos as clips that stand still.
 */

import { createHash } from "node:crypto";
import { canonicalJson } from "../config/hash.ts";
import { UserError } from "../config/errors.ts";
import { Random } from "../runtime/random.ts";
import type { Dataset, Sample } from "./dataset.ts";

/** A source that is open. */
export interface Source {
  readonly name: string;
  readonly dataset: Dataset;
  /** Share at the beginning and, after `over` epochs, at the end. */
  readonly weight: number;
  readonly final: number;
}

export interface MixtureOptions {
  /** Clips of an epoch. */
  readonly size: number;
  /** Epochs that weights take to change. */
  readonly over: number;
  /** Draw classes in turn within each source. */
  readonly balanced: boolean;
  readonly seed: number;
  readonly frames: number;
  readonly height: number;
  readonly width: number;
}

/** The weights of the sources in an epoch: from the first to the last in equal steps. */
export function weightsAt(
  sources: readonly Pick<Source, "weight" | "final">[],
  visit: number,
  over: number,
): number[] {
  const part = over > 0 ? Math.min(1, visit / over) : 0;
  return sources.map(({ weight, final }) => weight + (final - weight) * part);
}

/**
 * Which source gives each clip of an epoch, and the how-manieth clip of it that is. The source that is
 * furthest behind its share comes next, so that shares hold in every prefix to within one.
 */
export function quotas(
  weights: readonly number[],
  size: number,
): { source: Uint16Array; nth: Uint32Array; counts: number[] } {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const counts = weights.map(() => 0);
  const source = new Uint16Array(size);
  const nth = new Uint32Array(size);
  for (let i = 0; i < size; i++) {
    let best = 0;
    let behind = Number.NEGATIVE_INFINITY;
    for (const [k, weight] of weights.entries()) {
      const lag = (weight / total) * (i + 1) - counts[k]!;
      if (weight > 0 && lag > behind + 1e-9) {
        [best, behind] = [k, lag];
      }
    }
    source[i] = best;
    nth[i] = counts[best]!;
    counts[best] = counts[best]! + 1;
  }
  return { source, nth, counts };
}

/** The order in which a source's items come: all once before any twice; by class in turn if balanced. */
class Turns {
  readonly #dataset: Dataset;
  readonly #seed: number;
  readonly #stream: string;
  /** Items by class, where classes take turns. */
  readonly #classes: readonly (readonly number[])[] | undefined;
  readonly #orders = new Map<string, Uint32Array>();

  constructor(name: string, dataset: Dataset, balanced: boolean, seed: number) {
    this.#dataset = dataset;
    this.#seed = seed;
    this.#stream = `mixture/${name}`;
    this.#classes = balanced ? byClass(name, dataset) : undefined;
  }

  /** Item `k` of all that this source ever gives, and how often that item came before. */
  at(k: number): { index: number; visit: number } {
    if (!this.#classes) {
      const { size } = this.#dataset;
      const pass = Math.floor(k / size);
      return { index: this.#order("", pass, size)[k % size]!, visit: pass };
    }
    const label = k % this.#classes.length;
    const items = this.#classes[label]!;
    const turn = Math.floor(k / this.#classes.length);
    const pass = Math.floor(turn / items.length);
    const place = this.#order(`/${label}`, pass, items.length)[turn % items.length]!;
    return { index: items[place]!, visit: pass };
  }

  #order(part: string, pass: number, size: number): Uint32Array {
    const key = `${part}/${pass}`;
    let order = this.#orders.get(key);
    if (order === undefined) {
      order = new Random(this.#seed, this.#stream + part, pass).permutation(size);
      if (this.#orders.size > 4096) {
        this.#orders.clear();
      }
      this.#orders.set(key, order);
    }
    return order;
  }
}

function byClass(name: string, dataset: Dataset): number[][] {
  const { size, classes } = dataset;
  if (!dataset.labelOf) {
    throw new UserError(
      `source ${name} of the mixture cannot be balanced: its labels are known only from its clips`,
      "Set dataset.balance=none.",
    );
  }
  const lists = classes.map((): number[] => []);
  for (let i = 0; i < size; i++) {
    lists[dataset.labelOf(i)]?.push(i);
  }
  const filled = lists.filter((list) => list.length > 0);
  if (filled.length === 0) {
    throw new UserError(`source ${name} of the mixture has no classes to balance`);
  }
  return filled;
}

/** Mix sources of one split. @throws UserError when their clips cannot stand in one batch */
export function mix(
  split: "train" | "validation",
  sources: readonly Source[],
  options: MixtureOptions,
): Dataset {
  const { size, frames, height, width, seed } = options;
  for (const { name, dataset } of sources) {
    const fits = dataset.height === height && dataset.width === width;
    if (!fits || (dataset.frames !== frames && dataset.frames !== 1)) {
      throw new UserError(
        `source ${name} of the mixture gives clips of ${dataset.frames}×${dataset.height}×${dataset.width}, the mixture has ${frames}×${height}×${width}`,
        "Give all sources one size; only pictures (frames: 1) may have fewer frames.",
      );
    }
  }
  const rates = new Set(sources.map(({ dataset }) => dataset.audioRate));
  if (rates.size > 1) {
    throw new UserError(
      "the sources of a mixture must all have sound of one rate, or none",
      "Set dataset.sources.*.audio_rate.",
    );
  }
  const classes = [...new Set(sources.flatMap(({ dataset }) => dataset.classes))];
  const numbers = new Map(classes.map((name, i) => [name, i]));
  const labelled = (dataset: Dataset, label: number): number =>
    numbers.get(dataset.classes[label] ?? "") ?? -1;
  const turns = sources.map(
    ({ name, dataset }) => new Turns(name, dataset, options.balanced, seed),
  );
  const plan = new Plan(sources, size, options.over);
  const moving = sources.filter(({ dataset }) => dataset.frames > 1);
  return {
    type: "mixture",
    split,
    size,
    frames,
    height,
    width,
    fps: moving[0]?.dataset.fps ?? 1,
    audioRate: [...rates][0] ?? 0,
    classes,
    fingerprint: createHash("sha256")
      .update(
        canonicalJson([
          "mixture-1",
          options,
          sources.map(({ name, dataset, weight, final }) => [name, dataset.fingerprint, weight, final]), // biome-ignore format: one call
        ]),
      )
      .digest("hex"),
    sampling: {
      split,
      balance: options.balanced ? "classes" : "none",
      sources: Object.fromEntries(
        sources.map(({ name, dataset, weight, final }) => [name, { weight, final, ...dataset.sampling }]), // biome-ignore format: one call
      ),
    },
    skipped: sources.flatMap(({ name, dataset }) =>
      (dataset.skipped ?? []).map(({ file, reason }) => ({ file: `${name}: ${file}`, reason })),
    ),
    get: async (index, visit, into) => {
      const { source, nth } = plan.find(index, visit);
      const { name, dataset } = sources[source]!;
      const drawn = turns[source]!.at(nth);
      const whole = dataset.frames === frames;
      const sample = await dataset.get(drawn.index, drawn.visit, whole ? into : undefined);
      return {
        ...sample,
        id: `${name}/${sample.id}`,
        label: labelled(dataset, sample.label),
        clip: whole ? sample.clip : still(sample, frames),
      };
    },
    close: async () => {
      await Promise.all(sources.map(({ dataset }) => dataset.close()));
    },
  };
}

/** A picture as a clip: each frame is the picture. */
function still({ clip }: Sample, frames: number): Uint8Array {
  const out = new Uint8Array(clip.length * frames);
  for (let t = 0; t < frames; t++) {
    out.set(clip, t * clip.length);
  }
  return out;
}

/** Where each clip of each epoch comes from. */
class Plan {
  readonly #sources: readonly Source[];
  readonly #size: number;
  readonly #over: number;
  readonly #epochs = new Map<number, ReturnType<typeof quotas>>();
  /** Clips that each source has given before an epoch. */
  readonly #before: number[][];

  constructor(sources: readonly Source[], size: number, over: number) {
    this.#sources = sources;
    this.#size = size;
    this.#over = over;
    this.#before = [sources.map(() => 0)];
  }

  find(index: number, visit: number): { source: number; nth: number } {
    for (let epoch = this.#before.length; epoch <= visit; epoch++) {
      const { counts } = this.#epoch(epoch - 1);
      this.#before.push(this.#before[epoch - 1]!.map((count, k) => count + counts[k]!));
    }
    const { source, nth } = this.#epoch(visit);
    const k = source[index]!;
    return { source: k, nth: this.#before[visit]![k]! + nth[index]! };
  }

  #epoch(visit: number): ReturnType<typeof quotas> {
    // Once weights stand, all epochs are alike.
    const key = Math.min(visit, Math.ceil(this.#over));
    let made = this.#epochs.get(key);
    if (made === undefined) {
      made = quotas(weightsAt(this.#sources, key, this.#over), this.#size);
      if (this.#epochs.size > 8) {
        this.#epochs.clear();
      }
      this.#epochs.set(key, made);
    }
    return made;
  }
}
