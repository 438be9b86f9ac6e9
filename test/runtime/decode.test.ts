/** @file Decoding on the devices of PyTorch, in both precisions, against `reference`: a call a place, and loops. */

import { expect, test } from "vitest";
import { openDevice } from "../../src/runtime/registry.ts";
import { isBuilt } from "../../src/runtime/torch/native.ts";
import { decodedLogits, relativeError, scannedLogits } from "./cases/decode.ts";

const PLACES = [0, 1, 2, 130, 191];
const FIRST = [0, 1, 2, 3];

if (!isBuilt()) {
  process.stderr.write("not tested: the addon for PyTorch is not built\n");
}

test.skipIf(!isBuilt()).each([1, 3, 9])("batch %s", async (batch) => {
  const reference = await openDevice({ type: "reference" });
  const want = await decodedLogits(reference, batch, PLACES);
  const loops = batch === 1;
  const wanted = loops ? await scannedLogits(reference, batch, FIRST) : want;
  for (const [precision, tolerance] of [
    ["fp32", 1e-4],
    ["bf16", 2e-2],
  ] as const) {
    const device = await openDevice({ type: "torch-cpu", precision });
    const got = await decodedLogits(device, batch, PLACES);
    expect(relativeError(got, want)).toBeLessThan(tolerance);
    const looped = loops ? await scannedLogits(device, batch, FIRST) : wanted;
    expect(relativeError(looped, wanted)).toBeLessThan(tolerance);
    device.dispose();
  }
});
