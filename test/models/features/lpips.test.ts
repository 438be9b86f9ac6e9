/** @file LPIPS on VGG16 and AlexNet against goldens computed in float64, values and gradients. */

import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, it } from "vitest";
import {
  buildLpips,
  loadLpips,
  type LpipsTrunk,
  openLpips,
  scaled,
  stageMap,
} from "../../../src/models/features/lpips.ts";
import { Scope } from "../../../src/models/scope.ts";
import { openDevice } from "../../../src/runtime/registry.ts";
import { float32, type HostTensor } from "../../../src/runtime/tensors.ts";
import { weightsOf } from "../../../src/runtime/weight-files/weights.ts";
import { distortedImage, golden, referenceImage } from "../../eval/golden.ts";
import { expectStats, fastDevices, type Stats, sym, tensor, uniform } from "./formula.ts";

interface Conformance {
  readonly per_layer: number[];
  readonly total: number;
  readonly features: Stats[];
}

const convs: { [trunk in LpipsTrunk]: { index: number; shape: [number, number, number] }[] } = {
  vgg16: [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28].map((index, i) => {
    const channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512];
    return { index, shape: [channels[i + 1]!, channels[i]!, 3] };
  }),
  alexnet: [0, 3, 6, 8, 10].map((index, i) => {
    const channels = [3, 64, 192, 384, 256, 256];
    return { index, shape: [channels[i + 1]!, channels[i]!, [11, 5, 3, 3, 3][i]!] };
  }),
};

/** Formula weights under the names of `prefix`. */
function formulaWeights(trunk: LpipsTrunk, prefix = (index: number) => `features.${index}`) {
  const [seed, headSeed] = trunk === "vgg16" ? [2000, 2900] : [2500, 2950];
  const widths = trunk === "vgg16" ? [64, 128, 256, 512, 512] : [64, 192, 384, 256, 256];
  const entries: [string, HostTensor][] = convs[trunk].flatMap(({ index, shape }, i) => {
    const [co, ci, k] = shape;
    const scale = Math.sqrt(6 / (ci * k * k));
    return [
      tensor(`${prefix(index)}.weight`, [co, ci, k, k], sym(seed + 2 * i, co * ci * k * k, scale)),
      tensor(`${prefix(index)}.bias`, [co], sym(seed + 2 * i + 1, co, 0.05)),
    ];
  });
  const heads = widths.map((width, k) =>
    tensor(`lin${k}.model.1.weight`, [1, width, 1, 1], uniform(headSeed + k, width, 0.5)),
  );
  return weightsOf([...entries, ...heads]);
}

/** [1, H, W, C] from channel-first values. */
const toLast = (values: Float32Array, [c, h, w]: [number, number, number]): HostTensor =>
  float32(
    [1, h, w, c],
    Float32Array.from(values, (_, i) => values[(i % c) * h * w + Math.floor(i / c)]!),
  );

const original = referenceImage(3, 64, 72);
const picture = (bytes: Uint8Array): HostTensor =>
  float32(
    [1, 64, 72, 3],
    Float32Array.from(bytes, (value) => value / 127.5 - 1),
  );
const a = picture(original);
const b = picture(distortedImage(original, 3, 64, 72));

