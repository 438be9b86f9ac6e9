/** @file Real files: good ones, bad ones, turned ones; made here with FFmpeg's own encoders. */

import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Value } from "typebox/value";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { UserError } from "../../src/config/errors.ts";
import type { Frames } from "../../src/data/image.ts";
import { Loader, onePass } from "../../src/data/loader.ts";
import { writeGif, writeLossless, writeMp4 } from "../../src/data/video.ts";
import { open, schema, type VideoFolderConfig } from "../../src/data/video-folder.ts";
import { setWarningSink } from "../../src/data/warnings.ts";
import { numbered, numbersOf } from "./support.ts";

let root = "";
let warnings: string[] = [];
let previous: (message: string) => void;
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "tessera-videos-"));
});
afterAll(() => {
  rmSync(root, { recursive: true, force: true });
});
beforeEach(() => {
  warnings = [];
  previous = setWarningSink((message) => warnings.push(message));
});
afterEach(() => {
  setWarningSink(previous);
});

function config(overrides: Partial<VideoFolderConfig>): VideoFolderConfig {
  const small = { frames: 4, height: 16, width: 16, workers: 0 };
  return Value.Default(schema, {
    type: "video-folder",
    ...small,
    ...overrides,
  }) as VideoFolderConfig;
}

const folder = (name: string): string => {
  const path = join(root, name);
  mkdirSync(path, { recursive: true });
  return path;
};

/** The display matrix of an MP4's video track, changed in place. */
function setMatrix(file: string, [a, b, c, d]: readonly [number, number, number, number]): void {
  const bytes = readFileSync(file);
  const header = bytes.indexOf("tkhd");
  const matrix = header + 4 + 40; // version 0: flags, times, id, duration, layer, group, volume
  for (const [i, value] of [a, b, 0, c, d, 0].entries()) {
    bytes.writeInt32BE(value * 65536, matrix + i * 4);
  }
  writeFileSync(file, bytes);
}

