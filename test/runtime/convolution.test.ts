/** @file Convolutions: every device against `reference`, on chosen and on random geometries. */

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { convolutionCases, convolutions, type Geometry } from "./cases/convolution.ts";
import { disagreement, TESTED } from "./harness.ts";

/** Any geometry with at least one output a side. */
const geometry: fc.Arbitrary<Geometry> = fc
  .record({
    batch: fc.integer({ min: 1, max: 2 }),
    sides: fc.tuple(
      fc.integer({ min: 1, max: 7 }),
      fc.integer({ min: 1, max: 6 }),
      fc.integer({ min: 1, max: 6 }),
    ),
    kernel: fc.tuple(
      fc.integer({ min: 1, max: 5 }),
      fc.integer({ min: 1, max: 4 }),
      fc.integer({ min: 1, max: 4 }),
    ),
    strides: fc.tuple(
      fc.integer({ min: 1, max: 3 }),
      fc.integer({ min: 1, max: 3 }),
      fc.integer({ min: 1, max: 3 }),
    ),
    before: fc.tuple(fc.nat(3), fc.nat(3), fc.nat(3)),
    after: fc.tuple(fc.nat(3), fc.nat(3), fc.nat(3)),
    channels: fc.constantFrom([1, 1], [2, 3], [16, 16], [3, 16], [16, 8]),
  })
  .map(({ batch, sides, kernel, strides, before, after, channels }) => ({
    x: [batch, ...sides, channels[0]!] as const,
    kernel,
    out: channels[1]!,
    strides,
    pads: [0, 1, 2].map((i) => [before[i]!, after[i]!]) as unknown as Geometry["pads"],
  }))
  .filter(({ x, kernel, pads }) =>
    kernel.every((k, i) => x[i + 1]! + pads[i]![0] + pads[i]![1] >= k),
  );

describe.each(TESTED)("convolution on %s", (type) => {
  test.each(convolutionCases)("$name", async (kernelCase) => {
    expect(await disagreement(type, kernelCase)).toBe("");
  });

  test.each([false, true])("random geometries, differentiated: %s", async (gradients) => {
    await fc.assert(
      fc.asyncProperty(geometry, async (one) => {
        expect(await disagreement(type, convolutions("random", [one], gradients))).toBe("");
      }),
      { seed: 1, numRuns: 60 },
    );
  });
});
