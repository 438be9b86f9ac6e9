/**
 * @file VGGish (Hershey et al. 2017) for the Fréchet audio distance (Kilgour et al. 2019): a log-mel
 * front end over 16 kHz sound and a VGG net that turns each 0.96 s of it into 128 numbers.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../../config/errors.ts";
import { fftInPlace } from "../../data/fft.ts";
import { float32, type HostTensor } from "../../runtime/tensors.ts";
import type { Weights } from "../../runtime/weight-files/weights.ts";
import { Scope } from "../scope.ts";
import { frozenConv2d, frozenDense, type Layer2D } from "./parts.ts";
import { assignWeights, ownLayout, take, torchKernel, type WeightLayout } from "./recipes.ts";

/** Every choice of the front end; seconds become samples at this rate. */
export const vggishFrontEnd = {
  sampleRate: 16_000,
  window: 400,
  hop: 160,
  fft: 512,
  melBands: 64,
  lowestHz: 125,
  highestHz: 7500,
  offset: 0.01,
  /** Frames of one example, and the step from one to the next. */
  frames: 96,
} as const;

/** Length of an embedding. */
export const vggishFeatures = 128;

/** HTK's mel scale. */
const mel = (hertz: number): number => 1127 * Math.log(1 + hertz / 700);

/** Triangles linear in mel, [fft / 2 + 1, bands]; the constant bin has no say. */
export function melWeights(): Float64Array {
  const { fft, melBands, sampleRate, lowestHz, highestHz } = vggishFrontEnd;
  const bins = fft / 2 + 1;
  const low = mel(lowestHz);
  const edge = (i: number): number => low + ((mel(highestHz) - low) * i) / (melBands + 1);
  const weights = new Float64Array(bins * melBands);
  for (let bin = 1; bin < bins; bin++) {
    const at = mel((bin * sampleRate) / 2 / (bins - 1));
    for (let band = 0; band < melBands; band++) {
      const [from, top, to] = [edge(band), edge(band + 1), edge(band + 2)];
      const rise = (at - from) / (top - from);
      const fall = (to - at) / (to - top);
      weights[bin * melBands + band] = Math.max(0, Math.min(rise, fall));
    }
  }
  return weights;
}

/**
 * Log-mel frames of mono sound at 16 kHz in [-1, 1]: `frames` rows of 64 values.
 * @throws UserError when the sound is shorter than one window or not finite
 */
export function logMel(samples: Float32Array | Float64Array): {
  readonly frames: number;
  readonly values: Float64Array;
} {
  const { window, hop, fft, melBands, offset } = vggishFrontEnd;
  const frames = Math.max(0, 1 + Math.floor((samples.length - window) / hop));
  if (frames === 0) {
    throw new UserError(
      `VGGish needs at least ${window} samples of sound at 16 kHz, got ${samples.length}`,
    );
  }
  if (!samples.every((sample) => Number.isFinite(sample))) {
    throw new UserError("the sound holds samples that are not finite");
  }
  const weights = melWeights();
  const hann = Float64Array.from(
    { length: window },
    (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / window), // periodic
  );
  const values = new Float64Array(frames * melBands);
  const [re, im] = [new Float64Array(fft), new Float64Array(fft)];
  for (let frame = 0; frame < frames; frame++) {
    re.fill(0);
    im.fill(0);
    for (let i = 0; i < window; i++) {
      re[i] = samples[frame * hop + i]! * hann[i]!;
    }
    fftInPlace(re, im, -1);
    for (let bin = 0; bin <= fft / 2; bin++) {
      const size = Math.hypot(re[bin]!, im[bin]!);
      for (let band = 0; band < melBands; band++) {
        values[frame * melBands + band]! += size * weights[bin * melBands + band]!;
      }
    }
  }
  return { frames, values: values.map((value) => Math.log(value + offset)) };
}

/**
 * The network's input, [examples, 96, 64, 1]: 0.96 s each, without overlap; the rest is left out.
 * @throws UserError when the sound is shorter than one example
 */
export function vggishExamples(samples: Float32Array | Float64Array): HostTensor {
  const { frames: length, melBands } = vggishFrontEnd;
  const { frames, values } = logMel(samples);
  const examples = Math.floor(frames / length);
  if (examples === 0) {
    throw new UserError(
      `VGGish needs at least 0.975 s of sound, got ${(samples.length / vggishFrontEnd.sampleRate).toFixed(3)} s`,
    );
  }
  return float32(
    [examples, length, melBands, 1],
    Float32Array.from(values.subarray(0, examples * length * melBands)),
  );
}

/** Widths of the six convolutions and of the first two dense layers. */
export interface VggishOptions {
  readonly convolutions: readonly [number, number, number, number, number, number];
  readonly dense: readonly [number, number];
}

