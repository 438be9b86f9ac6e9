/**
 * @file `npm run bench:cpu`: Tessera's training steps on the processor beside twins in plain PyTorch,
 * same shapes, same parameters, same arithmetic, in alternating turns (bench/README.md). The last lines
 * say how many times as fast as the twin each workload ran: `ratio <workload> <x.xx>`.
 *
 *   npm run bench:cpu -- [--quick | --check] [--only NAME]... [--threads N] [--python PATH]
 *
 * --quick measures fewer rounds, --check only whether both sides compute the same.
 * Exit codes: 0 measured; 1 the two sides compute different things, or something broke; 2 no PyTorch or
 * a wrong flag.
 */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { UserError } from "../src/config/errors.ts";
import { encodeSafetensors } from "../src/runtime/safetensors.ts";
import { type Comparison, compare, quantile, type Sample } from "./compare.ts";
import { NoPeer, startPeer } from "./peer.ts";
import { type WorkloadKind, workloads } from "./workloads.ts";

const USAGE =
  "npm run bench:cpu -- [--quick | --check] [--only NAME]... [--threads N] [--python PATH]";

interface Flags {
  /** Turns of each side; 0 checks only. */
  readonly rounds: number;
  readonly names: readonly string[];
  readonly threads: number;
  readonly python: string;
}

function parse(): Flags {
  try {
    const { values } = parseArgs({
      options: {
        quick: { type: "boolean", default: false },
        check: { type: "boolean", default: false },
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
    const rounds = values.check ? 0 : values.quick ? 2 : 6;
    return { rounds, names, threads, python: values.python };
  } catch (error) {
    throw new UserError(error instanceof Error ? error.message : String(error), USAGE);
  }
}

/** Measure one workload, the twin in a process of its own. */
async function measure(
  name: string,
  kind: WorkloadKind,
  flags: Flags,
): Promise<Comparison | undefined> {
  const folder = mkdtempSync(join(tmpdir(), "tessera-bench-"));
  const peer = startPeer(flags.python, flags.threads);
  try {
    const workload = await kind.open(flags.threads);
    try {
      const { config, space, tensors, parameters, device } = workload;
      const file = join(folder, "start.safetensors");
      writeFileSync(file, encodeSafetensors({ tensors, metadata: {} }));
      const open = { workload: name, file, config, space, threads: flags.threads };
      const { variants, version } = await peer.ask("open", open);
      print(`\n${name}: ${kind.title}, ${parameters.toLocaleString("en")} parameters`);
      print(`  ours: ${device.info.description}; twin: PyTorch ${version}, eager`);
      const plan = { rounds: flags.rounds, repetitions: kind.repetitions };
      return await compare(workload, peer, variants, plan, (line) => print(`  ${line}`));
    } finally {
      workload.close();
    }
  } finally {
    peer.close();
    rmSync(folder, { recursive: true });
  }
}

function report({ ours, theirs, variant, ratio, best, rounds }: Comparison): void {
  const [low, high] = [Math.min(...rounds), Math.max(...rounds)].map((x) => x.toFixed(2));
  print(`  ours  ${spread(ours)}`);
  print(`  twin  ${spread(theirs)}; ${variant}`);
  print(
    `  ratio ${ratio.toFixed(2)} of the medians, ${best.toFixed(2)} of the fastest, by round ${low} to ${high}`,
  );
  const idle = [ours.idle / sum(theirs.seconds), theirs.idle / sum(ours.seconds)];
  const [own, other] = idle.map((share) => `${(100 * share).toFixed(1)} %`);
  print(
    `  processor taken while the other side had its turn: ours ${own}, twin ${other} of a core`,
  );
}

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

function spread({ seconds }: Sample): string {
  const [least, low, middle, high] = [0, 0.25, 0.5, 0.75].map((q) =>
    quantile(seconds, q).toFixed(3),
  );
  return `median ${middle} s, middle half ${low} to ${high} s, fastest ${least} s, of ${seconds.length}`;
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

async function main(): Promise<void> {
  const flags = parse();
  print(
    `${cpus()[0]?.model.trim() ?? "unknown processor"}, ${availableParallelism()} cores, ${flags.threads} threads; Node ${process.version}`,
  );
  const load = loadavg()[0]!;
  if (flags.rounds > 0 && load > availableParallelism() / 2) {
    print(
      `warning: this machine is busy (load ${load.toFixed(1)}): the ratios will mean little, repeat them on an idle one`,
    );
  }
  const ratios: string[] = [];
  for (const name of flags.names) {
    const comparison = await measure(name, workloads[name]!, flags);
    if (comparison) {
      report(comparison);
      ratios.push(`ratio ${name} ${comparison.ratio.toFixed(2)}`);
    }
  }
  print(ratios.length > 0 ? `\n${ratios.join("\n")}` : "\nboth sides compute the same");
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
