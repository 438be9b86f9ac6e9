/** @file Held-out losses as scores, packing, and the leak of hidden content through tokens. */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Dataset } from "../../src/data/dataset.ts";
import { build as buildHeldOut } from "../../src/eval/held-out-suite.ts";
import { build as buildLeak, type LeakConfig } from "../../src/eval/leak-suite.ts";
import { Scope } from "../../src/models/scope.ts";
import { buildMasked } from "../../src/objectives/masked.ts";
import { packedPadding } from "../../src/objectives/multimodal/packing.ts";
import { Random } from "../../src/runtime/random.ts";
import { maskedSampling, tinyModel, withoutTasks } from "../objectives/support.ts";
import { blockTokenizer, context } from "./fakes.ts";

/** Two frames of one grey each; the class is whether the second is bright. */
function twoGreys(size: number): (split: "train" | "validation") => Promise<Dataset> {
  return async (split) => ({
    type: "greys",
    split,
    size,
    frames: 5,
    height: 16,
    width: 16,
    fps: 8,
    audioRate: 0,
    classes: ["dark", "bright"],
    fingerprint: "",
    get: async (index) => {
      const random = new Random(index, `greys/${split}`);
      const clip = new Uint8Array(5 * 16 * 16 * 3);
      const frame = clip.length / 5;
      clip.fill(random.int(256), 0, frame);
      const label = index % 2;
      clip.fill(label * 200 + random.int(50), frame);
      return { id: `${index}`, clip, label, caption: "", factors: {} };
    },
    close: async () => undefined,
  });
}

describe("suite leak", () => {
  const config: LeakConfig = {
    type: "leak",
    task: "FP",
    condition_frames: 1,
    target: "label",
    cells: 2,
    split: "validation",
    clips: 64,
    seed: 0,
    train_clips: 64,
  };
  const value = async (mix: boolean, name: string): Promise<number> => {
    const plain = blockTokenizer(5, 16, 8);
    const tokenizer = mix
      ? {
          ...plain,
          // Every latent frame holds the mean over all frames: what a non-causal encoder can do.
          encode(clips: Parameters<typeof plain.encode>[0]) {
            const { ids, codes } = plain.encode(clips);
            return {
              ids,
              codes: codes.mean(1, true).tile([1, codes.shape[1], 1, 1, 1]) as typeof codes,
            };
          },
        }
      : plain;
    const scores = await buildLeak(config, "leak").run(
      await context({ tokenizer, dataset: twoGreys(64) }),
    );
    return scores.find((score) => score.name === `leak/${name}`)!.value;
  };

  it("finds the future in the first frame's tokens where the encoder mixes frames", async () => {
    expect(await value(true, "whole")).toBeGreaterThan(90);
    expect(await value(true, "padded")).toBeLessThan(75);
    expect(await value(true, "leak")).toBeGreaterThan(20);
  });

  it("finds none where latent frames see their own frames only", async () => {
    expect(await value(false, "leak")).toBe(0);
    expect(await value(false, "chance")).toBe(50);
  });
});

describe("suite held-out", () => {
  it("gives an even network the entropy of its vocabulary, in nats and in bits a pixel", async () => {
    const tokenizer = blockTokenizer(5, 16, 8);
    const objective = buildMasked(
      {
        type: "masked",
        mask_schedule: "cosine",
        label_dropout: 0,
        label_smoothing: 0,
        ...withoutTasks,
        sampling: maskedSampling,
      },
      tinyModel,
      { grid: tokenizer.grid, factors: tokenizer.factors, classes: 2 },
      Scope.blank(0),
    );
    const scores = await buildHeldOut(
      { type: "held-out", split: "validation", clips: 16, seed: 0 },
      "held",
    ).run(await context({ tokenizer, objective, dataset: twoGreys(16) }));
    const of = (name: string): number => scores.find((s) => s.name === `held/${name}`)!.value;
    const nats = tokenizer.factors.reduce((sum, size) => sum + Math.log(size), 0);
    expect(of("loss")).toBeCloseTo(nats, 4);
    const [t, h, w] = tokenizer.grid;
    expect(of("bits")).toBeCloseTo((nats * t * h * w) / Math.LN2 / (5 * 16 * 16), 5);
    expect(scores.find((s) => s.name === "held/accuracy")!.better).toBe("higher");
  });
});

describe("packing", () => {
  it("pads nothing where all lengths are equal or halves, and never more than half a row", () => {
    expect(packedPadding([8, 8], [1, 2], 100, 16)).toBe(0);
    expect(packedPadding([8, 4], [1, 1], 400, 64)).toBeLessThan(0.01);
    const length = fc.integer({ min: 1, max: 50 });
    fc.assert(
      fc.property(fc.array(length, { minLength: 1, maxLength: 5 }), (lengths) => {
        const weights = lengths.map(() => 1);
        const share = packedPadding(lengths, weights, 200, 16);
        expect(share).toBeGreaterThanOrEqual(0);
        expect(share).toBeLessThan(0.55);
      }),
      { numRuns: 40 },
    );
    // Two of 3 in a row of 4 do not fit: a quarter of every row is empty.
    expect(packedPadding([3, 4], [1e9, 1e-9], 100, 16)).toBeCloseTo(0.25, 10);
  });
});
