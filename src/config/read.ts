/** @file YAML 1.2 text into a tree with origins. A fault is reported with its place; reading goes on. */

import {
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  parseDocument,
  type YAMLError,
} from "yaml";
import type { Problems } from "./problems.ts";
import type { ConfigNode, Entry, Origin, Scalar } from "./tree.ts";

/** Turns a place in the text (1-based) into an origin. */
export type OriginAt = (line: number, col: number) => Origin;

/** A text of a few hundred bytes can stand for billions of nodes through nested aliases. */
const maxNodes = 100_000;

/** After these faults the rest of the document is still what the user meant. */
const harmless = new Set<string>(["DUPLICATE_KEY", "BAD_SCALAR_START", "TAG_RESOLVE_FAILED"]);

function explain(error: YAMLError, text: string): { message: string; hint?: string } {
  const at = text.slice(error.pos[0] - 1, error.pos[1]);
  if (error.code === "BAD_SCALAR_START" && at.includes("@")) {
    return {
      message: 'a YAML value cannot start with "@" unless it is quoted',
      hint: 'write "@name" in double quotes',
    };
  }
  if (error.code === "DUPLICATE_KEY") {
    return { message: "this key is written twice", hint: "keep one of the two" };
  }
  if (error.code === "TAB_AS_INDENT") {
    return { message: "a tab is used for indentation", hint: "indent with spaces" };
  }
  if (error.code === "MULTIPLE_DOCS") {
    return { message: "a second document starts here", hint: "a config file holds one document" };
  }
  if (text[error.pos[0]] === "{" && text[error.pos[0] - 1] === "$") {
    return {
      message: "a reference inside [...] or {...} must be quoted",
      hint: 'write "${a.b}" in double quotes',
    };
  }
  return { message: `not valid YAML: ${error.message}` };
}

/**
 * Read one YAML document.
 * @returns the tree (undefined for an empty document), and whether it can be trusted: after a fault
 *   of structure it cannot, and complaints about its content would mislead
 */
export function readYaml(
  text: string,
  at: OriginAt,
  problems: Problems,
): { readonly node: ConfigNode | undefined; readonly sound: boolean } {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const origin = (offset: number): Origin => {
    // An offset at the very end of the text may lie on a line that the counter has not begun.
    const { line, col } = lines.linePos(Math.max(0, offset));
    return at(Math.max(1, line), Math.max(1, col));
  };
  const complain = (offset: number, message: string, hint?: string) =>
    problems.add({
      code: "syntax",
      path: "",
      origin: origin(offset),
      message,
      ...(hint === undefined ? {} : { hint }),
    });

  let sound = true;
  for (const error of [...document.errors, ...document.warnings]) {
    // What follows a fault of structure is mostly its echo.
    if (!sound && !harmless.has(error.code)) {
      continue;
    }
    const { message, hint } = explain(error, text);
    complain(error.pos[0], message, hint);
    sound &&= harmless.has(error.code);
  }

  let nodes = 0;
  const inside = new Set<Node>();
  const walk = (node: Node | null | undefined, fallback: number): ConfigNode => {
    const start = node?.range?.[0] ?? fallback;
    const here = origin(start);
    nodes += 1;
    if (nodes === maxNodes) {
      complain(start, `the document grows beyond ${maxNodes} values through its aliases`);
      sound = false;
    }
    if (!node || nodes >= maxNodes) {
      return { kind: "scalar", origin: here, value: null };
    }
    if (isAlias(node)) {
      const target = node.resolve(document);
      if (!target || inside.has(target)) {
        complain(
          start,
          target
            ? `the alias *${node.source} stands inside its own anchor`
            : `the alias *${node.source} has no anchor before it`,
          target ? undefined : 'if a string that starts with "*" is meant, quote it',
        );
        return { kind: "scalar", origin: here, value: null, broken: true };
      }
      return walk(target, start);
    }
    if (isScalar(node)) {
      const value = node.value;
      if (typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value)) {
        const source = text.slice(start, node.range?.[1]);
        const whole = /^[-+]?\d+$/.test(source);
        if (
          whole &&
          String(value) !== source &&
          BigInt(value) !== BigInt(source.replace("+", ""))
        ) {
          complain(start, `the integer ${source} cannot be kept exactly: it would become ${value}`);
        }
      }
      return { kind: "scalar", origin: here, value: value as Scalar };
    }
    inside.add(node);
    try {
      if (isSeq(node)) {
        const items = node.items.map((item) => walk(item as Node | null, start));
        return { kind: "list", origin: here, items };
      }
      const entries = new Map<string, Entry>();
      for (const pair of isMap(node) ? node.items : []) {
        const key = pair.key as Node | null;
        const place = key?.range?.[0] ?? start;
        const value = isScalar(key) ? key.value : null;
        if (
          !isScalar(key) ||
          (typeof value !== "string" && typeof value !== "number" && typeof value !== "boolean")
        ) {
          complain(place, "a key must be a plain name");
          continue;
        }
        const name = typeof value === "string" ? value : (key.source ?? String(value));
        if (name === "__proto__" || name === "<<") {
          complain(
            place,
            `the key "${name}" is not allowed`,
            name === "<<" ? "to inherit keys use `extends` or a component file" : undefined,
          );
          continue;
        }
        const end = key.range?.[1] ?? place;
        entries.set(name, { key: origin(place), node: walk(pair.value as Node | null, end) });
      }
      return { kind: "map", origin: here, entries };
    } finally {
      inside.delete(node);
    }
  };
  const contents = document.contents as Node | null;
  const empty =
    contents === null || (isScalar(contents) && contents.value === null && contents.source === "");
  return { node: empty ? undefined : walk(contents, 0), sound };
}
