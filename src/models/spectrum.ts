/** @file Short-time Fourier transforms of waveforms as a convolution, with a gradient. */

import * as tf from "@tensorflow/tfjs-core";
import { conv3d } from "../runtime/ops.ts";

/** Cosines and sines of a Hann-windowed Fourier transform as a kernel [n, 1, 1, 1, 2·(n/2 + 1)]. */
function fourierKernel(n: number): tf.Tensor5D {
  const bins = Math.floor(n / 2) + 1;
  const values = new Float32Array(n * 2 * bins);
  for (let i = 0; i < n; i++) {
    const hann = 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / n);
    for (let k = 0; k < bins; k++) {
      const angle = (2 * Math.PI * ((i * k) % n)) / n;
      values[i * 2 * bins + k] = (hann * Math.cos(angle)) / Math.sqrt(n);
      values[i * 2 * bins + bins + k] = (hann * Math.sin(angle)) / Math.sqrt(n);
    }
  }
  return tf.tensor5d(values, [n, 1, 1, 1, 2 * bins]);
}

/**
 * Windows of n samples, a quarter of n apart, as spectra: [B, N, 1, 1, 1] to [B, frames, 1, 1, 2·bins],
 * the bins' cosine parts and then their sine parts.
 */
export function fourier(x: tf.Tensor5D, n: number): tf.Tensor5D {
  return conv3d(x, fourierKernel(n), { strides: [Math.max(1, Math.floor(n / 4)), 1, 1] });
}

/** Magnitudes of a waveform's spectrogram: [B, N, 1, 1, 1] to [B, frames, 1, 1, n/2 + 1]. */
export function spectrogram(x: tf.Tensor5D, n: number): tf.Tensor5D {
  const [real, imaginary] = tf.split<tf.Tensor5D>(fourier(x, n), 2, 4);
  return tf.sqrt(tf.add(tf.add(tf.square(real!), tf.square(imaginary!)), 1e-5));
}
