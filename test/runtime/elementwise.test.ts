/** @file Element-wise kernels: every device against `reference`. */

import { describe, test } from "vitest";
import { elementwiseCases } from "./cases/elementwise.ts";
import { expectAgreement, TESTED } from "./harness.ts";

describe.each(TESTED)("element-wise kernels on %s", (type) => {
  test.each(elementwiseCases)("$name", (kernelCase) => expectAgreement(type, kernelCase));
});
