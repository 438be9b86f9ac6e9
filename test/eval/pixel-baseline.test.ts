/** @file The pixel-space baselines: they learn, each head its task, and say what they cannot do. */

import { describe, expect, it } from "vitest";
import { openDataset } from "../../src/data/registry.ts";
import { type MovingShapesConfig } from "../../src/data/moving-shapes.ts";
import { build, type PixelBaselineConfig } from "../../src/eval/pixel-baseline-suite.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { blockTokenizer, context } from "./fakes.ts";

const config: PixelBaselineConfig = {
  type: "pixel-baseline",
  reads: ["video"],
  tasks: ["recognise", "locate"],
  split: "validation",
  clips: 48,
  seed: 0,
  train_clips: 96,
  width: 16,
  steps: 120,
  batch: 12,
  lr: 0.01,
};
const world: MovingShapesConfig = {
  type: "moving-shapes",
  frames: 5,
  height: 16,
  width: 16,
  fps: 8,
  size: 96,
  validation_size: 48,
  infinite: false,
  seed: 0,
  motions: ["left", "right", "up", "down"],
  shapes: ["circle"],
  colours: ["red", "yellow"],
  textures: ["plain"],
  sizes: ["large"],
  speeds: ["fast"],
  occlusion: 0,
  stochastic: false,
  moving_background: false,
  audio_rate: 4000,
  workers: 0,
};

async function scoresOf(changes: Partial<PixelBaselineConfig>) {
  const device = await openDevice({ type: "cpu", engine: "auto", threads: 1 });
  const suite = build({ ...config, ...changes }, "baseline");
  const scores = await suite.run(
    await context({
      device,
      tokenizer: blockTokenizer(5, 16, 8),
      dataset: (split: "train" | "validation") => openDataset(world, split, 0),
    }),
  );
  device.dispose();
  return (name: string): number => scores.find((score) => score.name === `baseline/${name}`)!.value;
}

describe("suite pixel-baseline", () => {
  it("recognises and locates from pixels with two heads of one network", async () => {
    const of = await scoresOf({});
    expect(of("recognise/chance")).toBe(25);
    expect(of("recognise")).toBeGreaterThan(70);
    expect(of("locate")).toBeLessThan(0.5 * of("locate/mean"));
  }, 60_000);

  it("reads captions and sound beside or in place of video", async () => {
    const caption = await scoresOf({ reads: ["caption"], tasks: ["recognise"] });
    expect(caption("recognise")).toBe(100); // the caption says it
    const sound = await scoresOf({ reads: ["audio"], tasks: ["recognise"] });
    expect(sound("recognise")).toBeGreaterThan(40); // pitch follows height: up and down are heard
  }, 60_000);

  it("refuses to locate in what is not seen", () => {
    expect(() => build({ ...config, reads: ["audio"] }, "baseline")).toThrow("nothing but video");
  });
});
