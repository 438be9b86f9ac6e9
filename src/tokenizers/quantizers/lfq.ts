/**
 * @file Lookup-free quantization (LFQ): Yu et al., "Language Model Beats Diffusion: Tokenizer is Key
 * to Visual Generation" (MAGVIT-v2, ICLR 2024), §3.1, eqs. 3-5.
 *
 * A latent of L channels is quantized by its signs to one of 2^L codes in {-1, +1}^L; there is no
 * codebook. Bit l of the token's index (least significant first) is 1 where channel l is positive.
 * The index is given as sub-ids of `factor_bits` bits, least significant first: with 18 bits and
 * factor_bits 9, id = ids[0] + 512 · ids[1].
 *
 * Entropy penalty: E[H(q(z))] - H[E(q(z))] for the soft assignment q(c|z) = softmax(2 z·c / τ), which
 * is a product of independent bits with p(bit l = 1) = σ(4 z_l / τ). Hence
 * - the per-sample term is a sum of binary entropies, exact in O(L);
 * - the batch term is the entropy of the *joint* mean distribution of a group of at most
 *   `entropy_group_bits` bits, summed over groups. With the bits of a group cut in two halves of
 *   distributions P [N, 2^a] and Q [N, 2^b], the joint mean is PᵀQ / N: one matrix product, with
 *   memory N·(2^a + 2^b) instead of N·2^(a+b), and nothing that grows with 2^L.
 */

import * as tf from "@tensorflow/tfjs-core";
import { closed, type Static, type TObject, Type } from "../../config/schema.ts";
import { meanOverRanks } from "../../runtime/collective.ts";
import { stopGradient, straightThrough } from "../../runtime/ops.ts";
import { ENTROPY_EPSILON, gridOf, type Quantizer, rowsOf, usageMetrics } from "./quantizer.ts";

/** The config keys of quantizers by signs. */
export function signProperties(defaults: { readonly entropy_temperature: number }) {
  return {
    bits: Type.Integer({
      minimum: 1,
      maximum: 64,
      default: 10,
      description:
        "Bits of a token, which are also the channels of a code: the vocabulary is 2^bits.",
    }),
    factor_bits: Type.Integer({
      minimum: 1,
      maximum: 16,
      default: 10,
      description:
        "Bits of one sub-id. A vocabulary of more bits is given to the transformer as several sub-ids (18 bits with factor_bits 9: two of 512).",
    }),
    commitment_weight: Type.Number({
      minimum: 0,
      default: 0.25,
      description:
        "Weight of the commitment: the squared distance between latents and their codes, a channel (lfq) or a token (bsq).",
    }),
    entropy_weight: Type.Number({
      minimum: 0,
      default: 0.1,
      description:
        "Weight of the entropy penalty (confident tokens, evenly used codes), in nats, after annealing. Small models do better with about 0.02.",
    }),
    entropy_diversity: Type.Number({
      minimum: 0,
      default: 1,
      description: "Weight of the batch entropy relative to the per-sample entropy.",
    }),
    entropy_temperature: Type.Number({
      exclusiveMinimum: 0,
      default: defaults.entropy_temperature,
      description: "Temperature τ of the soft assignment softmax(2 z·c / τ).",
    }),
    entropy_group_bits: Type.Integer({
      minimum: 1,
      maximum: 20,
      default: 10,
      description:
        "The batch entropy is exact within groups of this many bits, and summed over groups. A group of as many bits as the code makes it exact altogether.",
    }),
    entropy_anneal_factor: Type.Number({
      minimum: 1,
      default: 1,
      description:
        "The entropy weight starts at this many times entropy_weight and falls linearly to it (MAGVIT-v2: 3).",
    }),
    entropy_anneal_steps: Type.Integer({
      minimum: 1,
      default: 2000,
      description: "Optimizer steps that the fall of the entropy weight takes.",
    }),
    pre_norm: Type.Boolean({
      default: false,
      description:
        "Normalise the encoder's features (group norm without scale and shift) before their projection to bits.",
    }),
  };
}

