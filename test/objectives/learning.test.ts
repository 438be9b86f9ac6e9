import * as tf from "@tensorflow/tfjs-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Scope } from "../../src/models/scope.ts";
import type { Objective, TokenBatch } from "../../src/objectives/objective.ts";
import { buildObjective, type ObjectiveConfig } from "../../src/objectives/registry.ts";
import type { Device } from "../../src/runtime/device.ts";
import { Random } from "../../src/runtime/random.ts";
import { float32, type HostTensors, item } from "../../src/runtime/tensors.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { causalSampling, maskedSampling, tinyModel, withoutTasks } from "./support.ts";

/**
 * A toy language: all tokens of a sentence are the same pair (value, label). Given the label, the
 * value is the only uncertainty, and any visible token ends it. The unigram entropy is ln 6 + ln 2.
 */
const space = { grid: [1, 2, 3], factors: [6, 2], classes: 2 } as const;
const N = 6;

function sentence(value: number, label: number): number[] {
  return Array.from({ length: N }, () => [value, label]).flat();
}

function toyBatch(size: number, step: number): TokenBatch {
  const random = new Random(0, "toy", step);
  const labels = Int32Array.from({ length: size }, () => random.int(2));
  const ids = Int32Array.from([...labels].flatMap((label) => sentence(random.int(6), label)));
  return { ids, labels, size };
}

let device: Device;
beforeAll(async () => {
  device = await openDevice({ type: "cpu", threads: 1 });
});

afterAll(() => device.dispose());

/** Train with Adam (Kingma & Ba 2015), then give the held-out loss and what it was computed on. */
async function train(
  objective: Objective,
  steps: number,
): Promise<{ loss: number; inputs: HostTensors }> {
  const slots = [...objective.scope.trainable().values()].map((variable) => ({
    variable,
    m: tf.variable(tf.zerosLike(variable), false),
    v: tf.variable(tf.zerosLike(variable), false),
  }));
  const step = device.compile("toy/train", ({ rate: size, ...inputs }) => {
    const { value, grads } = tf.variableGrads(
      () => objective.loss(inputs).loss,
      slots.map((slot) => slot.variable),
    );
    for (const { variable, m, v } of slots) {
      const gradient = grads[variable.name]!;
      const m1 = tf.add(tf.mul(m, 0.9), tf.mul(gradient, 0.1));
      const v1 = tf.add(tf.mul(v, 0.99), tf.mul(tf.square(gradient), 0.01));
      const change = tf.div(m1, tf.add(tf.sqrt(v1), 1e-8));
      variable.assign(tf.sub(variable, tf.mul(change, size!)));
      m.assign(m1);
      v.assign(v1);
    }
    return { loss: value };
  });
  const evaluate = device.compile("toy/validate", (inputs) => ({
    loss: objective.loss(inputs).loss,
  }));
  for (let i = 0; i < steps; i++) {
    const correction = Math.sqrt(1 - 0.99 ** (i + 1)) / (1 - 0.9 ** (i + 1));
    const decay = Math.cos((Math.PI / 2) * (i / steps));
    const size = float32([], [0.01 * correction * decay]);
    await step({ ...objective.inputs(toyBatch(16, i), 1, i, true), rate: size });
  }
  const inputs = objective.inputs(toyBatch(64, 1e6), 1, 0, false);
  return { loss: item((await evaluate(inputs)).loss), inputs };
}

/** The share of sampled sequences that are sentences of their label. */
async function share(objective: Objective, labels: Int32Array): Promise<number> {
  const ids = await objective.sampler(device)({ labels, seed: 3 });
  let good = 0;
  labels.forEach((label, b) => {
    const row = Array.from(ids.subarray(b * N * 2, (b + 1) * N * 2));
    good += Number(sentence(row[0]!, label).join() === row.join()) / labels.length;
  });
  return good;
}

const model = { ...tinyModel, width: 32, depth: 1, positions: "factorised" } as const;
const labels = Int32Array.from({ length: 40 }, (_, i) => i % 2);
const common = { label_dropout: 0.1, label_smoothing: 0 };

describe("learning a toy language in seconds", () => {
  test("causal: the loss nears the entropy of the first token, samples are sentences", async () => {
    const config: ObjectiveConfig = { type: "causal", ...common, sampling: causalSampling };
    const objective = buildObjective(config, model, space, Scope.root(1));
    const { loss } = await train(objective, 80);
    const entropy = Math.log(6) / N;
    expect(loss).toBeGreaterThan(entropy - 0.05);
    expect(loss).toBeLessThan(entropy + 0.1);
    expect(await share(objective, labels)).toBeGreaterThan(0.9);
  });

  test("masked: the loss nears that of knowing the language, samples are sentences", async () => {
    const sampling = { ...maskedSampling, steps: N, choice_temperature: 0 };
    const config: ObjectiveConfig = {
      type: "masked",
      mask_schedule: "cosine",
      ...withoutTasks,
      ...common,
      sampling,
    };
    const objective = buildObjective(config, model, space, Scope.root(1));
    const { loss, inputs } = await train(objective, 130);
    // The value is uncertain only where nothing is visible.
    const masked = [...inputs.masked!.data];
    const rows = Array.from({ length: 64 }, (_, b) => masked.slice(b * N, (b + 1) * N));
    const blind = rows.filter((row) => !row.includes(0)).length * N;
    const entropy = (Math.log(6) * blind) / masked.filter(Boolean).length;
    expect(loss).toBeGreaterThan(entropy - 0.1);
    expect(loss).toBeLessThan(entropy + 0.3);
    expect(await share(objective, labels)).toBeGreaterThan(0.8);
  });
});
