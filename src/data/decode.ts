/**
 * @file Clips from their sources: the frames that a rule chooses, and the sound of their time span.
 * The same task gives the same bytes in any thread: each decoder runs in one.
 *
 * Only what is needed is decoded: from the last key frame before the clip, and of the frames in
 * between only those that others refer to. Where time stamps cannot be trusted, a file is decoded
 * from its start and its frames are counted.
 */

import { closeSync, openSync, readSync } from "node:fs";
import type { Frame } from "node-av/lib";
import type { Av } from "./av.ts";
import { readBairRecord } from "./containers/bair.ts";
import { keepOpen, OpenVideo, takeOpen } from "./open-video.ts";
import { Media, MediaError, type Probe, probePixels, probeSource } from "./probe.ts";
import { type ClipRule, clipsOf, cutClip, type TimeSpan, unfit } from "./sampling.ts";
import { type Crop, cropStart, FrameScaler, type PixelRule, targetSize, turnOf } from "./scaler.ts";
import { decodeSound } from "./sound.ts";
import type { MediaSource, PicturesSource, PixelsSource, RecordSource, Source } from "./source.ts";

export interface ClipTask {
  readonly source: Source;
  /** Left out where files are only looked into when they are drawn. */
  readonly probe: Probe | undefined;
  readonly rule: ClipRule;
  /** Which of the file's clips. */
  readonly which: number;
  /** In [0, 1): where a random clip is cut. */
  readonly chance: number;
  readonly span?: TimeSpan;
  readonly pixels: PixelRule;
  readonly crop: Crop;
  /** Damaged frames that may be given. */
  readonly missing: number;
  readonly sound?: { readonly samples: number; readonly rate: number };
  /** Memory that threads share, where the pixels go; the clip given back is then empty. */
  readonly into?: Uint8Array;
}

/** Numbers that come with the frames: [T, n] a name. */
export type Signals = { readonly [name: string]: Float32Array };

export interface DecodedClip {
  /** [T, H, W, 3]; empty when the task said where it goes. */
  readonly clip: Uint8Array;
  readonly audio?: Float32Array;
  readonly signals?: Signals;
  /** Numbers of the first and the last frame. */
  readonly first: number;
  readonly last: number;
}

/** Where decoded frames go: frame `number` of the file, its place in the clip, and its repeats. */
type Write = (frame: Frame) => void;

/** Files looked into by this thread, so that a file drawn again is not looked into again. */
const looked = new Map<string, Probe>();

function probeOf(av: Av, { source, missing }: ClipTask): Probe {
  const key = JSON.stringify([source, missing]);
  let probe = looked.get(key);
  if (probe === undefined) {
    const probed = probeSource(av, { source, verify: "quick", missing });
    if ("problem" in probed) {
      throw new MediaError(probed.problem);
    }
    probe = probed;
    if (looked.size >= 16_384) {
      looked.delete(looked.keys().next().value!);
    }
    looked.set(key, probe);
  }
  return probe;
}

/** The frames of a clip and where they go. @throws MediaError when the file has too few */
function plan(task: ClipTask, probe: Probe) {
  const { rule, span, pixels } = task;
  const reason = unfit(probe, rule, span);
  if (reason !== undefined) {
    throw new MediaError(reason);
  }
  const which = Math.min(task.which, clipsOf(probe, rule, span) - 1);
  const { frames, start } = cutClip(probe, rule, which, task.chance, span);
  const size = pixels.height * pixels.width * 3;
  const pixelsOut = task.into ?? new Uint8Array(frames.length * size);
  if (pixelsOut.length !== frames.length * size) {
    throw new RangeError(
      `a clip of ${frames.length * size} bytes does not fit ${pixelsOut.length}`,
    );
  }
  const filler = new Filler(frames, size, pixelsOut);
  const clip = task.into ? new Uint8Array(0) : pixelsOut;
  return { filler, start, rest: { clip, first: frames[0]!, last: frames.at(-1)! } };
}

/** @throws MediaError when the file or the span cannot be had */
export function decodeClip(av: Av, task: ClipTask): DecodedClip {
  const { source, sound } = task;
  const probe = task.probe ?? probeOf(av, task);
  const { filler, start, rest } = plan(task, probe);
  switch (source.kind) {
    case "media":
      readMedia(av, source, probe, task, filler);
      if (sound) {
        const { samples, rate } = sound;
        const audio = probe.audio
          ? decodeSound(av, source, { start, samples, rate, begin: probe.start })
          : new Float32Array(samples);
        return { ...rest, audio };
      }
      return rest;
    case "pictures":
      readPictures(av, source, task, filler);
      break;
    case "pixels":
      readPixels(source, (bytesOf) => writePixels(av, source, task, filler, bytesOf));
      break;
    case "record":
      return { ...rest, signals: readRecord(av, source, task, filler) };
  }
  return sound ? { ...rest, audio: new Float32Array(sound.samples) } : rest;
}

