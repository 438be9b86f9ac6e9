import * as tf from "@tensorflow/tfjs-core";
import { beforeAll, describe, expect, test } from "vitest";
import { Scope } from "../../src/models/scope.ts";
import { buildCausal, isCausal } from "../../src/objectives/causal.ts";
import type { Objective } from "../../src/objectives/objective.ts";
import { buildObjective, type ObjectiveConfig } from "../../src/objectives/registry.ts";
import { Random } from "../../src/runtime/random.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import {
  causalSampling,
  maskedSampling,
  randomBatch,
  shake,
  tinyModel,
  toTensors,
  withoutTasks,
} from "./support.ts";

const space = { grid: [1, 2, 3], factors: [4, 6], classes: 3 } as const;

const masked: ObjectiveConfig = {
  type: "masked",
  mask_schedule: "cosine",
  ...withoutTasks,
  label_dropout: 0.5,
  label_smoothing: 0.1,
  sampling: maskedSampling,
};
const causal: ObjectiveConfig = {
  type: "causal",
  label_dropout: 0.5,
  label_smoothing: 0.1,
  sampling: causalSampling,
};

beforeAll(() => openDevice({ type: "reference" }));

function lossOf(objective: Objective, seed: number, training: boolean): () => tf.Scalar {
  const inputs = toTensors(objective.inputs(randomBatch(space, 4, 2), seed, 1, training));
  return () => objective.loss(inputs).loss;
}

describe.each([masked, causal])("$type", (config) => {
  test.each([
    ["learned", true],
    ["factorised", false],
    ["sinusoidal", true],
  ] as const)("gradients equal finite differences, %s positions, tied %s", (positions, tied) => {
    const model = { ...tinyModel, depth: 2, width: 8, positions, tie_weights: tied };
    const objective = buildObjective(config, model, space, Scope.root(4));
    shake(objective.scope);
    const loss = lossOf(objective, 7, true);
    const variables = objective.scope.trainable();
    const { grads } = tf.variableGrads(loss, [...variables.values()]);
    const wrong: string[] = [];
    for (const [name, variable] of variables) {
      // Every variable gets a gradient, and it is right along a random direction.
      const gradient = grads[variable.name] ?? tf.fill(variable.shape, Number.NaN);
      const normals = new Random(1, name).normals(variable.size);
      const direction = tf.tensor(
        normals.map((x) => x / Math.sqrt(variable.size)),
        variable.shape,
      );
      const slope = tf.sum(tf.mul(gradient, direction)).dataSync()[0]!;
      const start = tf.clone(variable);
      const epsilon = 2e-2;
      const at = (step: number) => {
        variable.assign(tf.add(start, tf.mul(direction, step)));
        return loss().dataSync()[0]!;
      };
      // Five-point rule: the error is of fourth order, so the step can be large against rounding.
      const near = at(epsilon) - at(-epsilon);
      const far = at(2 * epsilon) - at(-2 * epsilon);
      const difference = (8 * near - far) / (12 * epsilon);
      variable.assign(start);
      if (!(Math.abs(difference - slope) < 3e-4 + 0.01 * Math.abs(slope))) {
        wrong.push(`${name}: ${difference} against ${slope}`);
      }
    }
    expect(wrong).toEqual([]);
  });

  test("an untrained model pays about the uniform entropy, in nats summed over factors", () => {
    const objective = buildObjective(config, tinyModel, space, Scope.root(4));
    const excess = lossOf(objective, 7, false)().dataSync()[0]! - Math.log(4) - Math.log(6);
    // Logits start with a variance of about 0.4 a factor: half of that in nats, on average.
    expect(Math.abs(excess)).toBeLessThan(0.6);
  });

  test("held-out inputs hide no label, repeat with their step, and smooth nothing", () => {
    const objective = buildObjective(config, tinyModel, space, Scope.root(4));
    const batch = randomBatch(space, 4, 2);
    const inputs = objective.inputs(batch, 7, 3, false);
    expect(inputs.dropped).toBeUndefined();
    expect(objective.inputs(batch, 7, 3, false)).toEqual(inputs);
    shake(objective.scope);
    const sharp = { ...config, label_smoothing: 0 };
    const other = buildObjective(sharp, tinyModel, space, Scope.root(4));
    shake(other.scope);
    const value = (each: Objective, training: boolean) =>
      lossOf(each, 7, training)().dataSync()[0]!;
    expect(value(objective, false)).toBe(value(other, false));
    expect(value(objective, true)).not.toBe(value(other, true));
  });

  test("dropped labels count as no class, and are drawn at the rate", () => {
    const objective = buildObjective(config, tinyModel, space, Scope.root(4));
    shake(objective.scope);
    const batch = randomBatch(space, 4, 2);
    const inputs = objective.inputs(batch, 7, 3, false);
    const loss = (extra: object) =>
      objective.loss(toTensors({ ...inputs, ...extra })).metrics.accuracy!.dataSync()[0]! +
      objective.loss(toTensors({ ...inputs, ...extra })).loss.dataSync()[0]!;
    const none = { labels: { dtype: "int32", shape: [4], data: Int32Array.of(3, 3, 3, 3) } };
    const unlabelled = objective.inputs(
      { ...batch, labels: new Int32Array(4).fill(-1) },
      7,
      3,
      false,
    );
    expect(unlabelled.labels).toEqual(none.labels);
    expect(loss(none)).not.toBeCloseTo(loss({}), 3);

    const rates = Array.from({ length: 200 }, (_, step) => {
      const { dropped } = objective.inputs(batch, 7, step, true);
      return [...dropped!.data].reduce((sum, flag) => sum + flag, 0) / 4;
    });
    expect(rates.reduce((sum, rate) => sum + rate, 0) / 200).toBeCloseTo(0.5, 1);
  });
});

