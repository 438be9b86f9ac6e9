import * as tf from "@tensorflow/tfjs-core";
import "@tensorflow/tfjs-backend-cpu";
import { beforeAll, describe, expect, test } from "vitest";
import { Scope } from "../../src/models/scope.ts";
import { sinusoids } from "../../src/models/positions.ts";
import {
  buildTransformer,
  checkTransformer,
  type Transformer,
  type TransformerConfig,
  cacheValues,
  keepCache,
} from "../../src/models/transformer.ts";
import { Random } from "../../src/runtime/random.ts";
import { shake, tinyModel } from "../objectives/support.ts";

const space = { grid: [2, 2, 3], factors: [5, 7], classes: 3 } as const;
const N = 12;

beforeAll(async () => {
  await tf.setBackend("cpu");
});

function build(config: Partial<TransformerConfig> = {}, mask = true): Transformer {
  return buildTransformer({ ...tinyModel, ...config }, space, { mask }, Scope.root(1));
}

function randomIds(batch: number, seed: number): Int32Array {
  const random = new Random(seed, "ids");
  return Int32Array.from({ length: batch * N * 2 }, (_, i) => random.int(space.factors[i % 2]!));
}

const positions = ["learned", "factorised", "sinusoidal"] as const;

describe("shapes and sizes", () => {
  test.each(positions)("one softmax a sub-vocabulary, %s positions", (kind) => {
    const transformer = build({ positions: kind });
    const ids = tf.tensor3d(randomIds(2, 1), [2, N, 2], "int32");
    const masked = tf.fill([2, N], 1, "bool") as tf.Tensor2D;
    const labels = tf.tensor1d([0, 3], "int32");
    const logits = transformer.bidirectional(ids, masked, labels);
    expect(logits.map((each) => each.shape)).toEqual([
      [2 * N, 5],
      [2 * N, 7],
    ]);
    expect(transformer.causal(ids, labels).map((each) => each.shape)).toEqual([
      [2 * N, 5],
      [2 * N, 7],
    ]);
  });

  test("weight tying removes exactly one table of the vocabulary", () => {
    const tied = build({ tie_weights: true }).scope.parameterCount();
    const untied = build({ tie_weights: false }).scope.parameterCount();
    expect(untied - tied).toBe((5 + 7) * 16);
  });

  test("MAGVIT-B has 87 M parameters and MAGVIT-L 305 M (Yu et al. 2023)", () => {
    const paper = { grid: [4, 16, 16], factors: [1024], classes: 101 } as const;
    const count = (config: Partial<TransformerConfig>) => {
      const scope = Scope.blank(0);
      buildTransformer({ ...tinyModel, mlp_ratio: 4, ...config }, paper, { mask: true }, scope);
      const parameters = scope.parameterCount();
      scope.dispose();
      return parameters / 1e6;
    };
    expect(count({ width: 768, depth: 12, heads: 12 })).toBeCloseTo(87, 0);
    expect(Math.round(count({ width: 1024, depth: 24, heads: 16 }))).toBeOneOf([304, 305, 306]);
  });

  test("heads that do not divide the width are named with what would", () => {
    expect(checkTransformer({ ...tinyModel, width: 16, heads: 3 })).toEqual([
      {
        path: "heads",
        message: "3 heads do not divide the width 16",
        hint: "use one of 1, 2, 4, 8, 16 heads or another width",
      },
    ]);
    expect(() => build({ heads: 3 })).toThrow("3 heads");
  });

  test("residual projections start smaller by sqrt(2 depth)", () => {
    const { scope } = build({ width: 64, depth: 8 });
    const std = (name: string) => {
      const values = scope.variables().get(name)!.dataSync<"float32">();
      return Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);
    };
    const usual = Math.sqrt(2 / (5 * 64));
    expect(std("block0/qkv/kernel") / usual).toBeCloseTo(1, 1);
    expect(std("block0/merge/kernel") / usual).toBeCloseTo(1 / 4, 1);
    expect(std("block7/down/kernel") / usual).toBeCloseTo(1 / 4, 1);
  });
});

