/**
 * @file Masked token modelling: MaskGIT (Chang et al. 2022, §3.1) over video tokens, and MAGVIT's
 * multi-task training with conditional masks (Yu et al. 2023, §3.2; see conditioning.ts).
 *
 * Training hides ceil(γ(r)·N) tokens of a sequence, r uniform in [0, 1), and predicts them from the
 * rest. Without tasks the loss is the cross entropy of the hidden tokens, in nats a hidden token:
 * summed over the factors of a token, averaged over all hidden tokens of the batch.
 *
 * With COMMIT every position belongs to one of three parts (eq. 5): *refine*, hidden and holding a
 * token of the padded clip; *mask*, hidden and holding [MASK]; *reconstruct*, not hidden. The loss is
 * the mean of the cross entropies of all positions, weighted by their parts. Weights of 1, 1 and 0
 * with no condition are MaskGIT's loss, 1, 1 and 1 are MAGVIT's.
 *
 * **Held-out loss.** The same quantity without label smoothing and without dropped conditions, under
 * masks and tasks that depend only on (seed, step): with `step` the index of the validation batch,
 * every evaluation of a run sees the same masks. A model that knows nothing but the frequencies of the
 * ids pays exactly the unigram entropy (the sum over factors of the entropies of the sub-ids, in nats)
 * at every mask ratio, so the two numbers can be compared. The loss is an average over ratios, not a
 * bound on the likelihood of a sequence.
 */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, Type } from "../config/schema.ts";
import type { Scope } from "../models/scope.ts";
import { buildTransformer, tokenCount, type TransformerConfig } from "../models/transformer.ts";
import type { Device } from "../runtime/device.ts";
import { Random } from "../runtime/random.ts";
import { bool, type HostTensors, int32 } from "../runtime/tensors.ts";
import {
  beforeInputs,
  beforeOf,
  buildConditions,
  type Conditions,
  parts,
  taskLabels,
} from "./conditioning.ts";
import { hiddenShare, maskScheduleSchema } from "./mask-schedule.ts";
import { buildMaskedSampler, maskedSamplingSchema } from "./masked-sampler.ts";
import type { Objective, TokenBatch, TokenSpace } from "./objective.ts";
import { buildMaskedPrior } from "./prior.ts";
import { checkGuidance } from "./sampling.ts";
import { taskEntrySchema } from "./tasks.ts";
import { keptLabels, tokenHits, tokenInputs, tokenNats, weightedMean } from "./tokens.ts";

const partWeight = (what: string, fallback: number) =>
  Type.Number({ minimum: 0, default: fallback, description: `Weight of ${what} in the loss.` });

export const maskedSchema = closed(
  {
    type: Type.Literal("masked", { description: "Masked token modelling (MaskGIT, MAGVIT)." }),
    mask_schedule: maskScheduleSchema(
      "γ, from a uniform r to the share of hidden tokens in training and validation.",
    ),
    label_dropout: Type.Number({
      minimum: 0,
      maximum: 1,
      default: 0.1,
      description:
        "Probability that training hides a sample's label and its task's condition, for guidance.",
    }),
    label_smoothing: Type.Number({
      minimum: 0,
      exclusiveMaximum: 1,
      default: 0,
      description: "Share of the target spread evenly over a sub-vocabulary, in training only.",
    }),
    tasks: Type.Array(taskEntrySchema, {
      default: [],
      description:
        "Conditional tasks of MAGVIT to train on, drawn by weight for each sample; none is MaskGIT by class.",
    }),
    conditioning: Type.Union(
      [Type.Literal("commit"), Type.Literal("prefix"), Type.Literal("latent-masking")],
      {
        default: "commit",
        description:
          "How conditions reach the transformer. commit: in place of [MASK]; prefix: as tokens in front (a step's samples then share one task); latent-masking: at sampling only.",
      },
    ),
    condition_frames: Type.Integer({
      minimum: 1,
      default: 1,
      description: "Frames that the tasks FP and CFP are given.",
    }),
    prompts: Type.Union([Type.Literal("each"), Type.Literal("magvit")], {
      default: "each",
      description:
        "Task prompts: one for each task, or MAGVIT's, where the six painting tasks share one.",
    }),
    refine_weight: partWeight("hidden positions that hold a condition", 1),
    mask_weight: partWeight("hidden positions that hold [MASK]", 1),
    reconstruct_weight: partWeight("positions that are not hidden (MAGVIT: 1)", 0),
    sampling: maskedSamplingSchema,
  },
  { description: "Predict hidden tokens from visible ones; sample in a few parallel steps." },
);
export type MaskedConfig = Static<typeof maskedSchema>;

