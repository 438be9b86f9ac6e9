/** @file The published feature networks against goldens: I3D, InceptionV3, C3D, VGGish, CLIP, VideoMAE. */

import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, it } from "vitest";
import { buildC3d, openC3d } from "../../../src/models/features/c3d.ts";
import { openClip } from "../../../src/models/features/clip.ts";
import { buildI3d, openI3d } from "../../../src/models/features/i3d.ts";
import { openInceptionV3 } from "../../../src/models/features/inception-v3.ts";
import { openVideoMae } from "../../../src/models/features/videomae.ts";
import {
  logMel,
  melWeights,
  openVggish,
  vggishExamples,
} from "../../../src/models/features/vggish.ts";
import { Scope } from "../../../src/models/scope.ts";
import { openDevice } from "../../../src/runtime/registry.ts";
import { float32, type HostTensor, int32, sizeOf } from "../../../src/runtime/tensors.ts";
import { weightsOf } from "../../../src/runtime/weight-files/weights.ts";
import { golden, mulberry, referenceImage } from "../../eval/golden.ts";
import { expectStats, fastDevices, type Stats, sym, tensor } from "./formula.ts";

interface I3dCase {
  name: string;
  seed: number;
  T: number;
  H: number;
  W: number;
  endpoints: { [name: string]: Stats };
  logits_mean?: number[];
  pool1024_mean_first16?: number[];
  eps1e5_logits_first8?: number[];
}

const i3dGolden = golden<{
  tensors: { k: number; name: string; shape: number[] }[];
  cases: I3dCase[];
}>("i3d_conformance");

/** The formula weights under TensorFlow's names. */
const i3dWeights = () =>
  weightsOf(
    i3dGolden.tensors.map(({ k, name, shape }) => {
      const count = sizeOf(shape);
      if (name.endsWith("/w")) {
        return tensor(name, shape, sym(1000 + k, count, Math.sqrt(6 / sizeOf(shape.slice(0, 4)))));
      }
      return name.endsWith("moving_variance")
        ? tensor(name, shape, sym(1000 + k, count, 0.5, 1))
        : tensor(name, shape, sym(1000 + k, count, 0.1));
    }),
  );

const relative = (got: ArrayLike<number>, want: readonly number[]): number => {
  const size = Math.sqrt(want.reduce((sum, value) => sum + value * value, 0));
  return Math.sqrt(want.reduce((sum, value, i) => sum + (got[i]! - value) ** 2, 0)) / size;
};

