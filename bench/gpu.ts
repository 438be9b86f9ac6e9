/**
 * @file `npm run bench:gpu`: training steps and decoding on one NVIDIA GPU beside twins in plain PyTorch,
 * eager and compiled (torch.compile), both in bfloat16 under the same policy. The last lines say how many
 * times as fast as the twin each workload ran: `ratio <workload> <x.xx> (eager)`.
 *
 *   npm run bench:gpu -- [--only NAME]... [--repetitions N] [--no-twin] [--no-ours] [--no-eager] [--no-compile] [--precision P]
 *                        [--device cuda | torch-cpu] [--python PATH]
 *
 * Each side runs in a process of its own, one after the other, with the GPU to itself. Exit code 2: no
 * such device, no PyTorch or a wrong flag.
 */

import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { endWithParent } from "../scripts/end-with-parent.ts";
import { UserError } from "../src/config/errors.ts";
import type { Compiled, Device } from "../src/runtime/device.ts";
import { openGraphDevice } from "../src/runtime/graph-device.ts";
import { openDevice } from "../src/runtime/registry.ts";
import type { HostTensors } from "../src/runtime/tensors.ts";
import { TORCH_FEATURES } from "../src/runtime/torch/lowering.ts";
import { configOf, type GpuWorkload, gpuWorkloads, openGpuWorkload } from "./gpu-workloads.ts";
import { bytesOf, ceilingsOf, explainWork, flopsOf } from "./work.ts";

const { values } = parseArgs({
  options: {
    only: { type: "string", multiple: true, default: [] },
    repetitions: { type: "string", default: "20" },
    "no-twin": { type: "boolean", default: false },
    "no-ours": { type: "boolean", default: false },
    "no-eager": { type: "boolean", default: false },
    "no-compile": { type: "boolean", default: false },
    precision: { type: "string", default: "bf16" },
    device: { type: "string", default: "cuda" },
    python: { type: "string", default: "python3" },
    /** Run our side of one workload and print its times as JSON; what this script calls itself with. */
    ours: { type: "string" },
  },
});
const repetitions = Number(values.repetitions);
const print = (line: string) => process.stdout.write(`${line}\n`);

interface Times {
  readonly milliseconds: readonly number[];
  readonly parameters: number;
  /** Bytes of GPU memory at most. */
  readonly memory: number;
  readonly device: string;
  readonly note?: string;
  /** Where the time goes at least. */
  readonly work?: string;
}

const median = (xs: readonly number[]) => xs.toSorted((a, b) => a - b)[Math.floor(xs.length / 2)]!;

/** Repetitions of one workload on our device. */
async function measure(name: string): Promise<void> {
  endWithParent();
  const precision = values.precision as "fp32" | "tf32" | "bf16";
  const kind = gpuWorkloads[name]!;
  const work = await workOf(kind, precision);
  const device = await openDevice(
    values.device === "cuda" ? { type: "cuda", precision } : { type: "torch-cpu", precision },
  );
  // A processor's ceilings are found with less.
  const ceilings = await (values.device === "cuda"
    ? ceilingsOf(device)
    : ceilingsOf(device, 1024, 2 ** 22));
  const workload = await openGpuWorkload(kind, device);
  const started = performance.now();
  const decode = kind.twin === "decode";
  let metrics: { readonly [metric: string]: number } = {};
  for (let k = 0; k < (decode ? 2 : 4); k++) {
    metrics = await workload.run(); // traces, chooses algorithms, captures
  }
  const prepared = (performance.now() - started) / 1000;
  const milliseconds: number[] = [];
  const count = decode ? Math.min(repetitions, kind.batch === 1 ? 5 : 3) : repetitions;
  for (let k = 0; k < count; k++) {
    const begin = performance.now();
    metrics = await workload.run();
    milliseconds.push(performance.now() - begin);
  }
  const shown = Object.entries(metrics).map(([key, x]) => `${key} ${x.toPrecision(5)}`);
  const times: Times = {
    milliseconds,
    parameters: workload.parameters,
    memory: device.memory?.().most ?? 0,
    device: device.info.description,
    note: `prepared in ${prepared.toFixed(1)} s; ${shown.join(", ")}`,
    work: explainWork(work, ceilings, median(milliseconds)),
  };
  print(`RESULT ${JSON.stringify(times)}`);
  process.exit(0);
}

