/** @file What every tokenizer is to the rest of Tessera. */

import type * as tf from "@tensorflow/tfjs-core";
import type { Scope } from "../models/scope.ts";
import type { HostTensors } from "../runtime/tensors.ts";
import type { External } from "./host.ts";

/** The clips that a tokenizer is built for. An image is a clip of one frame. */
export interface ClipShape {
  readonly frames: number;
  readonly height: number;
  readonly width: number;
  /** Sound samples of a clip; 0 or left out where there is no sound. */
  readonly samples?: number;
}

/** Tokens of a batch of clips. */
export interface Tokens {
  /** [B, t, h, w, F] int32: F sub-ids a token; sub-id f is in [0, factors[f]). */
  readonly ids: tf.Tensor5D;
  /** [B, t, h, w, D] float32: the codes, one a token; what `decode` takes. */
  readonly codes: tf.Tensor5D;
}

export interface TokenizerLoss {
  /** The scalar to descend. */
  readonly loss: tf.Scalar;
  /** Its parts and other scalars worth a curve, by metric name. */
  readonly metrics: { readonly [name: string]: tf.Scalar };
  /** [B, T, H, W, 3] in about [-1, 1]. */
  readonly reconstruction: tf.Tensor5D;
  /** [B, t, h, w, F] int32. */
  readonly ids: tf.Tensor5D;
}

/** Tokens in layers, coarse first, that may be words. */
export interface Lexical {
  /** Tokens of each layer in a latent frame; a frame's row has them layer by layer. */
  readonly layers: readonly number[];
  /** Words by id, where the codebook is one of words. Throws a UserError when its file does not tell. */
  words?(): readonly string[];
}

/**
 * A built tokenizer. All methods are traceable (ordinary tf operations). Pixels are float32 in
 * [-1, 1], channel-last. Any batch size works; clips must have the built shape.
 */
export interface Tokenizer {
  readonly type: string;
  /** All its variables: parameters and codebook statistics. */
  readonly scope: Scope;
  readonly clip: ClipShape;
  /** Whether no token depends on later frames, the first latent frame on the first frame alone. */
  readonly causal: boolean;
  /** False where a causal tokenizer cannot work piece by piece in bounded memory. */
  readonly streams?: boolean;
  /** What it reads: RGB clips, or waveforms as clips of one channel, [B, samples, 1, 1, 1]. */
  readonly modality: "video" | "audio";
  /** Whether its codes are continuous: ids carry nothing, only codes can be learned from. */
  readonly continuous: boolean;
  /** The token grid (t, h, w) of a clip. */
  readonly grid: readonly [number, number, number];
  /** The sizes of the sub-vocabularies; the vocabulary is their product. */
  readonly factors: readonly number[];
  /** Width D of a code. */
  readonly width: number;
  /** What to change in the config when few codes are in use. */
  readonly remedy: string;

  /** In place of the traceable methods, which an external tokenizer does not have. */
  readonly external?: External;

  /** @param clips [B, T, H, W, 3] in [-1, 1] */
  encode(clips: tf.Tensor5D): Tokens;
  /**
   * The codes that `encode` gives, with training's gradient to the encoder and the codebook: for fine-tuning
   * on another loss. Left out where a token's code is not what the decoder is given.
   */
  trainedCodes?(clips: tf.Tensor5D): tf.Tensor5D;
  /** Codes of ids: [B, t, h, w, F] int32 to [B, t, h, w, D]. */
  lookup(ids: tf.Tensor5D): tf.Tensor5D;
  /** Pixels of codes: [B, t, h, w, D] to [B, T, H, W, 3], not clipped. */
  decode(codes: tf.Tensor5D): tf.Tensor5D;
  /** Pyramids only: pixels from the first `layers` layers of the codes. */
  decodeLayers?(codes: tf.Tensor5D, layers: number): tf.Tensor5D;
  /** Pyramids only. */
  readonly lexical?: Lexical;
  /**
   * The random numbers of one training micro-batch, drawn on the host under names of their own, for
   * `loss`: the same seed and step give the same.
   * @param clips how many clips the micro-batch has
   * @param step the key of the draw; the micro-batches of a step have different ones
   * @param frames of the clips, where they are not those it is built for (images)
   */
  inputs(clips: number, seed: number, step: number, frames?: number): HostTensors;
  /**
   * The training loss. Codebook statistics are assigned inside (only when `training`).
   * @param clips [B, T, H, W, 3] in [-1, 1]
   * @param step scalar float32: optimizer steps done, the one clock of all schedules
   * @param noise what `inputs` drew (other names are ignored); without it nothing is random
   */
  loss(
    clips: tf.Tensor5D,
    step: tf.Scalar,
    training: boolean,
    noise?: { readonly [name: string]: tf.Tensor },
  ): TokenizerLoss;
}

/** log2 of the vocabulary: nominal bits of one token. */
export function bitsPerToken(tokenizer: Pick<Tokenizer, "factors">): number {
  return tokenizer.factors.reduce((bits, size) => bits + Math.log2(size), 0);
}