/** Build the transformer and its masked objective in `scope`. */
export function buildMasked(
  config: MaskedConfig,
  model: TransformerConfig,
  space: TokenSpace,
  scope: Scope,
): Objective {
  const conditions =
    config.tasks.length === 0
      ? undefined
      : buildConditions(
          config.tasks,
          config.conditioning,
          {
            conditionFrames: config.condition_frames,
            prompts: config.prompts,
            stream: "masked/tasks",
          },
          space,
        );
  const transformer = buildTransformer(
    model,
    space,
    {
      mask: true,
      prompts: conditions?.promptCount ?? 0,
      prefix: conditions?.conditioning === "prefix",
    },
    scope.child("transformer"),
  );
  const tokens = tokenCount(space);
  const weights = [config.reconstruct_weight, config.mask_weight, config.refine_weight];

  return {
    type: config.type,
    scope,
    space,
    ...(conditions && { tasks: conditions }),

    inputs(batch, seed, step, training) {
      const split = training ? "train" : "validation";
      const hidden = drawMasks(
        batch.size,
        tokens,
        config.mask_schedule,
        new Random(seed, `masked/mask/${split}`, step),
      );
      const dropout = training
        ? { rate: config.label_dropout, random: new Random(seed, "masked/label", step) }
        : undefined;
      if (conditions === undefined) {
        return {
          ...tokenInputs(batch, space, dropout),
          masked: bool([batch.size, tokens], hidden),
        };
      }
      return conditionalInputs(conditions, batch, hidden, space, dropout);
    },

    loss(inputs) {
      const ids = inputs.ids as tf.Tensor3D; // [B, N, F]
      const masked = inputs.masked as tf.Tensor2D; // [B, N]
      const smoothing = inputs.dropped === undefined ? 0 : config.label_smoothing;
      const logits = transformer.bidirectional(
        (inputs.seen ?? ids) as tf.Tensor3D,
        masked,
        keptLabels(inputs, space),
        beforeOf(inputs),
      );
      const nats = tokenNats(logits, ids, smoothing); // [B·N]
      const hits = tokenHits(logits, ids);
      const flags = (of: tf.Tensor): tf.Tensor1D => tf.reshape(tf.cast(of, "float32"), [-1]);
      if (inputs.part === undefined) {
        const hidden = flags(masked);
        // Without tasks no position holds a condition.
        const weight = tf.add(
          tf.mul(hidden, weights[parts.mask]! - weights[parts.reconstruct]!),
          weights[parts.reconstruct]!,
        ) as tf.Tensor1D;
        return {
          loss: weightedMean(nats, weight),
          metrics: { accuracy: weightedMean(hits, hidden), masked_share: tf.mean(hidden) },
        };
      }
      const of = (part: number): tf.Tensor1D => flags(tf.equal(inputs.part!, part));
      const [reconstruct, mask, refine] = [0, 1, 2].map(of) as [
        tf.Tensor1D,
        tf.Tensor1D,
        tf.Tensor1D,
      ];
      const weight = tf.addN(
        [reconstruct, mask, refine].map((flag, part) => tf.mul(flag, weights[part]!)),
      ) as tf.Tensor1D;
      const hidden = tf.add(mask, refine) as tf.Tensor1D;
      return {
        loss: weightedMean(nats, weight),
        metrics: {
          accuracy: weightedMean(hits, hidden),
          masked_share: tf.mean(hidden),
          mask_loss: weightedMean(nats, mask),
          refine_loss: weightedMean(nats, refine),
          reconstruct_loss: weightedMean(nats, reconstruct),
        },
      };
    },

    sampler(device) {
      checkGuidance(config.sampling, config.label_dropout);
      return buildMaskedSampler(device, transformer, config.sampling, conditions);
    },
    // A prior codes tokens from a label alone.
    ...(conditions === undefined && {
      prior: (device: Device) => buildMaskedPrior(device, transformer),
    }),
  };
}

/**
 * The device inputs of a batch with tasks: what the network sees (`seen`, `masked`), what it is to
 * say (`ids`), and which part of the loss each position belongs to.
 */
function conditionalInputs(
  conditions: Conditions,
  batch: TokenBatch,
  hidden: Uint8Array,
  space: TokenSpace,
  dropout: Parameters<typeof tokenInputs>[2],
): HostTensors {
  const { size, conditions: given } = batch;
  if (given === undefined) {
    throw new RangeError("a batch of an objective with tasks needs its conditions");
  }
  const tokens = tokenCount(space);
  const factors = space.factors.length;
  const labels = taskLabels(batch.labels, given.tasks, conditions.names);
  const common = tokenInputs({ ...batch, labels }, space, dropout);
  const dropped = common.dropped?.data;
  const seen = batch.ids.slice();
  const masked = hidden.slice();
  const part = new Int32Array(size * tokens);
  for (let b = 0; b < size; b++) {
    const inside = conditions.inside[given.tasks[b]!]!;
    for (let n = 0, i = b * tokens; n < tokens; n++, i++) {
      if (!hidden[i]) {
        continue;
      }
      part[i] = parts.mask;
      if (conditions.conditioning === "commit" && inside[n] && !dropped?.[b]) {
        part[i] = parts.refine;
        masked[i] = 0;
        seen.set(given.ids.subarray(i * factors, (i + 1) * factors), i * factors);
      }
    }
  }
  return {
    ...common,
    seen: int32([size, tokens, factors], seen),
    masked: bool([size, tokens], masked),
    part: int32([size, tokens], part),
    ...beforeInputs(conditions, given, space, (b) => dropped?.[b] === 1),
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
