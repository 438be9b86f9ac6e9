/**
 * @file What a set of media is made of, before any file is opened: items with their source, label,
 * captions, split and span. Every layout (a folder, a list, UCF-101, ...) is a function that makes a
 * `Listing`; everything after it is shared.
 */

import { createHash } from "node:crypto";
import { readdirSync, readFileSync, realpathSync, type Stats, statSync } from "node:fs";
import { join, relative, resolve, sep } from "node:path";
import { UserError } from "../config/errors.ts";
import type { TimeSpan } from "./sampling.ts";
import type { Source } from "./source.ts";

export type Split = "train" | "validation";

/** Something that may become clips. */
export interface Candidate {
  readonly source: Source;
  /** Relative to the set's folder, with "/" between parts: names the item in ids and messages. */
  readonly name: string;
  /** Of the source's (first) file; pictures count all of theirs. */
  readonly size: number;
  /** Milliseconds; 0 where a list is trusted for what is there. */
  readonly modified: number;
  /** Class name; undefined when the layout gives none. */
  readonly label: string | undefined;
  /** Descriptions of the item; each visit takes one of them. */
  readonly captions: readonly string[];
  /** The split that the layout states; undefined: neither, or told by hash (`Listing.splitBy`). */
  readonly split: Split | undefined;
  /** The part of the source that is the item. */
  readonly span?: TimeSpan;
}

/** Something that the layout names and that cannot be had. */
export interface Missing {
  readonly file: string;
  readonly reason: string;
  readonly split?: Split;
}

/** Figures that the set's authors state. */
export interface Official {
  readonly train?: number;
  readonly validation?: number;
  readonly classes?: number;
}

export interface Listing {
  readonly candidates: readonly Candidate[];
  readonly missing: readonly Missing[];
  /** Where the splits come from. */
  readonly splitBy: "hash" | "folders" | "list";
  /** Class names by label; left out: those of the candidates, sorted. */
  readonly classes?: readonly string[];
  readonly official?: Official;
  /** What the official split that serves as validation is called. */
  readonly heldOut?: string;
  /** Folders and lists that were read: the listing is out of date when one of them changed. */
  readonly watched: readonly string[];
  /** Starts of shards among the candidates, where items lie in shards. */
  readonly shards?: readonly number[];
}

export const byCodeUnits = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** The file that stands for a source. */
export function fileOf(source: Source): string {
  return source.kind === "pictures" ? (source.files[0] ?? "") : source.file;
}

/** Throw unless a path is there. @returns the absolute path */
export function existing(path: string, what: string, hint?: string): string {
  const absolute = resolve(path);
  if (!statOf(absolute)) {
    throw new UserError(
      `${what}: ${absolute} does not exist`,
      hint ?? "Relative paths start at the folder that the command is run in.",
    );
  }
  return absolute;
}

/** What is at a path; undefined when nothing is or when it may not be looked at. */
export function statOf(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch {
    return undefined; // a loop of links, or no permission
  }
}

/** A text file of a layout, without a byte order mark. */
export function readText(path: string, what: string): string {
  try {
    return readFileSync(path, "utf8").replace(/^\uFEFF/, "");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new UserError(
      `${what}: ${path} ${code === "ENOENT" ? "does not exist" : `cannot be read (${code})`}`,
      "The layout of each data set is described in docs/data-sets.md.",
    );
  }
}

/** Lines with something in them; CRLF and LF both end one. */
export function linesOf(text: string): string[] {
  return text.split(/\r?\n/).filter((line) => line.trim() !== "");
}

/** Files below a folder, and what could not be looked into. */
export interface Walked {
  /** Relative to the root, with "/", in the order of their code units. */
  readonly names: readonly string[];
  readonly missing: readonly Missing[];
  readonly folders: readonly string[];
}

/** The extension of a name, in lower case, without its dot. */
export function extensionOf(name: string): string {
  return name.slice(name.lastIndexOf(".") + 1).toLowerCase();
}

/**
 * All files below `root` with one of the extensions (none: all files). Names that begin with a dot
 * are left out, as are folders that links lead back to; a folder that may not be read is named.
 */
