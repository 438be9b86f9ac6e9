/**
 * @file Whether several ranks give the gradient of one device: the same global batch through a tokenizer with
 * a codebook of moving averages (data initialisation, restarts), one with LFQ's entropies and a masked
 * transformer; loss, gradients and the codebook's states after the step are compared.
 *
 *   parallel-check DEVICE [--world N] [--tolerance X]       torch-cpu (Gloo) or cuda (NCCL)
 *
 * It starts its ranks itself. Exit code 1: some value differs by more than the tolerance (1e-5, of the
 * largest value of its tensor).
 */

import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type * as tf from "@tensorflow/tfjs-core";
import { freePort, rankEnvironment } from "../src/cli/launch.ts";
import { loadConfig } from "../src/config/resolve.ts";
import { openDataset } from "../src/data/registry.ts";
import { Scope } from "../src/models/scope.ts";
import { buildObjective } from "../src/objectives/registry.ts";
import { acrossRanks, averageOverRanks, meanOverRanks } from "../src/runtime/collective.ts";
import type { Device } from "../src/runtime/device.ts";
import { writeFileAtomic } from "../src/runtime/files.ts";
import { membershipOf } from "../src/runtime/group.ts";
import { Random } from "../src/runtime/random.ts";
import { openDevice } from "../src/runtime/registry.ts";
import { decodeSafetensors, encodeSafetensors } from "../src/runtime/safetensors.ts";
import { float32, type HostTensor, type HostTensors } from "../src/runtime/tensors.ts";
import { checks, type Experiment, experimentSchema } from "../src/trainers/experiment.ts";
import { makeTokenizer } from "../src/trainers/networks.ts";
import { getVariable } from "../src/trainers/packing.ts";
import { ALONE, rowsOfRank } from "../src/trainers/ranks.ts";
import { lossAndGradients, type Task } from "../src/trainers/step.ts";
import { tokenizerTask } from "../src/trainers/tokenizer-stage.ts";
import { endWithParent } from "./end-with-parent.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    world: { type: "string", default: "2" },
    tolerance: { type: "string", default: "1e-5" },
    /** Where a rank leaves its results; what this script starts itself with. */
    out: { type: "string" },
  },
});
const type = (positionals[0] ?? "torch-cpu") as "cuda" | "torch-cpu";

const SMALL = [
  "dataset={type: moving-shapes, frames: 5, height: 16, width: 16, size: 16, validation_size: 8}",
  "objective=@masked",
  "model=@transformer-tiny",
  "tokenizer.base_channels=8",
  "tokenizer.channel_multipliers=[1,1]",
  "tokenizer.temporal_strides=[2]",
  "tokenizer.spatial_strides=[2]",
  "tokenizer.blocks=1",
  "tokenizer.bottleneck_blocks=1",
  "tokenizer.norm_groups=4",
  "trainer.tokenizer.batch=8",
  "trainer.tokenizer.accumulate=1",
];
const QUANTIZERS: { readonly [name: string]: string } = {
  "vq-ema":
    "tokenizer.quantizer={type: vq, size: 24, width: 8, learn: ema, kmeans_steps: 2, restart_below: 0.1, entropy_weight: 0.1, entropy_temperature: 1}",
  lfq: "tokenizer.quantizer={type: lfq, bits: 8, factor_bits: 8, entropy_weight: 0.1, entropy_temperature: 1}",
};

function configOf(overrides: readonly string[]): Experiment {
  return loadConfig<Experiment>({
    file: fileURLToPath(new URL("../bench/experiments/gpu-tokenizer.yaml", import.meta.url)),
    overrides,
    schema: experimentSchema,
    checks,
  }).config;
}

/** A batch's loss, its gradients and the states that it leaves. */
async function evaluate(
  device: Device,
  name: string,
  scope: Scope,
  task: Pick<Task, "loss">,
  inputs: HostTensors,
): Promise<Map<string, HostTensor>> {
  const parameters = scope.trainable();
  const step = device.compile(name, (given) =>
    acrossRanks(() => {
      const { loss, gradients } = lossAndGradients(task, given, parameters);
      const names = Object.keys(gradients).filter((each) => gradients[each]);
      const means = averageOverRanks(names.map((each) => gradients[each]!));
      const found = names.map((each, i) => [`gradient/${each}`, means[i]!] as const);
      return { loss: meanOverRanks(loss), ...Object.fromEntries(found) };
    }),
  );
  const results = new Map(Object.entries(await step(inputs)));
  for (const [variable, state] of scope.variables() as Iterable<[string, tf.Variable]>) {
    if (!parameters.has(variable)) {
      results.set(`state/${variable}`, float32(state.shape, await getVariable(state)));
    }
  }
  return new Map([...results].map(([key, tensor]) => [`${name}/${key}`, tensor]));
}