/** The published network's. */
export const vggishSizes: VggishOptions = {
  convolutions: [64, 128, 256, 256, 512, 512],
  dense: [4096, 4096],
};

export interface Vggish {
  readonly scope: Scope;
  readonly options: VggishOptions;
  /**
   * Examples [N, 96, 64, 1] to embeddings [N, 128].
   * @param relu the last ReLU; the Fréchet audio distance leaves it out
   */
  features(examples: tf.Tensor4D, relu?: boolean): tf.Tensor2D;
}

/** Convolutions: torchvggish's index, a max pool behind it. */
const convolutions = [
  [0, true],
  [3, true],
  [6, false],
  [8, true],
  [11, false],
  [13, true],
] as const;

/** Build the network's variables in `scope`, all zeros; `loadVggish` fills them. */
export function buildVggish(scope: Scope, options: VggishOptions = vggishSizes): Vggish {
  let inputs = 1;
  const layers: Layer2D[] = [];
  for (const [i, [, pool]] of convolutions.entries()) {
    const outputs = options.convolutions[i]!;
    const sizes = { inputs, outputs, kernel: [3, 3], pad: [1, 1] } as const;
    layers.push(frozenConv2d(scope.child(`conv${i}`), sizes));
    if (pool) {
      layers.push((x) => tf.maxPool(x, 2, 2, "valid"));
    }
    inputs = outputs;
  }
  const [first, second] = options.dense;
  const flatSize = 6 * 4 * inputs;
  const dense = [
    frozenDense(scope.child("fc0"), { inputs: flatSize, outputs: first, relu: true }),
    frozenDense(scope.child("fc1"), { inputs: first, outputs: second, relu: true }),
    frozenDense(scope.child("fc2"), { inputs: second, outputs: vggishFeatures }),
  ];
  return {
    scope,
    options,
    features(examples, relu = false) {
      const maps = layers.reduce((x, layer) => layer(x), examples); // [N, 6, 4, C]
      const flat: tf.Tensor = tf.reshape(maps, [examples.shape[0], flatSize]);
      const y = dense.reduce((x, layer) => layer(x), flat) as tf.Tensor2D;
      return relu ? tf.relu(y) : y;
    },
  };
}

/** torchvggish's names. */
const torchLayout: WeightLayout = {
  name: "torchvggish",
  recipe(variable) {
    const [, kind, index, part] = /^(conv|fc)(\d)\/(kernel|bias)$/.exec(variable) ?? [];
    const name =
      kind === "conv"
        ? `features.${convolutions[Number(index)]![0]}`
        : `embeddings.${2 * Number(index)}`;
    if (part === "bias") {
      return take(`${name}.bias`);
    }
    return take(`${name}.weight`, kind === "conv" ? torchKernel[2] : [1, 0]);
  },
};

/** The original checkpoint's names. */
const tensorflowLayout: WeightLayout = {
  name: "TensorFlow",
  recipe(variable) {
    const names: { [name: string]: string } = {
      conv0: "conv1",
      conv1: "conv2",
      conv2: "conv3/conv3_1",
      conv3: "conv3/conv3_2",
      conv4: "conv4/conv4_1",
      conv5: "conv4/conv4_2",
      fc0: "fc1/fc1_1",
      fc1: "fc1/fc1_2",
      fc2: "fc2",
    };
    const [layer, part] = variable.split("/");
    const path = `vggish/${names[layer!]}`;
    return take(part === "kernel" ? `${path}/weights` : `${path}/biases`);
  },
};

/** Fill the variables from torchvggish's file, the original checkpoint or a converted file. */
export function loadVggish(vggish: Vggish, weights: Weights): string {
  const layouts = [ownLayout, torchLayout, tensorflowLayout];
  return assignWeights(vggish.scope, weights, layouts, "VGGish");
}

/** The widths of the network whose weights these are, by its biases; the published ones when unknown. */
export function vggishOptionsOf({ tensors }: Weights): VggishOptions {
  const width = (variable: string): number | undefined => {
    const names = [torchLayout, tensorflowLayout].flatMap(
      (layout) => layout.recipe(variable)!.needs,
    );
    return [variable, ...names].map((name) => tensors.get(name)?.shape.at(-1)).find((found) => found !== undefined); // biome-ignore format: one call
  };
  const conv = convolutions.map((_, i) => width(`conv${i}/bias`));
  const dense = [width("fc0/bias"), width("fc1/bias")];
  return [...conv, ...dense].includes(undefined)
    ? vggishSizes
    : {
        convolutions: conv as unknown as VggishOptions["convolutions"],
        dense: dense as unknown as VggishOptions["dense"],
      };
}

/** Build and fill. The device that the variables shall belong to must be active. */
export function openVggish(weights: Weights): Vggish {
  const vggish = buildVggish(Scope.blank(0), vggishOptionsOf(weights));
  loadVggish(vggish, weights);
  return vggish;
}
