/**
 * @file An audio tokenizer: SoundStream (Zeghidour et al. 2021, §III), a causal convolutional encoder
 * and decoder over waveforms with residual vector quantization between them. Levels of down-sampling
 * by `strides`; before each, residual units with dilations 1, 3 and 9; channels double a level. With
 * the default 2·4·5·8 = 320, sound of 16 kHz becomes 50 frames a second (VideoPoet's rate), each of as
 * many sub-ids as the quantizer has levels.
 *
 * A waveform is a clip of N frames, 1×1 pixels and one channel: [B, N, 1, 1, 1] in [-1, 1]. Its end is
 * filled up with zeros to whole frames.
 *
 * The loss is the mean absolute error of the waveform and of its spectrograms at several window
 * lengths, with the squared error of their logarithms (§III-E, on linear instead of mel bins).
 */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, Type } from "../config/schema.ts";
import { conv, type Layer, sequence } from "../models/layers.ts";
import type { Scope } from "../models/scope.ts";
import { spectrogram } from "../models/spectrum.ts";
import { depthToSpace3d } from "../runtime/ops.ts";
import { assembleTokenizer, checkQuantizer } from "./autoencoder.ts";
import type { Problem } from "./cnn.ts";
import { initSchema } from "./inflation.ts";
import { quantizerSchema } from "./quantizers/registry.ts";
import { checkSoundAdversarial, soundAdversarialSchema } from "./sound-adversarial.ts";
import type { ClipShape, Tokenizer } from "./tokenizer.ts";

export const schema = closed(
  {
    type: Type.Literal("soundstream"),
    base_channels: Type.Integer({
      minimum: 1,
      default: 32,
      description: "Channels before the first down-sampling; they double at each.",
    }),
    strides: Type.Array(Type.Integer({ minimum: 1, maximum: 16 }), {
      minItems: 1,
      default: [2, 4, 5, 8],
      description:
        "Down-sampling of each level; their product is the number of samples of a token frame.",
    }),
    dilations: Type.Array(Type.Integer({ minimum: 1 }), {
      default: [1, 3, 9],
      description: "Dilations of the residual units of each level.",
    }),
    quantizer: quantizerSchema,
    l1_weight: Type.Number({
      minimum: 0,
      default: 1,
      description: "Weight of the mean absolute error of the waveform.",
    }),
    spectral_weight: Type.Number({
      minimum: 0,
      default: 1,
      description: "Weight of the errors of the spectrograms.",
    }),
    spectral_windows: Type.Array(Type.Integer({ minimum: 8, maximum: 4096 }), {
      default: [64, 128, 256, 512],
      description:
        "Window lengths of the spectrograms in samples, a quarter of which is the step. Windows that are longer than the sound are left out.",
    }),
    adversarial: Type.Optional(soundAdversarialSchema),
    init: Type.Optional(initSchema),
  },
  { description: "Sound: a causal convolutional codec with residual codebooks (SoundStream)." },
);

export type SoundstreamConfig = Static<typeof schema>;

const product = (values: readonly number[]): number => values.reduce((a, b) => a * b, 1);
const elu: Layer = (x) => tf.elu(x);

/** Mistakes that show only against other keys or the clips' shape. */
export function check(config: SoundstreamConfig, { samples = 0 }: ClipShape): Problem[] {
  const problems: Problem[] = [];
  if (samples === 0) {
    problems.push({
      path: "type",
      message: "this tokenizer reads sound, and the data set has none",
      hint: "set dataset.audio_rate, or use a tokenizer of clips",
    });
  }
  const fault =
    samples > 0 && config.adversarial && checkSoundAdversarial(config.adversarial, samples);
  return [...problems, ...(fault ? [fault] : []), ...checkQuantizer(config.quantizer, undefined)];
}

/** `x` [B, N, 1, 1, C] with zeros behind until its length is a multiple of `n`. */
function fillUp(x: tf.Tensor5D, n: number): tf.Tensor5D {
  const [b, length, h, w, c] = x.shape;
  const more = Math.ceil(length / n) * n - length;
  return more === 0 ? x : (tf.concat([x, tf.zeros([b, more, h, w, c])], 1) as tf.Tensor5D);
}

/** A causal convolution over samples that are `dilation` apart: those become a row each. */
function dilated(scope: Scope, channels: number, dilation: number): Layer {
  const layer = conv(scope, {
    inputs: channels,
    outputs: channels,
    kernel: [7, 1, 1],
    padding: "causal",
  });
  return (x) => {
    const [b, length, , , c] = x.shape;
    const whole = fillUp(x, dilation);
    const rows = tf.reshape<tf.Rank.R5>(whole, [b, whole.shape[1] / dilation, dilation, 1, c]);
    const y = tf.reshape<tf.Rank.R5>(layer(rows), [b, whole.shape[1], 1, 1, c]);
    return tf.slice(y, [0, 0, 0, 0, 0], [b, length, 1, 1, c]);
  };
}

