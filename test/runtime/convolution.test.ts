/** @file Convolutions: every device against `reference`. */

import { describe, test } from "vitest";
import { convolutionCases } from "./cases/convolution.ts";
import { expectAgreement, TESTED } from "./harness.ts";

describe.each(TESTED)("convolution on %s", (type) => {
  test.each(convolutionCases)("$name", (kernelCase) => expectAgreement(type, kernelCase));
});
