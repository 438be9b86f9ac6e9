/**
 * @file `video-folder`: clips from your own files, below a folder or named by a list. A file is taken
 * for what its content is, not its extension. Every file is looked into when the set is opened, so
 * which files are in, and hence the order, never depends on timing; what cannot be used is reported
 * once by name, and left out.
 *
 * Training clips are cut at random places that differ by epoch; validation clips are always cut at
 * the same places (centred, or evenly spread with several clips a file).
 */

import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import { clipSetKeys, openClips } from "./clip-set.ts";
import type { Dataset } from "./dataset.ts";
import type { Listing, Split } from "./listing.ts";
import { findInFolder, findInList } from "./video-files.ts";

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
    ...clipSetKeys,
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
  },
  {
    description:
      "Clips from video files: mp4, webm, mkv, avi, mov, gif, y4m and whatever else FFmpeg decodes.",
  },
);

export type VideoFolderConfig = Static<typeof schema>;

/** Open one split. @param seed the run's seed: random places of training clips follow it */
export function open(
  config: VideoFolderConfig,
  split: Split,
  seed: number,
  refresh = false,
): Promise<Dataset> {
  const { path, list, extensions, split_by, validation_fraction } = config;
  return openClips(
    config,
    {
      type: "video-folder",
      where: list ?? path ?? "",
      list: () => find(config),
      key: { path, list, extensions, split_by },
      identity: { extensions, split_by, validation_fraction },
      validationFraction: validation_fraction,
      refresh,
    },
    split,
    seed,
  );
}

/** What the folder or the list names. */
export function find(config: VideoFolderConfig): Listing {
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
