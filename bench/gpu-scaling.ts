/**
 * @file Data-parallel training on the GPUs of one host beside a single one: `npm run bench:scaling`.
 *
 *   bench:scaling [--only NAME]... [--world N]... [--repetitions N] [--device cuda | torch-cpu] [--precision P]
 *
 * Every GPU trains on the workload's whole batch (weak scaling, as more GPUs are used in practice); the
 * efficiency is the time of one GPU's step over that of N GPUs'. The last lines say
 * `efficiency <workload> <x.xx> (<n> GPUs)`.
 */

import { spawn } from "node:child_process";
import { parseArgs } from "node:util";
import { endWithParent } from "../scripts/end-with-parent.ts";
import { freePort, rankEnvironment } from "../src/cli/launch.ts";
import { membershipOf } from "../src/runtime/group.ts";
import { openDevice } from "../src/runtime/registry.ts";
import { gpuWorkloads, openGpuWorkload } from "./gpu-workloads.ts";

const { values } = parseArgs({
  options: {
    only: { type: "string", multiple: true, default: ["W2a"] },
    world: { type: "string", multiple: true, default: ["2"] },
    repetitions: { type: "string", default: "20" },
    precision: { type: "string", default: "bf16" },
    device: { type: "string", default: "cuda" },
    batch: { type: "string" },
    /** Be a rank; what this script calls itself with. */
    rank: { type: "string" },
  },
});

async function measure(name: string): Promise<void> {
  endWithParent();
  const precision = values.precision as "fp32" | "tf32" | "bf16";
  const type = values.device as "cuda" | "torch-cpu";
  const device = await openDevice({ type, precision }, membershipOf());
  const kind = gpuWorkloads[name]!;
  const batch = Number(values.batch ?? kind.batch);
  const workload = await openGpuWorkload({ ...kind, batch }, device);
  for (let k = 0; k < 4; k++) {
    await workload.run();
  }
  const milliseconds: number[] = [];
  for (let k = 0; k < Number(values.repetitions); k++) {
    const begin = performance.now();
    await workload.run();
    milliseconds.push(performance.now() - begin);
  }
  process.stdout.write(`RESULT ${JSON.stringify(milliseconds)}\n`);
  await device.group?.leave();
  process.exit(0);
}

/** Rank 0's times. */
async function times(name: string, world: number): Promise<number[]> {
  const port = await freePort();
  const flags = ["--repetitions", values.repetitions, "--precision", values.precision];
  const args = [...flags, "--device", values.device, "--rank", name];
  if (values.batch !== undefined) {
    args.push("--batch", values.batch);
  }
  const outputs = await Promise.all(
    Array.from({ length: world }, (_, rank) => {
      const env = rankEnvironment(rank, world, port);
      const child = spawn(process.execPath, [...process.execArgv, process.argv[1]!, ...args], {
        env,
        stdio: ["ignore", "pipe", "inherit"],
      });
      return new Promise<string>((resolve, reject) => {
        let text = "";
        child.stdout.on("data", (chunk) => (text += String(chunk)));
        child.once("exit", (code, signal) =>
          code === 0 ? resolve(text) : reject(new Error(`rank ${rank} ended: ${signal ?? code}`)),
        );
      });
    }),
  );
  const line = outputs[0]!.split("\n").find((each) => each.startsWith("RESULT "))!;
  return JSON.parse(line.slice(7)) as number[];
}

const median = (xs: readonly number[]) => xs.toSorted((a, b) => a - b)[Math.floor(xs.length / 2)]!;

if (values.rank !== undefined) {
  await measure(values.rank);
} else {
  const lines: string[] = [];
  for (const name of values.only) {
    const alone = median(await times(name, 1));
    process.stdout.write(`${name}: ${alone.toFixed(2)} ms on one\n`);
    for (const world of values.world.map(Number)) {
      const together = median(await times(name, world));
      process.stdout.write(`${name}: ${together.toFixed(2)} ms on ${world}\n`);
      lines.push(`efficiency ${name} ${(alone / together).toFixed(3)} (${world} GPUs)`);
    }
  }
  process.stdout.write(`${lines.join("\n")}\n`);
}
