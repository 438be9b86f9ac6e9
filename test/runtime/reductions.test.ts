/** @file Reductions and products: every device against `reference`. */

import { describe, expect, test } from "vitest";
import { reductionAndProductCases } from "./cases/reductions.ts";
import { disagreement, TESTED } from "./harness.ts";

describe.each(TESTED)("reductions on %s", (type) => {
  test.each(reductionAndProductCases)("$name", async (kernelCase) => {
    expect(await disagreement(type, kernelCase)).toBe("");
  });
});
