/**
 * @file `sounds`: sets of sound. A sample is a mono waveform of one length, and its picture: the log-mel
 * spectrogram as one frame, so that everything that takes pictures takes sounds too. Files may be wav, flac,
 * mp3, ogg, or the sound tracks of videos; ESC-50 (Piczak 2015) by its own layout.
 */

import { createHash } from "node:crypto";
import { join } from "node:path";
import { canonicalJson } from "../config/hash.ts";
import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import { Random } from "../runtime/random.ts";
import { parseCsv } from "./csv.ts";
import { type Dataset, type Sample, SampleError } from "./dataset.ts";
import { needed, VIDEO_EXTENSIONS } from "./layouts/find.ts";
import {
  type Candidate,
  classNames,
  existing,
  fileCandidate,
  fileOf,
  hashSplit,
  type Listing,
  nameHash,
  readText,
  type Split,
} from "./listing.ts";
import { makeSoundRunner } from "./look.ts";
import { melPicture } from "./mel.ts";
import { findInFolder } from "./video-files.ts";
import { warnOnce } from "./warnings.ts";

const AUDIO_EXTENSIONS = ["wav", "flac", "mp3", "ogg", "opus", "m4a", "aac", "aiff"];

export const schema = closed(
  {
    type: Type.Literal("sounds"),
    path: Type.String({ minLength: 1, description: "Folder of sounds (a subfolder is a class), or ESC-50's." }), // biome-ignore format: one key
    layout: Type.Enum(["folder", "esc50"], {
      default: "folder",
      description: "esc50: audio/ and meta/esc50.csv, five folds.",
    }),
    fold: Type.Integer({
      minimum: 1,
      maximum: 5,
      default: 5,
      description: "esc50: the fold that is held out.",
    }),
    tracks: Type.Boolean({
      default: false,
      description: "Take the sound tracks of videos too; those without one are named and left out.",
    }),
    rate: Type.Integer({ minimum: 1000, default: 16_000, description: "Samples a second." }),
    seconds: Type.Number({ exclusiveMinimum: 0, default: 1, description: "Length of a sample." }),
    sampling: Type.Enum(["random", "centre", "start"], {
      default: "random",
      description:
        "Where training samples are cut; held-out ones are cut at the centre, or the start.",
    }),
    short: Type.Enum(["pad", "loop", "skip"], {
      default: "pad",
      description: "Sounds shorter than a sample: silence behind them, played again, or left out.",
    }),
    split_by: Type.Enum(["auto", "hash", "folders"], {
      default: "auto",
      description:
        "folders: train/ and validation/ (val/, test/); hash: by name; auto: what is there.",
    }),
    validation_fraction: Type.Number({
      exclusiveMinimum: 0,
      exclusiveMaximum: 1,
      default: 0.1,
      description: "Share of files for validation when split by hash.",
    }),
    frames: Type.Literal(1, { default: 1, description: "The picture is one frame." }),
    height: Type.Integer({ minimum: 8, default: 64, description: "Mel bands of the picture." }),
    width: Type.Integer({ minimum: 8, default: 96, description: "Columns of the picture, over the whole sample." }), // biome-ignore format: one key
    workers: Type.Integer({
      minimum: 0,
      default: 2,
      description: "Threads that decode; 0 decodes in the main thread.",
      semantic: false,
    }),
  },
  { description: "Sounds, with their log-mel spectrograms as pictures." },
);

export type SoundsConfig = Static<typeof schema>;

/** What the folder holds. */
export function find(config: SoundsConfig): Listing {
  const root = existing(config.path, "dataset.path");
  if (config.layout === "esc50") {
    return findEsc50(root, config.fold);
  }
  const extensions = [...AUDIO_EXTENSIONS, ...(config.tracks ? VIDEO_EXTENSIONS : [])];
  return findInFolder(root, extensions, config.split_by);
}

/** ESC-50: 2,000 sounds of 5 s, 50 classes, 5 folds; filename, fold, target, category, esc10, ... */
function findEsc50(root: string, fold: number): Listing {
  const path = needed(root, ["meta/esc50.csv"], "ESC-50's table");
  const [head, ...rows] = parseCsv(readText(path, "ESC-50"));
  const column = (name: string): number => head!.cells.indexOf(name);
  const [file, folds, target, category] = ["filename", "fold", "target", "category"].map(column);
  const candidates: Candidate[] = [];
  const missing: { file: string; reason: string; split: Split }[] = [];
  const classes: string[] = [];
  for (const { cells } of rows) {
    const name = cells[file!]!;
    const split: Split = Number(cells[folds!]) === fold ? "validation" : "train";
    const label = cells[category!]!;
    classes[Number(cells[target!])] = label;
    const said = { label, captions: [label.replaceAll("_", " ")], split };
    const made = fileCandidate(join(root, "audio", name), name, said);
    if (made) {
      candidates.push(made);
    } else {
      missing.push({ file: name, reason: "does not exist", split });
    }
  }
  return {
    candidates,
    missing,
    splitBy: "list",
    classes: Array.from(classes, (name) => name ?? ""),
    official: { train: 1600, validation: 400, classes: 50 },
    heldOut: `fold ${fold}`,
    watched: [path, join(root, "audio")],
  };
}

