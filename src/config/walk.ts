/**
 * @file Walking a JSON Schema beside a value: which schema rules a key, which member of a component
 * union a `type` chooses, and how to say in words what a schema wants. Knows only the few forms that
 * schema.ts and TypeBox produce.
 */

/** A JSON Schema, as far as this program reads it. */
export interface JsonSchema {
  readonly type?: string | readonly string[];
  readonly properties?: { readonly [key: string]: JsonSchema };
  readonly patternProperties?: { readonly [pattern: string]: JsonSchema };
  readonly additionalProperties?: boolean | JsonSchema;
  readonly required?: readonly string[];
  readonly items?: JsonSchema | readonly JsonSchema[];
  readonly oneOf?: readonly JsonSchema[];
  readonly anyOf?: readonly JsonSchema[];
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly default?: unknown;
  readonly description?: string;
  readonly title?: string;
  readonly group?: string;
  readonly semantic?: boolean;
  readonly discriminator?: { readonly propertyName: string };
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
  readonly exclusiveMaximum?: number;
  readonly multipleOf?: number;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly minLength?: number;
  readonly pattern?: string;
  readonly [keyword: string]: unknown;
}

const own = <T>(object: { readonly [key: string]: T } | undefined, key: string): T | undefined =>
  object && Object.hasOwn(object, key) ? object[key] : undefined;

/** Is the schema a union of components told apart by `type`? */
export function isComponent(schema: JsonSchema): boolean {
  return schema.discriminator !== undefined && schema.oneOf !== undefined;
}

/** The component union in a schema, which may be one arm of an `anyOf`. */
export function componentOf(schema: JsonSchema): JsonSchema | undefined {
  return isComponent(schema) ? schema : schema.anyOf?.find(isComponent);
}

/** The `type` names that a component union knows. */
export function memberNames(schema: JsonSchema): string[] {
  return (componentOf(schema)?.oneOf ?? []).map((member) => String(member.properties?.type?.const));
}

/** The `type` that is meant where none is written. */
export function defaultType(schema: JsonSchema): string | undefined {
  const value = componentOf(schema)?.default as { type?: unknown } | undefined;
  return typeof value?.type === "string" ? value.type : undefined;
}

/**
 * The object schema that rules a map under this schema.
 * @param type the map's `type`, where it has one
 * @returns undefined where no object is allowed, or where no member has that type
 */
export function objectOf(schema: JsonSchema, type: string | undefined): JsonSchema | undefined {
  if (isComponent(schema)) {
    const name = type ?? defaultType(schema);
    return schema.oneOf?.find((member) => member.properties?.type?.const === name);
  }
  if (schema.anyOf) {
    for (const arm of schema.anyOf) {
      const found = objectOf(arm, type);
      if (found) {
        return found;
      }
    }
    return undefined;
  }
  const object =
    schema.properties ??
    schema.patternProperties ??
    typeof schema.additionalProperties === "object";
  return object ? schema : undefined;
}

/** The schema of a key in a map; undefined where the key is unknown. */
export function propertyOf(object: JsonSchema, key: string): JsonSchema | undefined {
  const property = own(object.properties, key);
  if (property) {
    return property;
  }
  if (key === "__proto__") {
    return undefined;
  }
  for (const [pattern, schema] of Object.entries(object.patternProperties ?? {})) {
    if (new RegExp(pattern, "u").test(key)) {
      return schema;
    }
  }
  return typeof object.additionalProperties === "object" ? object.additionalProperties : undefined;
}

/** Is this key of the map one that the user names, as in a map of evaluations? */
export function isNamed(object: JsonSchema, key: string): boolean {
  return own(object.properties, key) === undefined && propertyOf(object, key) !== undefined;
}

/** The schema of a list's item; undefined where no list is allowed or the tuple ends before it. */
export function itemOf(schema: JsonSchema, index: number): JsonSchema | undefined {
  if (schema.items === undefined) {
    const arm = schema.anyOf?.find((one) => one.items !== undefined);
    return arm && itemOf(arm, index);
  }
  return Array.isArray(schema.items)
    ? (schema.items as readonly JsonSchema[])[index]
    : (schema.items as JsonSchema);
}

/** The configs/ folder that `@name` means under this schema. */
export function groupOf(schema: JsonSchema): string | undefined {
  return schema.group ?? schema.anyOf?.find((arm) => arm.group !== undefined)?.group;
}

/** Does the schema constrain nothing (an unknown or open value)? */
export function isOpen(schema: JsonSchema): boolean {
  return (
    schema.type === undefined &&
    schema.anyOf === undefined &&
    schema.oneOf === undefined &&
    schema.enum === undefined &&
    !("const" in schema) &&
    schema.properties === undefined
  );
}

