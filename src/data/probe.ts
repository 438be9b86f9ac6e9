/**
 * @file Looking into a media file: is it a video, how many frames does it really have, and when are
 * they shown. What the container states is checked against what the decoder gives.
 */

import { basename } from "node:path";
import type { CodecContext, FormatContext, Frame, Packet, Stream } from "node-av/lib";
import { type Av, avMessage } from "./av.ts";
import {
  avUrl,
  type MediaSource,
  type PicturesSource,
  type PixelsSource,
  type RecordSource,
  type Source,
} from "./source.ts";

/** What is known of a usable file. Plain data, so that it crosses threads. */
export interface Probe {
  readonly frames: number;
  /** Native frames a second (the mean, when it varies). */
  readonly fps: number;
  /** When the first frame is shown, in seconds of the file's clock. */
  readonly start: number;
  /** When each frame is shown, only where a constant rate does not tell. */
  readonly times?: Float64Array;
  /** Whether frames can be told by their time stamps, so that seeking is safe. */
  readonly seekable: boolean;
  /** Numbers of the frames that decoding can begin at, rising. Left out: only frame 0. */
  readonly keys?: readonly number[] | "all";
  /** As stored, before any turn. */
  readonly width: number;
  readonly height: number;
  readonly audio: boolean;
}

export type Probed = Probe | { readonly problem: string };

export interface ProbeTask {
  readonly source: Source;
  /** `full` decodes every frame; `quick` counts packets and decodes the first frame. */
  readonly verify: "full" | "quick";
  /** Frames that may be missing or damaged before the file counts as corrupt. */
  readonly missing: number;
}

/** Why a file, or a span of it, cannot be used. */
export class MediaError extends Error {
  override name = "MediaError";
}

/** An open file with a decoder on one of its streams. Close it. */
export class Media {
  readonly av: Av;
  readonly format: FormatContext;
  readonly stream: Stream;
  readonly #decoder: CodecContext;
  readonly #packet: Packet;
  readonly #frame: Frame;
  /** Packets read that should give a frame, and those that the container says to drop. */
  packets = 0;
  discarded = 0;
  /** Packets that the decoder refused and frames that it marked as damaged. */
  damaged = 0;

  /** @throws MediaError when the file cannot be opened or has no such stream */
  constructor(av: Av, source: Omit<MediaSource, "kind">, kind: "video" | "audio") {
    this.av = av;
    this.format = new av.FormatContext();
    const { raw } = source;
    const options = av.Dictionary.fromObject({
      // Local files only: a playlist that names an address must not make us fetch it.
      protocol_whitelist: "file,subfile",
      ...(raw && {
        video_size: `${raw.width}x${raw.height}`,
        pixel_format: raw.pixels,
        framerate: String(raw.fps),
      }),
    });
    const format = raw ? av.InputFormat.findInputFormat("rawvideo") : null;
    const opened = this.format.openInputSync(avUrl(source.file, source.span), format, options);
    options.free();
    if (opened < 0) {
      const reason = avMessage(av, opened);
      throw new MediaError(
        /permission|no such file/i.test(reason)
          ? `cannot be opened (${reason})`
          : `not a media file (${reason})`,
      );
    }
    try {
      const probed = this.format.findStreamInfoSync(null);
      if (probed < 0) {
        throw new MediaError(`no stream can be read (${avMessage(av, probed)})`);
      }
      const index = this.format.findBestStream(
        kind === "video" ? av.c.AVMEDIA_TYPE_VIDEO : av.c.AVMEDIA_TYPE_AUDIO,
      );
      const stream = index >= 0 ? this.format.streams[index] : undefined;
      if (!stream) {
        throw new MediaError(`has no ${kind} stream`);
      }
      this.stream = stream;
      const codec = av.Codec.findDecoder(stream.codecpar.codecId);
      if (!codec) {
        throw new MediaError(`has a ${kind} codec without a decoder here`);
      }
      this.#decoder = new av.CodecContext();
      this.#decoder.allocContext3(codec);
      this.#decoder.parametersToContext(stream.codecpar);
      this.#decoder.pktTimebase = stream.timeBase;
      this.#decoder.threadCount = 1; // the worker threads are the parallelism
      const ready = this.#decoder.open2Sync(codec, null);
      if (ready < 0) {
        this.#decoder.freeContext();
        throw new MediaError(`its ${codec.name} decoder does not open (${avMessage(av, ready)})`);
      }
    } catch (error) {
      this.format.closeInputSync();
      throw error;
    }
    this.#packet = new av.Packet();
    this.#packet.alloc();
    this.#frame = new av.Frame();
    this.#frame.alloc();
  }

  /** Whether the file also has a stream of this kind. */
  hasAudio(): boolean {
    return this.format.findBestStream(this.av.c.AVMEDIA_TYPE_AUDIO) >= 0;
  }

