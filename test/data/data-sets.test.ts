/** @file Known data sets by their layout: counts, labels, captions, splits and frames. */

import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Value } from "typebox/value";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { loadAv } from "../../src/data/av.ts";
import type { Dataset } from "../../src/data/dataset.ts";
import { type ClipTask, copyClip, decodeClip, needsNoFfmpeg } from "../../src/data/decode.ts";
import type { LayoutConfig } from "../../src/data/layouts/registry.ts";
import { open, schema, type VideoSetConfig } from "../../src/data/video-set.ts";
import { setWarningSink } from "../../src/data/warnings.ts";
import * as write from "./look-alikes.ts";
import { numbersOf, temporaryFolder } from "./support.ts";

const root = temporaryFolder("sets");
let warnings: string[] = [];
let previous: (message: string) => void;
beforeEach(() => {
  warnings = [];
  previous = setWarningSink((message) => warnings.push(message));
});
afterEach(() => {
  setWarningSink(previous);
});
afterAll(() => write.forgetVideos());

/** The config of a layout as the config system would fill it in. */
function config(path: string, layout: object, over: Partial<VideoSetConfig> = {}): VideoSetConfig {
  const small = { frames: 4, height: 16, width: 16, workers: 0 };
  const made = Value.Default(schema, { type: "video-set", path, ...small, ...over });
  return { ...(made as VideoSetConfig), layout: layout as LayoutConfig };
}

async function both(
  path: string,
  layout: object,
  over: Partial<VideoSetConfig> = {},
): Promise<{ train: Dataset; held: Dataset }> {
  const train = await open(config(path, layout, over), "train", 1);
  const held = await open(config(path, layout, over), "validation", 1);
  return { train, held };
}

async function labels(dataset: Dataset): Promise<{ [name: string]: number }> {
  const counts: { [name: string]: number } = {};
  for (let i = 0; i < dataset.size; i++) {
    const { label } = await dataset.get(i, 0);
    const name = label < 0 ? "none" : dataset.classes[label]!;
    counts[name] = (counts[name] ?? 0) + 1;
  }
  return counts;
}

async function here(name: string, make: (path: string) => Promise<void> | void): Promise<string> {
  const path = join(root.path, name);
  mkdirSync(path, { recursive: true });
  await make(path);
  return path;
}

