/**
 * @file Which files a video set is made of: found below a folder, or named by a list. Order is by
 * code units of the relative path, so it is the same on every machine and file system.
 */

import { createHash } from "node:crypto";
import { readdirSync, readFileSync, realpathSync, statSync } from "node:fs";
import { basename, isAbsolute, join, relative, resolve, sep } from "node:path";
import { UserError } from "../config/errors.ts";
import { parseCsv } from "./csv.ts";

export type Split = "train" | "validation";

/** A file that may become clips. */
export interface Candidate {
  /** Absolute. */
  readonly file: string;
  /** Relative to the set's folder, with "/" between parts: names the file in ids and messages. */
  readonly name: string;
  readonly size: number;
  readonly modified: number;
  /** Class name; undefined when a list gives none. */
  readonly label: string | undefined;
  readonly caption: string;
  /** The split that a folder or a list column states. */
  readonly split: Split | undefined;
}

export interface Found {
  readonly candidates: readonly Candidate[];
  /** Names in the list that are not there. */
  readonly missing: readonly string[];
  /** Where the splits come from. */
  readonly splitBy: "hash" | "folders" | "list";
}

const byCodeUnits = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** Names of the folders and list entries that state a split. */
const SPLITS: ReadonlyMap<string, Split> = new Map([
  ["train", "train"],
  ["training", "train"],
  ["validation", "validation"],
  ["valid", "validation"],
  ["val", "validation"],
  ["test", "validation"],
]);

/** All files below `root` with one of the extensions (none: all files), relative, sorted. */
function walk(root: string, extensions: readonly string[]): string[] {
  const wanted = new Set(extensions.map((e) => e.toLowerCase().replace(/^\./, "")));
  const found: string[] = [];
  const visit = (folder: string, above: ReadonlySet<string>): void => {
    const real = realpathSync(folder);
    if (above.has(real)) {
      return; // a link to a folder that we are in
    }
    const inside = new Set(above).add(real);
    for (const name of readdirSync(folder)) {
      const path = join(folder, name);
      const info = name.startsWith(".") ? undefined : statSync(path, { throwIfNoEntry: false });
      if (info?.isDirectory()) {
        visit(path, inside);
      } else if (info?.isFile()) {
        const extension = name.slice(name.lastIndexOf(".") + 1).toLowerCase();
        if (wanted.size === 0 || wanted.has(extension)) {
          found.push(relative(root, path).split(sep).join("/"));
        }
      }
    }
  };
  visit(root, new Set());
  return found.sort(byCodeUnits);
}

function candidate(
  file: string,
  name: string,
  rest: Pick<Candidate, "label" | "caption" | "split">,
): Candidate | undefined {
  const info = statSync(file, { throwIfNoEntry: false });
  return info?.isFile()
    ? { file, name, size: info.size, modified: Math.round(info.mtimeMs), ...rest }
    : undefined;
}

function existing(path: string, what: string): string {
  const absolute = resolve(path);
  if (!statSync(absolute, { throwIfNoEntry: false })) {
    throw new UserError(
      `${what}: ${absolute} does not exist`,
      "Relative paths start at the folder that the command is run in.",
    );
  }
  return absolute;
}

/**
 * Find the files below a folder. A first folder named train, validation, val or test states the
 * split (when there is one for each); the next folder is the class. Files outside any folder are of
 * one class, named as the set's folder.
 */
export function findInFolder(
  path: string,
  extensions: readonly string[],
  splitBy: "auto" | "hash" | "folders",
): Found {
  const root = existing(path, "dataset.path");
  if (!statSync(root).isDirectory()) {
    const file = candidate(root, basename(root), {
      label: basename(resolve(root, "..")),
      caption: "",
      split: undefined,
    });
    return { candidates: file ? [file] : [], missing: [], splitBy: "hash" };
  }
  const names = walk(root, extensions);
  const tops = new Set(
    names.filter((name) => name.includes("/")).map((name) => name.split("/")[0]!),
  );
  const stated = [...SPLITS].filter(([name]) => tops.has(name));
  const train = stated.find(([, split]) => split === "train")?.[0];
  const validation = stated.find(([, split]) => split === "validation")?.[0];
  const folders = splitBy !== "hash" && train !== undefined && validation !== undefined;
  if (splitBy === "folders" && !folders) {
    throw new UserError(
      `dataset.split_by is folders, but ${root} has no folders train/ and validation/ (or val/, test/) with videos`,
      "Make the two folders, or use split_by: hash.",
    );
  }
  const candidates: Candidate[] = [];
  for (const name of names) {
    const parts = name.split("/");
    let split: Split | undefined;
    if (folders) {
      split = parts[0] === train ? "train" : parts[0] === validation ? "validation" : undefined;
      if (!split || parts.length < 2) {
        continue;
      }
      parts.shift();
    }
    const label = parts.length > 1 ? parts[0]! : basename(root);
    const made = candidate(join(root, ...name.split("/")), name, { label, caption: "", split });
    if (made) {
      candidates.push(made);
    }
  }
  return { candidates, missing: [], splitBy: folders ? "folders" : "hash" };
}