describe("what sees what", () => {
  test("causal: logits at i do not depend on tokens from i on, and do on the one before", () => {
    const transformer = build();
    shake(transformer.scope);
    const ids = randomIds(1, 2);
    const labels = tf.tensor1d([1], "int32");
    const run = (values: Int32Array) =>
      transformer.causal(tf.tensor3d(values, [1, N, 2], "int32"), labels)[1]!.arraySync();
    const before = run(ids);
    for (const changed of [0, 4, N - 2]) {
      const other = ids.slice();
      other[changed * 2] = (other[changed * 2]! + 1) % 5;
      const after = run(other);
      expect(after.slice(0, changed + 1)).toEqual(before.slice(0, changed + 1));
      expect(after[changed + 1]).not.toEqual(before[changed + 1]);
    }
  });

  test("bidirectional: ids under the mask have no influence, visible ones have everywhere", () => {
    const transformer = build();
    shake(transformer.scope);
    const flags = Uint8Array.from({ length: N }, (_, i) => i % 2);
    const run = (values: Int32Array) =>
      transformer
        .bidirectional(
          tf.tensor3d(values, [1, N, 2], "int32"),
          tf.tensor2d(flags, [1, N], "bool"),
          tf.tensor1d([0], "int32"),
        )[0]!
        .arraySync();
    const ids = randomIds(1, 3);
    const before = run(ids);
    const hidden = ids.slice();
    hidden[1 * 2] = (hidden[1 * 2]! + 1) % 5;
    expect(run(hidden)).toEqual(before);
    const visible = ids.slice();
    visible[10 * 2 + 1] = (visible[10 * 2 + 1]! + 1) % 7;
    const after = run(visible);
    for (let i = 0; i < N; i++) {
      expect(after[i]).not.toEqual(before[i]);
    }
  });

  test("the class changes the logits", () => {
    const transformer = build();
    shake(transformer.scope);
    const ids = tf.tensor3d(randomIds(1, 4), [1, N, 2], "int32");
    const run = (label: number) =>
      transformer.causal(ids, tf.tensor1d([label], "int32"))[0]!.arraySync();
    expect(run(0)).not.toEqual(run(3));
  });

  test.each(positions)("step by step with a cache equals the whole pass, %s", (kind) => {
    const transformer = build({ positions: kind });
    shake(transformer.scope);
    const ids = randomIds(2, 5);
    const labels = tf.tensor1d([2, 3], "int32");
    const whole = transformer
      .causal(tf.tensor3d(ids, [2, N, 2], "int32"), labels)
      .map((each) => tf.reshape(each, [2, N, -1]).arraySync() as number[][][]);
    const cache = transformer.buildCache(2);
    // A second round over the same cache: what an earlier sequence left must not matter.
    for (const round of [0, 1]) {
      for (let n = 0; n < N; n++) {
        const previous = [0, 1].flatMap((b) =>
          n === 0 ? [4, 6] : Array.from(ids.subarray((b * N + n - 1) * 2, (b * N + n) * 2)),
        );
        const step = transformer.causalStep(
          tf.tensor2d(previous, [2, 2], "int32"),
          labels,
          tf.tensor1d([n], "int32"),
          cacheValues(cache),
        );
        keepCache(cache, step.cache);
        for (const [f, logits] of step.logits.entries()) {
          const values = logits.arraySync();
          for (const b of [0, 1]) {
            for (const [v, value] of values[b]!.entries()) {
              expect(value, `round ${round} place ${n}`).toBeCloseTo(whole[f]![b]![n]![v]!, 4);
            }
          }
        }
      }
    }
  });
});

describe("sinusoids", () => {
  test("every place has its own vector and channels are shared out to three axes", () => {
    const grid = [3, 4, 5] as const;
    const width = 13; // 7 pairs: 3 for frames, 2 for rows, 2 for columns, the last half used
    const values = sinusoids(grid, width);
    const rows = Array.from({ length: 60 }, (_, i) => values.slice(i * width, (i + 1) * width));
    expect(new Set(rows.map((row) => row.join())).size).toBe(60);
    expect(rows[0]).toEqual(Float32Array.of(0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0));
    // Place (1, 0, 0) differs from (0, 0, 0) in the frames' channels only.
    expect(rows[20]!.slice(6)).toEqual(rows[0]!.slice(6));
    expect(rows[20]![0]).toBeCloseTo(Math.sin(1), 6);
    expect(rows[20]![2]).toBeCloseTo(Math.sin(10_000 ** (-1 / 3)), 6);
  });
});
