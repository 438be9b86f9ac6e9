/** @file Media that is damaged or unusual: each has a documented behaviour (docs/data.md). */

import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, renameSync, symlinkSync, truncateSync, writeFileSync, statSync } from "node:fs"; // biome-ignore format: one list
import { join } from "node:path";
import sharp from "sharp";
import { Value } from "typebox/value";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { Dataset } from "../../src/data/dataset.ts";
import type { LayoutConfig } from "../../src/data/layouts/registry.ts";
import { Loader } from "../../src/data/loader.ts";
import { writeGif, writeLossless, writeMp4 } from "../../src/data/video.ts";
import * as folder from "../../src/data/video-folder.ts";
import * as set from "../../src/data/video-set.ts";
import { setWarningSink } from "../../src/data/warnings.ts";
import { numbered, numbersOf, temporaryFolder } from "./support.ts";

const root = temporaryFolder("bad");
let warnings: string[] = [];
let previous: (message: string) => void;
beforeEach(() => {
  warnings = [];
  previous = setWarningSink((message) => warnings.push(message));
});
afterEach(() => {
  setWarningSink(previous);
});

function videos(path: string, over: Partial<folder.VideoFolderConfig> = {}): Promise<Dataset> {
  const small = { frames: 4, height: 16, width: 16, workers: 0, held_out_sampling: "start" };
  const made = Value.Default(folder.schema, { type: "video-folder", path, ...small, ...over });
  return folder.open(made as folder.VideoFolderConfig, "validation", 0);
}

function here(name: string): string {
  const path = join(root.path, name);
  mkdirSync(path, { recursive: true });
  return path;
}

test("truncated: left out when the set is opened, or replaced when it is drawn", async () => {
  const path = here("truncated");
  for (const name of ["a", "b", "c"]) {
    await writeMp4(join(path, `${name}.mp4`), numbered(60, 64, 64), 25);
  }
  truncateSync(join(path, "b.mp4"), statSync(join(path, "b.mp4")).size - 2000);
  const open = await videos(path);
  expect(open.skipped?.[0]).toMatchObject({ file: "b.mp4" });
  expect(open.skipped?.[0]?.reason).toMatch(/corrupt|not a media file|no frame that decodes/);
  const made = Value.Default(folder.schema, { type: "video-folder", path, frames: 60, height: 16, width: 16, workers: 0, verify: "drawn", validation_fraction: 0.2 }); // biome-ignore format: one value
  const drawn = await folder.open(made as folder.VideoFolderConfig, "train", 0);
  const loader = new Loader(drawn, { batch: drawn.size, seed: 0 });
  expect((await loader.next()).ids.every((id) => !id.startsWith("b.mp4"))).toBe(true);
});

test("a wrong extension does not matter, text in a video's name does", async () => {
  const path = here("extension");
  await writeMp4(join(path, "x.mp4"), numbered(8), 8);
  renameSync(join(path, "x.mp4"), join(path, "really-mp4.avi"));
  writeFileSync(join(path, "note.mp4"), "no video ".repeat(50));
  const dataset = await videos(path);
  expect(numbersOf((await dataset.get(0, 0)).clip, 4)).toEqual([0, 1, 2, 3]);
  expect(dataset.skipped?.[0]?.reason).toMatch(/not a media file/);
});

test("zero frames, and no bytes", async () => {
  const path = here("zero");
  await writeMp4(join(path, "good.mp4"), numbered(8), 8);
  writeFileSync(join(path, "none.y4m"), "YUV4MPEG2 W16 H16 F8:1 Ip A1:1 C420jpeg\n");
  writeFileSync(join(path, "empty.mp4"), "");
  const { skipped } = await videos(path);
  expect(skipped?.map(({ file, reason }) => `${file} ${reason}`).sort()).toEqual([
    "empty.mp4 is empty",
    expect.stringMatching(/^none.y4m (has no frame|not a media file|no stream)/),
  ]);
});

