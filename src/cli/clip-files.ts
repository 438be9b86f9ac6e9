/** @file A clip as a file of a chosen format. */

import { type Frames, writeContactSheet } from "../data/image.ts";
import { type Sound, writeGif, writeLossless, writeMp4 } from "../data/video.ts";

/**
 * Write a clip.
 * @param options.fps frames a second, for formats that move
 * @param options.sound sound track, for formats that have one
 * @param options.columns the most frames that a PNG shows, evenly spread
 */
export async function writeClip(
  path: string,
  format: "mp4" | "gif" | "png" | "mkv",
  clip: Frames,
  options: { readonly fps: number; readonly columns: number; readonly sound?: Sound },
): Promise<void> {
  switch (format) {
    case "mp4":
      return writeMp4(path, clip, options.fps, options.sound);
    case "gif":
      return writeGif(path, clip, options.fps);
    case "mkv":
      return writeLossless(path, clip, options.fps, options.sound);
    case "png":
      return writeContactSheet(path, [clip], { columns: options.columns });
  }
}
