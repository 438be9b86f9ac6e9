/** @file What a mistaken user reads: every kind of error, word for word, with its place. */

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ConfigErrors } from "../../src/config/problems.ts";
import { loadConfig, validateFrozen } from "../../src/config/resolve.ts";
import { type Config, failure, load, schema, valid } from "./helpers.ts";

describe("values", () => {
  test("five mistakes are five errors, sorted by place", () => {
    const message = failure(`\
name: x
sede: 3
dataset:
  type: shapes
  frames: eight
tokenizer:
  type: magvit3
trainer:
  steps: 0
  schedule: cosin
`);
    expect(message).toMatchInlineSnapshot(`
      "5 problems in the config
        experiments/x.yaml:2:1  sede: unknown key "sede"
            did you mean "seed"? keys of the config: dataset, evals, name, output, seed, tokenizer, trainer
        experiments/x.yaml:5:11  dataset.frames: expected an integer, got "eight"
        experiments/x.yaml:7:9  tokenizer.type: unknown type "magvit3"
            did you mean "magvit"? types: magvit, magvit2
        experiments/x.yaml:9:10  trainer.steps: expected an integer ≥ 1, got 0
        experiments/x.yaml:10:13  trainer.schedule: expected one of cosine, constant, got "cosin"
            did you mean "cosine"?"
    `);
  });

  test("a missing key points at the map that lacks it", () => {
    expect(
      failure("name: x\ndataset: {type: shapes}\ntokenizer:\n  type: magvit2\n"),
    ).toMatchInlineSnapshot(
      `
      "experiments/x.yaml:3:1  tokenizer.width: is required: an integer ≥ 1
          Channels of the first layer."
    `,
    );
    expect(failure("name: x\n")).toMatchInlineSnapshot(`
      "2 problems in the config
        experiments/x.yaml:1:1  dataset: is required: a component of type shapes, video-folder
            e.g. dataset: "@name" of a file in configs/clips
        experiments/x.yaml:1:1  tokenizer: is required: a component of type magvit, magvit2
            e.g. tokenizer: "@name" of a file in configs/codecs"
    `);
    expect(failure("")).toMatchInlineSnapshot(`
      "3 problems in the config
        experiments/x.yaml:1:1  name: is required: a string that is not empty
            Names the results folder.
        experiments/x.yaml:1:1  dataset: is required: a component of type shapes, video-folder
            e.g. dataset: "@name" of a file in configs/clips
        experiments/x.yaml:1:1  tokenizer: is required: a component of type magvit, magvit2
            e.g. tokenizer: "@name" of a file in configs/codecs"
    `);
  });

  test("a component without a type, a scalar in its place, a list in its place", () => {
    expect(
      failure("name: x\ndataset: {frames: 8}\ntokenizer: magvit2\nevals: [a]\n"),
    ).toMatchInlineSnapshot(`
      "3 problems in the config
        experiments/x.yaml:2:1  dataset.type: is required: one of shapes, video-folder
        experiments/x.yaml:3:12  tokenizer: expected a component of type magvit, magvit2, got "magvit2"
            write {type: magvit2}
        experiments/x.yaml:4:8  evals: expected a map, got the list ["a"]"
    `);
  });

  test("numbers are finite, plain and exact", () => {
    expect(
      failure(
        `${valid}trainer: {lr: .inf, steps: 1_000, clip: .nan}\nseed: 12345678901234567890\n`,
      ),
    ).toMatchInlineSnapshot(`
      "4 problems in the config
        experiments/x.yaml:4:15  trainer.lr: expected a finite number > 0, got .inf
        experiments/x.yaml:4:28  trainer.steps: expected an integer ≥ 1, got "1_000"
            write 1000, without quotes or separators
        experiments/x.yaml:4:41  trainer.clip: expected null or a finite number, got .nan
        experiments/x.yaml:5:7  the integer 12345678901234567890 cannot be kept exactly: it would become 12345678901234567000"
    `);
  });

  test("YAML 1.1 words and quoted numbers get a hint", () => {
    expect(failure(`${valid}trainer: {ema: yes, steps: "10", clip: [1]}\n`)).toMatchInlineSnapshot(`
      "3 problems in the config
        experiments/x.yaml:4:16  trainer.ema: expected true or false, got "yes"
            write true: YAML 1.2 reads yes as text
        experiments/x.yaml:4:28  trainer.steps: expected an integer ≥ 1, got "10"
            write 10, without quotes or separators
        experiments/x.yaml:4:40  trainer.clip: expected null or a number, got the list [1]"
    `);
  });

  test("items of lists are named by index", () => {
    expect(
      failure(
        "name: x\ndataset: {type: shapes}\ntokenizer: {type: magvit2, width: 1, strides: [1, two, 3.5]}",
      ),
    ).toMatchInlineSnapshot(`
      "2 problems in the config
        experiments/x.yaml:3:51  tokenizer.strides.1: expected an integer, got "two"
        experiments/x.yaml:3:56  tokenizer.strides.2: expected an integer, got 3.5"
    `);
    expect(failure(valid, ["tokenizer.strides=[1, 2]"])).toMatchInlineSnapshot(
      `"override 1:19 (tokenizer.strides=[1, 2])  tokenizer.strides: expected a list of 3, each an integer, got the list [1,2]"`,
    );
  });

  test("keys in the wrong component name their component", () => {
    expect(
      failure("name: x\ndataset: {type: shapes, fps: 8}\ntokenizer: {type: magvit}"),
    ).toMatchInlineSnapshot(`
      "experiments/x.yaml:2:25  dataset.fps: unknown key "fps"
          keys of shapes: frames, type"
    `);
  });
});

