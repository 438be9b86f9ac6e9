/**
 * @file Overrides from the command line: `a.b=c` sets, `+a.b=c` adds what must not be set yet,
 * `~a.b` removes, `a=@name` selects a component. They apply in order, each as if written in a file
 * on top of the config, so `dataset=@video-folder dataset.path=clips` works as it reads.
 */

import { isRemoval, type Layer, lay } from "./compose.ts";
import { formatOrigin, Problems, suggest } from "./problems.ts";
import { readYaml } from "./read.ts";
import {
  type ConfigNode,
  childNode,
  fromJson,
  isBroken,
  type Json,
  nodeAt,
  type Origin,
  type Path,
  parsePath,
  printPath,
  scanPath,
  typeOf,
} from "./tree.ts";
import {
  componentOf,
  describe,
  isOpen,
  isString,
  itemOf,
  type JsonSchema,
  objectOf,
  propertyOf,
} from "./walk.ts";

export interface Override {
  readonly operation: "set" | "add" | "remove";
  readonly path: Path;
  /** The value as read; absent for "remove". */
  readonly value?: ConfigNode;
  /** The value as typed, for keys that hold text. */
  readonly text?: string;
  readonly origin: Origin;
}

const open: JsonSchema = {};

/**
 * Read one override.
 * @param index its place on the command line, from 1
 * @returns undefined after a complaint to `problems`
 */
export function parseOverride(
  text: string,
  index: number,
  problems: Problems,
): Override | undefined {
  const at = (col: number): Origin => ({ kind: "override", index, text, col });
  const sign = text[0] === "+" || text[0] === "~" ? text[0] : "";
  const scanned = scanPath(text.slice(sign.length));
  const end = sign.length + (scanned?.length ?? 0);
  const wrong = (col: number, message: string): undefined => {
    const hint = "write key.path=value, +key.path=value, key=@name or ~key.path";
    problems.add({ code: "override", path: "", origin: at(col), message, hint });
  };
  if (!scanned) {
    return wrong(end + 1, "no key path here");
  }
  const { path } = scanned;
  const origin = at(1 + sign.length);
  if (sign === "~") {
    return text.length === end
      ? { operation: "remove", path, origin }
      : wrong(end + 1, `unexpected ${JSON.stringify(text.slice(end))} after the path to remove`);
  }
  if (text[end] !== "=") {
    const rest = JSON.stringify(text.slice(end));
    return wrong(
      end + 1,
      end === text.length ? 'expected "=" and a value' : `expected "=", got ${rest}`,
    );
  }
  const typed = text.slice(end + 1);
  const operation = sign === "+" ? "add" : "set";
  const start = end + 2;
  const plain: ConfigNode = { kind: "scalar", value: typed, origin: at(start) };
  if (typed.startsWith("@")) {
    return { operation, path, value: plain, text: typed, origin };
  }
  // Text is not always YAML (`*.mp4`), so its faults wait until the key is known not to hold text.
  const faults = new Problems();
  const { node } = readYaml(typed, (line, col) => at(line === 1 ? end + 1 + col : start), faults);
  const value = node ?? { kind: "scalar" as const, value: null, origin: at(start) };
  return faults.size === 0
    ? { operation, path, value, text: typed, origin }
    : { operation, path, text: typed, origin };
}

/** Write an override so that `parseOverride` reads the same one back. */
export function printOverride(
  operation: Override["operation"],
  path: Path,
  value: Json = null,
): string {
  const sign = { set: "", add: "+", remove: "~" }[operation];
  return sign + printPath(path) + (operation === "remove" ? "" : `=${JSON.stringify(value)}`);
}

/** The list that an index means where none is written. */
function withDefaultList(node: ConfigNode | undefined, schema: JsonSchema): ConfigNode | undefined {
  const list = node === undefined && Array.isArray(schema.default);
  return list ? fromJson(schema.default, { kind: "default" }) : node;
}

