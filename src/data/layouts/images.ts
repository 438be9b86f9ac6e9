/**
 * @file Sets of pictures, as clips of one frame: ImageNet (Russakovsky et al. 2015), mini-ImageNet
 * (Vinyals et al. 2016, in the split of Ravi and Larochelle 2017), LSUN (Yu et al. 2015) as folders, and
 * any folder of pictures; and videos as arrays of bytes, such as the public one of Moving MNIST
 * (Srivastava et al. 2015).
 */

import { closeSync, openSync, readSync } from "node:fs";
import { basename, join } from "node:path";
import { UserError } from "../../config/errors.ts";
import { closed, Type } from "../../config/schema.ts";
import { npyHeader } from "../containers/arrays.ts";
import { parseCsv } from "../csv.ts";
import {
  type Candidate,
  classNames,
  fileCandidate,
  linesOf,
  readText,
  type Split,
  statOf,
} from "../listing.ts";
import { findInFolder } from "../video-files.ts";
import { FileTree, firstThere, Gathered, IMAGE_EXTENSIONS, needed } from "./find.ts";
import { layout } from "./layout.ts";

/** A file as a clip of one picture. */
function asPicture(candidate: Candidate): Candidate {
  const { source } = candidate;
  return source.kind === "media"
    ? { ...candidate, source: { kind: "pictures", files: [source.file], fps: 1 } }
    : candidate;
}

export const imageFolder = layout({
  schema: closed(
    {
      type: Type.Literal("image-folder"),
      split_by: Type.Enum(["auto", "hash", "folders"], {
        default: "auto",
        description:
          "folders: train/ and validation/ (val/, test/); hash: by name; auto: what is there.",
      }),
    },
    { description: "Pictures below a folder; a subfolder is a class." },
  ),
  fps: 1,
  list(root, config) {
    const found = findInFolder(root, IMAGE_EXTENSIONS, config.split_by);
    return { ...found, candidates: found.candidates.map(asPicture) };
  },
});

export const imagenet = layout({
  schema: closed(
    { type: Type.Literal("imagenet") },
    {
      description:
        "ImageNet-1k: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, or a flat val/ with LOC_val_solution.csv; names from LOC_synset_mapping.txt where it is.",
    },
  ),
  fps: 1,
  list(root) {
    const base = firstThere(root, ["ILSVRC/Data/CLS-LOC"]) ?? root;
    const candidates: Candidate[] = [];
    const missing: { file: string; reason: string }[] = [];
    const watched: string[] = [];
    const solution = firstThere(root, ["LOC_val_solution.csv"]);
    const flat = new Map(
      solution === undefined
        ? []
        : parseCsv(readText(solution, "ImageNet"))
            .slice(1)
            .map(({ cells }) => [cells[0]!.toLowerCase(), cells[1]!.trim().split(/\s+/)[0]!]),
    );
    for (const [folder, split] of [
      ["train", "train"],
      ["val", "validation"],
    ] as const) {
      const path = needed(base, folder === "val" ? ["val", "validation"] : [folder], `ImageNet's folder ${folder}`); // biome-ignore format: one call
      const tree = new FileTree(path, IMAGE_EXTENSIONS);
      missing.push(...tree.walked.missing);
      watched.push(...tree.walked.folders);
      for (const name of tree.walked.names) {
        const parts = name.split("/");
        const label =
          parts.length > 1 ? parts[0]! : flat.get(name.replace(/\.[^.]*$/, "").toLowerCase());
        const made = fileCandidate(join(path, ...parts), `${folder}/${name}`, {
          ...(label !== undefined && { label }),
          split,
        });
        if (made && label !== undefined) {
          candidates.push(asPicture(made));
        } else {
          missing.push({ file: `${folder}/${name}`, reason: "is in no class's folder, and LOC_val_solution.csv does not name it" }); // biome-ignore format: one call
        }
      }
    }
    const names = synsetNames(root);
    const named = candidates.map((one) => ({ ...one, captions: captionsOf(names, one.label) }));
    return {
      candidates: named,
      missing,
      splitBy: "folders",
      classes: classNames(candidates),
      official: { train: 1_281_167, validation: 50_000, classes: 1000 },
      heldOut: "val",
      watched,
    };
  },
});

/** The first name of each synset: "n01440764 tench, Tinca tinca". */
function synsetNames(root: string): Map<string, string> {
  const path = firstThere(root, ["LOC_synset_mapping.txt"]);
  return new Map(
    path === undefined
      ? []
      : linesOf(readText(path, "ImageNet")).map((line) => {
          const at = line.indexOf(" ");
          return [
            line.slice(0, at),
            line
              .slice(at + 1)
              .split(",")[0]!
              .trim(),
          ];
        }),
  );
}

function captionsOf(names: ReadonlyMap<string, string>, label: string | undefined): string[] {
  const name = names.get(label ?? "");
  return name === undefined ? [] : [name];
}

