/**
 * @file Batches in an order that is a pure function of (seed, epoch): nothing else, neither the
 * number of workers nor timing nor an interruption, changes which clip comes when.
 *
 * With `world` ranks the global batch is `batch · world` clips, and rank r gets the r-th slice of
 * it. So the ranks' batches of one step, put together, are the batch of a single rank of that size.
 * Sets that are read shard by shard are the exception: there each rank has shards of its own, and the
 * ranks' clips of one epoch, put together, are the set (see shard-order.ts).
 */

import { UserError } from "../config/errors.ts";
import { Random } from "../runtime/random.ts";
import { type Dataset, type Factors, type Sample, SampleError } from "./dataset.ts";
import { shardOrder, smallestShare } from "./shard-order.ts";
import { warnOnce } from "./warnings.ts";

export interface Batch {
  /** B. Only the last batch of a pass may have fewer than asked for. */
  readonly size: number;
  /** [B, T, H, W, 3] */
  readonly clips: Uint8Array;
  /** [B]; -1 where the set has no classes. */
  readonly labels: Int32Array;
  readonly ids: readonly string[];
  readonly captions: readonly string[];
  /** [B, samples] when the set has sound. */
  readonly audio?: Float32Array;
  readonly factors: readonly (Factors | undefined)[];
  /** [B, T, n] by name, where every clip has them. */
  readonly signals?: { readonly [name: string]: Float32Array };
}

export interface BatchOptions {
  /** Clips a batch, of this rank. */
  readonly batch: number;
  /** The run's seed, for the order. */
  readonly seed: number;
  readonly rank?: number;
  readonly world?: number;
  /**
   * Parts that the global batch is cut in, of which each rank gets its slice: the micro-batches of a step
   * that accumulates gradients. Default 1.
   */
  readonly parts?: number;
  /** Batches made ahead of need. Default 2. */
  readonly prefetch?: number;
}

/** The next batch that `Loader.next` will give: all that resuming needs. Plain JSON. */
export interface LoaderState {
  readonly epoch: number;
  /** Within the epoch, from 0. */
  readonly batch: number;
}

interface Draw {
  readonly index: number;
  readonly visit: number;
}

/**
 * Endless shuffled batches for training. Each epoch is a new permutation; what does not fill a
 * global batch at its end is dropped. A set smaller than one global batch is passed through as often
 * as it takes to fill one, each pass a permutation and a visit of its own.
 */
export class Loader {
  readonly dataset: Dataset;
  readonly batchesPerEpoch: number;
  readonly #options: Required<BatchOptions>;
  readonly #passes: number;
  readonly #queue: Promise<Batch>[] = [];
  /** The next batch to return. */
  #returned: LoaderState = { epoch: 0, batch: 0 };
  /** The next batch to start. */
  #started: LoaderState = { epoch: 0, batch: 0 };
  #order: { readonly epoch: number; readonly draws: readonly Draw[] } | undefined;