export function walk(root: string, extensions: readonly string[]): Walked {
  const wanted = new Set(extensions.map((e) => e.toLowerCase().replace(/^\./, "")));
  const names: string[] = [];
  const missing: Missing[] = [];
  const folders: string[] = [];
  const nameOf = (path: string): string => relative(root, path).split(sep).join("/");
  const visit = (folder: string, above: ReadonlySet<string>): void => {
    let inside: ReturnType<typeof readFolder>;
    let real: string;
    try {
      real = realpathSync(folder);
      inside = readFolder(folder);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      missing.push({ file: nameOf(folder) || folder, reason: `cannot be read (${code})` });
      return;
    }
    if (above.has(real)) {
      return; // a link to a folder that we are in
    }
    folders.push(folder);
    const around = new Set(above).add(real);
    for (const entry of inside) {
      if (entry.name.startsWith(".")) {
        continue;
      }
      const path = join(folder, entry.name);
      // Only links need to be looked up.
      const info = entry.isSymbolicLink() ? statOf(path) : entry;
      if (info?.isDirectory()) {
        visit(path, around);
      } else if (info?.isFile() && (wanted.size === 0 || wanted.has(extensionOf(entry.name)))) {
        names.push(nameOf(path));
      }
    }
  };
  visit(root, new Set());
  return { names: names.sort(byCodeUnits), missing, folders };
}

function readFolder(folder: string) {
  return readdirSync(folder, { withFileTypes: true });
}

/** What a layout says of a file. */
export type Said = Partial<Pick<Candidate, "label" | "captions" | "split" | "span">>;

/** A file as a candidate; undefined when it is not there. */
export function fileCandidate(file: string, name: string, said: Said): Candidate | undefined {
  const info = statOf(file);
  return info?.isFile()
    ? {
        source: { kind: "media", file },
        name,
        size: info.size,
        modified: Math.round(info.mtimeMs),
        label: said.label,
        captions: said.captions ?? [],
        split: said.split,
        ...(said.span && { span: said.span }),
      }
    : undefined;
}

/** Pictures as one candidate. */
export function picturesCandidate(
  files: readonly string[],
  name: string,
  fps: number,
  said: Said,
): Candidate {
  let [size, modified] = [0, 0];
  for (const file of files) {
    const info = statOf(file);
    size += info?.size ?? 0;
    modified = Math.max(modified, Math.round(info?.mtimeMs ?? 0));
  }
  return {
    source: { kind: "pictures", files, fps },
    name,
    size,
    modified,
    label: said.label,
    captions: said.captions ?? [],
    split: said.split,
  };
}

/** Class names in order: by number when all are integers, else by code units. */
export function classNames(candidates: readonly Candidate[]): string[] {
  const names = [
    ...new Set(candidates.flatMap(({ label }) => (label === undefined ? [] : [label]))),
  ];
  return names.every((name) => /^\d+$/.test(name))
    ? names.sort((a, b) => Number(a) - Number(b) || byCodeUnits(a, b))
    : names.sort(byCodeUnits);
}

/** A number in [0, 1) that a name decides, the same on every machine. */
export function nameHash(name: string): number {
  const digest = createHash("sha256").update(name.normalize("NFC")).digest();
  return digest.readUIntBE(0, 6) / 2 ** 48;
}

/**
 * The validation files by the hash of their names: adding files moves no other file between the
 * splits. A split that would be empty is given the file whose hash is nearest to it.
 * @returns names of the validation files; with a single file that one is in both splits
 */
export function hashSplit(names: readonly string[], fraction: number): Set<string> {
  const ranked = names
    .map((name) => ({ name, at: nameHash(name) }))
    .sort((a, b) => a.at - b.at || byCodeUnits(a.name, b.name));
  const chosen = ranked.filter(({ at }) => at < fraction).length;
  const count = Math.min(Math.max(chosen, 1), Math.max(1, ranked.length - 1));
  return new Set(ranked.slice(0, count).map(({ name }) => name));
}
