/**
 * @file References: `${a.b}` from the root, `${.sibling}` and `${..uncle}` from where they stand,
 * `${env:NAME}` and `${env:NAME,default}`. A reference that is the whole value keeps the type of what
 * it names, even a map; inside a longer string it becomes text. All are resolved here, once, before
 * anything runs. `$${` stands for a literal `${`. `???` marks a value that must be given.
 */

import { Problems, suggest } from "./problems.ts";
import { readYaml } from "./read.ts";
import {
  type ConfigNode,
  childNode,
  isBroken,
  type Origin,
  type Path,
  parsePath,
  printPath,
  type ScalarNode,
  typeOf,
} from "./tree.ts";
import { isString, itemOf, type JsonSchema, objectOf, propertyOf } from "./walk.ts";

/** Marks a value that whoever extends the file must give. */
export const required = "???";

export interface Environment {
  readonly [name: string]: string | undefined;
}

type Piece =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "reference"; readonly text: string; readonly body: string };

/** Split a string into text and references; undefined if a reference is not closed. */
function pieces(value: string): Piece[] | undefined {
  const found: Piece[] = [];
  let text = "";
  let at = 0;
  while (at < value.length) {
    if (value.startsWith("$${", at)) {
      text += "${";
      at += 3;
    } else if (value.startsWith("${", at)) {
      const end = value.indexOf("}", at);
      if (end < 0) {
        return undefined;
      }
      if (text !== "") {
        found.push({ kind: "text", text });
        text = "";
      }
      const whole = value.slice(at, end + 1);
      found.push({ kind: "reference", text: whole, body: whole.slice(2, -1).trim() });
      at = end + 1;
    } else {
      text += value[at];
      at += 1;
    }
  }
  return text === "" && found.length > 0 ? found : [...found, { kind: "text", text }];
}

/** The reference's target as a path from the root; undefined if it is not a path. */
function targetOf(body: string, at: Path): Path | undefined {
  const dots = /^\.*/.exec(body)?.[0].length ?? 0;
  const path = parsePath(body.slice(dots));
  if (!path || dots > at.length) {
    return undefined;
  }
  return dots === 0 ? path : [...at.slice(0, at.length - dots), ...path];
}

function withReference(origin: Origin, reference: string): Origin {
  return origin.kind === "file" || origin.kind === "override" || origin.kind === "set"
    ? { ...origin, reference }
    : origin;
}

/** The place where a copied value's faults are to be mended is where it was referred to. */
function reoriginate(node: ConfigNode, origin: Origin): ConfigNode {
  switch (node.kind) {
    case "scalar":
      return { ...node, origin };
    case "list":
      return { ...node, origin, items: node.items.map((item) => reoriginate(item, origin)) };
    case "map":
      return {
        ...node,
        origin,
        entries: new Map(
          [...node.entries].map(([key, entry]) => [
            key,
            { key: origin, node: reoriginate(entry.node, origin) },
          ]),
        ),
      };
  }
}

/** Resolves the references of one tree; remembers each path's answer. */
class Resolver {
  readonly #done = new Map<string, ConfigNode>();
  readonly #active: string[] = [];

  constructor(
    readonly root: ConfigNode,
    readonly schema: JsonSchema,
    readonly env: Environment,
    readonly problems: Problems,
  ) {}

  /** The resolved node for a raw one that stands at `path`. */
  resolve(node: ConfigNode, path: Path, schema: JsonSchema): ConfigNode {
    if (node.kind === "scalar" && typeof node.value !== "string") {
      return node;
    }
    const at = JSON.stringify(path);
    const known = this.#done.get(at);
    if (known) {
      return known;
    }
    this.#active.push(at);
    const resolved = this.#children(node, path, schema);
    this.#active.pop();
    this.#done.set(at, resolved);
    return resolved;
  }

