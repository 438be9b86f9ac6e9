/**
 * @file Validation: ajv judges the plain value, and its errors become problems a person can act on:
 * at the place where the value was written, in words, without the noise of union arms that were
 * never meant.
 */

import type { ErrorObject } from "ajv";
import { isValid, validator } from "./judge.ts";
import { nearest, type Problem, suggest } from "./problems.ts";
import {
  type ConfigNode,
  childNode,
  type Origin,
  type Path,
  printPath,
  toJson,
  typeOf,
} from "./tree.ts";
import {
  choicesOf,
  componentOf,
  describe,
  type JsonSchema,
  memberNames,
  objectOf,
} from "./walk.ts";

const pointerPath = (pointer: string): string[] =>
  pointer
    .split("/")
    .slice(1)
    .map((key) => key.replaceAll("~1", "/").replaceAll("~0", "~"));

/** A value as it is quoted in a message; long ones are cut. */
export function show(value: unknown): string {
  if (Array.isArray(value)) {
    return value.length <= 6 && JSON.stringify(value).length <= 60
      ? `the list ${JSON.stringify(value)}`
      : `a list of ${value.length}`;
  }
  if (typeof value === "object" && value !== null) {
    return "a map";
  }
  if (typeof value === "number" && !Number.isFinite(value)) {
    return Number.isNaN(value) ? ".nan" : value > 0 ? ".inf" : "-.inf";
  }
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 80 ? `${text.slice(0, 77)}..."` : text;
}

function hintFor(schema: JsonSchema, value: unknown): string | undefined {
  const choices = choicesOf(schema);
  if (choices && typeof value === "string") {
    const near = nearest(value, choices.map(String));
    return near === undefined ? undefined : `did you mean "${near}"?`;
  }
  if (typeof value !== "string") {
    return undefined;
  }
  if (componentOf(schema)) {
    return memberNames(schema).includes(value)
      ? `write {type: ${value}}`
      : 'to select a component file write "@name"';
  }
  const number = value.trim() === "" ? Number.NaN : Number(value.replaceAll(/[_,\s]/g, ""));
  if (/"(integer|number)"/.test(JSON.stringify(schema)) && Number.isFinite(number)) {
    return `write ${number}, without quotes or separators`;
  }
  if (/^(yes|no|on|off|y|n)$/i.test(value) && JSON.stringify(schema).includes('"boolean"')) {
    return `write ${/^(yes|on|y)$/i.test(value)}: YAML 1.2 reads ${value} as text`;
  }
  if (value.startsWith("@") && schema.group === undefined) {
    return "no component can be selected here";
  }
  return undefined;
}

interface Fault {
  readonly path: Path;
  readonly code: Problem["code"];
  readonly message: string;
  readonly hint?: string | undefined;
  /** The fault lies in the key's presence, so the key's place is told, not the value's. */
  readonly atKey?: boolean;
}

function faultOf(error: ErrorObject, root: ConfigNode): Fault {
  const path = pointerPath(error.instancePath);
  const schema = (error.parentSchema ?? {}) as JsonSchema;
  const params = error.params as { readonly [name: string]: unknown };
  switch (error.keyword) {
    case "required": {
      const key = String(params.missingProperty);
      const property = componentOf(schema)
        ? { description: `one of ${memberNames(schema).join(", ")}` }
        : schema.properties?.[key];
      const wanted = property && (componentOf(schema) ? property.description : describe(property));
      const group = property && "group" in property ? property.group : undefined;
      return {
        path: [...path, key],
        code: "missing",
        message: `is required${wanted === undefined ? "" : `: ${wanted}`}`,
        hint:
          typeof group === "string"
            ? `e.g. ${key}: "@name" of a file in configs/${group}`
            : schema.properties?.[key]?.description,
      };
    }
    case "additionalProperties": {
      const key = String(params.additionalProperty);
      const keys = Object.keys(schema.properties ?? {});
      const map = path.reduce<ConfigNode | undefined>(
        (at, name) => at && childNode(at, name),
        root,
      );
      const owner = typeOf(map) ?? (printPath(path) || "the config");
      return {
        path: [...path, key],
        code: "unknown-key",
        message: `unknown key "${key}"`,
        hint: suggest(key, keys, `keys of ${owner}`),
        atKey: true,
      };
    }
    case "discriminator": {
      const names = memberNames(schema);
      const missing = params.tagValue === undefined;
      return {
        path: [...path, "type"],
        code: missing ? "missing" : "value",
        message: missing
          ? `is required: one of ${names.join(", ")}`
          : `unknown type ${show(params.tagValue)}`,
        hint: missing ? undefined : suggest(String(params.tagValue), names, "types"),
      };
    }
    case "propertyNames": {
      const key = String(params.propertyName);
      return {
        path: [...path, key],
        code: "unknown-key",
        message: `the name "${key}" is not allowed`,
        atKey: true,
      };
    }
    case "uniqueItems":
      return {
        path,
        code: "value",
        message: `items ${String(params.j)} and ${String(params.i)} are equal`,
      };
    default: {
      const infinite = typeof error.data === "number" && !Number.isFinite(error.data);
      const wanted = infinite
        ? describe(schema).replaceAll("a number", "a finite number")
        : describe(schema);
      const hint = hintFor(schema, error.data);
      return { path, code: "value", message: `expected ${wanted}, got ${show(error.data)}`, hint };
    }
  }
}