export type SignConfig = Static<TObject<ReturnType<typeof signProperties>>>;

export const schema = closed(
  { type: Type.Literal("lfq"), ...signProperties({ entropy_temperature: 0.01 }) },
  { description: "Lookup-free quantization: the signs of the latent's channels (MAGVIT-v2)." },
);

export type LfqConfig = Static<typeof schema>;

/** Sizes in bits of the parts of `bits` cut into runs of at most `size`, lowest bits first. */
function runs(bits: number, size: number): number[] {
  return Array.from({ length: Math.ceil(bits / size) }, (_, i) => Math.min(size, bits - i * size));
}

/** Like `runs`, with parts as equal as can be. */
function evenRuns(bits: number, size: number): number[] {
  const parts = Math.ceil(bits / size);
  return Array.from(
    { length: parts },
    (_, i) => Math.floor(((i + 1) * bits) / parts) - Math.floor((i * bits) / parts),
  );
}

/** All codes of `bits` bits as columns: [bits, 2^bits] of ±1, bit l of the column's index in row l. */
function signMatrix(bits: number): tf.Tensor2D {
  const size = 2 ** bits;
  const values = new Float32Array(bits * size);
  for (let bit = 0; bit < bits; bit++) {
    for (let code = 0; code < size; code++) {
      values[bit * size + code] = Math.floor(code / 2 ** bit) % 2 === 1 ? 1 : -1;
    }
  }
  return tf.tensor2d(values, [bits, size]);
}

/** Mean over rows of the entropy of the soft assignment, in nats. z: [N, L]. */
export function sampleEntropy(z: tf.Tensor2D, temperature: number): tf.Scalar {
  const logit = tf.abs(tf.mul(z, 4 / temperature)); // [N, L] log-odds of a bit's own sign
  const other = tf.sigmoid(tf.neg(logit)); // probability of the other sign, at most 1/2
  const entropy = tf.sub(tf.mul(logit, other), tf.log(tf.sub(1, other))); // binary entropy
  return tf.div(tf.sum(entropy), z.shape[0]);
}

/** Entropy of the joint mean assignment of all channels of z [N, g], in nats. Cost N·2^g. */
function jointEntropy(z: tf.Tensor2D, temperature: number): tf.Scalar {
  const [rows, bits] = z.shape;
  const low = Math.ceil(bits / 2);
  const soft = (start: number, size: number): tf.Tensor2D => {
    const part = tf.slice(z, [0, start], [rows, size]);
    return tf.softmax(tf.mul(tf.matMul(part, signMatrix(size)), 2 / temperature)); // [N, 2^size]
  };
  const own =
    bits === 1
      ? tf.mean(soft(0, 1), 0) // [2]
      : tf.div(tf.matMul(soft(0, low), soft(low, bits - low), true, false), rows); // [2^low, 2^high]
  const mean = meanOverRanks(own);
  return tf.neg(tf.sum(tf.mul(mean, tf.log(tf.add(mean, ENTROPY_EPSILON)))));
}

/** Sum over groups of bits of the entropy of the batch's mean assignment, in nats. z: [N, L]. */
export function batchEntropy(z: tf.Tensor2D, temperature: number, groupBits: number): tf.Scalar {
  const [rows, bits] = z.shape;
  let start = 0;
  let total: tf.Scalar | undefined;
  for (const size of evenRuns(bits, groupBits)) {
    const entropy = jointEntropy(tf.slice(z, [0, start], [rows, size]), temperature);
    total = total ? tf.add(total, entropy) : entropy;
    start += size;
  }
  return total!;
}

/** Builds the quantizer. It has no variables. */
export function build(config: LfqConfig): Quantizer {
  return buildSigns("lfq", config, { scale: 1, prepare: (z) => z, perToken: false });
}

/**
 * Quantization by signs, in the variants that differ in what is done to the latent before.
 * @param options.scale of the codes: ±scale
 * @param options.prepare what the signs, the losses and the gradient are taken of
 * @param options.perToken whether the commitment is a token's squared distance or its mean a channel
 */
