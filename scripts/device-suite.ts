/**
 * @file The numerical suite (test/runtime/cases) on one device, without a test runner: what runs on a GPU
 * machine that has Node and PyTorch only. `npm run device-suite -- torch-cpu`, or as plain JavaScript (see
 * docs/runtime.md#pytorch) `node build/js/scripts/device-suite.js cuda bf16`.
 *
 *   device-suite DEVICE [fp32 | tf32 | bf16] [--tolerance X] [--only TEXT] [--eager] [--jobs N] [--limit SECONDS]
 *
 * Every case runs on `reference` and on the device, values and gradients, in one of some processes (--jobs; 4 on
 * cuda), and is told when it is done; one that takes longer than the limit (60 s), or ends its process, has failed,
 * and the others go on. The last line counts them. Errors are relative to each tensor's largest value. Exit code
 * 1: some case disagrees.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { openDevice } from "../src/runtime/registry.ts";
import type { HostTensors } from "../src/runtime/tensors.ts";
import { composedCases } from "../test/runtime/cases/composed.ts";
import { compositeCases } from "../test/runtime/cases/composite.ts";
import { convolutionCases } from "../test/runtime/cases/convolution.ts";
import { elementwiseCases } from "../test/runtime/cases/elementwise.ts";
import { reductionAndProductCases } from "../test/runtime/cases/reductions.ts";
import { resamplingCases } from "../test/runtime/cases/resampling.ts";
import { decodedLogits, relativeError, scannedLogits } from "../test/runtime/cases/decode.ts";
import { shapingCases } from "../test/runtime/cases/shaping.ts";
import type { KernelCase } from "../test/runtime/case.ts";
import { disagreement, useDevice } from "../test/runtime/compare.ts";
import { endWithParent } from "./end-with-parent.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    tolerance: { type: "string" },
    only: { type: "string", default: "" },
    eager: { type: "boolean", default: false },
    jobs: { type: "string" },
    limit: { type: "string", default: "60" },
    /** Work for a parent that names cases; what this script starts itself with. */
    worker: { type: "boolean", default: false },
  },
});
const type = (positionals[0] ?? "torch-cpu") as "cuda" | "torch-cpu";
const precision = (positionals[1] ?? "fp32") as "fp32" | "tf32" | "bf16";
const tolerance = Number(values.tolerance ?? { fp32: 1e-4, tf32: 5e-3, bf16: 2e-2 }[precision]);

const cases: readonly KernelCase[] = [
  ...elementwiseCases,
  ...shapingCases,
  ...reductionAndProductCases,
  ...convolutionCases,
  ...compositeCases,
  ...composedCases,
  ...resamplingCases,
];
/** With variables, which the cases above have none of: decoding through a cache, place by place and in a loop. */
const decoding = [1, 3, 9].flatMap((batch) =>
  [false, true].map((loop) => ({
    batch,
    loop,
    name: `decoding of ${batch}${loop ? ", a loop" : ""}`,
  })),
);
const names = [...cases, ...decoding].map(({ name }) => name);

/**
 * Inputs that bfloat16 holds exactly, for both sides: where a step or a comparison follows, a rounding
 * before it would otherwise decide the result.
 */
