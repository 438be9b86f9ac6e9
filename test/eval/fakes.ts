/** @file A context of suites on the reference device, and a tokenizer simple enough to know its results. */

import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as tf from "@tensorflow/tfjs-core";
import type { Dataset } from "../../src/data/dataset.ts";
import { datasetSchema, openDataset } from "../../src/data/registry.ts";
import type { EvalContext } from "../../src/eval/suite.ts";
import { Scope } from "../../src/models/scope.ts";
import type { Objective } from "../../src/objectives/objective.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import type { Tokenizer } from "../../src/tokenizers/tokenizer.ts";

/** Each 4 x 4 block of a frame becomes its mean colour, each channel in one of `levels` steps. */
export function blockTokenizer(frames: number, side: number, levels: number): Tokenizer {
  const grid = [frames, side / 4, side / 4] as const;
  const toCodes = (ids: tf.Tensor5D): tf.Tensor5D =>
    tf.sub(tf.mul(tf.div(tf.cast(ids, "float32"), levels - 1), 2), 1);
  return {
    type: "blocks",
    scope: Scope.root(0),
    causal: true,
    clip: { frames, height: side, width: side },
    grid,
    factors: [levels, levels, levels],
    modality: "video",
    continuous: false,
    remedy: "",
    inputs: () => ({}),
    width: 3,
    encode(clips) {
      const batch = clips.shape[0];
      const flat = tf.reshape(clips, [batch * frames, side, side, 3]) as tf.Tensor4D;
      const mean = tf.avgPool(flat, 4, 4, "valid"); // [B·T, h, w, 3]
      const ids = tf.cast(tf.round(tf.mul(tf.div(tf.add(mean, 1), 2), levels - 1)), "int32");
      const shaped = tf.reshape(ids, [batch, ...grid, 3]) as tf.Tensor5D;
      return { ids: shaped, codes: toCodes(shaped) };
    },
    lookup: toCodes,
    decode(codes) {
      const batch = codes.shape[0];
      const flat = tf.reshape(codes, [batch * frames, grid[1], grid[2], 3]) as tf.Tensor4D;
      const image = tf.image.resizeNearestNeighbor(flat, [side, side]);
      return tf.reshape(image, [batch, frames, side, side, 3]) as tf.Tensor5D;
    },
    loss: () => {
      throw new Error("not used");
    },
  };
}

/** moving-shapes at its smallest useful size. */
export function shapes(
  split: "train" | "validation",
  options: { readonly [key: string]: unknown } = {},
): Promise<Dataset> {
  const member = datasetSchema as unknown as {
    oneOf: { properties: { [key: string]: { default?: unknown; const?: unknown } } }[];
  };
  const { properties } = member.oneOf.find(
    (one) => one.properties["type"]!.const === "moving-shapes",
  )!;
  const defaults = Object.fromEntries(
    Object.entries(properties).map(([key, value]) => [key, value.default ?? value.const]),
  );
  const config = {
    ...defaults,
    frames: 5,
    height: 16,
    width: 16,
    size: 240,
    validation_size: 96,
    ...options,
  };
  return openDataset(config as unknown as Parameters<typeof openDataset>[0], split, 0);
}

/** A context over moving-shapes clips of 5 x 16 x 16, batches of 10. */
export async function context(overrides: Partial<EvalContext> = {}): Promise<EvalContext> {
  const device = await openDevice({ type: "reference" });
  let dir: string | undefined;
  return {
    device,
    seed: 1,
    batch: 10,
    dataset: shapes,
    tokenizer: blockTokenizer(5, 16, 8),
    warn: () => {},
    samplesDir: () => (dir ??= mkdtempSync(join(tmpdir(), "tessera-eval-"))),
    progress: () => undefined,
    ...overrides,
  };
}

/** An objective whose samples come from `next`. */
export function fakeObjective(
  tokenizer: Tokenizer,
  next: (labels: Int32Array, seed: number) => Promise<Int32Array>,
): Objective {
  return {
    type: "fake",
    scope: Scope.root(0),
    space: { grid: tokenizer.grid, factors: tokenizer.factors, classes: 12 },
    inputs: () => ({}),
    loss: () => {
      throw new Error("not used");
    },
    sampler:
      () =>
      ({ labels, seed }) =>
        next(labels, seed),
  };
}