test("odd sides are kept to the pixel", async () => {
  const path = here("odd");
  await writeLossless(join(path, "odd.mkv"), numbered(6, 17, 23), 8);
  const { clip } = await (await videos(path, { height: 17, width: 23 })).get(0, 0);
  expect(Buffer.compare(clip, numbered(4, 17, 23).data)).toBe(0);
});

test("a varying rate: frames by their own times", async () => {
  const path = here("rate");
  const { data, height, width } = numbered(6);
  await sharp(data, { raw: { width, height: height * 6, channels: 3, pageHeight: height } })
    .gif({ delay: [100, 500, 100, 100, 300, 100], keepDuplicateFrames: true, interPaletteMaxError: 0 }) // biome-ignore format: one call
    .toFile(join(path, "v.gif"));
  const native = await videos(path, { frames: 6 });
  expect(numbersOf((await native.get(0, 0)).clip, 6)).toEqual([0, 1, 2, 3, 4, 5]);
  // At 0, 0.2, 0.4, 0.6, 0.8 s: frame 1 is shown from 0.1 to 0.6 s.
  const five = await videos(path, { frames: 5, fps: 5 });
  expect(numbersOf((await five.get(0, 0)).clip, 5)).toEqual([0, 1, 1, 2, 4]);
});

test("alpha is left out: the colours under it show", async () => {
  const path = here("alpha");
  const rgba = Buffer.alloc(16 * 16 * 4);
  for (let i = 0; i < 256; i++) {
    rgba.set([200, 100, 50, i], i * 4);
  }
  mkdirSync(join(path, "c"));
  for (const name of ["a.png", "b.png"]) {
    await sharp(rgba, { raw: { width: 16, height: 16, channels: 4 } }).toFile(
      join(path, "c", name),
    );
  }
  const dataset = await pictures(path);
  expect(Array.from((await dataset.get(0, 0)).clip.subarray(0, 6))).toEqual([200, 100, 50, 200, 100, 50]); // biome-ignore format: one call
});

function pictures(path: string): Promise<Dataset> {
  const made = Value.Default(set.schema, { type: "video-set", path, frames: 1, height: 16, width: 16, workers: 0 }) as set.VideoSetConfig; // biome-ignore format: one value
  const layout: LayoutConfig = { type: "image-folder", split_by: "auto" };
  return set.open({ ...made, layout }, "validation", 0);
}

test("a picture's orientation is applied", async () => {
  const path = here("orientation");
  mkdirSync(join(path, "c"));
  const rgb = Buffer.alloc(16 * 16 * 3, 20);
  rgb.fill(220, 0, 16 * 8 * 3); // bright above
  for (const name of ["a.jpg", "b.jpg"]) {
    await sharp(rgb, { raw: { width: 16, height: 16, channels: 3 } })
      .withMetadata({ orientation: 6 }) // to be turned a quarter to the right
      .jpeg({ quality: 95 })
      .toFile(join(path, "c", name));
  }
  const { clip } = await (await pictures(path)).get(0, 0);
  const at = (y: number, x: number): number => clip[(y * 16 + x) * 3]!;
  expect(at(8, 13)).toBeGreaterThan(180); // bright on the right
  expect(at(8, 2)).toBeLessThan(60);
});

test("ten bits become eight", async () => {
  const path = here("ten");
  const samples = Uint16Array.from({ length: 24 * 16 + 2 * 12 * 8 }, (_, i) => i < 24 * 16 ? 502 : 512); // biome-ignore format: one call
  const frame = [Buffer.from("FRAME\n"), Buffer.from(samples.buffer)];
  const head = Buffer.from("YUV4MPEG2 W24 H16 F25:1 Ip A1:1 C420p10 XYSCSS=420P10\n");
  writeFileSync(join(path, "t.y4m"), Buffer.concat([head, ...frame, ...frame, ...frame, ...frame]));
  const { clip } = await (await videos(path)).get(0, 0);
  // Y = 502/4 = 125.5 of limited range: (125.5 − 16) · 255/219.
  expect(Math.abs(clip[0]! - 127.5)).toBeLessThanOrEqual(1);
});

