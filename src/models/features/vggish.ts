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

export interface Vggish {
  readonly scope: Scope;
  /**
   * Examples [N, 96, 64, 1] to embeddings [N, 128].
   * @param relu the last ReLU; the Fréchet audio distance leaves it out
   */
  features(examples: tf.Tensor4D, relu?: boolean): tf.Tensor2D;
}

/** Convolutions: width, torchvggish's index, a max pool behind it. */
const convolutions = [
  [64, 0, true],
  [128, 3, true],
  [256, 6, false],
  [256, 8, true],
  [512, 11, false],
  [512, 13, true],
] as const;

/** Build the network's variables in `scope`, all zeros; `loadVggish` fills them. */
export function buildVggish(scope: Scope): Vggish {
  let inputs = 1;
  const layers: Layer2D[] = [];
  for (const [i, [outputs, , pool]] of convolutions.entries()) {
    const options = { inputs, outputs, kernel: [3, 3], pad: [1, 1] } as const;
    layers.push(frozenConv2d(scope.child(`conv${i}`), options));
    if (pool) {
      layers.push((x) => tf.maxPool(x, 2, 2, "valid"));
    }
    inputs = outputs;
  }
  const dense = [
    frozenDense(scope.child("fc0"), { inputs: 6 * 4 * 512, outputs: 4096, relu: true }),
    frozenDense(scope.child("fc1"), { inputs: 4096, outputs: 4096, relu: true }),
    frozenDense(scope.child("fc2"), { inputs: 4096, outputs: vggishFeatures }),
  ];
  return {
    scope,
    features(examples, relu = false) {
      const maps = layers.reduce((x, layer) => layer(x), examples); // [N, 6, 4, 512]
      const flat: tf.Tensor = tf.reshape(maps, [examples.shape[0], 6 * 4 * 512]);
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
        ? `features.${convolutions[Number(index)]![1]}`
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

/** Build and fill. The device that the variables shall belong to must be active. */
export function openVggish(weights: Weights): Vggish {
  const vggish = buildVggish(Scope.blank(0));
  loadVggish(vggish, weights);
  return vggish;
}
