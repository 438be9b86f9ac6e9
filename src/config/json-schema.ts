/**
 * @file JSON Schema documents for editors (`# yaml-language-server: $schema=...`). What a person
 * edits is a fragment: keys may come from `extends`, values may be references or `@name`. So these
 * schemas complete and explain like the real ones, but require nothing and let such strings pass.
 */

import type { TSchema } from "./schema.ts";
import { groupsIn, isComponent, isString, type JsonSchema } from "./walk.ts";

/** The names that `@` may be followed by in a group. */
export type NamesOf = (group: string) => readonly string[];

const draft = "http://json-schema.org/draft-07/schema#";

/** A reference, a component's name or an open value: strings that stand for another value. */
const standIn: JsonSchema = { type: "string", pattern: "\\$\\{|^@|^\\?\\?\\?$" };

const parents: JsonSchema = {
  anyOf: [{ type: "string" }, { type: "array", items: { type: "string" } }],
  description: 'What this builds on: a file path or "@name", or a list of them, left to right.',
};

/** Keywords that only this program reads. */
function bare(schema: JsonSchema): JsonSchema {
  const { group: _group, semantic: _semantic, discriminator: _tag, ...rest } = schema;
  return rest;
}

/** Description and default, repeated beside an `anyOf` because editors look for them there. */
function notes(schema: JsonSchema): JsonSchema {
  return {
    ...(schema.title === undefined ? {} : { title: schema.title }),
    ...(schema.description === undefined ? {} : { description: schema.description }),
    ...(schema.default === undefined ? {} : { default: schema.default }),
  };
}

function withStandIn(relaxed: JsonSchema, original: JsonSchema, names: NamesOf): JsonSchema {
  const { group } = original;
  const known = group === undefined ? [] : names(group).map((name) => `@${name}`);
  const arms = relaxed.anyOf ?? [relaxed];
  const choices = known.length > 0 ? [{ type: "string", enum: known } as JsonSchema] : [];
  return { ...notes(original), anyOf: [...choices, ...arms, standIn] };
}

/** The body of an object without its requirements. */
function relaxedObject(schema: JsonSchema, names: NamesOf, inherits: boolean): JsonSchema {
  const { required: _required, default: _default, ...rest } = bare(schema);
  const each = (group: { readonly [key: string]: JsonSchema } | undefined, named: boolean) =>
    Object.fromEntries(
      Object.entries(group ?? {}).map(([key, property]) => {
        const relaxed = relax(property, names);
        return [
          key,
          named ? { anyOf: [...(relaxed.anyOf ?? [relaxed]), { type: "null" }] } : relaxed,
        ];
      }),
    );
  const properties = {
    ...(inherits ? { extends: parents } : {}),
    ...each(schema.properties, false),
  };
  return {
    ...rest,
    ...(Object.keys(properties).length > 0 ? { properties } : {}),
    // null under a name takes an inherited entry away.
    ...(schema.patternProperties
      ? { patternProperties: each(schema.patternProperties, true) }
      : {}),
  };
}

/**
 * A component: the keys of its type where one is written; where none is (it is inherited), any key
 * of any member.
 */
function relaxedComponent(schema: JsonSchema, names: NamesOf): JsonSchema {
  const members = (schema.oneOf ?? []).map((member) => relaxedObject(member, names, true));
  const types = (schema.oneOf ?? []).map((member) => member.properties?.type?.const);
  const union = new Map<string, JsonSchema[]>();
  for (const { properties } of members) {
    for (const [key, property] of Object.entries(properties ?? {})) {
      const known = union.get(key) ?? [];
      if (!known.some((other) => JSON.stringify(other) === JSON.stringify(property))) {
        union.set(key, [...known, property]);
      }
    }
  }
  const properties = Object.fromEntries(
    [...union].map(([key, forms]) => [
      key,
      forms.length === 1 ? (forms[0] as JsonSchema) : { anyOf: forms },
    ]),
  );
  return {
    type: "object",
    properties: {
      ...properties,
      type: {
        description: "Which component this is.",
        anyOf: members.map((member, i) => ({
          const: types[i],
          ...(member.description === undefined ? {} : { description: member.description }),
        })),
      },
    },
    additionalProperties: false,
    allOf: members.map((member, i) => ({
      if: { properties: { type: { const: types[i] } }, required: ["type"] },
      // oxlint-disable-next-line unicorn/no-thenable -- a keyword of JSON Schema
      then: {
        properties: { ...member.properties, type: { const: types[i] } },
        propertyNames: { enum: Object.keys(member.properties ?? {}) },
      },
    })),
  };
}

/** The editors' form of a schema. */
export function relax(schema: JsonSchema, names: NamesOf = () => []): JsonSchema {
  if (isComponent(schema)) {
    return withStandIn(relaxedComponent(schema, names), schema, names);
  }
  if (schema.properties || schema.patternProperties) {
    return withStandIn(relaxedObject(schema, names, schema.group !== undefined), schema, names);
  }
  if (schema.anyOf) {
    const arms = schema.anyOf.flatMap((arm) => {
      const relaxed = relax(arm, names);
      return (relaxed.anyOf ?? [relaxed]).filter((one) => one !== standIn);
    });
    return withStandIn({ anyOf: arms }, schema, names);
  }
  if (schema.items) {
    const items = Array.isArray(schema.items)
      ? schema.items.map((item: JsonSchema) => relax(item, names))
      : relax(schema.items as JsonSchema, names);
    return withStandIn({ ...bare(schema), items }, schema, names);
  }
  if ("const" in schema) {
    return bare(schema);
  }
  const anyText = isString(schema) && schema.pattern === undefined;
  return anyText && schema.enum === undefined
    ? bare(schema)
    : withStandIn(bare(schema), schema, names);
}

/** A document whose top is the file itself, never a stand-in. */
function document(schema: JsonSchema, title: string, names: NamesOf): JsonSchema {
  const body = isComponent(schema)
    ? relaxedComponent(schema, names)
    : relaxedObject(schema, names, true);
  return { $schema: draft, title, ...notes(schema), ...body };
}

/**
 * The schema documents to write under configs/schema/.
 * @param root the schema of experiments, whose groups get a document each
 * @param names lists each group's files, so that editors complete `@name`
 * @returns documents by file name: `experiments.json`, `tokenizers.json`, ...
 */
export function jsonSchemas(
  root: TSchema,
  names: NamesOf = () => [],
): { [file: string]: JsonSchema } {
  const schema = root as JsonSchema;
  const all = new Map([[schema.group ?? "experiments", schema], ...groupsIn(schema)]);
  return Object.fromEntries(
    [...all].map(([group, one]) => [`${group}.json`, document(one, `Tessera: ${group}`, names)]),
  );
}