/** Follows a path through tree and schema; complains where the schema has no such key. */
function schemaAt(
  root: ConfigNode,
  schema: JsonSchema,
  override: Override,
  problems: Problems,
): JsonSchema | undefined {
  const { path, origin } = override;
  let node: ConfigNode | undefined = root;
  let here = schema;
  const wrong = (depth: number, message: string, hint?: string): undefined => {
    const code = "unknown-key";
    const at = printPath(path.slice(0, depth));
    problems.add({ code, path: at, origin, message, ...(hint === undefined ? {} : { hint }) });
  };
  for (const [depth, key] of path.entries()) {
    node = withDefaultList(node, here);
    const object = objectOf(here, typeOf(node));
    const item = object ? undefined : itemOf(here, 0);
    if (object) {
      const property = propertyOf(object, key);
      if (!property) {
        const keys = Object.keys(object.properties ?? {});
        const owner = typeOf(node) ?? (printPath(path.slice(0, depth)) || "the config");
        return wrong(depth + 1, `unknown key "${key}"`, suggest(key, keys, `keys of ${owner}`));
      }
      here = property;
    } else if (item) {
      const length = node?.kind === "list" ? node.items.length : 0;
      if (!/^\d+$/.test(key) || Number(key) >= length) {
        const range = length > 0 ? ` (0 to ${length - 1})` : "";
        const list = printPath(path.slice(0, depth));
        return wrong(depth + 1, `${list} is a list of ${length}${range}; it has no item "${key}"`);
      }
      here = itemOf(here, Number(key)) ?? open;
    } else if (isOpen(here) || componentOf(here)) {
      // A component whose type is not known (yet): what is wrong with it is said elsewhere.
      return open;
    } else {
      const parent = printPath(path.slice(0, depth));
      return wrong(depth + 1, `${parent} is ${describe(here)}; it has no keys`);
    }
    node = node && childNode(node, key);
  }
  return here;
}

/** Put a value at a path; undefined takes it away. The path agrees with the schema. */
function setAt(
  written: ConfigNode | undefined,
  schema: JsonSchema,
  path: Path,
  origin: Origin,
  change: (old: ConfigNode | undefined, schema: JsonSchema) => ConfigNode | undefined,
): ConfigNode | undefined {
  const [key, ...rest] = path;
  if (key === undefined) {
    return change(written, schema);
  }
  const node = withDefaultList(written, schema);
  if (node && isBroken(node)) {
    return node;
  }
  if (node?.kind === "list") {
    const i = Number(key);
    const item = setAt(node.items[i], itemOf(schema, i) ?? open, rest, origin, change);
    return {
      ...node,
      items: node.items.flatMap((old, k) => (k !== i ? [old] : item ? [item] : [])),
    };
  }
  const map = node?.kind === "map" ? node : { kind: "map" as const, origin, entries: new Map() };
  const object = objectOf(schema, typeOf(map));
  const property = (object && propertyOf(object, key)) ?? open;
  const old = map.entries.get(key)?.node;
  const child = setAt(old, property, rest, origin, change);
  if (child === undefined) {
    return { ...map, entries: new Map([...map.entries].filter(([name]) => name !== key)) };
  }
  if (key === "type" && rest.length === 0) {
    const changed =
      typeOf(map) !== undefined && (child.kind !== "scalar" || child.value !== typeOf(map));
    const entries = new Map(changed ? [] : map.entries).set(key, { key: origin, node: child });
    return { ...map, origin: changed ? origin : map.origin, entries };
  }
  const removal = rest.length === 0 && object && isRemoval(child, object, key);
  const marked =
    removal && child.kind === "scalar" ? { ...child, removed: old !== undefined } : child;
  const entry = {
    key: rest.length === 0 ? origin : (map.entries.get(key)?.key ?? origin),
    node: marked,
  };
  return { ...map, entries: new Map(map.entries).set(key, entry) };
}

/**
 * Apply one override to a composed tree.
 * @returns the new tree, or the old one after a complaint
 */
