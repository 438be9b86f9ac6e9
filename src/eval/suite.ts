/** @file Evaluation suites, scores and the protocols that give scores their meaning. */

import { createHash } from "node:crypto";
import canonicalize from "canonicalize";
import type { Dataset } from "../data/dataset.ts";
import type { Objective } from "../objectives/objective.ts";
import type { Device } from "../runtime/device.ts";
import type { Tokenizer } from "../tokenizers/tokenizer.ts";

/**
 * Every choice that a number depends on: split, clip sampling, range, feature network and its
 * weights' hash, covariance convention, sample count, seed, ... Plain JSON.
 */
export interface Protocol {
  /** e.g. "psnr:per-frame", "frechet:moving-shapes-v1". Unique for what the other fields fix. */
  readonly name: string;
  readonly [choice: string]: unknown;
}

export interface Score {
  /** Unique in a run, e.g. "reconstruction/psnr". */
  readonly name: string;
  readonly value: number;
  /** e.g. "dB", "bits/pixel", "%". */
  readonly unit?: string;
  readonly better: "higher" | "lower" | "none";
  readonly protocol: Protocol;
  /** `protocolHash(protocol)`: scores are comparable only when it is equal. */
  readonly protocolHash: string;
  /** The number of clips, tokens or samples behind the value, as the protocol counts them. */
  readonly n: number;
  /** Standard error over clips, or deviation over repeats: the protocol's `spread` says which. */
  readonly std?: number;
  /** A time, a memory, a foreign encoder: measured again, it comes out a little different. */
  readonly measured?: true;
}

/** The first 12 hex digits of the SHA-256 of the protocol's canonical JSON (RFC 8785). */
export function protocolHash(protocol: Protocol): string {
  return createHash("sha256").update(canonicalize(protocol)!).digest("hex").slice(0, 12);
}

/** What a suite may use. Suites read; they change nothing. */
export interface EvalContext {
  readonly device: Device;
  readonly seed: number;
  /** Clips a batch. */
  readonly batch: number;
  dataset(split: "train" | "validation"): Promise<Dataset>;
  /** The trained tokenizer (averaged weights where the run keeps them). */
  readonly tokenizer: Tokenizer;
  /** Absent when the run trains no transformer. */
  readonly objective?: Objective;
  /** A folder for pictures and clips of this suite, made on first use. */
  samplesDir(): string;
  /** A line for people; the caller says which suite it is of. */
  progress(message: string, done?: number, total?: number): void;
  /** Say why a suite gives no score, or one that is to be read with care. */
  warn(message: string): void;
}

/** One evaluation: its scores, and what its pictures show. */
export interface Suite {
  readonly type: string;
  run(context: EvalContext): Promise<Score[]>;
}
