/**
 * @file Clips for evaluation: which ones, in what order, in batches of one shape. The choice depends
 * on the protocol's own seed and never on the run's, so runs of all seeds are judged on the same clips.
 */

import { createHash } from "node:crypto";
import { UserError } from "../config/errors.ts";
import { Type } from "../config/schema.ts";
import type { Dataset } from "../data/dataset.ts";
import { Random } from "../runtime/random.ts";
import { type HostTensor, uint8 } from "../runtime/tensors.ts";
import type { ClipShape } from "../tokenizers/tokenizer.ts";

/** Config keys of every suite that looks at clips. */
export const clipKeys = {
  split: Type.Union([Type.Literal("validation"), Type.Literal("train")], {
    default: "validation",
    description: "The split whose clips are judged.",
  }),
  clips: Type.Integer({
    minimum: 1,
    default: 256,
    description: "How many clips; all of the split when it has fewer.",
  }),
  seed: Type.Integer({
    minimum: 0,
    default: 0,
    description: "Seed of the choice of clips; part of the protocol, apart from the run's seed.",
  }),
};

/** Config key of every suite that looks at generated clips. */
export const samplingKey = {
  sampling: Type.Optional(
    Type.Record(Type.String(), Type.Union([Type.Number(), Type.String(), Type.Boolean()]), {
      description:
        "Keys of `objective.sampling` that are otherwise for this suite: the same weights judged under other steps, temperature or guidance.",
    }),
  ),
};

/** How `chooseClips` samples, for protocols. */
export const clipSampling = "random without replacement by seed, visit 0";

/**
 * Indices of `count` clips out of `size` (all when there are fewer), in random order. Not the first
 * ones: a folder's clips are sorted by class.
 */
export function chooseClips(size: number, count: number, seed: number): Uint32Array {
  return new Random(seed, "eval/clips").permutation(size).subarray(0, count);
}

/** A batch of clips. The tensor always has the full size; only the first `size` clips count. */
export interface ClipBatch {
  /** [B, T, H, W, 3] uint8. */
  readonly clips: HostTensor;
  readonly labels: Int32Array;
  readonly names: readonly string[];
  readonly captions: readonly string[];
  readonly size: number;
}

/**
 * Clips in the order of `indices`, in batches. The last batch repeats its last clip to fill up, as a
 * function is compiled once for each shape. The next batch loads while the caller works on this one.
 */
export class ClipStream {
  #hash = createHash("sha256");

  constructor(
    readonly dataset: Dataset,
    readonly indices: Uint32Array,
    readonly batch: number,
    /** Which draw of each clip (another span or crop); 0 is the one that all other suites see. */
    readonly visit: number = 0,
  ) {}

  async *[Symbol.asyncIterator](): AsyncGenerator<ClipBatch> {
    const { dataset, indices, batch, visit } = this;
    this.#hash = createHash("sha256");
    let next = indices.length > 0 ? loadBatch(dataset, indices, 0, batch, visit) : undefined;
    for (let from = 0; from < indices.length; from += batch) {
      const loaded = await next!;
      if (from + batch < indices.length) {
        next = loadBatch(dataset, indices, from + batch, batch, visit);
        // Awaited on the next turn; a caller that stops early must not crash on its failure.
        next.catch(() => undefined);
      }
      const values = loaded.clips.data.length / batch;
      this.#hash.update(loaded.clips.data.subarray(0, loaded.size * values));
      yield loaded;
    }
  }

  /**
   * 16 hex digits of the SHA-256 of all pixels of the pass, once it has ended. It stands in the protocol: scores are of
   * one protocol only when they judge the very same clips, wherever the files lie.
   */
  digest(): string {
    return this.#hash.copy().digest("hex").slice(0, 16);
  }
}

async function loadBatch(
  dataset: Dataset,
  indices: Uint32Array,
  from: number,
  batch: number,
  visit: number,
): Promise<ClipBatch> {
  const wanted = indices.subarray(from, from + batch);
  const samples = await Promise.all(Array.from(wanted, (index) => dataset.get(index, visit)));
  const { frames, height, width } = dataset;
  const values = frames * height * width * 3;
  const bytes = new Uint8Array(batch * values);
  for (let i = 0; i < batch; i++) {
    const { clip, id } = samples[Math.min(i, samples.length - 1)]!;
    if (clip.length !== values) {
      throw new UserError(
        `clip ${id} holds ${clip.length} values, expected ${frames} x ${height} x ${width} x 3`,
      );
    }
    bytes.set(clip, i * values);
  }
  return {
    clips: uint8([batch, frames, height, width, 3], bytes),
    labels: Int32Array.from(samples, (sample) => sample.label),
    names: samples.map((sample) => sample.id),
    captions: samples.map((sample) => sample.caption),
    size: samples.length,
  };
}

/** Throws a UserError when a data set's clips are not what a tokenizer was built for. */
export function checkClipShape(dataset: Dataset, clip: ClipShape): void {
  if (
    dataset.frames !== clip.frames ||
    dataset.height !== clip.height ||
    dataset.width !== clip.width
  ) {
    const sides = (shape: ClipShape): string =>
      `${shape.frames} x ${shape.height} x ${shape.width}`;
    throw new UserError(
      `the tokenizer takes clips of ${sides(clip)} (frames x height x width), the data set gives ${sides(dataset)}`,
      "set dataset.frames, dataset.height and dataset.width to the tokenizer's",
    );
  }
}

/**
 * Decoded pixels in about [-1, 1] to bytes: clipped, then rounded to the nearest (halves up).
 * Throws a UserError when a value is not finite.
 */
export function toBytes(decoded: Float32Array): Uint8Array {
  return Uint8Array.from(toFloats(decoded), (value) => Math.floor(value + 0.5));
}

/** Decoded pixels in about [-1, 1] to [0, 255], clipped and not rounded; else as `toBytes`. */
export function toFloats(decoded: Float32Array): Float32Array {
  return decoded.map((pixel) => {
    if (!Number.isFinite(pixel)) {
      throw new UserError(
        "the tokenizer decoded values that are not finite, so no picture can be judged",
        "its training diverged: look at its loss curve, lower trainer.tokenizer.lr",
      );
    }
    return Math.min(255, Math.max(0, (pixel + 1) * 127.5));
  });
}
