/** @file Without the optional package: what needs no files works, the rest says what to do. */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { rgbArray, rgbValue } from "./look-alikes.ts";
import { Value } from "typebox/value";
import { describe, expect, test, vi } from "vitest";
import { decoderInfo, loadAv } from "../../src/data/av.ts";
import { datasets, type DatasetConfig, openDataset } from "../../src/data/registry.ts";

vi.mock("node-av/lib", () => {
  throw new Error("Cannot find package 'node-av'");
});

const config = (type: keyof typeof datasets, more: object): DatasetConfig =>
  Value.Default(datasets[type].schema, { type, ...more }) as DatasetConfig;

/** The centre crop of a look-alike's first frames. */
function centre(side: number, size: number, id: string): Uint8Array {
  const n = Number(/#(\d+)/.exec(id)![1]);
  const first = Number(/@(\d+)-/.exec(id)![1]);
  const left = Math.floor((side - size + 1) / 2);
  return Uint8Array.from({ length: 4 * size * size * 3 }, (_, at) => {
    const [c, x, y] = [at % 3, Math.floor(at / 3) % size, Math.floor(at / 3 / size) % size];
    return rgbValue(n, first + Math.floor(at / (3 * size * size)), left + y, left + x, c);
  });
}

describe("without node-av", () => {
  test("moving-shapes works", async () => {
    const dataset = await openDataset(config("moving-shapes", { size: 12 }), "train", 0);
    expect((await dataset.get(3, 0)).clip.length).toBe(17 * 32 * 32 * 3);
  });

  test("arrays of RGB clips work where nothing is scaled", async () => {
    const path = mkdtempSync(join(tmpdir(), "tessera-arrays-"));
    for (const [name, n, t] of [
      ["train", 3, 6],
      ["validation", 2, 4],
    ] as const) {
      // biome-ignore format: one list
      writeFileSync(join(path, `${name}.npy`), rgbArray(n, t, 12));
    }
    const set = { path, layout: { type: "npy" }, frames: 4, height: 8, width: 8, resize: 12, flip: true }; // biome-ignore format: one set
    for (const workers of [0, 1]) {
      const train = await openDataset(config("video-set", { ...set, workers }), "train", 0);
      const held = await openDataset(config("video-set", { ...set, workers }), "validation", 0);
      expect([train.size, held.size]).toEqual([3, 2]);
      expect((await held.get(0, 0)).clip).toEqual(centre(12, 8, (await held.get(0, 0)).id));
      const mirrored = new Set<boolean>();
      for (let visit = 0; visit < 8; visit++) {
        const { clip } = await train.get(0, visit);
        mirrored.add(clip[0]! > clip[3]!); // red rises from left to right
      }
      expect(mirrored.size).toBe(2);
      await train.close?.();
      await held.close?.();
    }
    const scaled = config("video-set", { ...set, resize: null, workers: 0 });
    const dataset = await openDataset(scaled, "train", 0);
    await expect(dataset.get(0, 0)).rejects.toThrow(/needs the optional package node-av/);
    rmSync(path, { recursive: true, force: true });
  });

  test("files and doctor say what is missing", async () => {
    await expect(loadAv()).rejects.toThrow(/needs the optional package node-av/);
    const path = mkdtempSync(join(tmpdir(), "tessera-none-"));
    writeFileSync(join(path, "a.mp4"), "x");
    try {
      await expect(
        openDataset(config("video-folder", { path, workers: 0 }), "train", 0),
      ).rejects.toThrow(/needs the optional package node-av/);
    } finally {
      rmSync(path, { recursive: true, force: true });
    }
    const info = await decoderInfo();
    expect(info.available).toBe(false);
    expect(info.problem).toMatch(/node-av/);
  });
});
