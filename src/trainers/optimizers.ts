/**
 * @file AdamW (Loshchilov & Hutter 2019, "Decoupled weight decay regularization", alg. 2) with
 * clipping of the global gradient norm (Pascanu et al. 2013) and gradient accumulation, as ordinary
 * traceable operations on packed parameters (packing.ts).
 *
 * What depends on the step (learning rate, bias corrections) is computed on the host in float64 and
 * passed in as scalars, so one trace serves the whole run.
 */

import * as tf from "@tensorflow/tfjs-core";
import { Scope } from "../models/scope.ts";
import { averageOverRanks } from "../runtime/collective.ts";
import { fusedAdamW, sumOfSquares } from "../runtime/optimizer-kernels.ts";
import { type HostTensor, type HostTensors, float32 } from "../runtime/tensors.ts";
import { hasKernel } from "../runtime/tracing.ts";
import {
  getVariable,
  joinPack,
  joinValues,
  nameValues,
  type Pack,
  packParameters,
  setVariable,
  splitPack,
} from "./packing.ts";

export interface AdamWOptions {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  /** Decoupled decay, multiplied by the learning rate; acts on tensors of rank >= 2. */
  readonly weight_decay: number;
  /** Largest global gradient norm; 0 never clips. */
  readonly clip_norm: number;
}

/** Gradients by full variable name; null where the loss does not depend on a variable. */
export type Gradients = { readonly [name: string]: tf.Tensor | null };

/** Step-dependent scalars of one update; see `adamwScalars`. */
export interface AdamWScalars {
  /** lr · √(1 - β2^t) / (1 - β1^t): the step size with both bias corrections. */
  readonly rate: tf.Scalar;
  /** ε · √(1 - β2^t): ε moved to the uncorrected second moment. */
  readonly epsilon: tf.Scalar;
  /** 1 - lr · weight_decay. */
  readonly keep: tf.Scalar;
}

/**
 * The scalars of step t = step + 1, as host tensors named "adamw_...".
 * @param step optimizer steps done before this one
 */
export function adamwScalars(options: AdamWOptions, lr: number, step: number): HostTensors {
  const correction1 = 1 - options.beta1 ** (step + 1);
  const correction2 = Math.sqrt(1 - options.beta2 ** (step + 1));
  return {
    adamw_rate: float32([], [(lr * correction2) / correction1]),
    adamw_epsilon: float32([], [options.epsilon * correction2]),
    adamw_keep: float32([], [1 - lr * options.weight_decay]),
  };
}

/**
 * One AdamW update of vectors of one shape. With g the gradient:
 * m' = m + (1 - β1)(g - m), v' = v + (1 - β2)(g² - v), p' = keep · p - rate · m' / (√v' + ε).
 */
export function adamwUpdate(
  { p, m, v, g }: { p: tf.Tensor1D; m: tf.Tensor1D; v: tf.Tensor1D; g: tf.Tensor1D },
  { rate, epsilon, keep }: AdamWScalars,
  { beta1, beta2 }: Pick<AdamWOptions, "beta1" | "beta2">,
  decayed: boolean,
): { p: tf.Tensor1D; m: tf.Tensor1D; v: tf.Tensor1D } {
  const mNew = tf.add(m, tf.mul(tf.sub(g, m), 1 - beta1)) as tf.Tensor1D;
  const vNew = tf.add(v, tf.mul(tf.sub(tf.mul(g, g), v), 1 - beta2)) as tf.Tensor1D;
  const direction = tf.div(mNew, tf.add(tf.sqrt(vNew), epsilon));
  const kept = decayed ? tf.mul(p, keep) : p;
  return { p: tf.sub(kept, tf.mul(direction, rate)), m: mNew, v: vNew };
}

interface Moments {
  readonly pack: Pack;
  readonly m: tf.Variable<tf.Rank.R1>;
  readonly v: tf.Variable<tf.Rank.R1>;
  /** Sum of the gradients so far, when they are accumulated. */
  readonly sum: tf.Variable<tf.Rank.R1> | undefined;
}

/** A moving average that an update may carry out along with its own work. */
export interface Average {
  /** One vector a pack. */
  readonly vectors: readonly tf.Variable<tf.Rank.R1>[];
  /** 1 - decay. */
  readonly rate: tf.Scalar;
  /** Traceable: the average by itself, from the new parameters of each pack. */
  readonly update: (parameters: readonly tf.Tensor1D[], rate: tf.Scalar) => void;
}

/** AdamW over named parameters: the moments live as variables of the active device. */
export class AdamW {
  readonly packs: readonly Pack[];
  readonly #scope = Scope.root(0).child("optimizer");
  readonly #moments: readonly Moments[];