test("missing sound is silence of the clip's length", async () => {
  const path = here("silent");
  await writeMp4(join(path, "mute.mp4"), numbered(20), 10);
  const dataset = await videos(path, { fps: 10, audio_rate: 8000 });
  const { audio } = await dataset.get(0, 0);
  expect([audio!.length, audio!.every((value) => value === 0)]).toEqual([3200, true]);
});

test("names outside of ASCII, in both Unicode forms", async () => {
  const path = here("names");
  const names = ["走る – ü.mp4", "e\u0301.mp4", "a b'c\"d%20#?.mp4"];
  for (const name of names) {
    await writeMp4(join(path, name), numbered(8), 8);
  }
  const dataset = await videos(path, { validation_fraction: 0.99 });
  const ids = await Promise.all(Array.from({ length: dataset.size }, async (_, i) => (await dataset.get(i, 0)).id)); // biome-ignore format: one call
  expect(ids.every((id) => names.includes(id.split("@")[0]!))).toBe(true);
  expect(dataset.skipped).toEqual([]);
});

test("links that lead back are not followed; others are", async () => {
  const path = here("links");
  await writeMp4(join(path, "real", "a.mp4"), numbered(8), 8);
  await writeMp4(join(here("elsewhere"), "b.mp4"), numbered(8), 8);
  symlinkSync(path, join(path, "real", "up"));
  symlinkSync(join(path, "loop"), join(path, "loop"));
  symlinkSync(join(root.path, "elsewhere"), join(path, "other"));
  symlinkSync(join(path, "nowhere"), join(path, "broken.mp4"));
  const names = folder.find(Value.Default(folder.schema, { type: "video-folder", path }) as folder.VideoFolderConfig).candidates.map(({ name }) => name); // biome-ignore format: one call
  expect(names).toEqual(["other/b.mp4", "real/a.mp4"]);
});

test("files and folders that may not be read are named", async () => {
  const path = here("locked");
  await writeGif(join(path, "ok", "a.gif"), numbered(8), 10);
  await writeGif(join(path, "ok", "locked.gif"), numbered(8), 10);
  await writeGif(join(path, "closed", "b.gif"), numbered(8), 10);
  chmodSync(join(path, "ok", "locked.gif"), 0o000);
  chmodSync(join(path, "closed"), 0o000);
  chmodSync(root.path, 0o755);
  const module = new URL("../../src/data/video-folder.ts", import.meta.url).href;
  const code = `
    const { open, schema } = await import(${JSON.stringify(module)});
    const { Value } = await import("typebox/value");
    const config = Value.Default(schema, { type: "video-folder", path: ${JSON.stringify(path)}, frames: 4, workers: 0 });
    const dataset = await open(config, "validation", 0);
    process.stdout.write(JSON.stringify(dataset.skipped), () => process.exit());`;
  // The superuser may read everything: give that up first.
  const drop = process.getuid?.() === 0 ? "process.setgid(65534); process.setuid(65534);" : "";
  const tsx = new URL("../../node_modules/tsx/dist/loader.mjs", import.meta.url).href;
  const out = execFileSync(process.execPath, ["--import", tsx, "--input-type=module", "-e", `${drop}${code}`], {
    encoding: "utf8",
    env: { ...process.env, TMPDIR: "/tmp", HOME: "/tmp" },
    cwd: new URL("../..", import.meta.url).pathname,
    stdio: ["ignore", "pipe", "ignore"],
  }); // biome-ignore format: one call
  expect(JSON.parse(out)).toEqual([
    { file: "closed", reason: "cannot be read (EACCES)" },
    { file: "ok/locked.gif", reason: expect.stringMatching(/cannot be opened \(Permission denied\)/) }, // biome-ignore format: one value
  ]);
  chmodSync(join(path, "closed"), 0o755);
});