describe.each(fastDevices)("feature networks on %s", (type) => {
  it.each(i3dGolden.cases)("I3D agrees at every endpoint: $name", async (want) => {
    const device = await openDevice({ type });
    const i3d = openI3d(i3dWeights());
    const clip = float32(
      [1, want.T, want.H, want.W, 3],
      sym(want.seed, want.T * want.H * want.W * 3),
    );
    const run = device.compile("endpoints", ({ clips }) => ({
      ...i3d.endpoints(clips as tf.Tensor5D),
    }));
    const out = await run({ clips: clip });
    expect(Object.keys(out).sort()).toEqual(Object.keys(want.endpoints).sort());
    for (const [name, stats] of Object.entries(want.endpoints)) {
      expectStats(out[name]!, stats, 1e-4);
    }
    device.dispose();
  });

  it("I3D's logits, its pool and the other epsilon agree", async () => {
    const device = await openDevice({ type });
    const want = i3dGolden.cases.find(({ logits_mean }) => logits_mean !== undefined)!;
    const i3d = openI3d(i3dWeights());
    const other = openI3d(i3dWeights(), 1e-5);
    const run = device.compile("logits", ({ clips }) => ({
      logits: i3d.logits(clips as tf.Tensor5D),
      pool: i3d.pool(clips as tf.Tensor5D),
      small: other.logits(clips as tf.Tensor5D),
    }));
    const clips = float32([1, want.T, 224, 224, 3], sym(want.seed, want.T * 224 * 224 * 3));
    const { logits, pool, small } = await run({ clips });
    expect(relative(logits!.data, want.logits_mean!)).toBeLessThan(1e-4);
    expect(relative(pool!.data, want.pool1024_mean_first16!)).toBeLessThan(1e-4);
    expect(relative(small!.data, want.eps1e5_logits_first8!)).toBeLessThan(1e-4);
    device.dispose();
  });

  it("InceptionV3 agrees at every stage, on a picture resized as pytorch-fid does", async () => {
    const want = golden<{
      layers: { i: number; name: string; cin: number; cout: number; kernel: [number, number] }[];
      endpoints: { [name: string]: Stats };
      pool3: number[];
    }>("inception_fid_conformance");
    const entries = want.layers.flatMap(({ i, name, cin, cout, kernel: [kh, kw] }) => {
      const seed = 3000 + 5 * i;
      const scale = Math.sqrt(6 / (cin * kh * kw));
      return [
        tensor(`${name}.conv.weight`, [cout, cin, kh, kw], sym(seed, cout * cin * kh * kw, scale)),
        tensor(`${name}.bn.weight`, [cout], sym(seed + 1, cout, 0.1, 1)),
        tensor(`${name}.bn.bias`, [cout], sym(seed + 2, cout, 0.1)),
        tensor(`${name}.bn.running_mean`, [cout], sym(seed + 3, cout, 0.1)),
        tensor(`${name}.bn.running_var`, [cout], sym(seed + 4, cout, 0.5, 1)),
      ];
    });
    const fc = tensor("fc.weight", [1008, 2048], new Float32Array(1008 * 2048).fill(0.5));
    const device = await openDevice({ type });
    const inception = openInceptionV3(weightsOf([...entries, fc]));
    const run = device.compile("stages", ({ picture }) => {
      const resized = tf.image.resizeBilinear(picture as tf.Tensor4D, [299, 299], false, true);
      const scaled = tf.sub(tf.mul(resized, 2), 1) as tf.Tensor4D;
      const features = inception.features(scaled);
      return { ...inception.endpoints(scaled), features, logits: inception.logits(features) };
    });
    const picture = float32(
      [1, 72, 96, 3],
      Float32Array.from(referenceImage(3, 72, 96), (value) => value / 255),
    );
    const out = await run({ picture });
    for (const [name, stats] of Object.entries(want.endpoints)) {
      expectStats(out[name]!, stats, 1e-4);
    }
    expect(relative(out["features"]!.data, want.pool3)).toBeLessThan(1e-4);
    const sum = want.pool3.reduce((total, value) => total + value, 0);
    expect(out["logits"]!.data[7]! / (0.5 * sum)).toBeCloseTo(1, 3);
    device.dispose();
  });

  interface Made {
    seed: number;
    tensors: { name: string; shape: number[]; scale: number; offset: number }[];
    input_seed: number;
    logits: number[];
    features: number[];
    image: number[];
    text: number[];
    ids: number[];
    ends: number[];
  }
  const made = golden<{ c3d: Made; vggish: Made; clip: Made; videomae: Made }>(
    "features_conformance",
  );
  const weights = ({ seed, tensors }: Made) =>
    weightsOf(
      tensors.map(({ name, shape, scale, offset }, k) =>
        tensor(name, shape, sym(seed + k, sizeOf(shape), scale, offset)),
      ),
    );
  /** Values in [0, 1]. */
  const pixels = (shape: number[], seed: number): HostTensor =>
    float32(
      shape,
      sym(seed, sizeOf(shape)).map((value) => Math.fround(value * 0.5) + 0.5),
    );

  it("C3D agrees, from TGAN2's layout and mean", async () => {
    const device = await openDevice({ type });
    const c3d = openC3d(weights(made.c3d), { thinner: 8 });
    const run = device.compile("c3d", ({ x }) => ({ y: c3d.logits(x as tf.Tensor5D) }));
    const { y } = await run({ x: pixels([1, 16, 112, 112, 3], made.c3d.input_seed) });
    expect(relative(y!.data, made.c3d.logits)).toBeLessThan(1e-4);
    device.dispose();
  });

  it("VGGish agrees", async () => {
    const device = await openDevice({ type });
    const vggish = openVggish(weights(made.vggish));
    const run = device.compile("vggish", ({ x }) => ({ y: vggish.features(x as tf.Tensor4D) }));
    const { y } = await run({ x: float32([1, 96, 64, 1], sym(made.vggish.input_seed, 96 * 64)) });
    expect(relative(y!.data, made.vggish.features)).toBeLessThan(1e-4);
    device.dispose();
  });

  it("CLIP's towers agree at a toy size", async () => {
    const device = await openDevice({ type });
    const { clip: want } = made;
    const clip = openClip(weights(want), {
      image: 8,
      patch: 4,
      imageWidth: 24,
      imageDepth: 2,
      imageHeads: 3,
      vocabulary: 40,
      context: 7,
      textWidth: 16,
      textDepth: 2,
      textHeads: 2,
      embedding: 12,
    });
    const run = device.compile("clip", ({ x, ids, ends }) => ({
      image: clip.image(x as tf.Tensor4D),
      text: clip.text(ids as tf.Tensor2D, ends as tf.Tensor1D),
    }));
    const { image, text } = await run({
      x: pixels([2, 8, 8, 3], want.input_seed),
      ids: int32([2, 7], want.ids),
      ends: int32([2], want.ends),
    });
    expect(relative(image!.data, want.image)).toBeLessThan(1e-4);
    expect(relative(text!.data, want.text)).toBeLessThan(1e-4);
    device.dispose();
  });

  it("VideoMAE agrees at a toy size", async () => {
    const device = await openDevice({ type });
    const mae = openVideoMae(weights(made.videomae), {
      frames: 4,
      side: 8,
      patch: 4,
      tubelet: 2,
      width: 24,
      depth: 2,
      heads: 3,
      hidden: 40,
    });
    const run = device.compile("mae", ({ x }) => ({ y: mae.features(x as tf.Tensor5D) }));
    const { y } = await run({ x: pixels([1, 4, 8, 8, 3], made.videomae.input_seed) });
    expect(relative(y!.data, made.videomae.features)).toBeLessThan(1e-4);
    device.dispose();
  });
});