  constructor(dataset: Dataset, options: BatchOptions) {
    this.dataset = dataset;
    this.#options = checked(options);
    const { batch, world } = this.#options;
    if (dataset.shards) {
      const smallest = smallestShare(dataset, this.#options.seed, world);
      this.#passes = Math.max(1, Math.ceil(batch / smallest));
      this.batchesPerEpoch = Math.floor((this.#passes * smallest) / batch);
    } else {
      const whole = batch * world;
      this.#passes = Math.max(1, Math.ceil(whole / dataset.size));
      this.batchesPerEpoch = Math.floor((this.#passes * dataset.size) / whole);
    }
  }

  /** The next batch of this rank. */
  async next(): Promise<Batch> {
    if (this.#queue.length === 0) {
      this.#start();
    }
    const batch = await this.#queue[0]!;
    void this.#queue.shift();
    this.#returned = this.#after(this.#returned);
    while (this.#queue.length < this.#options.prefetch) {
      this.#start();
    }
    return batch;
  }

  /** Where the next `next` is. A loader that resumes from it goes on with exactly that batch. */
  state(): LoaderState {
    return this.#returned;
  }

  /** Go to a state of a loader of the same set and options. */
  resume(state: LoaderState): void {
    if (state.batch >= this.batchesPerEpoch) {
      throw new RangeError(
        `cannot resume at batch ${state.batch}: an epoch has ${this.batchesPerEpoch} batches`,
      );
    }
    this.#queue.length = 0;
    this.#returned = { epoch: state.epoch, batch: state.batch };
    this.#started = this.#returned;
  }

  #after({ epoch, batch }: LoaderState): LoaderState {
    return batch + 1 < this.batchesPerEpoch
      ? { epoch, batch: batch + 1 }
      : { epoch: epoch + 1, batch: 0 };
  }

  #start(): void {
    const { epoch, batch } = this.#started;
    const { batch: size, rank, world, parts } = this.#options;
    const order = this.#epochOrder(epoch);
    // Of shards, the order is this rank's own.
    const slices = this.dataset.shards ? 1 : parts;
    const slice = size / slices;
    const draws = Array.from({ length: slices }, (_, part) => {
      const first = this.dataset.shards
        ? batch * size
        : batch * world * size + (part * world + rank) * slice;
      return order.slice(first, first + slice);
    }).flat();
    const made = makeBatch(this.dataset, draws);
    // The failure belongs to the `next` that meets it, which may be some steps away.
    made.catch(() => undefined);
    this.#queue.push(made);
    this.#started = this.#after(this.#started);
  }

  #epochOrder(epoch: number): readonly Draw[] {
    if (this.#order?.epoch !== epoch) {
      const draws: Draw[] = [];
      for (let pass = 0; pass < this.#passes; pass++) {
        const visit = epoch * this.#passes + pass;
        const { seed, rank, world } = this.#options;
        const order = this.dataset.shards
          ? shardOrder(this.dataset, seed, visit, rank, world)
          : new Random(seed, "data/order", visit).permutation(this.dataset.size);
        for (const index of order) {
          draws.push({ index, visit });
        }
      }
      this.#order = { epoch, draws };
    }
    return this.#order.draws;
  }
}

/**
 * One exact pass in the set's own order: every item once, the last batch as small as it must be.
 * With several ranks each global batch is cut into near-equal slices; a rank may get none of the last.
 * @param limit stop after this many items
 */
export async function* onePass(
  dataset: Dataset,
  options: Omit<BatchOptions, "seed">,
  limit = dataset.size,
): AsyncGenerator<Batch> {
  const { batch, rank, world, prefetch } = checked({ ...options, seed: 0 });
  const total = Math.min(limit, dataset.size);
  const whole = batch * world;
  const queue: Promise<Batch>[] = [];
  let next = 0;
  const fill = (): void => {
    while (next < total && queue.length <= prefetch) {
      const count = Math.min(whole, total - next);
      const first = next + Math.floor((rank * count) / world);
      const last = next + Math.floor(((rank + 1) * count) / world);
      next += count;
      if (last > first) {
        const draws = Array.from({ length: last - first }, (_, i) => ({
          index: first + i,
          visit: 0,
        }));
        const made = makeBatch(dataset, draws);
        made.catch(() => undefined);
        queue.push(made);
      }
    }
  };
  for (fill(); queue.length > 0; fill()) {
    yield await queue.shift()!;
  }
}

function checked(options: BatchOptions): Required<BatchOptions> {
  const { batch, seed, rank = 0, world = 1, parts = 1, prefetch = 2 } = options;
  if (!Number.isInteger(batch) || batch < 1) {
    throw new RangeError(`a batch needs at least one clip, got ${batch}`);
  }
  if (
    !(Number.isInteger(world) && world >= 1 && Number.isInteger(rank) && rank >= 0 && rank < world)
  ) {
    throw new RangeError(`expected 0 <= rank < world, got rank ${rank} of ${world}`);
  }
  return { batch, seed, rank, world, parts, prefetch };
}

/** Decoding threads write their pixels to where they lie in the batch. */
async function makeBatch(dataset: Dataset, draws: readonly Draw[]): Promise<Batch> {
  const each = dataset.frames * dataset.height * dataset.width * 3;
  const clips = new Uint8Array(new SharedArrayBuffer(draws.length * each));
  const samples = await Promise.all(
    draws.map((draw, i) => drawSample(dataset, draw, clips.subarray(i * each, (i + 1) * each))),
  );
  return stack(samples, clips);
}

/**
 * The sample of a draw. One that cannot be had is replaced by the next index that can, so a
 * vanished file changes one clip and not the order of all others.
 */
export async function drawSample(
  dataset: Dataset,
  { index, visit }: Draw,
  into?: Uint8Array,
): Promise<Sample> {
  let reason = "";
  for (let step = 0; step < dataset.size; step++) {
    try {
      return await dataset.get((index + step) % dataset.size, visit, into);
    } catch (error) {
      if (!(error instanceof SampleError)) {
        throw error;
      }
      reason = error.message;
      warnOnce(`${dataset.split} data: ${reason}; the next clip takes its place`);
    }
  }
  throw new UserError(
    `none of the ${dataset.size} clips of the ${dataset.split} split can be read; the last one: ${reason}`,
    "Check that the files are still there and readable.",
  );
}

/**
 * Put samples of one shape together.
 * @param room [B, T, H, W, 3], where the clips may already lie
 */
export function stack(samples: readonly Sample[], room?: Uint8Array): Batch {
  const size = samples.length;
  const length = samples[0]?.clip.length ?? 0;
  const clips = room?.length === size * length ? room : new Uint8Array(size * length);
  const sounds = samples[0]?.audio?.length ?? 0;
  const audio = new Float32Array(size * sounds);
  for (const [i, sample] of samples.entries()) {
    if (sample.clip.length !== length || (sample.audio?.length ?? 0) !== sounds) {
      throw new RangeError(
        `the clips of a batch must have one shape: ${sample.id} has ${sample.clip.length} pixel and ` +
          `${sample.audio?.length ?? 0} sound values, ${samples[0]!.id} ${length} and ${sounds}`,
      );
    }
    const { buffer, byteOffset } = sample.clip;
    if (buffer !== clips.buffer || byteOffset !== clips.byteOffset + i * length) {
      clips.set(sample.clip, i * length);
    }
    if (sample.audio) {
      audio.set(sample.audio, i * sounds);
    }
  }
  return {
    size,
    clips,
    labels: Int32Array.from(samples, (sample) => sample.label),
    ids: samples.map((sample) => sample.id),
    captions: samples.map((sample) => sample.caption),
    ...(sounds > 0 ? { audio } : {}),
    factors: samples.map((sample) => sample.factors),
    ...(samples[0]?.signals && { signals: stackSignals(samples) }),
  };
}

function stackSignals(samples: readonly Sample[]): { readonly [name: string]: Float32Array } {
  const names = Object.keys(samples[0]!.signals!);
  return Object.fromEntries(
    names.map((name) => {
      const rows = samples.map(({ signals }) => signals?.[name] ?? new Float32Array(0));
      const length = rows[0]!.length;
      const all = new Float32Array(samples.length * length);
      for (const [i, row] of rows.entries()) {
        if (row.length !== length) {
          throw new RangeError(
            `${samples[i]!.id} has ${row.length} values of ${name}, not ${length}`,
          );
        }
        all.set(row, i * length);
      }
      return [name, all];
    }),
  );
}
