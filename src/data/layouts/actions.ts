/**
 * @file Video sets of human actions whose splits are lists of names: UCF-101 (Soomro et al. 2012),
 * HMDB51 (Kuehne et al. 2011) and KTH (Schuldt et al. 2004).
 */

import { join } from "node:path";
import { UserError } from "../../config/errors.ts";
import { closed, Type } from "../../config/schema.ts";
import { linesOf, readText, walk } from "../listing.ts";
import { FileTree, Gathered, needed, parentName, VIDEO_EXTENSIONS } from "./find.ts";
import { layout } from "./layout.ts";

const fold = Type.Enum([1, 2, 3], {
  default: 1,
  description: "Which of the three official splits; its test list is the validation split.",
});

export const ucf101 = layout({
  schema: closed(
    { type: Type.Literal("ucf101"), fold },
    {
      description:
        "UCF-101: <class>/v_<class>_gNN_cNN.avi and ucfTrainTestlist/ with classInd, trainlist0k and testlist0k.",
    },
  ),
  fps: 25,
  list(root, config) {
    const lists = needed(root, ["ucfTrainTestlist", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist", "../ucfTrainTestlist"], "UCF-101's folder of split lists"); // biome-ignore format: one list
    const read = (name: string): string => readText(join(lists, name), "UCF-101");
    const classes = ucfClasses(read("classInd.txt"));
    const tree = new FileTree(root, VIDEO_EXTENSIONS);
    const gathered = new Gathered(tree);
    for (const split of ["train", "validation"] as const) {
      const name = `${split === "train" ? "train" : "test"}list0${config.fold}.txt`;
      for (const [path, label] of ucfList(read(name), classes)) {
        gathered.add(path, { label: classes[label]!, split });
      }
    }
    const sizes = { 1: [9537, 3783], 2: [9586, 3734], 3: [9624, 3696] }[config.fold];
    return {
      candidates: gathered.candidates,
      missing: gathered.missing,
      splitBy: "list",
      classes,
      official: { train: sizes[0]!, validation: sizes[1]!, classes: 101 },
      heldOut: `test list ${config.fold}`,
      watched: [lists, ...tree.walked.folders],
    };
  },
});

/** Class names of classInd.txt in the order of their numbers, which count from 1. */
export function ucfClasses(text: string): string[] {
  const rows = linesOf(text).map((line) => line.trim().split(/\s+/));
  return rows
    .map(([number, name]) => [Number(number), name ?? ""] as const)
    .sort(([a], [b]) => a - b)
    .map(([, name]) => name);
}

/** Paths with labels from 0. Test lists have no numbers: there the folder is the class. */
export function ucfList(text: string, classes: readonly string[]): [path: string, label: number][] {
  const byName = new Map(classes.map((name, i) => [name.toLowerCase(), i]));
  return linesOf(text).map((line) => {
    const [path, number] = line.trim().split(/\s+/);
    const label =
      number === undefined ? byName.get(parentName(path!).toLowerCase()) : Number(number) - 1;
    if (label === undefined || classes[label] === undefined) {
      throw new UserError(`UCF-101: ${line.trim()} is of no class in classInd.txt`);
    }
    return [path!, label];
  });
}

export const hmdb51 = layout({
  schema: closed(
    { type: Type.Literal("hmdb51"), fold },
    {
      description:
        "HMDB51: <class>/*.avi and testTrainMulti_7030_splits/<class>_test_split<k>.txt (1 train, 2 test, 0 unused).",
    },
  ),
  fps: 30,
  list(root, config) {
    const lists = needed(root, ["testTrainMulti_7030_splits", "splits", "../testTrainMulti_7030_splits"], "HMDB51's folder of split lists"); // biome-ignore format: one list
    const suffix = `_test_split${config.fold}.txt`;
    const tree = new FileTree(root, VIDEO_EXTENSIONS);
    const gathered = new Gathered(tree);
    const names = walk(lists, ["txt"]).names.filter((name) => name.endsWith(suffix));
    const classes = names.map((name) => name.slice(0, -suffix.length));
    for (const [i, name] of names.entries()) {
      for (const [file, split] of hmdbList(readText(join(lists, name), "HMDB51"))) {
        gathered.add(file, { label: classes[i]!, split });
      }
    }
    return {
      candidates: gathered.candidates,
      missing: gathered.missing,
      splitBy: "list",
      classes,
      official: { train: 3570, validation: 1530, classes: 51 },
      heldOut: `test of split ${config.fold}`,
      watched: [lists, ...tree.walked.folders],
    };
  },
});

/** Files with their split; those that are not used are left out. */
export function hmdbList(text: string): [file: string, split: "train" | "validation"][] {
  return linesOf(text).flatMap((line) => {
    const [file, flag] = line.trim().split(/\s+/);
    const split = flag === "1" ? "train" : flag === "2" ? "validation" : undefined;
    return split === undefined ? [] : [[file!, split] as [string, "train" | "validation"]];
  });
}

const KTH_ACTIONS = ["boxing", "handclapping", "handwaving", "jogging", "running", "walking"];

export const kth = layout({
  schema: closed(
    { type: Type.Literal("kth") },
    {
      description:
        "KTH actions: person<NN>_<action>_d<K>_uncomp.avi in any folders; persons 1-20 train, 21-25 are held out, as in video prediction.",
    },
  ),
  fps: 25,
  list(root) {
    const tree = new FileTree(root, VIDEO_EXTENSIONS);
    const gathered = new Gathered(tree);
    for (const name of tree.walked.names) {
      const match = /person(\d+)_([a-z]+)_d(\d+)/i.exec(name);
      if (match) {
        const split = Number(match[1]) <= 20 ? "train" : "validation";
        gathered.add(name, { label: match[2]!.toLowerCase(), split });
      }
    }
    return {
      candidates: gathered.candidates,
      missing: gathered.missing,
      splitBy: "list",
      classes: KTH_ACTIONS,
      official: { train: 479, validation: 120, classes: 6 },
      heldOut: "persons 21-25",
      watched: tree.walked.folders,
    };
  },
});
