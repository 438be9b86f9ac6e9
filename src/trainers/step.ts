/**
 * @file One optimizer step and one validation, as compiled functions of a task. This is all of the
 * training that runs on the device.
 */

import * as tf from "@tensorflow/tfjs-core";
import type { Scope } from "../models/scope.ts";
import type { Device } from "../runtime/device.ts";
import { float32, type HostTensors, item } from "../runtime/tensors.ts";
import type { MovingAverage } from "./ema.ts";
import { type AdamW, adamwScalars, type Gradients } from "./optimizers.ts";
import type { StageOptions } from "./options.ts";
import { emaDecay, learningRate } from "./schedules.ts";

type Inputs = { readonly [name: string]: tf.Tensor };
interface Loss {
  readonly loss: tf.Scalar;
  readonly metrics: { readonly [name: string]: tf.Scalar };
}

/** What a stage trains, and on what. */
export interface Task {
  readonly stage: "tokenizer" | "transformer";
  /** The variables: trainable ones are optimized, all are saved. */
  readonly scope: Scope;
  readonly options: StageOptions;
  /** The micro-batches of a step: a pure function of the step. */
  batches(step: number): Promise<HostTensors[]>;
  /** Traceable: the loss of one micro-batch. */
  loss(inputs: Inputs, training: boolean): Loss;
  /** The number of held-out micro-batches, and their inputs: always the same. */
  readonly validationBatches: number;
  validationBatch(index: number): Promise<HostTensors>;
}

/** Means of the metrics of a step or a validation, the loss among them. */
export type Metrics = { [name: string]: number };

/** Traceable: loss, metrics and gradients of the parameters by full name. */
export function lossAndGradients(
  task: Task,
  inputs: Inputs,
  parameters: ReadonlyMap<string, tf.Variable>,
): Loss & { readonly gradients: Gradients } {
  let metrics: { [name: string]: tf.Scalar } = {};
  const { value, grads } = tf.variableGrads(() => {
    const result = task.loss(inputs, true);
    // The gradient's tidy would dispose of what the loss function does not return.
    metrics = Object.fromEntries(
      Object.entries(result.metrics).map(([name, metric]) => [name, tf.keep(metric)]),
    );
    return result.loss;
  }, [...parameters.values()]);
  const gradients = Object.fromEntries(
    [...parameters].map(([name, variable]) => [name, grads[variable.name] ?? null]),
  );
  // Hand the kept tensors over to the caller's tidy, so that nothing is left behind.
  const handed = Object.entries(metrics).map(([name, metric]) => {
    const copy = tf.clone(metric);
    metric.dispose();
    return [name, copy] as const;
  });
  return { loss: value, metrics: Object.fromEntries(handed), gradients };
}

/** The compiled functions of a stage. */
export interface StageFunctions {
  /** One optimizer step from its micro-batches. Metrics include "loss", "grad_norm" and "lr". */
  train(step: number, batches: readonly HostTensors[]): Promise<Metrics>;
  /** The metrics of one held-out micro-batch. */
  validate(inputs: HostTensors): Promise<Metrics>;
  /** Exchange the parameters and their moving average. */
  swap(): Promise<void>;
}

/** Prepare a stage's functions; nothing is traced before the first call. */
export function compileStage(
  device: Device,
  task: Task,
  optimizer: AdamW,
  average: MovingAverage,
): StageFunctions {
  const { options, stage } = task;
  const parameters = task.scope.trainable();

  const update = (inputs: Inputs, gradients?: Gradients) => {
    const { gradNorm, parameters: values } = optimizer.update(
      {
        rate: inputs["adamw_rate"] as tf.Scalar,
        epsilon: inputs["adamw_epsilon"] as tf.Scalar,
        keep: inputs["adamw_keep"] as tf.Scalar,
      },
      gradients,
    );
    average.update(values, inputs["ema_rate"] as tf.Scalar);
    return gradNorm;
  };
  const trainStep = device.compile(`${stage}-train`, (inputs) => {
    const { loss, metrics, gradients } = lossAndGradients(task, inputs, parameters);
    return { ...metrics, loss, grad_norm: update(inputs, gradients) };
  });
  const accumulateStep = device.compile(`${stage}-accumulate`, (inputs) => {
    const { loss, metrics, gradients } = lossAndGradients(task, inputs, parameters);
    optimizer.addGradients(gradients);
    return { ...metrics, loss };
  });
  const updateStep = device.compile(`${stage}-update`, (inputs) => ({ grad_norm: update(inputs) }));
  const validateStep = device.compile(`${stage}-validate`, (inputs) => {
    const { loss, metrics } = task.loss(inputs, false);
    return { ...metrics, loss };
  });
  const swapStep = device.compile(`${stage}-swap`, () => {
    average.swap();
    return { done: tf.scalar(1) };
  });

  return {
    async train(step, batches) {
      const lr = learningRate(options, step);
      const scalars = {
        ...adamwScalars(options, lr, step),
        ema_rate: float32([], [1 - emaDecay(options.ema_decay, step)]),
      };
      if (batches.length === 1) {
        return { ...scalarsOf(await trainStep({ ...batches[0]!, ...scalars })), lr };
      }
      const all: Metrics[] = [];
      for (const inputs of batches) {
        all.push(scalarsOf(await accumulateStep(inputs)));
      }
      return { ...meanMetrics(all), ...scalarsOf(await updateStep(scalars)), lr };
    },
    validate: async (inputs) => scalarsOf(await validateStep(inputs)),
    swap: async () => void (await swapStep({})),
  };
}

function scalarsOf(outputs: HostTensors): Metrics {
  return Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, item(tensor)]));
}

/** The mean of each metric over several batches of one size. */
export function meanMetrics(all: readonly Metrics[]): Metrics {
  const names = Object.keys(all[0] ?? {});
  return Object.fromEntries(
    names.map((name) => [name, all.reduce((sum, metrics) => sum + metrics[name]!, 0) / all.length]),
  );
}
