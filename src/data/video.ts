/**
 * @file Videos out: H.264 in MP4 for viewing, FFV1 in Matroska without loss, GIF for pages. The same
 * clip gives the same file: one encoder thread, and no names or times in the container.
 */

import { mkdirSync, renameSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import type { CodecContext, FormatContext, Frame, Packet, Stream } from "node-av/lib";
import sharp from "sharp";
import { writeFileAtomic } from "../runtime/files.ts";
import { type Av, avCheck, loadAv } from "./av.ts";
import type { Frames } from "./image.ts";

/** Mono sound in [-1, 1]. */
export interface Sound {
  readonly samples: Float32Array;
  readonly rate: number;
}

/**
 * Write a clip as H.264 (yuv420p, CRF 12) with AAC sound. An odd side is padded by repeating its
 * last row or column, since yuv420p has only even ones.
 */
export async function writeMp4(
  path: string,
  clip: Frames,
  fps: number,
  sound?: Sound,
): Promise<void> {
  const av = await loadAv();
  const padded = padEven(clip);
  encode(av, path, "mp4", padded, fps, sound, {
    codec: "libx264",
    format: av.c.AV_PIX_FMT_YUV420P,
    // Bit rate 0: a default left on the encoder would bend the constant quality.
    options: { crf: 12, preset: "medium", threads: 1 },
    soundCodec: "aac",
    soundFormat: av.c.AV_SAMPLE_FMT_FLTP,
    muxer: { movflags: "+faststart" },
  });
}

/** Write a clip without loss: FFV1 in Matroska, with 16-bit sound. Reading gives the same bytes. */
export async function writeLossless(
  path: string,
  clip: Frames,
  fps: number,
  sound?: Sound,
): Promise<void> {
  const av = await loadAv();
  encode(av, path, "matroska", clip, fps, sound, {
    codec: "ffv1",
    format: av.c.AV_PIX_FMT_BGR0,
    options: { level: 3, slices: 4, threads: 1 },
    soundCodec: "pcm_s16le",
    soundFormat: av.c.AV_SAMPLE_FMT_S16,
    muxer: {},
  });
}

/** Write a clip as raw 4:2:0 video in Y4M (BT.601, limited range), which codec tools read. */
export async function writeY4m(path: string, clip: Frames, fps: number): Promise<void> {
  const av = await loadAv();
  encode(av, path, "yuv4mpegpipe", padEven(clip), fps, undefined, {
    codec: "rawvideo",
    format: av.c.AV_PIX_FMT_YUV420P,
    options: {},
    soundCodec: "pcm_s16le",
    soundFormat: av.c.AV_SAMPLE_FMT_S16,
    muxer: {},
  });
}

/** Write a clip as an endless GIF (256 colours; needs no FFmpeg). */
export async function writeGif(path: string, clip: Frames, fps: number): Promise<void> {
  writeFileAtomic(path, await encodeGif(clip, fps));
}

/** A clip as the bytes of an endless GIF. GIF counts time in 1/100 s. */
export async function encodeGif(clip: Frames, fps: number): Promise<Buffer> {
  const { data, frames, height, width } = clip;
  const delay = Math.max(20, Math.round(100 / fps) * 10);
  return sharp(data, {
    raw: { width, height: height * frames, channels: 3, pageHeight: height },
  })
    .gif({
      loop: 0,
      delay: Array.from({ length: frames }, () => delay),
      // One palette a frame, and no frame left out because it is near the one before.
      interPaletteMaxError: 0,
      keepDuplicateFrames: true,
    })
    .toBuffer();
}

/** A clip with even sides, as 4:2:0 pictures have: the last row or column is repeated. */
export function padEven(clip: Frames): Frames {
  const { data, frames, height, width } = clip;
  const [h, w] = [height + (height % 2), width + (width % 2)];
  if (h === height && w === width) {
    return clip;
  }
  const out = new Uint8Array(frames * h * w * 3);
  for (let t = 0; t < frames; t++) {
    for (let i = 0; i < h; i++) {
      for (let j = 0; j < w; j++) {
        const from = ((t * height + Math.min(i, height - 1)) * width + Math.min(j, width - 1)) * 3;
        out.set(data.subarray(from, from + 3), ((t * h + i) * w + j) * 3);
      }
    }
  }
  return { data: out, frames, height: h, width: w };
}

interface Encoding {
  readonly codec: "libx264" | "ffv1" | "rawvideo";
  readonly format: number;
  readonly options: { readonly [name: string]: string | number };
  readonly soundCodec: "aac" | "pcm_s16le";
  readonly soundFormat: number;
  readonly muxer: { readonly [name: string]: string };
}

/** Encode to a temporary file beside `path`, then rename. */
function encode(
  av: Av,
  path: string,
  container: "mp4" | "matroska" | "yuv4mpegpipe",
  clip: Frames,
  fps: number,
  sound: Sound | undefined,
  encoding: Encoding,
): void {
  mkdirSync(dirname(path), { recursive: true });
  const temporary = `${path}.${process.pid}.tmp`;
  const format = new av.FormatContext();
  try {
    avCheck(av, format.allocOutputContext2(null, container, temporary), "making the container");
    format.setFlags(av.c.AVFMT_FLAG_BITEXACT);
    const video = new VideoTrack(av, format, clip, fps, encoding);
    const audio = sound ? new SoundTrack(av, format, sound, encoding) : undefined;
    avCheck(av, format.openOutputSync(), `opening ${temporary}`);
    const options = av.Dictionary.fromObject({ ...encoding.muxer });
    avCheck(av, format.writeHeaderSync(options), "writing the header");
    options.free();
    video.writeAll();
    audio?.writeAll();
    avCheck(av, format.writeTrailerSync(), "writing the trailer");
    format.closeOutputSync();
    video.close();
    audio?.close();
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  } finally {
    format.freeContext();
  }
  renameSync(temporary, path);
}

/** What the two tracks share: an encoder, its stream and the way of packets. */
class Track {
  readonly av: Av;
  readonly encoder: CodecContext;
  readonly #format: FormatContext;
  readonly #stream: Stream;
  readonly #packet: Packet;

  constructor(
    av: Av,
    format: FormatContext,
    name: Encoding["codec"] | Encoding["soundCodec"],
    options: { readonly [name: string]: string | number },
    setUp: (encoder: CodecContext) => void,
  ) {
    const codec = av.Codec.findEncoderByName(name as never);
    if (!codec) {
      throw new Error(`this node-av has no ${name} encoder`);
    }
    this.av = av;
    this.#format = format;
    this.encoder = new av.CodecContext();
    this.encoder.allocContext3(codec);
    this.encoder.bitRate = 0n;
    this.encoder.setFlags(av.c.AV_CODEC_FLAG_BITEXACT);
    if (format.oformat?.hasFlags(av.c.AVFMT_GLOBALHEADER)) {
      this.encoder.setFlags(av.c.AV_CODEC_FLAG_GLOBAL_HEADER);
    }
    setUp(this.encoder);
    // Options are set one by one: node-av's open2 frees a dictionary that it does not own.
    for (const [key, value] of Object.entries(options)) {
      avCheck(av, this.encoder.setOption(key, String(value)), `setting ${key} of ${name}`);
    }
    avCheck(av, this.encoder.open2Sync(codec, null), `opening the ${name} encoder`);
    this.#stream = format.newStream(codec);
    this.#stream.timeBase = this.encoder.timeBase;
    avCheck(av, this.#stream.codecpar.fromContext(this.encoder), "describing a stream");
    this.#packet = new av.Packet();
    this.#packet.alloc();
  }

  /** Encode a frame (null: what is left) and hand its packets to the container. */
  encode(frame: Frame | null): void {
    avCheck(this.av, this.encoder.sendFrameSync(frame), "encoding");
    while (this.encoder.receivePacketSync(this.#packet) >= 0) {
      this.#packet.streamIndex = this.#stream.index;
      // Without a duration the container ends with the last frame's start, and players drop it.
      if (this.#packet.duration === 0n && this.encoder.codecType === this.av.c.AVMEDIA_TYPE_VIDEO) {
        this.#packet.duration = 1n;
      }
      this.#packet.rescaleTs(this.encoder.timeBase, this.#stream.timeBase);
      avCheck(this.av, this.#format.interleavedWriteFrameSync(this.#packet), "writing a packet");
      this.#packet.unref();
    }
  }

  close(): void {
    this.#packet.free();
    this.encoder.freeContext();
  }
}

class VideoTrack extends Track {
  readonly #clip: Frames;
  readonly #format: number;

  constructor(av: Av, format: FormatContext, clip: Frames, fps: number, encoding: Encoding) {
    super(av, format, encoding.codec, encoding.options, (encoder) => {
      encoder.width = clip.width;
      encoder.height = clip.height;
      encoder.pixelFormat = encoding.format as typeof encoder.pixelFormat;
      // Rates such as 29.97 need a finer clock than whole frames a second.
      encoder.timeBase = new av.Rational(1000, Math.round(fps * 1000));
      encoder.framerate = new av.Rational(Math.round(fps * 1000), 1000);
      if (encoding.format === av.c.AV_PIX_FMT_YUV420P) {
        encoder.colorSpace = av.c.AVCOL_SPC_SMPTE170M;
        encoder.colorRange = av.c.AVCOL_RANGE_MPEG;
      }
    });
    this.#clip = clip;
    this.#format = encoding.format;
  }

  writeAll(): void {
    const { av } = this;
    const { data, frames, height, width } = this.#clip;
    const scaler = new av.SoftwareScaleContext();
    scaler.allocContext();
    scaler.setOption("sws_flags", "bicubic+accurate_rnd+bitexact+full_chroma_int+full_chroma_inp");
    const size = height * width * 3;
    for (let t = 0; t < frames; t++) {
      const rgb = av.Frame.fromVideoBuffer(Buffer.from(data.subarray(t * size, (t + 1) * size)), {
        width,
        height,
        format: av.c.AV_PIX_FMT_RGB24,
      });
      const frame = new av.Frame();
      frame.alloc();
      frame.format = this.#format as typeof frame.format;
      frame.width = width;
      frame.height = height;
      if (this.#format === av.c.AV_PIX_FMT_YUV420P) {
        frame.colorSpace = av.c.AVCOL_SPC_SMPTE170M;
        frame.colorRange = av.c.AVCOL_RANGE_MPEG;
      }
      avCheck(av, frame.getBuffer(), "allocating a picture");
      avCheck(av, scaler.scaleFrameSync(frame, rgb), "converting a picture");
      frame.pts = BigInt(t);
      this.encode(frame);
      frame.free();
      rgb.free();
    }
    this.encode(null);
    scaler.freeContext();
  }
}

class SoundTrack extends Track {
  readonly #sound: Sound;
  readonly #format: number;

  constructor(av: Av, format: FormatContext, sound: Sound, encoding: Encoding) {
    const options: { [name: string]: number } = encoding.soundCodec === "aac" ? { b: 96_000 } : {};
    super(av, format, encoding.soundCodec, options, (encoder) => {
      encoder.sampleRate = sound.rate;
      encoder.sampleFormat = encoding.soundFormat as typeof encoder.sampleFormat;
      encoder.channelLayout = av.c.AV_CHANNEL_LAYOUT_MONO;
      encoder.timeBase = new av.Rational(1, sound.rate);
    });
    this.#sound = sound;
    this.#format = encoding.soundFormat;
  }

  writeAll(): void {
    const { av } = this;
    const { samples, rate } = this.#sound;
    const chunk = this.encoder.frameSize || 1024;
    const whole = this.#format === av.c.AV_SAMPLE_FMT_S16;
    for (let start = 0; start < samples.length; start += chunk) {
      const part = samples.subarray(start, start + chunk);
      const bytes = Buffer.alloc(part.length * (whole ? 2 : 4));
      for (const [i, value] of part.entries()) {
        if (whole) {
          bytes.writeInt16LE(Math.round(Math.max(-1, Math.min(1, value)) * 32767), i * 2);
        } else {
          bytes.writeFloatLE(value, i * 4);
        }
      }
      const frame = av.Frame.fromAudioBuffer(bytes, {
        nbSamples: part.length,
        format: this.#format as typeof this.encoder.sampleFormat,
        sampleRate: rate,
        channelLayout: av.c.AV_CHANNEL_LAYOUT_MONO,
        pts: BigInt(start),
        timeBase: { num: 1, den: rate },
      });
      this.encode(frame);
      frame.free();
    }
    this.encode(null);
  }
}