/** Whether a clip's pixels lie in a file as they are wanted: RGB, neither scaled nor converted. */
export function needsNoFfmpeg({ source, pixels }: ClipTask): boolean {
  if (source.kind !== "pixels" || source.channels !== 3) {
    return false;
  }
  const { sourceW, sourceH } = targetSize(pixels, source.width, source.height);
  return sourceW === source.width && sourceH === source.height;
}

/**
 * A clip that `needsNoFfmpeg`, with the bytes that `decodeClip` gives.
 * @throws MediaError when the file or the span cannot be had
 */
export function copyClip(task: ClipTask): DecodedClip {
  const source = task.source as PixelsSource;
  const { crop, pixels, sound } = task;
  const { filler, rest } = plan(task, task.probe ?? probePixels(source));
  const [x, y] = crop.at;
  const left = cropStart(source.width, pixels.width, x);
  const top = cropStart(source.height, pixels.height, y);
  readPixels(source, (bytesOf) => {
    while (filler.next !== undefined) {
      const bytes = bytesOf(filler.next);
      filler.fill((out) => {
        for (let i = 0; i < pixels.height; i++) {
          const from = ((top + i) * source.width + left) * 3;
          const row = bytes.subarray(from, from + pixels.width * 3);
          out.set(crop.flip ? mirrored(row) : row, i * row.length);
        }
      });
    }
  });
  return sound ? { ...rest, audio: new Float32Array(sound.samples) } : rest;
}

/** A row of RGB pixels from right to left. */
function mirrored(row: Uint8Array): Uint8Array {
  const last = row.length - 3;
  return Uint8Array.from(row, (_, i) => row[last - i + 2 * (i % 3)]!);
}

/** The frames that a clip still wants; a frame wanted more than once is copied. */
class Filler {
  readonly frames: readonly number[];
  readonly #size: number;
  readonly #clip: Uint8Array;
  #filled = 0;
  damaged = 0;

  constructor(frames: readonly number[], size: number, clip: Uint8Array) {
    this.frames = frames;
    this.#size = size;
    this.#clip = clip;
  }

