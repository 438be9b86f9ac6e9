/**
 * @file Trainings at the papers' sizes on procedural clips, and what they cost: `npx tsx scripts/paper-scale.ts`.
 *
 *   paper-scale [--only NAME]... [--steps N] [--precision P] [--device cuda | torch-cpu] [OVERRIDE ...]
 *
 * Each experiment runs as `tessera run` runs it (data, tokenizer, tokens, transformer, checkpoints), in a process
 * of its own. Printed for each stage: seconds a step, items and tokens a second, the share of the device's
 * measured rate of products, the share of the time spent waiting for data, first and last loss; then the peak of
 * the GPU's memory.
 */

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { ceilingsOf, flopsOf } from "../bench/work.ts";
import { loadConfig } from "../src/config/resolve.ts";
import { openDevice } from "../src/runtime/registry.ts";
import { TORCH_FEATURES } from "../src/runtime/torch/lowering.ts";
import { checks, type Experiment, experimentSchema } from "../src/trainers/experiment.ts";
import { traceTraining } from "../src/trainers/graphs.ts";
import { openModalities } from "../src/trainers/modalities.ts";
import { runExperiment } from "../src/trainers/run.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    only: { type: "string", multiple: true, default: ["magvit-l", "videopoet-300m"] },
    steps: { type: "string", default: "200" },
    precision: { type: "string", default: "bf16" },
    device: { type: "string", default: "cuda" },
    /** Run one experiment; what this script calls itself with. */
    one: { type: "string" },
  },
});

const lines = (file: string): { readonly [key: string]: unknown }[] =>
  readFileSync(file, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { readonly [key: string]: unknown });
const median = (xs: readonly number[]) => xs.toSorted((a, b) => a - b)[Math.floor(xs.length / 2)]!;
const print = (text: string) => process.stdout.write(`${text}\n`);

async function measure(name: string): Promise<void> {
  const output = mkdtempSync(join(tmpdir(), "tessera-paper-scale-"));
  try {
    const resolved = loadConfig<Experiment>({
      file: fileURLToPath(new URL(`../configs/experiments/${name}.yaml`, import.meta.url)),
      overrides: [
        `device={type: ${values.device}, precision: ${values.precision}}`,
        ...["tokenizer", "transformer"].flatMap((stage) => [
          `trainer.${stage}.steps=${values.steps}`,
          `trainer.${stage}.validate_every=${values.steps}`,
          `trainer.${stage}.checkpoint_every=${values.steps}`,
        ]),
        `output=${output}`,
        ...positionals,
      ],
      schema: experimentSchema,
      checks,
    });
    const { config } = resolved;
    const small = values.device !== "cuda";
    const device = await openDevice(config.device);
    const ceilings = await (small ? ceilingsOf(device, 512, 2 ** 20) : ceilingsOf(device));
    device.dispose();
    const { dir } = await runExperiment(resolved);
    const most = device.memory?.().most ?? 0;
    const flops = new Map<string, number>();
    const modalities = openModalities(dir, config.objective, device);
    for (const graph of await traceTraining(config, TORCH_FEATURES, modalities)) {
      const [stage] = graph.name.split("-") as [string];
      flops.set(stage, (flops.get(stage) ?? 0) + flopsOf(graph));
    }
    const timing = lines(join(dir, "timing.jsonl"));
    const metrics = lines(join(dir, "metrics.jsonl")).filter(({ split }) => split === "train");
    print(`\n${name} on ${device.info.description}`);
    for (const stage of ["tokenizer", "transformer"] as const) {
      const { batch, accumulate } = config.trainer[stage];
      const laps = timing.filter((lap) => lap["stage"] === stage).slice(1); // the first one compiles
      const losses = metrics
        .filter((line) => line["stage"] === stage)
        .map(({ loss }) => loss as number);
      if (laps.length === 0) {
        continue;
      }
      const seconds = median(laps.map((lap) => lap["step_seconds"] as number));
      const waits = median(laps.map((lap) => lap["data_wait_share"] as number));
      const work = flops.get(stage)! * accumulate;
      print(
        `  ${stage}: ${(1000 * seconds).toFixed(1)} ms a step of ${batch}, ${(batch / seconds).toFixed(1)} items/s; ` +
          `${(work / 1e12).toFixed(1)} TFLOP a step, ${(work / seconds / 1e12).toFixed(0)} TFLOP/s, ` +
          `${((100 * work) / seconds / ceilings.flops).toFixed(0)} % of the measured ${(ceilings.flops / 1e12).toFixed(0)}; ` +
          `${(100 * waits).toFixed(0)} % waiting for data; loss ${losses[0]!.toPrecision(4)} to ${losses.at(-1)!.toPrecision(4)}`,
      );
    }
    print(`  at most ${(most / 2 ** 30).toFixed(1)} GiB of GPU memory`);
  } finally {
    rmSync(output, { recursive: true, force: true });
  }
}

if (values.one === undefined) {
  for (const name of values.only) {
    const flags = ["steps", "precision", "device"].flatMap((key) => [
      `--${key}`,
      values[key as "steps"],
    ]);
    const args = [...process.execArgv, process.argv[1]!, "--one", name, ...flags, ...positionals];
    const { status } = spawnSync(process.execPath, args, { stdio: "inherit" });
    process.exitCode = status === 0 ? process.exitCode : 1;
  }
} else {
  await measure(values.one);
  process.exit(process.exitCode ?? 0);
}
