/** @file Without the optional package: what needs no files works, the rest says what to do. */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Value } from "typebox/value";
import { describe, expect, test, vi } from "vitest";
import { decoderInfo, loadAv } from "../../src/data/av.ts";
import { datasets, type DatasetConfig, openDataset } from "../../src/data/registry.ts";

vi.mock("node-av/lib", () => {
  throw new Error("Cannot find package 'node-av'");
});

const config = (type: keyof typeof datasets, more: object): DatasetConfig =>
  Value.Default(datasets[type].schema, { type, ...more }) as DatasetConfig;

describe("without node-av", () => {
  test("moving-shapes works", async () => {
    const dataset = await openDataset(config("moving-shapes", { size: 12 }), "train", 0);
    expect((await dataset.get(3, 0)).clip.length).toBe(17 * 32 * 32 * 3);
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
