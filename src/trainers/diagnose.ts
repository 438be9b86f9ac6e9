/**
 * @file What to say when a loss or a gradient is no longer finite: the step is evaluated again from
 * the very same parameters and batch (the optimizer leaves the parameters alone on such a step), and
 * the first bad tensor is named, in the order data flow: inputs, variables, metrics, gradients.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import type { Device } from "../runtime/device.ts";
import type { HostTensors } from "../runtime/tensors.ts";
import { getVariable } from "./packing.ts";
import { lossAndGradients, type Task } from "./step.ts";

/** Training ended because numbers were no longer finite. */
export class DivergedError extends UserError {
  override name = "DivergedError";
}

/** One tensor with a value that is not finite. */
export interface BadTensor {
  readonly kind: "input" | "variable" | "metric" | "gradient";
  readonly name: string;
  readonly detail: string;
}

/** All bad tensors of a step, in the order of data flow. */
export async function findBadTensors(
  device: Device,
  task: Task,
  batches: readonly HostTensors[],
): Promise<BadTensor[]> {
  const bad: BadTensor[] = [];
  for (const [name, tensor] of batches.flatMap((inputs) => Object.entries(inputs))) {
    if (tensor.data instanceof Float32Array) {
      report(bad, "input", name, describeValues(tensor.data));
    }
  }
  for (const [name, variable] of task.scope.variables()) {
    report(bad, "variable", name, describeValues(await getVariable(variable)));
  }
  const parameters = task.scope.trainable();
  const names = [...parameters.keys()];
  const probe = device.compile(`${task.stage}-diagnosis`, (inputs) => {
    const { loss, metrics, gradients } = lossAndGradients(task, inputs, parameters);
    // A sum of absolute values is finite only if every value is.
    const sums = names.map((name) => {
      const gradient = gradients[name];
      return gradient ? tf.sum(tf.abs(gradient)) : tf.scalar(0);
    });
    return { ...metrics, loss, "gradient sums": tf.stack(sums) };
  });
  for (const inputs of batches) {
    const { "gradient sums": sums, ...metrics } = await probe(inputs);
    for (const [name, { data }] of Object.entries(metrics)) {
      report(bad, "metric", name, describeValues(data as Float32Array));
    }
    for (const [i, name] of names.entries()) {
      report(
        bad,
        "gradient",
        name,
        describeValues((sums!.data as Float32Array).subarray(i, i + 1)),
      );
    }
  }
  return bad;
}

function report(
  bad: BadTensor[],
  kind: BadTensor["kind"],
  name: string,
  detail: string | undefined,
): void {
  if (detail !== undefined) {
    bad.push({ kind, name, detail });
  }
}

/** e.g. "3 NaN and 1 infinite of 1024 values", or undefined when all are finite. */
function describeValues(values: Float32Array): string | undefined {
  let nan = 0;
  let infinite = 0;
  for (const value of values) {
    if (Number.isNaN(value)) {
      nan += 1;
    } else if (!Number.isFinite(value)) {
      infinite += 1;
    }
  }
  if (nan + infinite === 0) {
    return undefined;
  }
  if (values.length === 1) {
    return String(values[0]);
  }
  return `${nan} NaN and ${infinite} infinite of ${values.length} values`;
}

/** The error for the user. */
export function divergedError(
  stage: string,
  step: number,
  bad: readonly BadTensor[],
): DivergedError {
  const first = bad[0];
  const what = first
    ? `the first bad tensor is the ${first.kind} "${first.name}" (${first.detail})`
    : "evaluated again, the same step is finite";
  return new DivergedError(
    `${stage} stage, step ${step}: the loss or its gradient is not finite; ${what}`,
    `lower trainer.${stage}.lr, lengthen trainer.${stage}.warmup or lower trainer.${stage}.clip_norm; ` +
      "the last checkpoint is untouched, and events.jsonl lists every bad tensor",
  );
}
