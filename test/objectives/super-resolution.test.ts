import * as tf from "@tensorflow/tfjs-core";
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { Scope } from "../../src/models/scope.ts";
import {
  buildWindowTransformer,
  checkMultiAxis,
  type WindowTransformerConfig,
} from "../../src/models/window-transformer.ts";
import type { TokenBatch, TokenSpace } from "../../src/objectives/objective.ts";
import {
  checkSuperResolution,
  type SuperResolutionConfig,
} from "../../src/objectives/super-resolution/config.ts";
import { buildSuperResolution } from "../../src/objectives/super-resolution/objective.ts";
import { guidancePasses } from "../../src/objectives/super-resolution/sampler.ts";
import { wordTokenizer } from "../../src/objectives/multimodal/words.ts";
import type { Device } from "../../src/runtime/device.ts";
import { Random } from "../../src/runtime/random.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { enlargeClip, lowTokenizer, reduceClip } from "../../src/tokenizers/low-resolution.ts";
import { buildTokenizer } from "../../src/tokenizers/registry.ts";
import type { Tokenizer } from "../../src/tokenizers/tokenizer.ts";
import { item, linearPatches, shake, toTensors } from "./support.ts";

const grid = [2, 4, 4] as const;
const low = [2, 2, 2] as const;
const [N, M] = [32, 8];
const model: WindowTransformerConfig = {
  type: "window-transformer",
  width: 16,
  depth: 3,
  heads: 2,
  mlp_ratio: 2,
  positions: "factorised",
  tie_weights: true,
  low_input: false,
  windows: [
    [1, 0, 2],
    [1, 2, 0],
    [0, 2, 2],
  ],
};
const config: SuperResolutionConfig = {
  type: "super-resolution",
  factor: 2,
  mask_schedule: "cosine",
  text_length: 3,
  noise: 0.5,
  low_dropout: 0.2,
  text_dropout: 0.2,
  student_share: 0,
  remade: 0.75,
  student_passes: 2,
  generators: [{ width: 16, depth: 1, heads: 2 }],
  sampling: {
    steps: 3,
    schedule: "cosine",
    order: "confidence",
    choice_temperature: 1,
    temperature: 1,
    top_k: 0,
    top_p: 1,
    low_guidance: 1,
    text_guidance: 1,
    generator_steps: 2,
  },
};
const space: TokenSpace = {
  grid,
  factors: [5, 3],
  classes: 0,
  text: wordTokenizer(["blue", "circle", "red", "square"]),
  low: {
    grid: low,
    clip: { frames: 2, height: 8, width: 8 },
    factors: [5, 3],
  } as unknown as Tokenizer,
};
const build = (changes: Partial<SuperResolutionConfig> = {}) => {
  const objective = buildSuperResolution({ ...config, ...changes }, model, space, Scope.root(3));
  shake(objective.scope, 0.2);
  return objective;
};
const ids = (size: number, tokens: number, seed: number): Int32Array => {
  const random = new Random(seed, "ids");
  return Int32Array.from({ length: size * tokens * 2 }, (_, i) => random.int(i % 2 ? 3 : 5));
};
const batchOf = (size: number): TokenBatch => ({
  ids: ids(size, N, 1),
  low: ids(size, M, 2),
  labels: new Int32Array(size).fill(-1),
  texts: Int32Array.from({ length: size * 3 }, (_, i) => (i % 3 === 2 ? -1 : i % 4)),
  size,
});

let device: Device;
beforeAll(async () => {
  device = await openDevice({ type: "reference" });
});

