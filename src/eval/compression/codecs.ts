/**
 * @file Video codecs as anchors: x264, x265, SVT-AV1 and VP9 through FFmpeg's libraries in the
 * process, libaom and VVenC where their programs are found. The size is that of the raw elementary
 * stream: containers, and the encoder's own name and settings that x264 and x265 write into the stream
 * (some kilobytes, as much as a whole small clip), are not counted. What is judged is what the
 * library's decoder gives, converted back to RGB.
 */

import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { CodecContext, Frame, Packet, SoftwareScaleContext } from "node-av/lib";
import { type Av, avCheck, loadAv } from "../../data/av.ts";
import { openFrames } from "../../data/frames.ts";
import type { Frames } from "../../data/image.ts";
import { payloadOf } from "./tool.ts";
import { padEven, writeY4m } from "../../data/video.ts";
import { UserError } from "../../config/errors.ts";

/** One anchor: how it is run, and at which qualities. */
export interface CodecInfo {
  /** Encoder in FFmpeg's naming, or a program. */
  readonly encoder: string;
  readonly kind: "library" | "program";
  /** What a person would call it, settings included; part of the protocol. */
  readonly settings: string;
  /** Values of `crf` (of `qp` for VVenC), from good to small. */
  readonly qualities: readonly number[];
  /** Options of the encoder. */
  readonly options: { readonly [name: string]: string };
  /** Decoder in FFmpeg's naming. */
  readonly decoder: string;
}

/** From near transparent to the coarsest that the encoders have. */
const crf51 = [17, 22, 27, 32, 37, 42, 47, 51];
const crf63 = [20, 28, 36, 44, 52, 60, 63];

export const codecs = {
  x264: {
    encoder: "libx264",
    kind: "library",
    settings: "libx264 -preset medium -crf Q -threads 1, yuv420p",
    qualities: crf51,
    options: { preset: "medium", threads: "1" },
    decoder: "h264",
  },
  x265: {
    encoder: "libx265",
    kind: "library",
    settings: "libx265 -preset medium -crf Q, one thread, yuv420p",
    qualities: crf51,
    options: {
      preset: "medium",
      "x265-params": "info=0:pools=none:frame-threads=1:log-level=none",
    },
    decoder: "hevc",
  },
  "svt-av1": {
    encoder: "libsvtav1",
    kind: "library",
    settings: "libsvtav1 -preset 8 -crf Q, yuv420p",
    qualities: crf63,
    options: { preset: "8", "svtav1-params": "lp=1" },
    decoder: "libdav1d",
  },
  vp9: {
    encoder: "libvpx-vp9",
    kind: "library",
    settings: "libvpx-vp9 -deadline good -cpu-used 2 -crf Q -b:v 0, yuv420p",
    qualities: crf63,
    options: { deadline: "good", "cpu-used": "2", threads: "1" },
    decoder: "vp9",
  },
  libaom: {
    encoder: "ffmpeg",
    kind: "program",
    settings: "ffmpeg -c:v libaom-av1 -cpu-used 4 -crf Q -b:v 0, yuv420p",
    qualities: crf63,
    options: {},
    decoder: "libdav1d",
  },
  vvenc: {
    encoder: "vvencapp",
    kind: "program",
    settings: "vvencapp --preset medium -q Q, yuv420p, 8 bits in, 10 inside",
    qualities: [22, 27, 32, 37, 42, 47],
    options: {},
    decoder: "vvc",
  },
} as const satisfies { readonly [name: string]: CodecInfo };
export type CodecName = keyof typeof codecs;
export const codecNames = Object.keys(codecs) as CodecName[];

/** One clip through one codec at one quality. */
export interface Coded {
  /** Raw elementary stream, bytes. */
  readonly bytes: number;
  /** [T, H, W, 3] RGB bytes of the decoder's pictures. */
  readonly decoded: Uint8Array;
}

/** Codecs that work here, and why the others do not. */
export async function findCodecs(): Promise<Map<CodecName, string | undefined>> {
  process.env["SVT_LOG"] ??= "1"; // errors only: SVT-AV1 writes its settings to the terminal
  const av = await loadAv().catch(() => undefined);
  const found = new Map<CodecName, string | undefined>();
  for (const name of codecNames) {
    const { kind, encoder }: CodecInfo = codecs[name];
    if (!av) {
      found.set(name, "the package node-av does not load");
    } else if (kind === "library") {
      const there = av.Codec.findEncoderByName(encoder as never) !== null;
      found.set(name, there ? undefined : `this FFmpeg has no ${encoder}`);
    } else {
      found.set(name, await programProblem(name));
    }
  }
  return found;
}

async function programProblem(name: CodecName): Promise<string | undefined> {
  const { encoder }: CodecInfo = codecs[name];
  try {
    const args = name === "libaom" ? ["-hide_banner", "-encoders"] : ["--version"];
    const { stdout } = await promisify(execFile)(encoder, args);
    return name === "libaom" && !stdout.includes("libaom-av1")
      ? "the program ffmpeg has no libaom-av1"
      : undefined;
  } catch {
    return `the program ${encoder} is not found`;
  }
}