/**
 * Of the errors about a union of plain forms (`anyOf`) keep those of the arm that the value was
 * meant for, if one is evident, else one error that names all the forms.
 */
function withoutArms(errors: readonly ErrorObject[]): ErrorObject[] {
  let kept = [...errors];
  for (const union of errors.filter(({ keyword }) => keyword === "anyOf")) {
    const prefix = `${union.schemaPath}/`;
    const inUnion = (error: ErrorObject) =>
      error !== union &&
      error.schemaPath.startsWith(prefix) &&
      (error.instancePath === union.instancePath ||
        error.instancePath.startsWith(`${union.instancePath}/`));
    const arms = new Map<string, ErrorObject[]>();
    for (const error of kept.filter(inUnion)) {
      const arm = error.schemaPath.slice(prefix.length).split("/")[0] ?? "";
      arms.set(arm, [...(arms.get(arm) ?? []), error]);
    }
    const meant = [...arms.values()].find((arm) =>
      arm.every(
        ({ keyword, instancePath }) =>
          (instancePath !== union.instancePath && keyword !== "anyOf") ||
          keyword === "required" ||
          keyword === "additionalProperties" ||
          keyword === "discriminator",
      ),
    );
    kept = kept.filter((error) =>
      error === union ? !meant : !inUnion(error) || meant?.includes(error),
    );
  }
  return kept;
}

/** Where to point for a path: the value, or for a missing key the nearest map that was written. */
function originAt(root: ConfigNode, path: Path, atKey: boolean): Origin {
  let node: ConfigNode = root;
  let origin = root.origin;
  for (const [depth, key] of path.entries()) {
    if (node.kind === "map") {
      const entry = node.entries.get(key);
      if (!entry) {
        return origin;
      }
      const last = depth === path.length - 1;
      // A map's own place is its first key; the key above it says better which map is meant.
      const place: Origin =
        (last && atKey) || (!last && entry.node.kind === "map" && entry.node.origin.kind === "file")
          ? entry.key
          : entry.node.origin;
      origin = place.kind === "default" ? origin : place;
      node = entry.node;
    } else {
      const child = childNode(node, key);
      if (!child) {
        return origin;
      }
      node = child;
      origin = child.origin.kind === "default" ? origin : child.origin;
    }
  }
  return origin;
}

/** The place to point at for a problem at a path. */
export function originOf(root: ConfigNode, path: Path): Origin {
  return originAt(root, path, false);
}

/** Paths of values whose fault has been reported. */
export function brokenPaths(node: ConfigNode, path: Path = []): Path[] {
  switch (node.kind) {
    case "scalar":
      return node.broken ? [path] : [];
    case "list":
      return node.items.flatMap((item, i) => brokenPaths(item, [...path, String(i)]));
    case "map":
      return [...node.entries].flatMap(([key, entry]) => brokenPaths(entry.node, [...path, key]));
  }
}

/** Is `path` the same as `above`, or below it? */
export function isWithin(path: Path, above: Path): boolean {
  return above.every((key, i) => path[i] === key);
}

/**
 * Judge a resolved tree.
 * @returns a problem for each fault, at most one a path, none for values already marked broken
 */
export function validate(root: ConfigNode, schema: JsonSchema): { problem: Problem; path: Path }[] {
  const value = toJson(root);
  if (isValid(value, schema)) {
    return [];
  }
  const check = validator(schema);
  if (check(value)) {
    return [];
  }
  const broken = brokenPaths(root);
  const found = new Map<string, { problem: Problem; path: Path }>();
  for (const error of withoutArms(check.errors ?? [])) {
    const { path, code, message, hint, atKey } = faultOf(error, root);
    const spoiled = broken.some(
      (bad) => isWithin(path, bad) || (error.keyword === "anyOf" && isWithin(bad, path)),
    );
    const at = printPath(path);
    if (spoiled || found.has(at) || error.keyword === "oneOf") {
      continue;
    }
    const origin = originAt(root, path, atKey === true);
    const problem = { code, path: at, origin, message, ...(hint === undefined ? {} : { hint }) };
    found.set(at, { problem, path });
  }
  return [...found.values()];
}

/** The schema that rules a map, or the schema itself; for those who walk a valid value. */
export function ruling(schema: JsonSchema, value: unknown): JsonSchema | undefined {
  const type = (value as { type?: unknown } | null)?.type;
  return objectOf(schema, typeof type === "string" ? type : undefined);
}
