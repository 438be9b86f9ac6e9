/**
 * @file Adversarial training of tokenizers: the losses of generator and discriminator, with the
 * regularisers that MAGVIT and MAGVIT-v2 use.
 *
 * - hinge (Lim & Ye 2017) or non-saturating (Goodfellow et al. 2014) losses;
 * - R1 (Mescheder et al., ICML 2018): γ/2 E|∇_x D(x)|² on real clips. Its gradient needs second
 *   derivatives of D. With v = ∇_x D(x) it is γ E ∇_θ (v · ∇_x D(x)), the slope of ∇_θ D along v, and
 *   that slope is taken as a central difference of two points a thousandth of the pixel range apart
 *   (root mean square): two more passes through D, and no second derivative of any operation;
 * - LeCAM (Tseng et al., CVPR 2021): E relu(D(x) - ema_fake)² + E relu(ema_real - D(x̂))², with moving
 *   averages of the mean logits, which are state;
 * - an adaptive weight: |∂L_rec/∂x̂| / |∂L_adv/∂x̂| at the reconstruction, clipped. VQGAN (Esser et al.
 *   2021, eq. 7) takes the two gradients at the last layer's weights; at the decoder's output, as in
 *   EnCodec's balancer (Défossez et al. 2022, §3.4), they cost no backward pass through the decoder;
 * - a delayed start, on the clock of all schedules: optimizer steps done. Before it both networks get
 *   exactly zero from each other.
 */

import * as tf from "@tensorflow/tfjs-core";
import { type Static, Type } from "../config/schema.ts";
import { discriminator } from "../models/discriminator.ts";
import { Scope } from "../models/scope.ts";
import { activeRanks, meanOverRanks, sumOverRanks } from "../runtime/collective.ts";
import { stopGradient } from "../runtime/ops.ts";
import type { ClipShape } from "./tokenizer.ts";

/** The config key `adversarial` of tokenizers. */
export const adversarialSchema = Type.Object(
  {
    weight: Type.Number({
      minimum: 0,
      default: 0.1,
      description: "Weight of the generator's adversarial loss.",
    }),
    loss: Type.Union([Type.Literal("non-saturating"), Type.Literal("hinge")], {
      default: "non-saturating",
      description: "The two networks' losses.",
    }),
    start: Type.Integer({
      minimum: 0,
      default: 0,
      description: "Optimizer steps before adversarial training begins, for both networks.",
    }),
    adaptive: Type.Boolean({
      default: false,
      description:
        "Scale the weight so that the adversarial gradient at the reconstruction is as long as that of the reconstruction losses.",
    }),
    r1_weight: Type.Number({
      minimum: 0,
      default: 10,
      description: "γ of the R1 gradient penalty on real clips; 0 saves its two passes.",
    }),
    lecam_weight: Type.Number({
      minimum: 0,
      default: 0.001,
      description: "Weight of the LeCAM regulariser.",
    }),
    lecam_decay: Type.Number({
      minimum: 0,
      exclusiveMaximum: 1,
      default: 0.999,
      description: "Decay of LeCAM's moving averages of the logits.",
    }),
    dims: Type.Union([Type.Literal(3), Type.Literal(2)], {
      default: 3,
      description: "Whether the discriminator sees clips (3) or single frames (2).",
    }),
    base_channels: Type.Integer({
      minimum: 1,
      default: 64,
      description: "Channels of the discriminator's first layer.",
    }),
    channel_multipliers: Type.Array(Type.Integer({ minimum: 1 }), {
      minItems: 1,
      default: [2, 4, 4, 4, 4],
      description: "Its channels after each halving as a multiple of base_channels.",
    }),
    blur_taps: Type.Integer({
      minimum: 2,
      maximum: 7,
      default: 4,
      description: "Taps of the low-pass filter before each halving; 2 is a plain mean.",
    }),
    lr_ratio: Type.Number({
      exclusiveMinimum: 0,
      default: 1,
      description: "The discriminator's learning rate as a multiple of the tokenizer's.",
    }),
    beta1: Type.Number({
      minimum: 0,
      exclusiveMaximum: 1,
      default: 0,
      description: "AdamW of the discriminator: decay of the first moment.",
    }),
    beta2: Type.Number({
      minimum: 0,
      exclusiveMaximum: 1,
      default: 0.99,
      description: "AdamW of the discriminator: decay of the second moment.",
    }),
  },
  {
    additionalProperties: false,
    description: "A discriminator that the tokenizer learns against; none when left out.",
  },
);