  /** Seconds of a time stamp of the stream; NaN for none. */
  seconds(timestamp: bigint): number {
    const { num, den } = this.stream.timeBase;
    return timestamp === this.av.c.AV_NOPTS_VALUE ? Number.NaN : (Number(timestamp) * num) / den;
  }

  /** Go to the last key frame at or before a time. False when the file cannot. */
  seek(seconds: number): boolean {
    const { num, den } = this.stream.timeBase;
    const target = BigInt(Math.floor((seconds * den) / num));
    const done = this.format.seekFrameSync(
      this.stream.index,
      target,
      this.av.c.AVSEEK_FLAG_BACKWARD,
    );
    this.#decoder.flushBuffers();
    // Whoever read before may have stopped in the middle.
    this.#packet.unref();
    this.#frame.unref();
    return done >= 0;
  }

  /** The stream's packets; the one given is reused by the next. */
  *readPackets(): Generator<Packet> {
    const packet = this.#packet;
    while (this.format.readFrameSync(packet) >= 0) {
      if (packet.streamIndex === this.stream.index) {
        if (packet.hasFlags(this.av.c.AV_PKT_FLAG_DISCARD)) {
          this.discarded += 1;
        } else {
          this.packets += 1;
        }
        yield packet;
      }
      packet.unref();
    }
  }

  /**
   * Decoded frames in the order they are shown; the one given is reused by the next.
   * @param needed whether a packet's own frame is wanted; one that is not, and that no other frame
   *   refers to, is not decoded
   */
  *readFrames(needed?: (packet: Packet) => boolean): Generator<Frame> {
    let skipping = false;
    for (const packet of this.readPackets()) {
      if (needed) {
        const skip = !needed(packet);
        if (skip !== skipping) {
          this.#decoder.setOption("skip_frame", skip ? "noref" : "default");
          skipping = skip;
        }
      }
      if (this.#decoder.sendPacketSync(packet) < 0) {
        this.damaged += 1;
      }
      yield* this.#drain();
    }
    this.#decoder.sendPacketSync(null);
    yield* this.#drain();
  }

  *#drain(): Generator<Frame> {
    const frame = this.#frame;
    while (this.#decoder.receiveFrameSync(frame) >= 0) {
      if (this.isDamaged(frame)) {
        this.damaged += 1;
      }
      yield frame;
      frame.unref();
    }
  }

  /** Whether the decoder had to conceal errors in a frame. */
  isDamaged(frame: Frame): boolean {
    return frame.decodeErrorFlags !== 0 || frame.hasFlags(this.av.c.AV_FRAME_FLAG_CORRUPT);
  }

  close(): void {
    this.#frame.free();
    this.#packet.free();
    this.#decoder.freeContext();
    this.format.closeInputSync();
  }
}

/** Look into a source. Never throws for what is wrong with its files. */
export function probeSource(av: Av, task: ProbeTask): Probed {
  const { source } = task;
  switch (source.kind) {
    case "media":
      return probeMedia(av, source, task);
    case "pictures":
      return probePictures(av, source, task);
    case "pixels":
    case "record":
      return probePixels(source);
  }
}

/** What is known of bare pixels without a look; needs no FFmpeg. */
export function probePixels(source: PixelsSource | RecordSource): Probe {
  return known(source.kind === "pixels" ? source.offsets.length : source.frames, source);
}

function known(
  frames: number,
  { fps, width, height }: { readonly fps: number; readonly width: number; readonly height: number },
): Probe {
  return { frames, fps, start: 0, seekable: true, width, height, audio: false };
}

/** Pictures: the first tells the size; `full` decodes all of them. */
function probePictures(av: Av, source: PicturesSource, task: ProbeTask): Probed {
  if (source.files.length === 0) {
    return { problem: "has no pictures" };
  }
  let [width, height] = [0, 0];
  let damaged = 0;
  const looked = task.verify === "full" ? source.files.length : 1;
  for (let i = 0; i < looked; i++) {
    const file = source.files[i]!;
    const span = source.spans?.[i];
    const probed = probeMedia(av, { kind: "media", file, ...(span && { span }) }, task);
    if ("problem" in probed) {
      damaged += 1;
      if (damaged > task.missing) {
        const which = source.files.length > 1 ? `its picture ${basename(file)} ` : "";
        return { problem: `${which}${probed.problem}` };
      }
    } else if (width === 0) {
      [width, height] = [probed.width, probed.height];
    }
  }
  return known(source.files.length, { fps: source.fps, width, height });
}

function probeMedia(av: Av, source: MediaSource, task: ProbeTask): Probed {
  let media: Media | undefined;
  try {
    media = new Media(av, source, "video");
    const quick = task.verify === "full" ? undefined : probePackets(media, task);
    if (quick !== undefined) {
      return quick;
    }
    media.close();
    media = new Media(av, source, "video");
    return probeFrames(media, task);
  } catch (error) {
    if (error instanceof MediaError) {
      return { problem: error.message };
    }
    throw error;
  } finally {
    media?.close();
  }
}

