/** @file What both benches measure with: a stage's compiled training step, and the samplers of plain objectives. */

import type { Transformer } from "../src/models/transformer.ts";
import { buildCausalSampler } from "../src/objectives/causal-sampler.ts";
import { buildMaskedSampler } from "../src/objectives/masked-sampler.ts";
import type { SampleOptions } from "../src/objectives/objective.ts";
import type { ObjectiveConfig } from "../src/objectives/registry.ts";
import type { Device } from "../src/runtime/device.ts";
import type { HostTensors } from "../src/runtime/tensors.ts";
import { MovingAverage } from "../src/trainers/ema.ts";
import type { Experiment } from "../src/trainers/experiment.ts";
import { AdamW } from "../src/trainers/optimizers.ts";
import { compileStage, type Metrics, type Task } from "../src/trainers/step.ts";

/** A task of one micro-batch a step, without data sets or validation. */
export function bareTask(
  parts: Pick<Task, "stage" | "scope" | "options" | "loss">,
  inputsAt: (step: number) => HostTensors,
): Task {
  return {
    ...parts,
    batches: (step) => Promise.resolve([inputsAt(step)]),
    validationBatches: 0,
    validationBatch: () => Promise.reject(new Error("not used")),
  };
}

/** The training step of a stage; each call makes the next one. */
export async function trainingSteps(
  device: Device,
  task: Task,
): Promise<{ run(): Promise<Metrics>; close(): void }> {
  const optimizer = new AdamW(task.scope.trainable(), task.options, 1);
  const average = new MovingAverage(optimizer.packs);
  await average.start();
  const functions = compileStage(device, task, optimizer, average);
  let step = 0;
  return {
    async run() {
      const metrics = await functions.train(step, await task.batches(step));
      step += 1;
      return metrics;
    },
    close() {
      optimizer.dispose();
      average.dispose();
      task.scope.dispose();
    },
  };
}

/** Objectives whose networks predict tokens of one kind: what decoding is timed with. */
export type PlainObjective = Exclude<
  ObjectiveConfig,
  { type: "multimodal" | "diffusion" | "super-resolution" }
>;

/** The objective and the model of a decoding, or an error where the experiment has others. */
export function plainParts({ objective, model }: Pick<Experiment, "objective" | "model">) {
  if (
    !objective ||
    objective.type === "multimodal" ||
    objective.type === "diffusion" ||
    objective.type === "super-resolution" ||
    model?.type !== "transformer"
  ) {
    throw new Error("decoding workloads have masked or causal objectives");
  }
  return { objective: objective as PlainObjective, model, mask: objective.type === "masked" };
}

/** The sampler of a plain objective. */
export function samplerOf(
  device: Device,
  transformer: Transformer,
  objective: PlainObjective,
): (options: SampleOptions) => Promise<Int32Array> {
  return objective.type === "masked"
    ? buildMaskedSampler(device, transformer, objective.sampling)
    : buildCausalSampler(device, transformer, objective.sampling);
}
