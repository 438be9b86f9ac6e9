/**
 * @file Whether several ranks give the gradient of one device: the same global batch through a tokenizer with
 * a codebook of moving averages (data initialisation, restarts), one with LFQ's entropies and a masked
 * transformer; loss, gradients and the codebook's states after the step are compared.
 *
 *   parallel-check DEVICE [--world N] [--tolerance X]       torch-cpu (Gloo) or cuda (NCCL)
 *   parallel-check DEVICE --steps N                         whole trainings of N steps
 *   parallel-check DEVICE --steps N --experiment FILE [OVERRIDE]...     of an experiment's tokenizer
 *
 * It starts its ranks itself. Exit code 1: some value differs by more than the tolerance (1e-5, of the
 * largest value of its tensor).
 *
 * Over many steps two trainings part that differ in rounding alone, since training is chaotic and Adam makes a
 * whole step of a gradient that is nothing but rounding. With --steps the drift between one rank and several is
 * therefore held against the drift between two trainings on one rank whose initial weights differ by 1e-7 of
 * themselves, a rounding: exit code 1 where it is more than three times as large.
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
import { MovingAverage } from "../src/trainers/ema.ts";
import { AdamW } from "../src/trainers/optimizers.ts";
import { getVariable, setVariable } from "../src/trainers/packing.ts";
import { ALONE, rowsOfRank } from "../src/trainers/ranks.ts";
import { compileStage, lossAndGradients, type Task } from "../src/trainers/step.ts";
import { tokenizerTask } from "../src/trainers/tokenizer-stage.ts";
import { endWithParent } from "./end-with-parent.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    world: { type: "string", default: "2" },
    tolerance: { type: "string", default: "1e-5" },
    steps: { type: "string" },
    experiment: { type: "string" },
    /** Change the initial weights by this share of themselves. */
    perturb: { type: "string", default: "0" },
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
  "trainer.tokenizer.lr=2e-3",
  "trainer.transformer.lr=2e-3",
];
const QUANTIZERS: { readonly [name: string]: string } = {
  "vq-ema":
    "tokenizer.quantizer={type: vq, size: 24, width: 8, learn: ema, kmeans_steps: 2, restart_below: 0.1, entropy_weight: 0.1, entropy_temperature: 1}",
  lfq: "tokenizer.quantizer={type: lfq, bits: 8, factor_bits: 8, entropy_weight: 0.1, entropy_temperature: 1}",
};

const BENCH = fileURLToPath(new URL("../bench/experiments/gpu-tokenizer.yaml", import.meta.url));