interface Entry {
  readonly path: string;
  readonly label?: string;
  readonly caption?: string;
  readonly split?: string;
}

const COLUMNS = ["path", "label", "caption", "split"] as const;

/** The entries of a CSV (columns by header, or path, label, caption, split) or JSONL list. */
function readList(file: string): { entry: Entry; line: number }[] {
  const text = readFileSync(file, "utf8").replace(/^\uFEFF/, "");
  if (/\.(jsonl|ndjson)$/i.test(file)) {
    return text.split(/\r?\n/).flatMap((line, i) => {
      if (line.trim() === "") {
        return [];
      }
      let value: unknown;
      try {
        value = JSON.parse(line);
      } catch {
        throw new UserError(
          `${file}:${i + 1}: not a line of JSON`,
          'Expected e.g. {"path": "a.mp4", "label": "run"}.',
        );
      }
      return [{ entry: toEntry(value as Record<string, unknown>, file, i + 1), line: i + 1 }];
    });
  }
  const rows = parseCsv(text);
  const header = rows[0]?.cells.map((cell) => cell.trim().toLowerCase()) ?? [];
  const headed = header.includes("path");
  const columns: readonly string[] = headed ? header : COLUMNS;
  return rows.slice(headed ? 1 : 0).map(({ cells, line }) => ({
    entry: toEntry(
      Object.fromEntries(cells.map((cell, i) => [columns[i] ?? "", cell])),
      file,
      line,
    ),
    line,
  }));
}

function toEntry(value: Record<string, unknown> | null, file: string, line: number): Entry {
  const text = (key: string): string | undefined => {
    const field = value?.[key];
    return typeof field === "string" || typeof field === "number"
      ? String(field).trim()
      : undefined;
  };
  const path = text("path");
  if (!path) {
    throw new UserError(
      `${file}:${line}: an entry without a path`,
      "Each entry needs a path; label, caption and split are optional.",
    );
  }
  const entry: { -readonly [key in keyof Entry]: Entry[key] } = { path };
  for (const key of ["label", "caption", "split"] as const) {
    const field = text(key);
    if (field !== undefined && field !== "") {
      entry[key] = field;
    }
  }
  return entry;
}

/**
 * Find the files that a list names. Paths are relative to `path`, or without it to the list's folder.
 */
export function findInList(
  list: string,
  path: string | undefined,
  splitBy: "auto" | "hash" | "list",
): Found {
  const file = existing(list, "dataset.list");
  const root = path === undefined ? resolve(file, "..") : existing(path, "dataset.path");
  const entries = readList(file);
  const stated = splitBy !== "hash" && entries.some(({ entry }) => entry.split !== undefined);
  if (splitBy === "list" && !stated) {
    throw new UserError(
      `dataset.split_by is list, but ${file} has no column split`,
      "Add a column split with train or validation, or use split_by: hash.",
    );
  }
  const candidates: Candidate[] = [];
  const missing: string[] = [];
  for (const { entry, line } of entries) {
    const split = stated ? SPLITS.get(entry.split?.toLowerCase() ?? "") : undefined;
    if (stated && !split) {
      throw new UserError(
        `${file}:${line}: split is ${JSON.stringify(entry.split ?? "")}, expected train or validation`,
      );
    }
    const absolute = isAbsolute(entry.path) ? entry.path : join(root, entry.path);
    const made = candidate(absolute, entry.path.split(sep).join("/"), {
      label: entry.label,
      caption: entry.caption ?? "",
      split,
    });
    if (made) {
      candidates.push(made);
    } else {
      missing.push(entry.path);
    }
  }
  return { candidates, missing, splitBy: stated ? "list" : "hash" };
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

/** A number in [0, 1) that a file's name decides, the same on every machine. */
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
