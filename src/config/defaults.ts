/**
 * @file Fills the schema's defaults into a tree, before references are resolved, so that `${a.b}` may
 * lead to a default and a default may itself be a reference. (ajv could fill them while validating,
 * but not through unions, and the origins would be lost.)
 */

import { type ConfigNode, type Entry, fromJson, type Origin, typeOf } from "./tree.ts";
import { defaultType, isComponent, itemOf, type JsonSchema, objectOf, propertyOf } from "./walk.ts";

const origin: Origin = { kind: "default" };

/** Can an absent object be made from defaults alone? */
function fillable(schema: JsonSchema): boolean {
  if (schema.default !== undefined) {
    return true;
  }
  if (isComponent(schema) || schema.anyOf || !schema.properties) {
    return false;
  }
  return (schema.required ?? []).every((key) => {
    const property = schema.properties?.[key];
    return property !== undefined && fillable(property);
  });
}

function defaultEntry(object: JsonSchema, key: string, schema: JsonSchema): Entry | undefined {
  if (schema.default !== undefined) {
    return { key: origin, node: fillDefaults(fromJson(schema.default, origin), schema) };
  }
  if (object.required?.includes(key) && fillable(schema)) {
    return { key: origin, node: fillDefaults(fromJson({}, origin), schema) };
  }
  return undefined;
}

/**
 * The tree with every absent key that has a default, in the order of the schema, followed by keys
 * that the schema does not know. Filling twice changes nothing.
 */
export function fillDefaults(node: ConfigNode, schema: JsonSchema): ConfigNode {
  if (node.kind === "scalar") {
    return node;
  }
  if (node.kind === "list") {
    return {
      ...node,
      items: node.items.map((item, i) => fillDefaults(item, itemOf(schema, i) ?? {})),
    };
  }
  const object = objectOf(schema, typeOf(node));
  if (!object) {
    return node;
  }
  const entries = new Map<string, Entry>();
  const type = defaultType(schema);
  for (const [key, property] of Object.entries(object.properties ?? {})) {
    const written = node.entries.get(key);
    if (written) {
      entries.set(key, { ...written, node: fillDefaults(written.node, property) });
      continue;
    }
    const entry =
      key === "type" && type !== undefined
        ? { key: origin, node: fromJson(type, origin) }
        : defaultEntry(object, key, property);
    if (entry) {
      entries.set(key, entry);
    }
  }
  for (const [key, entry] of node.entries) {
    if (!entries.has(key)) {
      const property = propertyOf(object, key);
      entries.set(key, property ? { ...entry, node: fillDefaults(entry.node, property) } : entry);
    }
  }
  return { ...node, entries };
}
