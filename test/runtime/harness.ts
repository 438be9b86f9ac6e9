/** @file What the tests of devices share: compare.ts, and which devices there are here. */

import { opening, type Tested, useDevice } from "./compare.ts";

export * from "./compare.ts";

/**
 * Devices, with each of their engines, that are held against `reference`: those that can be opened here;
 * the others say why not.
 */
export const TESTED: readonly Tested[] = await openable();

async function openable(): Promise<Tested[]> {
  const found: Tested[] = ["cpu onnx"];
  for (const tested of ["cpu native", "torch-cpu", "cuda", "tfjs-node", "tfjs-node-gpu"] as const) {
    try {
      useDevice(tested, await opening(tested));
      found.push(tested);
    } catch (error) {
      process.stderr.write(`not tested on ${tested}: ${(error as Error).message}\n`);
    }
  }
  return found;
}
