/** @file Element-wise kernels: every device against `reference`. */

import { describe, expect, test } from "vitest";
import { elementwiseCases } from "./cases/elementwise.ts";
import { disagreement, TESTED } from "./harness.ts";

describe.each(TESTED)("element-wise kernels on %s", (type) => {
  test.each(elementwiseCases)("$name", async (kernelCase) => {
    expect(await disagreement(type, kernelCase)).toBe("");
  });
});
