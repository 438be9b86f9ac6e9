/**
 * @file What right weights of a published network must give, without any data set: the Fréchet video
 * distance of all-black against all-white clips is the squared distance of two logit vectors and is
 * published for many lengths (JunyaoHu/common_metrics_on_video_quality), LPIPS of black against white
 * likewise, and the heads' sums are known.
 */

import * as tf from "@tensorflow/tfjs-core";
import { loadC3d, buildC3d, c3dClip } from "../../models/features/c3d.ts";
import { buildClip, loadClip } from "../../models/features/clip.ts";
import { buildI3d, loadI3d } from "../../models/features/i3d.ts";
import { buildInceptionV3, loadInceptionV3 } from "../../models/features/inception-v3.ts";
import { buildLpips, type LpipsTrunk, loadLpips } from "../../models/features/lpips.ts";
import { buildVggish, loadVggish, vggishExamples } from "../../models/features/vggish.ts";
import { buildVideoMae, loadVideoMae } from "../../models/features/videomae.ts";
import { Scope } from "../../models/scope.ts";
import type { Device } from "../../runtime/device.ts";
import { float32, type HostTensor, sizeOf } from "../../runtime/tensors.ts";
import type { Weights } from "../../runtime/weight-files/weights.ts";
import { type FoundWeights, openFound, type PublishedName } from "./published.ts";

export interface AcceptanceTest {
  readonly test: string;
  readonly found: number;
  readonly expected: string;
  readonly holds: boolean;
}

export interface Acceptance {
  /** The naming convention that the file follows. */
  readonly layout: string;
  readonly format: string;
  readonly tests: readonly AcceptanceTest[];
}

/** Published distances of zeros against ones by the number of frames. */
const fvdZerosOnes: { readonly [frames: number]: number } = {
  10: 569.2296293622766,
  11: 486.3584254441098,
  16: 152.91750309134142,
};

/** Sums of the heads of LPIPS v0.1, stage by stage. */
const headSums: { readonly [trunk in LpipsTrunk]: readonly number[] } = {
  vgg16: [6.925991701, 8.858334009, 17.515006047, 51.521323033, 47.034853758],
  alexnet: [2.349532314, 16.143027481, 39.268439245, 27.197178441, 20.3171771],
};

const lpipsZerosOnes: { readonly [trunk in LpipsTrunk]?: number } = { alexnet: 0.81400907 };

function near(test: string, found: number, expected: number, tolerance: number): AcceptanceTest {
  return {
    test,
    found,
    expected: `${expected} within ${100 * tolerance} %`,
    holds: Math.abs(found / expected - 1) <= tolerance,
  };
}

/** A network without a published number: its features of two inputs must be finite and differ. */
async function alive(
  device: Device,
  title: string,
  features: (x: tf.Tensor) => tf.Tensor,
  inputs: readonly [HostTensor, HostTensor],
): Promise<AcceptanceTest> {
  const run = device.compile(`accept ${title}`, ({ x }) => ({ y: features(x!) }));
  const [a, b] = [await run({ x: inputs[0] }), await run({ x: inputs[1] })];
  let squares = 0;
  for (let i = 0; i < a["y"]!.data.length; i++) {
    squares += (a["y"]!.data[i]! - b["y"]!.data[i]!) ** 2;
  }
  return {
    test: `${title}: distance of two inputs' features`,
    found: Math.sqrt(squares),
    expected: "finite and above 0 (no number is published)",
    holds: Number.isFinite(squares) && squares > 0,
  };
}

const flat = (shape: readonly number[], value: number): HostTensor =>
  float32(shape, new Float32Array(sizeOf(shape)).fill(value));

/** Read a network's weights and hold it against what is published. The device must be active. */
export async function acceptance(
  name: PublishedName,
  found: FoundWeights,
  device: Device,
  say: (text: string) => void,
): Promise<Acceptance> {
  const weights = openFound(found);
  const scope = Scope.blank(0);
  try {
    say(`reading ${found.paths.join(" and ")}`);
    const { layout, tests } = await judge(name, weights, scope, device);
    return { layout, format: weights.format, tests };
  } finally {
    weights.close();
    scope.dispose();
  }
}

type Judged = Omit<Acceptance, "format">;