export type AdversarialConfig = Static<typeof adversarialSchema>;

/** Logits [B] of clips [B, T, H, W, 3]. */
export type Critic = (clips: tf.Tensor5D) => tf.Tensor1D;

/** What the discriminator descends on logits of real and made clips. */
export function criticLoss(
  kind: AdversarialConfig["loss"],
  real: tf.Tensor1D,
  made: tf.Tensor1D,
): tf.Scalar {
  return kind === "hinge"
    ? tf.mul(tf.add(tf.mean(tf.relu(tf.sub(1, real))), tf.mean(tf.relu(tf.add(1, made)))), 0.5)
    : tf.add(tf.mean(tf.softplus(tf.neg(real))), tf.mean(tf.softplus(made)));
}

/** What the generator descends on logits of made clips. */
export function generatorLoss(kind: AdversarialConfig["loss"], made: tf.Tensor1D): tf.Scalar {
  return kind === "hinge" ? tf.neg(tf.mean(made)) : tf.mean(tf.softplus(tf.neg(made)));
}

/** Pixel distance of R1's central difference, root mean square. */
const STEP = 1e-3;

/**
 * R1 as something to descend: `loss` has the gradient of γ/2 E|∇_x D|² in the critic's parameters (not
 * its value), `penalty` the value of E|∇_x D|² without a gradient.
 */
export function r1(critic: Critic, real: tf.Tensor5D): { loss: tf.Scalar; penalty: tf.Scalar } {
  const x = stopGradient(real);
  const slope = stopGradient(tf.grad((clips) => tf.sum(critic(clips as tf.Tensor5D)))(x));
  const batch = x.shape[0];
  const size = x.size / batch;
  const squares = tf.sum(tf.reshape(tf.square(slope), [batch, size]), 1); // [B]
  const length = tf.sqrt(tf.add(squares, 1e-20));
  const apart = STEP * Math.sqrt(size);
  const unit = tf.div(tf.reshape(slope, [batch, size]), tf.reshape(length, [batch, 1]));
  const move = stopGradient(tf.reshape(tf.mul(unit, apart), x.shape));
  const both = critic(tf.concat([tf.add(x, move), tf.sub(x, move)], 0) as tf.Tensor5D); // [2B]
  const [ahead, behind] = tf.split(both, 2) as [tf.Tensor1D, tf.Tensor1D];
  const difference = tf.div(tf.sub(ahead, behind), 2 * apart); // u · ∇_x D, [B]
  return {
    loss: tf.mean(tf.mul(difference, stopGradient(length))),
    penalty: stopGradient(tf.mean(squares)),
  };
}

/** |∂f/∂x| over all values of x. */
function slopeLength(f: (x: tf.Tensor5D) => tf.Scalar, x: tf.Tensor5D): tf.Scalar {
  const slope = tf.grad((y) => f(y as tf.Tensor5D))(x);
  // f is a mean over this rank's clips, and the ratio of two such lengths one over all clips.
  const squares = sumOverRanks(tf.sum<tf.Scalar>(tf.square(slope)));
  return tf.div(tf.sqrt(squares), activeRanks().world);
}

