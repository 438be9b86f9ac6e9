/**
 * @file A video of any size as clips of a tokenizer's size, and back: spans of T frames, each cut into
 * tiles of H×W, in reading order. What sticks out over the edge repeats the last frame, row or column,
 * which costs few bits and is cut off after decoding.
 */

import type { ClipShape } from "../../tokenizers/tokenizer.ts";

/** How many clips a video takes, in frames, rows and columns. */
export interface Tiling {
  readonly video: ClipShape;
  readonly clip: ClipShape;
  readonly spans: number;
  readonly rows: number;
  readonly columns: number;
}

export function tilingOf(video: ClipShape, clip: ClipShape): Tiling {
  return {
    video,
    clip,
    spans: Math.ceil(video.frames / clip.frames),
    rows: Math.ceil(video.height / clip.height),
    columns: Math.ceil(video.width / clip.width),
  };
}

/**
 * The clips of one span.
 * @param frames RGB bytes [n, height, width, 3] of the video, 1 <= n <= T
 * @returns rows × columns clips [T, H, W, 3], one after another
 */
export function cutSpan(frames: Uint8Array, { video, clip, rows, columns }: Tiling): Uint8Array {
  const { height, width } = video;
  const given = frames.length / (height * width * 3);
  const size = clip.frames * clip.height * clip.width * 3;
  const clips = new Uint8Array(rows * columns * size);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      let to = (r * columns + c) * size;
      for (let t = 0; t < clip.frames; t++) {
        const frame = Math.min(t, given - 1) * height;
        for (let y = 0; y < clip.height; y++) {
          const line = (frame + Math.min(r * clip.height + y, height - 1)) * width;
          const left = c * clip.width;
          const inside = Math.max(0, Math.min(clip.width, width - left));
          clips.set(frames.subarray((line + left) * 3, (line + left + inside) * 3), to);
          for (let x = inside; x < clip.width; x++) {
            clips.set(frames.subarray((line + width - 1) * 3, (line + width) * 3), to + x * 3);
          }
          to += clip.width * 3;
        }
      }
    }
  }
  return clips;
}

/**
 * The frames of one span from its decoded clips: the inverse of `cutSpan` but for the padding.
 * @param clips rows × columns clips [T, H, W, 3]
 * @param span its number; the last one may be short
 */
export function joinSpan(clips: Uint8Array, span: number, tiling: Tiling): Uint8Array {
  const { video, clip, rows, columns } = tiling;
  const { height, width } = video;
  const count = Math.min(clip.frames, video.frames - span * clip.frames);
  const size = clip.frames * clip.height * clip.width * 3;
  const frames = new Uint8Array(count * height * width * 3);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      for (let t = 0; t < count; t++) {
        for (let y = 0; y < clip.height && r * clip.height + y < height; y++) {
          const from = (r * columns + c) * size + (t * clip.height + y) * clip.width * 3;
          const inside = Math.min(clip.width, width - c * clip.width);
          const to = ((t * height + r * clip.height + y) * width + c * clip.width) * 3;
          frames.set(clips.subarray(from, from + inside * 3), to);
        }
      }
    }
  }
  return frames;
}