describe("files", () => {
  test("YAML faults of several files come together", () => {
    expect(
      failure({
        "experiments/x.yaml": "extends: [a.yaml, b.yaml]\nname: x\nname: y\n",
        "experiments/a.yaml": "trainer:\n\tsteps: 3\n",
        "experiments/b.yaml": "trainer: {lr: ${seed}}\n",
      }),
    ).toMatchInlineSnapshot(`
      "3 problems in the config
        experiments/x.yaml:3:1  this key is written twice
            keep one of the two
        experiments/a.yaml:2:1  a tab is used for indentation
            indent with spaces
        experiments/b.yaml:1:16  a reference inside [...] or {...} must be quoted
            write "\${a.b}" in double quotes"
    `);
  });

  test("an unquoted @name, an unknown tag, a merge key, a bad alias", () => {
    expect(
      failure("name: !x y\ndataset: @shapes\ntokenizer: *t\nevals:\n  <<: {}\n"),
    ).toMatchInlineSnapshot(`
      "5 problems in the config
        experiments/x.yaml:1:7  not valid YAML: Unresolved tag: !x
        experiments/x.yaml:2:10  a YAML value cannot start with "@" unless it is quoted
            write "@name" in double quotes
        experiments/x.yaml:2:10  dataset: no file for "@shapes" in configs/clips
            configs/clips has: none
        experiments/x.yaml:3:12  the alias *t has no anchor before it
            if a string that starts with "*" is meant, quote it
        experiments/x.yaml:5:3  the key "<<" is not allowed
            to inherit keys use \`extends\` or a component file"
    `);
  });

  test("an alias inside its own anchor, and aliases that explode", () => {
    expect(failure(`${valid}evals: &a {b: *a}\n`)).toMatchInlineSnapshot(
      `"experiments/x.yaml:4:15  the alias *a stands inside its own anchor"`,
    );
    const levels = Array.from({ length: 9 }, (_, i) => {
      const inner = i === 0 ? "1" : `*l${i - 1}`;
      return `l${i}: &l${i} [${Array.from({ length: 10 }, () => inner).join(", ")}]`;
    });
    expect(failure(`${levels.join("\n")}\n`)).toMatch(/grows beyond 100000 values/);
  });

  test("files that are not there, not text, not maps", () => {
    expect(
      failure({ "experiments/x.yaml": "extends: bsae\n", "experiments/base.yaml": "seed: 1\n" }),
    ).toMatchInlineSnapshot(`
      "experiments/x.yaml:1:10  no file experiments/bsae
          did you mean "base"?"
    `);
    expect(
      failure({ "experiments/x.yaml": new Uint8Array([0x6e, 0x3a, 0x20, 0xff, 0xfe]) }),
    ).toMatchInlineSnapshot(`"experiments/x.yaml:1:1  experiments/x.yaml is not UTF-8 text"`);
    expect(failure("- 1\n- 2\n")).toMatchInlineSnapshot(
      `"experiments/x.yaml:1:1  a config file must be a map of keys"`,
    );
    expect(() => loadConfig({ file: "no/such/file.yaml", schema })).toThrow(
      "no file no/such/file.yaml",
    );
    expect(failure(`${valid}---\nname: y\n`)).toMatchInlineSnapshot(`
      "experiments/x.yaml:4:1  a second document starts here
          a config file holds one document"
    `);
  });

  test("a component that is not there, with other faults beside it", () => {
    expect(
      failure({
        "experiments/x.yaml":
          'name: ""\ndataset: "@shape"\ntokenizer: {extends: 3}\ntrainer: {lr: -1}\n',
        "clips/shapes.yaml": "type: shapes\n",
      }),
    ).toMatchInlineSnapshot(`
      "4 problems in the config
        experiments/x.yaml:1:7  name: expected a string that is not empty, got ""
        experiments/x.yaml:2:10  dataset: no file for "@shape" in configs/clips
            did you mean "shapes"? configs/clips has: shapes
        experiments/x.yaml:3:22  tokenizer: expected a file path or "@name"
        experiments/x.yaml:4:15  trainer.lr: expected a number > 0, got -1"
    `);
  });

  test("files that extend each other", () => {
    expect(
      failure({
        "experiments/x.yaml": "extends: a.yaml\n",
        "experiments/a.yaml": 'extends: ["@x"]\n',
      }),
    ).toMatchInlineSnapshot(
      `"experiments/a.yaml:1:11  the files extend each other in a circle: experiments/x.yaml → experiments/a.yaml → experiments/x.yaml"`,
    );
  });

  test("a fault inside a component file is placed there", () => {
    expect(
      failure({
        "experiments/x.yaml": 'name: x\ndataset: {type: shapes}\ntokenizer: "@m"\n',
        "codecs/m.yaml": "type: magvit\ncodse: 3\ncodes: 1\n",
      }),
    ).toMatchInlineSnapshot(`
      "2 problems in the config
        codecs/m.yaml:2:1  tokenizer.codse: unknown key "codse"
            did you mean "codes"? keys of magvit: codes, type
        codecs/m.yaml:3:8  tokenizer.codes: expected an integer ≥ 2, got 1"
    `);
  });
});

