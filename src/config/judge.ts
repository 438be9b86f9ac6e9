/**
 * @file Compiled judges of values. Compiling the schema of a whole experiment, with every component
 * that there is, takes longer than most commands may take to start; a config uses few of them. So a
 * first verdict comes from the schema narrowed to what the value uses, which says yes to it exactly
 * when the whole schema does. Who has many values to judge, or wants to know what is wrong, compiles
 * the whole.
 */

import { Ajv, type ValidateFunction } from "ajv";
import type { Json, Path } from "./tree.ts";
import { isComponent, type JsonSchema, objectOf, propertyOf } from "./walk.ts";

type Map = { readonly [key: string]: Json };

const vocabulary = ["group", "semantic"];

const options = {
  discriminator: true,
  strict: true,
  // A component union requires `type`, which only its members describe.
  strictRequired: false,
  allowUnionTypes: true,
} as const;

const compiled = new WeakMap<object, ValidateFunction>();

/** The whole schema's judge, which tells every error; compiled once. */
export function validator(schema: JsonSchema): ValidateFunction {
  let validate = compiled.get(schema);
  if (!validate) {
    const ajv = new Ajv({ ...options, allErrors: true, verbose: true });
    ajv.addVocabulary(vocabulary);
    validate = ajv.compile(schema);
    compiled.set(schema, validate);
  }
  return validate;
}

/** How many values of a schema have been judged by narrowed ones. */
const narrowed = new WeakMap<object, number>();

/** Narrowing costs a compilation of its own each time, about a tenth of the whole one. */
const mostNarrowed = 5;

/** Is a plain value valid? */
export function isValid(value: Json, schema: JsonSchema): boolean {
  const times = narrowed.get(schema) ?? 0;
  if (compiled.has(schema) || times >= mostNarrowed) {
    return validator(schema)(value);
  }
  narrowed.set(schema, times + 1);
  const ajv = new Ajv(options);
  ajv.addVocabulary(vocabulary);
  return ajv.compile(narrow(schema, [value]))(value);
}

const isMap = (value: Json): value is Map =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** A schema without the keys, and the members of component unions, that none of the values has. */
export function narrow(schema: JsonSchema, values: readonly Json[]): JsonSchema {
  const maps = values.filter(isMap);
  if (isComponent(schema)) {
    const members = schema.oneOf!.flatMap((member) => {
      const own = maps.filter(({ type }) => type === member.properties?.type?.const);
      return own.length > 0 ? [narrow(member, own)] : [];
    });
    if (members.length > 0) {
      return { ...schema, oneOf: members };
    }
    // No value can be valid: each is no map, or has a type that is not known.
    const { oneOf: _, discriminator: _d, ...rest } = schema;
    return { ...rest, not: {} };
  }
  const { properties, patternProperties, additionalProperties, items, anyOf } = schema;
  const has = (key: string): boolean => maps.some((map) => Object.hasOwn(map, key));
  const under = (holds: (key: string) => boolean): Json[] =>
    maps.flatMap((map) =>
      Object.keys(map)
        .filter(holds)
        .map((key) => map[key]!),
    );
  const patterns = Object.keys(patternProperties ?? {}).map((text) => new RegExp(text, "u"));
  return {
    ...schema,
    ...(anyOf && { anyOf: anyOf.map((arm) => narrow(arm, values)) }),
    ...(properties && {
      properties: Object.fromEntries(
        Object.entries(properties)
          .filter(([key]) => has(key))
          .map(([key, own]) => [
            key,
            narrow(
              own,
              under((name) => name === key),
            ),
          ]),
      ),
    }),
    ...(patternProperties && {
      patternProperties: Object.fromEntries(
        Object.entries(patternProperties).map(([text, own], i) => [
          text,
          narrow(
            own,
            under((name) => patterns[i]!.test(name)),
          ),
        ]),
      ),
    }),
    ...(typeof additionalProperties === "object" && {
      additionalProperties: narrow(
        additionalProperties,
        under(
          (name) =>
            !(properties && Object.hasOwn(properties, name)) &&
            !patterns.some((pattern) => pattern.test(name)),
        ),
      ),
    }),
    ...(items !== undefined &&
      !Array.isArray(items) && {
        items: narrow(items as JsonSchema, values.filter((value) => Array.isArray(value)).flat()),
      }),
  };
}

const judges = new WeakMap<object, ValidateFunction>();

/** Keywords of a map's schema that look at one key's value alone, or at no value. */
const separate = new Set([
  "type",
  "properties",
  "patternProperties",
  "required",
  "additionalProperties",
  "discriminator",
  "oneOf",
  "group",
  "semantic",
  "default",
  "title",
  "description",
]);

/**
 * Is a valid value still valid after the scalar at one path, which is no component's `type`, has
 * become another? Judges the smallest part that decides it.
 */
export function staysValid(changed: Json, path: Path, schema: JsonSchema): boolean {
  let value = changed;
  let own = schema;
  for (const key of path) {
    const object = isMap(value) ? objectOf(own, value.type as string | undefined) : undefined;
    const simple = [own, object].every(
      (part) =>
        part &&
        (part === object || isComponent(part)) &&
        Object.keys(part).every((word) => separate.has(word) || word.startsWith("~")),
    );
    // A key that several schemas rule is left to them all.
    const inner =
      simple && object && !object.patternProperties ? propertyOf(object, key) : undefined;
    if (inner === undefined) {
      break;
    }
    own = inner;
    value = (value as Map)[key]!;
  }
  let judge = judges.get(own);
  if (!judge) {
    const ajv = new Ajv(options);
    ajv.addVocabulary(vocabulary);
    judge = ajv.compile(own);
    judges.set(own, judge);
  }
  return judge(value);
}