/** What one repetition has to do: all calls of its functions. */
async function workOf(kind: GpuWorkload, precision: "fp32" | "tf32" | "bf16") {
  const calls = new Map<string, number>();
  const { device, graphs } = await openGraphDevice(TORCH_FEATURES);
  const counting: Device = {
    ...device,
    compile: (name, fn) => {
      const compiled = device.compile(name, fn);
      const call = (inputs: HostTensors) => {
        calls.set(name, (calls.get(name) ?? 0) + 1);
        return compiled(inputs);
      };
      return Object.defineProperty(call, "name", { value: name }) as Compiled;
    },
  };
  const workload = await openGpuWorkload(kind, counting);
  await workload.run();
  workload.close();
  let [flops, bytes] = [0, 0];
  for (const graph of graphs) {
    const count = calls.get(graph.name)!;
    flops += count * flopsOf(graph);
    bytes += count * bytesOf(graph, precision);
  }
  return { flops, bytes };
}

function child(command: string, args: readonly string[], input = ""): Times | undefined {
  const { stdout, stderr, status } = spawnSync(command, args, {
    input,
    encoding: "utf8",
    maxBuffer: 1 << 28,
    stdio: ["pipe", "pipe", "pipe"],
  });
  const line = (stdout ?? "").split("\n").find((each) => each.startsWith("RESULT "));
  if (process.env["TESSERA_PROFILE"]) {
    print(stderr ?? "");
  }
  if (!line) {
    print(
      `  failed (${String(status)}): ${(stderr ?? "").trim().split("\n").slice(-12).join("\n  ")}`,
    );
    return undefined;
  }
  return JSON.parse(line.slice(7)) as Times;
}

function describe(who: string, times: Times | undefined): void {
  if (times) {
    const { milliseconds, memory, note } = times;
    const [low, high] = [Math.min(...milliseconds), Math.max(...milliseconds)];
    print(
      `  ${who.padEnd(22)} ${median(milliseconds).toFixed(2)} ms (${low.toFixed(2)} to ${high.toFixed(2)} of ${milliseconds.length}), ${(memory / 2 ** 30).toFixed(1)} GiB${note ? `; ${note}` : ""}`,
    );
    if (times.work !== undefined) {
      print(`  ${" ".repeat(22)} ${times.work}`);
    }
  }
}

function main(): void {
  const names = Object.keys(gpuWorkloads).filter(
    (name) => values.only.length === 0 || values.only.includes(name),
  );
  if (names.length === 0) {
    throw new UserError(
      `--only ${values.only.join()}: expected one of ${Object.keys(gpuWorkloads).join(", ")}`,
    );
  }
  const self = process.argv[1]!;
  const ratios: string[] = [];
  for (const name of names) {
    const kind = gpuWorkloads[name]!;
    print(`\n${name}: ${kind.title}`);
    const flags = [
      "--ours",
      name,
      "--precision",
      values.precision,
      "--device",
      values.device,
      "--repetitions",
      values.repetitions,
    ];
    const ours = values["no-ours"]
      ? undefined
      : child(process.execPath, [...process.execArgv, self, ...flags]);
    if (ours) {
      print(`  ${ours.device}; ${ours.parameters.toLocaleString("en")} parameters`);
    }
    describe("ours", ours);
    if (values["no-twin"]) {
      continue;
    }
    const compiled = kind.twin !== "decode" && !values["no-compile"];
    const modes = [...(values["no-eager"] ? [] : ["eager"]), ...(compiled ? ["compile"] : [])];
    for (const mode of modes) {
      const config = configOf(kind);
      const grid = kind.experiment === "gpu-transformer" ? [4, 16, 16] : [5, 16, 16];
      const order = {
        kind: kind.twin,
        mode,
        config,
        batch: kind.batch,
        repetitions,
        grid,
        device: values.device,
      };
      const twin = fileURLToPath(new URL("twins/gpu.py", import.meta.url));
      const theirs = child(values.python, [twin], JSON.stringify(order));
      describe(`twin, ${mode}`, theirs);
      if (ours && theirs) {
        if (ours.parameters !== theirs.parameters) {
          print(`  the twin has ${theirs.parameters} parameters: not the same network`);
          process.exitCode = 1;
        }
        const ratio = median(theirs.milliseconds) / median(ours.milliseconds);
        ratios.push(`ratio ${name} ${ratio.toFixed(2)} (${mode})`);
      }
    }
  }
  print(`\n${ratios.join("\n")}`);
}

try {
  if (values.ours !== undefined) {
    await measure(values.ours);
  } else {
    main();
  }
} catch (error) {
  const user = error instanceof UserError;
  const text = error instanceof Error ? error : new Error(String(error));
  process.stderr.write(
    user ? `${text.message}\n${error.hint ?? ""}\n` : `${text.stack ?? text.message}\n`,
  );
  process.exit(user ? 2 : 1);
}
