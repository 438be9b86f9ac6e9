/**
 * @file Exponential moving average of the parameters (Polyak & Juditsky 1992), used for validation
 * and evaluation. Only parameters are averaged: codebook statistics are moving averages already and
 * stay as they are.
 */

import * as tf from "@tensorflow/tfjs-core";
import { Scope } from "../models/scope.ts";
import type { HostTensor } from "../runtime/tensors.ts";
import {
  getVariable,
  joinPack,
  joinValues,
  nameValues,
  type Pack,
  setVariable,
  splitPack,
} from "./packing.ts";

/** The average of packed parameters, living as variables of the active device. */
export class MovingAverage {
  readonly #scope = Scope.root(0).child("ema");
  /** One vector a pack. */
  readonly vectors: readonly tf.Variable<tf.Rank.R1>[];

  /** Starts as zeros: call `load` or `start` before the first use. */
  constructor(readonly packs: readonly Pack[]) {
    this.vectors = packs.map(
      (pack, i) => this.#scope.state(`average${i}`, [pack.size]) as tf.Variable<tf.Rank.R1>,
    );
  }

  /** Begin at the parameters' present values. */
  async start(): Promise<void> {
    for (const [i, pack] of this.packs.entries()) {
      const joined = new Float32Array(pack.size);
      let offset = 0;
      for (const variable of pack.variables) {
        joined.set(await getVariable(variable), offset);
        offset += variable.size;
      }
      setVariable(this.vectors[i]!, joined);
    }
  }

  /**
   * Traceable: average ← average + (1 - decay)(parameters - average).
   * @param parameters one vector a pack
   * @param rate scalar 1 - decay
   */
  update(parameters: readonly tf.Tensor1D[], rate: tf.Scalar): void {
    for (const [i, vector] of this.vectors.entries()) {
      vector.assign(tf.add(vector, tf.mul(tf.sub(parameters[i]!, vector), rate)));
    }
  }

  /** Traceable: exchange average and parameters. Twice is exactly nothing. */
  swap(): void {
    for (const [i, pack] of this.packs.entries()) {
      const vector = this.vectors[i]!;
      // The average is read before it is overwritten; `clone` keeps an eager device's value alive.
      const average = tf.clone(vector) as tf.Tensor1D;
      vector.assign(joinPack(pack.variables.map((variable) => tf.clone(variable))));
      for (const [k, part] of splitPack(pack, average).entries()) {
        pack.variables[k]!.assign(part);
      }
    }
  }

  /** The averages under "ema/<parameter>". */
  async save(into: Map<string, HostTensor>): Promise<void> {
    for (const [i, pack] of this.packs.entries()) {
      for (const [name, tensor] of nameValues(pack, await getVariable(this.vectors[i]!), "ema/")) {
        into.set(name, tensor);
      }
    }
  }

  /** Take the averages of a checkpoint. */
  load(tensors: ReadonlyMap<string, HostTensor>): void {
    for (const [i, pack] of this.packs.entries()) {
      setVariable(this.vectors[i]!, joinValues(pack, tensors, "ema/"));
    }
  }

  dispose(): void {
    this.#scope.dispose();
  }
}