/**
 * Encode and decode a clip.
 * @param clip sides are padded to even numbers for coding and cut back afterwards
 * @param quality one of the codec's `qualities`, or any other value of its scale
 */
export async function codeClip(
  name: CodecName,
  clip: Frames,
  fps: number,
  quality: number,
): Promise<Coded> {
  const even = padEven(clip);
  const { kind }: CodecInfo = codecs[name];
  const { bytes, decoded } =
    kind === "library"
      ? codeInProcess(await loadAv(), name, even, fps, quality)
      : await codeByProgram(name, even, fps, quality);
  if (decoded.length !== even.data.length) {
    const frame = even.height * even.width * 3;
    throw new Error(`${name} gave ${decoded.length / frame} frames back for ${clip.frames}`);
  }
  return { bytes, decoded: cutBack(decoded, even, clip) };
}

function cutBack(decoded: Uint8Array, even: Frames, clip: Frames): Uint8Array {
  if (even === clip) {
    return decoded;
  }
  const out = new Uint8Array(clip.data.length);
  const row = clip.width * 3;
  for (let t = 0; t < clip.frames; t++) {
    for (let y = 0; y < clip.height; y++) {
      const from = (t * even.height + y) * even.width * 3;
      out.set(decoded.subarray(from, from + row), (t * clip.height + y) * row);
    }
  }
  return out;
}

/**
 * Both directions of YUV 4:2:0 (BT.601, limited range) with swscale's exact arithmetic. Chroma lies
 * between its four pixels in both (as in Y4M's 420jpeg): decoders assume other places where the stream
 * does not tell, and half a pixel cost 0.5 dB.
 */
function makeScaler(av: Av): SoftwareScaleContext {
  const scaler = new av.SoftwareScaleContext();
  scaler.allocContext();
  scaler.setOption("sws_flags", "bicubic+accurate_rnd+bitexact+full_chroma_int+full_chroma_inp");
  return scaler;
}

function codeInProcess(av: Av, name: CodecName, clip: Frames, fps: number, quality: number): Coded {
  const info: CodecInfo = codecs[name];
  const encoder = openEncoder(av, info, clip, fps, quality);
  const decoder = openDecoder(av, info.decoder);
  const [toYuv, toRgb] = [makeScaler(av), makeScaler(av)];
  const packet = new av.Packet();
  packet.alloc();
  const shown = new av.Frame();
  shown.alloc();
  const size = clip.height * clip.width * 3;
  const decoded: Uint8Array[] = [];
  let bytes = 0;
  const drain = (): void => {
    while (decoder.receiveFrameSync(shown) >= 0) {
      decoded.push(rgbOf(av, toRgb, shown, clip));
      shown.unref();
    }
  };
  const take = (): void => {
    while (encoder.receivePacketSync(packet) >= 0) {
      bytes += payloadSize(packet, name);
      avCheck(av, decoder.sendPacketSync(packet), `decoding ${name}`);
      drain();
      packet.unref();
    }
  };
  try {
    for (let t = 0; t < clip.frames; t++) {
      const frame = yuvOf(av, toYuv, clip.data.subarray(t * size, (t + 1) * size), clip);
      frame.pts = BigInt(t);
      avCheck(av, encoder.sendFrameSync(frame), `encoding ${name}`);
      frame.free();
      take();
    }
    encoder.sendFrameSync(null);
    take();
    decoder.sendPacketSync(null);
    drain();
  } finally {
    shown.free();
    packet.free();
    toYuv.freeContext();
    toRgb.freeContext();
    decoder.freeContext();
    encoder.freeContext();
  }
  const all = new Uint8Array(decoded.length * size);
  decoded.forEach((frame, t) => all.set(frame, t * size));
  return { bytes, decoded: all };
}

function openEncoder(
  av: Av,
  info: CodecInfo,
  clip: Frames,
  fps: number,
  quality: number,
): CodecContext {
  const codec = av.Codec.findEncoderByName(info.encoder as never);
  if (!codec) {
    throw new UserError(`this FFmpeg has no encoder ${info.encoder}`, "leave the codec out");
  }
  const encoder = new av.CodecContext();
  encoder.allocContext3(codec);
  encoder.bitRate = 0n; // else the default rate would bend the constant quality
  encoder.width = clip.width;
  encoder.height = clip.height;
  encoder.pixelFormat = av.c.AV_PIX_FMT_YUV420P;
  encoder.timeBase = new av.Rational(1000, Math.round(fps * 1000));
  encoder.framerate = new av.Rational(Math.round(fps * 1000), 1000);
  encoder.colorSpace = av.c.AVCOL_SPC_SMPTE170M;
  encoder.colorRange = av.c.AVCOL_RANGE_MPEG;
  for (const [key, value] of Object.entries({ ...info.options, crf: String(quality) })) {
    avCheck(av, encoder.setOption(key, value), `setting ${key} of ${info.encoder}`);
  }
  avCheck(av, encoder.open2Sync(codec, null), `opening ${info.encoder}`);
  return encoder;
}