/** Is null a value here (and not the removal of a name)? */
export function allowsNull(schema: JsonSchema): boolean {
  return schema.type === "null" || (schema.anyOf ?? []).some(allowsNull) || isOpen(schema);
}

/** Are strings the only values here? Then text need not be quoted on the command line. */
export function isString(schema: JsonSchema): boolean {
  if (schema.anyOf) {
    return schema.anyOf.every(isString);
  }
  if (schema.enum) {
    return schema.enum.every((value) => typeof value === "string");
  }
  return schema.type === "string" || typeof schema.const === "string";
}

/** The constants that a schema lists, if it is nothing but a list of constants. */
export function choicesOf(schema: JsonSchema): readonly unknown[] | undefined {
  if (schema.enum) {
    return schema.enum;
  }
  if ("const" in schema) {
    return [schema.const];
  }
  const arms = schema.anyOf?.map(choicesOf);
  return arms?.every((arm) => arm !== undefined) ? arms.flatMap((arm) => arm ?? []) : undefined;
}

const nouns: { readonly [type: string]: string } = {
  integer: "an integer",
  number: "a number",
  string: "a string",
  boolean: "true or false",
  null: "null",
  object: "a map",
  array: "a list",
};

function range(schema: JsonSchema): string {
  const parts = [
    schema.minimum !== undefined && `≥ ${schema.minimum}`,
    schema.exclusiveMinimum !== undefined && `> ${schema.exclusiveMinimum}`,
    schema.maximum !== undefined && `≤ ${schema.maximum}`,
    schema.exclusiveMaximum !== undefined && `< ${schema.exclusiveMaximum}`,
    schema.multipleOf !== undefined && `a multiple of ${schema.multipleOf}`,
  ].filter((part) => typeof part === "string");
  return parts.length > 0 ? ` ${parts.join(" and ")}` : "";
}

/** How a list's allowed length reads, e.g. ` of 3` or ` of at least 1`. */
function count(schema: JsonSchema): string {
  const { minItems, maxItems } = schema;
  if (Array.isArray(schema.items)) {
    return ` of ${schema.items.length}`;
  }
  if (minItems !== undefined && minItems === maxItems) {
    return ` of ${minItems}`;
  }
  if (minItems !== undefined && maxItems !== undefined) {
    return ` of ${minItems} to ${maxItems}`;
  }
  if (minItems !== undefined) {
    return ` of at least ${minItems}`;
  }
  return maxItems === undefined ? "" : ` of at most ${maxItems}`;
}

/** In words, what a schema wants: "an integer ≥ 1", "one of a, b", "a list of 3 integers". */
export function describe(schema: JsonSchema): string {
  const choices = choicesOf(schema);
  if (choices) {
    const words = choices.map((choice) =>
      typeof choice === "string" ? choice : JSON.stringify(choice),
    );
    return words.length === 1 ? (words[0] as string) : `one of ${words.join(", ")}`;
  }
  if (isComponent(schema)) {
    return `a component of type ${memberNames(schema).join(", ")}`;
  }
  if (schema.anyOf) {
    return schema.anyOf.map(describe).join(" or ");
  }
  if (schema.type === "array") {
    const first = itemOf(schema, 0);
    const words = first && !isOpen(first) ? `, each ${describe(first)}` : "";
    return `a list${count(schema)}${words}`;
  }
  if (schema.type === "string" && schema.pattern !== undefined) {
    return `a string that matches ${schema.pattern}`;
  }
  if (schema.type === "string" && (schema.minLength ?? 0) > 0) {
    return "a string that is not empty";
  }
  if (typeof schema.type === "string") {
    return `${nouns[schema.type] ?? schema.type}${range(schema)}`;
  }
  return Array.isArray(schema.type)
    ? schema.type.map((type: string) => nouns[type] ?? type).join(" or ")
    : "any value";
}

/** Every schema below this one that has files of its own under configs/, by group, in order. */
export function groupsIn(
  schema: JsonSchema,
  found = new Map<string, JsonSchema>(),
): Map<string, JsonSchema> {
  if (schema.group !== undefined) {
    if (found.has(schema.group)) {
      return found;
    }
    found.set(schema.group, schema);
  }
  const items = schema.items === undefined ? [] : [schema.items].flat();
  const inner = [
    ...Object.values(schema.properties ?? {}),
    ...Object.values(schema.patternProperties ?? {}),
    ...(typeof schema.additionalProperties === "object" ? [schema.additionalProperties] : []),
    ...(schema.oneOf ?? []),
    ...(schema.anyOf ?? []),
    ...(items as readonly JsonSchema[]),
  ];
  for (const one of inner) {
    groupsIn(one, found);
  }
  return found;
}