describe.each(fastDevices)("LPIPS on %s", (type) => {
  const expected = golden<{ vgg16: Conformance; alex: Conformance }>("lpips_conformance");

  it.each([
    ["vgg16", expected.vgg16],
    ["alexnet", expected.alex],
  ] as const)("agrees on %s, stage by stage", async (trunk, want) => {
    const device = await openDevice({ type });
    const lpips = openLpips(trunk, formulaWeights(trunk));
    const judge = device.compile(`lpips ${trunk}`, ({ a, b }) => ({
      ...Object.fromEntries(lpips.features(a as tf.Tensor4D).map((x, l) => [`features${l}`, x])),
      layers: tf.stack(lpips.layers(a as tf.Tensor4D, b as tf.Tensor4D)),
      distance: lpips.distance(a as tf.Tensor4D, b as tf.Tensor4D),
      map: lpips.map(a as tf.Tensor4D, b as tf.Tensor4D),
    }));
    const out = await judge({ a, b });
    want.features.forEach((stats, l) => expectStats(out[`features${l}`]!, stats, 1e-5));
    want.per_layer.forEach((value, l) =>
      expect(Math.abs(out["layers"]!.data[l]! / value - 1)).toBeLessThan(2e-5),
    );
    expect(Math.abs(out["distance"]!.data[0]! / want.total - 1)).toBeLessThan(1e-5);
    expect(out["map"]!.shape).toEqual([1, 64, 72]);
    device.dispose();
  });

  it("has the gradient of its value, and a finite one where a feature vector is zero", async () => {
    const device = await openDevice({ type });
    const lpips = openLpips("alexnet", formulaWeights("alexnet"));
    const slope = device.compile("gradient", ({ a, b }) => {
      const towards = tf.sub(a!, b!);
      const value = (x: tf.Tensor): tf.Scalar =>
        tf.sum(lpips.distance(x as tf.Tensor4D, b as tf.Tensor4D));
      const step = tf.mul(towards, 1e-2);
      return {
        along: tf.sum(tf.mul(tf.grad(value)(a!), towards)),
        difference: tf.div(tf.sub(value(tf.add(a!, step)), value(tf.sub(a!, step))), 2e-2),
      };
    });
    const { along, difference } = await slope({ a, b });
    expect(Math.abs(along!.data[0]!)).toBeGreaterThan(1e-3);
    expect(Math.abs(along!.data[0]! / difference!.data[0]! - 1)).toBeLessThan(0.02);

    const dead = weightsOf(
      [...formulaWeights("alexnet").tensors].map(([name, stored]) => {
        const { shape, data } = stored.read();
        return [
          name,
          float32(
            shape,
            name.startsWith("lin") ? (data as Float32Array) : new Float32Array(data.length),
          ),
        ];
      }),
    );
    loadLpips(lpips, dead);
    const { along: still } = await slope({ a, b });
    expect(still!.data[0]).toBe(0);
    device.dispose();
  });
});

describe("LPIPS", () => {
  it("reads the lpips package's own state and says what a wrong file lacks", async () => {
    const device = await openDevice({ type: "reference" });
    const slices: { [index: number]: number } = { 0: 1, 3: 2, 6: 3, 8: 4, 10: 5 };
    openLpips(
      "alexnet",
      formulaWeights("alexnet", (index) => `net.slice${slices[index]}.${index}`),
    );
    expect(() => openLpips("vgg16", formulaWeights("alexnet"))).toThrow(/features\.2\.weight/);
    const bad = weightsOf(
      [...formulaWeights("alexnet").tensors].map(([name, stored]) => {
        const { shape, data } = stored.read();
        const values = Float32Array.from(data as Float32Array);
        values[3] = name === "features.6.weight" ? Number.NaN : values[3]!;
        return [name, float32(shape, values)];
      }),
    );
    expect(() => openLpips("alexnet", bad)).toThrow(/"features\.6\.weight".*NaN/);
    const lpips = buildLpips(Scope.blank(0), "vgg16");
    expect(() => lpips.features(tf.zeros([1, 15, 40, 3]))).toThrow(/at least 16/);
    device.dispose();
  });
});

describe.each([...fastDevices, "reference"] as const)("LPIPS's arithmetic on %s", (type) => {
  it("scales its input and compares one stage as the golden does, in both norms", async () => {
    const want = golden<{
      lpips: number;
      torchmetrics_eps: number;
      scaling_input: number[][][];
      scaling_output: number[][][];
    }>("lpips_arithmetic");
    const device = await openDevice({ type });
    const relu = (seed: number): HostTensor =>
      toLast(
        sym(seed, 120).map((x) => Math.max(0, x)),
        [6, 5, 4],
      );
    const run = device.compile("stage", ({ x, y, w, p }) => {
      const stage = (norm: "lpips" | "torchmetrics") =>
        tf.mean(stageMap(x as tf.Tensor4D, y as tf.Tensor4D, w as tf.Tensor1D, norm));
      return {
        lpips: stage("lpips"),
        torchmetrics: stage("torchmetrics"),
        scaled: scaled(p as tf.Tensor4D),
      };
    });
    const pixels = toLast(Float32Array.from(want.scaling_input.flat(3)), [3, 2, 2]);
    const out = await run({ x: relu(91), y: relu(92), w: float32([6], uniform(93, 6)), p: pixels });
    expect(out["lpips"]!.data[0]).toBeCloseTo(want.lpips, 6);
    expect(out["torchmetrics"]!.data[0]).toBeCloseTo(want.torchmetrics_eps, 6);
    const after = toLast(Float32Array.from(want.scaling_output.flat(3)), [3, 2, 2]).data;
    out["scaled"]!.data.forEach((value, i) => expect(value).toBeCloseTo(after[i]!, 5));
    device.dispose();
  });
});