export function applyOverride(
  root: ConfigNode,
  schema: JsonSchema,
  override: Override,
  layer: Layer,
): ConfigNode {
  const { operation, path, origin } = override;
  const { problems } = layer.sources;
  const at = printPath(path);
  const here = schemaAt(root, schema, override, problems);
  if (!here) {
    return root;
  }
  const old = nodeAt(root, path);
  if (operation === "remove") {
    if (!old) {
      const parent = nodeAt(root, path.slice(0, -1));
      const keys = parent?.kind === "map" ? [...parent.entries.keys()] : [];
      const hint = keys.length > 0 ? suggest(path.at(-1) ?? "", keys, "set there") : undefined;
      const message = "there is nothing to remove";
      problems.add({ code: "override", path: at, origin, message, ...(hint ? { hint } : {}) });
      return root;
    }
    return setAt(root, schema, path, origin, () => undefined) ?? root;
  }
  if (operation === "add" && old) {
    const message = `is already set at ${formatOrigin(old.origin)}`;
    const hint = 'leave out the "+" to change it';
    problems.add({ code: "override", path: at, origin, message, hint });
    return root;
  }
  const value = valueFor(override, here, problems);
  return value
    ? (setAt(root, schema, path, origin, (below, rule) => lay(below, value, rule, path, layer)) ??
        root)
    : root;
}

function valueFor(
  override: Override,
  schema: JsonSchema,
  problems: Problems,
): ConfigNode | undefined {
  const { value, text, origin } = override;
  if (text !== undefined && isString(schema)) {
    // The shell has eaten the quotes of name="123"; a key that holds text takes it as typed.
    const quoted = value?.kind === "scalar" && typeof value.value === "string";
    return quoted ? value : { kind: "scalar", value: text, origin: value?.origin ?? origin };
  }
  if (!value && origin.kind === "override") {
    const faults = new Problems();
    const start = origin.text.length - (text?.length ?? 0);
    readYaml(
      text ?? "",
      (line, col) => ({ ...origin, col: line === 1 ? start + col : start + 1 }),
      faults,
    );
    for (const fault of faults.sorted()) {
      problems.add({ ...fault, path: printPath(override.path) });
    }
  }
  return value;
}

const indexOf = (origin: Origin) => (origin.kind === "override" ? origin.index : 0);

/**
 * Apply the overrides in order, then the calling program's `set`. An override that a later one
 * swept away is a mistake of order, and said.
 */
export function applyOverrides(
  root: ConfigNode,
  schema: JsonSchema,
  texts: readonly string[],
  set: { readonly [path: string]: Json },
  layer: Layer,
): ConfigNode {
  const { problems } = layer.sources;
  const applied: Override[] = [];
  let tree = root;
  const apply = (override: Override) => {
    const before = problems.size;
    tree = applyOverride(tree, schema, override, layer);
    if (problems.size === before && override.operation !== "remove") {
      applied.push(override);
    }
  };
  for (const [i, text] of texts.entries()) {
    const override = parseOverride(text, i + 1, problems);
    if (override) {
      apply(override);
    }
  }
  for (const { origin, path } of applied) {
    const found = nodeAt(tree, path)?.origin;
    const told = path.some((_, depth) => isBroken(nodeAt(tree, path.slice(0, depth))));
    if (told || (found?.kind === "override" && found.index >= indexOf(origin))) {
      continue;
    }
    problems.add({
      code: "override",
      path: printPath(path),
      origin,
      message: "has no effect: a later override replaces or removes what it belongs to",
      hint: "put it after that override",
    });
  }
  for (const [text, value] of Object.entries(set)) {
    const origin: Origin = { kind: "set", path: text };
    const path = parsePath(text);
    if (path) {
      apply({ operation: "set", path, value: fromJson(value, origin), origin });
    } else {
      const message = `${JSON.stringify(text)} is not a key path`;
      problems.add({ code: "override", path: "", origin, message });
    }
  }
  return tree;
}
