/** @file Composition: extends, named components, replacing, removing; merging is associative. */

import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { lay } from "../../src/config/compose.ts";
import { Problems } from "../../src/config/problems.ts";
import { loadConfig } from "../../src/config/resolve.ts";
import { closed, Type } from "../../src/config/schema.ts";
import { Sources } from "../../src/config/sources.ts";
import { type ConfigNode, fromJson, type Json, toJson } from "../../src/config/tree.ts";
import { failure, folder, load, tokenizers, valid } from "./helpers.ts";

const base = `\
dataset: {type: shapes}
tokenizer: {type: magvit2, width: 64, quantizer: {type: lfq, bits: 6}}
evals:
  psnr: {type: reconstruction}
  fvd: {type: frechet, samples: 9}
`;

describe("extends", () => {
  test("later parents and the file itself win; maps merge, lists replace", () => {
    const { config } = load({
      "experiments/x.yaml":
        "extends: [base.yaml, ./more]\nname: x\ntokenizer: {strides: [1, 1, 1]}\n",
      "experiments/base.yaml": `${base}trainer: {steps: 1, lr: 0.1}\n`,
      "experiments/more.yml": "trainer: {steps: 2}\ntokenizer: {width: 8}\n",
    });
    expect(config.trainer).toMatchObject({ steps: 2, lr: 0.1 });
    expect(config.tokenizer).toEqual({
      type: "magvit2",
      width: 8,
      strides: [1, 1, 1],
      quantizer: { type: "lfq", bits: 6 },
    });
  });

  test("@name at the top is an experiment; a chain and a diamond are no circle", () => {
    const { config } = load({
      "experiments/x.yaml": 'extends: ["@left", "@right"]\nname: x\n',
      "experiments/left.yaml": 'extends: "@base"\nseed: 1\n',
      "experiments/right.yaml": 'extends: "@base"\ntrainer: {steps: 7}\n',
      "experiments/base.yaml": base,
    });
    expect([config.seed, config.trainer.steps]).toEqual([1, 7]);
  });

  test("another order of parents that say nothing in common gives the same hash", () => {
    const files = {
      "experiments/base.yaml": base,
      "experiments/a.yaml": "trainer: {steps: 3}\n",
      "experiments/b.yaml": "trainer: {lr: 0.0003}\n",
    };
    const hash = (order: string) =>
      load({ ...files, "experiments/x.yaml": `name: x\nextends: ${order}\n` }).hash;
    expect(hash("[base, a, b]")).toBe(hash("[b, base, a]"));
  });
});

