/** @file The page of kernels says what the code does. */

import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { kernelTable, PAGE } from "../../scripts/kernel-table.ts";

test("docs/kernels.md is up to date (npx tsx scripts/kernel-table.ts writes it)", () => {
  expect(readFileSync(PAGE, "utf8")).toBe(kernelTable());
});