describe("video sets of actions", () => {
  test("UCF-101: three splits, CRLF lists, names in other cases", async () => {
    const path = await here("ucf", write.ucf101);
    for (const fold of [1, 2, 3]) {
      const { train, held } = await both(path, { type: "ucf101", fold });
      expect([train.size, held.size]).toEqual([9, 3]);
      const all = { ApplyEyeMakeup: 1, ApplyLipstick: 1, HandstandPushups: 1 };
      expect(await labels(held)).toEqual(all);
      const ids = await Promise.all([0, 1, 2].map(async (i) => (await held.get(i, 0)).id));
      expect(ids.every((id) => id.includes(`_g0${fold}_`))).toBe(true);
      const { id, clip } = await held.get(0, 0);
      const first = Number(/@(\d+)-/.exec(id)![1]);
      expect(numbersOf(clip, 4)).toEqual([first, first + 1, first + 2, first + 3]);
      expect(held.sampling).toMatchObject({ split: `test list ${fold}`, clips: "centre" });
    }
    expect(warnings).toEqual([]);
  });

  test("Kinetics: quoted labels, files that are gone are counted", async () => {
    const path = await here("kinetics", write.kinetics);
    const { train, held } = await both(path, { type: "kinetics", version: 400, held_out: "validate" }, { verify: "drawn" }); // biome-ignore format: one call
    expect([train.size, held.size]).toEqual([3, 2]);
    expect(train.classes).toEqual(["abseiling", "playing ten pins, bowling"]);
    expect(await labels(held)).toEqual({ abseiling: 1, "playing ten pins, bowling": 1 });
    expect(train.skipped).toEqual([{ file: "gone_456789_000002_000012.mp4", reason: "does not exist" }]); // biome-ignore format: one call
    expect(warnings).toContain("skipped: gone_456789_000002_000012.mp4 does not exist");
  });

  test("Something-Something v2: templates are classes, captions name the things", async () => {
    const path = await here("ssv2", write.ssv2);
    const { train, held } = await both(path, { type: "ssv2", held_out: "validation" });
    expect([train.size, held.size, train.classes.length]).toEqual([2, 1, 2]);
    expect((await held.get(0, 0)).caption).toBe("approaching door with your camera");
    expect(await labels(train)).toEqual({ "Holding something next to something": 2 });
    const test = await open(config(path, { type: "ssv2", held_out: "test" }), "validation", 1);
    expect(await labels(test)).toEqual({ "Holding something next to something": 1 });
  });

  test("HMDB51: flags 1 and 2, unused clips are left out", async () => {
    const path = await here("hmdb", write.hmdb51);
    const { train, held } = await both(path, { type: "hmdb51", fold: 2 });
    expect([train.size, held.size]).toEqual([4, 2]);
    expect(await labels(train)).toEqual({ brush_hair: 2, wave: 2 });
  });

  test("KTH: persons decide the split", async () => {
    const path = await here("kth", write.kth);
    const { train, held } = await both(path, { type: "kth" });
    expect([train.size, held.size]).toEqual([4, 4]);
    expect(await labels(held)).toEqual({ boxing: 2, walking: 2 });
  });

  test("MSR-VTT: each visit has another caption", async () => {
    const path = await here("msrvtt", write.msrVtt);
    const { train, held } = await both(path, { type: "msr-vtt", held_out: "test" });
    expect([train.size, held.size]).toEqual([2, 1]);
    const captions = await Promise.all([0, 1, 2, 3].map(async (v) => (await train.get(0, v)).caption)); // biome-ignore format: one call
    expect(captions.map((text) => text.split(" ")[1])).toEqual(["0", "1", "2", "0"]);
    expect(held.classes[(await held.get(0, 0)).label]).toBe("advertisement");
  });
});