  /** Number of the next frame that is wanted; undefined when there is none. */
  get next(): number | undefined {
    return this.frames[this.#filled];
  }

  /** Write the next frame and its repeats. */
  fill(write: (out: Uint8Array) => void): void {
    const size = this.#size;
    const index = this.frames[this.#filled];
    const from = this.#filled * size;
    write(this.#clip.subarray(from, from + size));
    for (this.#filled += 1; this.next === index && index !== undefined; this.#filled++) {
      this.#clip.copyWithin(this.#filled * size, from, from + size);
    }
  }

  restart(): void {
    this.#filled = 0;
    this.damaged = 0;
  }
}

function readMedia(
  av: Av,
  source: MediaSource,
  probe: Probe,
  task: ClipTask,
  filler: Filler,
): void {
  readWanted(av, source, probe, filler, task.missing, (video) => {
    const scaler = video.scaler(task.pixels, task.crop);
    return (frame) => filler.fill((out) => scaler.write(frame, out));
  });
  const { frames, damaged } = filler;
  if (damaged > task.missing) {
    throw new MediaError(`${damaged} of the frames ${frames[0]} to ${frames.at(-1)} are damaged`);
  }
}

/**
 * Give the wanted frames: from a decoder that stands open, or else a fresh one, or else (where time
 * stamps mislead) by counting from the start, which is slow and certain.
 * @param begin called before each attempt; what it gives gets the frames
 * @throws MediaError when one does not come
 */
function readWanted(
  av: Av,
  source: MediaSource,
  probe: Probe,
  filler: Filler,
  missing: number,
  begin: (video: OpenVideo) => Write,
): void {
  const attempt = (
    video: OpenVideo | undefined,
    read: (video: OpenVideo, take: Write) => boolean,
  ): boolean => {
    if (!video) {
      return false;
    }
    filler.restart();
    let found = false;
    try {
      const write = begin(video);
      found = read(video, (frame) => {
        filler.damaged += video.media.isDamaged(frame) ? 1 : 0;
        write(frame);
      });
    } finally {
      if (found && video.media.damaged === 0) {
        keepOpen(source, video);
      } else {
        video.close();
      }
    }
    return found;
  };
  const pick = (video: OpenVideo, take: Write): boolean => video.pick(probe, filler, take);
  const done =
    attempt(takeOpen(source, probe, filler.frames[0]!), (video, take) => pick(video, take) && video.media.damaged === 0) ||
    attempt(new OpenVideo(av, source), (video, take) => pick(video, take) && filler.damaged <= missing); // biome-ignore format: one call
  if (!done) {
    attempt(new OpenVideo(av, source), ({ media }, take) => {
      countFrames(media, filler, take);
      return false; // not where a later clip could go on
    });
  }
  if (filler.next !== undefined) {
    throw new MediaError(`ends early: frame ${filler.next} does not decode`);
  }
}

/** A frame as a decoder gives it. */
export interface NativeFrame {
  /** Planes one after the other, without gaps, in the file's own sample format. */
  readonly bytes: Buffer;
  /** When it is shown, in seconds of the file's clock; NaN where the file does not say. */
  readonly time: number;
}

/**
 * Frames before any conversion: what codecs are compared on, and what tells that seeking and leaving
 * frames out changes nothing.
 * @param numbers rising
 * @throws MediaError when one does not decode
 */
export function decodeNative(
  av: Av,
  source: MediaSource,
  probe: Probe,
  numbers: readonly number[],
): NativeFrame[] {
  const found: NativeFrame[] = [];
  const filler = new Filler(numbers, 0, new Uint8Array(0));
  readWanted(av, source, probe, filler, Number.POSITIVE_INFINITY, ({ media }) => {
    found.length = 0;
    return (frame) => {
      const time = media.seconds(frame.bestEffortTimestamp);
      filler.fill(() => found.push({ bytes: frame.toBuffer(), time }));
    };
  });
  return found;
}

function aspectOf(media: Media): number {
  const { num, den } = media.stream.sampleAspectRatio;
  return num > 0 && den > 0 ? num / den : 1;
}

/** Decode from the start and count. */
function countFrames(media: Media, filler: Filler, take: Write): void {
  let number = 0;
  for (const frame of media.readFrames()) {
    if (number === filler.next) {
      take(frame);
    }
    if (filler.next === undefined) {
      return;
    }
    number += 1;
  }
}

/** One picture a frame; each is turned as its own orientation says. */
function readPictures(av: Av, source: PicturesSource, task: ClipTask, filler: Filler): void {
  while (filler.next !== undefined) {
    const number = filler.next;
    const file = source.files[number]!;
    const span = source.spans?.[number];
    const media = new Media(av, { file, ...(span && { span }) }, "video");
    try {
      const { value: frame, done } = media.readFrames().next();
      if (done || !frame) {
        throw new MediaError(`picture ${file} does not decode`);
      }
      filler.damaged += media.isDamaged(frame) ? 1 : 0;
      const matrix =
        frame.getSideData(av.c.AV_FRAME_DATA_DISPLAYMATRIX) ??
        media.stream.codecpar.getCodedSideData(av.c.AV_PKT_DATA_DISPLAYMATRIX);
      const scaler = new FrameScaler(av, task.pixels, task.crop, turnOf(matrix), aspectOf(media));
      filler.fill((out) => scaler.write(frame, out));
      scaler.close();
    } finally {
      media.close();
    }
  }
  if (filler.damaged > task.missing) {
    throw new MediaError(`${filler.damaged} of its pictures are damaged`);
  }
}

function readPixels(
  source: PixelsSource,
  read: (bytesOf: (number: number) => Buffer) => void,
): void {
  const { width, height, channels } = source;
  const file = openFile(source.file);
  try {
    const bytes = Buffer.alloc(width * height * channels);
    read((number) => {
      const got = readSync(file, bytes, 0, bytes.length, source.offsets[number]!);
      if (got < bytes.length) {
        throw new MediaError(`ends early: frame ${number} is not there`);
      }
      return bytes;
    });
  } finally {
    closeSync(file);
  }
}

function readRecord(av: Av, source: RecordSource, task: ClipTask, filler: Filler): Signals {
  const { images, signals } = readBairRecord(source);
  writePixels(av, { ...source, channels: 3 }, task, filler, (number) => images[number]!);
  return Object.fromEntries(
    Object.entries(signals).map(([name, rows]) => [
      name,
      Float32Array.from(filler.frames.flatMap((number) => [...(rows[number] ?? [])])),
    ]),
  );
}

/** Pixels that need no decoder go the same way as those that do. */
function writePixels(
  av: Av,
  { width, height, channels }: Pick<PixelsSource, "width" | "height" | "channels">,
  task: ClipTask,
  filler: Filler,
  bytesOf: (number: number) => Buffer,
): void {
  const format = channels === 1 ? av.c.AV_PIX_FMT_GRAY8 : av.c.AV_PIX_FMT_RGB24;
  const scaler = new FrameScaler(av, task.pixels, task.crop, turnOf(null), 1);
  try {
    while (filler.next !== undefined) {
      const frame = av.Frame.fromVideoBuffer(bytesOf(filler.next), { width, height, format });
      if (channels === 1) {
        frame.colorRange = av.c.AVCOL_RANGE_JPEG; // grey of a file is no luma of a broadcast
      }
      filler.fill((out) => scaler.write(frame, out));
      frame.free();
    }
  } finally {
    scaler.close();
  }
}

function openFile(path: string): number {
  try {
    return openSync(path, "r");
  } catch (error) {
    throw new MediaError(`cannot be opened (${(error as NodeJS.ErrnoException).code})`);
  }
}