  /** @param accumulate number of micro-batches whose mean gradient makes one update */
  constructor(
    parameters: ReadonlyMap<string, tf.Variable>,
    readonly options: AdamWOptions,
    readonly accumulate: number,
  ) {
    this.packs = packParameters(parameters);
    this.#moments = this.packs.map((pack, i) => {
      const vector = (kind: string) =>
        this.#scope.state(`${kind}${i}`, [pack.size]) as tf.Variable<tf.Rank.R1>;
      return {
        pack,
        m: vector("m"),
        v: vector("v"),
        sum: accumulate > 1 ? vector("sum") : undefined,
      };
    });
  }

  /** Traceable: add one micro-batch's gradients to the sums. */
  addGradients(gradients: Gradients): void {
    for (const { pack, sum } of this.#moments) {
      sum!.assign(tf.add(sum!, joinGradients(pack, gradients)));
    }
  }

  /**
   * Traceable: one update, from `gradients` or else from the sums, which start again at zero. When
   * the gradient norm is not finite the parameters stay exactly as they are, so that the cause can
   * be looked for afterwards.
   * @param average follows the new parameters
   * @returns the global gradient norm before clipping
   */
  update(scalars: AdamWScalars, gradients?: Gradients, average?: Average): tf.Scalar {
    if (hasKernel("TesseraAdamW")) {
      return this.#fusedUpdate(scalars, gradients, average);
    }
    const joined = gradients
      ? this.#averaged(gradients)
      : (averageOverRanks(
          this.#moments.map(({ sum }) => tf.mul(sum!, 1 / this.accumulate)),
        ) as tf.Tensor1D[]);
    const squares = joined.map((g) => tf.sum(tf.mul(g, g)));
    const gradNorm = tf.sqrt(squares.length === 1 ? squares[0]! : tf.addN(squares)) as tf.Scalar;
    // NaN compares as false, and so does infinity.
    const finite = tf.less(gradNorm, 3e38) as tf.Scalar;
    const clip = this.options.clip_norm;
    const scale = clip > 0 ? tf.div(clip, tf.maximum(gradNorm, clip)) : tf.onesLike(gradNorm);
    const guarded: AdamWScalars = {
      rate: tf.where(finite, scalars.rate, tf.zerosLike(scalars.rate)),
      epsilon: scalars.epsilon,
      keep: tf.where(finite, scalars.keep, tf.onesLike(scalars.keep)),
    };
    const parameters = this.#moments.map(({ pack, m, v, sum }, i) => {
      const g = tf.where(finite, tf.mul(joined[i]!, scale), tf.zerosLike(joined[i]!));
      const p = joinPack(pack.variables);
      const next = adamwUpdate(
        { p, m, v, g: g as tf.Tensor1D },
        guarded,
        this.options,
        pack.decayed,
      );
      m.assign(next.m);
      v.assign(next.v);
      sum?.assign(tf.zerosLike(sum));
      for (const [k, part] of splitPack(pack, next.p).entries()) {
        pack.variables[k]!.assign(part);
      }
      return next.p;
    });
    average?.update(parameters, average.rate);
    return gradNorm;
  }

  /** The gradients' means over the ranks that train together, as one vector a pack. */
  #averaged(gradients: Gradients): tf.Tensor1D[] {
    const names = Object.keys(gradients);
    const means = averageOverRanks(names.map((name) => gradients[name]!));
    const all = Object.fromEntries(names.map((name, i) => [name, means[i]!]));
    return this.packs.map((pack) => joinGradients(pack, all));
  }

  /** The same where the device has a kernel for it: one pass over each pack, tensors as they are. */
  #fusedUpdate(scalars: AdamWScalars, gradients?: Gradients, average?: Average): tf.Scalar {
    const { clip_norm: clip, beta1, beta2 } = this.options;
    const separate = this.#moments.map(({ pack, sum }) =>
      gradients
        ? pack.names.map((name, k) => gradients[name] ?? tf.zeros(pack.variables[k]!.shape))
        : splitPack(pack, tf.mul(sum!, 1 / this.accumulate) as tf.Tensor1D),
    );
    const gradNorm = tf.sqrt(sumOfSquares(separate.flat()));
    const finite = tf.less(gradNorm, 3e38); // false for NaN too
    const one = tf.onesLike(gradNorm) as tf.Scalar;
    const scale = clip > 0 ? (tf.div(clip, tf.maximum(gradNorm, clip)) as tf.Scalar) : one;
    this.#moments.forEach(({ pack, m, v, sum }, i) => {
      const following = average?.vectors[i];
      const next = fusedAdamW(
        {
          ...scalars,
          scale,
          averageRate: average?.rate ?? one,
          changes: finite,
          vectors: following ? [m, v, following] : [m, v],
          gradients: separate[i]!,
          parameters: pack.variables,
        },
        { beta1, beta2, decayed: pack.decayed, averaged: following !== undefined },
      );
      m.assign(next.vectors[0] as tf.Tensor1D);
      v.assign(next.vectors[1] as tf.Tensor1D);
      following?.assign(next.vectors[2] as tf.Tensor1D);
      sum?.assign(tf.zerosLike(sum));
      for (const [k, part] of next.parameters.entries()) {
        pack.variables[k]!.assign(part);
      }
    });
    return gradNorm as tf.Scalar;
  }

  /** The moments under "optimizer/m/<parameter>" and "optimizer/v/<parameter>". */
  async save(into: Map<string, HostTensor>): Promise<void> {
    for (const { pack, m, v } of this.#moments) {
      for (const [kind, variable] of [
        ["m", m],
        ["v", v],
      ] as const) {
        const named = nameValues(pack, await getVariable(variable), `optimizer/${kind}/`);
        for (const [name, tensor] of named) {
          into.set(name, tensor);
        }
      }
    }
  }

  /** Take the moments of a checkpoint. */
  load(tensors: ReadonlyMap<string, HostTensor>): void {
    for (const { pack, m, v } of this.#moments) {
      setVariable(m, joinValues(pack, tensors, "optimizer/m/"));
      setVariable(v, joinValues(pack, tensors, "optimizer/v/"));
    }
  }

  dispose(): void {
    this.#scope.dispose();
  }
}

function joinGradients(pack: Pack, gradients: Gradients): tf.Tensor1D {
  return joinPack(
    pack.names.map((name, i) => gradients[name] ?? tf.zeros(pack.variables[i]!.shape)),
  );
}
