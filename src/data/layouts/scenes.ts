/**
 * @file Sets of robots, roads and objects: BAIR robot pushing (Ebert et al. 2017), nuScenes' front
 * camera (Caesar et al. 2020), Objectron (Ahmadyan et al. 2021) and DAVIS (Pont-Tuset et al. 2017).
 */

import { closeSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { closed, Type } from "../../config/schema.ts";
import { recordOffsets } from "../containers/tfrecord.ts";
import {
  byCodeUnits,
  type Candidate,
  linesOf,
  type Missing,
  picturesCandidate,
  readText,
  type Split,
  statOf,
  walk,
} from "../listing.ts";
import {
  FileTree,
  firstThere,
  Gathered,
  IMAGE_EXTENSIONS,
  needed,
  parseJson,
  VIDEO_EXTENSIONS,
} from "./find.ts";
import { layout } from "./layout.ts";

export const bair = layout({
  schema: closed(
    {
      type: Type.Literal("bair"),
      camera: Type.Enum(["image_aux1", "image_main"], {
        default: "image_aux1",
        description: "Camera; video-prediction papers use image_aux1.",
      }),
      record_frames: Type.Integer({ minimum: 1, default: 30, description: "Frames of a record." }),
      record_side: Type.Integer({ minimum: 1, default: 64, description: "Pixels of a side." }),
    },
    {
      description:
        "BAIR robot pushing: softmotion30_44k/{train,test}/*.tfrecords with raw frames; actions and arm positions come along.",
    },
  ),
  fps: 10,
  list(root, config) {
    const base = firstThere(root, ["softmotion30_44k"]) ?? root;
    const candidates: Candidate[] = [];
    const missing: Missing[] = [];
    const watched: string[] = [];
    for (const [folder, split] of [
      ["train", "train"],
      ["test", "validation"],
    ] as const) {
      const path = needed(base, [folder], `BAIR's folder ${folder}`);
      const walked = walk(path, ["tfrecords", "tfrecord"]);
      missing.push(...walked.missing);
      watched.push(...walked.folders);
      for (const name of walked.names) {
        const file = join(path, ...name.split("/"));
        const info = statOf(file);
        if (!info) {
          continue;
        }
        const { offsets, problem } = readOffsets(file, info.size);
        if (problem !== undefined) {
          missing.push({ file: `${folder}/${name}`, reason: problem, split });
        }
        for (const [i, offset] of offsets.entries()) {
          candidates.push({
            source: {
              kind: "record",
              file,
              offset,
              camera: config.camera,
              frames: config.record_frames,
              width: config.record_side,
              height: config.record_side,
              fps: 10,
            },
            name: `${folder}/${name}#${i}`,
            size: info.size,
            modified: Math.round(info.mtimeMs),
            label: undefined,
            captions: [],
            split,
          });
        }
      }
    }
    return {
      candidates,
      missing,
      splitBy: "folders",
      official: { train: 43_264, validation: 256 },
      heldOut: "test",
      watched,
    };
  },
});

/** Where the records of a file begin; their payloads are stepped over. */
function readOffsets(path: string, size: number): { offsets: number[]; problem?: string } {
  const file = openSync(path, "r");
  try {
    return recordOffsets((offset, length) => {
      const bytes = Buffer.alloc(length);
      return bytes.subarray(0, readSync(file, bytes, 0, length, offset));
    }, size);
  } finally {
    closeSync(file);
  }
}

export const nuscenes = layout({
  schema: closed(
    {
      type: Type.Literal("nuscenes"),
      camera: Type.String({ default: "CAM_FRONT", description: "Channel of the camera." }),
      version: Type.Enum(["v1.0-trainval", "v1.0-mini", "v1.0-test"], {
        default: "v1.0-trainval",
        description: "Folder of tables.",
      }),
    },
    {
      description:
        "nuScenes: tables scene.json, sample.json and sample_data.json, and the camera's pictures (samples and sweeps, 12 a second), a clip source a scene. Splits: splits/{train,val}.txt of scene names where they are, else by hash of the scene's name.",
    },
  ),
  fps: 12,
  list(root, config) {
    const tables = needed(root, [config.version], "nuScenes' folder of tables");
    const table = <T>(name: string): T[] => {
      const path = join(tables, `${name}.json`);
      return parseJson<T[]>(readText(path, "nuScenes"), path);
    };
    const scenes = new Map(
      table<{ token: string; name: string; description?: string }>("scene").map((one) => [one.token, one]), // biome-ignore format: one call
    );
    const sceneOf = new Map(
      table<{ token: string; scene_token: string }>("sample").map((s) => [s.token, s.scene_token]),
    );
    const frames = new Map<string, { timestamp: number; filename: string }[]>();
    for (const row of table<SampleData>("sample_data")) {
      const scene = sceneOf.get(row.sample_token);
      if (scene !== undefined && row.filename.split("/").includes(config.camera)) {
        const list = frames.get(scene) ?? [];
        list.push(row);
        frames.set(scene, list);
      }
    }
    const stated = statedSplits(root);
    const candidates: Candidate[] = [];
    const missing: Missing[] = [];
    for (const [token, { name, description }] of scenes) {
      const split = stated?.get(name);
      if (stated && split === undefined) {
        continue;
      }
      const ordered = (frames.get(token) ?? []).sort((a, b) => a.timestamp - b.timestamp);
      const files = ordered.map(({ filename }) => join(root, ...filename.split("/")));
      const there = files.filter((file) => statOf(file));
      if (there.length < files.length || files.length === 0) {
        missing.push({ file: name, reason: `has ${there.length} of ${files.length} pictures of ${config.camera}`, ...(split && { split }) }); // biome-ignore format: one call
        continue; // a gap would pass for motion
      }
      candidates.push(
        picturesCandidate(there, name, 12, {
          ...(description !== undefined && { captions: [description] }),
          ...(split && { split }),
        }),
      );
    }
    return {
      candidates: candidates.sort((a, b) => byCodeUnits(a.name, b.name)),
      missing,
      splitBy: stated ? "list" : "hash",
      official: config.version === "v1.0-trainval" ? { train: 700, validation: 150 } : {},
      ...(stated && { heldOut: "val" }),
      watched: [tables],
    };
  },
});

interface SampleData {
  readonly sample_token: string;
  readonly timestamp: number;
  readonly filename: string;
}

function statedSplits(root: string): Map<string, Split> | undefined {
  const train = firstThere(root, ["splits/train.txt"]);
  const val = firstThere(root, ["splits/val.txt"]);
  if (train === undefined || val === undefined) {
    return undefined;
  }
  const names = (path: string, split: Split): [string, Split][] =>
    linesOf(readText(path, "nuScenes")).map((line) => [line.trim(), split]);
  return new Map([...names(train, "train"), ...names(val, "validation")]);
}

export const objectron = layout({
  schema: closed(
    { type: Type.Literal("objectron") },
    {
      description:
        "Objectron: videos/<class>/batch-<i>/<j>/video.MOV and index/<class>_annotations_{train,test} with lines <class>/batch-<i>/<j>.",
    },
  ),
  fps: 30,
  list(root) {
    const index = needed(root, ["index", "v1/index"], "Objectron's folder of lists");
    const videos = firstThere(root, ["videos"]) ?? root;
    const candidates: Candidate[] = [];
    const missing: Missing[] = [];
    const classes = new Set<string>();
    for (const list of walk(index, []).names) {
      const match = /^(.+)_annotations_(train|test)(?:\.txt)?$/.exec(list);
      if (!match) {
        continue;
      }
      classes.add(match[1]!);
      const split = match[2] === "train" ? "train" : "validation";
      for (const line of linesOf(readText(join(index, list), "Objectron"))) {
        const name = line.trim();
        const folder = join(videos, ...name.split("/"));
        const file = firstThere(folder, ["video.MOV", "video.mov", "video.mp4"]);
        const info = file === undefined ? undefined : statOf(file);
        if (file === undefined || !info) {
          missing.push({ file: name, reason: "does not exist", split });
          continue;
        }
        candidates.push({
          source: { kind: "media", file },
          name,
          size: info.size,
          modified: Math.round(info.mtimeMs),
          label: match[1],
          captions: [],
          split,
        });
      }
    }
    return {
      candidates,
      missing,
      splitBy: "list",
      classes: [...classes].sort(byCodeUnits),
      official: { classes: 9 },
      heldOut: "test",
      watched: [index],
    };
  },
});

export const davis = layout({
  schema: closed(
    {
      type: Type.Literal("davis"),
      year: Type.Enum([2016, 2017], { default: 2017, description: "Which split." }),
      resolution: Type.Enum(["480p", "Full-Resolution", "1080p"], {
        default: "480p",
        description: "Folder of the pictures.",
      }),
    },
    {
      description:
        "DAVIS: JPEGImages/<resolution>/<sequence>/%05d.jpg and ImageSets/<year>/{train,val}.txt, 24 pictures a second.",
    },
  ),
  fps: 24,
  list(root, { year, resolution }) {
    const pictures = needed(root, [`JPEGImages/${resolution}`], "DAVIS' pictures");
    const lists = needed(root, [`ImageSets/${year}`], "DAVIS' lists");
    const candidates: Candidate[] = [];
    const missing: Missing[] = [];
    for (const [list, split] of [
      ["train", "train"],
      ["val", "validation"],
    ] as const) {
      for (const line of linesOf(readText(join(lists, `${list}.txt`), "DAVIS"))) {
        const name = line.trim();
        const folder = join(pictures, name);
        const names = statOf(folder) ? walk(folder, IMAGE_EXTENSIONS).names : [];
        if (names.length === 0) {
          missing.push({ file: name, reason: "has no pictures", split });
          continue;
        }
        const files = names.map((file) => join(folder, file));
        candidates.push(picturesCandidate(files, name, 24, { split, captions: [name] }));
      }
    }
    return {
      candidates,
      missing,
      splitBy: "list",
      official: year === 2017 ? { train: 60, validation: 30 } : { train: 30, validation: 20 },
      heldOut: "val",
      watched: [lists, pictures],
    };
  },
});

/** Test sequences that are bare samples: what they are stands in their names. */
export interface RawName {
  readonly width: number;
  readonly height: number;
  readonly fps: number;
  readonly bits: number;
}

/** Size, rate and depth of e.g. Beauty_1920x1080_120fps_420_8bit_YUV.yuv, videoSRC01_1920x1080_30.yuv. */
export function rawName(name: string): RawName | undefined {
  const size = /_(\d+)x(\d+)(?:_([\d.]+)(?:fps)?)?(?=[_.])/i.exec(name);
  const bits = /_(\d+)bit/i.exec(name);
  return size?.[3] === undefined
    ? undefined
    : {
        width: Number(size[1]),
        height: Number(size[2]),
        fps: Number(size[3].replace(/\.$/, "")),
        bits: bits ? Number(bits[1]) : 8,
      };
}

export const sequences = layout({
  schema: closed(
    {
      type: Type.Literal("sequences"),
      set: Type.Enum(["mcl-jcv", "uvg", "other"], {
        default: "other",
        description: "Whose official counts to compare with.",
      }),
    },
    {
      description:
        "Test sequences of codecs (MCL-JCV, UVG): .y4m, or .yuv (4:2:0, planar) whose names state <width>x<height>_<fps> and <n>bit. All are held out; there is no training split.",
    },
  ),
  list(root, { set }) {
    const tree = new FileTree(root, ["yuv", "y4m", ...VIDEO_EXTENSIONS]);
    const gathered = new Gathered(tree);
    for (const name of tree.walked.names) {
      gathered.add(name, { split: "validation" });
    }
    const missing = [...gathered.missing];
    const candidates = gathered.candidates.flatMap((candidate) => {
      const { source, name } = candidate;
      if (source.kind !== "media" || !name.toLowerCase().endsWith(".yuv")) {
        return [candidate];
      }
      const stated = rawName(name);
      if (!stated) {
        missing.push({ file: name, reason: "is bare samples, and its name does not state <width>x<height>_<fps>", split: "validation" }); // biome-ignore format: one call
        return [];
      }
      const { width, height, fps, bits } = stated;
      const frame = ((width * height + 2 * ((width + 1) >> 1) * ((height + 1) >> 1)) * (bits > 8 ? 16 : 8)) / 8; // biome-ignore format: one formula
      if (candidate.size % frame !== 0) {
        missing.push({ file: name, reason: `is no whole number of frames of ${width}x${height} at ${bits} bits`, split: "validation" }); // biome-ignore format: one call
        return [];
      }
      const pixels = bits > 8 ? `yuv420p${bits}le` : "yuv420p";
      return [{ ...candidate, source: { ...source, raw: { width, height, pixels, fps } } }];
    });
    const official = { "mcl-jcv": { validation: 30 }, uvg: { validation: 7 }, other: {} }[set];
    return {
      candidates,
      missing,
      splitBy: "list",
      official,
      heldOut: "all sequences",
      watched: tree.walked.folders,
    };
  },
});
