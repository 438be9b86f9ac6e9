/** @file References: what they reach, what type they keep, and how they fail. */

import { describe, expect, test } from "vitest";
import { failure, load, valid } from "./helpers.ts";

const withSeed = (rest: string) => `${valid}seed: 7\n${rest}`;

describe("references", () => {
  test("a whole value keeps its type; inside a string it becomes text", () => {
    const { config, origins } = load(withSeed("trainer: {steps: '${seed}'}\n"), [
      "name=run-${seed}-${trainer.lr}",
    ]);
    expect(config.trainer.steps).toBe(7);
    expect(config.name).toBe("run-7-0.001");
    expect(origins["trainer.steps"]).toMatchObject({ kind: "file", reference: "${seed}" });
  });

  test("maps and lists, siblings and uncles, defaults and chains", () => {
    const { config } = load(
      withSeed(`\
evals:
  a: {type: frechet, samples: "\${..b.samples}"}
  b: {type: frechet, samples: "\${trainer.steps}"}
  c: \${.a}
trainer:
  steps: \${.threads}
  threads: \${seed}
`),
      ["tokenizer.strides=[1,2,'${.0}']"],
    );
    expect(config.evals.c).toEqual({ type: "frechet", samples: 7 });
    expect(config.tokenizer).toMatchObject({ strides: [1, 2, 1] });
    expect(config.trainer).toMatchObject({ steps: 7, threads: 7 });
  });

  test("inside a component file a relative reference means its own keys", () => {
    const { config } = load({
      "experiments/x.yaml": "name: x\ndataset: {type: shapes}\ntokenizer: '@m'\n",
      "codecs/m.yaml": "type: magvit2\nwidth: ${.quantizer.bits}\n",
    });
    expect(config.tokenizer).toMatchObject({ width: 10 });
  });

  test("a path through a referenced map", () => {
    const { config } = load(withSeed("evals: {a: {type: frechet, samples: 3}, b: '${.a}'}\n"), [
      "trainer.steps=${evals.b.samples}",
    ]);
    expect(config.trainer.steps).toBe(3);
  });

  test("$${ is a literal", () => {
    expect(load(valid, ["name=a$${b}"]).config.name).toBe("a${b}");
  });

  test("circles are told as a path", () => {
    expect(
      failure(withSeed("trainer: {steps: '${.threads}', threads: '${trainer.steps}'}\n")),
    ).toMatchInlineSnapshot(
      `"experiments/x.yaml:5:42  trainer.threads: \${trainer.steps} leads back to itself: trainer.steps → trainer.threads → trainer.steps"`,
    );
    expect(failure(withSeed("evals: {a: '${evals}'}\n"))).toMatchInlineSnapshot(
      `"experiments/x.yaml:5:12  evals.a: \${evals} leads back to itself: evals → evals.a → evals"`,
    );
    expect(failure(valid, ["seed=${seed}"])).toMatchInlineSnapshot(
      `"override 1:6 (seed=\${seed})  seed: \${seed} leads back to itself: seed → seed"`,
    );
  });

  test("those that lead nowhere are all told, with suggestions", () => {
    expect(
      failure(
        withSeed(
          "trainer: {steps: '${sed}', lr: '${....x}', threads: '${a b}', clip: '${tokenizer.wdth}'}\n",
        ),
        ["name=n-${trainer}", "output=${oops", "dataset.frames=${seed.x}"],
      ),
    ).toMatchInlineSnapshot(`
      "7 problems in the config
        experiments/x.yaml:5:18  trainer.steps: \${sed} leads nowhere: the config has no "sed"
            did you mean "seed"? the config has: dataset, evals, name, output, seed, tokenizer, trainer
        experiments/x.yaml:5:32  trainer.lr: \${....x} is not a path
            write \${a.b}, \${.sibling}, \${..parent_sibling} or \${env:NAME,default}
        experiments/x.yaml:5:53  trainer.threads: \${a b} is not a path
            write \${a.b}, \${.sibling}, \${..parent_sibling} or \${env:NAME,default}
        experiments/x.yaml:5:69  trainer.clip: \${tokenizer.wdth} leads nowhere: tokenizer has no "wdth"
            did you mean "width"? tokenizer has: quantizer, strides, type, width
        override 1:6 (name=n-\${trainer})  name: \${trainer} is a map and cannot stand inside a string
        override 2:8 (output=\${oops)  output: "\${" without "}" in "\${oops"
        override 3:16 (dataset.frames=\${seed.x})  dataset.frames: \${seed.x} leads nowhere: seed has no "x""
    `);
  });

  test("a referenced value that does not fit is told where it is referred to", () => {
    expect(failure(withSeed("trainer: {steps: '${name}'}\n"))).toMatchInlineSnapshot(
      `"experiments/x.yaml:5:18  trainer.steps: expected an integer ≥ 1, got "x""`,
    );
  });
});

describe("the environment", () => {
  test("fills values of the type that the key has", () => {
    const text = withSeed(
      "trainer: {threads: '${env:N,4}', steps: '${env:S}', lr: '${env:LR,3e-4}'}\noutput: ${env:OUT}\n",
    );
    const { config, origins } = load(text, [], { env: { S: "12", OUT: "007" } });
    expect(config.trainer).toMatchObject({ threads: 4, steps: 12, lr: 3e-4 });
    expect(config.output).toBe("007");
    expect(origins["trainer.steps"]).toMatchObject({ kind: "env", name: "S", at: { line: 5 } });
  });

  test("missing and wrong ones are errors", () => {
    const env = { env: { S: "many" } };
    expect(
      failure(valid, ["name=a-${env:HERE}", "trainer.steps=${env:S}"], env),
    ).toMatchInlineSnapshot(`
      "2 problems in the config
        override 1:6 (name=a-\${env:HERE})  name: the environment variable HERE is not set
            set it, or give a default: \${env:HERE,value}
        override 2:15 (trainer.steps=\${env:S}), from the environment variable S  trainer.steps: expected an integer ≥ 1, got "many""
    `);
  });
});

describe("required values", () => {
  test("must be given, and are told once however often they are referred to", () => {
    const text = withSeed(
      "trainer: {steps: ???, threads: '${.steps}'}\noutput: o-${trainer.steps}\n",
    );
    expect(failure(text)).toMatchInlineSnapshot(`
      "experiments/x.yaml:5:18  trainer.steps: a value is required here
          set trainer.steps=..."
    `);
    expect(load(text, ["trainer.steps=3"]).config).toMatchObject({
      output: "o-3",
      trainer: { threads: 3 },
    });
  });
});
