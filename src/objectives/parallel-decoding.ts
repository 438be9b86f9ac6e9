/**
 * @file The loop of parallel decoding (MaskGIT, Chang et al. 2022, §3.2), for every network that
 * predicts masked tokens: a step predicts all undecided tokens, draws an id for each, and keeps the most
 * confident as many as the schedule says. What is kept is decided on the host in float64.
 */

import type { Static, TSchema } from "../config/schema.ts";
import { Type } from "../config/schema.ts";
import { Random } from "../runtime/random.ts";
import { type HostTensor, type HostTensors, float32 } from "../runtime/tensors.ts";
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

/**
 * Fill a canvas.
 * @param stream names the random numbers, which are keyed by (seed, stream, step) and drawn sample after
 *   sample: a sample's numbers do not depend on how many others are made with it
 * @param predict `ids` [F, B·N] and `log_probs` [B·N] of what the network draws for every place with the
 *   uniform numbers `noise` [F, B·N]; `step` counts from 0
 */
export async function decodeInParallel(
  canvas: Canvas,
  sampling: DecodingConfig,
  { seed, stream }: { readonly seed: number; readonly stream: string },
  predict: (step: number, noise: HostTensor) => Promise<HostTensors>,
  onProgress?: (done: number, total: number) => void,
): Promise<Int32Array> {
  const { size, tokens, factors, ids, undecided } = canvas;
  const ranks = sampling.order === "halton" ? haltonRanks(canvas.grid) : undefined;
  const counts = Array.from({ length: size }, (_, b) => {
    const unknown = undecided.subarray(b * tokens, (b + 1) * tokens).filter(Boolean).length;
    return decodingCounts(sampling.schedule, unknown, sampling.steps);
  });
  const steps = Math.max(0, ...counts.map((each) => each.length));
  for (let step = 0; step < steps; step++) {
    const uniforms = new Random(seed, `${stream}/draw`, step).uniforms(size * tokens * factors);
    const noise = uniforms.map((_, i) => {
      const place = i % (size * tokens); // [B·N, F] as drawn to [F, B·N] as used
      return uniforms[place * factors + Math.floor(i / (size * tokens))]!;
    });
    const drawn = await predict(step, float32([factors, size * tokens], noise));
    const choice = new Random(seed, `${stream}/choice`, step);
    const amount = sampling.choice_temperature * (1 - Math.min(1, (step + 1) / sampling.steps));
    for (let b = 0; b < size; b++) {
      const confidence = Array.from({ length: tokens }, (_, n) => {
        const number = (choice.uint32() + 0.5) / 0x100000000;
        if (ranks) {
          return -ranks[n]!;
        }
        return sampling.order === "random"
          ? number
          : drawn["log_probs"]!.data[b * tokens + n]! - amount * Math.log(-Math.log(number));
      });
      for (const n of mostConfident(confidence, undecided, b * tokens, counts[b]![step] ?? 0)) {
        const at = b * tokens + n;
        undecided[at] = 0;
        for (let f = 0; f < factors; f++) {
          ids[at * factors + f] = drawn["ids"]!.data[f * size * tokens + at]!;
        }
      }
    }
    onProgress?.(step + 1, steps);
  }
  return ids;
}

/** The rank of each token in the Halton order (Besnier et al. 2025): tokens of a step lie far apart. */
function haltonRanks(grid: readonly [number, number, number]): Int32Array {
  const order = haltonOrder(grid);
  const ranks = new Int32Array(order.length);
  order.forEach((place, rank) => (ranks[place] = rank));
  return ranks;
}

/** The `count` hidden places of a row with the highest confidence; ties go to the earlier one. */
function mostConfident(
  confidence: readonly number[],
  masked: Uint8Array,
  offset: number,
  count: number,
): number[] {
  return [...confidence.keys()]
    .filter((n) => masked[offset + n] === 1)
    .toSorted((a, b) => confidence[b]! - confidence[a]! || a - b)
    .slice(0, count);
}
