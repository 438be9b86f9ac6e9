/**
 * @file A resolved config for people: as YAML, as YAML with the origin of every value beside it, and
 * the difference of two. The YAML can be read back and gives the same config and the same hash.
 */

import { stringify } from "yaml";
import { formatOrigin } from "./problems.ts";
import type { Resolved } from "./resolve.ts";
import { type Json, type Origin, type Path, printPath } from "./tree.ts";

interface Line {
  readonly text: string;
  /** The value's path, where the line holds a value. */
  readonly path?: Path;
}

/** A literal `${` would be read back as a reference. */
const escapeReference = (text: string) => text.replaceAll("${", () => "$${");

function yamlText(value: Json): string {
  return typeof value === "string" && /[\n\r]/.test(value)
    ? JSON.stringify(value)
    : stringify(value, { lineWidth: 0 }).trimEnd();
}

const scalarText = (value: Json) =>
  yamlText(typeof value === "string" ? escapeReference(value) : value);

const isMap = (value: Json): value is { readonly [key: string]: Json } =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const isList = (value: Json): value is readonly Json[] => Array.isArray(value);
const isScalar = (value: Json) => typeof value !== "object" || value === null;

function flowText(list: readonly Json[]): string {
  const items = list.map((item) =>
    typeof item === "string" ? JSON.stringify(escapeReference(item)) : scalarText(item),
  );
  return `[${items.join(", ")}]`;
}

/** The value on one line; undefined where it needs more. */
function inlineText(value: Json, path: Path, inline: Inline): string | undefined {
  if (isMap(value)) {
    return Object.keys(value).length === 0 ? "{}" : undefined;
  }
  if (isList(value)) {
    return inline(value, path) ? flowText(value) : undefined;
  }
  return scalarText(value);
}

/** The lines of a map or list that does not fit on one. */
function print(value: Json, path: Path, indent: string, inline: Inline): Line[] {
  const list = isList(value);
  return Object.entries(value as { readonly [key: string]: Json }).flatMap(([key, item]) => {
    const here = [...path, key];
    const head = indent + (list ? "-" : `${yamlText(key)}:`);
    const text = inlineText(item, here, inline);
    if (text !== undefined) {
      return [{ text: `${head} ${text}`, path: here }];
    }
    const inner = print(item, here, `${indent}  `, inline);
    return list
      ? inner.map((line, i) =>
          i === 0 ? { ...line, text: `${head} ${line.text.slice(indent.length + 2)}` } : line,
        )
      : [{ text: head }, ...inner];
  });
}

/** May this list stand on one line? */
type Inline = (list: readonly Json[], path: Path) => boolean;

const short: Inline = (list) => list.every(isScalar) && flowText(list).length <= 80;

/** The resolved config as plain YAML. */
export function configYaml(resolved: Pick<Resolved<unknown>, "config">): string {
  const lines = print(resolved.config as Json, [], "", short);
  return `${lines.map(({ text }) => text).join("\n")}\n`;
}

/** Where a value comes from, as one phrase. */
export function originText(origin: Origin): string {
  const reference = "reference" in origin ? origin.reference : undefined;
  return formatOrigin(origin) + (reference === undefined ? "" : ` ← ${reference}`);
}

/** The resolved config as YAML with each value's origin as an aligned comment. */
export function showConfig(resolved: Resolved<unknown>): string {
  const origin = (path: Path) => resolved.origins[printPath(path)];
  const oneOrigin: Inline = (list, path) =>
    short(list, path) &&
    list.every((_, i) => {
      const item = origin([...path, String(i)]);
      const whole = origin(path);
      // Items of one list stand at several columns; only another file or kind sets one apart.
      return item?.kind === whole?.kind && fileOf(item) === fileOf(whole);
    });
  const lines = print(resolved.config as Json, [], "", oneOrigin);
  const width = Math.min(
    60,
    Math.max(0, ...lines.map(({ text, path }) => (path ? text.length : 0))),
  );
  const commented = lines.map(({ text, path }) => {
    const from = path && origin(path);
    return from ? `${text.padEnd(width)}  # ${originText(from)}` : text;
  });
  return `${commented.join("\n")}\n`;
}

const fileOf = (origin: Origin | undefined) => (origin?.kind === "file" ? origin.file : undefined);

/** One side of a change. */
export interface Side {
  readonly value: Json;
  readonly origin: Origin;
}

/** A path whose value differs; a side is absent where the path is. */
export interface Change {
  readonly path: string;
  readonly a?: Side;
  readonly b?: Side;
}

/** Values by path; a list of scalars counts as one value, an empty map as none. */
function leaves(resolved: Resolved<unknown>): Map<string, Side> {
  const found = new Map<string, Side>();
  const walk = (value: Json, path: Path): void => {
    const container = isMap(value) || (isList(value) && !value.every(isScalar));
    const entries = container ? Object.entries(value) : [];
    if (!container) {
      const text = printPath(path);
      found.set(text, { value, origin: resolved.origins[text] ?? { kind: "default" } });
    }
    for (const [key, item] of entries) {
      walk(item as Json, [...path, key]);
    }
  };
  walk(resolved.config as Json, []);
  return found;
}

/** What differs between two configs, by path, in the order of `a`, then what only `b` has. */
export function diffConfigs(a: Resolved<unknown>, b: Resolved<unknown>): Change[] {
  const [left, right] = [leaves(a), leaves(b)];
  return [...new Set([...left.keys(), ...right.keys()])].flatMap((path) => {
    const [one, other] = [left.get(path), right.get(path)];
    if (one && other && JSON.stringify(one.value) === JSON.stringify(other.value)) {
      return [];
    }
    return [{ path, ...(one ? { a: one } : {}), ...(other ? { b: other } : {}) }];
  });
}

/** Changes as text, `-` for what only the first has, `+` for the second, `~` for both. */
export function printDiff(changes: readonly Change[]): string {
  const side = ({ value, origin }: Side) =>
    `${isList(value) ? flowText(value) : scalarText(value)}  # ${originText(origin)}`;
  const lines = changes.flatMap(({ path, a, b }) => {
    if (a && b) {
      return [`~ ${path}`, `    - ${side(a)}`, `    + ${side(b)}`];
    }
    return a ? [`- ${path}: ${side(a)}`] : b ? [`+ ${path}: ${side(b)}`] : [];
  });
  return lines.map((line) => `${line}\n`).join("");
}
