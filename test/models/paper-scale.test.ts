import { describe, expect, test } from "vitest";
import { loadConfig } from "../../src/config/resolve.ts";
import {
  buildDiffusionTransformer,
  type DiffusionTransformerConfig,
} from "../../src/models/diffusion-transformer.ts";
import { buildPrefixLm } from "../../src/models/prefix-lm.ts";
import { type ModelConfig, modelSchema } from "../../src/models/registry.ts";
import { Scope } from "../../src/models/scope.ts";
import { buildTransformer, type TransformerConfig } from "../../src/models/transformer.ts";
import { layVocabulary } from "../../src/objectives/multimodal/vocabulary.ts";

const preset = (name: string): ModelConfig =>
  loadConfig<ModelConfig>({
    file: new URL(`../../configs/models/${name}.yaml`, import.meta.url).pathname,
    schema: modelSchema,
  }).config;
const model = (name: string) => preset(name) as TransformerConfig;

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

  // 17×128×128 clips: 5×16×16 latents of 8 channels, their estimate, two given frames and their mask.
  test.each([
    ["walt-l", 313e6],
    ["walt-xl", 460e6],
  ])("W.A.L.T with %s has %d parameters within one percent", (name, expected) => {
    const scope = Scope.shapes();
    const space = { grid: [5, 16, 16], width: 8, classes: 101 } as const;
    buildDiffusionTransformer(preset(name) as DiffusionTransformerConfig, space, 25, scope);
    expect(Math.abs(scope.parameterCount() / expected - 1)).toBeLessThan(0.01);
  });

  test("low-rank adaptive norms make 475 M parameters of ViT-g 12 M", () => {
    const scope = Scope.shapes();
    const [width, depth] = [1408, 40];
    const config = { ...preset("walt-l"), width, depth, heads: 16 } as DiffusionTransformerConfig;
    buildDiffusionTransformer(config, { grid: [5, 16, 16], width: 8, classes: 0 }, 8, scope);
    let adaptive = 0;
    for (const [name, { size }] of scope.trainable()) {
      adaptive += /^(adaptive|block\d+\/lora)\//.test(name) ? size : 0;
    }
    expect(Math.round((depth * 6 * width * width) / 1e6)).toBe(476);
    expect(Math.floor(adaptive / 1e6)).toBe(12);
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
