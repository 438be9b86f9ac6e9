/**
 * @file Frames are those of the ffmpeg tool at the same times, byte for byte, before any conversion:
 * all in order, and each alone after a seek with the frames in between left out. Files made here,
 * and those of the folder TESSERA_TEST_MEDIA where it is set.
 */

import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { loadAv } from "../../src/data/av.ts";
import { decodeNative } from "../../src/data/decode.ts";
import type { Frames } from "../../src/data/image.ts";
import { closeVideos } from "../../src/data/open-video.ts";
import { type Probed, probeSource } from "../../src/data/probe.ts";
import { wholeFile } from "../../src/data/source.ts";
import { open, schema, type VideoFolderConfig } from "../../src/data/video-folder.ts";
import { setWarningSink } from "../../src/data/warnings.ts";
import { Value } from "typebox/value";
import { writeGif, writeLossless, writeMp4 } from "../../src/data/video.ts";
import { Random } from "../../src/runtime/random.ts";
import { temporaryFolder } from "./support.ts";

const ffmpeg = spawnSync("ffmpeg", ["-version"], { encoding: "utf8" }).stdout?.split("\n")[0];
if (ffmpeg === undefined || ffmpeg === "") {
  process.stdout.write("frame exactness is not tested: there is no ffmpeg tool (apt-get install ffmpeg)\n"); // biome-ignore format: one call
}
const media = process.env["TESSERA_TEST_MEDIA"];
if (media === undefined) {
  process.stdout.write("real clips are not tested: TESSERA_TEST_MEDIA names no folder of them\n");
}
const root = temporaryFolder("exact");
const md5 = (bytes: Uint8Array): string => createHash("md5").update(bytes).digest("hex");

/** Sizes and checksums of all frames, and times, as the tool gives them. */
function toolFrames(file: string): { md5: string; time: number }[] {
  const args = ["-v", "error", "-noautorotate", "-i", file, "-map", "0:v:0", "-vsync", "passthrough", "-f", "framemd5", "-"]; // biome-ignore format: one list
  const rows = execFileSync("ffmpeg", args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }); // biome-ignore format: one call
  const base = /#tb 0: (\d+)\/(\d+)/.exec(rows)!;
  return rows
    .split("\n")
    .filter((line) => line.startsWith("0,"))
    .map((line) => {
      const cells = line.split(",").map((cell) => cell.trim());
      return { md5: cells.at(-1)!, time: (Number(cells[2]) * Number(base[1])) / Number(base[2]) };
    });
}

/** A textured drift, so that codecs make frames of all kinds. */
function drift(frames: number, height: number, width: number): Frames {
  const data = new Uint8Array(frames * height * width * 3);
  for (let i = 0, t = 0; t < frames; t++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i += 3) {
        const v = 128 + 60 * Math.sin((x + 2 * t) / 5) + 50 * Math.cos((y - t) / 7);
        data.set([v, 255 - v, (x * y + t) % 256], i);
      }
    }
  }
  return { data, frames, height, width };
}

async function compare(file: string): Promise<number> {
  const av = await loadAv();
  const probe: Probed = probeSource(av, { source: wholeFile(file), verify: "quick", missing: 0 });
  if ("problem" in probe) {
    throw new Error(`${file} ${probe.problem}`);
  }
  const wanted = toolFrames(file);
  expect(probe.frames).toBe(wanted.length);
  const numbers = wanted.map((_, i) => i);
  const all = decodeNative(av, wholeFile(file), probe, numbers);
  expect(all.map(({ bytes }) => md5(bytes))).toEqual(wanted.map((one) => one.md5));
  for (const [i, { time }] of all.entries()) {
    // A decoder that gives frames a packet late has no time left for the last one.
    const expected = wanted[i]!.time - wanted[0]!.time;
    const found = Number.isNaN(time) ? expected : time - all[0]!.time;
    expect(Math.abs(found - expected)).toBeLessThan(2e-3);
  }
  // Each alone, or enough of them: the same as in order.
  const step = Math.max(1, Math.floor(wanted.length / 12));
  for (let i = 0; i < wanted.length; i += step) {
    const some = [...new Set([i, Math.min(wanted.length - 1, i + 5)])];
    const alone = decodeNative(av, wholeFile(file), probe, some);
    expect(alone.map(({ bytes }) => md5(bytes))).toEqual(some.map((k) => wanted[k]!.md5));
  }
  // Runs in an order of chance: decoders that stand open go on, or search, or are opened anew.
  const random = new Random(0, "test/clips");
  for (let i = 0; i < 25; i++) {
    const length = Math.min(wanted.length, 1 + random.int(6));
    const first = random.int(wanted.length - length + 1);
    const run = Array.from({ length }, (_, k) => first + k);
    const found = decodeNative(av, wholeFile(file), probe, run);
    expect(found.map(({ bytes }) => md5(bytes))).toEqual(run.map((k) => wanted[k]!.md5));
  }
  closeVideos();
  return wanted.length;
}

describe.skipIf(!ffmpeg)("frames are the ffmpeg tool's", () => {
  const made = ["a.mp4", "odd.mkv", "b.gif"];
  beforeAll(async () => {
    await writeMp4(join(root.path, "a.mp4"), drift(70, 48, 64), 25);
    await writeLossless(join(root.path, "odd.mkv"), drift(20, 33, 47), 29.97);
    await writeGif(join(root.path, "b.gif"), drift(12, 24, 32), 10);
  });
  test.each(made)("%s", async (name) => {
    expect(await compare(join(root.path, name))).toBeGreaterThan(10);
  });

  const real = media === undefined ? [] : readdirSync(media).filter((name) => statSync(join(media, name)).isFile() && name !== "corrupted.mp4"); // biome-ignore format: one call
  test.skipIf(real.length === 0).each(real.length > 0 ? real : ["none"])(
    "real: %s",
    async (name) => {
      expect(await compare(join(media!, name))).toBeGreaterThan(0);
    },
  );

  test.skipIf(real.length === 0)(
    "real: the folder loads whole, faults named, rotation applied",
    async () => {
      const warnings: string[] = [];
      const previous = setWarningSink((message) => warnings.push(message));
      try {
        const over = {
          path: media!,
          frames: 2,
          height: 568,
          width: 320,
          workers: 0,
          clips_per_video: 1,
        };
        const config = Value.Default(schema, {
          type: "video-folder",
          ...over,
        }) as VideoFolderConfig;
        const train = await open({ ...config, held_out_sampling: "start" }, "train", 0);
        const held = await open({ ...config, held_out_sampling: "start", validation_fraction: 0.99 }, "validation", 0); // biome-ignore format: one call
        expect(train.skipped?.map(({ file }) => file)).toEqual(["corrupted.mp4"]);
        const samples = await Promise.all(
          Array.from({ length: held.size }, (_, i) => held.get(i, 0)),
        );
        const turned = samples.find(({ id }) => id.startsWith("video_90.mov"))!;
        const args = ["-v", "error", "-i", join(media!, "video_90.mov"), "-frames:v", "1", "-sws_flags", "bicubic+accurate_rnd+full_chroma_int", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]; // biome-ignore format: one list
        const shown = execFileSync("ffmpeg", args, { maxBuffer: 2 ** 26 });
        expect(shown.length).toBe(568 * 320 * 3);
        const off = shown.reduce((sum, value, k) => sum + Math.abs(value - turned.clip[k]!), 0);
        expect(off / shown.length).toBeLessThan(2);
      } finally {
        setWarningSink(previous);
      }
    },
  );
});
