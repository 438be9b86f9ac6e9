/** @file Kernels that move, select or count values: every device against `reference`. */

import { describe, test } from "vitest";
import { shapingCases } from "./cases/shaping.ts";
import { expectAgreement, TESTED } from "./harness.ts";

describe.each(TESTED)("shaping on %s", (type) => {
  test.each(shapingCases)("$name", (kernelCase) => expectAgreement(type, kernelCase));
});
