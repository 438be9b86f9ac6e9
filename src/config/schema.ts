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

/** A closed object: unknown keys are errors. */
export function closed<P extends TProperties>(
  properties: P,
  options: { readonly description?: string; readonly title?: string } = {},
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
 */
export function component<const M extends { readonly [type: string]: Member }>(
  group: string,
  members: M,
  description?: string,
): TUnsafe<Static<M[keyof M]["schema"]>> {
  return Type.Unsafe<Static<M[keyof M]["schema"]>>({
    type: "object",
    group,
    ...(description ? { description } : {}),
    required: ["type"],
    discriminator: { propertyName: "type" },
    oneOf: Object.values(members).map((member) => member.schema),
  });
}
