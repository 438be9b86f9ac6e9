/** @file What every data set is to the rest of Tessera. */

/** One clip and what is known of it. */
export interface Sample {
  /** Names the clip for good: file and span, or generator, split and index. */
  readonly id: string;
  /** [T, H, W, 3] RGB, row-major. */
  readonly clip: Uint8Array;
  /** Class index, or -1 when the set has no classes. */
  readonly label: number;
  readonly caption: string;
  /** Mono waveform of the clip's exact time span, in [-1, 1], when the set has sound. */
  readonly audio?: Float32Array;
  /** Exact generative factors, when they are known (procedural sets). */
  readonly factors?: Factors;
  /** Recorded numbers of each frame by name (actions of a robot, ...): [T, n]. */
  readonly signals?: { readonly [name: string]: Float32Array };
}

/** Generative factors by name; what changes over the clip is a list of one number a frame. */
export type Factors = {
  readonly [name: string]: number | string | boolean | readonly number[];
};

/** A file that was left out, and why. */
export interface Skipped {
  readonly file: string;
  readonly reason: string;
}

/** Runs of indices that lie together, and how training reads them. */
export interface Shards {
  /** First index of each shard, rising; the first is 0. */
  readonly starts: readonly number[];
  /** Clips of the shuffle buffer. */
  readonly buffer: number;
}

/**
 * One split of a data set with random access. `get` is a pure function of (index, visit): the same
 * two numbers give the same bytes in any process, so order and resumption are the loader's alone.
 */
export interface Dataset {
  readonly type: string;
  readonly split: "train" | "validation";
  /** Number of items of an epoch. Infinite generators state the epoch length they were given. */
  readonly size: number;
  readonly frames: number;
  readonly height: number;
  readonly width: number;
  /** Frames a second of the clips. */
  readonly fps: number;
  /** Samples a second of the sound, 0 without sound. */
  readonly audioRate: number;
  /** Class names by label. */
  readonly classes: readonly string[];
  /** Changes when the content would: generator version and options, or the files' names, sizes and times. */
  readonly fingerprint: string;
  /** Videos, pictures or records that the clips are cut from, where there are such. */
  readonly items?: number;
  /** How clips are cut and their pixels made, by name: part of every score's protocol. */
  readonly sampling?: { readonly [choice: string]: unknown };
  /** Where clips lie in shards and are to be read shard by shard through a shuffle buffer. */
  readonly shards?: Shards;
  /** The label of an index without its clip; left out where only the clip tells. */
  labelOf?(index: number): number;
  /** Files that were found and left out when the set was opened. */
  readonly skipped?: readonly Skipped[];
  /**
   * @param index 0 <= index < size
   * @param visit how often this index was drawn before (the epoch); random crops and spans differ by it
   * @param into [T, H, W, 3] in memory that threads share: a set whose pixels are made in threads has
   *   them written there, and gives it as the sample's clip; other sets need not heed it
   */
  get(index: number, visit: number, into?: Uint8Array): Promise<Sample>;
  close(): Promise<void>;
}

/**
 * A sample that cannot be had: its file vanished or does not decode. The loader draws another in its
 * place and says so once; any other error of `get` ends the run.
 */
export class SampleError extends Error {
  override name = "SampleError";
}