describe("feature networks", () => {
  it("VGGish's front end agrees with the golden", () => {
    const want = golden<{
      n_frames: number;
      examples_shape: number[];
      mel_row_sums: number[];
      frame0: number[];
      frame100: number[];
      example1_row3: number[];
      mean: number;
      l2: number;
    }>("vggish_frontend");
    const sine = (hertz: number, t: number): number => Math.sin((2 * Math.PI * hertz * t) / 16_000);
    const sound = Float64Array.from(
      { length: 32_000 },
      (_, t) =>
        0.4 * sine(440, t) + 0.2 * sine(1870, t) + 0.05 * ((2 * mulberry(4001, t)) / 2 ** 32 - 1),
    );
    const { frames, values } = logMel(sound);
    expect(frames).toBe(want.n_frames);
    const weights = melWeights();
    want.mel_row_sums.forEach((sum, band) => {
      let total = 0;
      for (let bin = 0; bin < 257; bin++) {
        total += weights[bin * 64 + band]!;
      }
      expect(total).toBeCloseTo(sum, 9);
    });
    want.frame0.forEach((value, i) => expect(values[i]).toBeCloseTo(value, 9));
    want.frame100.forEach((value, i) => expect(values[100 * 64 + i]).toBeCloseTo(value, 9));
    want.example1_row3.forEach((value, i) =>
      expect(values[(96 + 3) * 64 + i]).toBeCloseTo(value, 9),
    );
    const examples = vggishExamples(sound);
    expect(examples.shape).toEqual([...want.examples_shape, 1]);
    expect(() => vggishExamples(sound.subarray(0, 15_000))).toThrow(/0\.975 s/);
    expect(() => logMel(sound.map(() => Number.NaN))).toThrow(/finite/);
  });

  it("I3D has exactly the tensors of the published checkpoint", async () => {
    const device = await openDevice({ type: "reference" });
    const { tensors } = golden<{ tensors: { name: string; shape: number[] }[] }>(
      "i3d_tf_checkpoint_index",
    );
    const zeros = weightsOf(
      tensors.map(({ name, shape }) => tensor(name, shape, new Float32Array(sizeOf(shape)))),
    );
    const used = new Set<string>();
    const watched = {
      ...zeros,
      tensors: new Map(
        [...zeros.tensors].map(([name, stored]) => [
          name,
          {
            ...stored,
            read: () => {
              used.add(name);
              return stored.read();
            },
          },
        ]),
      ),
    };
    const i3d = openI3d(watched);
    expect([...used].sort()).toEqual(tensors.map(({ name }) => name).sort());
    expect(i3d.scope.variables().size).toBe(116);
    device.dispose();
  });

  it("refuses clips of another size and too few frames", async () => {
    const device = await openDevice({ type: "reference" });
    const i3d = buildI3d(Scope.blank(0));
    expect(() => i3d.logits(tf.zeros([1, 5, 224, 224, 3]))).toThrow(/at least 9 frames/);
    expect(() => i3d.logits(tf.zeros([1, 16, 64, 64, 3]))).toThrow(/224 x 224/);
    const c3d = buildC3d(Scope.blank(0), { thinner: 32 });
    expect(() => c3d.logits(tf.zeros([1, 15, 112, 112, 3]))).toThrow(/16 x 112 x 112/);
    device.dispose();
  });
});
