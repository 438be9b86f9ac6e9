/**
 * @file `npm run bench:cpu`: Tessera's training steps on the processor beside twins in plain PyTorch,
 * same shapes, same parameters, same arithmetic, in alternating turns (bench/README.md). The last lines
 * say how many times as fast as the twin each workload ran: `ratio <workload> <x.xx>`.
 *
 *   npm run bench:cpu -- [--quick] [--only NAME]... [--threads N] [--python PATH]
 *
 * Exit codes: 0 measured; 1 the two sides compute different things, or something broke; 2 no PyTorch or
 * a wrong flag.
 */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { UserError } from "../src/config/errors.ts";
import { encodeSafetensors } from "../src/runtime/safetensors.ts";
import { type Comparison, compare, quantile, type Sample } from "./compare.ts";
import { NoPeer, startPeer } from "./peer.ts";
import { type WorkloadKind, workloads } from "./workloads.ts";

interface Flags {
  readonly quick: boolean;
  readonly names: readonly string[];
  readonly threads: number;
  readonly python: string;
}

function parse(): Flags {
  try {
    const { values } = parseArgs({
      options: {
        quick: { type: "boolean", default: false },
        only: { type: "string", multiple: true, default: [] },
        threads: { type: "string", default: String(availableParallelism()) },
        python: { type: "string", default: "python3" },
      },
    });
    const unknown = values.only.find((name) => workloads[name] === undefined);
    if (unknown !== undefined) {
      throw new Error(`--only ${unknown}: expected one of ${Object.keys(workloads).join(", ")}`);
    }
    const threads = Number(values.threads);
    if (!Number.isInteger(threads) || threads < 1) {
      throw new Error(`--threads ${values.threads}: expected a whole number from 1`);
    }
    const names = Object.keys(workloads).filter(
      (name) => values.only.length === 0 || values.only.includes(name),
    );
    return { quick: values.quick, names, threads, python: values.python };
  } catch (error) {
    throw new UserError(
      error instanceof Error ? error.message : String(error),
      "npm run bench:cpu -- [--quick] [--only NAME]... [--threads N] [--python PATH]",
    );
  }
}

/** Measure one workload in a process of the peer's own. */
async function measure(name: string, kind: WorkloadKind, flags: Flags): Promise<Comparison> {
  const folder = mkdtempSync(join(tmpdir(), "tessera-bench-"));
  const peer = startPeer(flags.python, flags.threads);
  try {
    const workload = await kind.open(flags.threads);
    try {
      const { config, tensors, parameters, device } = workload;
      const file = join(folder, "start.safetensors");
      writeFileSync(file, encodeSafetensors({ tensors, metadata: {} }));
      const { variants, version } = await peer.ask("open", {
        workload: name,
        file,
        config,
        threads: flags.threads,
      });
      print(`\n${name}: ${kind.title}, ${parameters.toLocaleString("en")} parameters`);
      print(`  ours: ${device.info.description}; theirs: PyTorch ${version}, eager`);
      const plan = { rounds: flags.quick ? 2 : 6, repetitions: kind.repetitions };
      const comparison = await compare(workload, peer, variants, plan, (line) =>
        print(`  ${line}`),
      );
      report(comparison);
      return comparison;
    } finally {
      workload.close();
    }
  } finally {
    peer.close();
    rmSync(folder, { recursive: true });
  }
}

function report({ ours, theirs, first, variant, ratio, rounds }: Comparison): void {
  const idle = (sample: Sample, other: Sample) =>
    `${((100 * sample.idle) / sum(other.seconds)).toFixed(1)} %`;
  print(
    `  ours    ${spread(ours.seconds)}; first step with trace and session ${first.toFixed(2)} s`,
  );
  print(`  theirs  ${spread(theirs.seconds)}; ${variant}`);
  print(
    `  ratio   ${ratio.toFixed(2)}, by round ${Math.min(...rounds).toFixed(2)} to ${Math.max(...rounds).toFixed(2)}; processor while waiting: ours ${idle(ours, theirs)}, theirs ${idle(theirs, ours)}`,
  );
}

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

function spread(seconds: readonly number[]): string {
  const [low, middle, high] = [0.25, 0.5, 0.75].map((q) => quantile(seconds, q).toFixed(3));
  return `median ${middle} s, middle half ${low} to ${high} s, ${seconds.length} steps`;
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

async function main(): Promise<void> {
  const flags = parse();
  print(
    `${cpus()[0]?.model.trim() ?? "unknown processor"}, ${availableParallelism()} cores, ${flags.threads} threads; Node ${process.version}`,
  );
  const ratios: string[] = [];
  for (const name of flags.names) {
    const { ratio } = await measure(name, workloads[name]!, flags);
    ratios.push(`ratio ${name} ${ratio.toFixed(2)}`);
  }
  print(`\n${ratios.join("\n")}`);
}

try {
  await main();
} catch (error) {
  if (error instanceof NoPeer) {
    process.stderr.write(
      `\nno PyTorch to compare with: ${error.message}\ninstall it (pip install torch numpy) or name another interpreter: npm run bench:cpu -- --python PATH\n`,
    );
    process.exitCode = 2;
  } else if (error instanceof UserError) {
    process.stderr.write(`${error.message}\n${error.hint ?? ""}\n`);
    process.exitCode = 2;
  } else {
    process.stderr.write(
      `\n${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
    );
    process.exitCode = 1;
  }
}
