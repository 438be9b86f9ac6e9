/**
 * @file Causal (autoregressive) modelling of visual tokens: the next token of the sequence that the
 * latent grid gives in (t, h, w) order, after the class as the first token (VQGAN, Esser et al. 2021;
 * TATS, Ge et al. 2022).
 *
 * The F sub-ids of a token are predicted in parallel, independently of each other given everything
 * before: log p(token) is the sum over its factors. The loss is the mean over all tokens, in nats a
 * token; on held-out batches (no label smoothing, no dropped labels) it is the exact negative
 * log-likelihood of the sequences under this model, divided by N.
 */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, Type } from "../config/schema.ts";
import type { Scope } from "../models/scope.ts";
import { buildTransformer, type TransformerConfig } from "../models/transformer.ts";
import { Random } from "../runtime/random.ts";
import { buildCausalSampler, causalSamplingSchema } from "./causal-sampler.ts";
import type { Objective, TokenSpace } from "./objective.ts";
import { buildCausalPrior } from "./prior.ts";
import { checkGuidance } from "./sampling.ts";
import { keptLabels, tokenHits, tokenInputs, tokenNats } from "./tokens.ts";

export const causalSchema = closed(
  {
    type: Type.Literal("causal", { description: "Next-token prediction." }),
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
    sampling: causalSamplingSchema,
  },
  { description: "Predict each token from the ones before it; sample one after the other." },
);
export type CausalConfig = Static<typeof causalSchema>;

/** A causal objective also tells the exact likelihood of tokens. */
export interface CausalObjective extends Objective {
  readonly type: "causal";
  /**
   * log p of each token given the class and the tokens before it, in nats (at most 0). Traceable.
   * @param inputs of `inputs(batch, seed, step, false)`: ids [B, N, F], labels [B]
   * @returns [B, N]
   */
  logProbs(inputs: { readonly [name: string]: tf.Tensor }): tf.Tensor2D;
}

/** Build the transformer and its causal objective in `scope`. */
export function buildCausal(
  config: CausalConfig,
  model: TransformerConfig,
  space: TokenSpace,
  scope: Scope,
): CausalObjective {
  const transformer = buildTransformer(model, space, { mask: false }, scope.child("transformer"));

  return {
    type: config.type,
    scope,
    space,

    inputs(batch, seed, step, training) {
      const dropout = training
        ? { rate: config.label_dropout, random: new Random(seed, "causal/label", step) }
        : undefined;
      return tokenInputs(batch, space, dropout);
    },

    loss(inputs) {
      const ids = inputs.ids as tf.Tensor3D; // [B, N, F]
      const smoothing = inputs.dropped === undefined ? 0 : config.label_smoothing;
      const logits = transformer.causal(ids, keptLabels(inputs, space));
      return {
        loss: tf.mean(tokenNats(logits, ids, smoothing)),
        metrics: { accuracy: tf.mean(tokenHits(logits, ids)) },
      };
    },

    logProbs(inputs) {
      const ids = inputs.ids as tf.Tensor3D;
      const [batch, tokens] = ids.shape;
      const logits = transformer.causal(ids, keptLabels(inputs, space));
      return tf.reshape(tf.neg(tokenNats(logits, ids, 0)), [batch, tokens]);
    },

    sampler(device) {
      checkGuidance(config.sampling, config.label_dropout);
      return buildCausalSampler(device, transformer, config.sampling);
    },
    prior: (device) => buildCausalPrior(device, transformer),
  };
}

/** Whether an objective has exact token likelihoods. */
export function isCausal(objective: Objective): objective is CausalObjective {
  return objective.type === "causal" && "logProbs" in objective;
}
