/**
 * @file `video-folder`: clips from real video files. A file is taken for what its content is, not
 * its extension. Every file is looked into when the set is opened, so which files are in, and hence
 * the order, never depends on timing; what cannot be used is reported once by name, and left out.
 *
 * Training clips are cut at random places that differ by epoch; validation clips are always cut at
 * the same places (centred, or evenly spread with several clips a file).
 */

import { createHash } from "node:crypto";
import canonicalize from "canonicalize";
import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import { Random } from "../runtime/random.ts";
import { type Dataset, type Sample, SampleError } from "./dataset.ts";
import type { ClipTask } from "./decode.ts";
import { frameAt, type Probe, timeOf } from "./probe.ts";
import { soundLength } from "./shapes/sound.ts";
import {
  classNames,
  type Found,
  findInFolder,
  findInList,
  hashSplit,
  nameHash,
} from "./video-files.ts";
import { lookInto, makeRunner, type Video } from "./video-probing.ts";
import { warnOnce } from "./warnings.ts";

export const schema = closed(
  {
    type: Type.Literal("video-folder"),
    path: Type.Union([Type.String({ minLength: 1 }), Type.Null()], {
      description: "Folder of videos (a subfolder is a class), or what a list's paths start from.",
      default: null,
    }),
    list: Type.Union([Type.String({ minLength: 1 }), Type.Null()], {
      description:
        "CSV (path, label, caption, split; with or without a header) or JSONL file that names the videos.",
      default: null,
    }),
    extensions: Type.Array(Type.String(), {
      description: "Files to try when a folder is searched; none tries every file.",
      default: ["mp4", "m4v", "webm", "mkv", "avi", "mov", "gif", "y4m", "mpg", "mpeg", "wmv", "flv", "3gp", "ts"], // biome-ignore format: one list
    }),
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
    sampling: Type.Enum(["random", "centre", "uniform"], {
      default: "random",
      description:
        "Where training clips are cut: anywhere, mid-file, or evenly spread by clips_per_video. Validation never is random.",
    }),
    clips_per_video: Type.Integer({
      minimum: 1,
      default: 1,
      description: "Clips of a file in an epoch.",
    }),
    resize: Type.Union([Type.Integer({ minimum: 1 }), Type.Null()], {
      default: null,
      description: "Shorter side before the crop; null: as small as covers the crop.",
    }),
    filter: Type.Enum(["bilinear", "bicubic", "area", "lanczos"], {
      default: "bicubic",
      description:
        "Resize filter (swscale's; all but bilinear upscaling widen with the reduction).",
    }),
    crop: Type.Enum(["random", "centre"], {
      default: "random",
      description: "Crop of training clips. Validation is centred.",
    }),
    split_by: Type.Enum(["auto", "hash", "folders", "list"], {
      default: "auto",
      description:
        "hash: by name and validation_fraction; folders: train/ and validation/ (val/, test/); list: a column split; auto: what is there.",
    }),
    validation_fraction: Type.Number({
      exclusiveMinimum: 0,
      exclusiveMaximum: 1,
      default: 0.1,
      description: "Share of files for validation when split by hash. At least one file.",
    }),
    audio_rate: Type.Integer({
      minimum: 0,
      default: 0,
      description:
        "Samples a second of the mono sound (silence where a file has none); 0 leaves sound out. Needs fps.",
    }),
    verify: Type.Enum(["full", "quick"], {
      default: "full",
      description:
        "full decodes each file once when the set is opened; quick counts packets and decodes the first frame, for sets of many thousand files.",
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
    probe_cache: Type.Union([Type.String({ minLength: 1 }), Type.Null()], {
      default: null,
      description: "JSON file that keeps what was found in each file, by path, size and time.",
      semantic: false,
    }),
    workers: Type.Integer({
      minimum: 0,
      default: 2,
      description: "Threads that decode; 0 decodes in the main thread.",
      semantic: false,
    }),
  },
  {
    description:
      "Clips from video files: mp4, webm, mkv, avi, mov, gif, y4m and whatever else FFmpeg decodes.",
  },
);

export type VideoFolderConfig = Static<typeof schema>;

/** Open one split. @param seed the run's seed: random places of training clips follow it */
export async function open(
  config: VideoFolderConfig,
  split: "train" | "validation",
  seed: number,
): Promise<Dataset> {
  const { frames, height, width, fps, stride, audio_rate: rate } = config;
  if (rate > 0 && fps === null) {
    throw new UserError(
      "dataset.audio_rate needs dataset.fps: sound of one length needs clips of one duration",
      "Set e.g. dataset.fps=8.",
    );
  }
  const found = find(config);
  const runner = await makeRunner(config.workers);
  try {
    const { videos, skipped } = await lookInto(config, found, runner, (probe) =>
      tooShort(config, probe),
    );
    const mine = mixed(choose(config, found, videos, split));
    const classes = classNames(found.candidates);
    const count = mine.length * config.clips_per_video;
    const clipRate = (fps ?? medianRate(mine)) / stride;
    return {
      type: "video-folder",
      split,
      size: count,
      frames,
      height,
      width,
      fps: clipRate,
      audioRate: rate,
      classes,
      fingerprint: fingerprint(config, split, seed, mine),
      skipped,
      get: async (index, visit) => {
        const video = mine[Math.floor(index / config.clips_per_video)]!;
        const task = clipTask(config, video, split, seed, index, visit, count, clipRate);
        const made = await runner.decode(task);
        if ("problem" in made) {
          throw new SampleError(`${video.name} ${made.problem}`);
        }
        return {
          id: `${video.name}@${task.frames[0]}-${task.frames.at(-1)}`,
          clip: made.clip,
          label: video.label === undefined ? -1 : classes.indexOf(video.label),
          caption: video.caption,
          ...(made.audio ? { audio: made.audio } : {}),
        } satisfies Sample;
      },
      close: () => runner.close(),
    };
  } catch (error) {
    await runner.close();
    throw error;
  }
}

function find(config: VideoFolderConfig): Found {
  const { path, list, extensions, split_by: by } = config;
  if (list !== null) {
    if (by === "folders") {
      throw new UserError(
        "dataset.split_by=folders does not go with dataset.list",
        "Use auto, hash or list.",
      );
    }
    return findInList(list, path ?? undefined, by);
  }
  if (path === null) {
    throw new UserError(
      "dataset.path is not set: a video-folder needs a folder or a list",
      "Set dataset.path=FOLDER or dataset.list=FILE.csv.",
    );
  }
  if (by === "list") {
    throw new UserError("dataset.split_by=list needs dataset.list", "Use auto, hash or folders.");
  }
  return findInFolder(path, extensions, by);
}

/** Number of frames that a file offers at the rate asked for. */
function framesAt(probe: Probe, fps: number | null): number {
  if (fps === null) {
    return probe.frames;
  }
  // The last frame is shown for one native frame's time.
  const duration = timeOf(probe, probe.frames - 1) + 1 / probe.fps - probe.start;
  return Math.max(1, Math.floor(duration * fps + 1e-6));
}

/** Frames (at the rate asked for) from a clip's first to its last. */
const reach = (config: VideoFolderConfig): number => (config.frames - 1) * config.stride + 1;

function tooShort(config: VideoFolderConfig, probe: Probe): string | undefined {
  const available = framesAt(probe, config.fps);
  return available < reach(config)
    ? `is too short: ${available} frames${config.fps === null ? "" : ` at ${config.fps} a second`}, a clip needs ${reach(config)}`
    : undefined;
}

/** The files of one split. */
function choose(
  config: VideoFolderConfig,
  found: Found,
  videos: readonly Video[],
  split: "train" | "validation",
): Video[] {
  const where = config.list ?? config.path;
  if (found.splitBy !== "hash") {
    const mine = videos.filter((video) => video.split === split);
    if (mine.length === 0) {
      throw new UserError(`${where}: the ${split} split has no file that can be used`);
    }
    return mine;
  }
  if (videos.length === 1) {
    warnOnce(
      `${where}: only ${videos[0]!.name} can be used, so training and validation share it; scores will flatter`,
    );
    return [...videos];
  }
  const held = hashSplit(
    videos.map((video) => video.name),
    config.validation_fraction,
  );
  return videos.filter((video) => held.has(video.name) === (split === "validation"));
}

/**
 * The files in the order of their names' hashes: the first so many are then a fair sample of all,
 * which they are not when classes follow each other.
 */
function mixed(videos: readonly Video[]): Video[] {
  const keyed = videos.map((video) => ({ video, at: nameHash(`order/${video.name}`) }));
  return keyed.sort((a, b) => a.at - b.at).map(({ video }) => video);
}

function medianRate(videos: readonly Video[]): number {
  const rates = videos.map((video) => video.probe.fps).sort((a, b) => a - b);
  return rates[Math.floor(rates.length / 2)]!;
}

/** Which frames and which crop: a pure function of (seed, index, visit). */
function clipTask(
  config: VideoFolderConfig,
  video: Video,
  split: "train" | "validation",
  seed: number,
  index: number,
  visit: number,
  size: number,
  clipRate: number,
): ClipTask {
  const { probe } = video;
  const { clips_per_video: clips, stride, fps } = config;
  const random = new Random(seed, `video-folder/${split}`, visit * size + index);
  const [place, cropX, cropY] = [random.uniform(), random.uniform(), random.uniform()];
  const slack = framesAt(probe, fps) - reach(config);
  const which = index % clips;
  const training = split === "train";
  const spread = clips > 1 && config.sampling !== "centre" ? which / (clips - 1) : 0.5;
  const start =
    training && config.sampling === "random"
      ? Math.floor(place * (slack + 1))
      : Math.floor(spread * slack);
  const at = (k: number): number =>
    fps === null ? start + k * stride : frameAt(probe, probe.start + (start + k * stride) / fps);
  const frames = Array.from({ length: config.frames }, (_, k) => at(k));
  return {
    file: video.file,
    probe,
    frames,
    height: config.height,
    width: config.width,
    resize: config.resize ?? undefined,
    filter: config.filter,
    crop: training && config.crop === "random" ? [cropX, cropY] : [0.5, 0.5],
    missing: config.missing_frames,
    ...(config.audio_rate > 0
      ? {
          sound: {
            start: probe.start + start / fps!,
            samples: soundLength(config.frames, clipRate, config.audio_rate),
            rate: config.audio_rate,
          },
        }
      : {}),
  };
}

function fingerprint(
  config: VideoFolderConfig,
  split: string,
  seed: number,
  videos: readonly Video[],
): string {
  // Where the files lie and how they are read do not change what they hold.
  const outside = ["workers", "probe_cache", "strict", "path", "list"];
  const content = Object.entries(config).filter(([key]) => !outside.includes(key));
  const random = split === "train" && (config.sampling === "random" || config.crop === "random");
  const files = videos.map(({ name, size, modified, label, caption }) => [
    name,
    size,
    modified,
    label ?? null,
    caption,
  ]);
  return createHash("sha256")
    .update(
      canonicalize([
        "video-folder-1",
        split,
        random ? seed : null,
        Object.fromEntries(content),
        files,
      ])!,
    )
    .digest("hex");
}