describe("components", () => {
  const files = {
    "codecs/big.yaml": "type: magvit2\nwidth: 128\nquantizer: '@wide'\n",
    "codecs/bigger.yaml": "extends: '@big'\nwidth: 256\n",
    "quantizers/wide.yaml": "type: lfq\nbits: 18\n",
  };

  test("a name stands for its file, and files build on each other", () => {
    const x = "name: x\ndataset: {type: shapes}\ntokenizer: '@bigger'\n";
    const { config, origins } = load({ ...files, "experiments/x.yaml": x });
    expect(config.tokenizer).toMatchObject({ width: 256, quantizer: { bits: 18 } });
    expect(origins["tokenizer.quantizer.bits"]).toMatchObject({ kind: "file", line: 2, col: 7 });
  });

  test("extends inside a node refines the component", () => {
    const x =
      "name: x\ndataset: {type: shapes}\ntokenizer: {extends: '@big', quantizer: {bits: 4}}\n";
    const { config } = load({ ...files, "experiments/x.yaml": x });
    expect(config.tokenizer).toMatchObject({ width: 128, quantizer: { type: "lfq", bits: 4 } });
  });

  test("selecting a component starts the node anew", () => {
    const { config } = load({
      ...files,
      "experiments/base.yaml": base,
      "experiments/x.yaml": "extends: base\nname: x\ntokenizer: '@big'\n",
    });
    expect(config.tokenizer).toMatchObject({ width: 128, quantizer: { bits: 18 } });
  });

  test("another type replaces the node and keeps nothing of the old one", () => {
    const { config } = load({
      "experiments/base.yaml": base,
      "experiments/x.yaml":
        "extends: base\nname: x\ntokenizer: {width: 2, quantizer: {type: vq}}\n",
    });
    expect(config.tokenizer).toMatchObject({ width: 2, quantizer: { type: "vq", codes: 512 } });
    const other = load({
      "experiments/base.yaml": base,
      "experiments/x.yaml": "extends: base\nname: x\ntokenizer: {type: magvit}\n",
    });
    expect(other.config.tokenizer).toEqual({ type: "magvit", codes: 1024 });
  });

  test("a component with a default type needs none", () => {
    expect(load(valid).config.tokenizer).toMatchObject({ quantizer: { type: "lfq", bits: 10 } });
    const { config, origins } = load(valid, ["tokenizer.quantizer.bits=3"]);
    expect(config.tokenizer).toMatchObject({ quantizer: { type: "lfq", bits: 3 } });
    expect(origins["tokenizer.quantizer.type"]).toEqual({ kind: "default" });
  });

  test("names in a map of named things, added and removed", () => {
    const { config } = load({
      "experiments/base.yaml": base,
      "experiments/x.yaml":
        "extends: base\nname: x\nevals: {fvd: null, again: '@many', psnr: {type: frechet}}\n",
      "suites/many.yaml": "type: frechet\nsamples: 1000\n",
    });
    expect(config.evals).toEqual({
      psnr: { type: "frechet", samples: 64 },
      again: { type: "frechet", samples: 1000 },
    });
  });

  test("a removal reaches through files in between; one that removes nothing is an error", () => {
    const files = {
      "experiments/base.yaml": base,
      "experiments/without.yaml": "evals: {fvd: null}\n",
      "experiments/x.yaml": "extends: [base, without]\nname: x\n",
    };
    expect(Object.keys(load(files).config.evals)).toEqual(["psnr"]);
    expect(
      failure({ ...files, "experiments/x.yaml": `extends: without\n${valid}` }),
    ).toMatchInlineSnapshot(`
      "experiments/without.yaml:1:9  evals.fvd: null removes "fvd", but nothing of that name is set
          leave it out"
    `);
  });

  test("dirs are searched after the file's own neighbours", () => {
    const x = "name: x\ndataset: {type: shapes}\ntokenizer: '@big'\n";
    const dirs = [folder({ "codecs/big.yaml": "type: magvit\n" })];
    expect(failure({ "experiments/x.yaml": x })).toContain('no file for "@big"');
    expect(load({ "experiments/x.yaml": x }, [], { dirs }).config.tokenizer.type).toBe("magvit");
    expect(load({ ...files, "experiments/x.yaml": x }, [], { dirs }).config.tokenizer.type).toBe(
      "magvit2",
    );
  });

  test("an object without types may have files too, and a union may hold null or a component", () => {
    const own = closed({
      trainer: closed(
        { steps: Type.Integer(), lr: Type.Number({ default: 1 }) },
        { group: "trainers-of-test" },
      ),
      tokenizer: Type.Union([Type.Null(), tokenizers], { default: null }),
    });
    const root = folder({
      "trainers-of-test/long.yaml": "steps: 1000\n",
      "experiments/x.yaml": 'trainer: {extends: "@long", lr: 2}\n',
      "codecs/m.yaml": "type: magvit\n",
    });
    const file = join(root, "experiments/x.yaml");
    const get = (overrides: string[]) => loadConfig({ file, schema: own, overrides }).config;
    expect(get([])).toEqual({ trainer: { steps: 1000, lr: 2 }, tokenizer: null });
    expect(get(["trainer=@long", "tokenizer=@m", "tokenizer.codes=4"])).toEqual({
      trainer: { steps: 1000, lr: 1 },
      tokenizer: { type: "magvit", codes: 4 },
    });
    expect(() => get(["tokenizer={type: magvit, codes: 1}"])).toThrow(
      "tokenizer.codes: expected an integer ≥ 2, got 1",
    );
    expect(() => get(["tokenizer={type: magvit3}"])).toThrow('unknown type "magvit3"');
    expect(() => get(["tokenizer=3"])).toThrow(
      "tokenizer: expected null or a component of type magvit, magvit2, got 3",
    );
  });
});

describe("merging", () => {
  const layer = {
    sources: new Sources(new Problems(), []),
    rootGroup: "experiments",
    file: undefined,
    stack: [],
  };
  const merge = (a: ConfigNode, b: ConfigNode) => lay(a, b, {}, [], layer);
  const node = (value: Json) => fromJson(value, { kind: "default" });
  const { map } = fc.letrec<{ map: Json; value: Json }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 3 },
      fc.integer(),
      fc.array(fc.integer(), { maxLength: 2 }),
      tie("map"),
    ),
    map: fc.dictionary(fc.constantFrom("a", "b", "c"), tie("value"), {
      maxKeys: 3,
      noNullPrototype: true,
    }),
  }));

  test("is associative, and laying the same twice changes nothing", () => {
    fc.assert(
      fc.property(map, map, map, (x, y, z) => {
        const [a, b, c] = [node(x), node(y), node(z)];
        // A scalar between two maps hides the lower one only if it is laid on it first. Layers are
        // always laid from the bottom, so nothing depends on it.
        fc.pre(!cuts(x, y, z));
        expect(toJson(merge(merge(a, b), c))).toEqual(toJson(merge(a, merge(b, c))));
        expect(toJson(merge(merge(a, b), b))).toEqual(toJson(merge(a, b)));
      }),
    );
  });

  /** Is there a key that is a map in `x` and `z` but not in `y`? */
  function cuts(x: Json, y: Json, z: Json): boolean {
    const isMap = (value: Json | undefined): value is { readonly [key: string]: Json } =>
      typeof value === "object" && value !== null && !Array.isArray(value);
    if (!isMap(x) || !isMap(z)) {
      return false;
    }
    if (!isMap(y)) {
      return y !== undefined;
    }
    return Object.keys(x).some((key) => cuts(x[key] as Json, y[key] as Json, z[key] as Json));
  }
});
