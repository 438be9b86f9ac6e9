/** @file The sound of a time span of a media file. */

import type { Frame } from "node-av/lib";
import { type Av, avCheck } from "./av.ts";
import { Media, MediaError } from "./probe.ts";
import type { MediaSource } from "./source.ts";

export interface SoundSpan {
  readonly start: number;
  readonly samples: number;
  readonly rate: number;
  readonly begin: number;
}

/**
 * The sound of a time span, mono, resampled; silence where the file has none of that time.
 * @param start seconds of the file's clock
 * @param begin when the file begins, on the same clock
 */
export function decodeSound(
  av: Av,
  source: MediaSource,
  { start, samples, rate, begin }: SoundSpan,
): Float32Array {
  const out = new Float32Array(samples);
  const media = new Media(av, source, "audio");
  const resampler = new av.SoftwareResampleContext();
  resampler.alloc(); // its input side is set by the first frame
  const converted = new av.Frame();
  let at = Number.NaN; // index in `out` of the next sample that the resampler gives
  const convert = (frame: Frame | null): void => {
    converted.alloc();
    converted.format = av.c.AV_SAMPLE_FMT_FLT;
    converted.sampleRate = rate;
    converted.channelLayout = av.c.AV_CHANNEL_LAYOUT_MONO;
    const layout = frame?.channelLayout;
    if (frame && layout?.order === av.c.AV_CHANNEL_ORDER_UNSPEC) {
      // Speakers not named: name the usual ones, or the resampler sees its input change.
      frame.channelLayout =
        layout.nbChannels === 1
          ? av.c.AV_CHANNEL_LAYOUT_MONO
          : {
              order: av.c.AV_CHANNEL_ORDER_NATIVE,
              nbChannels: layout.nbChannels,
              mask: (1n << BigInt(layout.nbChannels)) - 1n,
            };
    }
    avCheck(av, resampler.convertFrame(converted, frame), "resampling sound");
    if (converted.nbSamples > 0) {
      const bytes = converted.toBuffer();
      for (let i = 0; i < converted.nbSamples; i++) {
        const to = at + i;
        if (to >= 0 && to < samples) {
          out[to] = Math.max(-1, Math.min(1, bytes.readFloatLE(i * 4)));
        }
      }
      at += converted.nbSamples;
    }
    converted.free();
  };
  try {
    if (start - begin > 10) {
      media.seek(start - 2); // some codecs need packets before the one they are asked for
    }
    for (const frame of media.readFrames()) {
      if (Number.isNaN(at)) {
        const time = media.seconds(frame.bestEffortTimestamp);
        at = Math.round(((Number.isFinite(time) ? time : begin) - start) * rate);
      }
      convert(frame);
      if (at >= samples) {
        break;
      }
    }
    if (at < samples) {
      convert(null);
    }
  } finally {
    converted.free();
    resampler.free();
    media.close();
  }
  return out;
}

/** How long the sound of a file is, in seconds, and when it begins; or why there is none. */
export interface SoundLook {
  readonly seconds?: number;
  readonly begin?: number;
  readonly problem?: string;
}

/** Decode a file's sound once and measure it. */
export function lookAtSound(av: Av, source: MediaSource): SoundLook {
  let media: Media | undefined;
  try {
    media = new Media(av, source, "audio");
    let samples = 0;
    let rate = 0;
    let begin = Number.NaN;
    for (const frame of media.readFrames()) {
      if (samples === 0) {
        begin = media.seconds(frame.bestEffortTimestamp);
      }
      samples += frame.nbSamples;
      rate = frame.sampleRate;
    }
    return samples === 0
      ? { problem: "has no sound that decodes" }
      : { seconds: samples / rate, begin: Number.isNaN(begin) ? 0 : begin };
  } catch (error) {
    if (error instanceof MediaError) {
      return { problem: error.message };
    }
    throw error;
  } finally {
    media?.close();
  }
}
