/**
 * @file Videos that stay open between clips. A clip costs most where decoding must begin long before
 * its first frame; the next clip of the same file may lie further on, and then decoding goes on from
 * where it stopped. Opening, and reading a container's index, is saved in any case.
 *
 * A clip's bytes do not depend on what was decoded before it: decoding goes on only within the run
 * from the key frame that a fresh decoder would begin at, and whatever is odd (a frame that does not
 * come, damage) sends the clip to a fresh decoder.
 */

import { statSync } from "node:fs";
import type { Frame, Packet } from "node-av/lib";
import type { Av } from "./av.ts";
import { frameAt, Media, type Probe, timeOf } from "./probe.ts";
import { type Crop, FrameScaler, type PixelRule, turnOf } from "./scaler.ts";
import type { MediaSource } from "./source.ts";

/** What a thread keeps open at most: decoders, those of one file, and their bytes by a rough count. */
const DECODERS = 24;
const SAME_FILE = 3;
const BYTES = 192 * 2 ** 20;
/** Pictures that a decoder may hold, of at most 3 bytes a pixel. */
const HELD = 12 * 3;

/** Frames by number, rising, and what to do with each. */
export interface Wanted {
  readonly frames: readonly number[];
  /** Number of the next frame that is wanted; undefined when there is none. */
  readonly next: number | undefined;
}

/** A video and where its decoder stands. */
export class OpenVideo {
  readonly media: Media;
  readonly #source: MediaSource;
  readonly #stamp: string;
  /** Frames from `#key` on; undefined before the first and after a run that failed. */
  #frames: Generator<Frame> | undefined;
  #key = -1;
  /** Number of the last frame that came. */
  #before = -1;
  #touched = false;
  #needed: (packet: Packet) => boolean = () => true;
  #scaler: { readonly key: string; readonly made: FrameScaler } | undefined;

  /** @throws MediaError when it cannot be opened */
  constructor(av: Av, source: MediaSource) {
    this.#source = source;
    this.#stamp = stampOf(source);
    this.media = new Media(av, source, "video");
  }

  /** Whether the file is still the one that was opened. */
  get current(): boolean {
    return this.#stamp !== "" && this.#stamp === stampOf(this.#source);
  }

  /** Frames to decode until frame `first` when decoding goes on; infinite when it cannot. */
  ahead(probe: Probe, first: number): number {
    const goesOn =
      this.#frames !== undefined && this.#key === keyBefore(probe, first) && this.#before < first;
    return goesOn ? first - this.#before : Number.POSITIVE_INFINITY;
  }

  /** About what its decoder holds. */
  get bytes(): number {
    const { width, height } = this.media.stream.codecpar;
    return width * height * HELD;
  }

  /** Makes pixels of this video's frames. */
  scaler(pixels: PixelRule, crop: Crop): FrameScaler {
    const key = JSON.stringify(pixels);
    if (this.#scaler?.key !== key) {
      const { av, stream } = this.media;
      const { num, den } = stream.sampleAspectRatio;
      const aspect = num > 0 && den > 0 ? num / den : 1;
      const matrix = stream.codecpar.getCodedSideData(av.c.AV_PKT_DATA_DISPLAYMATRIX);
      this.#scaler?.made.close();
      this.#scaler = { key, made: new FrameScaler(av, pixels, crop, turnOf(matrix), aspect) };
    }
    this.#scaler.made.crop = crop;
    return this.#scaler.made;
  }

  /**
   * Give the wanted frames by their time stamps. Frames that nothing wants and nothing refers to are
   * not decoded.
   * @returns whether all came; if not, the time stamps mislead, or this decoder was used before
   */
  pick(probe: Probe, wanted: Wanted, take: (frame: Frame) => void): boolean {
    const found = probe.seekable && this.#pick(probe, wanted, take);
    if (!found) {
      this.#frames = undefined;
    }
    return found;
  }