describe("the transformer in windows", () => {
  const predict = (
    windows: readonly (readonly number[])[],
    change: { hr?: number; low?: number; hidden?: boolean; lowInput?: boolean } = {},
  ): Float32Array => {
    const network = buildWindowTransformer(
      {
        ...model,
        depth: 1,
        windows: windows as number[][],
        low_input: change.lowInput ?? false,
      },
      { grid, factors: [5, 3], low },
      Scope.root(1),
    );
    shake(network.scope);
    const large = ids(1, N, 1);
    const small = ids(1, M, 2);
    if (change.hr !== undefined) {
      large[change.hr * 2] = (large[change.hr * 2]! + 1) % 5;
    }
    if (change.low !== undefined) {
      small[change.low * 2] = (small[change.low * 2]! + 1) % 5;
    }
    const [first] = network.predict(
      tf.tensor3d(large, [1, N, 2], "int32"),
      tf.zeros([1, N], "bool"),
      {
        low: {
          ids: tf.tensor3d(small, [1, M, 2], "int32"),
          hidden: tf.tensor1d([change.hidden ?? false], "bool"),
        },
      },
    );
    return first!.dataSync() as Float32Array; // [N, 5]
  };
  const changed = (a: Float32Array, b: Float32Array): number[] =>
    Array.from({ length: N }, (_, n) => n).filter((n) =>
      [0, 1, 2, 3, 4].some((k) => Math.abs(a[n * 5 + k]! - b[n * 5 + k]!) > 1e-6),
    );

  test("a token sees its own window and the small tokens under it, nothing else", () => {
    const vertical = [[1, 0, 2]];
    const plain = predict(vertical);
    // Token 5 is frame 0, row 1, column 1: the left half of frame 0.
    expect(changed(plain, predict(vertical, { hr: 5 }))).toEqual([0, 1, 4, 5, 8, 9, 12, 13]);
    // Small token 7 is frame 1, row 1, column 1: the right half of frame 1.
    const right = [18, 19, 22, 23, 26, 27, 30, 31];
    expect(changed(plain, predict(vertical, { low: 7 }))).toEqual(right);
    expect(changed(plain, predict(vertical, { low: 7, hidden: true }))).toHaveLength(N);
    const hidden = predict(vertical, { hidden: true });
    expect(changed(hidden, predict(vertical, { low: 7, hidden: true }))).toEqual([]);
  });

  test("small tokens are added to the tokens that they cover, and to no others", () => {
    const cells = [[1, 2, 2]]; // as large as what a small token covers
    const plain = predict(cells, { lowInput: true });
    const beneath = [26, 27, 30, 31]; // frame 1, rows and columns 2 and 3
    expect(changed(plain, predict(cells, { lowInput: true, low: 7 }))).toEqual(beneath);
    expect(changed(plain, predict(cells))).toHaveLength(N);
    const hidden = predict(cells, { lowInput: true, hidden: true });
    expect(changed(hidden, predict(cells, { lowInput: true, low: 7, hidden: true }))).toEqual([]);
  });

  test("a window of the whole grid is full attention", () => {
    const full = [[0, 0, 0]];
    expect(changed(predict(full), predict(full, { low: 7 }))).toHaveLength(N);
  });

  test("windows that tile neither grid are refused", () => {
    expect(checkMultiAxis({ windows: [[1, 0, 3]] }, grid, low)[0]!.message).toContain(
      "do not tile",
    );
    expect(checkMultiAxis({ windows: [[1, 1, 0]] }, grid, low)[0]!.message).toContain("0.5");
    expect(checkMultiAxis({ windows: [[0, 2, 4]] }, grid, low)).toEqual([]);
  });
});

describe("the loss", () => {
  test("an even network pays ln 15 a token, with each part of it", () => {
    const objective = buildSuperResolution(config, model, space, Scope.blank(0));
    const inputs = toTensors(objective.inputs(batchOf(2), 0, 0, true));
    const { loss, metrics } = objective.loss(inputs);
    expect(item(metrics["super_loss"]!)).toBeCloseTo(Math.log(15), 5);
    expect(item(metrics["generator0_loss"]!)).toBeCloseTo(Math.log(15), 5);
    expect(item(loss)).toBeCloseTo(2 * Math.log(15), 5);
  });

  test("noise changes small tokens in training alone, about as many as it says", () => {
    const share = (noise: number, training: boolean): number => {
      const objective = build({ noise });
      const steps = [0, 1, 2, 3, 4, 5].map((step) =>
        item(
          objective.loss(toTensors(objective.inputs(batchOf(8), 0, step, training))).metrics[
            "low_changed"
          ]!,
        ),
      );
      return steps.reduce((a, b) => a + b) / steps.length;
    };
    expect(share(0, true)).toBe(0);
    expect(share(0.8, false)).toBe(0);
    // Half of 0.8 on average, of which 1 in 15 is drawn as it was.
    expect(share(0.8, true)).toBeGreaterThan(0.28);
    expect(share(0.8, true)).toBeLessThan(0.46);
  });

  test("a student reads the generator's tokens and gives it no gradient", () => {
    const objective = build({ student_share: 1, noise: 0 });
    const inputs = toTensors(objective.inputs(batchOf(4), 0, 0, true));
    expect(item(objective.loss(inputs).metrics["low_changed"]!)).toBeGreaterThan(0.1);
    const generator = [...objective.scope.trainable()].filter(([name]) =>
      name.includes("generator0"),
    );
    // The main network's loss does not lead to the generator's variables at all.
    expect(() =>
      tf.variableGrads(
        () => objective.loss(inputs).metrics["super_loss"]!,
        generator.map(([, variable]) => variable),
      ),
    ).toThrow("Cannot find a connection");
    expect(generator.length).toBeGreaterThan(10);
  });

  test("conditions are dropped independently", () => {
    const objective = build();
    let [lowOnly, textOnly, both, none] = [0, 0, 0, 0];
    for (let step = 0; step < 60; step++) {
      const { low_hidden: a, text_hidden: b } = objective.inputs(batchOf(8), 0, step, true);
      for (let i = 0; i < 8; i++) {
        const [x, y] = [a!.data[i]!, b!.data[i]!];
        lowOnly += Number(x && !y);
        textOnly += Number(!x && y);
        both += Number(x && y);
        none += Number(!x && !y);
      }
    }
    const total = 480;
    expect(lowOnly / total).toBeCloseTo(0.16, 1);
    expect(textOnly / total).toBeCloseTo(0.16, 1);
    expect(both / total).toBeGreaterThan(0.01);
    expect(both / total).toBeLessThan(0.09);
    expect(none / total).toBeCloseTo(0.64, 1);
  });
});

