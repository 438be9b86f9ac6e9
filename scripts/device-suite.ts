/**
 * @file The numerical suite (test/runtime/cases) on one device, without a test runner: what runs on a GPU
 * machine that has Node and PyTorch only. `npm run device-suite -- torch-cpu`, or bundled (see
 * docs/runtime.md#pytorch) `node device-suite.mjs cuda bf16`.
 *
 *   device-suite DEVICE [fp32 | tf32 | bf16] [--tolerance X] [--only TEXT] [--eager]
 *
 * Every case runs on `reference` and on the device, values and gradients; the last line counts them.
 * Errors are relative to each tensor's largest value. Exit code 1: some case disagrees.
 */

import { parseArgs } from "node:util";
import { openDevice } from "../src/runtime/registry.ts";
import type { HostTensors } from "../src/runtime/tensors.ts";
import { composedCases } from "../test/runtime/cases/composed.ts";
import { compositeCases } from "../test/runtime/cases/composite.ts";
import { convolutionCases } from "../test/runtime/cases/convolution.ts";
import { elementwiseCases } from "../test/runtime/cases/elementwise.ts";
import { reductionAndProductCases } from "../test/runtime/cases/reductions.ts";
import { resamplingCases } from "../test/runtime/cases/resampling.ts";
import { decodedLogits, relativeError } from "../test/runtime/cases/decode.ts";
import { shapingCases } from "../test/runtime/cases/shaping.ts";
import { type KernelCase } from "../test/runtime/case.ts";
import { disagreement, useDevice } from "../test/runtime/harness.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    tolerance: { type: "string" },
    only: { type: "string", default: "" },
    eager: { type: "boolean", default: false },
  },
});
const type = (positionals[0] ?? "torch-cpu") as "cuda" | "torch-cpu";
const precision = (positionals[1] ?? "fp32") as "fp32" | "tf32" | "bf16";
const tolerance = Number(values.tolerance ?? { fp32: 1e-4, tf32: 5e-3, bf16: 2e-2 }[precision]);

const device = await openDevice(
  type === "cuda" ? { type, precision, cuda_graph: !values.eager } : { type, precision },
);
process.stdout.write(`${device.info.description}; allowed relative error ${tolerance}\n`);
useDevice(type, device);

const cases: readonly KernelCase[] = [
  ...elementwiseCases,
  ...shapingCases,
  ...reductionAndProductCases,
  ...convolutionCases,
  ...compositeCases,
  ...composedCases,
  ...resamplingCases,
];
/**
 * Inputs that bfloat16 holds exactly, for both sides: where a step or a comparison follows, a rounding
 * before it would otherwise decide the result.
 */
function rounded(inputs: HostTensors): HostTensors {
  return Object.fromEntries(
    Object.entries(inputs).map(([name, tensor]) => {
      if (!(tensor.data instanceof Float32Array)) {
        return [name, tensor];
      }
      const data = tensor.data.slice();
      const bits = new Uint32Array(data.buffer);
      for (const [i, value] of bits.entries()) {
        bits[i] = (value + 0x7fff + ((value >>> 16) & 1)) & 0xffff0000;
      }
      return [
        name,
        {
          ...tensor,
          data: data.map((x, i) => (Number.isFinite(tensor.data[i]!) ? x : tensor.data[i]!)),
        },
      ];
    }),
  );
}

let failed = 0;
let ran = 0;
for (const each of cases) {
  if (!each.name.includes(values.only)) {
    continue;
  }
  ran += 1;
  // The device's own error measure and tolerance hold where they are looser than the suite's.
  const allowed: KernelCase = {
    ...each,
    tolerance: Math.max(tolerance, each.tolerance ?? 0),
    ...(precision === "fp32" ? {} : { relativeTo: "whole", inputs: rounded(each.inputs) }),
  };
  let message: string;
  try {
    message = await disagreement(type, allowed);
  } catch (error) {
    message = error instanceof Error ? error.message : String(error);
  }
  if (message !== "") {
    failed += 1;
    process.stdout.write(`DISAGREES ${each.name}\n  ${message.replaceAll("\n", "\n  ")}\n`);
  }
}
if (values.only === "") {
  // With variables, which the cases above have none of: decoding through a cache.
  const places = [0, 1, 2, 130, 191];
  for (const batch of [1, 3, 9]) {
    const want = await decodedLogits(await openDevice({ type: "reference" }), batch, places);
    const error = relativeError(await decodedLogits(device, batch, places), want);
    ran += 1;
    if (!(error <= tolerance)) {
      failed += 1;
      process.stdout.write(`DISAGREES decoding of ${batch}: ${error}\n`);
    }
  }
}
process.stdout.write(`${ran - failed} of ${ran} cases agree with reference\n`);
process.exit(failed > 0 || ran === 0 ? 1 : 0);
