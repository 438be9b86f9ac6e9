/**
 * @file All frames of one media file in order, upright, with square pixels, at their own size: what
 * codecs and `tessera compress` work on. Memory holds one span of frames, however long the file is.
 */

import { UserError } from "../config/errors.ts";
import { type Av, loadAv } from "./av.ts";
import { Media, MediaError } from "./probe.ts";
import { FrameScaler, type Turn, turnOf } from "./scaler.ts";

/** A file that is being read, frame after frame. */
export interface FrameSource {
  readonly height: number;
  readonly width: number;
  /** Frames a second. */
  readonly fps: number;
  /**
   * The frames in spans of `count`; the last span may be shorter.
   * @returns RGB bytes [n, H, W, 3]; valid until the next span is asked for
   * @throws UserError when frames are damaged or missing
   */
  spans(count: number): Generator<Uint8Array>;
  close(): void;
}

/** How a file wants to be shown: its turn, and the width of a pixel over its height. */
function shownAs(av: Av, media: Media): { turn: Turn; aspect: number } {
  const { codecpar, sampleAspectRatio } = media.stream;
  const { num, den } = sampleAspectRatio;
  return {
    turn: turnOf(codecpar.getCodedSideData(av.c.AV_PKT_DATA_DISPLAYMATRIX)),
    aspect: num > 0 && den > 0 ? num / den : 1,
  };
}

/**
 * Open a file.
 * @param size scale to this size instead of the file's own (covering it, the rest cropped evenly)
 * @throws UserError when it is no video
 */
export async function openFrames(
  file: string,
  size?: { readonly height: number; readonly width: number },
): Promise<FrameSource> {
  const av = await loadAv();
  const media = open(av, file);
  const { turn, aspect } = shownAs(av, media);
  const { codecpar } = media.stream;
  const wide = Math.round(codecpar.width * aspect);
  const across = turn.xx === 0; // width and height change places
  const { height, width } = size ?? {
    height: across ? wide : codecpar.height,
    width: across ? codecpar.height : wide,
  };
  const fps = [media.stream.avgFrameRate, media.stream.rFrameRate]
    .map(({ num, den }) => num / den)
    .find((rate) => Number.isFinite(rate) && rate > 0 && rate <= 1000);
  const pixels = {
    height,
    width,
    resize: undefined,
    filter: "bicubic",
    colour: "auto",
    range: "auto",
    conversion: "swscale",
  } as const;
  const scaler = new FrameScaler(av, pixels, { at: [0.5, 0.5], flip: false }, turn, aspect);
  return {
    height,
    width,
    fps: fps ?? 25,
    *spans(count) {
      const frame = height * width * 3;
      const span = new Uint8Array(count * frame);
      let filled = 0;
      let total = 0;
      for (const decoded of media.readFrames()) {
        scaler.write(decoded, span.subarray(filled * frame, (filled + 1) * frame));
        filled += 1;
        total += 1;
        if (filled === count) {
          yield span;
          filled = 0;
        }
      }
      const stated = Math.max(Number(media.stream.nbFrames) - media.discarded, media.packets);
      if (total < stated || media.damaged > 0 || total === 0) {
        throw new UserError(
          total < stated || total === 0
            ? `${file} is corrupt: ${total} of ${stated} frames decode`
            : `${file} is corrupt: ${media.damaged} of ${stated} frames are damaged`,
          "repair the file, e.g. by encoding it anew",
        );
      }
      if (filled > 0) {
        yield span.subarray(0, filled * frame);
      }
    },
    close() {
      scaler.close();
      media.close();
    },
  };
}

function open(av: Av, file: string): Media {
  try {
    return new Media(av, { file }, "video");
  } catch (error) {
    if (error instanceof MediaError) {
      throw new UserError(
        `${file}: ${error.message}`,
        "give a video file: mp4, webm, mkv, avi, mov, gif, y4m, ...",
        { cause: error },
      );
    }
    throw error;
  }
}
