/**
 * @file The entropy penalty of lookup-free quantization, forward and backward, for the 1,280 tokens of
 * one clip of 17×128×128: ours, which never holds a row of 2^bits values, beside the whole-codebook
 * form in plain PyTorch, to 2^17 codes where PyTorch is there and the memory allows it. Each measurement
 * is a process of its own; memory is how much its largest resident size grew, tracing and compilation
 * included. What two published implementations take at 2^17 stands beside them.
 *
 *   npx tsx bench/lfq.ts [--threads N] [--python PATH] [--twin-bits N]...
 */

import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import * as tf from "@tensorflow/tfjs-core";
import { Random } from "../src/runtime/random.ts";
import { openDevice } from "../src/runtime/registry.ts";
import { float32, item } from "../src/runtime/tensors.ts";
import { batchEntropy, sampleEntropy } from "../src/tokenizers/quantizers/lfq.ts";

const TOKENS = 1280;
const TEMPERATURE = 0.01;
const REPETITIONS = 10;
/** What one clip's penalty may cost at 2^18 codes. */
const BAR = { seconds: 0.5, mib: 200 };
/** Rows of 2^bits float32 values that the whole-codebook form holds a token, from its growth at 2^14 and 2^16. */
const ROWS = 6;
/** Measured once on two cores, the packages' own code, for the same 1,280 tokens. */
const OTHERS = [
  "vector-quantize-pytorch's LFQ, 2^17: 34.6 s, 4.6 GB",
  "Open-MAGVIT2's LFQ, 2^17: 9.5 s, 3.3 GB",
];

/** One measurement: what a child process prints. */
interface Measured {
  readonly seconds: readonly number[];
  readonly value: number;
  readonly bytes: number;
}

/** The largest resident size of this process so far. */
function peak(): number {
  return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"))![1]) * 1024;
}

/** Entropy penalty and its gradient in this process. */
async function ours(bits: number, group: number, threads: number): Promise<Measured> {
  const device = await openDevice({ type: "cpu", threads });
  const values = new Random(0, "bench/lfq").uniforms(TOKENS * bits).map((u) => 2 * u - 1);
  const z = float32([TOKENS, bits], values);
  const before = peak();
  const step = device.compile("entropy", (inputs) => {
    const { value, grad } = tf.valueAndGrad((x) =>
      tf.sub<tf.Scalar>(
        sampleEntropy(x as tf.Tensor2D, TEMPERATURE),
        batchEntropy(x as tf.Tensor2D, TEMPERATURE, group),
      ),
    )(inputs["z"]!);
    return { value, grad };
  });
  const seconds: number[] = [];
  let value = 0;
  for (let i = 0; i < REPETITIONS; i++) {
    const begin = performance.now();
    value = item((await step({ z }))["value"]);
    seconds.push((performance.now() - begin) / 1000);
  }
  return { seconds, value, bytes: peak() - before };
}

/** Bytes that a new process may use: what the machine has free, and what its memory group allows. */
function available(): number {
  const read = (path: string): string => {
    try {
      return readFileSync(path, "utf8").trim();
    } catch {
      return "max"; // not limited so
    }
  };
  const free = Number(/MemAvailable:\s+(\d+) kB/.exec(read("/proc/meminfo"))?.[1] ?? 0) * 1024;
  const most = read("/sys/fs/cgroup/memory.max");
  const used = read("/sys/fs/cgroup/memory.current");
  return most === "max" || used === "max" ? free : Math.min(free, Number(most) - Number(used));
}

function child(command: string, args: readonly string[]): Measured | undefined {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: "utf8" });
  if (status !== 0) {
    process.stderr.write(`${command} ${args.join(" ")}: ${stderr}\n`);
    return undefined;
  }
  return JSON.parse(stdout.trim().split("\n").at(-1)!) as Measured;
}

/** @param bar print whether the bar is met */
function report(name: string, measured: Measured | undefined, bar = false): void {
  if (!measured) {
    process.stdout.write(`${name}: not measured\n`);
    return;
  }
  const sorted = [...measured.seconds].sort((a, b) => a - b);
  const median = sorted[Math.floor(sorted.length / 2)]!;
  const [first, mb] = [measured.seconds[0]!, measured.bytes / 2 ** 20];
  process.stdout.write(
    `${name}: median ${median.toFixed(3)} s, first ${first.toFixed(3)} s, +${mb.toFixed(0)} MiB, penalty ${measured.value.toFixed(4)}\n`,
  );
  if (bar) {
    const met = median < BAR.seconds && mb < BAR.mib;
    process.stdout.write(
      `  bar of ${BAR.seconds} s and ${BAR.mib} MiB at 2^18: ${met ? "met" : "missed"}\n`,
    );
  }
}

const { values } = parseArgs({
  options: {
    threads: { type: "string", default: String(availableParallelism()) },
    python: { type: "string", default: "python3" },
    "twin-bits": { type: "string", multiple: true, default: ["12", "14", "17"] },
    child: { type: "string", multiple: true, default: [] },
  },
});
const threads = Number(values.threads);
if (values.child.length > 0) {
  const [bits, group] = values.child.map(Number);
  process.stdout.write(`${JSON.stringify(await ours(bits!, group!, threads))}\n`);
} else {
  const script = fileURLToPath(import.meta.url);
  for (const [bits, group] of [
    [12, 12],
    [14, 14],
    [17, 17],
    [18, 9],
    [18, 18],
    [36, 9],
  ]) {
    const args = ["--import", "tsx", script, "--threads", String(threads)];
    const measured = child(process.execPath, [...args, `--child=${bits}`, `--child=${group}`]);
    report(`ours, 2^${bits}, batch entropy in groups of ${group} bits`, measured, bits === 18);
  }
  const twin = fileURLToPath(new URL("twins/lfq.py", import.meta.url));
  for (const bits of values["twin-bits"]) {
    const repetitions = Number(bits) > 14 ? 1 : 3;
    const name = `PyTorch, 2^${bits}, whole codebook`;
    const needed = ROWS * TOKENS * 2 ** Number(bits) * 4;
    if (needed * 1.3 > available()) {
      process.stdout.write(
        `${name}: not measured, it needs about ${(needed / 1e9).toFixed(1)} GB and ${(available() / 1e9).toFixed(1)} GB are free\n`,
      );
      continue;
    }
    const args = [twin, bits, String(TOKENS), String(repetitions), String(threads)];
    report(name, child(values.python, args));
  }
  for (const line of OTHERS) {
    process.stdout.write(`measured once elsewhere with their own code: ${line}\n`);
  }
}
