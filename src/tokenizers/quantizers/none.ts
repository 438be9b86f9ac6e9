/**
 * @file No quantization: continuous latents, for latent diffusion and as the upper bound of any
 * vocabulary. With `kl_weight` this is the variational autoencoder (Kingma & Welling, "Auto-Encoding
 * Variational Bayes", 2014): the encoder gives mean and log-variance, training decodes
 * mean + ε · deviation with ε from the host, evaluation decodes the mean, and the divergence from the
 * standard normal, in nats an element, is the loss.
 *
 * Tokens carry no bits: there is one sub-id with a vocabulary of 1.
 */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, Type } from "../../config/schema.ts";
import { Random } from "../../runtime/random.ts";
import { float32 } from "../../runtime/tensors.ts";
import { gridOf, type Quantizer } from "./quantizer.ts";

export const schema = closed(
  {
    type: Type.Literal("none"),
    width: Type.Integer({ minimum: 1, default: 8, description: "Channels of a latent." }),
    kl_weight: Type.Number({
      minimum: 0,
      default: 0,
      description:
        "Weight of the divergence of the latents from the standard normal (nats an element); 0 makes a plain autoencoder without noise.",
    }),
  },
  { description: "Continuous latents (autoencoder, or VAE with kl_weight), for latent diffusion." },
);

export type NoneConfig = Static<typeof schema>;

/** Builds the quantizer that is none. It has no variables. */
export function build({ width, kl_weight: weight }: NoneConfig): Quantizer {
  const variational = weight > 0;
  const zeroIds = (z: tf.Tensor5D): tf.Tensor5D => tf.zeros([...gridOf(z), 1], "int32");
  const part = (z: tf.Tensor5D, at: 0 | 1): tf.Tensor5D =>
    tf.slice(z, [0, 0, 0, 0, at * width], [...gridOf(z), width]);

  return {
    type: "none",
    factors: [1],
    latentWidth: variational ? 2 * width : width,
    width,
    preNorm: false,
    remedy: "",

    ...(variational && {
      inputs: (grid: readonly number[], seed: number, step: number) => {
        const shape = [...grid, width];
        const n = shape.reduce((a, b) => a * b, 1);
        return { kl_noise: float32(shape, new Random(seed, "kl/noise", step).normals(n)) };
      },
    }),

    assign: (z) => ({ codes: variational ? part(z, 0) : z, ids: zeroIds(z) }),

    quantize(z, _step, _training, noise) {
      if (!variational) {
        return { codes: z, ids: zeroIds(z), loss: tf.scalar(0), metrics: {} };
      }
      const mean = part(z, 0);
      const logVariance = tf.clipByValue(part(z, 1), -30, 20);
      const variance = tf.exp(logVariance);
      const drawn = noise?.["kl_noise"];
      const codes = drawn ? tf.add(mean, tf.mul(tf.sqrt(variance), drawn)) : mean;
      const each = tf.sub(tf.add(tf.square(mean), variance), tf.add(logVariance, 1));
      const kl = tf.mul<tf.Scalar>(tf.mean(each), 0.5);
      return {
        codes: codes as tf.Tensor5D,
        ids: zeroIds(z),
        loss: tf.mul(kl, weight),
        metrics: { kl },
      };
    },

    lookup: (ids) => tf.zeros([...gridOf(ids), width]),
  };
}