/** Decode all. The decoder's frames and time stamps are the truth. */
function probeFrames(media: Media, { missing }: ProbeTask): Probe {
  const times: number[] = [];
  const keys: number[] = [];
  for (const frame of media.readFrames()) {
    if (frame.keyFrame !== 0) {
      keys.push(times.length);
    }
    times.push(media.seconds(frame.bestEffortTimestamp));
  }
  checkCount(media, times.length, missing);
  return summary(media, times, keys);
}

/**
 * Read all packets, decode one. A file damaged in its middle shows that only when it is drawn.
 * @returns undefined where packets do not say when their frames are shown, as in AVI
 */
function probePackets(media: Media, { missing }: ProbeTask): Probe | undefined {
  const { c } = media.av;
  const times: number[] = [];
  const keyTimes = new Set<number>();
  for (const packet of media.readPackets()) {
    if (!packet.hasFlags(c.AV_PKT_FLAG_DISCARD)) {
      const time = media.seconds(packet.pts);
      times.push(time);
      if (packet.hasFlags(c.AV_PKT_FLAG_KEY)) {
        keyTimes.add(time);
      }
    }
  }
  checkCount(media, times.length, missing);
  if (times.some((time) => Number.isNaN(time))) {
    return undefined;
  }
  media.seek(0);
  if (media.readFrames().next().done !== false) {
    throw new MediaError("no frame decodes");
  }
  times.sort((a, b) => a - b);
  const keys = times.flatMap((time, i) => (keyTimes.has(time) ? [i] : []));
  return summary(media, times, keys);
}

function checkCount(media: Media, frames: number, missing: number): void {
  if (frames === 0) {
    throw new MediaError("has no frame that decodes");
  }
  // Containers state their count (0: not stated); each packet that is not to be dropped is a frame.
  const stated = Math.max(Number(media.stream.nbFrames) - media.discarded, media.packets);
  const lost = Math.max(0, stated - frames);
  if (lost > missing) {
    throw new MediaError(`is corrupt: ${frames} of ${stated} frames decode`);
  }
  if (media.damaged > missing) {
    throw new MediaError(`is corrupt: ${media.damaged} of ${stated} frames are damaged`);
  }
}

function summary(media: Media, given: readonly number[], keyed: readonly number[]): Probe {
  const frames = given.length;
  // A decoder that gives frames one packet late has no time left for the last one.
  const step = frames > 2 ? given[frames - 2]! - given[frames - 3]! : Number.NaN;
  const times = Number.isNaN(given[frames - 1]!)
    ? [...given.slice(0, -1), given[frames - 2]! + step]
    : given;
  const increasing = times.every((t, i) => Number.isFinite(t) && (i === 0 || t > times[i - 1]!));
  const first = times[0]!;
  const measured = frames > 1 ? (frames - 1) / (times[frames - 1]! - first) : Number.NaN;
  const stated = [media.stream.avgFrameRate, media.stream.rFrameRate].map((r) => r.num / r.den);
  const usable = (rate: number): boolean => Number.isFinite(rate) && rate > 0 && rate <= 1000;
  const { width, height } = media.stream.codecpar;
  const size = { width, height, audio: media.hasAudio() };
  if (!increasing) {
    const fps = stated.find(usable) ?? 25;
    return { frames, fps, start: Number.isFinite(first) ? first : 0, seekable: false, ...size };
  }
  const keys = keyed.length === frames ? ("all" as const) : keyed;
  const known = { ...size, seekable: true, ...(keyed.length > 1 && { keys }) };
  for (const fps of [...stated, measured].filter(usable)) {
    if (times.every((t, i) => Math.abs((t - first) * fps - i) < 0.25)) {
      return { frames, fps, start: first, ...known };
    }
  }
  const fps = usable(measured) ? measured : (stated.find(usable) ?? 25);
  return { frames, fps, start: first, times: Float64Array.from(times), ...known };
}

/** When frame `index` is shown, in seconds of the file's clock. */
export function timeOf(probe: Probe, index: number): number {
  return probe.times?.[index] ?? probe.start + index / probe.fps;
}

/** The last frame shown at or before a time: the one that a viewer sees then. */
export function frameAt(probe: Probe, seconds: number): number {
  const slack = 0.01 / probe.fps; // time stamps are rounded to the file's clock
  const { times, frames } = probe;
  if (!times) {
    const index = Math.floor((seconds + slack - probe.start) * probe.fps + 1e-6);
    return Math.min(frames - 1, Math.max(0, index));
  }
  let low = 0;
  let high = frames - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (times[middle]! <= seconds + slack) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}
