/**
 * @file The discriminator of MAGVIT and MAGVIT-v2 (Yu et al., CVPR 2023, appendix A.1; ICLR 2024, §3.2):
 * StyleGAN's residual discriminator (Karras et al., CVPR 2020) inflated to 3D. A 3×3×3 stem, levels
 * of two convolutions with leaky ReLU and a halving of all axes, skip connections scaled by 1/√2, and a
 * dense head. Halving is anti-aliased by a blur (Zhang 2019) or a plain mean.
 *
 * In 2D it looks at single frames: kernels and halvings leave time alone, and a clip's logit is the mean
 * of its frames'. Clips of any length fit: the head sees the mean over time.
 */

import * as tf from "@tensorflow/tfjs-core";
import type { Block } from "../runtime/ops.ts";
import { blurPool } from "./blur-pool.ts";
import { conv, dense, type Layer, sequence } from "./layers.ts";
import { fanIn, type Scope } from "./scope.ts";

export interface DiscriminatorOptions {
  /** 3: over clips; 2: over frames. */
  readonly dims: 2 | 3;
  readonly base_channels: number;
  /** Channels after each halving as a multiple of base_channels. */
  readonly channel_multipliers: readonly number[];
  /** Taps of the low-pass filter before a halving; 2 makes it a mean. */
  readonly blur_taps: number;
}

/** He's gain for leaky ReLU of slope 0.2. */
const init = fanIn(2 / (1 + 0.2 ** 2));
const leaky: Layer = (x) => tf.leakyRelu(x, 0.2);

/**
 * Builds the network's variables in `scope`.
 * @param side height and width of the clips
 * @returns logits [B] of clips [B, T, H, W, 3]
 */
export function discriminator(
  scope: Scope,
  options: DiscriminatorOptions,
  side: readonly [height: number, width: number],
): (clips: tf.Tensor5D) => tf.Tensor1D {
  const frames = options.dims === 3 ? 3 : 1;
  const kernel: Block = [frames, 3, 3];
  const block: Block = [options.dims === 3 ? 2 : 1, 2, 2];
  const halve = blurPool({ block, causal: false, taps: options.blur_taps, border: "replicate" });
  let inputs = options.base_channels;
  let [height, width] = side;
  const layers: Layer[] = [
    conv(scope.child("stem"), { inputs: 3, outputs: inputs, kernel, init }),
    leaky,
  ];
  options.channel_multipliers.forEach((multiplier, i) => {
    const outputs = multiplier * options.base_channels;
    const at = scope.child(`level${i}`);
    const branch = sequence([
      conv(at.child("conv1"), { inputs, outputs: inputs, kernel, init }),
      leaky,
      halve,
      conv(at.child("conv2"), { inputs, outputs, kernel, init }),
      leaky,
    ]);
    const one: Block = [1, 1, 1];
    const skip = conv(at.child("skip"), { inputs, outputs, kernel: one, bias: false });
    layers.push((x) => tf.mul(tf.add(branch(x), skip(halve(x))), Math.SQRT1_2));
    inputs = outputs;
    [height, width] = [Math.ceil(height / 2), Math.ceil(width / 2)];
  });
  layers.push(conv(scope.child("last"), { inputs, outputs: inputs, kernel, init }), leaky);
  const trunk = sequence(layers);
  const flat = height * width * inputs;
  const hidden = dense(scope.child("hidden"), { inputs: flat, outputs: inputs, init });
  const head = dense(scope.child("head"), { inputs, outputs: 1 });
  return (clips) => {
    const features = tf.mean(trunk(clips), 1); // [B, h, w, C]
    const rows = tf.reshape(features, [clips.shape[0], flat]);
    return tf.reshape(head(tf.leakyRelu(hidden(rows), 0.2)), [clips.shape[0]]);
  };
}
