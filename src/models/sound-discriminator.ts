/**
 * @file The discriminators of SoundStream (Zeghidour et al. 2021, §III-D), many critics of one waveform:
 *
 * - of the waveform at several scales (each half the rate of the one before): strided 1D convolutions with
 *   leaky ReLU, a logit every few samples. SoundStream groups its channels; ours are not grouped, but
 *   bounded by `max_channels`;
 * - of its complex spectrogram: 2D convolutions over frames and bins that halve the bins at each level, a
 *   logit a frame.
 *
 * Each gives its logits over time and the features of its layers, for feature matching.
 */

import * as tf from "@tensorflow/tfjs-core";
import type { Block } from "../runtime/ops.ts";
import { conv, type Layer } from "./layers.ts";
import { fanIn, type Scope } from "./scope.ts";
import { fourier } from "./spectrum.ts";

export interface SoundCriticOptions {
  readonly scales: number;
  readonly strides: readonly number[];
  readonly base_channels: number;
  readonly max_channels: number;
  /** Window of the spectrogram's critic in samples; 0 for none. */
  readonly stft_window: number;
  readonly stft_channels: number;
  readonly stft_levels: number;
}

/** What one critic says of sounds. */
export interface Opinion {
  /** [B, n]: logits over time. */
  readonly logits: tf.Tensor2D;
  /** Outputs of the layers before. */
  readonly features: readonly tf.Tensor5D[];
}

const init = fanIn(2 / (1 + 0.2 ** 2));
const leaky = (x: tf.Tensor5D): tf.Tensor5D => tf.leakyRelu(x, 0.2);

/** Every two samples to their mean: [B, N, 1, 1, 1] to [B, N/2, 1, 1, 1]. */
function halve(x: tf.Tensor5D): tf.Tensor5D {
  const [b, n] = x.shape;
  const half = Math.floor(n / 2);
  const pairs = tf.reshape(tf.slice(x, [0, 0, 0, 0, 0], [b, 2 * half, 1, 1, 1]), [b, half, 2]);
  return tf.reshape(tf.mean(pairs, 2), [b, half, 1, 1, 1]);
}

type CriticNetwork = (x: tf.Tensor5D) => Opinion;

/** Layers one after the other, all but the last followed by leaky ReLU. */
function stack(layers: readonly Layer[], last: Layer): CriticNetwork {
  return (x) => {
    const features: tf.Tensor5D[] = [];
    let y = x;
    for (const layer of layers) {
      y = leaky(layer(y));
      features.push(y);
    }
    const logits = last(y);
    return { logits: tf.reshape<tf.Rank.R2>(logits, [x.shape[0], -1]), features };
  };
}

function waveCritic(scope: Scope, options: SoundCriticOptions): CriticNetwork {
  let channels = options.base_channels;
  const of = (name: string, inputs: number, outputs: number, taps: number, stride = 1): Layer =>
    conv(scope.child(name), {
      inputs,
      outputs,
      kernel: [taps, 1, 1],
      strides: [stride, 1, 1],
      init,
    });
  const layers: Layer[] = [of("stem", 1, channels, 15)];
  options.strides.forEach((stride, i) => {
    const outputs = Math.min(options.max_channels, channels * stride);
    layers.push(of(`level${i}`, channels, outputs, 10 * stride + 1, stride));
    channels = outputs;
  });
  layers.push(of("last", channels, channels, 5));
  return stack(layers, of("head", channels, 1, 3));
}

function spectrumCritic(scope: Scope, options: SoundCriticOptions): CriticNetwork {
  const { stft_window: window, stft_channels: width } = options;
  let bins = Math.floor(window / 2) + 1;
  let channels = width;
  const of = (name: string, inputs: number, outputs: number, kernel: Block, stride: number) =>
    conv(scope.child(name), { inputs, outputs, kernel, strides: [1, stride, 1], init });
  const layers: Layer[] = [of("stem", 2, channels, [7, 7, 1], 1)];
  for (let level = 0; level < options.stft_levels && bins > 2; level++) {
    const outputs = Math.min(options.max_channels, channels * (level === 0 ? 1 : 2));
    layers.push(of(`level${level}`, channels, outputs, [3, 4, 1], 2));
    channels = outputs;
    bins = Math.ceil(bins / 2);
  }
  const head = conv(scope.child("head"), {
    inputs: channels,
    outputs: 1,
    kernel: [1, bins, 1],
    padding: "valid",
    init,
  });
  const network = stack(layers, head);
  return (x) => {
    const both = fourier(x, window); // [B, frames, 1, 1, 2·bins]
    const [b, frames, , , wide] = both.shape;
    const parts = tf.reshape(both, [b, frames, 2, wide / 2]);
    const picture = tf.reshape<tf.Rank.R5>(tf.transpose(parts, [0, 1, 3, 2]), [
      b,
      frames,
      wide / 2,
      1,
      2,
    ]);
    return network(picture);
  };
}

/**
 * Builds all critics in `scope`.
 * @returns their opinions of waveforms [B, N, 1, 1, 1]
 */
export function soundCritics(
  scope: Scope,
  options: SoundCriticOptions,
): (waves: tf.Tensor5D) => Opinion[] {
  const waves = Array.from({ length: options.scales }, (_, i) =>
    waveCritic(scope.child(`scale${i}`), options),
  );
  const spectrum =
    options.stft_window > 0 ? spectrumCritic(scope.child("spectrum"), options) : undefined;
  return (x) => {
    const opinions: Opinion[] = [];
    let at = x;
    for (const [i, critic] of waves.entries()) {
      at = i === 0 ? x : halve(at);
      opinions.push(critic(at));
    }
    if (spectrum) {
      opinions.push(spectrum(x));
    }
    return opinions;
  };
}
