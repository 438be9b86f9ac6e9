/** @file The hash: what it does not see, what it does. Frozen means frozen. */

import { createHash } from "node:crypto";
import fc from "fast-check";
import { beforeEach, describe, expect, test } from "vitest";
import { canonicalJson, configHash } from "../../src/config/hash.ts";
import { type Config, load, schema, valid } from "./helpers.ts";

const lines = [
  "name: x",
  "dataset: {type: shapes, frames: 16}",
  "tokenizer: {quantizer: {bits: 3}, width: 4, type: magvit2}",
  "trainer: {lr: 3e-4, steps: 10}",
  "evals: {b: {type: reconstruction}, a: {samples: 5, type: frechet}}",
];

describe("the hash", () => {
  let hash = "";
  beforeEach(() => {
    hash = load(lines.join("\n")).hash;
  });

  test("is SHA-256 of canonical JSON without the seed and what cannot change a result", () => {
    const { seed: _seed, output: _output, ...rest } = load(lines.join("\n")).config;
    const { threads: _threads, ...trainer } = rest.trainer;
    const text = canonicalJson({ ...rest, trainer });
    expect(hash).toBe(createHash("sha256").update(text).digest("hex"));
  });

  test("does not see the order of keys", () => {
    fc.assert(
      fc.property(fc.shuffledSubarray(lines, { minLength: lines.length }), (order) => {
        expect(load(order.join("\n")).hash).toBe(hash);
      }),
      { numRuns: 10 },
    );
  });

  test("does not see how a number or a default is written", () => {
    const written = [
      "trainer.lr=0.0003",
      "trainer.lr=3.0e-04",
      "trainer.steps=1e1",
      "trainer.schedule=cosine",
      "seed=9",
      "trainer.threads=4",
      "output=/elsewhere",
    ];
    for (const override of written) {
      expect(load(lines.join("\n"), [override]).hash).toBe(hash);
    }
  });

  test("sees every value that can change a result", () => {
    const changed = [
      "trainer.lr=0.0004",
      "evals.a.samples=6",
      "name=y",
      "~evals.b",
      "trainer.clip=1",
    ];
    const hashes = changed.map((override) => load(lines.join("\n"), [override]).hash);
    expect(new Set([hash, ...hashes]).size).toBe(changed.length + 1);
  });

  test("leaves out the paths it is told to", () => {
    const { config } = load(lines.join("\n"));
    const other: Config = { ...config, name: "other", seed: 3 };
    expect(configHash(other, schema, ["seed", "name"])).toBe(
      configHash(config, schema, ["seed", "name"]),
    );
    expect(configHash(other, schema, ["name"])).not.toBe(configHash(config, schema, ["name"]));
  });
});

test("the config is frozen all the way down", () => {
  const config = load(valid).config as {
    trainer: { steps: number };
    evals: { [k: string]: unknown };
  };
  expect(() => {
    config.trainer.steps = 3;
  }).toThrow(TypeError);
  expect(() => {
    config.evals.x = 1;
  }).toThrow(TypeError);
});