/** x + conv1×1(elu(dilated conv(elu(x)))). */
function residualUnit(scope: Scope, channels: number, dilation: number): Layer {
  const branch = sequence([
    elu,
    dilated(scope.child("dilated"), channels, dilation),
    elu,
    conv(scope.child("mix"), { inputs: channels, outputs: channels, kernel: [1, 1, 1] }),
  ]);
  return (x) => tf.add(x, branch(x));
}

/** Every `stride` samples to one, from windows of twice as many that end with them. */
function down(scope: Scope, inputs: number, outputs: number, stride: number): Layer {
  const layer = conv(scope, {
    inputs,
    outputs,
    kernel: [2 * stride, 1, 1],
    strides: [stride, 1, 1],
    padding: "valid",
  });
  return (x) => {
    const [b, , , , c] = x.shape;
    return layer(tf.concat([tf.zeros([b, stride, 1, 1, c]), x], 1) as tf.Tensor5D);
  };
}

/** One frame to `stride` samples. */
function up(scope: Scope, inputs: number, outputs: number, stride: number): Layer {
  const layer = conv(scope, {
    inputs,
    outputs: outputs * stride,
    kernel: [3, 1, 1],
    padding: "causal",
  });
  return (x) => depthToSpace3d(layer(x), [stride, 1, 1]);
}

function encoder(scope: Scope, config: SoundstreamConfig, width: number): Layer {
  let channels = config.base_channels;
  const first = { inputs: 1, outputs: channels, kernel: [7, 1, 1], padding: "causal" } as const;
  const layers: Layer[] = [conv(scope.child("stem"), first)];
  config.strides.forEach((stride, level) => {
    const at = scope.child(`level${level}`);
    config.dilations.forEach((dilation, i) =>
      layers.push(residualUnit(at.child(`unit${i}`), channels, dilation)),
    );
    layers.push(elu, down(at.child("down"), channels, 2 * channels, stride));
    channels *= 2;
  });
  const last = { inputs: channels, outputs: width, kernel: [3, 1, 1], padding: "causal" } as const;
  layers.push(elu, conv(scope.child("project"), last));
  const network = sequence(layers);
  return (x) => network(fillUp(x, product(config.strides)));
}

function decoder(scope: Scope, config: SoundstreamConfig, width: number, samples: number): Layer {
  let channels = config.base_channels * 2 ** config.strides.length;
  const first = { inputs: width, outputs: channels, kernel: [7, 1, 1], padding: "causal" } as const;
  const layers: Layer[] = [conv(scope.child("stem"), first)];
  for (let level = config.strides.length - 1; level >= 0; level--) {
    const at = scope.child(`level${level}`);
    layers.push(elu, up(at.child("up"), channels, channels / 2, config.strides[level]!));
    channels /= 2;
    config.dilations.forEach((dilation, i) =>
      layers.push(residualUnit(at.child(`unit${i}`), channels, dilation)),
    );
  }
  const last = { inputs: channels, outputs: 1, kernel: [7, 1, 1], padding: "causal" } as const;
  layers.push(elu, conv(scope.child("head"), last));
  const network = sequence(layers);
  return (z) => tf.slice(network(z), [0, 0, 0, 0, 0], [z.shape[0], samples, 1, 1, 1]);
}

/** Builds the tokenizer for sound of `clip.samples` samples. */
export function build(config: SoundstreamConfig, clip: ClipShape, scope: Scope): Tokenizer {
  const samples = clip.samples ?? 0;
  const windows = config.spectral_windows.filter((n) => n <= samples);
  return assembleTokenizer(config, clip, scope, {
    causal: true,
    modality: "audio",
    latents: [Math.ceil(samples / product(config.strides)), 1, 1],
    encoder: (at, width) => encoder(at, config, width),
    decoder: (at, width) => decoder(at, config, width, samples),
    loss(made, real) {
      const error = tf.mean<tf.Scalar>(tf.abs(tf.sub(made, real)));
      const power = tf.add(tf.mean(tf.square(real)), 1e-10);
      const noise = tf.add(tf.mean(tf.squaredDifference(made, real)), 1e-10);
      const snr = tf.mul<tf.Scalar>(tf.log(tf.div(power, noise)), 10 / Math.LN10);
      let loss = tf.mul<tf.Scalar>(error, config.l1_weight);
      const metrics: { [name: string]: tf.Scalar } = { reconstruction: error, snr };
      if (config.spectral_weight > 0 && windows.length > 0) {
        const each = windows.map((n) => {
          const [a, b] = [spectrogram(made, n), spectrogram(real, n)];
          const logs = tf.mean(tf.squaredDifference(tf.log(a), tf.log(b)));
          return tf.add<tf.Scalar>(tf.mean(tf.abs(tf.sub(a, b))), tf.mul(logs, 0.1));
        });
        const sum = each.reduce((a, b) => tf.add(a, b));
        metrics["spectral"] = tf.div(sum, windows.length);
        loss = tf.add(loss, tf.mul(metrics["spectral"], config.spectral_weight));
      }
      return { loss, metrics };
    },
  });
}