  #pick(probe: Probe, wanted: Wanted, take: (frame: Frame) => void): boolean {
    const { media } = this;
    const key = keyBefore(probe, wanted.next!);
    if (this.ahead(probe, wanted.next!) === Number.POSITIVE_INFINITY && !this.#begin(probe, key)) {
      return false;
    }
    const numberOf = (timestamp: bigint): number => {
      const time = media.seconds(timestamp);
      return Number.isFinite(time) ? frameAt(probe, time + 0.25 / probe.fps) : -1;
    };
    const chosen = new Set(wanted.frames);
    const last = wanted.frames.at(-1)!;
    this.#needed = (packet) => {
      const number = numberOf(packet.pts);
      // What follows the clip may be the next one's.
      return number < 0 || number > last || chosen.has(number);
    };
    while (true) {
      const { value: frame, done } = this.#frames!.next();
      if (done || !frame) {
        return false;
      }
      const stated = numberOf(frame.bestEffortTimestamp);
      const number = stated < 0 && this.#before === probe.frames - 2 ? this.#before + 1 : stated;
      if (this.#before < 0 && number > key) {
        return false; // the search went too far
      }
      if (number <= this.#before || number > wanted.next!) {
        return false; // out of turn, or a frame that was wanted did not come
      }
      this.#before = number;
      if (number === wanted.next) {
        take(frame);
        if (wanted.next === undefined) {
          return true;
        }
      }
    }
  }

  /** Put the decoder before a key frame. */
  #begin(probe: Probe, key: number): boolean {
    const search = key > 0 || this.#touched;
    this.#touched = true;
    this.#frames = undefined;
    if (search && !this.media.seek(timeOf(probe, key))) {
      return false;
    }
    [this.#key, this.#before] = [key, -1];
    this.#frames = this.media.readFrames((packet) => this.#needed(packet));
    return true;
  }

  close(): void {
    this.#frames = undefined;
    this.#scaler?.made.close();
    this.media.close();
  }
}

/** The frame that decoding best begins at. */
function keyBefore({ keys }: Probe, frame: number): number {
  if (keys === "all") {
    return frame;
  }
  return keys?.findLast((key) => key <= frame) ?? 0;
}

/** Tells a file from one that took its place; empty when it is gone. */
function stampOf({ file }: MediaSource): string {
  const stat = statSync(file, { throwIfNoEntry: false });
  return stat ? `${stat.dev} ${stat.ino} ${stat.size} ${stat.mtimeMs}` : "";
}

/** This thread's, the one used last at the end. A file may be open several times. */
const open: { readonly key: string; readonly video: OpenVideo }[] = [];

function remove(at: number): OpenVideo {
  return open.splice(at, 1)[0]!.video;
}

/**
 * A video left open by an earlier clip: the one that has the least to decode until frame `first`.
 * It is the caller's until it is kept again.
 * @returns undefined when a fresh one is better
 */
export function takeOpen(source: MediaSource, probe: Probe, first: number): OpenVideo | undefined {
  const key = JSON.stringify(source);
  for (let i = open.length - 1; i >= 0; i--) {
    if (open[i]!.key === key && !open[i]!.video.current) {
      remove(i).close();
    }
  }
  const mine = open.flatMap((one, at) =>
    one.key === key ? [{ at, ahead: one.video.ahead(probe, first) }] : [],
  );
  const nearest = mine.reduce((a, b) => (b.ahead < a.ahead ? b : a), mine[0] ?? { at: -1, ahead: Number.POSITIVE_INFINITY }); // biome-ignore format: one call
  if (nearest.at < 0 || (nearest.ahead === Number.POSITIVE_INFINITY && mine.length < SAME_FILE)) {
    return undefined;
  }
  return remove(nearest.at);
}

/** Leave a video open for a later clip. Those unused for longest are closed. */
export function keepOpen(source: MediaSource, video: OpenVideo): void {
  open.push({ key: JSON.stringify(source), video });
  let bytes = open.reduce((sum, one) => sum + one.video.bytes, 0);
  while (open.length > DECODERS || (bytes > BYTES && open.length > 0)) {
    bytes -= open[0]!.video.bytes;
    remove(0).close();
  }
}

/** Close all that this thread holds. */
export function closeVideos(): void {
  while (open.length > 0) {
    remove(0).close();
  }
}