function roundedFor({ name, inputs }: KernelCase): HostTensors {
  if (name.startsWith("maxPool")) {
    return inputs; // stays float32; rounded values would tie for the largest
  }
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

/** Runs the cases that its parent names by their numbers, a line each, and says how they went. */
async function work(): Promise<void> {
  endWithParent();
  const device = await openDevice(
    type === "cuda" ? { type, precision, cuda_graph: !values.eager } : { type, precision },
  );
  useDevice(type, device);
  process.stdout.write(`READY ${device.info.description}\n`);
  const check = async (index: number): Promise<string> => {
    const each = cases[index];
    if (each) {
      // The case's own error measure and tolerance hold where they are looser than the suite's.
      return disagreement(type, {
        ...each,
        tolerance: Math.max(tolerance, each.tolerance ?? 0),
        ...(precision === "fp32" ? {} : { relativeTo: "whole", inputs: roundedFor(each) }),
      });
    }
    const { batch, loop } = decoding[index - cases.length]!;
    const places = loop ? [0, 1, 2, 3, 4, 5] : [0, 1, 2, 130, 191];
    const logits = loop ? scannedLogits : decodedLogits;
    const want = await logits(await openDevice({ type: "reference" }), batch, places);
    const error = relativeError(await logits(device, batch, places), want);
    return error <= tolerance ? "" : `relative error ${error}`;
  };
  for await (const line of createInterface({ input: process.stdin })) {
    let message: string;
    try {
      message = await check(Number(line));
    } catch (error) {
      message = error instanceof Error ? error.message : String(error);
    }
    process.stdout.write(`DONE ${JSON.stringify({ index: Number(line), message })}\n`);
  }
}

let described = false;
let ended = 0;
let failed = 0;

function tell(index: number, seconds: number, message: string, total: number): void {
  ended += 1;
  failed += Number(message !== "");
  const what = message === "" ? "agrees" : "DISAGREES";
  process.stdout.write(
    `${what} ${ended}/${total} ${names[index]} (${seconds.toFixed(1)} s)\n${message === "" ? "" : `  ${message.replaceAll("\n", "\n  ")}\n`}`,
  );
}

/** Have a process work through the queue; a new one where it hangs or dies. */
async function serve(queue: number[], total: number): Promise<void> {
  while (queue.length > 0) {
    const args = [...process.execArgv, process.argv[1]!, ...process.argv.slice(2), "--worker"];
    const child: ChildProcess = spawn(process.execPath, args, {
      stdio: ["pipe", "pipe", "inherit"],
    });
    let current: number | undefined;
    let begun = performance.now();
    let late: NodeJS.Timeout | undefined;
    const limit = Number(values.limit);
    const wait = (): void => {
      clearTimeout(late);
      late = setTimeout(() => child.kill("SIGKILL"), limit * 1000);
    };
    const next = (): void => {
      current = queue.shift();
      begun = performance.now();
      if (current === undefined) {
        clearTimeout(late);
        child.kill("SIGKILL"); // what it holds goes with it
      } else {
        wait();
        child.stdin!.write(`${current}\n`);
      }
    };
    child.stdin!.on("error", () => {}); // it has ended: told below
    createInterface({ input: child.stdout! }).on("line", (line) => {
      if (line.startsWith("READY ")) {
        if (!described) {
          process.stdout.write(`${line.slice(6)}; allowed relative error ${tolerance}\n`);
        }
        described = true;
        next();
      } else if (line.startsWith("DONE ")) {
        const { index, message } = JSON.parse(line.slice(5)) as { index: number; message: string };
        tell(index, (performance.now() - begun) / 1000, message, total);
        next();
      }
    });
    wait();
    const how = await new Promise<string>((resolve) => {
      child.once("error", (error) => resolve(error.message));
      child.once("exit", (code, signal) => resolve(String(signal ?? code)));
    });
    clearTimeout(late);
    const seconds = (performance.now() - begun) / 1000;
    if (current !== undefined) {
      const why = seconds >= limit ? `no result within ${limit} s` : `its process ended (${how})`;
      tell(current, seconds, why, total);
    } else if (queue.length > 0) {
      throw new Error(`the device does not open: the process ended (${how})`);
    }
  }
}

if (values.worker) {
  await work();
} else {
  const queue = [...names.keys()].filter((index) => names[index]!.includes(values.only));
  const total = queue.length;
  const jobs = Math.min(total, Number(values.jobs ?? (type === "cuda" ? 4 : 1)));
  // The long ones first, so that none is left alone at the end.
  queue.sort((a, b) => Number(b >= cases.length) - Number(a >= cases.length) || a - b);
  await Promise.all(Array.from({ length: jobs }, () => serve(queue, total)));
  process.stdout.write(`${ended - failed} of ${ended} cases agree with reference\n`);
  process.exit(failed > 0 || ended === 0 ? 1 : 0);
}
