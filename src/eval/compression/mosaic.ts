/**
 * @file Small clips side by side in one larger picture, and back. Video codecs are made for pictures of
 * more than a few blocks: below that, slice headers weigh more than pictures, x264 and x265 read past
 * what they have filled, and x265 writes past its end. So clips of less than 128 pixels a side are
 * coded as tiles of a picture that is not smaller; tiles without a clip are grey.
 */

import type { Frames } from "../../data/image.ts";

/** Sides from which a clip is coded as it is. */
export const leastSide = 128;

export interface MosaicGrid {
  readonly rows: number;
  readonly columns: number;
}

/** Tiles of one picture for clips of this size: 1×1 where they are large enough. */
export function mosaicGrid(height: number, width: number): MosaicGrid {
  return { rows: Math.ceil(leastSide / height), columns: Math.ceil(leastSide / width) };
}

/** @param frames of each of the clips that stand one after another in `clips` */
export function mosaicOf(clips: Frames, frames: number): Frames {
  const { height, width } = clips;
  const { rows, columns } = mosaicGrid(height, width);
  if (rows * columns === 1) {
    return clips;
  }
  const pages = Math.ceil(clips.frames / frames / (rows * columns));
  const data = new Uint8Array(pages * frames * rows * height * columns * width * 3).fill(128);
  copyTiles(clips, frames, (from, to, length) => data.set(clips.data.subarray(from, from + length), to)); // biome-ignore format: one call
  return { data, frames: pages * frames, height: rows * height, width: columns * width };
}

/** The pixels of clips out of a mosaic's. @param clips sizes of what `mosaicOf` was given */
export function fromMosaic(
  mosaic: Uint8Array,
  clips: Omit<Frames, "data">,
  frames: number,
): Uint8Array {
  const { rows, columns } = mosaicGrid(clips.height, clips.width);
  if (rows * columns === 1) {
    return mosaic;
  }
  const data = new Uint8Array(clips.frames * clips.height * clips.width * 3);
  copyTiles(clips, frames, (from, to, length) => data.set(mosaic.subarray(to, to + length), from));
  return data;
}

/** Every line of every clip: where it begins in the clips and in the mosaic. */
function copyTiles(
  { frames: all, height, width }: Omit<Frames, "data">,
  frames: number,
  copy: (inClips: number, inMosaic: number, length: number) => void,
): void {
  const { rows, columns } = mosaicGrid(height, width);
  const line = width * 3;
  for (let frame = 0; frame < all; frame++) {
    const clip = Math.floor(frame / frames);
    const tile = clip % (rows * columns);
    const page = Math.floor(clip / (rows * columns));
    const shown = page * frames + (frame % frames);
    for (let y = 0; y < height; y++) {
      const row = (shown * rows + Math.floor(tile / columns)) * height + y;
      const column = tile % columns;
      copy((frame * height + y) * line, (row * columns + column) * line, line);
    }
  }
}
