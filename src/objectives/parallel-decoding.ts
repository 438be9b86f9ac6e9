/**
 * @file The loop of parallel decoding (MaskGIT, Chang et al. 2022, §3.2), for every network that
 * predicts masked tokens: a step predicts all undecided tokens, draws an id for each, and keeps the most
 * confident as many as the schedule says. All of it runs on the device, in one call where it has loops.
 */

import * as tf from "@tensorflow/tfjs-core";
import type { Static, TSchema } from "../config/schema.ts";
import { Type } from "../config/schema.ts";
import type { Device } from "../runtime/device.ts";
import { Random } from "../runtime/random.ts";
import { scan } from "../runtime/scan.ts";
import { bool, float32, type HostTensors, int32 } from "../runtime/tensors.ts";
import { decodingCounts, maskScheduleSchema } from "./mask-schedule.ts";
import { haltonOrder } from "./prior.ts";

/** Config keys of the loop, for the `sampling` nodes of the objectives. */
export const decodingProperties = {
  steps: Type.Integer({ minimum: 1, default: 12, description: "Decoding steps K." }),
  schedule: maskScheduleSchema("γ, from the share of steps done to the share still hidden."),
  order: Type.Union([Type.Literal("confidence"), Type.Literal("halton"), Type.Literal("random")], {
    default: "confidence",
    description:
      "Which tokens a step keeps: the most confident, the next of a Halton sequence (far apart from each other), or random ones.",
  }),
  choice_temperature: Type.Number({
    minimum: 0,
    default: 4.5,
    description:
      "Gumbel noise on the confidence, times (1 - k/K) in step k of K; more makes samples more varied.",
  }),
};
export type DecodingConfig = {
  readonly [K in keyof typeof decodingProperties]: (typeof decodingProperties)[K] extends TSchema
    ? Static<(typeof decodingProperties)[K]>
    : never;
};

/** Sequences under decoding. */
export interface Canvas {
  readonly size: number;
  /** Tokens of a sequence, and sub-ids of a token. */
  readonly tokens: number;
  readonly factors: number;
  readonly grid: readonly [number, number, number];
  /** [B, N, F]; filled in as tokens are decided. */
  readonly ids: Int32Array;
  /** [B, N]: 1 where a token is still to be decided. */
  readonly undecided: Uint8Array;
}

/** An empty canvas: all tokens undecided. */
export function emptyCanvas(
  size: number,
  grid: readonly [number, number, number],
  factors: number,
): Canvas {
  const tokens = grid[0] * grid[1] * grid[2];
  const ids = new Int32Array(size * tokens * factors);
  return { size, tokens, factors, grid, ids, undecided: new Uint8Array(size * tokens).fill(1) };
}

/** Decide a token with the sub-ids that stand at its place in `from` [B, N, F]. */
export function decide({ ids, undecided, factors }: Canvas, at: number, from: Int32Array): void {
  undecided[at] = 0;
  ids.set(from.subarray(at * factors, (at + 1) * factors), at * factors);
}

/** A canvas inside a compiled function. */
export interface Shown {
  /** [B, N, F] int32; zeros where undecided. */
  readonly ids: tf.Tensor3D;
  /** [B, N] bool. */
  readonly undecided: tf.Tensor2D;
}

/**
 * What a network draws for every place of a canvas: ids [B·N] of each factor and their log p [B·N].
 * @param noise uniform numbers [F, B·N]
 * @param scale of guidance, where the request has `scales`
 * @param beside the network's other inputs
 */
export type Predict = (
  shown: Shown,
  noise: tf.Tensor2D,
  scale: tf.Tensor | undefined,
  beside: { readonly [name: string]: tf.Tensor },
) => { readonly ids: readonly tf.Tensor1D[]; readonly logProbs: tf.Tensor };

export interface DecodingRequest {
  readonly seed: number;
  /**
   * Names the random numbers, which are keyed by (seed, stream, step) and drawn sample after sample: a sample's
   * numbers do not depend on how many others are made with it.
   */
  readonly stream: string;
  readonly steps: number;
  /** The network's other inputs. */
  readonly beside?: HostTensors;
  /** The scale of guidance in a step, from 0. */
  readonly scales?: (step: number) => number;
  readonly onProgress?: (done: number, total: number) => void;
}

