/**
 * @file Composition: `extends`, named components and merging, as one operation, "lay a tree over
 * another". Layers are laid in order, so each sees what lies below it; that is how a layer that
 * says nothing about `type` still knows which component it refines.
 *
 * Rules: maps merge, lists and scalars replace. A map that changes `type`, or that selects a
 * component by `@name` or `extends`, starts anew: nothing of the old component stays behind. `null`
 * under a name of the user's choosing removes that name.
 */

import { displayed, type Sources } from "./sources.ts";
import { type ConfigNode, isBroken, type MapNode, type Path, printPath, typeOf } from "./tree.ts";
import {
  allowsNull,
  groupOf,
  isNamed,
  itemOf,
  type JsonSchema,
  objectOf,
  propertyOf,
} from "./walk.ts";

/** What a layer is laid with. */
export interface Layer {
  readonly sources: Sources;
  /** The group of whole files, which `extends: "@name"` at the root looks in. */
  readonly rootGroup: string;
  /** The file that the tree stands in; undefined for the command line. */
  readonly file: string | undefined;
  /** The files being read at this moment, outermost first. */
  readonly stack: readonly string[];
}

const open: JsonSchema = {};

/** Is this `null` the removal of a name? */
export function isRemoval(node: ConfigNode | undefined, object: JsonSchema, key: string): boolean {
  return (
    node?.kind === "scalar" &&
    node.value === null &&
    !node.broken &&
    isNamed(object, key) &&
    !allowsNull(propertyOf(object, key) ?? open)
  );
}

function layFile(
  base: ConfigNode | undefined,
  reference: ConfigNode,
  schema: JsonSchema,
  path: Path,
  group: string,
  layer: Layer,
): ConfigNode | undefined {
  const at = printPath(path);
  const { sources } = layer;
  const { origin } = reference;
  // Without its component a node says nothing that could be judged, nor a file without its base.
  const fail = (): ConfigNode | undefined => {
    sources.sound &&= path.length > 0;
    return path.length > 0 ? { kind: "scalar", value: null, origin, broken: true } : base;
  };
  if (reference.kind !== "scalar" || typeof reference.value !== "string") {
    const message = 'expected a file path or "@name"';
    sources.problems.add({ code: "extends", path: at, origin, message });
    return fail();
  }
  const file = sources.find(reference.value, group, layer.file, origin, at);
  if (file === undefined) {
    return fail();
  }
  if (layer.stack.includes(file)) {
    const names = [...layer.stack.slice(layer.stack.indexOf(file)), file].map(displayed);
    const message = `the files extend each other in a circle: ${names.join(" → ")}`;
    sources.problems.add({ code: "cycle", path: at, origin, message });
    return fail();
  }
  const tree = sources.read(file, origin);
  return tree
    ? lay(base, tree, schema, path, { ...layer, file, stack: [...layer.stack, file] })
    : fail();
}

function layMap(
  base: ConfigNode | undefined,
  over: MapNode,
  schema: JsonSchema,
  path: Path,
  layer: Layer,
): ConfigNode {
  const group = path.length === 0 ? layer.rootGroup : groupOf(schema);
  const parents = over.entries.get("extends")?.node;
  const inherits = parents !== undefined && group !== undefined;
  let below = base;
  if (inherits) {
    // A component that names its parents is a new component; a whole file refines what lies below.
    below = path.length === 0 ? base : undefined;
    for (const parent of parents.kind === "list" ? parents.items : [parents]) {
      below = layFile(below, parent, schema, path, group, layer);
      if (below && isBroken(below)) {
        return below;
      }
    }
  }
  const type = typeOf(over);
  const typeBelow = typeOf(below);
  if (
    below?.kind !== "map" ||
    (type !== undefined && typeBelow !== undefined && type !== typeBelow)
  ) {
    below = undefined;
  }
  const object = objectOf(schema, type ?? typeBelow);
  const entries = new Map(below?.entries);
  for (const [key, entry] of over.entries) {
    if (key === "extends" && inherits) {
      continue;
    }
    const property = (object && propertyOf(object, key)) ?? open;
    const old = entries.get(key)?.node;
    if (object && isRemoval(entry.node, object, key)) {
      // The removal stays in the tree, for what this layer may itself be laid over.
      const found =
        old !== undefined &&
        (!isRemoval(old, object, key) || (old.kind === "scalar" && old.removed === true));
      entries.set(key, {
        key: entry.key,
        node: { kind: "scalar", value: null, origin: entry.node.origin, removed: found },
      });
      continue;
    }
    entries.set(key, {
      key: entry.key,
      node: lay(old, entry.node, property, [...path, key], layer),
    });
  }
  return { kind: "map", origin: over.origin, entries };
}

/**
 * Lay `over` upon `base` and return the result; neither is changed.
 * @param schema what rules the node at `path`
 */
export function lay(
  base: ConfigNode | undefined,
  over: ConfigNode,
  schema: JsonSchema,
  path: Path,
  layer: Layer,
): ConfigNode {
  const group = path.length === 0 ? layer.rootGroup : groupOf(schema);
  switch (over.kind) {
    case "scalar":
      if (group !== undefined && typeof over.value === "string" && over.value.startsWith("@")) {
        const chosen = layFile(undefined, over, schema, path, group, layer);
        // The node belongs to the place that chose it; its keys to the file that holds them.
        return chosen ? { ...chosen, origin: over.origin } : over;
      }
      return over;
    case "list":
      return {
        ...over,
        items: over.items.map((item, i) =>
          lay(undefined, item, itemOf(schema, i) ?? open, [...path, String(i)], layer),
        ),
      };
    case "map":
      return layMap(base, over, schema, path, layer);
  }
}

/** Take the removals out of a finished tree; one that removed nothing is a mistake. */
export function dropRemovals(
  node: ConfigNode,
  schema: JsonSchema,
  path: Path,
  sources: Sources,
): ConfigNode {
  if (node.kind === "list") {
    const items = node.items.map((item, i) =>
      dropRemovals(item, itemOf(schema, i) ?? open, [...path, String(i)], sources),
    );
    return { ...node, items };
  }
  if (node.kind === "scalar") {
    return node;
  }
  const object = objectOf(schema, typeOf(node));
  const entries = new Map(node.entries);
  for (const [key, entry] of node.entries) {
    const here = [...path, key];
    if (object && isRemoval(entry.node, object, key)) {
      entries.delete(key);
      if (entry.node.kind === "scalar" && !entry.node.removed) {
        sources.problems.add({
          code: "unknown-key",
          path: printPath(here),
          origin: entry.key,
          message: `null removes "${key}", but nothing of that name is set`,
          hint: "leave it out",
        });
      }
      continue;
    }
    const property = (object && propertyOf(object, key)) ?? open;
    entries.set(key, { ...entry, node: dropRemovals(entry.node, property, here, sources) });
  }
  return { ...node, entries };
}
