/** @file Pictures and videos out: what is written is what is read back, and the same each time. */

import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { decoderInfo, loadAv } from "../../src/data/av.ts";
import { decodeClip } from "../../src/data/decode.ts";
import { contactSheet, type Frames, writeContactSheet, writePng } from "../../src/data/image.ts";
import { type Probe, probeSource } from "../../src/data/probe.ts";
import { wholeFile } from "../../src/data/source.ts";
import { writeGif, writeLossless, writeMp4 } from "../../src/data/video.ts";
import { firstFrames } from "./support.ts";
import { Random } from "../../src/runtime/random.ts";

let root = "";
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "tessera-media-"));
});
afterAll(() => {
  rmSync(root, { recursive: true, force: true });
});

function soft(frames: number, height: number, width: number): Frames {
  const data = new Uint8Array(frames * height * width * 3);
  for (let i = 0; i < data.length; i++) {
    const [x, t] = [Math.floor(i / 3) % width, Math.floor(i / (3 * width * height))];
    data[i] = 60 + ((3 * x + 5 * t) % 120);
  }
  return { data, frames, height, width };
}

async function readBack(file: string, like: Frames): Promise<{ clip: Uint8Array; probe: Probe }> {
  const av = await loadAv();
  const probe = probeSource(av, { source: wholeFile(file), verify: "full", missing: 0 }) as Probe;
  const { clip } = decodeClip(av, firstFrames(file, probe, like));
  return { clip, probe };
}

describe("media out", () => {
  test("PNG is exact", async () => {
    const rgb = Uint8Array.from({ length: 5 * 7 * 3 }, (_, i) => (i * 37) % 256);
    await writePng(join(root, "a", "p.png"), rgb, 7, 5);
    const { data, info } = await sharp(join(root, "a", "p.png"))
      .raw()
      .toBuffer({ resolveWithObject: true });
    expect([info.width, info.height, info.channels]).toEqual([7, 5, 3]);
    expect([...data]).toEqual([...rgb]);
    await expect(writePng(join(root, "q.png"), rgb, 8, 5)).rejects.toThrow(/120 bytes, got 105/);
  });

  test("a contact sheet has a row a clip, first and last frames included", async () => {
    const clip: Frames = {
      data: Uint8Array.from({ length: 5 * 3 }, (_, i) => 10 * Math.floor(i / 3)),
      frames: 5,
      height: 1,
      width: 1,
    };
    const sheet = contactSheet([clip, clip], { columns: 3, zoom: 2, gap: 1 });
    expect([sheet.width, sheet.height]).toEqual([8, 5]);
    const row = (i: number) => Array.from({ length: 8 }, (_, j) => sheet.data[(i * 8 + j) * 3]);
    expect(row(0)).toEqual([0, 0, 255, 20, 20, 255, 40, 40]);
    expect(row(2)).toEqual(Array.from({ length: 8 }, () => 255));
    expect(row(4)).toEqual(row(0));
    await writeContactSheet(join(root, "sheet.png"), [clip]);
    expect((await sharp(join(root, "sheet.png")).metadata()).width).toBe(5 + 4 * 2);
  });

  test("FFV1 is exact at any size, sound within 16 bits", async () => {
    const random = new Random(0, "test");
    for (const [height, width] of [
      [16, 16],
      [9, 21],
    ] as const) {
      const data = Uint8Array.from({ length: 6 * height * width * 3 }, () => random.int(256));
      const clip = { data, frames: 6, height, width };
      const file = join(root, `l${height}.mkv`);
      await writeLossless(file, clip, 29.97);
      const { clip: back, probe } = await readBack(file, clip);
      expect(Buffer.compare(back, data)).toBe(0);
      expect(Math.abs(probe.fps - 29.97)).toBeLessThan(0.1); // Matroska counts milliseconds
    }
  });

  test("MP4 keeps frames, rate and, within a little, colours", async () => {
    for (const clip of [soft(9, 32, 48), soft(9, 31, 47)]) {
      const file = join(root, `m${clip.height}.mp4`);
      await writeMp4(file, clip, 8, { samples: new Float32Array(9000), rate: 8000 });
      const { clip: back, probe } = await readBack(file, clip);
      expect([probe.frames, probe.fps, probe.audio]).toEqual([9, 8, true]);
      const error = back.reduce((sum, value, i) => sum + Math.abs(value - clip.data[i]!), 0);
      expect(error / back.length).toBeLessThan(4);
    }
  });

  test("GIF keeps every frame and plays for ever", async () => {
    const clip = soft(7, 12, 20);
    await writeGif(join(root, "g.gif"), clip, 8);
    const meta = await sharp(join(root, "g.gif"), { animated: true }).metadata();
    expect([meta.pages, meta.pageHeight, meta.loop]).toEqual([7, 12, 0]);
    const { clip: back } = await readBack(join(root, "g.gif"), clip);
    const error = back.reduce((sum, value, i) => sum + Math.abs(value - clip.data[i]!), 0);
    expect(error / back.length).toBeLessThan(3);
  });

  test("the same clip gives the same file, and no temporary one is left", async () => {
    const clip = soft(5, 16, 16);
    for (const write of [writeMp4, writeLossless, writeGif]) {
      const sound = { samples: new Float32Array(5000), rate: 8000 };
      await write(join(root, "one"), clip, 8, sound);
      await write(join(root, "two"), clip, 8, sound);
      expect(readFileSync(join(root, "one")).equals(readFileSync(join(root, "two")))).toBe(true);
    }
    expect(readdirSync(root).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });

  test("decoderInfo names what is here", async () => {
    const info = await decoderInfo();
    expect(info.available).toBe(true);
    expect(info.decoders).toContain("h264");
    expect(info.encoders).toEqual(expect.arrayContaining(["libx264", "ffv1"]));
  });
});