describe("masked", () => {
  test("only hidden tokens count, each once", () => {
    const objective = buildObjective(masked, tinyModel, space, Scope.root(4));
    shake(objective.scope);
    const batch = randomBatch(space, 2, 5);
    const loss = (flags: number[], ids = batch.ids) => {
      const { loss: value, metrics } = objective.loss({
        ids: tf.tensor3d(ids, [2, 6, 2], "int32"),
        labels: tf.tensor1d(batch.labels, "int32"),
        masked: tf.tensor2d(flags, [2, 6], "bool"),
      });
      expect(metrics.masked_share!.dataSync()[0]).toBeCloseTo(
        flags.reduce((sum, flag) => sum + flag, 0) / 12,
        6,
      );
      return value.dataSync()[0]!;
    };
    // Rows do not see each other: the batch's loss is the mean over its three hidden tokens.
    const first = loss([1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    const second = loss([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    const all = loss([1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    expect(all).toBeCloseTo((2 * first + second) / 3, 5);
  });
});

describe("causal", () => {
  test("log-likelihoods are those of a distribution over sequences, and their mean is the loss", () => {
    const small = { grid: [1, 1, 3], factors: [2, 2], classes: 0 } as const;
    const objective = buildCausal(causal as never, tinyModel, small, Scope.root(4));
    expect(isCausal(objective)).toBe(true);
    shake(objective.scope);
    const size = 4 ** 3;
    // All sequences of three tokens of two bits: their probabilities sum to one.
    const ids = Int32Array.from({ length: size * 6 }, (_, i) => (Math.floor(i / 6) >> (i % 6)) & 1);
    const batch = { ids, labels: new Int32Array(size).fill(-1), size };
    const inputs = toTensors(objective.inputs(batch, 1, 0, false));
    const logProbs = objective.logProbs(inputs);
    expect(logProbs.shape).toEqual([size, 3]);
    const whole = tf.sum(logProbs, 1).dataSync<"float32">();
    expect(whole.reduce((sum, x) => sum + Math.exp(x), 0)).toBeCloseTo(1, 4);
    const loss = objective.loss(inputs).loss.dataSync()[0]!;
    expect(loss).toBeCloseTo(-whole.reduce((sum, x) => sum + x, 0) / size / 3, 4);
  });
});
