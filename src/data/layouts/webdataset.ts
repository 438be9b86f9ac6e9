/**
 * @file WebDataset shards: tar archives whose neighbouring members of one key are a sample. Archives
 * are listed by braces, a star or a manifest, read once for the places of their members, and clips are
 * decoded from the archive itself, at random places. `index` keeps the places.
 */

import { closeSync, openSync, readSync } from "node:fs";
import { basename, dirname, isAbsolute, join, relative, sep } from "node:path";
import { UserError } from "../../config/errors.ts";
import { closed, Type } from "../../config/schema.ts";
import { type Member, tarMembers, type WebSample, webSamples } from "../containers/tar.ts";
import {
  type Candidate,
  linesOf,
  type Missing,
  readText,
  type Split,
  statOf,
  walk,
} from "../listing.ts";
import { IMAGE_EXTENSIONS, VIDEO_EXTENSIONS } from "./find.ts";
import { layout } from "./layout.ts";

export const webdataset = layout({
  schema: closed(
    {
      type: Type.Literal("webdataset"),
      shards: Type.String({
        default: "*.tar",
        description:
          "Archives below the path: braces (clips-{000000..000146}.tar), a star, or a manifest: a .txt file with a path a line.",
      }),
      held_out_shards: Type.Union([Type.String(), Type.Null()], {
        default: null,
        description:
          "Archives of the validation split, the same way; null: samples by hash of their key.",
      }),
    },
    {
      description:
        "WebDataset tars: a video or picture a sample, with .cls (label), .txt (caption) or .json (label, caption).",
    },
  ),
  list(root, config) {
    const candidates: Candidate[] = [];
    const missing: Missing[] = [];
    const shards: number[] = [];
    const paths = expandShards(root, config.shards);
    const held = config.held_out_shards === null ? [] : expandShards(root, config.held_out_shards);
    const heldSet = new Set(held);
    const all = [
      ...paths.filter((path) => !heldSet.has(path)).map((path) => [path, "train"] as const),
      ...held.map((path) => [path, "validation"] as const),
    ];
    for (const [path, split] of all) {
      const name = relative(root, path).split(sep).join("/");
      const before = candidates.length;
      try {
        addShard(path, name, held.length > 0 ? split : undefined, candidates, missing);
      } catch (error) {
        const { code, message } = error as NodeJS.ErrnoException;
        missing.push({ file: name, reason: code === undefined ? message : `cannot be read (${code})` }); // biome-ignore format: one call
      }
      if (candidates.length > before) {
        shards.push(before);
      }
    }
    return {
      candidates,
      missing,
      splitBy: held.length > 0 ? "list" : "hash",
      ...(held.length > 0 && { heldOut: "held-out shards" }),
      watched: all.map(([path]) => path),
      shards,
    };
  },
});

/** Paths that a pattern or a manifest names; those that are not there are kept, to be missed. */
export function expandShards(root: string, pattern: string): string[] {
  const absolute = (path: string): string => (isAbsolute(path) ? path : join(root, path));
  if (/\.(txt|lst|manifest)$/i.test(pattern)) {
    const manifest = absolute(pattern);
    return linesOf(readText(manifest, "dataset.layout.shards")).map((line) => {
      const path = line.trim();
      return isAbsolute(path) ? path : join(dirname(manifest), path);
    });
  }
  const paths = expandBraces(pattern).flatMap((part) => {
    if (!part.includes("*")) {
      return [absolute(part)];
    }
    const folder = absolute(dirname(part));
    const escaped = basename(part).split("*").map((text) => text.replaceAll(/[.+?^${}()|[\]\\]/g, "\\$&")); // biome-ignore format: one call
    const wanted = new RegExp(`^${escaped.join(".*")}$`);
    return walk(folder, [])
      .names.filter((name) => !name.includes("/") && wanted.test(name))
      .map((name) => join(folder, name));
  });
  if (paths.length === 0) {
    throw new UserError(
      `no shards ${pattern} in ${root}`,
      "dataset.layout.shards takes braces ({000000..000146}), a star, or a .txt manifest.",
    );
  }
  return paths;
}

/** "a-{00..02}.tar" to its names; lists {a,b} too. */
export function expandBraces(pattern: string): string[] {
  const match = /\{([^{}]*)\}/.exec(pattern);
  if (!match) {
    return [pattern];
  }
  const range = /^(\d+)\.\.(\d+)$/.exec(match[1]!);
  const [before, after] = [
    pattern.slice(0, match.index),
    pattern.slice(match.index + match[0].length),
  ];
  const values = range
    ? Array.from({ length: Math.max(0, Number(range[2]) - Number(range[1]) + 1) }, (_, i) =>
        String(Number(range[1]) + i).padStart(range[1]!.length, "0"),
      )
    : match[1]!.split(",");
  return values.flatMap((value) => expandBraces(`${before}${value}${after}`));
}

function addShard(
  path: string,
  name: string,
  split: Split | undefined,
  candidates: Candidate[],
  missing: Missing[],
): void {
  const info = statOf(path);
  if (!info) {
    missing.push({ file: name, reason: "does not exist", ...(split && { split }) });
    return;
  }
  const file = openSync(path, "r");
  const read = (offset: number, length: number): Buffer => {
    const bytes = Buffer.alloc(length);
    return bytes.subarray(0, readSync(file, bytes, 0, length, offset));
  };
  try {
    const { members, problem } = tarMembers(read, info.size);
    if (problem !== undefined) {
      missing.push({ file: name, reason: problem, ...(split && { split }) });
    }
    for (const sample of webSamples(members)) {
      const media = [...sample.parts].find(([extension]) => isMedia(extension));
      if (!media) {
        missing.push({ file: `${name}/${sample.key}`, reason: "has no video and no picture" });
        continue;
      }
      const [extension, member] = media;
      const said = saidOf(sample, (part) => read(part.offset, part.size).toString("utf8"));
      const span = [member.offset, member.size] as const;
      const picture = (IMAGE_EXTENSIONS as readonly string[]).includes(lastPart(extension));
      candidates.push({
        source: picture
          ? { kind: "pictures", files: [path], spans: [span], fps: 1 }
          : { kind: "media", file: path, span },
        name: `${name}/${sample.key}`,
        size: member.size,
        modified: Math.round(info.mtimeMs),
        label: said.label,
        captions: said.captions,
        split,
      });
    }
  } finally {
    closeSync(file);
  }
}

const lastPart = (extension: string): string => extension.slice(extension.lastIndexOf(".") + 1);

const isMedia = (extension: string): boolean =>
  ([...VIDEO_EXTENSIONS, "gif", ...IMAGE_EXTENSIONS] as readonly string[]).includes(
    lastPart(extension),
  ) && !extension.includes("seg");

function saidOf(
  { parts }: WebSample,
  textOf: (member: Member) => string,
): { label: string | undefined; captions: string[] } {
  const text = (extension: string): string | undefined => {
    const member = parts.get(extension);
    return member && textOf(member).trim();
  };
  let json: { readonly [key: string]: unknown } = {};
  try {
    json = JSON.parse(text("json") ?? "{}") as typeof json;
  } catch {
    // A sample is more than its notes.
  }
  const own = (key: string): string | undefined => {
    const value = json[key];
    return typeof value === "string" || typeof value === "number" ? String(value) : undefined;
  };
  const caption = text("txt") ?? own("caption") ?? own("text");
  return {
    label: text("cls") ?? own("label") ?? own("cls"),
    captions: caption === undefined ? [] : [caption],
  };
}
