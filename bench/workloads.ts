/**
 * @file What the bench measures, built from its experiment files just as `tessera run` builds them: the
 * stage's own compiled training step, and the objective's own sampler.
 */

import { fileURLToPath } from "node:url";
import { loadConfig } from "../src/config/resolve.ts";
import { openDataset } from "../src/data/registry.ts";
import type { Scope } from "../src/models/scope.ts";
import type { Device } from "../src/runtime/device.ts";
import { openDevice } from "../src/runtime/registry.ts";
import { float32, type HostTensor, type HostTensors } from "../src/runtime/tensors.ts";
import { MovingAverage } from "../src/trainers/ema.ts";
import { checks, type Experiment, experimentSchema } from "../src/trainers/experiment.ts";
import { makeTokenizer } from "../src/trainers/networks.ts";
import { AdamW } from "../src/trainers/optimizers.ts";
import { getVariable } from "../src/trainers/packing.ts";
import { compileStage, type Task } from "../src/trainers/step.ts";
import { tokenizerTask } from "../src/trainers/tokenizer-stage.ts";

/** What one repetition gave, to compare the two sides by: scalars by name. */
export type Outcome = { readonly [name: string]: number };

/** A workload, ready to run. */
export interface Workload {
  readonly config: Experiment;
  readonly device: Device;
  /** Trainable values. */
  readonly parameters: number;
  /** "model/<name>": the initial weights, "input/<name>": the batch that every repetition uses. */
  readonly tensors: ReadonlyMap<string, HostTensor>;
  /** One repetition. The first one traces the function and prepares it for the device. */
  run(): Promise<Outcome>;
  close(): void;
}

/** How a workload is opened, and how much of it makes a turn. */
export interface WorkloadKind {
  readonly title: string;
  /** Repetitions a turn, so that a turn takes a few seconds. */
  readonly repetitions: number;
  open(threads: number): Promise<Workload>;
}

export const workloads: { readonly [name: string]: WorkloadKind } = {
  "tokenizer-3d": {
    title: "train step of MAGVIT-v2's causal 3D CNN with LFQ",
    repetitions: 3,
    open: openTokenizer,
  },
};

function load(file: string, overrides: readonly string[] = []): Experiment {
  return loadConfig<Experiment>({
    file: fileURLToPath(new URL(`experiments/${file}.yaml`, import.meta.url)),
    overrides,
    schema: experimentSchema,
    checks,
  }).config;
}

async function openTokenizer(threads: number): Promise<Workload> {
  const config = load("tokenizer-3d");
  const device = await openDevice({ type: "cpu", threads });
  const options = config.trainer.tokenizer;
  const train = await openDataset(config.dataset, "train", config.seed);
  const held = await openDataset(config.dataset, "validation", config.seed);
  const task = tokenizerTask(makeTokenizer(config), options, train, held, config.seed);
  const [inputs] = await task.batches(0);
  await Promise.all([train.close(), held.close()]);
  return trainingWorkload(config, device, task, (step) => ({
    ...inputs!,
    step: float32([], [step]),
  }));
}

/** The training step of a stage, repeated on one batch. */
async function trainingWorkload(
  config: Experiment,
  device: Device,
  task: Task,
  inputsAt: (step: number) => HostTensors,
): Promise<Workload> {
  const optimizer = new AdamW(task.scope.trainable(), task.options, 1);
  const average = new MovingAverage(optimizer.packs);
  await average.start();
  const functions = compileStage(device, task, optimizer, average);
  let step = 0;
  return {
    config,
    device,
    parameters: task.scope.parameterCount(),
    tensors: new Map([...(await weightsOf(task.scope)), ...named(inputsAt(0), "input/")]),
    async run() {
      const metrics = await functions.train(step, [inputsAt(step)]);
      step += 1;
      return metrics;
    },
    close() {
      optimizer.dispose();
      average.dispose();
      task.scope.dispose();
      device.dispose();
    },
  };
}

/** The parameters of a scope as "model/<name>", names as seen from inside the scope. */
async function weightsOf(scope: Scope): Promise<Map<string, HostTensor>> {
  const found = new Map<string, HostTensor>();
  for (const [name, variable] of scope.trainable()) {
    const tensor = float32(variable.shape, await getVariable(variable));
    found.set(`model/${name.slice(scope.prefix.length)}`, tensor);
  }
  return found;
}

function named(tensors: HostTensors, prefix: string): [string, HostTensor][] {
  return Object.entries(tensors).map(([name, tensor]) => [prefix + name, tensor]);
}
