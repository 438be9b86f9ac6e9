/** @file Kernels that move, select or count values: every device against `reference`. */

import { describe, expect, test } from "vitest";
import { shapingCases } from "./cases/shaping.ts";
import { disagreement, TESTED } from "./harness.ts";

describe.each(TESTED)("shaping on %s", (type) => {
  test.each(shapingCases)("$name", async (kernelCase) => {
    expect(await disagreement(type, kernelCase)).toBe("");
  });
});
