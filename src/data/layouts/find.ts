/** @file What layouts share: files found once and looked up by name, and lists that name them. */

import { basename, dirname, join } from "node:path";
import { UserError } from "../../config/errors.ts";
import {
  type Candidate,
  fileCandidate,
  type Missing,
  type Said,
  type Split,
  statOf,
  type Walked,
  walk,
} from "../listing.ts";

export const VIDEO_EXTENSIONS = ["mp4", "webm", "mkv", "avi", "mov", "m4v"] as const;
export const IMAGE_EXTENSIONS = ["jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff"] as const; // biome-ignore format: one list

/** The files below a folder, by name. Lists of old data sets spell names in other cases than files. */
export class FileTree {
  readonly root: string;
  readonly walked: Walked;
  readonly #byStem = new Map<string, string>();

  constructor(root: string, extensions: readonly string[]) {
    this.root = root;
    this.walked = walk(root, extensions);
    for (const name of this.walked.names) {
      this.#byStem.set(stem(name), name);
    }
  }

  /** The path below the root of the file with this name, whatever its folder, case and extension. */
  find(name: string): string | undefined {
    return this.#byStem.get(stem(name));
  }
}

const stem = (name: string): string =>
  basename(name)
    .replace(/\.[^.]*$/, "")
    .normalize("NFC")
    .toLowerCase();

/** Gathers candidates by name from a tree, and what is missing. */
export class Gathered {
  readonly candidates: Candidate[] = [];
  readonly missing: Missing[] = [];
  readonly #tree: FileTree;

  constructor(tree: FileTree) {
    this.#tree = tree;
    this.missing.push(...tree.walked.missing);
  }

  add(listed: string, said: Said & { readonly split: Split }): void {
    const name = this.#tree.find(listed);
    const made =
      name === undefined
        ? undefined
        : fileCandidate(join(this.#tree.root, ...name.split("/")), name, said);
    if (made) {
      this.candidates.push(made);
    } else {
      this.missing.push({ file: listed, reason: "does not exist", split: said.split });
    }
  }
}

/** The first of some paths below a root that is there. */
export function firstThere(root: string, names: readonly string[]): string | undefined {
  return names.map((name) => join(root, ...name.split("/"))).find((path) => statOf(path));
}

/** The same, or an error that says what was looked for. */
export function needed(root: string, names: readonly string[], what: string): string {
  const found = firstThere(root, names);
  if (found === undefined) {
    throw new UserError(
      `${what} is not in ${root}: looked for ${names.join(", ")}`,
      "docs/data-sets.md shows the layout of each data set.",
    );
  }
  return found;
}

/** Read JSON, naming the file when it is none. */
export function parseJson<T>(text: string, path: string): T {
  try {
    return JSON.parse(text) as T;
  } catch (error) {
    throw new UserError(`${path} is no JSON: ${(error as Error).message}`);
  }
}

/** The name of the folder that a path lies in. */
export function parentName(path: string): string {
  return basename(dirname(path));
}
