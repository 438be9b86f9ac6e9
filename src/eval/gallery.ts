/**
 * @file The pictures of the reconstruction suite: the best and the worst clips beside what became of
 * them. Averages hide failures; these files show them.
 */

import { join } from "node:path";
import type { Dataset } from "../data/dataset.ts";
import sharp from "sharp";
import { writeFileAtomic } from "../runtime/files.ts";
import type { EvalContext } from "./suite.ts";

interface Entry {
  readonly name: string;
  readonly psnr: number;
  readonly original: Uint8Array;
  readonly decoded: Uint8Array;
}

/** At most this many frames of a clip stand in a picture, evenly spaced. */
const maxFrames = 8;
const gap = 2;

/** Keeps the k best and k worst clips of a stream; memory does not grow with the stream. */
export class ReconstructionGallery {
  readonly #best: Entry[] = [];
  readonly #worst: Entry[] = [];

  /** @param count k */
  constructor(readonly count: number) {}

  /** Look at one clip. @param decoded values in [0, 255] */
  offer(
    name: string,
    psnr: number,
    original: Uint8Array,
    decoded: Uint8Array | Float32Array,
  ): void {
    this.#place(this.#best, (other) => psnr > other.psnr, name, psnr, original, decoded);
    this.#place(this.#worst, (other) => psnr < other.psnr, name, psnr, original, decoded);
  }

  #place(
    list: Entry[],
    before: (other: Entry) => boolean,
    name: string,
    psnr: number,
    original: Uint8Array,
    decoded: Uint8Array | Float32Array,
  ): void {
    const found = list.findIndex(before);
    const at = found < 0 ? list.length : found;
    if (at < this.count) {
      // Copies: the batch's memory is not ours to keep.
      const bytes = Uint8Array.from(decoded, (value) => Math.round(value));
      list.splice(at, 0, { name, psnr, original: original.slice(), decoded: bytes });
      list.length = Math.min(list.length, this.count);
    }
  }

  /** Write `<suite>-best.png` and `<suite>-worst.png`; nothing when no clip is kept. */
  async save(context: EvalContext, suite: string, dataset: Dataset): Promise<void> {
    if (this.#best.length === 0) {
      return;
    }
    const dir = context.samplesDir();
    for (const [kind, list] of [
      ["best", this.#best],
      ["worst", this.#worst],
    ] as const) {
      const { rgb, width, height } = layOut(list, dataset);
      const png = await sharp(rgb, { raw: { width, height, channels: 3 } })
        .png()
        .toBuffer();
      writeFileAtomic(join(dir, `${suite}-${kind}.png`), png);
    }
  }
}

/** Rows of frames: for each clip its original, below it what was decoded. */
export function layOut(
  entries: readonly { readonly original: Uint8Array; readonly decoded: Uint8Array }[],
  { frames, height, width }: { frames: number; height: number; width: number },
): { rgb: Uint8Array; width: number; height: number } {
  const shown = Math.min(frames, maxFrames);
  const at = (column: number): number =>
    shown > 1 ? Math.round((column * (frames - 1)) / (shown - 1)) : 0;
  const outWidth = shown * (width + gap) + gap;
  const outHeight = entries.length * (2 * height + 3 * gap) + gap;
  const rgb = new Uint8Array(outWidth * outHeight * 3).fill(255);
  entries.forEach(({ original, decoded }, i) => {
    const top = gap + i * (2 * height + 3 * gap);
    [original, decoded].forEach((clip, row) => {
      for (let column = 0; column < shown; column++) {
        for (let y = 0; y < height; y++) {
          const from = (at(column) * height + y) * width * 3;
          const line = top + row * (height + gap) + y;
          const to = (line * outWidth + gap + column * (width + gap)) * 3;
          rgb.set(clip.subarray(from, from + width * 3), to);
        }
      }
    });
  });
  return { rgb, width: outWidth, height: outHeight };
}
