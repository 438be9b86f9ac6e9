/**
 * @file Where clips are cut, by name. A choice is a pure function of the file's frames and of random
 * numbers that are handed in, so it can be made in any thread. Two published ways are here under
 * their own names: V-JEPA's segments (Bardes et al. 2024, `VideoDataset`) and the 5 × 3 test views of
 * VideoMAE (Tong et al. 2022).
 */

import { type Static, Type } from "../config/schema.ts";
import { bilinearConventions } from "./resize.ts";
import { frameAt, type Probe, timeOf } from "./probe.ts";

/** The keys that every set of clips shares: which frames, which pixels. */
export const samplingKeys = {
  frames: Type.Integer({
    minimum: 1,
    default: 17,
    description: "Frames of a clip; 1 makes images.",
  }),
  height: Type.Integer({ minimum: 8, default: 64, description: "Pixel rows after the crop." }),
  width: Type.Integer({ minimum: 8, default: 64, description: "Pixel columns after the crop." }),
  fps: Type.Union([Type.Number({ exclusiveMinimum: 0 }), Type.Null()], {
    default: null,
    description:
      "Resample to this rate (each moment shows the last frame before it); null keeps each file's own frames.",
  }),
  stride: Type.Integer({
    minimum: 1,
    default: 1,
    description: "Take every n-th frame (after resampling).",
  }),
  sampling: Type.Enum(["random", "centre", "uniform", "start", "all"], {
    default: "random",
    description:
      "Where training clips are cut: anywhere, mid-file, evenly spread by clips_per_video, at the start, or at all windows.",
  }),
  held_out_sampling: Type.Enum(
    ["auto", "centre", "uniform", "start", "all", "v-jepa", "videomae"],
    {
      default: "auto",
      description:
        "The same for validation, which never is random. auto: as training, but centre (or uniform with several clips_per_video) for random. v-jepa and videomae are those papers' test segments.",
    },
  ),
  clips_per_video: Type.Integer({
    minimum: 1,
    default: 1,
    description: "Clips of a file in an epoch (all windows: as many as there are).",
  }),
  window_step: Type.Union([Type.Integer({ minimum: 1 }), Type.Null()], {
    default: null,
    description: "Frames from one window to the next when all are taken; null: no overlap.",
  }),
  short: Type.Enum(["skip", "repeat-last", "loop"], {
    default: "skip",
    description:
      "Files with fewer frames than a clip: left out, filled up with their last frame, or played again.",
  }),
  resize: Type.Union([Type.Integer({ minimum: 1 }), Type.Null()], {
    default: null,
    description: "Shorter side before the crop; null: as small as covers the crop.",
  }),
  filter: Type.Enum(
    ["bilinear", "bicubic", "area", "lanczos", ...(Object.keys(bilinearConventions) as (keyof typeof bilinearConventions)[])], // biome-ignore format: one list
    {
      default: "bicubic",
      description:
        "Resize filter: swscale's (all but bilinear upscaling widen with the reduction), or a published convention in float64.",
    },
  ),
  crop: Type.Enum(["random", "centre"], {
    default: "random",
    description: "Crop of training clips. Validation is centred.",
  }),
  held_out_crops: Type.Enum([1, 3], {
    default: 1,
    description:
      "Crops of each validation clip: the centre, or both ends and the centre of the longer side.",
  }),
  flip: Type.Boolean({
    default: false,
    description: "Mirror half of the training clips, by chance, left to right.",
  }),
  colour: Type.Enum(["auto", "bt601", "bt709", "bt2020"], {
    default: "auto",
    description: "Matrix from YUV to RGB; auto: as the file says, bt601 where it says nothing.",
  }),
  range: Type.Enum(["auto", "limited", "full"], {
    default: "auto",
    description: "Range of YUV samples; auto: as the file says, limited where it says nothing.",
  }),
  conversion: Type.Enum(["swscale", "formula"], {
    default: "swscale",
    description:
      "swscale: fixed point, interpolated chroma, fast. formula: float64, repeated chroma, for scores that name their colours.",
  }),
};

