import { describe, expect, test } from "vitest";
import { loadConfig } from "../../src/config/resolve.ts";
import { buildPrefixLm } from "../../src/models/prefix-lm.ts";
import { type ModelConfig, modelSchema } from "../../src/models/registry.ts";
import { Scope } from "../../src/models/scope.ts";
import { buildTransformer } from "../../src/models/transformer.ts";
import { layVocabulary } from "../../src/objectives/multimodal/vocabulary.ts";

const model = (name: string): ModelConfig =>
  loadConfig<ModelConfig>({
    file: new URL(`../../configs/models/${name}.yaml`, import.meta.url).pathname,
    schema: modelSchema,
  }).config;

describe("models in the papers' sizes, counted without values", () => {
  // 101 classes of UCF-101, ten task prompts: embeddings that BERT's count does not have.
  test.each([
    ["transformer-b", 87e6],
    ["transformer-l", 305.5e6],
  ])("MAGVIT with %s has %d parameters within one percent", (name, expected) => {
    const scope = Scope.shapes();
    const space = { grid: [4, 16, 16], factors: [1024], classes: 101 } as const;
    buildTransformer(model(name), space, { mask: true, prompts: 10 }, scope);
    expect(Math.abs(scope.parameterCount() / expected - 1)).toBeLessThan(0.01);
  });

  test("factorised heads make 2^18 codes as cheap as 1024", () => {
    const count = (factors: readonly number[]) => {
      const scope = Scope.shapes();
      const space = { grid: [5, 16, 16], factors, classes: 101 } as const;
      buildTransformer(model("transformer-l"), space, { mask: true }, scope);
      return scope.parameterCount();
    };
    expect(count([512, 512])).toBe(count([1024]));
    expect(count([2 ** 18]) - count([1024])).toBe((2 ** 18 - 1024) * 1025);
  });

  test.each([
    ["videopoet-300m", 300e6],
    ["videopoet-1b", 1e9],
    ["videopoet-8b", 8e9],
  ])("%s: %d parameters in blocks within five percent", (name, expected) => {
    const config = model(name);
    const scope = Scope.shapes();
    const places = { text: 64, grid: [5, 16, 16], audio: [106, 4] } as const;
    const vocabulary = layVocabulary(2 ** 18, 4 * 1024, 0);
    buildPrefixLm(config, vocabulary.size, places, scope);
    const embeddings = vocabulary.size * config.width;
    expect(Math.abs((scope.parameterCount() - embeddings) / expected - 1)).toBeLessThan(0.05);
  });
});