/** A function that fills canvases by a network's predictions and gives their ids [B, N, F]. */
export function parallelDecoder(
  device: Device,
  name: string,
  sampling: Omit<DecodingConfig, "steps">,
  predict: Predict,
): (canvas: Canvas, request: DecodingRequest) => Promise<Int32Array> {
  const byConfidence = sampling.order === "confidence";
  const decode = device.compile(name, (inputs) => {
    const { ids, undecided, noise, choice, counts, scale, ...beside } = inputs;
    const [size, tokens, factors] = ids!.shape as [number, number, number];
    const { carry } = scan(
      noise!.shape[0]!,
      {
        carry: { ids: ids!, undecided: undecided! },
        slices: { noise: noise!, choice: choice!, counts: counts!, ...(scale && { scale }) },
      },
      (_, given, turn) => {
        const shown = given as unknown as Shown;
        const drawn = predict(shown, turn.noise as tf.Tensor2D, turn.scale, beside);
        const confidence = byConfidence
          ? tf.add(tf.reshape(drawn.logProbs, [size, tokens]), turn.choice!)
          : turn.choice!;
        const kept = mostConfident(confidence as tf.Tensor2D, shown.undecided, turn.counts!);
        const own = tf.reshape(tf.stack([...drawn.ids], 1), [size, tokens, factors]);
        return {
          carry: {
            ids: tf.where(tf.expandDims(kept, 2), own, shown.ids),
            undecided: tf.logicalAnd(shown.undecided, tf.logicalNot(kept)),
          },
        };
      },
    );
    return { ids: carry.ids!, undecided: carry.undecided! };
  });

  return async (canvas, { seed, stream, steps: most, beside, scales, onProgress }) => {
    const { size, tokens, factors, ids, undecided } = canvas;
    const places = size * tokens;
    const ranks = sampling.order === "halton" ? haltonRanks(canvas.grid) : undefined;
    const counts = Array.from({ length: size }, (_, b) => {
      const unknown = undecided.subarray(b * tokens, (b + 1) * tokens).filter(Boolean).length;
      return decodingCounts(sampling.schedule, unknown, most);
    });
    const steps = Math.max(0, ...counts.map((each) => each.length));
    const together = device.loops ? steps : 1;
    for (let first = 0; first < steps; first += together) {
      const noise = new Float32Array(together * factors * places);
      const choices = new Float32Array(together * places);
      const kept = new Int32Array(together * size);
      for (let turn = 0; turn < together; turn++) {
        const step = first + turn;
        const uniforms = new Random(seed, `${stream}/draw`, step).uniforms(places * factors);
        for (let i = 0; i < uniforms.length; i++) {
          const place = i % places; // [B·N, F] as drawn to [F, B·N] as used
          noise[turn * factors * places + i] = uniforms[place * factors + Math.floor(i / places)]!;
        }
        const choice = new Random(seed, `${stream}/choice`, step);
        const amount = sampling.choice_temperature * (1 - Math.min(1, (step + 1) / most));
        for (let i = 0; i < places; i++) {
          const number = (choice.uint32() + 0.5) / 0x100000000;
          choices[turn * places + i] = ranks
            ? -ranks[i % tokens]!
            : byConfidence
              ? -amount * Math.log(-Math.log(number))
              : number;
        }
        counts.forEach((each, b) => (kept[turn * size + b] = each[step] ?? 0));
      }
      const made = await decode({
        ids: int32([size, tokens, factors], ids.slice()),
        undecided: bool([size, tokens], undecided.slice()),
        noise: float32([together, factors, places], noise),
        choice: float32([together, size, tokens], choices),
        counts: int32([together, size, 1], kept),
        ...(scales && {
          scale: float32(
            [together],
            Float32Array.from({ length: together }, (_, turn) => scales(first + turn)),
          ),
        }),
        ...beside,
      });
      ids.set(made["ids"]!.data);
      undecided.set(made["undecided"]!.data);
      onProgress?.(first + together, steps);
    }
    return ids;
  };
}

/** The rank of each token in the Halton order (Besnier et al. 2025): tokens of a step lie far apart. */
function haltonRanks(grid: readonly [number, number, number]): Int32Array {
  const order = haltonOrder(grid);
  const ranks = new Int32Array(order.length);
  order.forEach((place, rank) => (ranks[place] = rank));
  return ranks;
}

/**
 * The undecided places of each row with the highest confidence, as many as the row's count; ties go to the
 * earlier ones.
 * @param confidence [B, N]
 * @param undecided [B, N] bool
 * @param counts [B, 1] int32
 * @returns [B, N] bool
 */
function mostConfident(
  confidence: tf.Tensor2D,
  undecided: tf.Tensor2D,
  counts: tf.Tensor,
): tf.Tensor2D {
  const tokens = confidence.shape[1];
  const own = tf.where(undecided, confidence, tf.fill(confidence.shape, -Infinity));
  const falling = tf.topk(own, tokens).values; // [B, N]
  const numbers = tf.tensor2d(
    Int32Array.from({ length: tokens }, (_, n) => n + 1),
    [1, tokens],
    "int32",
  );
  const here = tf.equal(numbers, counts); // [B, N]: the last that is kept
  const least = tf.sum(tf.where(here, falling, tf.zerosLike(falling)), 1, true); // [B, 1]
  const above = tf.logicalAnd(undecided, tf.greater(own, least));
  const equal = tf.logicalAnd(undecided, tf.equal(own, least));
  const missing = tf.sub(tf.cast(counts, "float32"), tf.sum(tf.cast(above, "float32"), 1, true));
  const early = tf.lessEqual(tf.cumsum(tf.cast(equal, "float32"), 1), missing); // [B, N]
  const chosen = tf.logicalOr(above, tf.logicalAnd(equal, early));
  return tf.logicalAnd(chosen, tf.greater(counts, 0)) as tf.Tensor2D;
}