function openDecoder(av: Av, name: string): CodecContext {
  const codec = av.Codec.findDecoderByName(name as never);
  if (!codec) {
    throw new UserError(`this FFmpeg has no decoder ${name}`, "leave the codec out");
  }
  const decoder = new av.CodecContext();
  decoder.allocContext3(codec);
  decoder.threadCount = 1;
  avCheck(av, decoder.open2Sync(codec, null), `opening the ${name} decoder`);
  return decoder;
}

function yuvOf(av: Av, scaler: SoftwareScaleContext, rgb: Uint8Array, clip: Frames): Frame {
  const { width, height } = clip;
  const source = av.Frame.fromVideoBuffer(Buffer.from(rgb), {
    width,
    height,
    format: av.c.AV_PIX_FMT_RGB24,
  });
  const frame = new av.Frame();
  frame.alloc();
  frame.format = av.c.AV_PIX_FMT_YUV420P;
  frame.width = width;
  frame.height = height;
  frame.colorSpace = av.c.AVCOL_SPC_SMPTE170M;
  frame.colorRange = av.c.AVCOL_RANGE_MPEG;
  frame.chromaLocation = av.c.AVCHROMA_LOC_CENTER;
  avCheck(av, frame.getBuffer(), "allocating a picture");
  avCheck(av, scaler.scaleFrameSync(frame, source), "converting a picture");
  source.free();
  return frame;
}

function rgbOf(av: Av, scaler: SoftwareScaleContext, frame: Frame, clip: Frames): Uint8Array {
  const rgb = new av.Frame();
  rgb.alloc();
  rgb.format = av.c.AV_PIX_FMT_RGB24;
  rgb.width = clip.width;
  rgb.height = clip.height;
  avCheck(av, rgb.getBuffer(), "allocating a picture");
  frame.chromaLocation = av.c.AVCHROMA_LOC_CENTER;
  avCheck(av, scaler.scaleFrameSync(rgb, frame), "converting a picture");
  const bytes = Uint8Array.from(rgb.toBuffer());
  rgb.free();
  return bytes;
}

/** Bytes of a packet without supplemental information (H.264: unit type 6; HEVC: 39 and 40). */
function payloadSize(packet: Packet, name: CodecName): number {
  const data = packet.data;
  if (!data) {
    return packet.size;
  }
  return name === "x264" || name === "x265" ? sizeWithoutSei(data, name) : data.length;
}

/** The size of an Annex B byte stream without its SEI units, start codes included. */
export function sizeWithoutSei(data: Uint8Array, name: "x264" | "x265"): number {
  const starts: number[] = [];
  for (let i = 0; i + 2 < data.length; i++) {
    if (data[i] === 0 && data[i + 1] === 0 && data[i + 2] === 1) {
      starts.push(i > 0 && data[i - 1] === 0 ? i - 1 : i);
      i += 2;
    }
  }
  let size = 0;
  starts.forEach((start, k) => {
    const end = starts[k + 1] ?? data.length;
    const header = data[data[start + 2] === 1 ? start + 3 : start + 4]!;
    const type = name === "x264" ? header & 0x1f : (header >> 1) & 0x3f;
    const sei = name === "x264" ? type === 6 : type === 39 || type === 40;
    size += sei ? 0 : end - start;
  });
  return size;
}

/** By an external program, through files in a temporary folder. */
async function codeByProgram(
  name: CodecName,
  clip: Frames,
  fps: number,
  quality: number,
): Promise<Coded> {
  const dir = mkdtempSync(join(tmpdir(), "tessera-codec-"));
  try {
    const input = join(dir, "clip.y4m");
    await writeY4m(input, clip, fps);
    const q = String(quality);
    const output = join(dir, name === "vvenc" ? "clip.266" : "clip.ivf");
    await (name === "vvenc"
      ? promisify(execFile)("vvencapp", ["-i", input, "--preset", "medium", "-q", q, "-o", output]) // biome-ignore format: one line
      : promisify(execFile)("ffmpeg", ["-v", "error", "-i", input, "-c:v", "libaom-av1", "-cpu-used", "4", "-crf", q, "-b:v", "0", "-threads", "1", "-f", "ivf", output])); // biome-ignore format: one line
    const file = readFileSync(output);
    const source = await openFrames(output, clip);
    const decoded = new Uint8Array(clip.data.length);
    try {
      decoded.set(source.spans(clip.frames).next().value ?? new Uint8Array(0));
    } finally {
      source.close();
    }
    return { bytes: name === "vvenc" ? file.length : payloadOf(file, "ivf"), decoded };
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
