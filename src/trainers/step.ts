/**
 * @file One optimizer step and one validation, as compiled functions of a task. This is all of the
 * training that runs on the device.
 */

import * as tf from "@tensorflow/tfjs-core";
import type { Scope } from "../models/scope.ts";
import { acrossRanks, activeRanks, meanOverRanks } from "../runtime/collective.ts";
import type { Device } from "../runtime/device.ts";
import { float32, type HostTensors, item } from "../runtime/tensors.ts";
import type { MovingAverage } from "./ema.ts";
import { type AdamW, type AdamWOptions, adamwScalars, type Gradients } from "./optimizers.ts";
import type { StageOptions } from "./options.ts";
import { emaDecay, learningRate } from "./schedules.ts";

type Inputs = { readonly [name: string]: tf.Tensor };
interface Loss {
  readonly loss: tf.Scalar;
  readonly metrics: { readonly [name: string]: tf.Scalar };
  /** What an adversary judges. */
  readonly made?: tf.Tensor5D;
}

/** A second network that learns at every step to tell what the first one made from what is real. */
export interface TaskAdversary {
  /** Its variables: trainable ones are optimized by an optimizer of its own, all are saved. */
  readonly scope: Scope;
  /** Its optimizer, and its learning rate as a multiple of the stage's. */
  readonly optimizer: AdamWOptions;
  readonly lrRatio: number;
  /** Traceable: its loss on what the step's `loss` made, which comes without a gradient. */
  loss(inputs: Inputs, made: tf.Tensor5D, training: boolean): Loss;
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
  /** Learns beside the task, both from the same forward pass and before either is updated. */
  readonly adversary?: TaskAdversary;
  /** Called once before a stage begins from nothing; a resumed stage has its state from the disk. */
  start?(): void;
  /** What the means of the last lines of metrics give reason to say. */
  watch?(step: number, metrics: Metrics): Finding | undefined;
  /** The number of held-out micro-batches, and their inputs: always the same. */
  readonly validationBatches: number;
  validationBatch(index: number): Promise<HostTensors>;
}

/** Something that went wrong without an error, for events.jsonl and the person who watches. */
export interface Finding {
  readonly event: string;
  readonly message: string;
  readonly remedy: string;
}

/** Means of the metrics of a step or a validation, the loss among them. */
export type Metrics = { [name: string]: number };

/** Traceable: loss, metrics and gradients of the parameters by full name, and what was made. */
export function lossAndGradients(
  task: { loss(inputs: Inputs, training: boolean): Loss },
  inputs: Inputs,
  parameters: ReadonlyMap<string, tf.Variable>,
): Loss & { readonly gradients: Gradients } {
  let metrics: { [name: string]: tf.Scalar } = {};
  let made: tf.Tensor5D | undefined;
  const { value, grads } = tf.variableGrads(() => {
    const result = task.loss(inputs, true);
    // The gradient's tidy would dispose of what the loss function does not return.
    metrics = Object.fromEntries(
      Object.entries(result.metrics).map(([name, metric]) => [name, tf.keep(metric)]),
    );
    made = result.made && tf.keep(tf.clone(result.made));
    return result.loss;
  }, [...parameters.values()]);
  const gradients = Object.fromEntries(
    [...parameters].map(([name, variable]) => [name, grads[variable.name] ?? null]),
  );
  // Hand the kept tensors over to the caller's tidy, so that nothing is left behind.
  const handOver = <T extends tf.Tensor>(tensor: T): T => {
    const copy = tf.clone(tensor);
    tensor.dispose();
    return copy;
  };
  const handed = Object.entries(metrics).map(([name, metric]) => [name, handOver(metric)] as const);
  return {
    loss: value,
    metrics: Object.fromEntries(handed),
    gradients,
    ...(made && { made: handOver(made) }),
  };
}

/** Prefix of the adversary's optimizer scalars among a step's inputs. */
const OPPONENT = "critic_";
/** The metric of the adversary's loss. */
export const CRITIC_LOSS = "critic_loss";

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
  opponent?: AdamW,
): StageFunctions {
  const { options, stage, adversary } = task;
  const parameters = task.scope.trainable();
  const opposed = adversary?.scope.trainable() ?? new Map<string, tf.Variable>();

  /** Loss, metrics and gradients of both networks; nothing is updated yet. */
  const evaluate = (inputs: Inputs) => {
    const ours = lossAndGradients(task, inputs, parameters);
    if (!adversary) {
      return { outputs: { ...ours.metrics, loss: ours.loss }, gradients: ours.gradients };
    }
    const { made } = ours;
    const theirs = lossAndGradients(
      { loss: (given, training) => adversary.loss(given, made!, training) },
      inputs,
      opposed,
    );
    return {
      outputs: {
        ...ours.metrics,
        ...theirs.metrics,
        loss: ours.loss,
        [CRITIC_LOSS]: theirs.loss,
      },
      gradients: ours.gradients,
      opposing: theirs.gradients,
    };
  };

  const scalars = (inputs: Inputs, prefix = "") => ({
    rate: inputs[`${prefix}adamw_rate`] as tf.Scalar,
    epsilon: inputs[`${prefix}adamw_epsilon`] as tf.Scalar,
    keep: inputs[`${prefix}adamw_keep`] as tf.Scalar,
  });
  const update = (inputs: Inputs, gradients?: Gradients, opposing?: Gradients) => {
    const gradNorm = optimizer.update(scalars(inputs), gradients, {
      vectors: average.vectors,
      rate: inputs["ema_rate"] as tf.Scalar,
      update: (values, rate) => average.update(values, rate),
    });
    const other = opponent?.update(scalars(inputs, OPPONENT), opposing);
    return { grad_norm: gradNorm, ...(other && { critic_grad_norm: other }) };
  };
  /** A function that all ranks of a data-parallel training call together; its scalars become means. */
  const together = (name: string, fn: (inputs: Inputs) => { [name: string]: tf.Scalar }) =>
    device.compile(`${stage}-${name}`, (inputs) => acrossRanks(() => meanScalars(fn(inputs))));
  const trainStep = together("train", (inputs) => {
    const { outputs, gradients, opposing } = evaluate(inputs);
    return { ...outputs, ...update(inputs, gradients, opposing) };
  });
  const accumulateStep = together("accumulate", (inputs) => {
    const { outputs, gradients, opposing } = evaluate(inputs);
    optimizer.addGradients(gradients);
    if (opposing) {
      opponent?.addGradients(opposing);
    }
    return outputs;
  });
  const updateStep = together("update", (inputs) => update(inputs));
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
        ...(adversary && opponentScalars(adversary, lr, step)),
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

/** Means over ranks, in one exchange. */
function meanScalars(scalars: { readonly [name: string]: tf.Scalar }): {
  [name: string]: tf.Scalar;
} {
  const names = Object.keys(scalars);
  if (activeRanks().world === 1 || names.length === 0) {
    return { ...scalars };
  }
  const means = tf.unstack(meanOverRanks(tf.stack(names.map((name) => scalars[name]!))));
  return Object.fromEntries(names.map((name, i) => [name, means[i] as tf.Scalar]));
}

/** What the adversary's optimizer gets at a step, under names of its own. */
function opponentScalars(adversary: TaskAdversary, lr: number, step: number): HostTensors {
  const own = adamwScalars(adversary.optimizer, lr * adversary.lrRatio, step);
  return Object.fromEntries(Object.entries(own).map(([name, x]) => [`${OPPONENT}${name}`, x]));
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
