/** @file What a transformer learns from tokens, and how it makes new ones. */

import type * as tf from "@tensorflow/tfjs-core";
import type { Scope } from "../models/scope.ts";
import type { Device } from "../runtime/device.ts";
import type { HostTensors } from "../runtime/tensors.ts";
import type { TokenPrior } from "./prior.ts";
import type { AudioTokenizer } from "../tokenizers/spectral-audio.ts";
import type { Tokenizer } from "../tokenizers/tokenizer.ts";
import type { TextTokenizer } from "./multimodal/words.ts";
import type { ClipGeometry, ClipVariant } from "./tasks.ts";

/** The token sequences that a transformer is built for. */
export interface TokenSpace {
  /** The latent grid (t, h, w); sequences are flattened in this order, N = t·h·w. */
  readonly grid: readonly [number, number, number];
  /** Sizes of the F sub-vocabularies. */
  readonly factors: readonly number[];
  /** Channels of a latent, where latents are continuous. */
  readonly latentWidth?: number;
  /** Number of class labels; 0 when there are none. */
  readonly classes: number;
  /** The clips behind the tokens, which conditional tasks are laid out on. */
  readonly clip?: ClipGeometry;
  /** The tokenizers of captions and of sound, for multi-modal models. */
  readonly text?: TextTokenizer;
  readonly audio?: AudioTokenizer;
  /** The tokenizer of small clips, for super-resolution. */
  readonly low?: Tokenizer;
}

/** What the conditional tasks of a batch show. */
export interface TaskConditions {
  /** [B], each an index into `Objective.tasks`. */
  readonly tasks: Int32Array;
  /** B·N·F sub-ids of the padded or otherwise changed clips; read only where the task shows them. */
  readonly ids: Int32Array;
}

/** What a training or validation batch holds on the host. */
export interface TokenBatch {
  /** B·N·F sub-ids, row-major. */
  readonly ids: Int32Array;
  /** B labels. */
  readonly labels: Int32Array;
  readonly size: number;
  /** B·N·C latents, for objectives over continuous latents. */
  readonly codes?: Float32Array;
  /** For objectives with tasks. */
  readonly conditions?: TaskConditions;
  /** [B, L] ids of captions, -1 behind their ends, for objectives that read text. */
  readonly texts?: Int32Array;
  /** [B, frames, levels] audio codes, for objectives that know sound. */
  readonly audio?: Int32Array;
  /** [B, M, F] sub-ids of the clips' small versions, for super-resolution. */
  readonly low?: Int32Array;
}

export interface SampleOptions {
  /** One label a sample. */
  readonly labels: Int32Array;
  readonly seed: number;
  /** Sub-ids that are given, [B, N, F], with `known` [B, N] saying which tokens; they never change. */
  readonly condition?: { readonly ids: Int32Array; readonly known: Uint8Array };
  /** For objectives with tasks: what each sample is to do, and the tokens of its padded clip. */
  readonly conditions?: TaskConditions;
  readonly onProgress?: (done: number, total: number) => void;
}

/** The tasks of an objective. */
export interface TaskMixture {
  readonly names: readonly string[];
  /** Per task: which change of the clip its condition's tokens are of, if any. */
  readonly variants: readonly (ClipVariant | undefined)[];
  /** Frames that FP and CFP are given. */
  readonly conditionFrames: number;
  /** The tasks of one step's samples: indices into `names`, [size]. */
  draw(size: number, seed: number, step: number, training: boolean): Int32Array;
}

/**
 * A built objective with its transformer. Random numbers are data: `inputs` draws them on the host
 * for one step, `loss` is traceable and gets them as tensors.
 */
export interface Objective {
  readonly type: string;
  readonly scope: Scope;
  readonly space: TokenSpace;
  /** Absent when samples are made from a label alone. */
  readonly tasks?: TaskMixture;
  /** Text positions of its sequences, when it reads text. */
  readonly textLength?: number;

  /**
   * The device inputs of one step: ids and labels and the step's noise (masks, dropped labels).
   * @param seed the run's seed; @param step the key of the noise: same step, same noise
   */
  inputs(batch: TokenBatch, seed: number, step: number, training: boolean): HostTensors;
  /** The loss (nats a predicted token, see each objective) and scalars worth a curve. */
  loss(inputs: { readonly [name: string]: tf.Tensor }): {
    readonly loss: tf.Scalar;
    readonly metrics: { readonly [name: string]: tf.Scalar };
  };
  /** New token sequences: B·N·F sub-ids. Compiles what it needs on `device` once. */
  sampler(device: Device): (options: SampleOptions) => Promise<Int32Array>;
  /** The transformer as a probability model for coding tokens without loss, where it can be one. */
  prior?(device: Device): TokenPrior;
}
