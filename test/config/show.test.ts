/** @file Showing: YAML that reads back the same, origins, differences, editors' schemas, reference. */

import { Ajv } from "ajv";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { configHash } from "../../src/config/hash.ts";
import { jsonSchemas } from "../../src/config/json-schema.ts";
import { configReference } from "../../src/config/reference.ts";
import { configYaml, diffConfigs, printDiff, showConfig } from "../../src/config/show.ts";
import { type Config, load, schema, valid } from "./helpers.ts";

const cut = (text: string) => text.replaceAll(/\/\S*\/config-\w+\//g, "");

test("every value is shown with its origin", () => {
  const resolved = load(
    {
      "experiments/x.yaml": "extends: base\nname: x\ntrainer: {steps: '${seed}'}\n",
      "experiments/base.yaml": `seed: 3\ndataset: {type: shapes}\ntokenizer: "@m"\n`,
      "codecs/m.yaml": "type: magvit2\nwidth: 4\nstrides: [1, 2, 4]\n",
    },
    ["tokenizer.strides.1=8", "trainer.threads=${env:T}"],
    { env: { T: "2" } },
  );
  expect(cut(showConfig(resolved))).toMatchInlineSnapshot(`
    "name: x             # experiments/x.yaml:2:7
    seed: 3             # experiments/base.yaml:1:7
    dataset:
      type: shapes      # experiments/base.yaml:2:17
      frames: 8         # default
    tokenizer:
      type: magvit2     # codecs/m.yaml:1:7
      width: 4          # codecs/m.yaml:2:8
      strides:
        - 1             # codecs/m.yaml:3:11
        - 8             # override 1:21 (tokenizer.strides.1=8)
        - 4             # codecs/m.yaml:3:17
      quantizer:
        type: lfq       # default
        bits: 10        # default
    evals: {}           # default
    trainer:
      steps: 3          # experiments/x.yaml:3:18 ← \${seed}
      lr: 0.001         # default
      schedule: cosine  # default
      clip: null        # default
      ema: true         # default
      threads: 2        # env T
    output: results     # default
    "
  `);
});

describe("the plain YAML", () => {
  test("reads back to the same config and hash, whatever the strings", () => {
    const odd = fc.oneof(
      fc.string({ minLength: 1 }),
      fc
        .array(fc.integer({ min: 0, max: 0x10ffff }), { minLength: 1, maxLength: 9 })
        // Lone surrogates cannot be stored as UTF-8.
        .map((points) => String.fromCodePoint(...points).replaceAll(/\p{Surrogate}/gu, "s")),
      fc.constantFrom(
        "${a.b}",
        "$${x}",
        "???!",
        "null",
        "1e3",
        "yes",
        " a\n b",
        "@x",
        "a: b # c",
        "- x",
        "~",
      ),
    );
    const first = load(valid);
    fc.assert(
      fc.property(odd, odd, odd, (name, output, key) => {
        fc.pre(key !== "__proto__");
        const evals = { [key]: { type: "reconstruction" as const } };
        const config = { ...first.config, name, output, evals };
        const second = load(configYaml({ config }));
        expect(second.config).toEqual(config);
        expect(second.hash).toBe(configHash(config, schema));
      }),
      { numRuns: 25 },
    );
  });

  test("nested lists and empty things", () => {
    const config = {
      a: [],
      b: {},
      c: [
        [1, 2],
        [{ x: 1, y: [] }, "z"],
      ],
      d: [{ e: { f: 1 } }],
    };
    const text = configYaml({ config });
    expect(parse(text)).toEqual(config);
    expect(text).toMatchInlineSnapshot(`
      "a: []
      b: {}
      c:
        - [1, 2]
        - - x: 1
            y: []
          - z
      d:
        - e:
            f: 1
      "
    `);
  });
});

test("a difference names paths, values and origins", () => {
  const a = load(valid, ["trainer.lr=0.1"]);
  const b = load(valid, ["tokenizer.type=magvit", "evals.q={type: reconstruction}"]);
  expect(cut(printDiff(diffConfigs(a, b)))).toMatchInlineSnapshot(`
    "~ tokenizer.type
        - magvit2  # experiments/x.yaml:3:19
        + magvit  # override 1:16 (tokenizer.type=magvit)
    - tokenizer.width: 32  # experiments/x.yaml:3:35
    - tokenizer.strides: [4, 8, 8]  # default
    - tokenizer.quantizer.type: lfq  # default
    - tokenizer.quantizer.bits: 10  # default
    ~ trainer.lr
        - 0.1  # override 1:12 (trainer.lr=0.1)
        + 0.001  # default
    + tokenizer.codes: 1024  # default
    + evals.q.type: reconstruction  # override 2:16 (evals.q={type: reconstruction})
    "
  `);
  expect(printDiff(diffConfigs(a, a))).toBe("");
});

describe("editors' schemas", () => {
  const documents = jsonSchemas(schema, () => ["small"]);
  const ajv = new Ajv({ strict: false, allErrors: true });
  const experiment = ajv.compile(documents["experiments.json"] as object);
  const codec = ajv.compile(documents["codecs.json"] as object);

  test("come one a group", () => {
    expect(Object.keys(documents)).toEqual([
      "experiments.json",
      "clips.json",
      "codecs.json",
      "quantizers.json",
      "suites.json",
    ]);
  });

  test("let fragments, references and names pass", () => {
    const fragments = [
      {},
      { extends: "@base", name: "x-${seed}" },
      {
        extends: ["a.yaml", "@b"],
        dataset: "@small",
        tokenizer: { extends: "@small", width: "${seed}" },
      },
      { trainer: { steps: "???", ema: "${a}", clip: null } },
      { tokenizer: { width: 3 }, evals: { fvd: null, a: "@x", b: { samples: 3 }, c: "${.a}" } },
      { tokenizer: { type: "magvit2", strides: [1, "${.0}", 3], quantizer: { bits: 3 } } },
    ];
    expect(fragments.filter((fragment) => !experiment(fragment))).toEqual([]);
    expect(codec({ type: "magvit", codes: 3 })).toBe(true);
    expect(codec({ extends: "@small", width: 3 })).toBe(true);
  });

  test("flag typing mistakes and wrong values", () => {
    const mistakes = [
      { sede: 1 },
      { trainer: { stepz: 1 } },
      { trainer: { steps: "many" } },
      { trainer: { schedule: "cosin" } },
      { tokenizer: { type: "magvit", width: 3 } },
      { tokenizer: { type: "magvit3" } },
      { tokenizer: { codez: 3 } },
      { dataset: "small" },
    ];
    expect(mistakes.filter((mistake) => experiment(mistake))).toEqual([]);
    expect(codec({ type: "magvit", width: 3 })).toBe(false);
  });

  test("accept every complete config", () => {
    expect(experiment(load(valid).config satisfies Config)).toBe(true);
  });
});

test("the reference lists every key", () => {
  expect(configReference(schema)).toMatchInlineSnapshot(`
    "# Config reference

    Generated from the schemas; do not edit.

    ## Experiment

    | Key | Value | Default | Meaning |
    | --- | --- | --- | --- |
    | \`name\` | a string that is not empty | required | Names the results folder. |
    | \`seed\` | an integer ≥ 0 | \`0\` |  |
    | \`dataset\` | a component of [clips](#clips) | required |  |
    | \`tokenizer\` | a component of [codecs](#codecs) | required | Clips to tokens and back. |
    | \`evals\` | a map | \`{}\` |  |
    | \`evals.<name>\` | a component of [suites](#suites) |  |  |
    | \`trainer\` | a map |  |  |
    | \`trainer.steps\` | an integer ≥ 1 | \`100\` |  |
    | \`trainer.lr\` | a number > 0 | \`0.001\` |  |
    | \`trainer.schedule\` | one of cosine, constant | \`"cosine"\` |  |
    | \`trainer.clip\` | null or a number | \`null\` |  |
    | \`trainer.ema\` | true or false | \`true\` |  |
    | \`trainer.threads\` | an integer | \`0\` | *(not hashed)* |
    | \`output\` | a string | \`"results"\` | *(not hashed)* |

    ## clips

    Files in \`configs/clips/\`, selected by \`"@name"\`.

    ### clips: \`shapes\`

    | Key | Value | Default | Meaning |
    | --- | --- | --- | --- |
    | \`frames\` | an integer | \`8\` |  |

    ### clips: \`video-folder\`

    | Key | Value | Default | Meaning |
    | --- | --- | --- | --- |
    | \`path\` | a string that is not empty | required | Folder of videos. |
    | \`frames\` | an integer | \`8\` |  |
    | \`fps\` | a number > 0 | optional |  |

    ## codecs

    Clips to tokens and back.

    Files in \`configs/codecs/\`, selected by \`"@name"\`.

    ### codecs: \`magvit\`

    3D-VQ.

    | Key | Value | Default | Meaning |
    | --- | --- | --- | --- |
    | \`codes\` | an integer ≥ 2 | \`1024\` | Codebook size. |

    ### codecs: \`magvit2\`

    Causal 3D CNN with LFQ.

    | Key | Value | Default | Meaning |
    | --- | --- | --- | --- |
    | \`width\` | an integer ≥ 1 | required | Channels of the first layer. |
    | \`strides\` | a list of 3, each an integer | \`[4,8,8]\` |  |
    | \`quantizer\` | a component of [quantizers](#quantizers) | \`{"type":"lfq"}\` | How vectors become codes. |

    ## quantizers

    How vectors become codes.

    Files in \`configs/quantizers/\`, selected by \`"@name"\`.

    ### quantizers: \`lfq\`

    | Key | Value | Default | Meaning |
    | --- | --- | --- | --- |
    | \`bits\` | an integer | \`10\` |  |

    ### quantizers: \`vq\`

    | Key | Value | Default | Meaning |
    | --- | --- | --- | --- |
    | \`codes\` | an integer | \`512\` |  |

    ## suites

    Files in \`configs/suites/\`, selected by \`"@name"\`.

    ### suites: \`reconstruction\`

    No keys besides \`type\`.

    ### suites: \`frechet\`

    | Key | Value | Default | Meaning |
    | --- | --- | --- | --- |
    | \`samples\` | an integer ≥ 1 | \`64\` |  |
    "
  `);
});
