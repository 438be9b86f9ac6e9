/**
 * @file Video sets with annotation files: Kinetics (Kay et al. 2017, Carreira et al. 2018 and 2019),
 * Something-Something v2 (Goyal et al. 2017) and MSR-VTT (Xu et al. 2016).
 */

import { UserError } from "../../config/errors.ts";
import { closed, Type } from "../../config/schema.ts";
import { parseCsv } from "../csv.ts";
import { byCodeUnits, linesOf, type Official, readText } from "../listing.ts";
import { FileTree, firstThere, Gathered, needed, parseJson, VIDEO_EXTENSIONS } from "./find.ts";
import { layout } from "./layout.ts";

/** Clips as their authors count them. */
const KINETICS: { readonly [version in 400 | 600 | 700]: { train: number; validate: number; test: number } } = {
  400: { train: 246_245, validate: 20_000, test: 40_000 },
  600: { train: 392_622, validate: 30_001, test: 72_924 },
  700: { train: 545_317, validate: 35_000, test: 70_000 },
}; // biome-ignore format: a table

export const kinetics = layout({
  schema: closed(
    {
      type: Type.Literal("kinetics"),
      version: Type.Enum([400, 600, 700], {
        default: 400,
        description: "Kinetics-400, 600 or 700.",
      }),
      held_out: Type.Enum(["validate", "test"], {
        default: "validate",
        description: "Which official split serves as validation.",
      }),
    },
    {
      description:
        "Kinetics: train.csv and validate.csv (label, youtube_id, time_start, time_end, split) and <youtube_id>_<start>_<end>.mp4 in any folders. Videos that are gone are counted.",
    },
  ),
  list(root, config) {
    const { version, held_out } = config;
    const names = (split: string): string[] =>
      [split, ...(split === "validate" ? ["val", "validation"] : [])].flatMap(
        (name) =>
        [`${name}.csv`, `kinetics_${name}.csv`, `kinetics${version}_${name}.csv`, `kinetics-${version}_${name}.csv`, `kinetics_${version}_${name}.csv`].flatMap((file) => [file, `annotations/${file}`, `kinetics${version}/${file}`]), // biome-ignore format: one list
      );
    const trainCsv = needed(root, names("train"), "Kinetics' list of training clips");
    const heldCsv = needed(root, names(held_out), `Kinetics' list of the ${held_out} split`);
    const rows = {
      train: kineticsRows(readText(trainCsv, "Kinetics"), trainCsv),
      validation: kineticsRows(readText(heldCsv, "Kinetics"), heldCsv),
    };
    const classes = [...new Set(rows.train.flatMap(({ label }) => label ?? []))].sort(byCodeUnits);
    const tree = new FileTree(root, VIDEO_EXTENSIONS);
    const gathered = new Gathered(tree);
    for (const split of ["train", "validation"] as const) {
      for (const { file, label } of rows[split]) {
        gathered.add(file, { ...(label !== undefined && { label, captions: [label] }), split });
      }
    }
    const { train, [held_out]: validation } = KINETICS[version];
    return {
      candidates: gathered.candidates,
      missing: gathered.missing,
      splitBy: "list",
      classes,
      official: { train, validation, classes: version },
      heldOut: held_out,
      watched: [trainCsv, heldCsv, ...tree.walked.folders],
    };
  },
});

/** The clips of a Kinetics list by the names of their files. A test list may have no labels. */
export function kineticsRows(text: string, path = "list"): { file: string; label?: string }[] {
  const [head, ...rows] = parseCsv(text);
  const columns = new Map(head?.cells.map((cell, i) => [cell.trim().toLowerCase(), i]));
  const at = (name: string): number | undefined => columns.get(name);
  const [id, start, end] = [at("youtube_id"), at("time_start"), at("time_end")];
  if (id === undefined || start === undefined || end === undefined) {
    throw new UserError(
      `${path} has no columns youtube_id, time_start and time_end`,
      "Kinetics' lists begin with label,youtube_id,time_start,time_end,split.",
    );
  }
  const label = at("label");
  const six = (seconds: string | undefined): string =>
    String(Math.round(Number(seconds))).padStart(6, "0");
  return rows.map(({ cells }) => {
    const name = label === undefined ? "" : (cells[label] ?? "").trim();
    const file = `${cells[id]}_${six(cells[start])}_${six(cells[end])}.mp4`;
    return { file, ...(name !== "" && { label: name }) };
  });
}

