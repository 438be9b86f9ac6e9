/** @file The suites about tokenizers: consistency at borders, and the layers of a pyramid of words. */

import { readFileSync } from "node:fs";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, it } from "vitest";
import { placeKind, shiftedStill } from "../../src/eval/consistency-suite.ts";
import { buildSuite } from "../../src/eval/registry.ts";
import type { Score } from "../../src/eval/suite.ts";
import { Scope } from "../../src/models/scope.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { decodeSafetensors } from "../../src/runtime/safetensors.ts";
import { buildTokenizer } from "../../src/tokenizers/registry.ts";
import { makeWordTable } from "../../src/tokenizers/word-table.ts";
import { blockTokenizer, context, shapes } from "../eval/fakes.ts";

const value = (scores: readonly Score[], name: string): number => {
  const found = scores.find((one) => one.name === name);
  if (!found) {
    throw new Error(`there is no score ${name}`);
  }
  return found.value;
};
const common = { split: "validation", clips: 12, seed: 0 } as const;

describe("token-consistency", () => {
  const still = (split: "train" | "validation") =>
    shapes(split, { frames: 1, height: 32, width: 32 });

  it("moves a picture by whole pixels and repeats its edge", () => {
    const row = Uint8Array.from({ length: 4 * 3 }, (_, i) => Math.floor(i / 3));
    const out = new Uint8Array(2 * 12);
    shiftedStill(row, [1, 4], [-1, 0], out);
    expect([...out].filter((_, i) => i % 3 === 0)).toEqual([1, 2, 3, 3, 1, 2, 3, 3]);
    shiftedStill(row, [1, 4], [2, 0], out);
    expect([...out].filter((_, i) => i % 3 === 0).slice(0, 4)).toEqual([0, 0, 0, 1]);
  });

  it("tells the cut side from the inside", () => {
    expect(placeKind([0, 4], [8, 8], [-1, 0])).toBe("border");
    expect(placeKind([3, 4], [8, 8], [-1, 0])).toBe("inside");
    expect(placeKind([4, 4], [8, 8], [-1, 0])).toBeUndefined(); // was too near the other side
    expect(placeKind([0, 1], [8, 8], [-1, 0])).toBeUndefined(); // a corner
    expect(placeKind([4, 7], [8, 8], [0, 1])).toBe("border");
  });

  it("gives 100 % to tokens of patches alone, and sees a tokenizer that knows the border", async () => {
    const blind = blockTokenizer(1, 32, 8);
    const ctx = await context({ tokenizer: blind, dataset: still });
    const suite = buildSuite({ type: "token-consistency", ...common }, "c");
    const fine = await suite.run(ctx);
    expect(value(fine, "c/border")).toBe(100);
    expect(value(fine, "c/inside")).toBe(100);
    expect(value(fine, "c/border_difference")).toBe(0);
    // The same with another code in the outermost ring.
    const ring = tf
      .tidy(
        () =>
      tf.pad(tf.zeros([1, 1, 6, 6, 1]), [[0, 0], [0, 0], [1, 1], [1, 1], [0, 0]], 1), // biome-ignore format: one call
      )
      .dataSync();
    const told = {
      ...blind,
      encode(clips: tf.Tensor5D) {
        const { ids } = blind.encode(clips);
        const mark = tf.tensor5d(ring, [1, 1, 8, 8, 1], "float32");
        const moved = tf.cast(tf.mod(tf.add(tf.cast(ids, "float32"), mark), 8), "int32");
        return { ids: moved as tf.Tensor5D, codes: blind.lookup(moved as tf.Tensor5D) };
      },
    };
    const seen = await suite.run({ ...ctx, tokenizer: told, device: await openDevice({ type: "reference" }) }); // biome-ignore format: one call
    expect(value(seen, "c/border")).toBe(0);
    expect(value(seen, "c/inside")).toBe(100);
    expect(value(seen, "c/gap")).toBe(100);
    expect(value(seen, "c/border_difference")).toBeGreaterThan(0.01);
  });

  it("refuses grids without an inside", async () => {
    const ctx = await context();
    await expect(
      buildSuite({ type: "token-consistency", ...common }, "c").run(ctx),
    ).rejects.toThrow(/at least 8 x 8/);
  });
});

describe("pyramid", () => {
  it("scores every layer by pixels, words of captions and classifiers", async () => {
    const device = await openDevice({ type: "cpu", threads: 1 });
    const ctx = await context({ device });
    const train = await shapes("train");
    const table = await makeWordTable(train, device, { clips: 36, width: 8 });
    const file = join(mkdtempSync(join(tmpdir(), "tessera-words-")), "words.safetensors");
    writeFileSync(file, table.file);
    const { tensors } = decodeSafetensors(readFileSync(file));
    expect(tensors.get("image_space")!.shape).toEqual([table.words.length, 64]);
    expect(table.words).toContain("a");

    const tokenizer = buildTokenizer(
      {
        type: "vqgan",
        padding: "zero",
        base_channels: 8,
        channel_multipliers: [1],
        spatial_strides: [],
        patch_size: 4,
        output_norm: false,
        blocks: 1,
        bottleneck_blocks: 0,
        norm_groups: 2,
        adaptive_norm: false,
        down: "average-pool",
        up: "nearest-conv",
        l1_weight: 0,
        l2_weight: 1,
        image_share: 0,
        quantizer: {
          type: "spae",
          words: file,
          size: table.words.length,
          width: 8,
          strides: [4, 2, 1],
          update: "average",
          commitment_weight: 0.25,
          layer_dropout: 0,
        },
      },
      { frames: 5, height: 16, width: 16 },
      Scope.root(3),
    );
    const config = { type: "pyramid" as const, ...common, targets: ["colour"], train_clips: 24 };
    const scores = await buildSuite(config, "p").run({ ...ctx, tokenizer });
    for (const n of [1, 2, 3]) {
      expect(value(scores, `p/psnr_${n}`)).toBeGreaterThan(3);
      expect(value(scores, `p/words_${n}`)).toBeLessThanOrEqual(100);
      expect(value(scores, `p/colour_${n}`)).toBeLessThanOrEqual(100);
    }
    // "a" stands in every caption: a layer of nothing else matches always.
    const only = table.words.indexOf("a");
    const same = {
      ...tokenizer,
      encode(clips: tf.Tensor5D) {
        const { ids, codes } = tokenizer.encode(clips);
        return { ids: tf.fill(ids.shape, only, "int32") as tf.Tensor5D, codes };
      },
    };
    const words = await buildSuite({ ...config, targets: [] }, "p").run({
      ...ctx,
      tokenizer: same,
    });
    expect(value(words, "p/words_1")).toBeCloseTo(100, 6);
    await expect(buildSuite(config, "p").run(await context())).rejects.toThrow(/has no layers/);
    device.dispose();
  });
});
