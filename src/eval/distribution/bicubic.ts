/**
 * @file Bicubic resampling with antialiasing, as Pillow's BICUBIC does it before rounding (Keys 1981
 * with a = -0.5, the kernel widened by the factor where a side shrinks): a matrix for each axis.
 */

import * as tf from "@tensorflow/tfjs-core";

function keys(x: number): number {
  const a = -0.5;
  const t = Math.abs(x);
  if (t < 1) {
    return ((a + 2) * t - (a + 3)) * t * t + 1;
  }
  return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
}

/** Weights [outputs, inputs], rows sum to 1. */
export function bicubicMatrix(inputs: number, outputs: number): Float32Array {
  const scale = inputs / outputs;
  const wide = Math.max(1, scale);
  const out = new Float32Array(outputs * inputs);
  for (let o = 0; o < outputs; o++) {
    const centre = (o + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - 2 * wide + 0.5));
    const end = Math.min(inputs, Math.floor(centre + 2 * wide + 0.5));
    const weights = Array.from({ length: end - first }, (_, i) =>
      keys((first + i - centre + 0.5) / wide),
    );
    const sum = weights.reduce((total, weight) => total + weight, 0);
    weights.forEach((weight, i) => {
      out[o * inputs + first + i] = weight / sum;
    });
  }
  return out;
}

/** Pictures [N, H, W, C] to the shorter side `side`, the centre cropped to a square; traceable. */
export function bicubicSquare(pictures: tf.Tensor4D, side: number): tf.Tensor4D {
  const [n, height, width, channels] = pictures.shape;
  const scale = side / Math.min(height, width);
  const [rows, columns] = [Math.round(height * scale), Math.round(width * scale)];
  const [top, left] = [Math.round((rows - side) / 2), Math.round((columns - side) / 2)];
  // The rows and columns that the crop keeps are all that is computed.
  const across = tf.tensor(
    bicubicMatrix(width, columns).slice(left * width, (left + side) * width),
    [side, width],
  ) as tf.Tensor2D;
  const down = tf.tensor(bicubicMatrix(height, rows).slice(top * height, (top + side) * height), [
    side,
    height,
  ]) as tf.Tensor2D;
  const lines = tf.reshape(tf.transpose(pictures, [0, 1, 3, 2]), [n * height * channels, width]);
  const wide = tf.matMul(lines, across, false, true); // [N·H·C, side]
  const turned = tf.transpose(tf.reshape(wide, [n, height, channels, side]), [0, 3, 2, 1]);
  const tall = tf.matMul(tf.reshape(turned, [n * side * channels, height]), down, false, true);
  return tf.transpose(tf.reshape(tall, [n, side, channels, side]), [0, 3, 1, 2]) as tf.Tensor4D;
}