/** Where a file's clips are cut when it is opened, with the threads that do it. */
export const decodingKeys = {
  audio_rate: Type.Integer({
    minimum: 0,
    default: 0,
    description:
      "Samples a second of the mono sound (silence where a file has none); 0 leaves sound out. Needs fps.",
  }),
  missing_frames: Type.Integer({
    minimum: 0,
    default: 0,
    description: "Frames that may be missing or damaged before a file counts as corrupt.",
  }),
  strict: Type.Boolean({
    default: false,
    description: "Make a file that cannot be used an error instead of leaving it out.",
  }),
  workers: Type.Integer({
    minimum: 0,
    default: 2,
    description: "Threads that decode; 0 decodes in the main thread.",
    semantic: false,
  }),
};

export type Filter = Static<(typeof samplingKeys)["filter"]>;
export type Place = "random" | Static<(typeof samplingKeys)["held_out_sampling"]>;

/** How clips are cut from any file of a set. Plain data. */
export interface ClipRule {
  readonly frames: number;
  readonly fps: number | null;
  readonly stride: number;
  readonly place: Exclude<Place, "auto">;
  /** Clips a file. */
  readonly clips: number;
  /** Frames (at the rate asked for) between windows of `all`. */
  readonly step: number;
  readonly short: "skip" | "repeat-last" | "loop";
}

/** Frames (at the rate asked for) from a clip's first to its last. */
export function reach({ frames, stride }: Pick<ClipRule, "frames" | "stride">): number {
  return (frames - 1) * stride + 1;
}

/** The part of a file that is an item: all, or a span in seconds of its clock. */
export type TimeSpan = readonly [start: number, end: number];

/** First frame of a span, and number of frames that it offers at the rate asked for. */
function offer(
  probe: Probe,
  fps: number | null,
  span: TimeSpan | undefined,
): { first: number; count: number; start: number } {
  // The last frame is shown for one native frame's time.
  const end = timeOf(probe, probe.frames - 1) + 1 / probe.fps;
  const from = Math.max(probe.start, span ? probe.start + span[0] : probe.start);
  const to = Math.min(end, span ? probe.start + span[1] : end);
  const first = span ? frameAt(probe, from) : 0;
  if (fps === null) {
    const last = span ? frameAt(probe, to - 0.5 / probe.fps) : probe.frames - 1;
    return { first, count: Math.max(1, last - first + 1), start: timeOf(probe, first) };
  }
  return { first, count: Math.max(1, Math.floor((to - from) * fps + 1e-6)), start: from };
}

/** Number of frames that a file, or a span of it, offers at the rate asked for. */
export function framesAt(probe: Probe, fps: number | null, span?: TimeSpan): number {
  return offer(probe, fps, span).count;
}

/** Number of clips that a rule cuts from a file. */
export function clipsOf(probe: Probe, rule: ClipRule, span?: TimeSpan): number {
  if (rule.place !== "all") {
    return rule.clips;
  }
  const slack = framesAt(probe, rule.fps, span) - reach(rule);
  return slack < 0 ? 1 : Math.floor(slack / rule.step) + 1;
}

/** Why a file has no clip, or undefined. */
export function unfit(probe: Probe, rule: ClipRule, span?: TimeSpan): string | undefined {
  const available = framesAt(probe, rule.fps, span);
  return rule.short === "skip" && !published(rule) && available < reach(rule)
    ? `is too short: ${available} frames${rule.fps === null ? "" : ` at ${rule.fps} a second`}, a clip needs ${reach(rule)}`
    : undefined;
}

const published = ({ place }: ClipRule): boolean => place === "v-jepa" || place === "videomae";

/** A clip's frames by their number in the file, never falling; and when it starts. */
export interface ClipFrames {
  readonly frames: readonly number[];
  /** Seconds of the file's clock. */
  readonly start: number;
}

