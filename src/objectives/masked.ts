/**
 * @file Masked token modelling: MaskGIT (Chang et al. 2022, §3.1) over video tokens as in MAGVIT
 * (Yu et al. 2023) without conditions other than the class.
 *
 * Training hides ceil(γ(r)·N) tokens of a sequence, r uniform in [0, 1), and predicts them from the
 * rest. The loss is the cross entropy of the hidden tokens, in nats a hidden token: summed over the
 * factors of a token, averaged over all hidden tokens of the batch.
 *
 * **Held-out loss.** The same quantity without label smoothing and without dropped labels, under
 * masks that depend only on (seed, step): with `step` the index of the validation batch, every
 * evaluation of a run sees the same masks. A model that knows nothing but the frequencies of the ids
 * pays exactly the unigram entropy (the sum over factors of the entropies of the sub-ids, in nats) at
 * every mask ratio, so the two numbers can be compared. The loss is an average over ratios, not a
 * bound on the likelihood of a sequence.
 */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, Type } from "../config/schema.ts";
import type { ModelConfig } from "../models/registry.ts";
import type { Scope } from "../models/scope.ts";
import { buildTransformer, tokenCount } from "../models/transformer.ts";
import { Random } from "../runtime/random.ts";
import { bool } from "../runtime/tensors.ts";
import { hiddenShare, maskScheduleSchema } from "./mask-schedule.ts";
import { buildMaskedSampler, maskedSamplingSchema } from "./masked-sampler.ts";
import type { Objective, TokenSpace } from "./objective.ts";
import { buildMaskedPrior } from "./prior.ts";
import { keptLabels, tokenHits, tokenInputs, tokenNats } from "./tokens.ts";

export const maskedSchema = closed(
  {
    type: Type.Literal("masked", { description: "Masked token modelling (MaskGIT)." }),
    mask_schedule: maskScheduleSchema(
      "γ, from a uniform r to the share of hidden tokens in training and validation.",
    ),
    label_dropout: Type.Number({
      minimum: 0,
      maximum: 1,
      default: 0.1,
      description: "Probability that training hides a sample's label, for guidance.",
    }),
    label_smoothing: Type.Number({
      minimum: 0,
      exclusiveMaximum: 1,
      default: 0,
      description: "Share of the target spread evenly over a sub-vocabulary, in training only.",
    }),
    sampling: maskedSamplingSchema,
  },
  { description: "Predict hidden tokens from visible ones; sample in a few parallel steps." },
);
export type MaskedConfig = Static<typeof maskedSchema>;

/** Build the transformer and its masked objective in `scope`. */
export function buildMasked(
  config: MaskedConfig,
  model: ModelConfig,
  space: TokenSpace,
  scope: Scope,
): Objective {
  const transformer = buildTransformer(model, space, { mask: true }, scope.child("transformer"));
  const tokens = tokenCount(space);

  return {
    type: config.type,
    scope,
    space,

    inputs(batch, seed, step, training) {
      const split = training ? "train" : "validation";
      const masked = drawMasks(
        batch.size,
        tokens,
        config.mask_schedule,
        new Random(seed, `masked/mask/${split}`, step),
      );
      const dropout = training
        ? { rate: config.label_dropout, random: new Random(seed, "masked/label", step) }
        : undefined;
      return {
        ...tokenInputs(batch, space, dropout),
        masked: bool([batch.size, tokens], masked),
      };
    },

    loss(inputs) {
      const ids = inputs.ids as tf.Tensor3D; // [B, N, F]
      const masked = inputs.masked as tf.Tensor2D; // [B, N]
      const smoothing = inputs.dropped === undefined ? 0 : config.label_smoothing;
      const logits = transformer.bidirectional(ids, masked, keptLabels(inputs, space));
      const weight = tf.reshape(tf.cast(masked, "float32"), [-1]); // [B·N]
      const count = tf.sum(weight);
      const mean = (values: tf.Tensor1D): tf.Scalar =>
        tf.div(tf.sum(tf.mul(values, weight)), count);
      return {
        loss: mean(tokenNats(logits, ids, smoothing)),
        metrics: {
          accuracy: mean(tokenHits(logits, ids)),
          masked_share: tf.mean(weight),
        },
      };
    },

    sampler: (device) => buildMaskedSampler(device, transformer, config.sampling),
    prior: (device) => buildMaskedPrior(device, transformer),
  };
}

/**
 * Which tokens are hidden: [B, N] of 0 and 1, at least one in every row. The B ratios are spread
 * evenly over [0, 1) with one random offset: each is uniform, and their sum varies little from batch
 * to batch, as with the time steps of Kingma et al. 2021 (Variational Diffusion Models, app. I.1).
 */
export function drawMasks(
  size: number,
  tokens: number,
  schedule: MaskedConfig["mask_schedule"],
  random: Random,
): Uint8Array {
  const masked = new Uint8Array(size * tokens);
  const offset = random.uniform();
  for (let b = 0; b < size; b++) {
    const ratio = (offset + b / size) % 1;
    const hidden = Math.ceil(hiddenShare(schedule, ratio, tokens) * tokens);
    const order = random.permutation(tokens);
    for (let i = 0; i < Math.min(tokens, Math.max(1, hidden)); i++) {
      masked[b * tokens + order[i]!] = 1;
    }
  }
  return masked;
}
