/** @file Tessera's own operations: every device against `reference`. */

import { describe, test } from "vitest";
import { compositeCases } from "./cases/composite.ts";
import { expectAgreement, TESTED } from "./harness.ts";

describe.each(TESTED)("composite on %s", (type) => {
  test.each(compositeCases)("$name", (kernelCase) => expectAgreement(type, kernelCase));
});
