/**
 * @file Probabilities of one sub-id from several experts: the trained transformer, the transformer
 * with its logits halved (for data it is too sure about), frequencies learned on the way, and the
 * token that stood at the same place one span of frames before. Their weights follow how well each has
 * predicted so far (Bayes' rule with a fixed share that keeps any from dying out; Herbster & Warmuth
 * 1998, "Tracking the best expert"), so a file is never much larger than with its best expert: on
 * videos unlike the training set a transformer alone would spend more than a fixed-length code.
 *
 * All arithmetic is float64 on the host in a fixed order: equal logits give equal tables.
 */

import { maxTotal } from "./arithmetic.ts";

/** Share of the weights that is spread over all experts after each symbol. */
const share = 0.003;
/** What one occurrence adds to a symbol's initial count of one. */
const gain = 16;

/** The experts of one factor. Both sides of a code hold one and feed it the same symbols. */
export class ExpertMixture {
  readonly #size: number;
  readonly #counts: Float64Array;
  #total: number;
  #hits = 1;
  #tries = 2;
  /** Weights of transformer, softened transformer, frequencies, repetition. */
  readonly #weights = [0.4, 0.2, 0.2, 0.2];
  readonly #sharp: Float64Array;
  readonly #soft: Float64Array;
  /** Integer frequencies of the next symbol, each at least 1; they sum to `maxTotal`. */
  readonly frequencies: Float64Array;
  #before = -1;

  constructor(size: number) {
    this.#size = size;
    this.#counts = new Float64Array(size).fill(1);
    this.#total = size;
    this.#sharp = new Float64Array(size);
    this.#soft = new Float64Array(size);
    this.frequencies = new Float64Array(size);
  }

  /**
   * Make the next symbol's frequencies.
   * @param logits V values of the transformer
   * @param before the symbol at the same place one span earlier; -1 where there is none
   */
  predict(logits: Float32Array, before: number): void {
    const size = this.#size;
    let top = Number.NEGATIVE_INFINITY;
    for (let i = 0; i < size; i++) {
      top = Math.max(top, logits[i]!);
    }
    if (!Number.isFinite(top)) {
      throw new Error("the prior's logits are not finite");
    }
    const [sharp, soft] = [this.#sharp, this.#soft];
    let [sharpSum, softSum] = [0, 0];
    for (let i = 0; i < size; i++) {
      soft[i] = Math.exp((logits[i]! - top) / 2);
      sharp[i] = soft[i]! * soft[i]!;
      softSum += soft[i]!;
      sharpSum += sharp[i]!;
    }
    this.#before = before;
    const [w0, w1, w2, w3] = this.#weights as [number, number, number, number];
    const repeat = this.#repeat();
    const counted = (w2 + w3 * (1 - repeat)) / this.#total;
    const spare = maxTotal - size;
    const table = this.frequencies;
    let given = 0;
    let best = 0;
    for (let i = 0; i < size; i++) {
      sharp[i]! /= sharpSum;
      soft[i]! /= softSum;
      const p = w0 * sharp[i]! + w1 * soft[i]! + counted * this.#counts[i]!;
      table[i] = 1 + Math.floor((i === before ? p + w3 * repeat : p) * spare);
      given += table[i]!;
      best = table[i]! > table[best]! ? i : best;
    }
    table[best]! += maxTotal - given;
  }

  /** Learn the symbol that `predict` was about. */
  update(symbol: number): void {
    const order0 = this.#counts[symbol]! / this.#total;
    const repeat = this.#repeat();
    const repeated = (1 - repeat) * order0 + (symbol === this.#before ? repeat : 0);
    const likelihoods = [this.#sharp[symbol]!, this.#soft[symbol]!, order0, repeated];
    const weights = this.#weights;
    let sum = 0;
    for (let k = 0; k < weights.length; k++) {
      weights[k]! *= likelihoods[k]!;
      sum += weights[k]!;
    }
    for (let k = 0; k < weights.length; k++) {
      weights[k] = (1 - share) * (weights[k]! / sum) + share / weights.length;
    }
    this.#counts[symbol]! += gain;
    this.#total += gain;
    if (this.#before >= 0) {
      this.#hits += symbol === this.#before ? 1 : 0;
      this.#tries += 1;
    }
  }

  /** Probability that the symbol of one span earlier occurs again. */
  #repeat(): number {
    return this.#before < 0 ? 0 : this.#hits / this.#tries;
  }
}