export const miniImagenet = layout({
  schema: closed(
    {
      type: Type.Literal("mini-imagenet"),
      held_out: Type.Enum(["val", "test"], {
        default: "test",
        description: "Which classes serve as validation: 16 of val or 20 of test.",
      }),
    },
    {
      description:
        "mini-ImageNet: train.csv, val.csv and test.csv (filename, label) and images/; the splits share no class.",
    },
  ),
  fps: 1,
  list(root, { held_out }) {
    const tree = new FileTree(root, IMAGE_EXTENSIONS);
    const gathered = new Gathered(tree);
    const watched = [...tree.walked.folders];
    for (const [list, split] of [
      ["train", "train"],
      [held_out, "validation"],
    ] as [string, Split][]) {
      const path = needed(root, [`${list}.csv`], `mini-ImageNet's list ${list}`);
      watched.push(path);
      for (const { cells } of parseCsv(readText(path, "mini-ImageNet")).slice(1)) {
        gathered.add(cells[0]!.trim(), { label: (cells[1] ?? "").trim(), split });
      }
    }
    const candidates = gathered.candidates.map(asPicture);
    return {
      candidates,
      missing: gathered.missing,
      splitBy: "list",
      classes: classNames(candidates),
      official: {
        train: 38_400,
        validation: held_out === "test" ? 12_000 : 9600,
        classes: held_out === "test" ? 84 : 80,
      },
      heldOut: held_out,
      watched,
    };
  },
});

export const lsun = layout({
  schema: closed(
    { type: Type.Literal("lsun") },
    {
      description:
        "LSUN as exported folders <category>_train/ and <category>_val/ of pictures at any depth (an LMDB is exported first).",
    },
  ),
  fps: 1,
  list(root) {
    const tree = new FileTree(root, IMAGE_EXTENSIONS);
    const candidates: Candidate[] = [];
    for (const name of tree.walked.names) {
      const match = /^(.+)_(train|val)(?:_lmdb)?\//.exec(name);
      const made = match
        ? fileCandidate(join(root, ...name.split("/")), name, {
            label: match[1]!,
            captions: [match[1]!.replaceAll("_", " ")],
            split: match[2] === "train" ? "train" : "validation",
          })
        : undefined;
      if (made) {
        candidates.push(asPicture(made));
      }
    }
    if (candidates.length === 0) {
      throw new UserError(
        `${root} has no pictures in folders <category>_train and <category>_val`,
        "LSUN comes as LMDB archives; export their pictures to folders of these names.",
      );
    }
    return {
      candidates,
      missing: tree.walked.missing,
      splitBy: "folders",
      heldOut: "val",
      watched: tree.walked.folders,
    };
  },
});

export const npyVideos = layout({
  schema: closed(
    {
      type: Type.Literal("npy"),
      held_out: Type.Integer({
        minimum: 0,
        default: 1000,
        description:
          "Sequences at the end that are held out; all where the file has fewer. Unused where the folder has train.npy and validation.npy.",
      }),
      fps: Type.Number({
        exclusiveMinimum: 0,
        default: 10,
        description: "Frames a second, which the file does not tell.",
      }),
    },
    {
      description:
        "Videos in .npy files of bytes: grey in [T, N, H, W], as Moving MNIST's mnist_test_seq.npy, or RGB in [N, T, H, W, 3]. `path` is the file, its folder, or a folder of train.npy and validation.npy. RGB that needs no scaling is read without FFmpeg.",
    },
  ),
  list(root, { held_out, fps }) {
    const splits = ["train", "validation"] as const;
    const files = splits.map((split) => join(root, `${split}.npy`));
    if (files.every((file) => statOf(file) !== undefined)) {
      const parts = splits.map((split, i) => sequences(files[i]!, fps, () => split));
      return {
        candidates: parts.flat(),
        missing: [],
        splitBy: "list",
        official: { train: parts[0]!.length, validation: parts[1]!.length },
        heldOut: "validation.npy",
        watched: files,
      };
    }
    const file = root.endsWith(".npy") ? root : needed(root, ["mnist_test_seq.npy"], "Moving MNIST's array"); // biome-ignore format: one call
    return {
      candidates: sequences(file, fps, (i, n) => (i >= n - held_out ? "validation" : "train")),
      missing: [],
      splitBy: "list",
      official: { train: 10_000 - held_out, validation: held_out },
      heldOut: `last ${held_out} sequences`,
      watched: [file],
    };
  },
});

/** The videos of one .npy file. @throws UserError when it holds something else */
function sequences(
  file: string,
  fps: number,
  splitOf: (i: number, n: number) => "train" | "validation",
): Candidate[] {
  const info = statOf(file)!;
  let header: ReturnType<typeof npyHeader>;
  try {
    header = npyHeader(readHead(file));
  } catch (error) {
    throw new UserError(`${file} ${(error as Error).message}`);
  }
  const { shape, offset } = header;
  const colour = shape.length === 5 && shape[4] === 3;
  const values = shape.reduce((product, n) => product * n, 1);
  if ((shape.length !== 4 && !colour) || offset + values > info.size) {
    throw new UserError(
      `${file} holds [${shape.join(", ")}] in ${info.size} bytes, expected [T, N, H, W] or [N, T, H, W, 3] and all of its values`,
    );
  }
  const [t, n] = colour ? [shape[1]!, shape[0]!] : [shape[0]!, shape[1]!];
  const [height, width] = [shape[2]!, shape[3]!];
  const channels = colour ? 3 : 1;
  const frame = height * width * channels;
  const place = (i: number, k: number): number => (colour ? i * t + k : k * n + i);
  return Array.from(
    { length: n },
    (_, i): Candidate => ({
      source: {
        kind: "pixels",
        file,
        offsets: Array.from({ length: t }, (__, k) => offset + place(i, k) * frame),
        width,
        height,
        channels,
        fps,
      },
      name: `${basename(file)}#${i}`,
      size: info.size,
      modified: Math.round(info.mtimeMs),
      label: undefined,
      captions: [],
      split: splitOf(i, n),
    }),
  );
}

function readHead(path: string): Buffer {
  const file = openSync(path, "r");
  try {
    const head = Buffer.alloc(1024);
    return head.subarray(0, readSync(file, head, 0, head.length, 0));
  } finally {
    closeSync(file);
  }
}