async function judge(
  name: PublishedName,
  weights: Weights,
  scope: Scope,
  device: Device,
): Promise<Judged> {
  switch (name) {
    case "i3d":
      return judgeI3d(weights, scope, device);
    case "lpips-vgg16":
      return judgeLpips("vgg16", weights, scope, device);
    case "lpips-alexnet":
      return judgeLpips("alexnet", weights, scope, device);
    case "inception-fid": {
      const inception = buildInceptionV3(scope);
      const layout = loadInceptionV3(inception, weights);
      const shape = [1, 299, 299, 3];
      const features = (x: tf.Tensor) => inception.features(x as tf.Tensor4D);
      const pair = [flat(shape, -1), flat(shape, 1)] as const;
      return { layout, tests: [await alive(device, "InceptionV3", features, pair)] };
    }
    case "c3d-ucf101": {
      const c3d = buildC3d(scope);
      const layout = loadC3d(c3d, weights);
      const shape = [1, c3dClip.frames, c3dClip.height, c3dClip.width, 3];
      const features = (x: tf.Tensor) => c3d.logits(x as tf.Tensor5D);
      const pair = [flat(shape, 0), flat(shape, 1)] as const;
      return { layout, tests: [await alive(device, "C3D", features, pair)] };
    }
    case "vggish": {
      const vggish = buildVggish(scope);
      const layout = loadVggish(vggish, weights);
      const tone = (hertz: number): HostTensor =>
        vggishExamples(
          Float32Array.from({ length: 16_000 }, (_, t) =>
            Math.sin((2 * Math.PI * hertz * t) / 16_000),
          ),
        );
      const features = (x: tf.Tensor) => vggish.features(x as tf.Tensor4D);
      const pair = [tone(440), tone(1760)] as const;
      return { layout, tests: [await alive(device, "VGGish", features, pair)] };
    }
    case "clip-b32": {
      const clip = buildClip(scope);
      const layout = loadClip(clip, weights);
      const shape = [1, 224, 224, 3];
      const features = (x: tf.Tensor) => clip.image(x as tf.Tensor4D);
      const pair = [flat(shape, 0), flat(shape, 1)] as const;
      return { layout, tests: [await alive(device, "CLIP", features, pair)] };
    }
    case "videomae-g": {
      const mae = buildVideoMae(scope);
      const layout = loadVideoMae(mae, weights);
      const shape = [1, 16, 224, 224, 3];
      const features = (x: tf.Tensor) => mae.features(x as tf.Tensor5D);
      const pair = [flat(shape, 0), flat(shape, 1)] as const;
      return { layout, tests: [await alive(device, "VideoMAE", features, pair)] };
    }
  }
}

async function judgeI3d(weights: Weights, scope: Scope, device: Device): Promise<Judged> {
  const i3d = buildI3d(scope);
  const layout = loadI3d(i3d, weights);
  const tests: AcceptanceTest[] = [];
  for (const [frames, expected] of Object.entries(fvdZerosOnes)) {
    const run = device.compile(`accept I3D ${frames}`, ({ x }) => {
      const empty = tf.zeros([1, Number(frames), 224, 224, 3]);
      return { y: i3d.logits(tf.add(empty, x!) as tf.Tensor5D) };
    });
    const [zero, one] = [await run({ x: flat([], -1) }), await run({ x: flat([], 1) })];
    let distance = 0;
    for (let k = 0; k < zero["y"]!.data.length; k++) {
      distance += (zero["y"]!.data[k]! - one["y"]!.data[k]!) ** 2;
    }
    tests.push(near(`FVD of zeros against ones, ${frames} frames`, distance, expected, 0.005));
  }
  return { layout, tests };
}

async function judgeLpips(
  trunk: LpipsTrunk,
  weights: Weights,
  scope: Scope,
  device: Device,
): Promise<Judged> {
  const lpips = buildLpips(scope, trunk);
  const layout = loadLpips(lpips, weights);
  const run = device.compile(`accept LPIPS ${trunk}`, ({ a, b }) => ({
    y: lpips.distance(a as tf.Tensor4D, b as tf.Tensor4D),
    ...Object.fromEntries(
      headSums[trunk].map((_, k) => [`head${k}`, tf.sum(scope.variables().get(`lin${k}/weight`)!)]),
    ),
  }));
  const shape = [1, 64, 64, 3];
  const out = await run({ a: flat(shape, -1), b: flat(shape, 1) });
  const tests = headSums[trunk].map((sum, k) =>
    near(`sum of head ${k}`, out[`head${k}`]!.data[0]!, sum, 1e-5),
  );
  const distance = out["y"]!.data[0]!;
  const expected = lpipsZerosOnes[trunk];
  tests.push(
    expected === undefined
      ? {
          test: "LPIPS of zeros against ones, 64 x 64",
          found: distance,
          expected: "finite and above 0 (no number is published)",
          holds: Number.isFinite(distance) && distance > 0,
        }
      : near("LPIPS of zeros against ones, 64 x 64", distance, expected, 0.001),
  );
  return { layout, tests };
}