describe("checks", () => {
  const strides = (config: Config) => {
    const { tokenizer, dataset } = config;
    return tokenizer.type === "magvit2" && dataset.frames % tokenizer.strides[0] !== 0
      ? [
          {
            path: "tokenizer.strides.0",
            message: `stride ${tokenizer.strides[0]} does not divide ${dataset.frames} frames`,
            hint: "choose a divisor",
          },
        ]
      : [];
  };

  test("are placed at the value they name", () => {
    expect(
      failure(
        "name: x\ndataset: {type: shapes}\ntokenizer: {type: magvit2, width: 1, strides: [3, 8, 8]}",
        [],
        { checks: [strides] },
      ),
    ).toMatchInlineSnapshot(`
      "experiments/x.yaml:3:48  tokenizer.strides.0: stride 3 does not divide 8 frames
          choose a divisor"
    `);
    expect(failure(valid, ["dataset.frames=9"], { checks: [strides] })).toMatchInlineSnapshot(`
      "experiments/x.yaml:3:1  tokenizer.strides.0: stride 4 does not divide 9 frames
          choose a divisor"
    `);
  });

  test("run beside other faults unless they touch a wrong value", () => {
    const bad = ["dataset.frames=9", "trainer.lr=fast"];
    expect(failure(valid, bad, { checks: [strides] })).toMatchInlineSnapshot(`
      "2 problems in the config
        experiments/x.yaml:3:1  tokenizer.strides.0: stride 4 does not divide 9 frames
            choose a divisor
        override 2:12 (trainer.lr=fast)  trainer.lr: expected a number > 0, got "fast""
    `);
    const touched = failure(valid, ["dataset.frames=nine"], { checks: [strides] });
    expect(touched).toMatchInlineSnapshot(
      `"override 1:16 (dataset.frames=nine)  dataset.frames: expected an integer, got "nine""`,
    );
  });

  test("a check that throws on a valid config is a bug, and seen", () => {
    const check = () => {
      throw new TypeError("bug");
    };
    expect(() => load(valid, [], { checks: [check] })).toThrow(TypeError);
  });
});

