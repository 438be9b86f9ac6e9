import * as tf from "@tensorflow/tfjs-core";
import { beforeAll, describe, expect, test } from "vitest";
import {
  draw,
  guide,
  guidedLabels,
  needsBoth,
  networkLabel,
} from "../../src/objectives/sampling.ts";
import { openDevice } from "../../src/runtime/registry.ts";

beforeAll(() => openDevice({ type: "reference" }));

const plain = { temperature: 1, top_k: 0, top_p: 1 };

/** Frequencies of drawn ids at evenly spread uniforms: the drawn distribution without noise. */
function frequencies(logits: number[], config: typeof plain): number[] {
  const rows = 2000;
  const uniforms = Float32Array.from({ length: rows }, (_, i) => (i + 0.5) / rows);
  const { ids } = draw(tf.tile(tf.tensor2d([logits]), [rows, 1]), tf.tensor1d(uniforms), config);
  const counts = logits.map(() => 0);
  for (const id of ids.dataSync<"int32">()) {
    counts[id]! += 1 / rows;
  }
  return counts;
}

const probabilities = [0.1, 0.4, 0.05, 0.3, 0.15];
const logits = probabilities.map((p) => Math.log(p) + 3);

/** The largest difference of two lists. */
function distance(actual: number[], expected: number[]): number {
  return Math.max(...expected.map((value, i) => Math.abs(actual[i]! - value)));
}

describe("draw", () => {
  test("draws in proportion to the softmax", () => {
    expect(distance(frequencies(logits, plain), probabilities)).toBeLessThan(0.005);
  });

  test("temperature sharpens", () => {
    const squares = probabilities.map((p) => p * p);
    const total = squares.reduce((sum, p) => sum + p, 0);
    expect(
      distance(
        frequencies(logits, { ...plain, temperature: 0.5 }),
        squares.map((p) => p / total),
      ),
    ).toBeLessThan(0.005);
  });

  test("temperature 0 takes the likeliest", () => {
    expect(
      distance(frequencies(logits, { ...plain, temperature: 0 }), [0, 1, 0, 0, 0]),
    ).toBeLessThan(0.005);
  });

  test("top-k keeps the k likeliest in proportion", () => {
    expect(
      distance(frequencies(logits, { ...plain, top_k: 2 }), [0, 4 / 7, 0, 3 / 7, 0]),
    ).toBeLessThan(0.005);
    expect(distance(frequencies(logits, { ...plain, top_k: 9 }), probabilities)).toBeLessThan(
      0.005,
    );
  });

  test("top-p keeps the fewest that reach p", () => {
    expect(
      distance(frequencies(logits, { ...plain, top_p: 0.6 }), [0, 4 / 7, 0, 3 / 7, 0]),
    ).toBeLessThan(0.005);
    expect(distance(frequencies(logits, { ...plain, top_p: 0.3 }), [0, 1, 0, 0, 0])).toBeLessThan(
      0.005,
    );
  });

  test("top-p counts within what top-k left", () => {
    const config = { ...plain, top_k: 2, top_p: 0.5 };
    expect(distance(frequencies(logits, config), [0, 1, 0, 0, 0])).toBeLessThan(0.005);
  });

  test("the ends of [0, 1) never give an id of probability 0", () => {
    const last = 1 - 2 ** -24;
    const { ids } = draw(
      tf.tensor2d([
        [-200, 0, 0, -200],
        [-200, 0, 0, -200],
      ]),
      tf.tensor1d([0, last]),
      plain,
    );
    expect([...ids.dataSync()]).toEqual([1, 2]);
  });

  test("log p is the softmax's, whatever the temperature", () => {
    const { ids, logProbs } = draw(tf.tensor2d([logits]), tf.tensor1d([0.2]), {
      ...plain,
      temperature: 0.25,
      top_k: 3,
    });
    expect(logProbs.dataSync()[0]).toBeCloseTo(Math.log(probabilities[ids.dataSync()[0]!]!), 5);
  });
});

describe("guidance", () => {
  test("scale 1 is conditional, 0 unconditional, 3 extrapolates", () => {
    const both = tf.tensor2d([
      [1, 2],
      [5, -1],
    ]);
    const at = (scale: number) => [...guide(both, scale).dataSync()];
    expect(at(1)).toEqual([1, 2]);
    expect(at(0)).toEqual([5, -1]);
    expect(at(3)).toEqual([-7, 8]);
  });

  test("labels: doubled only where both kinds of logits are needed", () => {
    const config = {
      ...plain,
      guidance: 1,
      guidance_schedule: "constant",
      guidance_power: 4,
    } as const;
    const labels = Int32Array.of(2, 0, -1);
    expect([...guidedLabels(labels, config, 4)]).toEqual([2, 0, 4]);
    expect([...guidedLabels(labels, { ...config, guidance: 0 }, 4)]).toEqual([4, 4, 4]);
    expect([...guidedLabels(labels, { ...config, guidance: 2 }, 4)]).toEqual([2, 0, 4, 4, 4, 4]);
    expect([...guidedLabels(labels, { ...config, guidance: 2 }, 0)]).toEqual([0, 0, 0]);
    expect(needsBoth({ ...config, guidance: 2 }, 0)).toBe(false);
  });

  test("a label that is no class is an error", () => {
    expect(() => networkLabel(4, 4)).toThrow("label 4 is not one of the 4 classes");
    expect(() => networkLabel(-2, 4)).toThrow("label -2");
  });
});