describe("video-folder", () => {
  test("subfolders are classes; every container gives its own frames", async () => {
    const path = folder("classes");
    await writeLossless(join(path, "walk", "a.mkv"), numbered(12), 8);
    await writeLossless(join(path, "walk", "Zoë – 走る.mkv"), numbered(9), 8);
    await writeMp4(join(path, "jump", "b.mp4"), numbered(12), 8);
    await writeGif(join(path, "jump", "c.gif"), numbered(12), 10);
    for (const split of ["train", "validation"] as const) {
      const dataset = await open(config({ path, validation_fraction: 0.5 }), split, 1);
      expect(dataset.classes).toEqual(["jump", "walk"]);
      expect(dataset.size).toBeGreaterThan(0);
      for await (const batch of onePass(dataset, { batch: 1 })) {
        const id = batch.ids[0]!;
        const first = Number(/@(\d+)-/.exec(id)![1]);
        const numbers = [first, first + 1, first + 2, first + 3];
        expect({ id, numbers: numbersOf(batch.clips, 4) }).toEqual({ id, numbers });
        expect(batch.labels[0]).toBe(id.startsWith("jump") ? 0 : 1);
      }
      await dataset.close();
    }
    expect(warnings).toEqual([]);
  });

  test("leaves out what cannot be used, by name and reason, and counts it", async () => {
    const path = folder("zoo");
    await writeLossless(join(path, "good.mkv"), numbered(12), 8);
    await writeMp4(join(path, "fine.mov"), numbered(12), 8); // named as another container
    await writeLossless(join(path, "short.mkv"), numbered(3), 8);
    writeFileSync(join(path, "empty.mp4"), "");
    writeFileSync(join(path, "text.mp4"), "this is no video\n".repeat(100));
    writeFileSync(join(path, "none.y4m"), "YUV4MPEG2 W16 H16 F8:1 Ip A1:1 C420jpeg\n");
    await writeMp4(join(path, "cut.mp4"), numbered(40, 64, 64), 8);
    truncateSync(join(path, "cut.mp4"), Math.floor(statSync(join(path, "cut.mp4")).size * 0.7));
    const rotten = join(path, "rotten.mp4");
    await writeMp4(rotten, noise(40), 8);
    const bytes = readFileSync(rotten);
    bytes.fill(0, Math.floor(bytes.length * 0.5), Math.floor(bytes.length * 0.6));
    writeFileSync(rotten, bytes);

    const dataset = await open(config({ path }), "train", 1);
    const skipped = new Map(dataset.skipped!.map(({ file, reason }) => [file, reason]));
    expect([...skipped.keys()]).toEqual(["cut.mp4", "empty.mp4", "none.y4m", "rotten.mp4", "short.mkv", "text.mp4"]); // biome-ignore format: one list
    expect(skipped.get("empty.mp4")).toBe("is empty");
    expect(skipped.get("none.y4m")).toMatch(/no frame/);
    expect(skipped.get("text.mp4")).toMatch(/not a media file/);
    expect(skipped.get("short.mkv")).toBe("is too short: 3 frames, a clip needs 4");
    expect(skipped.get("cut.mp4")).toMatch(/is corrupt/);
    expect(skipped.get("rotten.mp4")).toMatch(/is corrupt/);
    expect(warnings.length).toBe(7);
    expect(warnings.at(-1)).toMatch(/2 files used, 6 skipped/);
    await open(config({ path }), "validation", 1);
    expect(warnings.length).toBe(7); // said once

    await expect(open(config({ path, strict: true }), "train", 1)).rejects.toThrow(
      /6 files of .* cannot be used:\n {2}cut.mp4 is corrupt/,
    );
    const tolerant = await open(config({ path, missing_frames: 40 }), "train", 1);
    expect(tolerant.skipped!.map(({ file }) => file)).not.toContain("rotten.mp4");
  });

  test("says what is wrong when nothing can be used", async () => {
    const path = folder("bad");
    await expect(open(config({ path }), "train", 1)).rejects.toThrow(/no media files in/);
    writeFileSync(join(path, "text.mp4"), "no video");
    await expect(open(config({ path }), "train", 1)).rejects.toThrow(
      /none of the 1 files of .* can be used:\n {2}text.mp4 not a media file/,
    );
    await expect(open(config({ path: join(path, "nowhere") }), "train", 1)).rejects.toThrow(
      /does not exist/,
    );
    await expect(open(config({}), "train", 1)).rejects.toThrow(UserError);
    await expect(open(config({ path, audio_rate: 8000 }), "train", 1)).rejects.toThrow(/fps/);
  });

  test("a single file serves both splits, with a warning and several clips", async () => {
    const path = folder("single");
    await writeLossless(join(path, "one.mkv"), numbered(60), 8);
    const c = config({ path, clips_per_video: 5, crop: "centre" });
    const train = await open(c, "train", 1);
    const validation = await open(c, "validation", 1);
    expect([train.size, validation.size]).toEqual([5, 5]);
    expect(warnings.filter((message) => /share it/.test(message)).length).toBe(1);
    const starts = await Promise.all(
      [0, 1, 2, 3, 4].map(async (i) => numbersOf((await validation.get(i, 0)).clip, 4)[0]),
    );
    expect(starts).toEqual([0, 14, 28, 42, 56]);
    const visits = await Promise.all(
      [0, 1, 2, 3].map(async (visit) => numbersOf((await train.get(0, visit)).clip, 4)[0]),
    );
    expect(new Set(visits).size).toBeGreaterThan(1);
    const other = await open(c, "train", 2);
    const first = async (dataset: typeof train) =>
      Promise.all([0, 1, 2, 3, 4].map(async (i) => (await dataset.get(i, 0)).id));
    expect(await first(train)).not.toEqual(await first(other));
  });

  test("seeking gives the frames that decoding from the start gives", async () => {
    const path = folder("long");
    await writeMp4(join(path, "long.mp4"), wavy(600), 30, undefined);
    const c = config({ path, crop: "centre", clips_per_video: 12, stride: 2 });
    const dataset = await open(c, "validation", 1);
    for (let i = 0; i < dataset.size; i++) {
      const sample = await dataset.get(i, 0);
      const first = Number(/@(\d+)-/.exec(sample.id)![1]);
      for (let t = 0; t < 4; t++) {
        const expected = wavyLevel(first + 2 * t);
        const got = sample.clip[(t * 16 * 16 + 8 * 16 + 8) * 3]!;
        expect(Math.abs(got - expected), `frame ${first + 2 * t}`).toBeLessThan(6);
      }
    }
  });

  test("resamples to a rate by what a viewer would see", async () => {
    const path = folder("rates");
    await writeLossless(join(path, "r.mkv"), numbered(30), 30);
    const slow = await open(config({ path, fps: 10, frames: 10 }), "validation", 1);
    expect(slow.fps).toBe(10);
    expect(numbersOf((await slow.get(0, 0)).clip, 10)).toEqual([
      0, 3, 6, 9, 12, 15, 18, 21, 24, 27,
    ]);
    const fast = await open(config({ path, fps: 60, frames: 60 }), "validation", 1);
    expect(numbersOf((await fast.get(0, 0)).clip, 60)).toEqual(
      Array.from({ length: 60 }, (_, t) => Math.floor(t / 2)),
    );
    await expect(open(config({ path, fps: 10, frames: 11 }), "train", 1)).rejects.toThrow(
      /too short: 10 frames at 10 a second, a clip needs 11/,
    );
  });

  test("honours rotation and mirroring", async () => {
    // Where the red corner of the upright picture ends.
    const turns = [
      { matrix: [1, 0, 0, 1], corner: [0, 0] },
      { matrix: [0, 1, -1, 0], corner: [0, 1] }, // 90° clockwise: (row 0, last column)
      { matrix: [-1, 0, 0, -1], corner: [1, 1] },
      { matrix: [0, -1, 1, 0], corner: [1, 0] },
      { matrix: [-1, 0, 0, 1], corner: [0, 1] }, // mirrored
    ] as const;
    for (const [k, { matrix, corner }] of turns.entries()) {
      const path = folder(`turn${k}`);
      await writeMp4(join(path, "t.mp4"), numbered(4, 24, 32), 8);
      setMatrix(join(path, "t.mp4"), matrix);
      const dataset = await open(config({ path }), "validation", 1);
      const { clip } = await dataset.get(0, 0);
      const red = [2, 13].flatMap((i) => [2, 13].map((j) => clip[(i * 16 + j) * 3]! > 128));
      const expected = [0, 1].flatMap((i) => [0, 1].map((j) => i === corner[0] && j === corner[1]));
      expect(red, `matrix ${matrix.join()}`).toEqual(expected);
    }
  });

  test("reads lists, with labels, captions and splits", async () => {
    const path = folder("lists");
    for (const name of ["a b.mkv", "b.mkv", "c.mkv"]) {
      await writeLossless(join(path, name), numbered(6), 8);
    }
    const csv = join(path, "list.csv");
    writeFileSync(
      csv,
      'path,label,caption,split\r\na b.mkv,10,"a ""fine"", long walk",train\r\nb.mkv,9,,train\r\nc.mkv,10,x,val\r\ngone.mkv,9,,val\r\n',
    );
    const train = await open(config({ list: csv }), "train", 1);
    const samples = [await train.get(0, 0), await train.get(1, 0)];
    expect(train.classes).toEqual(["9", "10"]);
    expect(new Map(samples.map(({ label, caption }) => [label, caption]))).toEqual(
      new Map([
        [1, 'a "fine", long walk'],
        [0, ""],
      ]),
    );
    expect(train.skipped).toEqual([{ file: "gone.mkv", reason: "does not exist" }]);
    expect((await open(config({ list: csv }), "validation", 1)).size).toBe(1);

    const jsonl = join(path, "list.jsonl");
    writeFileSync(jsonl, '{"path": "b.mkv"}\n\n{"path": "c.mkv", "label": "run"}\n');
    const listed = await open(config({ list: jsonl, validation_fraction: 0.5 }), "train", 1);
    expect(listed.size).toBe(1);
    writeFileSync(jsonl, '{"path": "b.mkv"}\n{"label": "run"}\n');
    await expect(open(config({ list: jsonl }), "train", 1)).rejects.toThrow(
      /list.jsonl:2: an entry without a path/,
    );
  });

  test("train/ and validation/ folders are the splits", async () => {
    const path = folder("splits");
    await writeLossless(join(path, "train", "x", "a.mkv"), numbered(6), 8);
    await writeLossless(join(path, "train", "y", "b.mkv"), numbered(6), 8);
    await writeLossless(join(path, "val", "y", "c.mkv"), numbered(6), 8);
    const train = await open(config({ path }), "train", 1);
    const validation = await open(config({ path }), "validation", 1);
    expect([train.size, validation.size]).toEqual([2, 1]);
    expect(validation.classes).toEqual(["x", "y"]);
    expect((await validation.get(0, 0)).label).toBe(1);
  });

  test("hash splits are disjoint, cover all files and do not move when files come", async () => {
    const path = folder("hash");
    const names = Array.from({ length: 12 }, (_, i) => `v${i}.mkv`);
    const splits = async () => {
      const found = new Map<string, string>();
      for (const split of ["train", "validation"] as const) {
        const dataset = await open(config({ path, validation_fraction: 0.3 }), split, 1);
        for (let i = 0; i < dataset.size; i++) {
          const name = (await dataset.get(i, 0)).id.split("@")[0]!;
          expect(found.has(name)).toBe(false);
          found.set(name, split);
        }
      }
      return found;
    };
    for (const name of names.slice(0, 8)) {
      await writeLossless(join(path, name), numbered(4), 8);
    }
    const before = await splits();
    for (const name of names.slice(8)) {
      await writeLossless(join(path, name), numbered(4), 8);
    }
    const after = await splits();
    expect(before.size).toBe(8);
    expect(after.size).toBe(12);
    for (const [name, split] of before) {
      expect(after.get(name)).toBe(split);
    }
  });

  test("sound is the clip's own span, mono, at the rate asked for", async () => {
    const path = folder("sound");
    const rate = 8000;
    // One second of 200 Hz, then one of 1000 Hz.
    const samples = Float32Array.from(
      { length: 2 * rate },
      (_, n) => 0.5 * Math.sin((2 * Math.PI * (n < rate ? 200 : 1000) * n) / rate),
    );
    await writeLossless(join(path, "s.mkv"), numbered(16), 8, { samples, rate });
    await writeMp4(join(path, "silent.mp4"), numbered(16), 8);
    const c = config({ path, fps: 8, frames: 4, audio_rate: 16000, clips_per_video: 2, sampling: "uniform", split_by: "hash" }); // biome-ignore format: one call
    const crossings = (audio: Float32Array) =>
      audio.reduce((n, value, i) => n + (i > 0 && audio[i - 1]! < 0 && value >= 0 ? 1 : 0), 0);
    const heard = new Map<string, number[]>();
    for (const split of ["train", "validation"] as const) {
      const dataset = await open(c, split, 1);
      const [early, late] = [await dataset.get(0, 0), await dataset.get(1, 0)];
      expect(early.audio!.length).toBe(8000);
      heard.set(
        early.id.split("@")[0]!,
        [early, late].map(({ audio }) => crossings(audio!)),
      );
    }
    expect(heard.get("silent.mp4")).toEqual([0, 0]);
    const [low, high] = heard.get("s.mkv")!;
    expect(Math.abs(low! - 100)).toBeLessThan(3);
    expect(Math.abs(high! - 500)).toBeLessThan(3);
  });

  test("threads give the same clips; a file that vanishes is replaced", async () => {
    const path = folder("threads");
    for (let i = 0; i < 5; i++) {
      await writeLossless(join(path, `v${i}.mkv`), numbered(20), 8);
    }
    const drawn: string[] = [];
    for (const workers of [0, 2]) {
      const dataset = await open(config({ path, workers, frames: 3 }), "train", 7);
      const loader = new Loader(dataset, { batch: 3, seed: 1 });
      const batches = [await loader.next(), await loader.next(), await loader.next()];
      drawn.push(
        batches.map((b) => `${b.ids.join()} ${Buffer.from(b.clips).toString("base64")}`).join(),
      );
      // The threads write to where a clip lies in its batch.
      expect(batches[0]!.clips.buffer).toBeInstanceOf(SharedArrayBuffer);
      const { clip } = await dataset.get(0, 0);
      const room = new Uint8Array(new SharedArrayBuffer(clip.length));
      expect((await dataset.get(0, 0, room)).clip).toBe(room);
      expect(Buffer.compare(room, clip)).toBe(0);
      await dataset.close();
    }
    expect(drawn[1]).toBe(drawn[0]);
    const dataset = await open(config({ path, frames: 3 }), "train", 7);
    rmSync(join(path, (await dataset.get(0, 0)).id.split("@")[0]!));
    const ids: string[] = [];
    for await (const batch of onePass(dataset, { batch: 8 })) {
      ids.push(...batch.ids);
    }
    expect(ids.length).toBe(dataset.size);
    expect(warnings.filter((message) => /the next clip takes its place/.test(message)).length).toBe(
      1,
    );
  });

  test("quick looking agrees with full looking on sound files, and caches", async () => {
    const path = folder("quick");
    await writeMp4(join(path, "a.mp4"), wavy(40), 25);
    await writeLossless(join(path, "b.mkv"), numbered(12), 8);
    const cache = join(root, "index.jsonl");
    const clips = async (verify: "full" | "quick") => {
      const dataset = await open(config({ path, verify, index: cache }), "train", 1);
      return Array.from(await dataset.get(0, 0).then((sample) => sample.clip));
    };
    expect(await clips("quick")).toEqual(await clips("full"));
    expect(readFileSync(cache, "utf8").trimEnd().split("\n")).toHaveLength(3); // a head and two files
    writeFileSync(cache, "broken");
    expect(await clips("quick")).toEqual(await clips("full"));
    expect(warnings).toEqual([`${cache} cannot be read and is written anew`]);
  });
});

/** Noise, which fills the file evenly. */
function noise(frames: number): Frames {
  const data = new Uint8Array(frames * 64 * 64 * 3);
  let state = 1;
  for (let i = 0; i < data.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    data[i] = state >>> 24;
  }
  return { data, frames, height: 64, width: 64 };
}

/** Grey levels that tell neighbouring frames apart after lossy coding. */
const wavyLevel = (t: number): number => 40 + ((t * 37) % 160);
function wavy(frames: number): Frames {
  const data = new Uint8Array(frames * 16 * 16 * 3);
  for (let t = 0; t < frames; t++) {
    data.fill(wavyLevel(t), t * 768, (t + 1) * 768);
  }
  return { data, frames, height: 16, width: 16 };
}