export function buildSigns(
  type: string,
  config: SignConfig,
  options: {
    readonly scale: number;
    readonly prepare: (z: tf.Tensor5D) => tf.Tensor5D;
    readonly perToken: boolean;
  },
): Quantizer {
  const { bits, entropy_weight: weight } = config;
  const { scale, prepare } = options;
  // The bits' odds are those of an assignment to ±scale: 4 z · scale / τ.
  const temperature = config.entropy_temperature / scale;
  const parts = runs(bits, config.factor_bits);
  const factors = parts.map((size) => 2 ** size);

  // pack [L, F] holds 2^l where bit l belongs to factor f; unpack [F, L] its inverse powers.
  const pack = new Float32Array(bits * parts.length);
  const unpack = new Float32Array(parts.length * bits);
  for (let bit = 0; bit < bits; bit++) {
    const factor = Math.floor(bit / config.factor_bits);
    const place = bit % config.factor_bits;
    pack[bit * parts.length + factor] = 2 ** place;
    unpack[factor * bits + bit] = 2 ** -place;
  }

  const signs = (z: tf.Tensor5D) => {
    const on: tf.Tensor5D = tf.cast(tf.greater(z, 0), "float32"); // [B, t, h, w, L] in {0, 1}
    const codes: tf.Tensor5D = tf.sub(tf.mul(on, 2 * scale), scale);
    const sums = tf.matMul(rowsOf(on), tf.tensor2d(pack, [bits, parts.length]));
    const ids = tf.reshape<tf.Rank.R5>(tf.cast(sums, "int32"), [...gridOf(z), parts.length]);
    return { codes, ids };
  };

  return {
    type,
    factors,
    latentWidth: bits,
    width: bits,
    preNorm: config.pre_norm,
    remedy:
      "raise quantizer.entropy_weight or quantizer.entropy_anneal_factor, or normalise the features first (quantizer.pre_norm=true)",
    assign: signs,
    indices: (codes) => signs(codes).ids,

    quantize(latents, step) {
      const z = prepare(latents);
      const { codes, ids } = signs(z);
      const distance = tf.mean<tf.Scalar>(tf.squaredDifference(z, stopGradient(codes)));
      const commitment = options.perToken ? tf.mul<tf.Scalar>(distance, bits) : distance;
      let loss = tf.mul<tf.Scalar>(commitment, config.commitment_weight);
      const metrics: { [name: string]: tf.Scalar } = {
        commitment,
        ...usageMetrics(ids, factors),
      };
      if (weight > 0) {
        const rows = rowsOf(z); // [N, L]
        const sample = sampleEntropy(rows, temperature);
        const batch = batchEntropy(rows, temperature, config.entropy_group_bits);
        const penalty = tf.sub(sample, tf.mul(batch, config.entropy_diversity));
        const remaining = tf.relu(tf.sub(1, tf.div(step, config.entropy_anneal_steps)));
        const annealed = tf.mul(
          tf.add(tf.mul(remaining, config.entropy_anneal_factor - 1), 1),
          weight,
        );
        loss = tf.add(loss, tf.mul(annealed, penalty));
        metrics["sample_entropy"] = sample;
        metrics["batch_entropy"] = batch;
        metrics["entropy_weight"] = annealed as tf.Scalar;
      }
      return { codes: straightThrough(z, codes), ids, loss, metrics };
    },

    lookup(ids) {
      const rows = tf.cast(rowsOf(ids), "float32"); // [N, F]
      // Column l is the sub-id shifted right by the bit's place: a single product, so it is exact.
      const shifted = tf.floor(tf.matMul(rows, tf.tensor2d(unpack, [parts.length, bits]))); // [N, L]
      const on = tf.sub(shifted, tf.mul(tf.floor(tf.mul(shifted, 0.5)), 2)); // the lowest bit
      return tf.reshape(tf.sub(tf.mul(on, 2 * scale), scale), [...gridOf(ids), bits]);
    },
  };
}
