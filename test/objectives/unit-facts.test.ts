/** Figures of the papers that follow from the presets: grids, bits, sequence lengths. */

import { describe, expect, test } from "vitest";
import { loadConfig } from "../../src/config/resolve.ts";
import { type CnnConfig, latentGrid } from "../../src/tokenizers/cnn.ts";
import { type TokenizerConfig, tokenizerSchema } from "../../src/tokenizers/registry.ts";

const tokenizer = (name: string): TokenizerConfig =>
  loadConfig<TokenizerConfig>({
    file: new URL(`../../configs/tokenizers/${name}.yaml`, import.meta.url).pathname,
    schema: tokenizerSchema,
  }).config;

const grid = (name: string, frames: number, height: number, width: number): number[] => [
  ...latentGrid(
    tokenizer(name) as unknown as CnnConfig,
    { frames, height, width },
    name.startsWith("magvit2"),
  ),
];
const product = (values: readonly number[]) => values.reduce((all, value) => all * value, 1);

describe("MAGVIT", () => {
  const latent = grid("magvit-b", 16, 128, 128);
  const [frames, height, width] = [16, 128, 128];
  const pixels = frames * height * width;

  test("16 × 128 × 128 becomes 4 × 16 × 16 tokens, 614.4 times fewer bits", () => {
    expect(latent).toEqual([4, 16, 16]);
    expect((24 * pixels) / (10 * product(latent))).toBeCloseTo(614.4, 10);
    expect((10 * product(latent)) / pixels).toBe(0.0390625);
  });
});

describe("MAGVIT-v2 and VideoPoet", () => {
  test.each([
    [17, 128, 128, [5, 16, 16], 1280],
    [17, 224, 128, [5, 28, 16], 2240],
    [41, 128, 128, [11, 16, 16], 2816],
    [41, 224, 128, [11, 28, 16], 4928],
    [17, 448, 256, [5, 56, 32], 8960],
    [17, 896, 512, [5, 112, 64], 35_840],
    [1, 128, 128, [1, 16, 16], 256],
  ] as const)("%i × %i × %i becomes %j: %i tokens", (frames, height, width, latent, tokens) => {
    expect(grid("magvit2", frames, height, width)).toEqual([...latent]);
    expect(product(latent)).toBe(tokens);
  });

  test("18 bits for 4 × 8 × 8 pixels are 0.0703 bits a pixel, 0.0827 with the first frame's", () => {
    expect(18 / (4 * 8 * 8)).toBe(0.0703125);
    const latent = grid("magvit2", 17, 128, 128);
    expect((18 * product(latent)) / (17 * 128 * 128)).toBeCloseTo(0.0827, 4);
  });
});