export const ssv2 = layout({
  schema: closed(
    {
      type: Type.Literal("ssv2"),
      held_out: Type.Enum(["validation", "test"], {
        default: "validation",
        description: "Which official split serves as validation; test needs test-answers.csv.",
      }),
    },
    {
      description:
        "Something-Something v2: labels.json, train.json, validation.json, test.json with test-answers.csv, and <id>.webm in any folder.",
    },
  ),
  fps: 12,
  list(root, config) {
    const names = (name: string): string[] =>
      [`${name}.json`, `something-something-v2-${name}.json`].flatMap((file) => [file, `labels/${file}`, `annotations/${file}`]); // biome-ignore format: one list
    const read = (path: string): string => readText(path, "Something-Something v2");
    const labelsPath = needed(root, names("labels"), "Something-Something v2's list of labels");
    const trainPath = needed(root, names("train"), "Something-Something v2's training list");
    const heldPath = needed(root, names(config.held_out), `Something-Something v2's ${config.held_out} list`); // biome-ignore format: one call
    const classes = ssv2Classes(read(labelsPath), labelsPath);
    const known = new Set(classes);
    const answers =
      config.held_out === "test"
        ? ssv2Answers(read(needed(root, ["test-answers.csv", "labels/test-answers.csv"], "Something-Something v2's answers of the test split"))) // biome-ignore format: one call
        : undefined;
    const tree = new FileTree(root, VIDEO_EXTENSIONS);
    const gathered = new Gathered(tree);
    for (const [split, path] of [
      ["train", trainPath],
      ["validation", heldPath],
    ] as const) {
      for (const row of parseJson<SsRow[]>(read(path), path)) {
        const label = row.template === undefined ? answers?.get(row.id) : ssv2Class(row.template);
        if (label !== undefined && !known.has(label)) {
          throw new UserError(`${path}: clip ${row.id} is of no class in labels.json: ${label}`);
        }
        gathered.add(`${row.id}.webm`, {
          ...(label !== undefined && { label }),
          ...(row.label !== undefined && { captions: [row.label] }),
          split,
        });
      }
    }
    return {
      candidates: gathered.candidates,
      missing: gathered.missing,
      splitBy: "list",
      classes,
      official: {
        train: 168_913,
        validation: config.held_out === "test" ? 27_157 : 24_777,
        classes: 174,
      },
      heldOut: config.held_out,
      watched: [labelsPath, trainPath, heldPath, ...tree.walked.folders],
    };
  },
});

interface SsRow {
  readonly id: string;
  readonly label?: string;
  readonly template?: string;
}

/** Class names in the order of their numbers. */
export function ssv2Classes(text: string, path = "labels.json"): string[] {
  const labels = parseJson<{ readonly [name: string]: string }>(text, path);
  return Object.entries(labels)
    .sort(([, a], [, b]) => Number(a) - Number(b))
    .map(([name]) => name);
}

/** The class of a template: it without its brackets. */
export function ssv2Class(template: string): string {
  return template.replaceAll(/[[\]]/g, "");
}

/** Class names of test-answers.csv: "id;class". */
export function ssv2Answers(text: string): Map<string, string> {
  return new Map(
    linesOf(text).map((line) => {
      const at = line.indexOf(";");
      return [line.slice(0, at).trim(), ssv2Class(line.slice(at + 1).trim())];
    }),
  );
}

/** MSR-VTT's categories, by number. */
const CATEGORIES = ["music", "people", "gaming", "sports/actions", "news/events/politics", "education", "tv shows", "movie/comedy", "animation", "vehicles/autos", "howto", "travel", "science/technology", "animals/pets", "kids/family", "documentary", "food/drink", "cooking", "beauty/fashion", "advertisement"]; // biome-ignore format: one list

export const msrVtt = layout({
  schema: closed(
    {
      type: Type.Literal("msr-vtt"),
      held_out: Type.Enum(["validate", "test"], {
        default: "test",
        description: "Which official split serves as validation.",
      }),
    },
    {
      description:
        "MSR-VTT: train_val_videodatainfo.json and test_videodatainfo.json (or one MSRVTT_data.json) and video<N>.mp4 in any folder; 20 captions a video, one a visit.",
    },
  ),
  list(root, config) {
    const inside = (name: string): string[] => [name, `train_val_annotation/${name}`, `annotation/${name}`]; // biome-ignore format: one list
    const first = needed(root, [...inside("MSRVTT_data.json"), ...inside("MSR_VTT.json"), ...inside("train_val_videodatainfo.json")], "MSR-VTT's annotations"); // biome-ignore format: one call
    const second = firstThere(root, [...inside("test_videodatainfo.json"), "test_annotation/test_videodatainfo.json"]); // biome-ignore format: one call
    const tree = new FileTree(root, VIDEO_EXTENSIONS);
    const gathered = new Gathered(tree);
    const files = [first, ...(second === undefined ? [] : [second])];
    for (const path of files) {
      const data = parseJson<MsrVtt>(readText(path, "MSR-VTT"), path);
      const captions = new Map<string, string[]>();
      for (const { video_id, caption } of data.sentences) {
        const list = captions.get(video_id) ?? [];
        list.push(caption);
        captions.set(video_id, list);
      }
      for (const { video_id, split, category } of data.videos) {
        if (split === "train" || split === config.held_out) {
          gathered.add(`${video_id}.mp4`, {
            captions: captions.get(video_id) ?? [],
            ...(category !== undefined && CATEGORIES[category] && { label: CATEGORIES[category] }),
            split: split === "train" ? "train" : "validation",
          });
        }
      }
    }
    const official: Official = {
      train: 6513,
      validation: config.held_out === "test" ? 2990 : 497,
      classes: 20,
    };
    return {
      candidates: gathered.candidates,
      missing: gathered.missing,
      splitBy: "list",
      classes: CATEGORIES,
      official,
      heldOut: config.held_out,
      watched: [...files, ...tree.walked.folders],
    };
  },
});

interface MsrVtt {
  readonly videos: readonly { video_id: string; split: string; category?: number }[];
  readonly sentences: readonly { video_id: string; caption: string }[];
}
