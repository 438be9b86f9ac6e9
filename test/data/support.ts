/** @file What the tests of data share: small clips, tasks, and folders that go away. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll } from "vitest";
import type { ClipTask } from "../../src/data/decode.ts";
import type { Frames } from "../../src/data/image.ts";
import type { Probe } from "../../src/data/probe.ts";
import { wholeFile } from "../../src/data/source.ts";

/** A temporary folder of the file's tests. */
export function temporaryFolder(name: string): { readonly path: string } {
  const folder = { path: "" };
  beforeAll(() => {
    folder.path = mkdtempSync(join(tmpdir(), `tessera-${name}-`));
  });
  afterAll(() => {
    rmSync(folder.path, { recursive: true, force: true });
  });
  return folder;
}

/** The first frames of a file, at their own size where nothing else is said. */
export function firstFrames(
  file: string,
  probe: Probe | undefined,
  like: { readonly frames: number; readonly height: number; readonly width: number },
  over: Partial<ClipTask> = {},
): ClipTask {
  const { frames, height, width } = like;
  return {
    source: wholeFile(file),
    probe,
    rule: { frames, fps: null, stride: 1, place: "start", clips: 1, step: 1, short: "skip" },
    which: 0,
    chance: 0,
    pixels: {
      height,
      width,
      resize: undefined,
      filter: "bicubic",
      colour: "auto",
      range: "auto",
      conversion: "swscale",
    },
    crop: { at: [0, 0], flip: false },
    missing: 0,
    ...over,
  };
}

/** Frame t is grey level 4t (with a red top left corner), so that frames can be told from pixels. */
export function numbered(frames: number, height = 16, width = 16): Frames {
  const data = new Uint8Array(frames * height * width * 3);
  for (let t = 0; t < frames; t++) {
    data.fill(4 * t, t * height * width * 3, (t + 1) * height * width * 3);
    for (let i = 0; i < height / 2; i++) {
      for (let j = 0; j < width / 2; j++) {
        data.set([255, 0, 0], ((t * height + i) * width + j) * 3);
      }
    }
  }
  return { data, frames, height, width };
}

/** The frame numbers of a clip of `numbered`, read off its last pixels. */
export function numbersOf(clip: Uint8Array, frames: number): number[] {
  const size = clip.length / frames;
  return Array.from({ length: frames }, (_, t) => Math.round(clip[(t + 1) * size - 1]! / 4));
}
