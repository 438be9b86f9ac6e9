/** @file The training steps of an experiment as graphs, without training. */

import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { loadConfig } from "../../src/config/resolve.ts";
import { checks, type Experiment, experimentSchema } from "../../src/trainers/experiment.ts";
import { trainingGraphs } from "../../src/trainers/graphs.ts";

test("tokenizer and transformer, forward and backward, with what is updated", async () => {
  const { config } = loadConfig<Experiment>({
    file: fileURLToPath(new URL("../../configs/experiments/quickstart.yaml", import.meta.url)),
    overrides: [],
    schema: experimentSchema,
    checks,
  });
  const [tokenizer, transformer, ...more] = await trainingGraphs(config);
  expect(more).toEqual([]);
  for (const [text, name] of [
    [tokenizer!, "tokenizer-train"],
    [transformer!, "transformer-train"],
  ] as const) {
    const lines = text.split("\n");
    expect(lines[0]).toMatch(new RegExp(`^# ${name}: \\d+ nodes, \\d+ states`));
    expect(lines[1]).toBe(`graph ${name}`);
    expect(lines).toContainEqual(expect.stringMatching(/^ {2}output loss = %\d+$/));
    expect(lines.filter((line) => /^ {2}state \d+ := %\d+$/.test(line)).length).toBeGreaterThan(20);
  }
  expect(tokenizer).toMatch(/ float32\[[\d,]+\] = ConvFilterGrad\(/);
  expect(transformer).toMatch(/ = AttentionGrad\(/);
});
