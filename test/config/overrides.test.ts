/** @file Overrides: the grammar, the order, and what they may not do. */

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parseOverride, printOverride } from "../../src/config/overrides.ts";
import { Problems } from "../../src/config/problems.ts";
import { type Json, parsePath, printPath, toJson } from "../../src/config/tree.ts";
import { failure, load, valid } from "./helpers.ts";

const files = {
  "experiments/x.yaml": `${valid}evals: {fvd: {type: frechet}}\n`,
  "clips/video-folder.yaml": "type: video-folder\npath: ???\nfps: 8\n",
};

describe("setting", () => {
  test("values are YAML 1.2, text is as typed", () => {
    const { config } = load(valid, [
      "trainer.lr=3e-4",
      "trainer.steps=1e3",
      "trainer.ema=false",
      "trainer.clip=null",
      "tokenizer.strides=[1, 2, 4]",
      "tokenizer.strides[2]=8",
      "name=123",
      "output=*.mp4: #1",
    ]);
    expect(config).toMatchObject({
      name: "123",
      output: "*.mp4: #1",
      trainer: { lr: 3e-4, steps: 1000, ema: false, clip: null },
      tokenizer: { strides: [1, 2, 8] },
    });
    expect(load(valid, ['name="a b"']).config.name).toBe("a b");
  });

  test("a component is selected, then refined, in order", () => {
    const { config, origins } = load(files, ["dataset=@video-folder", "dataset.path=clips"]);
    expect(config.dataset).toEqual({ type: "video-folder", path: "clips", frames: 8, fps: 8 });
    expect(origins["dataset.path"]).toMatchObject({ kind: "override", index: 2, col: 14 });
  });

  test("the other order is an error, not a silent loss", () => {
    expect(
      failure(files, ["dataset.frames=4", "dataset=@video-folder", "dataset.path=a"]),
    ).toMatchInlineSnapshot(`
      "override 1:1 (dataset.frames=4)  dataset.frames: has no effect: a later override replaces or removes what it belongs to
          put it after that override"
    `);
  });

  test("a later value of the same key wins without complaint", () => {
    expect(load(valid, ["seed=1", "seed=2"]).config.seed).toBe(2);
  });

  test("a type replaces its node, a map merges into it", () => {
    expect(load(valid, ["tokenizer.type=magvit"]).config.tokenizer).toEqual({
      type: "magvit",
      codes: 1024,
    });
    const merged = load(valid, ["tokenizer={quantizer: {type: vq}}"]).config.tokenizer;
    expect(merged).toMatchObject({ width: 32, quantizer: { type: "vq" } });
    const selected = load(files, ['dataset={extends: "@video-folder", path: a}']).config.dataset;
    expect(selected).toMatchObject({ type: "video-folder", path: "a", fps: 8 });
  });

  test("an item of a default list", () => {
    const { config, origins } = load(valid, ["tokenizer.strides.1=16"]);
    expect(config.tokenizer).toMatchObject({ strides: [4, 16, 8] });
    expect(origins["tokenizer.strides.0"]).toEqual({ kind: "default" });
  });

  test("named things come and go", () => {
    const more = load(files, ["+evals.psnr={type: reconstruction}", "evals.fvd=null"]);
    expect(more.config.evals).toEqual({ psnr: { type: "reconstruction" } });
    expect(load(files, ["~evals.fvd"]).config.evals).toEqual({});
    expect(load(files, ["~evals"]).config.evals).toEqual({});
  });

  test("the calling program's values come last", () => {
    const { config, origins } = load(valid, ["seed=1"], { set: { seed: 5, "trainer.steps": 9 } });
    expect([config.seed, config.trainer.steps]).toEqual([5, 9]);
    expect(origins.seed).toEqual({ kind: "set", path: "seed" });
    expect(failure(valid, [], { set: { "trainer.step": 1, "..": 2 } })).toMatchInlineSnapshot(`
      "2 problems in the config
        set trainer.step  trainer.step: unknown key "step"
            did you mean "steps"? keys of trainer: clip, ema, lr, schedule, steps, threads
        set ..  ".." is not a key path"
    `);
  });
});

