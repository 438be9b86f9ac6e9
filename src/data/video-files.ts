/**
 * @file Which files a video set is made of: found below a folder, or named by a list. Order is by
 * code units of the relative path, so it is the same on every machine and file system.
 */

import { readFileSync, statSync } from "node:fs";
import { basename, isAbsolute, join, resolve, sep } from "node:path";
import { UserError } from "../config/errors.ts";
import { parseCsv } from "./csv.ts";
import {
  type Candidate,
  existing,
  fileCandidate,
  type Listing,
  type Missing,
  type Split,
  walk,
} from "./listing.ts";

/** Names of the folders and list entries that state a split. */
export const SPLITS: ReadonlyMap<string, Split> = new Map([
  ["train", "train"],
  ["training", "train"],
  ["validation", "validation"],
  ["valid", "validation"],
  ["val", "validation"],
  ["test", "validation"],
]);

/**
 * Find the files below a folder. A first folder named train, validation, val or test states the
 * split (when there is one for each); the next folder is the class. Files outside any folder are of
 * one class, named as the set's folder.
 */
export function findInFolder(
  path: string,
  extensions: readonly string[],
  splitBy: "auto" | "hash" | "folders",
): Listing {
  const root = existing(path, "dataset.path");
  if (!statSync(root).isDirectory()) {
    const file = fileCandidate(root, basename(root), { label: basename(resolve(root, "..")) });
    return { candidates: file ? [file] : [], missing: [], splitBy: "hash", watched: [] };
  }
  const { names, missing, folders: watched } = walk(root, extensions);
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
    const made = fileCandidate(join(root, ...name.split("/")), name, {
      label,
      ...(split && { split }),
    });
    if (made) {
      candidates.push(made);
    }
  }
  return { candidates, missing, splitBy: folders ? "folders" : "hash", watched };
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
): Listing {
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
  const missing: Missing[] = [];
  for (const { entry, line } of entries) {
    const split = stated ? SPLITS.get(entry.split?.toLowerCase() ?? "") : undefined;
    if (stated && !split) {
      throw new UserError(
        `${file}:${line}: split is ${JSON.stringify(entry.split ?? "")}, expected train or validation`,
      );
    }
    const absolute = isAbsolute(entry.path) ? entry.path : join(root, entry.path);
    const made = fileCandidate(absolute, entry.path.split(sep).join("/"), {
      ...(entry.label !== undefined && { label: entry.label }),
      ...(entry.caption !== undefined && { captions: [entry.caption] }),
      ...(split && { split }),
    });
    if (made) {
      candidates.push(made);
    } else {
      missing.push({ file: entry.path, reason: "does not exist" });
    }
  }
  return { candidates, missing, splitBy: stated ? "list" : "hash", watched: [file] };
}