describe("robots, roads, objects, sequences", () => {
  test("BAIR: raw frames, actions and positions; all windows of the test videos", async () => {
    const path = await here("bair", write.bair);
    const layout = { type: "bair", camera: "image_aux1", record_frames: 6, record_side: 16 };
    const { train, held } = await both(path, layout, { held_out_sampling: "all", window_step: 1 });
    expect([train.size, held.size]).toEqual([4, 3]);
    for (let start = 0; start < 3; start++) {
      const { id, clip, signals } = await held.get(start, 0);
      expect(id).toBe(`test/traj_0_to_255.tfrecords#0@${start}-${start + 3}`);
      expect(Array.from(clip.filter((_, i) => i % (16 * 16 * 3) === 0))).toEqual([0, 1, 2, 3].map((t) => 4 * (t + start) + 9)); // biome-ignore format: one call
      expect(Array.from(signals!["action"]!.subarray(0, 8))).toEqual([9, start, 0.5, -1, 9, start + 1, 0.5, -1]); // biome-ignore format: one call
      expect(signals!["endeffector_pos"]!.length).toBe(12);
    }
    const main = await open(config(path, { ...layout, camera: "image_main" }), "validation", 1);
    expect((await main.get(0, 0)).clip[0]).toBe(199);
  });

  test("nuScenes: the front camera's key frames and sweeps in order of time", async () => {
    const path = await here("nuscenes", write.nuscenes);
    const layout = { type: "nuscenes", camera: "CAM_FRONT", version: "v1.0-trainval" };
    const { train, held } = await both(path, layout, { frames: 9 });
    expect([train.size, held.size, train.fps]).toEqual([2, 1, 12]);
    const { clip, caption, id } = await held.get(0, 0);
    const levels = Array.from({ length: 9 }, (_, t) => Math.round(clip[t * 768]! / 20));
    expect(levels).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
    expect([caption, id]).toEqual(["Rain, turn left", "scene-0002@0-8"]);
  });

  test("nuScenes: a scene with a gap is named", async () => {
    const path = await here("nuscenes-gap", write.nuscenes);
    rmSync(join(path, "sweeps/CAM_FRONT/n0-01.jpg"));
    const layout = { type: "nuscenes", camera: "CAM_FRONT", version: "v1.0-trainval" };
    const train = await open(config(path, layout), "train", 1);
    expect(train.skipped).toEqual([{ file: "scene-0001", reason: "has 8 of 9 pictures of CAM_FRONT" }]); // biome-ignore format: one call
  });

  test("Objectron and DAVIS", async () => {
    const { train, held } = await both(await here("objectron", write.objectron), { type: "objectron" }); // biome-ignore format: one call
    expect([train.size, held.size, train.classes]).toEqual([4, 2, ["bike", "cup"]]);
    const layout = { type: "davis", year: 2017, resolution: "480p" };
    const davis = await both(await here("davis", write.davis), layout, { frames: 6 });
    expect([davis.train.size, davis.held.size, davis.held.fps]).toEqual([2, 1, 24]);
    const { clip } = await davis.held.get(0, 0);
    const levels = Array.from({ length: 6 }, (_, t) => Math.round(clip[t * 768]! / 4));
    expect(levels).toEqual([0, 1, 2, 3, 4, 5]);
  });

  test("MCL-JCV and UVG: sizes from names, 8 and 10 bits, odd sides, cut files named", async () => {
    const rule = { conversion: "formula", colour: "bt709", range: "limited", held_out_sampling: "start" } as const; // biome-ignore format: one value
    for (const [set, make, count] of [
      ["mcl-jcv", write.mclJcv, 2],
      ["uvg", write.uvg, 3],
    ] as const) {
      const path = await here(set, make);
      const held = await open(config(path, { type: "sequences", set }, rule), "validation", 1);
      expect(held.size).toBe(count);
      for (let i = 0; i < count; i++) {
        const { clip, id } = await held.get(i, 0);
        const step = id.startsWith("HoneyBee") ? 0 : 10;
        const wanted = [0, 1, 2, 3].map((t) => Math.round((step * t * 255) / 219));
        expect({ id, levels: [0, 1, 2, 3].map((t) => clip[t * 768]) }).toEqual({ id, levels: wanted }); // biome-ignore format: one call
      }
      await expect(open(config(path, { type: "sequences", set }), "train", 1)).rejects.toThrow(/train split/); // biome-ignore format: one call
    }
    const cut = await open(config(join(root.path, "mcl-jcv"), { type: "sequences", set: "mcl-jcv" }), "validation", 1); // biome-ignore format: one call
    expect(cut.skipped?.[0]?.reason).toMatch(/no whole number of frames of 24x16/);
  });
});