/**
 * The frames of one clip.
 * @param which which of the file's clips, 0 <= which < clipsOf(...)
 * @param chance uniform in [0, 1); only `random` looks at it
 */
export function cutClip(
  probe: Probe,
  rule: ClipRule,
  which: number,
  chance: number,
  span?: TimeSpan,
): ClipFrames {
  const { first, count, start: from } = offer(probe, rule.fps, span);
  if (published(rule)) {
    const numbers =
      rule.place === "v-jepa"
        ? vjepaSegments(count, rule.frames, rule.stride, rule.clips)[which]!
        : videomaeViews(count, rule.frames, rule.stride, rule.clips)[which]!;
    const frames = numbers.map((k) => frameOf(probe, rule.fps, first, from, k));
    return { frames, start: timeOf(probe, frames[0]!) };
  }
  const slack = Math.max(0, count - reach(rule));
  const spread = rule.clips > 1 ? which / (rule.clips - 1) : 0.5;
  const places: { [place in ClipRule["place"]]?: number } = {
    random: Math.floor(chance * (slack + 1)),
    centre: Math.floor(0.5 * slack),
    uniform: Math.floor(spread * slack),
    start: 0,
    all: which * rule.step,
  };
  const start = places[rule.place]!;
  const frames = Array.from({ length: rule.frames }, (_, k) => {
    const wanted = start + k * rule.stride;
    const within = wanted < count ? wanted : rule.short === "loop" ? wanted % count : count - 1;
    return frameOf(probe, rule.fps, first, from, within);
  });
  return {
    frames,
    start: rule.fps === null ? timeOf(probe, frames[0]!) : from + start / rule.fps,
  };
}

function frameOf(probe: Probe, fps: number | null, first: number, from: number, k: number): number {
  return fps === null ? first + k : frameAt(probe, from + k / fps);
}

/** n numbers from 0 to b, both included, rounded as NumPy rounds them. */
function linspace(b: number, n: number): number[] {
  const step = b / (n - 1);
  return Array.from({ length: n }, (_, i) => (i === 0 ? 0 : i === n - 1 ? b : i * step));
}

/**
 * V-JEPA's test segments: `clips` clips of `frames` frames, one every `step` frames, of a video of
 * `n` frames; a short video repeats its last frame. Clips may overlap unless told otherwise.
 */
export function vjepaSegments(
  n: number,
  frames: number,
  step: number,
  clips: number,
  overlap = true,
): number[][] {
  const reached = frames * step;
  const part = Math.floor(n / clips);
  const clamp = (values: readonly number[], last: number): number[] =>
    values.map((value) => Math.trunc(Math.min(last, Math.max(0, value))));
  return Array.from({ length: clips }, (_, i) => {
    if (part > reached) {
      return clamp(linspace(reached, frames), reached - 1).map((k) => k + i * part);
    }
    const length = overlap ? Math.min(reached, n) - 1 : part;
    const own = Math.min(frames, Math.floor(length / step));
    const filled = [
      ...linspace(length, own),
      ...Array.from({ length: frames - own }, () => length),
    ];
    const stepped =
      overlap && n > reached && clips > 1 ? Math.floor((n - reached) / (clips - 1)) : 0;
    const shift = overlap ? i * stepped : i * part;
    return clamp(filled, length - 1).map((k) => k + shift);
  });
}

/** VideoMAE's test segments: every `rate`-th frame, then `segments` windows evenly spread. */
export function videomaeViews(
  n: number,
  frames: number,
  rate: number,
  segments: number,
): number[][] {
  const kept = Array.from({ length: Math.ceil(n / rate) }, (_, i) => i * rate);
  while (kept.length < frames) {
    kept.push(kept.at(-1)!);
  }
  const step = segments > 1 ? Math.max((kept.length - frames) / (segments - 1), 0) : 0;
  return Array.from({ length: segments }, (_, k) => {
    const first = Math.trunc(k * step);
    return kept.slice(first, first + frames);
  });
}
