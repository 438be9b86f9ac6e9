/** @file What is generated from the code says what the code does. */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { generatedFiles } from "../../scripts/docs.ts";

const files = generatedFiles();

describe("generated files are up to date (`npm run docs` writes them)", () => {
  test.each([...files.keys()])("%s", (path) => {
    expect(existsSync(path) ? readFileSync(path, "utf8") : "").toBe(files.get(path));
  });

  test("no schema is left of a group that is gone", () => {
    const there = readdirSync("configs/schema").map((name) => `configs/schema/${name}`);
    expect(there.filter((path) => !files.has(path))).toEqual([]);
  });
});