describe("pictures", () => {
  test("ImageNet: folders to train, a flat val with its solution, names of synsets", async () => {
    const path = await here("imagenet", write.imagenet);
    const { train, held } = await both(path, { type: "imagenet" }, { frames: 1 });
    expect([train.size, held.size]).toEqual([6, 2]);
    expect(train.classes).toEqual(["n01440764", "n01443537"]);
    const { label, caption, clip } = await held.get(0, 0);
    expect(caption).toBe(["tench", "goldfish"][label]);
    expect(Math.abs(clip[0]! - (60 + 40 * label))).toBeLessThan(3);
  });

  test("mini-ImageNet: splits share no class", async () => {
    const path = await here("mini", write.miniImagenet);
    const { train, held } = await both(path, { type: "mini-imagenet", held_out: "test" }, { frames: 1 }); // biome-ignore format: one call
    expect([await labels(train), await labels(held)]).toEqual([{ n01: 4, n02: 4 }, { n04: 4, n05: 4 }]); // biome-ignore format: one call
  });

  test("LSUN-like folders and any folder of pictures", async () => {
    const { train, held } = await both(await here("lsun", write.lsun), { type: "lsun" }, { frames: 1 }); // biome-ignore format: one call
    expect([await labels(train), held.size]).toEqual([{ bedroom: 2, church_outdoor: 1 }, 1]);
    const path = await here("images", write.imageFolder);
    const any = await both(path, { type: "image-folder", split_by: "auto" }, { frames: 1, validation_fraction: 0.4 }); // biome-ignore format: one call
    expect(any.train.size + any.held.size).toBe(5);
    expect(any.train.classes).toEqual(["cat", "dog"]);
  });

  test("Moving MNIST's public array", async () => {
    const path = await here("mnist", write.movingMnistTest);
    const { train, held } = await both(path, { type: "npy", held_out: 2, fps: 10 });
    expect([train.size, held.size]).toEqual([4, 2]);
    const { id, clip } = await held.get(0, 0);
    const n = Number(/#(\d+)/.exec(id)![1]);
    expect([0, 1, 2, 3].map((t) => clip[t * 768])).toEqual([n, 10 + n, 20 + n, 30 + n]);
  });
});

test("RGB arrays: the same bytes with FFmpeg's scaler and without", async () => {
  const source = { kind: "pixels", file: "", offsets: [] as number[], width: 12, height: 12, channels: 3, fps: 10 } as const; // biome-ignore format: one source
  const path = await here("rgb", (folder) => {
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, "clips.npy"), write.rgbArray(2, 5, 12));
  });
  const offsets = Array.from({ length: 5 }, (_, k) => 128 + (5 + k) * 432);
  const rule = { frames: 3, fps: null, stride: 2, place: "start", clips: 1, step: 1, short: "skip" } as const; // biome-ignore format: one rule
  for (const flip of [false, true]) {
    for (const at of [
      [0, 0],
      [0.5, 0.99],
      [0.7, 0.2],
    ] as const) {
      // biome-ignore format: one list
      const task: ClipTask = {
        source: { ...source, file: join(path, "clips.npy"), offsets },
        probe: undefined,
        rule,
        which: 0,
        chance: 0,
        pixels: { height: 8, width: 10, resize: 12, filter: "bicubic", colour: "auto", range: "auto", conversion: "swscale" }, // biome-ignore format: one rule
        crop: { at, flip },
        missing: 0,
      };
      expect(needsNoFfmpeg(task)).toBe(true);
      expect(copyClip(task).clip).toEqual(decodeClip(await loadAv(), task).clip);
    }
  }
});

describe("WebDataset", () => {
  test("members are decoded where they lie; labels, captions, splits by key or by shard", async () => {
    const path = await here("web", (folder) => write.webdataset(folder));
    const { train, held } = await both(path, { type: "webdataset", shards: "clips-{000000..000001}.tar", held_out_shards: "clips-000002.tar" }); // biome-ignore format: one call
    expect([train.size, held.size]).toEqual([6, 3]);
    expect(await labels(train)).toEqual({ 0: 3, 1: 3 });
    const { id, caption, clip } = await held.get(0, 0);
    const first = Number(/@(\d+)-/.exec(id)![1]);
    expect(numbersOf(clip, 4)).toEqual([first, first + 1, first + 2, first + 3]);
    expect(caption).toBe(`clip ${/(\d{6})@/.exec(id)![1]}`);
    const missing = await open(config(path, { type: "webdataset", shards: "clips-{000000..000004}.tar", held_out_shards: null }), "train", 1); // biome-ignore format: one call
    expect(missing.skipped?.map(({ file }) => file)).toEqual(["clips-000003.tar", "clips-000004.tar"]); // biome-ignore format: one call
  });
});
