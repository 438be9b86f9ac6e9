/**
 * @file Schemas of components, written once: TypeBox gives the TypeScript type (`Static`) and the
 * JSON Schema that ajv checks and editors complete from.
 *
 * House rules: keys are snake_case; every property has a `description` (it becomes the reference in
 * docs/) and, wherever a sensible one exists, a `default`; objects are closed. A property whose value
 * cannot change any result (threads, output folders, how often to print) says `semantic: false`, and
 * the config's hash leaves it out.
 */

import {
  type Static,
  type TObject,
  type TProperties,
  type TSchema,
  type TUnsafe,
  Type,
} from "typebox";

export { type Static, type TObject, type TProperties, type TSchema, type TUnsafe, Type };

/**
 * A closed object: unknown keys are errors. A missing object whose keys all have defaults is filled in.
 * @param options.group the folder under configs/ whose files `@name` may select for this object
 * @param options.semantic false: nothing inside can change a result, so the hash leaves it out
 */
export function closed<P extends TProperties>(
  properties: P,
  options: {
    readonly description?: string;
    readonly title?: string;
    readonly group?: string;
    readonly semantic?: false;
  } = {},
): TObject<P> {
  return Type.Object(properties, { ...options, additionalProperties: false });
}

/** What a registry of components maps its `type` names to. */
export interface Member<S extends TObject = TObject> {
  readonly schema: S;
}

/**
 * The schema of "one of these components, told apart by `type`". Each member's schema must have
 * `type: Type.Literal(<its name>)`.
 * @param group the folder under configs/ that `@name` looks in, e.g. "tokenizers"
 * @param options.default the member that is meant where no `type` is written; without it `type` is
 *   required
 */
export function component<const M extends { readonly [type: string]: Member }>(
  group: string,
  members: M,
  description?: string,
  options: { readonly default?: keyof M & string; readonly semantic?: false } = {},
): TUnsafe<Static<M[keyof M]["schema"]>> {
  return Type.Unsafe<Static<M[keyof M]["schema"]>>({
    type: "object",
    group,
    ...(description ? { description } : {}),
    ...(options.default ? { default: { type: options.default } } : {}),
    ...(options.semantic === false ? { semantic: false } : {}),
    required: ["type"],
    discriminator: { propertyName: "type" },
    oneOf: Object.values(members).map((member) => member.schema),
  });
}
