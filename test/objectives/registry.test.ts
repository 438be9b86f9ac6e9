import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { loadConfig } from "../../src/config/resolve.ts";
import { modelSchema } from "../../src/models/registry.ts";
import { type ObjectiveConfig, objectiveSchema } from "../../src/objectives/registry.ts";

const folder = (group: string) =>
  fileURLToPath(new URL(`../../configs/${group}/`, import.meta.url));
const load = (name: string, ...overrides: string[]) =>
  loadConfig<ObjectiveConfig>({
    file: `${folder("objectives")}${name}.yaml`,
    schema: objectiveSchema,
    overrides,
  }).config;

describe("presets", () => {
  test.each([
    ["models", modelSchema],
    ["objectives", objectiveSchema],
  ] as const)("every file of configs/%s fits its schema", (group, schema) => {
    const files = readdirSync(folder(group)).filter((name) => name.endsWith(".yaml"));
    expect(files.length).toBeGreaterThan(1);
    for (const file of files) {
      expect(() => loadConfig({ file: folder(group) + file, schema })).not.toThrow();
    }
  });

  test("what a preset leaves out has its default", () => {
    expect(load("masked").sampling).toMatchObject({ top_p: 1 });
    expect(load("causal").sampling).toMatchObject({ top_p: 1 });
    expect(load("diffusion").sampling).toMatchObject({ guidance_schedule: "constant" });
  });

  test("unknown keys and values out of range are errors", () => {
    expect(() => load("masked", "sampling.steps=0")).toThrow("sampling.steps");
    expect(() => load("masked", "mask_schedule=cosin")).toThrow("mask_schedule");
    expect(() => load("causal", "sampling.steps=3")).toThrow("steps");
  });
});
