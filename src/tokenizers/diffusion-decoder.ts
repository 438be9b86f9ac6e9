/**
 * @file A diffusion decoder in place of an adversarial loss: what the decoder says is the mean of what the
 * codes allow, and blurred; a small network draws one clip of those that are left (after Yang & Mandt 2023,
 * "Lossy image compression with conditional diffusion models", whose decoder is a diffusion given codes,
 * and OpenAI's consistency decoder for Stable Diffusion, 2023, trained on a frozen autoencoder).
 *
 * It denoises pixels given the codes as the decoder spells them out: their clip, through which no gradient
 * flows, so codes and decoder are those of a run without it. It predicts v under a cosine schedule that ends
 * in pure noise (models/noise-schedule.ts) and decodes in a few steps of DDIM from noise that is always the
 * same, so that equal codes give equal clips. Of causal tokenizers it is causal.
 */

import * as tf from "@tensorflow/tfjs-core";
import { type Static, Type } from "../config/schema.ts";
import { TIME_FEATURES, timeFeatures } from "../models/diffusion-transformer.ts";
import { conv, dense, residualBlock } from "../models/layers.ts";
import { ddimStep, noiseSchedule, samplerSteps, signalOf } from "../models/noise-schedule.ts";
import { type Scope, zeros } from "../models/scope.ts";
import { depthToSpace3d, silu, spaceToDepth3d, stopGradient } from "../runtime/ops.ts";
import { Random } from "../runtime/random.ts";
import { float32, type HostTensors, sizeOf } from "../runtime/tensors.ts";

export const diffusionDecoderSchema = Type.Object(
  {
    channels: Type.Integer({ minimum: 1, default: 48, description: "Width of the network." }),
    blocks: Type.Integer({ minimum: 1, default: 2, description: "Residual blocks." }),
    patch_size: Type.Integer({
      minimum: 1,
      default: 2,
      description: "Side of the blocks of pixels that it works on; it divides the clip's sides.",
    }),
    weight: Type.Number({
      exclusiveMinimum: 0,
      default: 1,
      description: "Weight of the mean squared error of v; predicting 0 costs about 1.",
    }),
    steps: Type.Integer({ minimum: 1, default: 4, description: "Steps of DDIM when decoding." }),
  },
  {
    additionalProperties: false,
    description:
      "Decode by a diffusion of pixels given the decoder's clip, in place of an adversarial loss; none when left out.",
  },
);
export type DiffusionDecoderConfig = Static<typeof diffusionDecoderSchema>;

const NOISE_STEPS = 1000;
/** Residuals between clip and decoder are small; the diffusion sees them at about unit deviation. */
const GAIN = 4;

type Noise = { readonly [name: string]: tf.Tensor };

export interface DiffusionDecoder {
  /** Noise and times of a training micro-batch of clips [frames, height, width]. */
  inputs(clips: number, shape: readonly number[], seed: number, step: number): HostTensors;
  /** The error of v for clips given what the decoder made of them; both [B, T, H, W, 3]. */
  loss(real: tf.Tensor5D, made: tf.Tensor5D, noise: Noise): tf.Scalar;
  /** Clips drawn given what the decoder made. */
  decode(made: tf.Tensor5D): tf.Tensor5D;
}

/** Make the variables in `scope`. */
export function buildDiffusionDecoder(
  config: DiffusionDecoderConfig,
  causal: boolean,
  scope: Scope,
): DiffusionDecoder {
  const { channels, blocks, patch_size: side } = config;
  const block = [1, side, side] as const;
  const pixels = 3 * side * side;
  const first = conv(scope.child("first"), {
    inputs: 2 * pixels,
    outputs: channels,
    kernel: [1, 1, 1],
  });
  const timeUp = dense(scope.child("time1"), { inputs: TIME_FEATURES, outputs: channels });
  const layers = Array.from({ length: blocks }, (_, i) => ({
    time: dense(scope.child(`block${i}/time`), { inputs: channels, outputs: channels }),
    run: residualBlock(scope.child(`block${i}`), {
      inputs: channels,
      outputs: channels,
      causal,
      groups: 8,
    }),
  }));
  const last = conv(scope.child("last"), {
    inputs: channels,
    outputs: pixels,
    kernel: [1, 1, 1],
    init: zeros,
  });
  const schedule = noiseSchedule("cosine", NOISE_STEPS);

  /** v from noised residuals, the decoder's clip and the time [B, TIME_FEATURES]. */
  const predict = (z: tf.Tensor5D, made: tf.Tensor5D, time: tf.Tensor): tf.Tensor5D => {
    const seen = tf.concat([spaceToDepth3d(z, block), spaceToDepth3d(made, block)], 4);
    let y = first(seen);
    const moment = silu(timeUp(time)); // [B, D]
    for (const { time: shift, run } of layers) {
      y = run(tf.add(y, tf.reshape(shift(moment), [-1, 1, 1, 1, channels])));
    }
    return depthToSpace3d(last(y), block);
  };

  return {
    inputs(clips, shape, seed, step) {
      const random = new Random(seed, "diffusion-decoder/time", step);
      const start = random.uniform();
      const times = Array.from({ length: clips }, (_, b) =>
        Math.floor(((start + b / clips) % 1) * NOISE_STEPS),
      );
      const whole = [clips, ...shape, 3];
      const noise = new Random(seed, "diffusion-decoder/noise", step).normals(sizeOf(whole));
      const levels = (values: Float64Array) =>
        float32(
          [clips, 1, 1, 1, 1],
          times.map((t) => values[t]!),
        );
      return {
        decoder_noise: float32(whole, noise),
        decoder_alpha: levels(schedule.alpha),
        decoder_sigma: levels(schedule.sigma),
        decoder_time: float32([clips, TIME_FEATURES], timeFeatures(times)),
      };
    },
    loss(real, made, noise) {
      const { decoder_noise: e, decoder_alpha: alpha, decoder_sigma: sigma } = noise;
      const given = stopGradient(made);
      const x = tf.mul(tf.sub(real, given), GAIN);
      const z = tf.add(tf.mul(alpha!, x), tf.mul(sigma!, e!)) as tf.Tensor5D;
      const target = tf.sub(tf.mul(alpha!, e!), tf.mul(sigma!, x));
      return tf.mean(tf.square(tf.sub(predict(z, given, noise["decoder_time"]!), target)));
    },
    decode(made) {
      const [batch, t, h, w] = made.shape;
      const numbers = new Random(0, "diffusion-decoder/start").normals(t * h * w * 3);
      const one = tf.tensor(numbers, [1, t, h, w, 3]);
      let z = tf.tile(one, [batch, 1, 1, 1, 1]) as tf.Tensor5D;
      let x = z;
      const steps = samplerSteps(NOISE_STEPS, config.steps);
      for (const [i, step] of steps.entries()) {
        const next = steps[i + 1];
        const time = tf.tile(tf.tensor2d(timeFeatures([step]), [1, TIME_FEATURES]), [batch, 1]);
        const [alpha, sigma] = [tf.scalar(schedule.alpha[step]!), tf.scalar(schedule.sigma[step]!)];
        const v = predict(z, made, time);
        x = signalOf(z, v, alpha, sigma);
        z = ddimStep(z, v, x, {
          alpha,
          sigma,
          nextAlpha: tf.scalar(next === undefined ? 1 : schedule.alpha[next]!),
          nextSigma: tf.scalar(next === undefined ? 0 : schedule.sigma[next]!),
        });
      }
      return tf.add(made, tf.mul(x, 1 / GAIN)) as tf.Tensor5D;
    },
  };
}