/** Open one split. @param seed the run's seed: random places follow it */
export async function open(config: SoundsConfig, split: Split, seed: number): Promise<Dataset> {
  const { rate, seconds, height, width, sampling } = config;
  const listing = find(config);
  const runner = await makeSoundRunner(config.workers);
  try {
    const looked = await Promise.all(
      listing.candidates.map(async (item) => ({
        item,
        ...(await runner.look(fileOf(item.source))),
      })),
    );
    const skipped = listing.missing.map(({ file, reason }) => ({ file, reason }));
    const usable = looked.filter(({ item, problem, seconds: length }) => {
      const reason =
        problem ??
        (config.short === "skip" && length! < seconds ? `is too short: ${length!.toFixed(2)} s` : undefined); // biome-ignore format: one condition
      if (reason !== undefined) {
        skipped.push({ file: item.name, reason });
        warnOnce(`skipped: ${item.name} ${reason}`);
      }
      return reason === undefined;
    });
    const held = hashSplit(usable.map(({ item }) => item.name), config.validation_fraction); // biome-ignore format: one call
    const mine = usable
      .filter(({ item }) => {
        const own = listing.splitBy === "hash" ? (held.has(item.name) ? "validation" : "train") : item.split; // biome-ignore format: one condition
        return own === split || usable.length === 1;
      })
      .sort((a, b) => nameHash(a.item.name) - nameHash(b.item.name));
    if (mine.length === 0) {
      throw new UserError(
        `${config.path}: the ${split} split has no sound that can be used`,
        skipped[0] ? `e.g. ${skipped[0].file} ${skipped[0].reason}` : "Looked for wav, flac, mp3, ogg and the like.", // biome-ignore format: one value
      );
    }
    const classes = listing.classes ?? classNames(listing.candidates);
    const samples = Math.round(seconds * rate);
    const { workers: _, path: __, ...content } = config;
    const training = split === "train";
    return {
      type: config.layout === "esc50" ? "esc50" : "sounds",
      split,
      size: mine.length,
      items: mine.length,
      frames: 1,
      height,
      width,
      fps: 1 / seconds,
      audioRate: rate,
      classes,
      fingerprint: createHash("sha256")
        .update(canonicalJson(["sounds-1", split, training && sampling === "random" ? seed : null, content, mine.map(({ item }) => [item.name, item.size, item.modified, item.label ?? null])])) // biome-ignore format: one call
        .digest("hex"),
      sampling: {
        split: training ? "train" : (listing.heldOut ?? "validation"),
        clips: training ? sampling : sampling === "start" ? "start" : "centre",
        short: config.short,
        picture: `log-mel, ${height} bands, ${width} columns`,
      },
      skipped,
      labelOf: (index) => classes.indexOf(mine[index]!.item.label ?? ""),
      get: async (index, visit) => {
        const { item, seconds: length } = mine[index]!;
        const chance = new Random(seed, `sounds/${split}`, visit * mine.length + index).uniform();
        const slack = Math.max(0, length! - seconds);
        const place = { random: training ? chance : 0.5, centre: 0.5, start: 0 }[sampling];
        const start = Math.round(place * slack * rate) / rate;
        const made = await runner.read(fileOf(item.source), start, samples, rate);
        if ("problem" in made) {
          throw new SampleError(`${item.name} ${made.problem}`);
        }
        if (config.short === "loop" && length! < seconds) {
          const own = Math.max(1, Math.floor(length! * rate));
          for (let i = own; i < samples; i++) {
            made.audio[i] = made.audio[i - own]!;
          }
        }
        return {
          id: `${item.name}@${start.toFixed(4)}s`,
          clip: melPicture(made.audio, rate, height, width),
          label: classes.indexOf(item.label ?? ""),
          caption: item.captions[0] ?? "",
          audio: made.audio,
        } satisfies Sample;
      },
      close: () => runner.close(),
    };
  } catch (error) {
    await runner.close();
    throw error;
  }
}
