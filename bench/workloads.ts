/**
 * @file What the bench measures, built from its experiment files just as `tessera run` builds them: the
 * stages' own compiled training steps, and the objectives' own samplers.
 */

import { fileURLToPath } from "node:url";
import { loadConfig } from "../src/config/resolve.ts";
import { openDataset } from "../src/data/registry.ts";
import { Scope } from "../src/models/scope.ts";
import { buildTransformer, tokenCount } from "../src/models/transformer.ts";
import type { TokenBatch, TokenSpace } from "../src/objectives/objective.ts";
import { buildObjective } from "../src/objectives/registry.ts";
import type { Device } from "../src/runtime/device.ts";
import { Random } from "../src/runtime/random.ts";
import { openDevice } from "../src/runtime/registry.ts";
import { float32, type HostTensor, type HostTensors, int32 } from "../src/runtime/tensors.ts";
import { buildTokenizer } from "../src/tokenizers/registry.ts";
import {
  checks,
  clipShape,
  type Experiment,
  experimentSchema,
} from "../src/trainers/experiment.ts";
import { makeTokenizer } from "../src/trainers/networks.ts";
import { getVariable } from "../src/trainers/packing.ts";
import type { Task } from "../src/trainers/step.ts";
import { tokenizerTask } from "../src/trainers/tokenizer-stage.ts";
import { bareTask, type PlainObjective, plainParts, samplerOf, trainingSteps } from "./stages.ts";

/** What one repetition gave, to compare the two sides by. */
export interface Outcome {
  /** Loss, gradient norm and the like; nothing for a decoding. */
  readonly scalars: { readonly [name: string]: number };
  /** The tokens of a decoding. */
  readonly ids?: readonly number[];
}

/** A workload, ready to run. */
export interface Workload {
  readonly config: Experiment;
  /** The tokens, for workloads of a transformer. */
  readonly space: TokenSpace;
  readonly device: Device;
  /** Trainable values. */
  readonly parameters: number;
  /** "model/<name>": the initial weights, "input/<name>": the batch that every repetition uses. */
  readonly tensors: ReadonlyMap<string, HostTensor>;
  /**
   * One repetition. The first one traces the function and prepares it for the device.
   * @param check make an outcome that can be compared: a decoding draws no random numbers
   */
  run(check: boolean): Promise<Outcome>;
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
  "transformer-masked": {
    title: "train step of the masked transformer",
    repetitions: 4,
    open: (threads) => openTransformer("@masked", threads),
  },
  "transformer-causal": {
    title: "train step of the causal transformer",
    repetitions: 4,
    open: (threads) => openTransformer("@causal", threads),
  },
  "decode-masked": {
    title: "a batch of sequences in 12 parallel steps",
    repetitions: 2,
    open: (threads) => openDecoding("@masked", threads),
  },
  "decode-causal": {
    title: "a batch of sequences, token after token with a key-value cache",
    repetitions: 2,
    open: (threads) => openDecoding("@causal", threads),
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
  const train = await openDataset(config.dataset, "train", config.seed);
  const held = await openDataset(config.dataset, "validation", config.seed);
  const tokenizer = makeTokenizer(config);
  const options = config.trainer.tokenizer;
  const task = tokenizerTask(tokenizer, options, train, held, config.seed);
  const [inputs] = await task.batches(0);
  await Promise.all([train.close(), held.close()]);
  const space = { grid: tokenizer.grid, factors: tokenizer.factors, classes: 0 };
  const measured = {
    ...task,
    batches: (step: number) => Promise.resolve([{ ...inputs!, step: float32([], [step]) }]),
  };
  return training(config, space, device, measured, { ...inputs!, step: float32([], [0]) });
}

/** An experiment of a transformer with what its parts need to be built. */
async function transformerParts(objective: string, threads: number) {
  const config = load("transformer", [`objective=${objective}`]);
  const device = await openDevice({ type: "cpu", threads });
  const data = await openDataset(config.dataset, "train", config.seed);
  const { grid, factors } = buildTokenizer(config.tokenizer, clipShape(config), Scope.blank(0));
  const space: TokenSpace = { grid, factors, classes: data.classes.length };
  await data.close();
  const { batch: size } = config.trainer.transformer;
  const random = new Random(config.seed, "bench/tokens");
  const batch: TokenBatch = {
    ids: Int32Array.from({ length: size * tokenCount(space) }, () => random.int(factors[0]!)),
    labels: Int32Array.from({ length: size }, () => random.int(space.classes)),
    size,
  };
  return {
    config,
    model: config.model!,
    objective: config.objective!,
    device,
    space,
    batch,
    scope: Scope.root(config.seed).child("transformer"),
  };
}

async function openTransformer(name: string, threads: number): Promise<Workload> {
  const parts = await transformerParts(name, threads);
  const { config, model, device, space, batch, scope } = parts;
  const objective = buildObjective(parts.objective, model, space, scope);
  const inputs = objective.inputs(batch, config.seed, 0, true);
  const task = bareTask(
    {
      stage: "transformer",
      scope,
      options: config.trainer.transformer,
      loss: (values) => objective.loss(values),
    },
    () => inputs,
  );
  return training(config, space, device, task, inputs);
}

/** The training step of a stage, repeated on one batch. */
async function training(
  config: Experiment,
  space: TokenSpace,
  device: Device,
  task: Task,
  batch: HostTensors,
): Promise<Workload> {
  const steps = await trainingSteps(device, task);
  return {
    config,
    space,
    device,
    parameters: task.scope.parameterCount(),
    tensors: await tensorsOf(task.scope, batch),
    run: async () => ({ scalars: await steps.run() }),
    close() {
      steps.close();
      device.dispose();
    },
  };
}

async function openDecoding(name: string, threads: number): Promise<Workload> {
  const { config, device, space, batch, scope } = await transformerParts(name, threads);
  const { objective, model, mask } = plainParts(config);
  const transformer = buildTransformer(model, space, { mask }, scope.child("transformer"));
  const sample = samplerOf(device, transformer, objective);
  const greedy = samplerOf(device, transformer, withoutNoise(objective));
  const { labels } = batch;
  let seed = 0;
  return {
    config,
    space,
    device,
    parameters: scope.parameterCount(),
    tensors: await tensorsOf(scope, { labels: int32([labels.length], labels) }),
    async run(check) {
      seed += 1;
      const ids = await (check ? greedy : sample)({ labels, seed });
      return { scalars: {}, ids: [...ids] };
    },
    close() {
      scope.dispose();
      device.dispose();
    },
  };
}

/** The objective with the likeliest token always, so that both sides make the same ones. */
function withoutNoise(objective: PlainObjective): PlainObjective {
  return objective.type === "masked"
    ? { ...objective, sampling: { ...objective.sampling, temperature: 0, choice_temperature: 0 } }
    : { ...objective, sampling: { ...objective.sampling, temperature: 0 } };
}

/** The parameters of a scope by their names inside it, and a batch, under the names of `Workload`. */
async function tensorsOf(scope: Scope, inputs: HostTensors): Promise<Map<string, HostTensor>> {
  const found = new Map<string, HostTensor>();
  for (const [name, variable] of scope.trainable()) {
    const tensor = float32(variable.shape, await getVariable(variable));
    found.set(`model/${name.slice(scope.prefix.length)}`, tensor);
  }
  for (const [name, tensor] of Object.entries(inputs)) {
    found.set(`input/${name}`, tensor);
  }
  return found;
}
