/**
 * @file The pictures of the reconstruction suite: the best and the worst clips beside what became of
 * them. Averages hide failures; these files show them.
 */

import { join } from "node:path";
import type { Dataset } from "../data/dataset.ts";
import { contactSheet, writePng } from "../data/image.ts";
import type { EvalContext } from "./suite.ts";

interface Entry {
  readonly name: string;
  readonly psnr: number;
  readonly original: Uint8Array;
  readonly decoded: Uint8Array;
}

/** At most this many frames of a clip stand in a picture, evenly spaced. */
const maxFrames = 8;
/** Small frames are enlarged by a whole number to about this side. */
const shownSide = 96;

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

  /**
   * Write `<suite>-best.png` and `<suite>-worst.png`: for each clip a row of its frames and below it
   * a row of what was decoded. Nothing is written when no clip is kept.
   */
  async save(context: EvalContext, suite: string, dataset: Dataset): Promise<void> {
    if (this.#best.length === 0) {
      return;
    }
    const { frames, height, width } = dataset;
    const dir = context.samplesDir();
    for (const [kind, list] of [
      ["best", this.#best],
      ["worst", this.#worst],
    ] as const) {
      const rows = list.flatMap(({ original, decoded }) => [
        { data: original, frames, height, width },
        { data: decoded, frames, height, width },
      ]);
      const zoom = Math.max(1, Math.floor(shownSide / Math.max(height, width)));
      const sheet = contactSheet(rows, { columns: maxFrames, zoom });
      await writePng(join(dir, `${suite}-${kind}.png`), sheet.data, sheet.width, sheet.height);
    }
  }
}
