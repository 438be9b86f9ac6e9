/** @file Reductions and products: every device against `reference`. */

import { describe, test } from "vitest";
import { reductionAndProductCases } from "./cases/reductions.ts";
import { expectAgreement, TESTED } from "./harness.ts";

describe.each(TESTED)("reductions on %s", (type) => {
  test.each(reductionAndProductCases)("$name", (kernelCase) => expectAgreement(type, kernelCase));
});
