/**
 * @file Clips from media files: chosen frames, scaled to cover the crop, turned upright, cropped;
 * and the sound of their time span. The same task gives the same bytes: swscale runs in its
 * bit-exact mode and each decoder in one thread.
 */

import type { Frame, SoftwareScaleContext } from "node-av/lib";
import { type Av, avCheck } from "./av.ts";
import { frameAt, Media, MediaError, type Probe } from "./probe.ts";

export interface ClipTask {
  readonly file: string;
  readonly probe: Probe;
  /** Frames to give, by their number in the file; never falling, repeats allowed. */
  readonly frames: readonly number[];
  readonly height: number;
  readonly width: number;
  /** The shorter side before the crop; undefined: as small as covers the crop. */
  readonly resize: number | undefined;
  readonly filter: "bilinear" | "bicubic" | "area" | "lanczos";
  /** Where the crop lies between its two ends: (x, y) in [0, 1). */
  readonly crop: readonly [number, number];
  /** Damaged frames that may be given. */
  readonly missing: number;
  readonly sound?: { readonly start: number; readonly samples: number; readonly rate: number };
}

export interface DecodedClip {
  /** [T, H, W, 3] */
  readonly clip: Uint8Array;
  readonly audio?: Float32Array;
}

/** Frames to skip by seeking; fewer are cheaper to decode than a seek that may miss. */
const SEEK_FROM = 48;

/** @throws MediaError when the file or the span cannot be had */
export function decodeClip(av: Av, task: ClipTask): DecodedClip {
  const clip =
    (task.probe.seekable && task.frames[0]! >= SEEK_FROM ? collect(av, task, true) : undefined) ??
    collect(av, task, false)!;
  return task.sound ? { clip, audio: decodeSound(av, task, task.sound) } : { clip };
}

/**
 * Decode the asked frames, from the file's start or from the key frame before the first.
 * @returns undefined when a seek did not lead to the frames
 */
function collect(av: Av, task: ClipTask, seek: boolean): Uint8Array | undefined {
  const { frames, probe, height, width } = task;
  const [first, last] = [frames[0]!, frames[frames.length - 1]!];
  const media = new Media(av, task.file, "video");
  const scaler = new FrameScaler(av, media, task);
  const size = height * width * 3;
  const clip = new Uint8Array(frames.length * size);
  let filled = 0;
  let damaged = 0;
  try {
    if (seek && !media.seek(probe.times?.[first] ?? probe.start + first / probe.fps)) {
      return undefined;
    }
    let index = -1;
    for (const frame of media.readFrames()) {
      if (!seek) {
        index += 1;
      } else {
        const time = media.seconds(frame.bestEffortTimestamp);
        const found = Number.isFinite(time) ? frameAt(probe, time + 0.25 / probe.fps) : -1;
        // The first frame after a seek must not come too late, nor any out of turn.
        if (found < 0 || (index < 0 ? found > first : found !== index + 1)) {
          return undefined;
        }
        index = found;
      }
      if (frames[filled] === index) {
        damaged += media.isDamaged(frame) ? 1 : 0;
        scaler.write(frame, clip.subarray(filled * size, (filled + 1) * size));
        for (filled += 1; frames[filled] === index; filled++) {
          clip.copyWithin(filled * size, (filled - 1) * size, filled * size);
        }
      }
      if (index >= last) {
        break;
      }
    }
  } finally {
    scaler.close();
    media.close();
  }
  if (filled < frames.length || damaged > task.missing) {
    if (seek) {
      return undefined;
    }
    throw new MediaError(
      filled < frames.length
        ? `ends early: frame ${frames[filled]} does not decode`
        : `${damaged} of the frames ${first} to ${last} are damaged`,
    );
  }
  return clip;
}

/** A picture's axes on the screen: output (x, y) comes from source (x·xx + y·xy, x·yx + y·yy). */
interface Turn {
  readonly xx: number;
  readonly xy: number;
  readonly yx: number;
  readonly yy: number;
}

/** The rotation or mirroring that the container asks players for. */
function turnOf(media: Media): Turn {
  const matrix = media.stream.codecpar.getCodedSideData(media.av.c.AV_PKT_DATA_DISPLAYMATRIX);
  const identity = { xx: 1, xy: 0, yx: 0, yy: 1 };
  if (!matrix || matrix.length < 36) {
    return identity;
  }
  const at = (i: number): number => Math.sign(Math.round(matrix.readInt32LE(i * 4) / 65536));
  // The matrix takes (x, y) to (a·x + c·y, b·x + d·y); for turns the inverse is the transpose.
  const turn = { xx: at(0), xy: at(1), yx: at(3), yy: at(4) };
  const axes = Math.abs(turn.xx * turn.yy - turn.xy * turn.yx);
  const simple = Math.abs(turn.xx) + Math.abs(turn.xy) === 1;
  return axes === 1 && simple ? turn : identity;
}