describe("the error object", () => {
  test("carries code, path and origin", () => {
    let caught: unknown;
    try {
      load("name: x\nsede: 1\ndataset: {type: shapes}\ntokenizer: {type: magvit}\n");
    } catch (error) {
      caught = error;
    }
    expect(caught).toBeInstanceOf(ConfigErrors);
    expect((caught as ConfigErrors).problems).toMatchObject([
      { code: "unknown-key", path: "sede", origin: { kind: "file", line: 2, col: 1 } },
    ]);
  });

  test("a frozen config of another version is refused with its place", () => {
    const frozen = load(valid).canonical;
    expect(validateFrozen<Config>(frozen, schema, "config.json")).toEqual(load(valid).config);
    const changed = frozen.replace('"seed":0', '"sed":0');
    expect(() => validateFrozen(changed, schema, "config.json")).toThrow(
      /config\.json:1:\d+ {2}sed: unknown key "sed"/,
    );
    expect(() => validateFrozen('{"name": ', schema, "config.json")).toThrow(/not valid YAML/);
  });
});

describe("whatever is written", () => {
  const whole = `${valid}evals: {a: {type: frechet}}\ntrainer: {steps: 3, clip: "\${seed}"}\n`;
  const snippet = fc.oneof(
    fc.constantFrom(
      "${",
      "}",
      "@x",
      "???",
      "null",
      "[",
      "{",
      ": ",
      "\n",
      "\n  ",
      "- ",
      "*a",
      "&a ",
      "#",
    ),
    fc.constantFrom(
      "extends: x.yaml\n",
      "type",
      "${name}",
      "${.a}",
      "!!map ",
      '"',
      "'",
      "\t",
      "? ",
    ),
    fc.string({ maxLength: 6 }),
  );

  test("a file gives a config or ConfigErrors", () => {
    fc.assert(
      fc.property(fc.nat(whole.length), fc.nat(6), snippet, (at, cut, text) => {
        expect(outcome(whole.slice(0, at) + text + whole.slice(at + cut), [])).toMatch(hash);
      }),
      { numRuns: 150 },
    );
  });

  test("so do overrides", () => {
    const override = fc.oneof(
      fc.string(),
      fc
        .tuple(
          fc.constantFrom("", "+", "~"),
          fc.constantFrom(
            "tokenizer",
            "tokenizer.type",
            "evals",
            "evals.a.samples",
            "trainer.x",
            "a",
          ),
          fc.constantFrom("=", "=@", ".0=", ""),
          fc.oneof(snippet, fc.json()),
        )
        .map((parts) => parts.join("")),
    );
    fc.assert(
      fc.property(fc.array(override, { maxLength: 3 }), (overrides) => {
        expect(outcome(whole, overrides)).toMatch(hash);
      }),
      { numRuns: 150 },
    );
  });

  const hash = /^([0-9a-f]{64}|ConfigErrors)$/;

  /** The hash, or the name of what was thrown. */
  function outcome(text: string, overrides: readonly string[]): string {
    try {
      return load(text, overrides).hash;
    } catch (error) {
      return (error as Error).name;
    }
  }
});
