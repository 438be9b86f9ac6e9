/**
 * @file The config as a tree that remembers where every key and value was written. Files and
 * overrides are read into it, composition works on it, and it becomes plain JSON only at the end,
 * so that any later complaint can name a line.
 */

/** A place in a file, 1-based. `file` is as the user would type it. */
export interface FileOrigin {
  readonly kind: "file";
  readonly file: string;
  readonly line: number;
  readonly col: number;
  /** The reference, e.g. `${a.b}`, that the value came through. */
  readonly reference?: string;
}

/** The command line's `index`-th override (1-based); `col` counts from 1 inside `text`. */
export interface OverrideOrigin {
  readonly kind: "override";
  readonly index: number;
  readonly text: string;
  readonly col: number;
  readonly reference?: string;
}

/** Where a value comes from. */
export type Origin =
  | FileOrigin
  | OverrideOrigin
  /** Given by the calling program, such as a sweep's point. */
  | { readonly kind: "set"; readonly path: string; readonly reference?: string }
  /** Read from the environment by a reference that stands `at`. */
  | { readonly kind: "env"; readonly name: string; readonly at: Origin }
  /** The schema's default. */
  | { readonly kind: "default" };

export type Scalar = string | number | boolean | null;
export type Json = Scalar | readonly Json[] | { readonly [key: string]: Json };

/** Keys and list indices from the root; indices are written as decimal strings. */
export type Path = readonly string[];

export interface Entry {
  /** Where the key stands. */
  readonly key: Origin;
  readonly node: ConfigNode;
}

export interface MapNode {
  readonly kind: "map";
  readonly origin: Origin;
  readonly entries: ReadonlyMap<string, Entry>;
}

export interface ListNode {
  readonly kind: "list";
  readonly origin: Origin;
  readonly items: readonly ConfigNode[];
}

export interface ScalarNode {
  readonly kind: "scalar";
  readonly origin: Origin;
  readonly value: Scalar;
  /** A fault of this value is reported already: say nothing more about it or what refers to it. */
  readonly broken?: boolean;
  /** On a `null` that removes a named thing: it found something to remove. */
  readonly removed?: boolean;
}

export type ConfigNode = MapNode | ListNode | ScalarNode;

/** The plain value of a tree. */
export function toJson(node: ConfigNode): Json {
  switch (node.kind) {
    case "scalar":
      return node.value;
    case "list":
      return node.items.map(toJson);
    case "map":
      return Object.fromEntries([...node.entries].map(([key, entry]) => [key, toJson(entry.node)]));
  }
}

/** A tree of a plain value, every part of which has the same origin. */
export function fromJson(value: unknown, origin: Origin): ConfigNode {
  if (Array.isArray(value)) {
    return { kind: "list", origin, items: value.map((item) => fromJson(item, origin)) };
  }
  if (typeof value === "object" && value !== null) {
    const entries = Object.entries(value).filter(([, item]) => item !== undefined);
    return {
      kind: "map",
      origin,
      entries: new Map(
        entries.map(([key, item]) => [key, { key: origin, node: fromJson(item, origin) }]),
      ),
    };
  }
  return { kind: "scalar", origin, value: value as Scalar };
}

/** The direct child under a key or index. */
export function childNode(node: ConfigNode, key: string): ConfigNode | undefined {
  if (node.kind === "map") {
    return node.entries.get(key)?.node;
  }
  if (node.kind === "list" && /^\d+$/.test(key)) {
    return node.items[Number(key)];
  }
  return undefined;
}

/** The node at a path, or undefined. */
export function nodeAt(root: ConfigNode, path: Path): ConfigNode | undefined {
  let node: ConfigNode | undefined = root;
  for (const key of path) {
    node = node && childNode(node, key);
  }
  return node;
}

/** Is a fault of this very value reported already? */
export function isBroken(node: ConfigNode | undefined): boolean {
  return node?.kind === "scalar" && node.broken === true;
}

/** The scalar text under a map's `type`, which tells components apart. */
export function typeOf(node: ConfigNode | undefined): string | undefined {
  const type = node?.kind === "map" ? node.entries.get("type")?.node : undefined;
  return type?.kind === "scalar" && typeof type.value === "string" ? type.value : undefined;
}

/** The map with one entry added or replaced in place. */
export function withEntry(map: MapNode, key: string, entry: Entry): MapNode {
  return { ...map, entries: new Map(map.entries).set(key, entry) };
}

const plainKey = /^[^\s."'[\]{}=,:+~$@#]+$/;

/** `a.b.0`; keys that would be misread are quoted as JSON strings. */
export function printPath(path: Path): string {
  return path.map((key) => (plainKey.test(key) ? key : JSON.stringify(key))).join(".");
}

/**
 * Read a path at the start of a text: keys parted by dots, an index as `.0` or `[0]`, an odd key in
 * double quotes.
 * @returns the path and how much of the text it took; undefined where no path stands
 */
export function scanPath(text: string): { path: string[]; length: number } | undefined {
  const path: string[] = [];
  let at = 0;
  for (;;) {
    const rest = text.slice(at);
    const quoted = /^"(?:[^"\\]|\\.)*"/.exec(rest)?.[0];
    const plain = /^[^\s."'[\]{}=,:+~$@#]+/.exec(rest)?.[0];
    if (quoted !== undefined) {
      try {
        path.push(JSON.parse(quoted) as string);
      } catch {
        return undefined;
      }
      at += quoted.length;
    } else if (plain !== undefined) {
      path.push(plain);
      at += plain.length;
    } else {
      return undefined;
    }
    for (;;) {
      const index = /^\[(\d+)\]/.exec(text.slice(at));
      if (!index) {
        break;
      }
      path.push(index[1] as string);
      at += index[0].length;
    }
    if (text[at] !== ".") {
      return { path, length: at };
    }
    at += 1;
  }
}

/** The path that a whole text spells, or undefined. */
export function parsePath(text: string): string[] | undefined {
  const found = scanPath(text);
  return found?.length === text.length ? found.path : undefined;
}
