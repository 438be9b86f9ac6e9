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
  const text = canonicalize(value);
  if (text === undefined) {
    throw new TypeError("only JSON values have a canonical form");
  }
  return text;
}

/** The part of a config that can change a result. */
function semantic(
  value: Json,
  schema: JsonSchema,
  path: Path,
  excluded: readonly Path[],
): Json | undefined {
  if (
    schema.semantic === false ||
    excluded.some((bad) => bad.length === path.length && bad.every((key, i) => key === path[i]))
  ) {
    return undefined;
  }
  if (Array.isArray(value)) {
    return value.map(
      (item: Json, i) =>
        semantic(item, itemOf(schema, i) ?? {}, [...path, String(i)], excluded) ?? null,
    );
  }
  if (typeof value !== "object" || value === null) {
    return value;
  }
  const object = ruling(schema, value);
  const kept: { [key: string]: Json } = {};
  for (const [key, item] of Object.entries(value as { readonly [key: string]: Json })) {
    const property = (object && propertyOf(object, key)) ?? {};
    const part = semantic(item, property, [...path, key], excluded);
    if (part !== undefined) {
      kept[key] = part;
    }
  }
  return kept;
}

/**
 * The hash that names a resolved config's runs.
 * @param exclude dotted paths to leave out besides keys with `semantic: false`; the run folder's
 *   name carries the seed beside the hash, so the seed is left out
 * @returns 64 hexadecimal digits
 */
export function configHash(
  config: unknown,
  schema: TSchema,
  exclude: readonly string[] = ["seed"],
): string {
  const paths = exclude.map((text) => parsePath(text) ?? [text]);
  const part = semantic(config as Json, schema as JsonSchema, [], paths) ?? null;
  return createHash("sha256").update(canonicalJson(part)).digest("hex");
}