describe("sampling", () => {
  test("guidance weighs passes so that they sum to 1", () => {
    expect(guidancePasses(1, 1, true)).toEqual([{ low: true, text: true, weight: 1 }]);
    expect(guidancePasses(2, 4, true).map(({ weight }) => weight)).toEqual([4, -2, -1]);
    expect(guidancePasses(2, 1, false).map(({ weight }) => weight)).toEqual([2, -1]);
    const scales = fc.double({ min: 0, max: 9, noNaN: true });
    fc.assert(
      fc.property(scales, scales, fc.boolean(), (a, b, text) => {
        const sum = guidancePasses(a, b, text).reduce((total, { weight }) => total + weight, 0);
        expect(sum).toBeCloseTo(1, 6);
      }),
    );
  });

  test("given small tokens stay, ids are in range, the same seed gives the same", async () => {
    const objective = build({
      low_dropout: 0.1,
      sampling: { ...config.sampling, low_guidance: 2, text_guidance: 3 },
    });
    const cascade = objective.cascade(device);
    const { texts } = batchOf(2);
    const given = ids(2, M, 5);
    const known = Uint8Array.from({ length: 2 * M }, (_, i) => Number(i % 3 === 0));
    const small = await cascade.small({
      generator: 0,
      texts: texts!,
      size: 2,
      seed: 4,
      condition: { ids: given, known },
    });
    const places = [...known.keys()].filter((i) => known[i] === 1);
    expect(places.map((i) => small[2 * i])).toEqual(places.map((i) => given[2 * i]));
    const request = { low: small, texts: texts!, size: 2, seed: 4 };
    const large = await cascade.large(request);
    expect(large).toHaveLength(2 * N * 2);
    large.forEach((id, i) => expect(id >= 0 && id < (i % 2 ? 3 : 5)).toBe(true));
    expect(await cascade.large(request)).toEqual(large);
    await expect(cascade.small({ generator: 1, texts: texts!, size: 2, seed: 0 })).rejects.toThrow(
      "1 generators",
    );
  });
});

test("what does not fit is said with its key", () => {
  const paths = (changes: Partial<SuperResolutionConfig>): string[] =>
    checkSuperResolution({ ...config, ...changes }, model, grid, low).map(({ path }) => path);
  expect(paths({})).toEqual([]);
  const guided = { ...config.sampling, low_guidance: 2 };
  expect(paths({ low_dropout: 0, sampling: guided })).toEqual(["objective.sampling.low_guidance"]);
  expect(paths({ student_share: 1, generators: [] })).toEqual(["objective.student_share"]);
});

describe("small clips", () => {
  test("reducing and enlarging keep what is even, and the mean", () => {
    const shape = { frames: 1, height: 4, width: 4 };
    const even = new Uint8Array(48).fill(77);
    expect(reduceClip(even, shape, 2)).toEqual(new Uint8Array(12).fill(77));
    expect(enlargeClip(new Uint8Array(12).fill(77), shape, 2)).toEqual(even);
    const random = new Random(0, "pixels");
    const noisy = Uint8Array.from({ length: 64 * 64 * 3 }, () => random.int(256));
    const small = reduceClip(noisy, { frames: 1, height: 64, width: 64 }, 2);
    const mean = (x: Uint8Array): number => x.reduce((sum, v) => sum + v, 0) / x.length;
    expect(Math.abs(mean(small) - mean(noisy))).toBeLessThan(2);
  });

  test("the small tokenizer shares all variables of the large one", () => {
    const clip = { frames: 1, height: 16, width: 16 };
    const tokenizer = linearPatches(3);
    const scope = Scope.root(0);
    const large = buildTokenizer(tokenizer, clip, scope);
    const before = scope.variables().size;
    const small = lowTokenizer(tokenizer, clip, 2, scope);
    expect(scope.variables().size).toBe(before);
    expect([large.grid, small.grid]).toEqual([
      [1, 4, 4],
      [1, 2, 2],
    ]);
    expect(() =>
      Scope.root(0)
        .child("a")
        .param("x", [1], () => new Float32Array(1)),
    ).not.toThrow();
    scope.param("x", [2], () => new Float32Array(2));
    expect(() => scope.shared().param("x", [3], () => new Float32Array(3))).toThrow("2");
  });
});