/** All cases on one device, as one of the ranks of its group or alone. */
async function results(): Promise<Map<string, HostTensor>> {
  const device = await openDevice({ type, precision: "fp32" }, membershipOf());
  const ranks = device.group ?? ALONE;
  const all = new Map<string, HostTensor>();
  for (const [name, quantizer] of Object.entries(QUANTIZERS)) {
    const config = configOf([...SMALL, quantizer]);
    const data = await openDataset(config.dataset, "train", 0);
    const tokenizer = makeTokenizer(config);
    const { tokenizer: options } = config.trainer;
    const task = tokenizerTask(tokenizer, options, data, data, 0, config.tokenizer, ranks);
    for (let step = 0; step < 2; step++) {
      const [inputs] = await task.batches(step);
      const found = await evaluate(device, `${name} ${step}`, tokenizer.scope, task, inputs!);
      for (const [key, tensor] of found) {
        all.set(key, tensor);
      }
    }
    await data.close();
    tokenizer.scope.dispose();
  }
  const config = configOf([
    ...SMALL,
    QUANTIZERS["lfq"]!,
    "model.width=32",
    "model.depth=2",
    "model.heads=2",
  ]);
  const space = { grid: [2, 4, 4] as const, factors: [32], classes: 4 };
  const scope = Scope.root(3).child("transformer");
  const objective = buildObjective(
    { ...config.objective!, label_smoothing: 0.1 } as NonNullable<Experiment["objective"]>,
    config.model!,
    space,
    scope,
  );
  const random = new Random(5, "parallel-check");
  const size = 8;
  const ids = Int32Array.from({ length: size * 32 }, () => random.int(32));
  const labels = Int32Array.from({ length: size }, (_, b) => b % 4);
  const whole = objective.inputs({ ids, labels, size }, 0, 0, true);
  const task = { loss: (inputs: Parameters<Task["loss"]>[0]) => objective.loss(inputs) };
  const found = await evaluate(device, "masked", scope, task, rowsOfRank(whole, size, ranks));
  await device.group?.leave();
  return new Map([...all, ...found]);
}

/** Run this script as some ranks and read what rank 0 found. */
async function ranksOf(world: number, folder: string): Promise<Map<string, HostTensor>> {
  const port = await freePort();
  const out = join(folder, `${world}.safetensors`);
  await Promise.all(
    Array.from({ length: world }, (_, rank) => {
      const child = spawn(
        process.execPath,
        [...process.execArgv, process.argv[1]!, type, "--out", out],
        {
          stdio: "inherit",
          env: rankEnvironment(rank, world, port),
        },
      );
      return new Promise<void>((resolve, reject) => {
        child.once("error", reject);
        child.once("exit", (code, signal) =>
          code === 0
            ? resolve()
            : reject(new Error(`rank ${rank} of ${world} ended with ${signal ?? code}`)),
        );
      });
    }),
  );
  return new Map(decodeSafetensors(readFileSync(out)).tensors);
}

async function compare(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "tessera-parallel-"));
  try {
    const world = Number(values.world);
    const alone = await ranksOf(1, folder);
    const together = await ranksOf(world, folder);
    const worst = new Map<string, { error: number; tensor: string }>();
    for (const [name, { data }] of alone) {
      const other = together.get(name)?.data;
      let [largest, error] = [0, other?.length === data.length ? 0 : Number.POSITIVE_INFINITY];
      for (const [i, x] of data.entries()) {
        largest = Math.max(largest, Math.abs(x));
        error = Math.max(error, Math.abs(x - (other?.[i] ?? Number.NaN)));
      }
      const [task, kind] = name.split("/") as [string, string];
      const key = `${task.split(" ")[0]} ${kind}`;
      const relative = largest === 0 ? error : error / largest;
      if (!(relative <= (worst.get(key)?.error ?? -1))) {
        worst.set(key, { error: relative, tensor: name });
      }
    }
    const tolerance = Number(values.tolerance);
    for (const [key, { error, tensor }] of worst) {
      process.stdout.write(
        `${error <= tolerance ? "agrees" : "DIFFERS"} ${key}: ${error.toExponential(1)} at most (${tensor})\n`,
      );
    }
    const failed = [...worst.values()].filter(({ error }) => !(error <= tolerance)).length;
    process.stdout.write(
      `${alone.size} tensors of ${world} ranks against one; ${failed} kinds differ\n`,
    );
    process.exitCode = failed > 0 || alone.size === 0 ? 1 : 0;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

if (values.out === undefined) {
  await compare();
} else {
  endWithParent();
  const found = await results();
  if ((membershipOf()?.rank ?? 0) === 0) {
    writeFileAtomic(values.out, encodeSafetensors({ tensors: found, metadata: {} }));
  }
  process.exit(0);
}
