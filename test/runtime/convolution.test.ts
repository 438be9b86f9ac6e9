/** @file Convolutions: every device against `reference`. */

import { describe, expect, test } from "vitest";
import { convolutionCases } from "./cases/convolution.ts";
import { disagreement, TESTED } from "./harness.ts";

describe.each(TESTED)("convolution on %s", (type) => {
  test.each(convolutionCases)("$name", async (kernelCase) => {
    expect(await disagreement(type, kernelCase)).toBe("");
  });
});
