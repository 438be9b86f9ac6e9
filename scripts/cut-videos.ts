/**
 * @file Cuts videos into arrays of clips with an honest split: `train.npy` from the first part of each
 * video's time, `validation.npy` from what comes after it. A few videos then serve as a data set of
 * their own (layout `npy`), also on machines without FFmpeg.
 *
 *   npx tsx scripts/cut-videos.ts VIDEOS OUT [--height 48] [--tile 40] [--step 12] [--fps 16]
 *     [--frames 32] [--held-out-frames 17] [--held-out 0.35]
 *
 * Each video is scaled to `height` rows and thinned to at most `fps` frames a second; tiles of `tile`²
 * pixels lie `step` pixels apart, and windows in time half a window apart (held out: a whole window).
 * Files that cannot be used are named. Prints the PSNR of predicting each held-out clip's mean frame.
 */

import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { openFrames } from "../src/data/frames.ts";
import { writeFileAtomic } from "../src/runtime/files.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    height: { type: "string", default: "48" },
    tile: { type: "string", default: "40" },
    step: { type: "string", default: "12" },
    fps: { type: "string", default: "16" },
    frames: { type: "string", default: "32" },
    "held-out-frames": { type: "string", default: "17" },
    "held-out": { type: "string", default: "0.35" },
  },
});
const [folder, out] = positionals;
if (folder === undefined || out === undefined) {
  throw new Error("usage: npx tsx scripts/cut-videos.ts VIDEOS OUT [--height 48] ...");
}
const { height, tile, step, fps, frames, ...rest } = Object.fromEntries(
  Object.entries(values).map(([name, value]) => [name, Number(value)]),
) as { [name in keyof typeof values]: number };

/** Frames of a video at `height` rows and at most `fps` a second. */
async function read(file: string) {
  const probe = await openFrames(file);
  const width = Math.round((height * probe.width) / probe.height);
  const stride = Math.max(1, Math.round(probe.fps / fps));
  probe.close();
  const video = await openFrames(file, { height, width });
  const kept: Uint8Array[] = [];
  let number = 0;
  try {
    for (const frame of video.spans(1)) {
      if (number % stride === 0) {
        kept.push(Uint8Array.from(frame));
      }
      number += 1;
    }
  } catch (error) {
    console.log(`${(error as Error).message}: its first ${kept.length} frames are used`);
  } finally {
    video.close();
  }
  return { width, kept };
}

/** Starts of windows of `size` in [from, to), `hop` apart. */
function starts(from: number, to: number, size: number, hop: number): number[] {
  const all: number[] = [];
  for (let at = from; at + size <= to; at += hop) {
    all.push(at);
  }
  return all;
}

const train: Uint8Array[] = [];
const held: Uint8Array[] = [];
for (const name of readdirSync(folder).sort()) {
  let video: Awaited<ReturnType<typeof read>>;
  try {
    video = await read(join(folder, name));
  } catch (error) {
    console.log(`left out: ${(error as Error).message}`);
    continue;
  }
  const { width, kept } = video;
  const border = Math.floor(kept.length * (1 - rest["held-out"]));
  const columns = starts(0, width, tile, step);
  const rows = starts(0, height, tile, Math.min(step, height - tile || 1));
  const cut = (into: Uint8Array[], times: number[], length: number): void => {
    for (const [t, y, x] of times.flatMap((t) =>
      rows.flatMap((y) => columns.map((x) => [t, y, x])),
    )) {
      const clip = new Uint8Array(length * tile * tile * 3);
      for (let k = 0; k < length; k++) {
        for (let i = 0; i < tile; i++) {
          const from = ((y! + i) * width + x!) * 3;
          clip.set(kept[t! + k]!.subarray(from, from + tile * 3), (k * tile + i) * tile * 3);
        }
      }
      into.push(clip);
    }
  };
  const before = [train.length, held.length] as const;
  const long = rest["held-out-frames"];
  cut(train, starts(0, border, frames, Math.max(1, frames >> 1)), frames);
  cut(held, starts(border, kept.length, long, long), long);
  console.log(`${name}: ${kept.length} frames, ${train.length - before[0]} + ${held.length - before[1]} clips`); // biome-ignore format: one line
}

/** A .npy file of bytes, version 1. */
function npy(clips: readonly Uint8Array[], length: number): Buffer {
  const shape = [clips.length, length, tile, tile, 3].join(", ");
  const header = `{'descr': '|u1', 'fortran_order': False, 'shape': (${shape}), }`;
  const padded = `${header.padEnd(117, " ")}\n`; // 10 + 118 bytes: a multiple of 64
  return Buffer.concat([Buffer.from("\x93NUMPY\x01\x00\x76\x00", "latin1"), Buffer.from(padded, "latin1"), ...clips]); // biome-ignore format: one call
}

/** PSNR in dB of each clip's mean frame as the prediction of all its frames, averaged over clips. */
function meanFramePsnr(clips: readonly Uint8Array[], length: number): number {
  const size = tile * tile * 3;
  const each = clips.map((clip) => {
    let squares = 0;
    for (let p = 0; p < size; p++) {
      const column = Array.from({ length }, (_, k) => clip[k * size + p]!);
      const mean = Math.round(column.reduce((a, b) => a + b, 0) / length);
      squares += column.reduce((sum, v) => sum + (v - mean) ** 2, 0);
    }
    return 10 * Math.log10(255 ** 2 / Math.max(squares / clip.length, 1e-2));
  });
  return each.reduce((a, b) => a + b, 0) / each.length;
}

mkdirSync(out, { recursive: true });
writeFileAtomic(join(out, "train.npy"), npy(train, frames));
writeFileAtomic(join(out, "validation.npy"), npy(held, rest["held-out-frames"]));
console.log(`mean frame of each held-out clip: ${meanFramePsnr(held, rest["held-out-frames"]).toFixed(2)} dB`); // biome-ignore format: one line
