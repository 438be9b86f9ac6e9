/** @file A tiny task, so that the loop is tested without any real model. */

import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as tf from "@tensorflow/tfjs-core";
import { normal, Scope, zeros } from "../../src/models/scope.ts";
import type { DeviceConfig } from "../../src/runtime/registry.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { Random } from "../../src/runtime/random.ts";
import { float32 } from "../../src/runtime/tensors.ts";
import type { RunContext } from "../../src/trainers/context.ts";
import { Progress } from "../../src/trainers/logging/progress.ts";
import type { StageOptions } from "../../src/trainers/options.ts";
import { StopRequest } from "../../src/trainers/signals.ts";
import type { Task } from "../../src/trainers/step.ts";

export function temporaryFolder(): string {
  return mkdtempSync(join(tmpdir(), "tessera-trainers-"));
}

export const stageOptions: StageOptions = {
  steps: 12,
  batch: 4,
  accumulate: 1,
  lr: 0.05,
  schedule: "cosine",
  warmup: 2,
  final_lr_ratio: 0.1,
  beta1: 0.9,
  beta2: 0.99,
  epsilon: 1e-8,
  weight_decay: 0.01,
  clip_norm: 1,
  ema_decay: 0.9,
  validate_every: 4,
  validate_batches: 2,
  log_every: 3,
  checkpoint_every: 5,
};

/** Linear regression with a bias and one variable that is state. */
export function tinyTask(
  options: Partial<StageOptions> = {},
  poison: { readonly step?: number; readonly value?: number } = {},
): Task & { stops: Map<number, () => void> } {
  const all = { ...stageOptions, ...options };
  const scope = Scope.root(3).child("tiny");
  const kernel = scope.param("kernel", [3, 2], normal(0.5));
  const bias = scope.param("bias", [2], zeros);
  const seen = scope.state("seen", []);
  const size = all.batch / all.accumulate;
  const stops = new Map<number, () => void>();
  const inputs = (stream: string, step: number) => {
    const x = new Random(1, stream, step).normals(size * 3);
    if (step === poison.step && stream === "train") {
      x[0] = poison.value ?? Number.NaN;
    }
    return { x: float32([size, 3], x) };
  };
  return {
    stage: "tokenizer",
    scope,
    options: all,
    stops,
    batches(step) {
      stops.get(step)?.();
      return Promise.resolve(
        Array.from({ length: all.accumulate }, (_, i) =>
          inputs("train", step * all.accumulate + i),
        ),
      );
    },
    loss({ x }, training) {
      const target = tf.slice2d(x as tf.Tensor2D, [0, 1], [size, 2]); // [B, 2]
      const y = tf.add(tf.matMul(x as tf.Tensor2D, kernel as tf.Tensor2D), bias);
      if (training) {
        seen.assign(tf.add(seen, 1));
      }
      const loss = tf.mean(tf.squaredDifference(y, target)) as tf.Scalar;
      return { loss, metrics: { mae: tf.mean(tf.abs(tf.sub(y, target))) as tf.Scalar } };
    },
    validationBatches: all.validate_batches,
    validationBatch: (index) => Promise.resolve(inputs("held", index)),
  };
}

/** A run without data sets. */
export async function tinyRun(
  dir: string,
  device: DeviceConfig = { type: "reference" },
): Promise<RunContext & { warnings: string[] }> {
  const warnings: string[] = [];
  return {
    dir,
    seed: 0,
    device: await openDevice(device),
    progress: new Progress({ terminal: false, line: () => undefined }),
    stop: new StopRequest(),
    dataset: () => Promise.reject(new Error("this run has no data")),
    warn: (message) => warnings.push(message),
    warnings,
  };
}