/** Scales frames to cover the crop, turns them upright and cuts the crop out. */
class FrameScaler {
  readonly #av: Av;
  readonly #task: ClipTask;
  readonly #turn: Turn;
  readonly #aspect: number;
  readonly #scaler: SoftwareScaleContext;
  #scaled: Frame | undefined;

  constructor(av: Av, media: Media, task: ClipTask) {
    this.#av = av;
    this.#task = task;
    this.#turn = turnOf(media);
    const { num, den } = media.stream.sampleAspectRatio;
    this.#aspect = num > 0 && den > 0 ? num / den : 1;
    this.#scaler = new av.SoftwareScaleContext();
    this.#scaler.allocContext();
    const flags = { bilinear: "bilinear", bicubic: "bicubic", area: "area", lanczos: "lanczos" };
    avCheck(
      av,
      this.#scaler.setOption(
        "sws_flags",
        `${flags[task.filter]}+accurate_rnd+bitexact+full_chroma_int+full_chroma_inp`,
      ),
      "setting the scaler's flags",
    );
  }

  /** Scale, turn and crop one frame into `out` [H, W, 3]. */
  write(frame: Frame, out: Uint8Array): void {
    const { height, width, resize, crop } = this.#task;
    const { xx, xy, yx, yy } = this.#turn;
    const across = xx === 0; // width and height change places
    // Shown size: square pixels, upright.
    const wide = frame.width * this.#aspect;
    const [shownW, shownH] = across ? [frame.height, wide] : [wide, frame.height];
    const cover = Math.max(width / shownW, height / shownH);
    const scale = resize === undefined ? cover : Math.max(cover, resize / Math.min(shownW, shownH));
    const w = Math.max(width, Math.round(shownW * scale));
    const h = Math.max(height, Math.round(shownH * scale));
    const source = this.#scale(frame, across ? h : w, across ? w : h);
    const sourceW = across ? h : w;
    const sourceH = across ? w : h;
    const left = Math.floor(crop[0] * (w - width + 1));
    const top = Math.floor(crop[1] * (h - height + 1));
    if (xx === 1 && yy === 1) {
      for (let i = 0; i < height; i++) {
        const from = ((top + i) * sourceW + left) * 3;
        out.set(source.subarray(from, from + width * 3), i * width * 3);
      }
      return;
    }
    const originX = xx + xy < 0 ? sourceW - 1 : 0;
    const originY = yx + yy < 0 ? sourceH - 1 : 0;
    for (let i = 0; i < height; i++) {
      for (let j = 0; j < width; j++) {
        const [x, y] = [left + j, top + i];
        const from = ((originY + x * yx + y * yy) * sourceW + originX + x * xx + y * xy) * 3;
        const to = (i * width + j) * 3;
        out[to] = source[from]!;
        out[to + 1] = source[from + 1]!;
        out[to + 2] = source[from + 2]!;
      }
    }
  }

  /** RGB bytes [height, width, 3]. Colour matrix and range are the frame's own. */
  #scale(frame: Frame, width: number, height: number): Buffer {
    if (this.#scaled?.width !== width || this.#scaled.height !== height) {
      this.#scaled?.free();
      this.#scaled = new this.#av.Frame();
      this.#scaled.alloc();
      this.#scaled.format = this.#av.c.AV_PIX_FMT_RGB24;
      this.#scaled.width = width;
      this.#scaled.height = height;
      avCheck(this.#av, this.#scaled.getBuffer(), "allocating a picture");
    }
    avCheck(this.#av, this.#scaler.scaleFrameSync(this.#scaled, frame), "scaling a picture");
    return this.#scaled.toBuffer();
  }

  close(): void {
    this.#scaled?.free();
    this.#scaler.freeContext();
  }
}

/** The sound of a time span, mono, resampled; silence where the file has none. */
function decodeSound(
  av: Av,
  { file, probe }: ClipTask,
  { start, samples, rate }: NonNullable<ClipTask["sound"]>,
): Float32Array {
  const out = new Float32Array(samples);
  if (!probe.audio) {
    return out;
  }
  const media = new Media(av, file, "audio");
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
    if (start - probe.start > 10) {
      media.seek(start - 2); // some codecs need packets before the one they are asked for
    }
    for (const frame of media.readFrames()) {
      if (Number.isNaN(at)) {
        const time = media.seconds(frame.bestEffortTimestamp);
        at = Math.round(((Number.isFinite(time) ? time : probe.start) - start) * rate);
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
