/**
 * @file Adversarial training of audio tokenizers as SoundStream does it (Zeghidour et al. 2021, §III-E):
 * hinge losses of several critics, each averaged over its logits' time, and feature matching, the mean
 * absolute difference of the critics' features on the real and on the made sound.
 *
 *   L_D   = mean_k mean_t [relu(1 - D_k(x)) + relu(1 + D_k(x̂))]
 *   L_adv = mean_k mean_t relu(1 - D_k(x̂))
 *   L_feat = mean_{k,l} mean |D_k,l(x) - D_k,l(x̂)|
 */

import * as tf from "@tensorflow/tfjs-core";
import { type Static, Type } from "../config/schema.ts";
import { Scope } from "../models/scope.ts";
import { type Opinion, soundCritics } from "../models/sound-discriminator.ts";
import { stopGradient } from "../runtime/ops.ts";
import type { Adversary } from "./adversarial.ts";

/** The config key `adversarial` of audio tokenizers. */
export const soundAdversarialSchema = Type.Object(
  {
    weight: Type.Number({
      minimum: 0,
      default: 1,
      description: "Weight of the generator's adversarial loss.",
    }),
    feature_weight: Type.Number({
      minimum: 0,
      default: 100,
      description: "Weight of feature matching.",
    }),
    start: Type.Integer({
      minimum: 0,
      default: 0,
      description: "Optimizer steps before adversarial training begins, for both sides.",
    }),
    scales: Type.Integer({
      minimum: 0,
      default: 3,
      description: "Critics of the waveform, each at half the rate of the one before; 0 for none.",
    }),
    strides: Type.Array(Type.Integer({ minimum: 1, maximum: 8 }), {
      minItems: 1,
      default: [4, 4, 4, 4],
      description: "Down-sampling of the layers of a waveform's critic.",
    }),
    base_channels: Type.Integer({
      minimum: 1,
      default: 16,
      description:
        "Channels of a waveform critic's first layer; a layer of stride s has s times more.",
    }),
    max_channels: Type.Integer({
      minimum: 1,
      default: 256,
      description: "The most channels of a layer.",
    }),
    stft_window: Type.Integer({
      minimum: 0,
      maximum: 4096,
      default: 1024,
      description: "Window of the spectrogram's critic in samples; 0 for none.",
    }),
    stft_channels: Type.Integer({
      minimum: 1,
      default: 32,
      description: "Channels of its first layer; they double a level.",
    }),
    stft_levels: Type.Integer({
      minimum: 1,
      default: 5,
      description: "Its layers that halve the bins.",
    }),
    lr_ratio: Type.Number({
      exclusiveMinimum: 0,
      default: 1,
      description: "The critics' learning rate as a multiple of the tokenizer's.",
    }),
    beta1: Type.Number({
      minimum: 0,
      exclusiveMaximum: 1,
      default: 0.5,
      description: "AdamW of the critics: decay of the first moment.",
    }),
    beta2: Type.Number({
      minimum: 0,
      exclusiveMaximum: 1,
      default: 0.9,
      description: "AdamW of the critics: decay of the second moment.",
    }),
  },
  {
    additionalProperties: false,
    description: "Critics that the audio tokenizer learns against; none when left out.",
  },
);

export type SoundAdversarialConfig = Static<typeof soundAdversarialSchema>;

/** A mistake of the critics against the sound's length, or nothing. */
export function checkSoundAdversarial(
  { scales, strides, stft_window: window }: SoundAdversarialConfig,
  samples: number,
): { path: string; message: string; hint: string } | undefined {
  if (scales === 0 && window === 0) {
    return {
      path: "adversarial",
      message: "there is no critic",
      hint: "set scales or stft_window above 0, or leave adversarial out",
    };
  }
  if (window > samples) {
    return {
      path: "adversarial.stft_window",
      message: `a window of ${window} samples is longer than the sound of ${samples}`,
      hint: "use a shorter window, or 0",
    };
  }
  const reach = strides.reduce((product, stride) => product * stride, 1) * 2 ** (scales - 1);
  return scales > 0 && reach > samples
    ? {
        path: "adversarial.strides",
        message: `at the last of ${scales} scales a sound of ${samples} samples is shorter than one logit's ${reach}`,
        hint: "use fewer scales or smaller strides",
      }
    : undefined;
}

const mean = (values: readonly tf.Scalar[]): tf.Scalar =>
  tf.div(
    values.reduce((a, b) => tf.add(a, b)),
    values.length,
  );

/** Opinions of the first and of the second half of a batch. */
function halves(opinions: readonly Opinion[]): [Opinion[], Opinion[]] {
  const parts = opinions.map(({ logits, features }) => {
    const both = features.map((feature) => tf.split<tf.Tensor5D>(feature, 2, 0));
    const [first, second] = tf.split<tf.Tensor2D>(logits, 2, 0);
    return [
      { logits: first!, features: both.map(([a]) => a!) },
      { logits: second!, features: both.map(([, b]) => b!) },
    ] as const;
  });
  return [parts.map(([a]) => a), parts.map(([, b]) => b)];
}

/** L_feat; real features get no gradient. */
export function featureMatching(real: readonly Opinion[], made: readonly Opinion[]): tf.Scalar {
  return mean(
    made.flatMap(({ features }, k) =>
      features.map((feature, l) =>
        tf.mean<tf.Scalar>(tf.abs(tf.sub(stopGradient(real[k]!.features[l]!), feature))),
      ),
    ),
  );
}

/** Builds the critics for sound. */
export function buildSoundAdversary(config: SoundAdversarialConfig, seed: number): Adversary {
  const scope = Scope.root(seed).child("discriminator");
  const judge = soundCritics(scope, config);
  const active = (step: tf.Scalar): tf.Scalar =>
    tf.cast(tf.greaterEqual(step, config.start), "float32");

  return {
    scope,

    generator(made, step, _rest, real) {
      const [ofReal, ofMade] = halves(judge(tf.concat([real, made], 0) as tf.Tensor5D));
      const adversarial = mean(
        ofMade.map(({ logits }) => tf.mean<tf.Scalar>(tf.relu(tf.sub(1, logits)))),
      );
      const features = featureMatching(ofReal, ofMade);
      const sum = tf.add<tf.Scalar>(
        tf.mul(adversarial, config.weight),
        tf.mul(features, config.feature_weight),
      );
      return { loss: tf.mul(sum, active(step)), metrics: { adversarial, features } };
    },

    critic(real, made, step) {
      const [ofReal, ofMade] = halves(judge(tf.concat([real, made], 0) as tf.Tensor5D));
      const loss = mean(
        ofReal.map(({ logits }, k) =>
          tf.add<tf.Scalar>(
            tf.mean(tf.relu(tf.sub(1, logits))),
            tf.mean(tf.relu(tf.add(1, ofMade[k]!.logits))),
          ),
        ),
      );
      const average = (opinions: readonly Opinion[]): tf.Scalar =>
        mean(opinions.map(({ logits }) => tf.mean<tf.Scalar>(logits)));
      return {
        loss: tf.mul(loss, active(step)),
        metrics: { critic_real: average(ofReal), critic_made: average(ofMade) },
      };
    },
  };
}
