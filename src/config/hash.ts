/**
 * @file The name of a config: SHA-256 over its canonical JSON (RFC 8785), in which key order and the
 * spelling of numbers do not show. What cannot change a result is left out.
 */

import { createHash } from "node:crypto";
import canonicalize from "canonicalize";
import type { TSchema } from "./schema.ts";
import { type Json, type Path, parsePath } from "./tree.ts";
import { ruling } from "./validate.ts";
import { itemOf, type JsonSchema, propertyOf } from "./walk.ts";

/** RFC 8785 text of a JSON value. */
export function canonicalJson(value: unknown): string {
  // Of these JSON.stringify writes what the RFC asks for.
  if (value === null || typeof value === "boolean" || Number.isFinite(value)) {
    return JSON.stringify(value);
  }
  const text = canonicalize(value);
  if (text === undefined) {
    throw new TypeError("only JSON values have a canonical form");
  }
  return text;
}

/**
 * Canonical texts of parts of configs, by the part itself. For callers that hash many configs which
 * share most of their parts and never change one in place.
 */
export type PartTexts = WeakMap<object, { readonly schema: JsonSchema; readonly text: string }>;

/**
 * The canonical text of the part of a value that can change a result; undefined when none can.
 * @param excluded paths from this value on that are left out
 */
function semanticText(
  value: Json,
  schema: JsonSchema,
  excluded: readonly Path[],
  known: PartTexts | undefined,
): string | undefined {
  if (schema.semantic === false || value === undefined) {
    return undefined;
  }
  if (typeof value !== "object" || value === null) {
    return canonicalJson(value);
  }
  const memo = excluded.length === 0 ? known : undefined;
  const before = memo?.get(value);
  if (before?.schema === schema) {
    return before.text;
  }
  const below = (key: string, inner: Json, own: JsonSchema): string | undefined => {
    const rest = excluded.filter(([first]) => first === key).map((path) => path.slice(1));
    return rest.some((path) => path.length === 0)
      ? undefined
      : semanticText(inner, own, rest, known);
  };
  let text: string;
  if (Array.isArray(value)) {
    const items = value.map(
      (item: Json, i) => below(String(i), item, itemOf(schema, i) ?? {}) ?? "null",
    );
    text = `[${items.join(",")}]`;
  } else {
    const map = value as { readonly [key: string]: Json };
    const object = ruling(schema, value);
    const parts: string[] = [];
    // RFC 8785 sorts by UTF-16 code units, as JavaScript does.
    for (const key of Object.keys(map).sort()) {
      const part = below(key, map[key]!, (object && propertyOf(object, key)) ?? {});
      if (part !== undefined) {
        parts.push(`${canonicalJson(key)}:${part}`);
      }
    }
    text = `{${parts.join(",")}}`;
  }
  memo?.set(value, { schema, text });
  return text;
}

/**
 * The hash that names a resolved config's runs.
 * @param exclude dotted paths to leave out besides keys with `semantic: false`; the run folder's
 *   name carries the seed beside the hash, so the seed is left out
 * @param known texts of parts from earlier calls, and of this one for later ones
 * @returns 64 hexadecimal digits
 */
export function configHash(
  config: unknown,
  schema: TSchema,
  exclude: readonly string[] = ["seed"],
  known?: PartTexts,
): string {
  const paths = exclude.map((text) => parsePath(text) ?? [text]);
  const text = semanticText(config as Json, schema as JsonSchema, paths, known) ?? "null";
  return createHash("sha256").update(text).digest("hex");
}
