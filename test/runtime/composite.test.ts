/** @file Tessera's own operations: every device against `reference`. */

import { describe, expect, test } from "vitest";
import { compositeCases } from "./cases/composite.ts";
import { composedCases } from "./cases/composed.ts";
import { fusedCases } from "./cases/fused.ts";
import { disagreement, TESTED } from "./harness.ts";

describe.each(TESTED)("composite on %s", (type) => {
  test.each([...compositeCases, ...composedCases, ...fusedCases])("$name", async (kernelCase) => {
    expect(await disagreement(type, kernelCase)).toBe("");
  });
});
