/**
 * @file A trained transformer as a probability model for lossless coding: it tells the logits of
 * groups of tokens, one group after the other, given the tokens of all earlier groups. The two sides
 * of a code ask the very same questions in the same order, so they see the same numbers bit for bit
 * on one machine and device.
 *
 * Causal: one token a group, by the cached step that sampling uses (never by the pass over whole
 * sequences, whose rounding differs). Masked: the tokens in a fixed order that spreads over the latent
 * grid (a Halton sequence), in groups that grow as more is known, after M2T (Mentzer, Agustsson &
 * Tschannen 2023): tokens of a group are coded as independent of each other, so they should lie far
 * apart.
 */

import * as tf from "@tensorflow/tfjs-core";
import { cacheValues, keepCache, type Transformer } from "../models/transformer.ts";
import type { Compiled, Device } from "../runtime/device.ts";
import { bool, type HostTensor, int32 } from "../runtime/tensors.ts";
import { decodingCounts } from "./mask-schedule.ts";
import { networkLabel } from "./sampling.ts";

/** Tokens that are predicted at once. */
export interface PriorGroup {
  /** Their places in the sequence, the same for all samples. */
  readonly places: readonly number[];
  /**
   * Logits of one factor's sub-id.
   * @returns V values; a view that is good until the next group
   */
  logits(sample: number, place: number, factor: number): Float32Array;
}

/** See the file comment. */
export interface TokenPrior {
  readonly type: string;
  /** Changes when the order or the grouping does; part of a bitstream's identity. */
  readonly version: string;
  /**
   * All groups of `size` sequences in their order. Before the next group is asked for, the tokens of
   * this one must stand in `ids`.
   * @param ids [B, N, F], row-major; read at places of earlier groups only
   * @param labels B labels, -1 for none
   */
  groups(ids: Int32Array, labels: Int32Array): AsyncGenerator<PriorGroup>;
}

/** Radical inverse of `index` in `base`: the digits mirrored at the point. */
function radicalInverse(index: number, base: number): number {
  let [value, scale, rest] = [0, 1 / base, index];
  while (rest > 0) {
    value += scale * (rest % base);
    rest = Math.floor(rest / base);
    scale /= base;
  }
  return value;
}

/**
 * All places of a latent grid in an order whose every beginning covers it evenly: the cells that the
 * points of a Halton sequence (bases 2, 3, 5) fall into, each when it is first hit.
 * @returns N places in (t, h, w) order of the flattened grid
 */
export function haltonOrder(grid: readonly [number, number, number]): number[] {
  const [t, h, w] = grid;
  const order: number[] = [];
  const seen = new Uint8Array(t * h * w);
  // Nearly all cells are hit within a few N points; the rest follows in plain order.
  for (let i = 1; order.length < seen.length && i < 64 * seen.length; i++) {
    const cell = (base: number, side: number) => Math.floor(radicalInverse(i, base) * side);
    const place = (cell(5, t) * h + cell(2, h)) * w + cell(3, w);
    if (!seen[place]) {
      seen[place] = 1;
      order.push(place);
    }
  }
  seen.forEach((hit, place) => hit || order.push(place));
  return order;
}

const view = (logits: HostTensor, row: number): Float32Array => {
  const size = logits.shape[1]!;
  return (logits.data as Float32Array).subarray(row * size, (row + 1) * size);
};

/** Steps of the masked prior: more steps know more of a token's neighbours and cost as much more. */
const maskedSteps = 24;

/** The prior of a masked transformer. */
export function buildMaskedPrior(device: Device, transformer: Transformer): TokenPrior {
  const { tokens, space } = transformer;
  const factors = space.factors.length;
  const predict = device.compile("prior/masked", (inputs) => {
    const logits = transformer.bidirectional(
      inputs.ids as tf.Tensor3D,
      inputs.masked as tf.Tensor2D,
      inputs.labels as tf.Tensor1D,
    );
    return Object.fromEntries(logits.map((each, f) => [`logits${f}`, each])); // [B·N, V] each
  });
  const order = haltonOrder(space.grid);
  const counts = decodingCounts("cosine", tokens, maskedSteps);
  return {
    type: "masked",
    version: `halton-cosine-${maskedSteps}`,
    async *groups(ids, labels) {
      const size = labels.length;
      const masked = new Uint8Array(size * tokens).fill(1);
      const known = new Int32Array(ids.length); // what is not known yet must not be looked at
      const classes = int32(
        [size],
        Array.from(labels, (l) => networkLabel(l, space.classes)),
      );
      let done = 0;
      for (const count of counts) {
        const logits = await predict({
          ids: int32([size, tokens, factors], known),
          masked: bool([size, tokens], masked),
          labels: classes,
        });
        const places = order.slice(done, done + count);
        done += count;
        yield {
          places,
          logits: (sample, place, factor) =>
            view(logits[`logits${factor}`]!, sample * tokens + place),
        };
        for (let b = 0; b < size; b++) {
          for (const place of places) {
            const at = b * tokens + place;
            masked[at] = 0;
            known.set(ids.subarray(at * factors, (at + 1) * factors), at * factors);
          }
        }
      }
    },
  };
}

/** The prior of a causal transformer. */
export function buildCausalPrior(device: Device, transformer: Transformer): TokenPrior {
  const { tokens, space } = transformer;
  const factors = space.factors.length;
  // The cache belongs to one batch size, so the function does too.
  const steps = new Map<number, Compiled>();
  const stepOf = (size: number): Compiled => {
    let step = steps.get(size);
    if (!step) {
      device.activate();
      const cache = transformer.buildCache(size);
      step = device.compile(`prior/causal/${size}`, (inputs) => {
        const { logits, cache: left } = transformer.causalStep(
          inputs.previous as tf.Tensor2D,
          inputs.labels as tf.Tensor1D,
          inputs.position as tf.Tensor1D,
          cacheValues(cache),
        );
        keepCache(cache, left);
        return Object.fromEntries(logits.map((each, f) => [`logits${f}`, each])); // [B, V] each
      });
      steps.set(size, step);
    }
    return step;
  };
  return {
    type: "causal",
    version: "causal",
    async *groups(ids, labels) {
      const size = labels.length;
      const step = stepOf(size);
      const classes = int32(
        [size],
        Array.from(labels, (l) => networkLabel(l, space.classes)),
      );
      const previous = new Int32Array(size * factors);
      for (let place = 0; place < tokens; place++) {
        const logits = await step({
          previous: int32([size, factors], previous),
          labels: classes,
          position: int32([1], [place]),
        });
        yield {
          places: [place],
          logits: (sample, _, factor) => view(logits[`logits${factor}`]!, sample),
        };
        for (let b = 0; b < size; b++) {
          const at = (b * tokens + place) * factors;
          previous.set(ids.subarray(at, at + factors), b * factors);
        }
      }
    },
  };
}