describe("mistakes", () => {
  test("of grammar", () => {
    expect(
      failure(valid, ["seed", "=3", "seed:3", "~seed=1", "a..b=1", "trainer.steps=[1,"]),
    ).toMatchInlineSnapshot(`
      "6 problems in the config
        override 1:5 (seed)  expected "=" and a value
            write key.path=value, +key.path=value, key=@name or ~key.path
        override 2:1 (=3)  no key path here
            write key.path=value, +key.path=value, key=@name or ~key.path
        override 3:5 (seed:3)  expected "=", got ":3"
            write key.path=value, +key.path=value, key=@name or ~key.path
        override 4:6 (~seed=1)  unexpected "=1" after the path to remove
            write key.path=value, +key.path=value, key=@name or ~key.path
        override 5:1 (a..b=1)  no key path here
            write key.path=value, +key.path=value, key=@name or ~key.path
        override 6:18 (trainer.steps=[1,)  trainer.steps: not valid YAML: Flow sequence must end with a ]"
    `);
  });

  test("of keys", () => {
    expect(
      failure(files, [
        "trainer.step=3",
        "trainer.steps.x=3",
        "tokenizer.strides.3=1",
        "tokenizer.codes=3",
        "+name=y",
        "~trainer.lr",
        "~evals.fdv",
        "evals.psnr=null",
      ]),
    ).toMatchInlineSnapshot(`
      "8 problems in the config
        override 1:1 (trainer.step=3)  trainer.step: unknown key "step"
            did you mean "steps"? keys of trainer: clip, ema, lr, schedule, steps, threads
        override 2:1 (trainer.steps.x=3)  trainer.steps.x: trainer.steps is an integer ≥ 1; it has no keys
        override 3:1 (tokenizer.strides.3=1)  tokenizer.strides.3: tokenizer.strides is a list of 3 (0 to 2); it has no item "3"
        override 4:1 (tokenizer.codes=3)  tokenizer.codes: unknown key "codes"
            keys of magvit2: quantizer, strides, type, width
        override 5:2 (+name=y)  name: is already set at experiments/x.yaml:1:7
            leave out the "+" to change it
        override 6:2 (~trainer.lr)  trainer.lr: there is nothing to remove
        override 7:2 (~evals.fdv)  evals.fdv: there is nothing to remove
            set there: fvd
        override 8:1 (evals.psnr=null)  evals.psnr: null removes "psnr", but nothing of that name is set
            leave it out"
    `);
  });

  test("of values", () => {
    expect(
      failure(files, ["dataset=@video-foldr", "trainer.steps=@many", "evals.fvd.samples=few"]),
    ).toMatchInlineSnapshot(`
      "3 problems in the config
        override 1:9 (dataset=@video-foldr)  dataset: no file for "@video-foldr" in configs/clips
            did you mean "video-folder"? configs/clips has: video-folder
        override 2:15 (trainer.steps=@many)  trainer.steps: expected an integer ≥ 1, got "@many"
            no component can be selected here
        override 3:19 (evals.fvd.samples=few)  evals.fvd.samples: expected an integer ≥ 1, got "few""
    `);
  });

  test("of a type that is wrong, said once", () => {
    expect(failure(valid, ["tokenizer.type=magvit3", "tokenizer.width=4"])).toMatchInlineSnapshot(`
      "override 1:16 (tokenizer.type=magvit3)  tokenizer.type: unknown type "magvit3"
          did you mean "magvit"? types: magvit, magvit2"
    `);
  });
});

describe("round trips", () => {
  const path = fc.array(fc.oneof(fc.constantFrom("a", "b_c", "0", "x-1"), fc.string()), {
    minLength: 1,
    maxLength: 4,
  });

  test("paths", () => {
    fc.assert(
      fc.property(path, (keys) => {
        expect(parsePath(printPath(keys))).toEqual(keys);
      }),
    );
  });

  test("overrides", () => {
    const value = fc
      .jsonValue({ maxDepth: 2 })
      .map((json) => JSON.parse(JSON.stringify(json)) as Json);
    const operation = fc.constantFrom("set" as const, "add" as const, "remove" as const);
    fc.assert(
      fc.property(operation, path, value, (op, keys, json) => {
        fc.pre(!JSON.stringify(json).includes("__proto__"));
        const problems = new Problems();
        const parsed = parseOverride(printOverride(op, keys, json), 1, problems);
        expect(problems.all).toEqual([]);
        expect(parsed).toMatchObject({ operation: op, path: keys });
        const value = parsed?.value && toJson(parsed.value);
        expect(value).toEqual(op === "remove" ? undefined : json);
      }),
    );
  });
});
