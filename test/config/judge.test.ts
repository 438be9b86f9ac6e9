/** @file The quick judges of configs say what the whole schema's says. */

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { isValid, narrow, staysValid, validator } from "../../src/config/judge.ts";
import { loadConfig } from "../../src/config/resolve.ts";
import { closed, component, type TSchema, Type } from "../../src/config/schema.ts";
import type { Json } from "../../src/config/tree.ts";
import type { JsonSchema } from "../../src/config/walk.ts";
import { Ajv } from "ajv";
import { experimentSchema } from "../../src/trainers/experiment.ts";

const member = (type: string, more: { [key: string]: TSchema }) => ({
  schema: Type.Object({ type: Type.Literal(type), ...more }, { additionalProperties: false }),
});
const inner = component("inner", {
  a: member("a", { x: Type.Integer({ minimum: 0 }) }),
  b: member("b", { y: Type.Optional(Type.Array(Type.Number(), { maxItems: 2 })) }),
});
const schema = closed({
  one: inner,
  maybe: Type.Optional(Type.Union([inner, Type.Null()])),
  many: Type.Record(Type.String(), inner, { minProperties: 1 }),
  list: Type.Array(Type.Union([inner, Type.String({ minLength: 1 })]), { uniqueItems: true }),
  either: Type.Union([
    closed({ u: Type.Integer(), v: Type.Optional(Type.Boolean()) }),
    closed({ u: Type.String(), v: Type.Optional(Type.Integer()) }),
  ]),
}) as object as JsonSchema;

/** What the narrowed schema says of a value. */
function narrowly(own: JsonSchema, value: Json): boolean {
  const ajv = new Ajv({
    discriminator: true,
    strict: true,
    strictRequired: false,
    allowUnionTypes: true,
  });
  ajv.addVocabulary(["group", "semantic"]);
  return ajv.compile(narrow(own, [value]))(value);
}

const scalar = fc.constantFrom<Json>(null, true, 0, 1, -1, 1.5, "", "a", "text");
const part: fc.Arbitrary<Json> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ type: fc.constant("a"), x: fc.constantFrom(0, 1, 7) }) },
  {
    weight: 8,
    arbitrary: fc.record(
      { type: fc.constant("b"), y: fc.array(fc.integer(), { maxLength: 3 }) },
      { requiredKeys: ["type"] },
    ),
  },
  { weight: 1, arbitrary: fc.record({ type: scalar, x: scalar, z: scalar }, { requiredKeys: [] }) },
  { weight: 1, arbitrary: scalar },
) as fc.Arbitrary<Json>;
const config = fc.record(
  {
    one: part,
    maybe: fc.oneof(part, fc.constant(null)),
    many: fc.dictionary(fc.constantFrom("p", "q", "__proto__", "constructor"), part),
    list: fc.array(fc.oneof(part, fc.constantFrom("s", "")), { maxLength: 3 }),
    either: fc.record(
      { u: fc.constantFrom<Json>(1, "t"), v: fc.constantFrom<Json>(true, 2) },
      { requiredKeys: ["u"] },
    ),
  },
  { requiredKeys: ["one", "many", "list", "either"] },
) as fc.Arbitrary<Json>;

/** With ordinary prototypes, as configs have. */
const plain = (value: Json): Json => JSON.parse(JSON.stringify(value)) as Json;

describe("a narrowed schema", () => {
  test("says yes exactly when the whole does", () => {
    let valid = 0;
    fc.assert(
      fc.property(config.map(plain), (value) => {
        const whole = validator(schema)(value);
        valid += Number(whole);
        expect(narrowly(schema, value)).toBe(whole);
      }),
      { numRuns: 60, seed: 1 },
    );
    expect(valid).toBeGreaterThan(3);
    expect(valid).toBeLessThan(57);
  });

  test("accepts the quick start, and not with a wrong value anywhere", () => {
    const { config: own } = loadConfig({ file: "@quickstart", schema: experimentSchema });
    const whole = experimentSchema as object as JsonSchema;
    expect(narrowly(whole, own as Json)).toBe(true);
    const wrong = structuredClone(own) as { evals: { [name: string]: { type: string } } };
    Object.values(wrong.evals)[0]!.type = "no-such-suite";
    expect(narrowly(whole, wrong as Json)).toBe(false);
  });
});

test("after one scalar has changed, the part around it decides as the whole does", () => {
  const paths = [
    ["one", "x"],
    ["maybe", "x"],
    ["many", "p", "x"],
    ["either", "u"],
    ["either", "v"],
  ];
  const start = {
    one: { type: "a", x: 1 },
    maybe: { type: "a", x: 1 },
    many: { p: { type: "a", x: 1 }, q: { type: "b" } },
    list: ["s"],
    either: { u: 1, v: true },
  };
  for (const path of paths) {
    for (const value of [null, true, 0, 3, -1, 1.5, "", "text"]) {
      const changed = structuredClone(start) as { readonly [key: string]: Json };
      const last = path
        .slice(0, -1)
        .reduce<Json>((node, key) => (node as { [key: string]: Json })[key]!, changed);
      (last as { [key: string]: Json })[path.at(-1)!] = value;
      expect([path, value, staysValid(changed, path, schema)]).toEqual([
        path,
        value,
        validator(schema)(changed),
      ]);
    }
  }
  expect(isValid(start, schema)).toBe(true);
});
