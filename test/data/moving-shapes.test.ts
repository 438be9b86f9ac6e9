/** @file The procedural set: determinism, balance, and factors that the pixels and the sound show. */

import { createHash } from "node:crypto";
import fc from "fast-check";
import { Value } from "typebox/value";
import { describe, expect, test } from "vitest";
import { type MovingShapesConfig, open, schema } from "../../src/data/moving-shapes.ts";
import { renderSample } from "../../src/data/shapes/sample.ts";
import {
  colours,
  cosTurns,
  drawScene,
  factorBits,
  motionClasses,
  sinTurns,
  type World,
} from "../../src/data/shapes/scene.ts";
import { Random } from "../../src/runtime/random.ts";

function config(overrides: Partial<MovingShapesConfig> = {}): MovingShapesConfig {
  return Value.Default(schema, { type: "moving-shapes", ...overrides }) as MovingShapesConfig;
}
const render = (c: MovingShapesConfig, index: number, stream = "moving-shapes/train") =>
  renderSample({ config: c, stream, index, visit: 0 });
const digest = (...parts: Uint8Array[]) => {
  const hash = createHash("sha256");
  for (const part of parts) {
    hash.update(part);
  }
  return hash.digest("hex").slice(0, 16);
};

describe("moving-shapes", () => {
  test("has the same bytes on every machine and version", () => {
    const c = config({ audio_rate: 8000 });
    const samples = Array.from({ length: 24 }, (_, i) => render(c, i));
    const pixels = digest(...samples.map((sample) => sample.clip));
    const sound = digest(...samples.map((sample) => new Uint8Array(sample.audio!.buffer)));
    expect({ pixels, sound }).toMatchInlineSnapshot(`
      {
        "pixels": "280a96e6c333eb2b",
        "sound": "faaeb161a816fc88",
      }
    `);
  });

  test("gives any size from 8 pixels, images too", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 9 }),
        fc.integer({ min: 8, max: 41 }),
        fc.integer({ min: 8, max: 41 }),
        fc.nat(100_000),
        (frames, height, width, index) => {
          const c = config({ frames, height, width, audio_rate: 4000 });
          const sample = render(c, index);
          expect(sample.clip.length).toBe(frames * height * width * 3);
          expect(sample.audio!.length).toBe(Math.round((frames * 4000) / 8));
          expect(sample.audio!.every((value) => Math.abs(value) <= 1)).toBe(true);
          expect(sample.label).toBe(index % 12);
        },
      ),
      { numRuns: 150 },
    );
  });

  test("is balanced exactly, and its splits share no clip", async () => {
    const c = config({ size: 240, validation_size: 120, height: 16, width: 16, frames: 3 });
    const [train, validation] = [await open(c, "train", 1), await open(c, "validation", 1)];
    const seen = new Set<string>();
    const counts = new Map<number, number>();
    for (const dataset of [train, validation]) {
      for (let i = 0; i < dataset.size; i++) {
        const sample = await dataset.get(i, 0);
        seen.add(digest(sample.clip));
        counts.set(sample.label, (counts.get(sample.label) ?? 0) + 1);
      }
    }
    expect(seen.size).toBe(360);
    expect([...counts.values()]).toEqual(Array.from({ length: 12 }, () => 30));
    expect(train.fingerprint).not.toBe(validation.fingerprint);
  });

  test("repeats its clips by default and draws new ones when infinite", async () => {
    const fixed = await open(config(), "train", 1);
    const endless = await open(config({ infinite: true }), "train", 1);
    const other = await open(config({ infinite: true }), "train", 2);
    expect((await fixed.get(5, 0)).clip).toEqual((await fixed.get(5, 3)).clip);
    expect((await endless.get(5, 0)).clip).not.toEqual((await endless.get(5, 3)).clip);
    expect((await endless.get(5, 0)).clip).not.toEqual((await other.get(5, 0)).clip);
    expect(endless.fingerprint).not.toBe(other.fingerprint);
    const seeded = await open(config(), "train", 2);
    expect(seeded.fingerprint).toBe(fixed.fingerprint);
  });

  test("worker threads give the same bytes as the main thread", async () => {
    const here = await open(config({ audio_rate: 4000 }), "train", 0);
    const there = await open(config({ audio_rate: 4000, workers: 2 }), "train", 0);
    try {
      expect(there.fingerprint).toBe(here.fingerprint);
      const indices = [0, 7, 3, 40];
      const [a, b] = await Promise.all(
        [here, there].map((d) => Promise.all(indices.map((i) => d.get(i, 0)))),
      );
      expect(b).toEqual(a);
    } finally {
      await there.close();
    }
  });

  test("pixels show the factors: colour, place and size in every frame", () => {
    const c = config({
      height: 64,
      width: 64,
      occlusion: 0,
      textures: ["plain"],
      shapes: ["circle"],
    });
    for (let index = 0; index < 36; index++) {
      const { clip, factors } = render(c, index);
      const [r, g, b] = colours[factors!["colour"] as keyof typeof colours];
      const back = clip.subarray(0, 3); // a corner may be covered; the darkest corner is not
      const corners = [0, 63 * 3, 63 * 64 * 3, (64 * 64 - 1) * 3].map((at) =>
        clip.slice(at, at + 3),
      );
      corners.push(back.slice());
      const ground = corners.sort((p, q) => p[0]! + p[1]! + p[2]! - q[0]! - q[1]! - q[2]!)[0]!;
      for (let t = 0; t < 17; t++) {
        // Coverage of each pixel by the channel in which shape and background differ most.
        const difference = [r - ground[0]!, g - ground[1]!, b - ground[2]!];
        const channel = difference.indexOf(
          difference.reduce((m, d) => (Math.abs(d) > Math.abs(m) ? d : m), 0),
        );
        let [mass, x, y] = [0, 0, 0];
        for (let i = 0; i < 64; i++) {
          for (let j = 0; j < 64; j++) {
            const value = clip[((t * 64 + i) * 64 + j) * 3 + channel]!;
            const cover = (value - ground[channel]!) / difference[channel]!;
            mass += cover;
            x += cover * (j + 0.5);
            y += cover * (i + 0.5);
          }
        }
        expect(x / mass).toBeCloseTo((factors!["x"] as number[])[t]!, 0);
        expect(y / mass).toBeCloseTo((factors!["y"] as number[])[t]!, 0);
        const radius = 0.95 * (factors!["radius"] as number[])[t]!;
        expect(Math.abs(mass / (Math.PI * radius * radius) - 1)).toBeLessThan(0.08);
      }
    }
  });

  test("each motion does what its name says", () => {
    const c = config({ height: 64, width: 64, stochastic: false });
    for (let index = 0; index < 120; index++) {
      const { factors } = render(c, index);
      const [x, y, r] = ["x", "y", "radius"].map((name) => factors![name] as number[]) as [
        number[],
        number[],
        number[],
      ];
      const [dx, dy, dr] = [x.at(-1)! - x[0]!, y.at(-1)! - y[0]!, r.at(-1)! - r[0]!];
      const turned = x.slice(2).reduce((sum, _, i) => {
        const [ax, ay] = [x[i + 1]! - x[i]!, y[i + 1]! - y[i]!];
        const [bx, by] = [x[i + 2]! - x[i + 1]!, y[i + 2]! - y[i + 1]!];
        return sum + Math.sign(Math.round(1e6 * (ax * by - ay * bx)));
      }, 0);
      const expected: { [motion: string]: boolean } = {
        left: dx < -5 && dy === 0,
        right: dx > 5 && dy === 0,
        up: dy < -5 && dx === 0,
        down: dy > 5 && dx === 0,
        "diagonal-up": dy < -3 && Math.abs(Math.abs(dx) + dy) < 1e-9,
        "diagonal-down": dy > 3 && Math.abs(Math.abs(dx) - dy) < 1e-9,
        clockwise: turned === 15, // y points down: clockwise on the screen
        counterclockwise: turned === -15,
        grow: dr > 1,
        shrink: dr < -1,
        bounce: dx === 0 && Math.max(...y) - Math.min(...y) > 10,
        zigzag: dy === 0 && Math.max(...x) - Math.min(...x) > 8,
      };
      expect(expected[factors!["motion"] as string], `${String(factors!["motion"])} ${index}`).toBe(
        true,
      );
    }
  });

  test("stays in view in all futures, which share their past", () => {
    const world: World = config({ height: 32, width: 48 });
    for (let index = 0; index < 600; index++) {
      const motion = motionClasses[index % 12]!;
      const scene = drawScene(world, motion, new Random(3, "test", index));
      const steady = drawScene(
        { ...world, stochastic: false },
        motion,
        new Random(3, "test", index),
      );
      for (let t = 0; t < 17; t++) {
        expect(scene.x[t]!).toBeGreaterThanOrEqual(scene.radius[t]!);
        expect(scene.x[t]!).toBeLessThanOrEqual(48 - scene.radius[t]!);
        expect(scene.y[t]!).toBeGreaterThanOrEqual(scene.radius[t]!);
        expect(scene.y[t]!).toBeLessThanOrEqual(32 - scene.radius[t]!);
      }
      const past = (values: readonly number[]) => values.slice(0, scene.branchFrame);
      expect([past(scene.x), past(scene.y)]).toEqual([past(steady.x), past(steady.y)]);
      const apart = scene.x.some((x, t) => x !== steady.x[t]) || scene.y.some((y, t) => y !== steady.y[t]); // biome-ignore format: one condition
      expect(apart, `${motion} ${index} ${scene.branch}`).toBe(scene.branch !== 0);
    }
  });

  test("branches, and every other factor, are uniform", () => {
    const c = config({ frames: 5, height: 8, width: 8 });
    const counts = new Map<string, number>();
    const n = 3000;
    for (let index = 0; index < n; index++) {
      const scene = drawScene(c, "left", new Random(0, "uniform", index));
      for (const name of [
        "branch",
        "shape",
        "colour",
        "size",
        "speed",
        "texture",
        "background",
      ] as const) {
        const key = `${name}=${scene[name]}`;
        counts.set(key, (counts.get(key) ?? 0) + 1);
      }
    }
    const bits = factorBits(c);
    for (const [key, count] of counts) {
      const p = 2 ** -bits[key.split("=")[0]!]!;
      const deviations = Math.abs(count - n * p) / Math.sqrt(n * p * (1 - p));
      expect({ key, close: deviations < 5 }).toEqual({ key, close: true });
    }
    expect(bits["motion"]).toBeCloseTo(Math.log2(12), 12);
  });

  test("the sound has its pitch and its clicks where the factors say", () => {
    const c = config({
      audio_rate: 16000,
      shapes: ["circle"],
      motions: ["left"],
      stochastic: false,
      frames: 16,
    });
    for (let index = 0; index < 6; index++) {
      const { audio, factors } = render(c, index);
      const y = (factors!["y"] as number[])[0]!;
      const radius = (factors!["radius"] as number[])[0]!;
      const expected = (220 + 440 * (1 - y / 32)) * (1.25 - radius / 32);
      let crossings = 0;
      for (let i = 1; i < audio!.length; i++) {
        crossings += audio![i - 1]! < 0 && audio![i]! >= 0 ? 1 : 0;
      }
      expect(crossings / 2).toBeCloseTo(expected, -0.5); // two seconds
    }
    const bouncing = render(config({ audio_rate: 16000, motions: ["bounce"] }), 0);
    const clicks = bouncing.factors!["clicks"] as number[];
    expect(clicks.length).toBeGreaterThan(0);
    for (const click of clicks) {
      const at = Math.round((click * 16000) / 8);
      const loud = Math.max(...bouncing.audio!.subarray(at, at + 40).map(Math.abs));
      expect(loud).toBeGreaterThan(0.45);
    }
  });

  test("exact sine is a sine", () => {
    for (let i = -2000; i <= 2000; i++) {
      expect(Math.abs(sinTurns(i / 777) - Math.sin((2 * Math.PI * i) / 777))).toBeLessThan(1e-7);
      expect(Math.abs(cosTurns(i / 777) - Math.cos((2 * Math.PI * i) / 777))).toBeLessThan(1e-7);
    }
  });

  test("captions name the factors", () => {
    const { caption, factors } = render(config(), 10);
    for (const name of ["size", "colour", "shape", "texture", "background"]) {
      expect(caption).toContain(String(factors![name]));
    }
  });
});
