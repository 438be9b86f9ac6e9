/**
 * @file The index of a set: what its layout listed and what was found in its files, kept in one file
 * of JSON lines, so that a set of a million files opens without walking its folders or opening its
 * shards. It holds as long as the folders and lists that were read have their times, and the
 * options that the listing depends on are the same.
 */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { canonicalJson } from "../config/hash.ts";
import { writeFileAtomic } from "../runtime/files.ts";
import { type Candidate, type Listing, type Split, statOf } from "./listing.ts";
import { type LookOptions, lookKey, recall, remember } from "./look.ts";
import type { Probed } from "./probe.ts";
import { warnOnce } from "./warnings.ts";

const FORMAT = "tessera-index-1";

interface Head extends Omit<Listing, "candidates" | "watched"> {
  readonly format: string;
  /** Hash of the options that the listing depends on. */
  readonly key: string;
  readonly count: number;
  /** Folders and lists with their times in milliseconds. */
  readonly watched: readonly (readonly [path: string, modified: number])[];
}

type Line = Candidate & { readonly probed?: Probed };

/** More folders than this are not compared one by one: `tessera data check` makes the index anew. */
const MOST_WATCHED = 5000;

/**
 * The listing of an index file, or else the one that `make` gives, which is then kept there.
 * @param key what the listing depends on
 * @param refresh make it anew in any case
 */
export function indexedListing(
  path: string | null,
  key: unknown,
  options: Pick<LookOptions, "verify" | "missing_frames">,
  make: () => Listing,
  refresh = false,
): Listing {
  if (path === null) {
    return make();
  }
  const hash = createHash("sha256").update(canonicalJson(key)).digest("hex");
  const kept = statOf(path) ? readIndex(path, options) : undefined;
  if (kept && kept.head.key === hash && !refresh && !changed(kept.head)) {
    const { format: _, key: __, count: ___, watched, ...rest } = kept.head;
    return { ...rest, watched: watched.map(([folder]) => folder), candidates: kept.candidates };
  }
  const listing = make();
  writeIndex(path, hash, options, listing);
  return listing;
}

/** Keep what was found in the files in the meantime. */
export function updateIndex(
  path: string | null,
  key: unknown,
  options: Pick<LookOptions, "verify" | "missing_frames">,
  listing: Listing,
): void {
  if (path !== null) {
    writeIndex(
      path,
      createHash("sha256").update(canonicalJson(key)).digest("hex"),
      options,
      listing,
    );
  }
}

function changed({ watched }: Head): boolean {
  return watched.some(([path, modified]) => timeOf(path) !== modified);
}

const timeOf = (path: string): number => Math.round(statOf(path)?.mtimeMs ?? -1);

/** One that cannot be read is as good as none. */
function readIndex(
  path: string,
  options: Pick<LookOptions, "verify" | "missing_frames">,
): { head: Head; candidates: Candidate[] } | undefined {
  try {
    const lines = linesOf(readFileSync(path));
    const head = JSON.parse(lines.next().value ?? "") as Head;
    if (head.format !== FORMAT) {
      throw new Error("another format");
    }
    const known = new Map<string, string>();
    const candidates: Candidate[] = [];
    for (const line of lines) {
      const { probed, ...candidate } = JSON.parse(line) as Line;
      const { source, label, split } = candidate;
      const full = { ...candidate, source: shared(source, known), label: label && once(label, known), split: split && (once(split, known) as Split) }; // biome-ignore format: one value
      if (probed) {
        const times = "times" in probed ? { times: Float64Array.from(probed.times!) } : {};
        remember(lookKey(full, options), { ...probed, ...times });
      }
      candidates.push(full);
    }
    if (candidates.length !== head.count) {
      throw new Error("a part of a file");
    }
    return { head, candidates };
  } catch {
    warnOnce(`${path} cannot be read and is written anew`);
    return undefined;
  }
}

/** Lines of UTF-8, one string each: all together may be longer than a string can be. */
function* linesOf(bytes: Buffer): Generator<string, undefined> {
  for (let from = 0; from < bytes.length; ) {
    const end = bytes.indexOf(10, from);
    const to = end < 0 ? bytes.length : end;
    yield bytes.toString("utf8", from, to);
    from = to + 1;
  }
  return undefined;
}

/** One string for all that are equal: a million items lie in few archives and classes. */
function once(text: string, known: Map<string, string>): string {
  const there = known.get(text);
  if (there === undefined) {
    known.set(text, text);
  }
  return there ?? text;
}

function shared(source: Candidate["source"], known: Map<string, string>): Candidate["source"] {
  return source.kind !== "pictures" && ("span" in source || "offset" in source)
    ? { ...source, file: once(source.file, known) }
    : source;
}

function writeIndex(
  path: string,
  key: string,
  options: Pick<LookOptions, "verify" | "missing_frames">,
  { candidates, watched, ...rest }: Listing,
): void {
  const head: Head = {
    format: FORMAT,
    key,
    count: candidates.length,
    watched: watched.slice(0, MOST_WATCHED).map((folder) => [folder, timeOf(folder)]),
    ...rest,
  };
  const chunks: Buffer[] = [];
  let lines = [JSON.stringify(head)];
  for (const candidate of candidates) {
    const probed = recall(lookKey(candidate, options));
    const plain = probed && "times" in probed ? { ...probed, times: [...probed.times!] } : probed;
    lines.push(JSON.stringify({ ...candidate, ...(plain && { probed: plain }) }));
    if (lines.length >= 10_000) {
      chunks.push(Buffer.from(`${lines.join("\n")}\n`));
      lines = [];
    }
  }
  chunks.push(Buffer.from(lines.map((line) => `${line}\n`).join("")));
  writeFileAtomic(path, Buffer.concat(chunks));
}
