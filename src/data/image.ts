/** @file Pictures out: PNG files, and sheets of frames. */

import sharp from "sharp";
import { writeFileAtomic } from "../runtime/files.ts";

/** A clip's frames in bytes. */
export interface Frames {
  /** [T, H, W, 3] RGB */
  readonly data: Uint8Array;
  readonly frames: number;
  readonly height: number;
  readonly width: number;
}

/** Encode [height, width, 3] RGB bytes as PNG. The same pixels give the same file. */
export async function encodePng(rgb: Uint8Array, width: number, height: number): Promise<Buffer> {
  if (rgb.length !== width * height * 3) {
    throw new RangeError(
      `a ${width} × ${height} RGB picture has ${width * height * 3} bytes, got ${rgb.length}`,
    );
  }
  return sharp(rgb, { raw: { width, height, channels: 3 } })
    .png({ compressionLevel: 9 })
    .toBuffer();
}

/** Write [height, width, 3] RGB bytes as a PNG file. */
export async function writePng(
  path: string,
  rgb: Uint8Array,
  width: number,
  height: number,
): Promise<void> {
  writeFileAtomic(path, await encodePng(rgb, width, height));
}

export interface SheetOptions {
  /** Frames of each clip, evenly spread with the first and the last. Default all. */
  readonly columns?: number;
  /** Whole-number enlargement. Default 1. */
  readonly zoom?: number;
  /** White pixels between frames. Default 2. */
  readonly gap?: number;
}

/** A picture in bytes, [height, width, 3] RGB. */
export interface Picture {
  readonly data: Uint8Array;
  readonly width: number;
  readonly height: number;
}

/** Lay clips of one shape out: a row a clip, time from left to right. */
export function contactSheet(clips: readonly Frames[], options: SheetOptions = {}): Picture {
  const first = clips[0];
  if (!first) {
    throw new RangeError("a contact sheet needs at least one clip");
  }
  const { frames, height, width } = first;
  const { columns = frames, zoom = 1, gap = 2 } = options;
  const shown = Math.max(1, Math.min(columns, frames));
  const sheetW = shown * width * zoom + (shown - 1) * gap;
  const sheetH = clips.length * height * zoom + (clips.length - 1) * gap;
  const data = new Uint8Array(sheetW * sheetH * 3).fill(255);
  for (const [row, clip] of clips.entries()) {
    if (clip.frames !== frames || clip.height !== height || clip.width !== width) {
      throw new RangeError("the clips of a contact sheet must have one shape");
    }
    for (let column = 0; column < shown; column++) {
      const t = shown > 1 ? Math.round((column * (frames - 1)) / (shown - 1)) : 0;
      const left = column * (width * zoom + gap);
      const top = row * (height * zoom + gap);
      for (let i = 0; i < height * zoom; i++) {
        const source = (t * height + Math.floor(i / zoom)) * width;
        let to = ((top + i) * sheetW + left) * 3;
        for (let j = 0; j < width * zoom; j++, to += 3) {
          const from = (source + Math.floor(j / zoom)) * 3;
          data[to] = clip.data[from]!;
          data[to + 1] = clip.data[from + 1]!;
          data[to + 2] = clip.data[from + 2]!;
        }
      }
    }
  }
  return { data, width: sheetW, height: sheetH };
}

/** Write clips of one shape as one PNG, a row a clip. */
export async function writeContactSheet(
  path: string,
  clips: readonly Frames[],
  options: SheetOptions = {},
): Promise<void> {
  const sheet = contactSheet(clips, options);
  await writePng(path, sheet.data, sheet.width, sheet.height);
}