function configOf(overrides: readonly string[], file = BENCH): Experiment {
  return loadConfig<Experiment>({
    file,
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

/** The losses of some training steps of a task, and the weights after them. */
async function train(
  device: Device,
  name: string,
  task: Task,
  steps: number,
): Promise<Map<string, HostTensor>> {
  const perturb = Number(values.perturb);
  for (const [key, variable] of perturb === 0 ? [] : task.scope.trainable()) {
    const noise = new Random(9, key).normals(variable.size);
    const own = await getVariable(variable);
    setVariable(
      variable,
      own.map((x, i) => x * (1 + perturb * noise[i]!)),
    );
  }
  task.start?.();
  const optimizer = new AdamW(task.scope.trainable(), task.options, 1);
  const average = new MovingAverage(optimizer.packs);
  await average.start();
  const functions = compileStage(device, task, optimizer, average);
  const losses = new Float32Array(steps);
  for (let step = 0; step < steps; step++) {
    losses[step] = (await functions.train(step, await task.batches(step)))["loss"]!;
  }
  const found = new Map<string, HostTensor>([[`${name}/losses`, float32([steps], losses)]]);
  for (const [key, variable] of task.scope.trainable()) {
    found.set(`${name}/weights/${key}`, float32(variable.shape, await getVariable(variable)));
  }
  optimizer.dispose();
  average.dispose();
  return found;
}

/** All cases on one device, as one of the ranks of its group or alone. */
async function results(): Promise<Map<string, HostTensor>> {
  const choice = { type, precision: "fp32" } as const;
  const device = await openDevice(
    type === "torch-cpu" ? { ...choice, type, threads: 1 } : { ...choice, type },
    membershipOf(),
  );
  const ranks = device.group ?? ALONE;
  const all = new Map<string, HostTensor>();
  const steps = values.steps === undefined ? undefined : Number(values.steps);
  const experiments = values.experiment
    ? { tokenizer: configOf(positionals.slice(1), values.experiment) }
    : Object.fromEntries(
        Object.entries(QUANTIZERS).map(([name, each]) => [name, configOf([...SMALL, each])]),
      );
  for (const [name, config] of Object.entries(experiments)) {
    const data = await openDataset(config.dataset, "train", 0);
    const tokenizer = makeTokenizer(config);
    const { tokenizer: options } = config.trainer;
    const task = tokenizerTask(tokenizer, options, data, data, 0, config.tokenizer, ranks);
    if (steps !== undefined) {
      for (const [key, tensor] of await train(device, name, task, steps)) {
        all.set(key, tensor);
      }
      await data.close();
      tokenizer.scope.dispose();
      continue;
    }
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
  if (values.experiment) {
    await device.group?.leave();
    return all;
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
  const size = 8;
  const inputsAt = (step: number): HostTensors => {
    const random = new Random(5, "parallel-check", step);
    const ids = Int32Array.from({ length: size * 32 }, () => random.int(32));
    const labels = Int32Array.from({ length: size }, (_, b) => b % 4);
    return rowsOfRank(objective.inputs({ ids, labels, size }, 0, step, true), size, ranks);
  };
  const task: Task = {
    stage: "transformer",
    scope,
    options: config.trainer.transformer,
    batches: (step) => Promise.resolve([inputsAt(step)]),
    loss: (inputs) => objective.loss(inputs),
    validationBatches: 0,
    validationBatch: () => Promise.reject(new Error("not used")),
  };
  const found =
    steps === undefined
      ? await evaluate(device, "masked", scope, task, inputsAt(0))
      : await train(device, "masked", task, steps);
  await device.group?.leave();
  return new Map([...all, ...found]);
}

/** Run this script as some ranks and read what rank 0 found. */
async function ranksOf(
  world: number,
  folder: string,
  flags: readonly string[] = [],
): Promise<Map<string, HostTensor>> {
  const port = await freePort();
  const out = join(folder, `${world}.safetensors`);
  const steps = values.steps === undefined ? [] : ["--steps", values.steps];
  const experiment = values.experiment === undefined ? [] : ["--experiment", values.experiment];
  const own = ["--out", out, ...steps, ...experiment, ...flags];
  await Promise.all(
    Array.from({ length: world }, (_, rank) => {
      const child = spawn(
        process.execPath,
        [...process.execArgv, process.argv[1]!, type, ...positionals.slice(1), ...own],
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

type Results = ReadonlyMap<string, HostTensor>;

/** How far two trainings are apart, by task: the loss's largest difference, and the root mean square of weights. */
function drift(a: Results, b: Results): Map<string, { loss: number; weights: number }> {
  const found = new Map<string, { loss: number; weights: number }>();
  const sums = new Map<string, [squares: number, count: number]>();
  for (const [name, { data }] of a) {
    const [task, kind] = name.split("/") as [string, string];
    const other = b.get(name)!.data;
    const [squares, count] = sums.get(task) ?? [0, 0];
    const entry = found.get(task) ?? { loss: 0, weights: 0 };
    let own = 0;
    data.forEach((x, i) => {
      entry.loss = kind === "losses" ? Math.max(entry.loss, Math.abs(x - other[i]!)) : entry.loss;
      own += (x - other[i]!) ** 2;
    });
    if (kind === "weights") {
      sums.set(task, [squares + own, count + data.length]);
      entry.weights = Math.sqrt((squares + own) / (count + data.length));
    }
    found.set(task, entry);
  }
  return found;
}

/** Whole trainings: several ranks against one, and one against itself with other roundings. */
async function compareTrainings(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "tessera-parallel-"));
  try {
    const world = Number(values.world);
    const alone = await ranksOf(1, folder);
    const rounded = await ranksOf(1, folder, ["--perturb", "1e-7"]);
    const together = await ranksOf(world, folder);
    const [across, within] = [drift(alone, together), drift(alone, rounded)];
    let failed = 0;
    for (const [task, ours] of across) {
      const theirs = within.get(task)!;
      const curve = alone.get(`${task}/losses`)!.data;
      const large = ours.loss > 3 * theirs.loss + 1e-6 || ours.weights > 3 * theirs.weights + 1e-7;
      failed += Number(large);
      const [loss, weights] = [ours.loss.toExponential(1), ours.weights.toExponential(1)];
      process.stdout.write(
        `${large ? "DIFFERS" : "agrees"} ${task} over ${values.steps} steps (loss ${curve[0]!.toPrecision(3)} to ${curve.at(-1)!.toPrecision(3)}), ${world} ranks against one: loss ${loss}, weights ${weights}; ` +
          `by rounding alone: loss ${theirs.loss.toExponential(1)}, weights ${theirs.weights.toExponential(1)}\n`,
      );
    }
    process.exitCode = failed > 0 || across.size === 0 ? 1 : 0;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
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
  await (values.steps === undefined ? compare() : compareTrainings());
} else {
  endWithParent();
  const found = await results();
  if ((membershipOf()?.rank ?? 0) === 0) {
    writeFileAtomic(values.out, encodeSafetensors({ tensors: found, metadata: {} }));
  }
  process.exit(0);
}