/** Both sides of the game. */
export interface Adversary {
  /** The discriminator's parameters and LeCAM's averages. */
  readonly scope: Scope;
  /**
   * The generator's weighted share.
   * @param made [B, T, H, W, 3] with a gradient
   * @param rest the reconstruction losses as a function of the made clips, for the adaptive weight
   * @param real the clips that were reconstructed, for feature matching
   */
  generator(
    made: tf.Tensor5D,
    step: tf.Scalar,
    rest: (made: tf.Tensor5D) => tf.Scalar,
    real: tf.Tensor5D,
  ): { loss: tf.Scalar; metrics: { [name: string]: tf.Scalar } };
  /** The discriminator's loss; LeCAM's averages are assigned inside, only when `training`. */
  critic(
    real: tf.Tensor5D,
    made: tf.Tensor5D,
    step: tf.Scalar,
    training: boolean,
  ): { loss: tf.Scalar; metrics: { [name: string]: tf.Scalar } };
}

/** Builds the discriminator for clips of one size. */
export function buildAdversary(
  config: AdversarialConfig,
  { height, width }: ClipShape,
  seed: number,
): Adversary {
  const scope = Scope.root(seed).child("discriminator");
  const judge = discriminator(scope, config, [height, width]);
  const averages = scope.state("lecam", [2]) as tf.Variable<tf.Rank.R1>; // real, made
  const active = (step: tf.Scalar): tf.Scalar =>
    tf.cast(tf.greaterEqual(step, config.start), "float32");

  return {
    scope,

    generator(made, step, rest) {
      const adversarial = generatorLoss(config.loss, judge(made));
      let weight: tf.Scalar = tf.mul(active(step), config.weight);
      const metrics: { [name: string]: tf.Scalar } = { adversarial };
      if (config.adaptive) {
        const at = stopGradient(made);
        const ours = slopeLength((x) => generatorLoss(config.loss, judge(x)), at);
        const ratio = tf.div(slopeLength(rest, at), tf.add(ours, 1e-6));
        const clipped = stopGradient(tf.clipByValue(ratio, 0, 1e4)) as tf.Scalar;
        weight = tf.mul(weight, clipped);
        metrics["adversarial_weight"] = weight;
      }
      return { loss: tf.mul(adversarial, weight), metrics };
    },

    critic(real, made, step, training) {
      const on = active(step);
      const logits = judge(tf.concat([real, made], 0) as tf.Tensor5D); // [2B]
      const [ofReal, ofMade] = tf.split(logits, 2) as [tf.Tensor1D, tf.Tensor1D];
      let loss = criticLoss(config.loss, ofReal, ofMade);
      const own = tf.stack([tf.mean(ofReal), tf.mean(ofMade)]) as tf.Tensor1D; // [2]
      const means = meanOverRanks(own);
      const metrics: { [name: string]: tf.Scalar } = {
        critic_real: tf.mean(ofReal),
        critic_made: tf.mean(ofMade),
      };
      if (config.lecam_weight > 0) {
        const [emaReal, emaMade] = tf.unstack(stopGradient(averages)) as [tf.Scalar, tf.Scalar];
        const lecam = tf.add<tf.Scalar>(
          tf.mean(tf.square(tf.relu(tf.sub(ofReal, emaMade)))),
          tf.mean(tf.square(tf.relu(tf.sub(emaReal, ofMade)))),
        );
        loss = tf.add(loss, tf.mul(lecam, config.lecam_weight));
        metrics["lecam"] = lecam;
        if (training) {
          const moved = tf.mul(tf.sub(stopGradient(means), averages), 1 - config.lecam_decay);
          averages.assign(tf.add(averages, tf.mul(moved, on)) as tf.Tensor1D);
        }
      }
      if (config.r1_weight > 0 && training) {
        const { loss: term, penalty } = r1(judge, real);
        loss = tf.add(loss, tf.mul(term, config.r1_weight));
        metrics["r1"] = penalty;
      }
      return { loss: tf.mul(loss, on), metrics };
    },
  };
}
