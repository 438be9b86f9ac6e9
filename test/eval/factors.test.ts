import { describe, expect, test } from "vitest";
import type { Sample } from "../../src/data/dataset.ts";
import {
  expectedPitch,
  fitFactorReader,
  pitchCurve,
  pitchError,
} from "../../src/eval/factor-reader.ts";
import { trackShape } from "../../src/eval/shape-track.ts";
import { shapes } from "./fakes.ts";

const size = { frames: 9, height: 32, width: 32 };
const world = {
  ...size,
  sizes: ["large"],
  speeds: ["medium", "fast"],
  occlusion: 0,
  stochastic: false,
  audio_rate: 4000,
};

async function take(split: "train" | "validation", count: number): Promise<Sample[]> {
  const dataset = await shapes(split, world);
  return Promise.all(Array.from({ length: count }, (_, i) => dataset.get(i, 0)));
}

const held = await take("validation", 72);

describe("the reader of factors", () => {
  test("reads motion, shape and colour of clips that it was not fitted on", async () => {
    const reader = fitFactorReader(await take("train", 360), size);
    const read = held.map(({ clip }) => reader.read(clip));
    const right = (factor: "motion" | "shape" | "colour") =>
      read.filter((one, i) => one[factor] === held[i]!.factors![factor]).length / held.length;
    expect(right("colour")).toBe(1);
    expect(right("shape")).toBeGreaterThan(0.9);
    expect(right("motion")).toBeGreaterThan(0.85);
  });

  test("follows the shape's centre within a pixel", () => {
    for (const { clip, factors } of held.slice(0, 24)) {
      const { y } = trackShape(clip, size);
      y.forEach((row, t) =>
        expect(Math.abs(row - (factors!["y"] as number[])[t]!)).toBeLessThan(1),
      );
    }
  });

  test("a clip without a shape has no colour and no area", () => {
    const { area, colour } = trackShape(new Uint8Array(9 * 32 * 32 * 3), size);
    expect(area).toBe(0);
    expect(Math.max(...colour)).toBe(0);
  });

  test("sound matches its own picture, and seldom another", () => {
    const rate = 4000;
    const heard = held.map(({ audio }) => pitchCurve(audio!, rate, 9));
    const seen = held.map(({ clip }) => expectedPitch(clip, size));
    const matches = (shift: number) =>
      heard.filter((pitch, i) => pitchError(pitch, seen[(i + shift) % seen.length]!) <= 1.5)
        .length / heard.length;
    expect(matches(0)).toBeGreaterThan(0.9);
    expect(matches(7)).toBeLessThan(0.4);
  });
});