  #children(node: ConfigNode, path: Path, schema: JsonSchema): ConfigNode {
    if (node.kind === "scalar") {
      return this.#string(node, path, schema);
    }
    if (node.kind === "list") {
      const items = node.items.map((item, i) =>
        this.resolve(item, [...path, String(i)], itemOf(schema, i) ?? {}),
      );
      return { ...node, items };
    }
    const object = objectOf(schema, typeOf(node));
    const entries = [...node.entries].map(([key, entry]) => {
      const property = (object && propertyOf(object, key)) ?? {};
      return [key, { ...entry, node: this.resolve(entry.node, [...path, key], property) }] as const;
    });
    return { ...node, entries: new Map(entries) };
  }

  #fail(node: ScalarNode, path: Path, message: string, hint?: string): ScalarNode {
    this.problems.add({
      code: "reference",
      path: printPath(path),
      origin: node.origin,
      message,
      ...(hint === undefined ? {} : { hint }),
    });
    return { ...node, broken: true };
  }

  #string(node: ScalarNode, path: Path, schema: JsonSchema): ConfigNode {
    const value = node.value as string;
    if (node.broken) {
      return node;
    }
    if (value === required) {
      const message = `a value is required here${schema.description ? ` (${schema.description})` : ""}`;
      const hint = `set ${printPath(path)}=...`;
      const code = "missing";
      this.problems.add({ code, path: printPath(path), origin: node.origin, message, hint });
      return { ...node, broken: true };
    }
    if (!value.includes("${")) {
      return node;
    }
    const parts = pieces(value);
    if (!parts) {
      return this.#fail(node, path, `"\${" without "}" in ${JSON.stringify(value)}`);
    }
    const [only] = parts;
    if (parts.length === 1 && only?.kind === "reference") {
      return this.#whole(node, path, schema, only);
    }
    let text = "";
    let origin = node.origin;
    for (const part of parts) {
      if (part.kind === "text") {
        text += part.text;
        continue;
      }
      const found = this.#lookUp(node, path, part, { type: "string" });
      origin = withReference(origin, part.text);
      if (isBroken(found)) {
        return { ...node, broken: true };
      }
      if (found.kind !== "scalar" || found.value === null) {
        const what = found.kind === "scalar" ? "null" : `a ${found.kind}`;
        return this.#fail(node, path, `${part.text} is ${what} and cannot stand inside a string`);
      }
      text += String(found.value);
    }
    return { kind: "scalar", value: text, origin };
  }

  #whole(
    node: ScalarNode,
    path: Path,
    schema: JsonSchema,
    part: Piece & { kind: "reference" },
  ): ConfigNode {
    const found = this.#lookUp(node, path, part, schema);
    return found.origin.kind === "env" && part.body.startsWith("env:")
      ? found
      : reoriginate(found, withReference(node.origin, part.text));
  }

  #lookUp(
    node: ScalarNode,
    path: Path,
    { text, body }: Piece & { kind: "reference" },
    schema: JsonSchema,
  ): ConfigNode {
    if (body.startsWith("env:")) {
      return this.#environment(node, path, body.slice(4), schema);
    }
    const target = targetOf(body, path);
    if (!target) {
      const hint = "write ${a.b}, ${.sibling}, ${..parent_sibling} or ${env:NAME,default}";
      return this.#fail(node, path, `${text} is not a path`, hint);
    }
    return this.#follow(node, path, text, target);
  }

  #environment(node: ScalarNode, path: Path, body: string, schema: JsonSchema): ConfigNode {
    const comma = body.indexOf(",");
    const name = (comma < 0 ? body : body.slice(0, comma)).trim();
    const given = this.env[name];
    if (given === undefined && comma < 0) {
      const hint = `set it, or give a default: \${env:${name},value}`;
      return this.#fail(node, path, `the environment variable ${name} is not set`, hint);
    }
    const text = given ?? body.slice(comma + 1).trim();
    const origin: Origin =
      given === undefined
        ? withReference(node.origin, `\${env:${body}}`)
        : { kind: "env", name, at: node.origin };
    if (isString(schema)) {
      return { kind: "scalar", value: text, origin };
    }
    const faults = new Problems();
    const { node: value } = readYaml(text, () => origin, faults);
    return faults.size > 0
      ? { kind: "scalar", value: text, origin }
      : reoriginate(value ?? { kind: "scalar", value: null, origin }, origin);
  }

  /** Walk down to the target, resolving references that stand on the way. */
  #follow(node: ScalarNode, path: Path, text: string, target: Path): ConfigNode {
    let here = this.root;
    let schema = this.schema;
    // Below a resolved reference the tree is a copy whose inner references are resolved already.
    let copied = false;
    for (const [depth, key] of target.entries()) {
      if (here.kind === "scalar" && typeof here.value === "string" && !copied) {
        const parent = target.slice(0, depth);
        const next = this.#guarded(node, path, text, here, parent, schema);
        if (isBroken(next)) {
          return next;
        }
        here = next;
        copied = true;
      }
      const object = objectOf(schema, typeOf(here));
      schema = (object ? propertyOf(object, key) : itemOf(schema, Number(key))) ?? {};
      const child = childNode(here, key);
      if (!child) {
        const parent = printPath(target.slice(0, depth)) || "the config";
        const keys = here.kind === "map" ? [...here.entries.keys()] : [];
        const hint = keys.length > 0 ? suggest(key, keys, `${parent} has`) : undefined;
        return this.#fail(node, path, `${text} leads nowhere: ${parent} has no "${key}"`, hint);
      }
      here = child;
    }
    return copied ? here : this.#guarded(node, path, text, here, target, schema);
  }

  #guarded(
    node: ScalarNode,
    path: Path,
    text: string,
    target: ConfigNode,
    at: Path,
    schema: JsonSchema,
  ): ConfigNode {
    const start = this.#active.indexOf(JSON.stringify(at));
    if (start >= 0) {
      const round = [...this.#active.slice(start), JSON.stringify(at)].map(
        (step) => printPath(JSON.parse(step) as string[]) || "the config",
      );
      this.#fail(node, path, `${text} leads back to itself: ${round.join(" → ")}`);
      return { ...node, broken: true };
    }
    return this.resolve(target, at, schema);
  }
}

/** The tree without references. Those that cannot be resolved are reported and marked broken. */
export function resolveReferences(
  root: ConfigNode,
  schema: JsonSchema,
  env: Environment,
  problems: Problems,
): ConfigNode {
  return new Resolver(root, schema, env, problems).resolve(root, [], schema);
}
