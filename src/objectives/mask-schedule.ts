/** @file Mask schedules γ (MaskGIT, Chang et al. 2022, §3.3), and what they mean for decoding. */

import { type TSchema, type TUnsafe, Type } from "../config/schema.ts";

export const maskSchedules = ["cosine", "linear", "uniform", "square", "exponential"] as const;
export type MaskSchedule = (typeof maskSchedules)[number];

/** The schema of a schedule's name. */
export function maskScheduleSchema(description: string): TUnsafe<MaskSchedule> & TSchema {
  return Type.Unsafe<MaskSchedule>({
    type: "string",
    enum: [...maskSchedules],
    default: "cosine",
    description: `${description} cosine: cos(πr/2); linear and uniform (its name in MAGVIT): 1-r; square: 1-r²; exponential: 1-n^(r-1) for n tokens.`,
  });
}

const shares: { readonly [S in MaskSchedule]: (r: number, n: number) => number } = {
  cosine: (r) => Math.cos((Math.PI / 2) * r),
  linear: (r) => 1 - r,
  uniform: (r) => 1 - r,
  square: (r) => 1 - r * r,
  exponential: (r, n) => 1 - n ** (r - 1),
};

/**
 * γ(r): the share of tokens that are hidden at progress r. Falls from about 1 at r = 0 to 0 at r = 1.
 * @param n the number of tokens; only the exponential schedule depends on it
 */
export function hiddenShare(schedule: MaskSchedule, r: number, n: number): number {
  return shares[schedule](r, n);
}

/**
 * How many of `unknown` tokens are decided in each of `steps` decoding steps: after step k of K,
 * floor(γ(k/K)·unknown) stay hidden, but every step decides at least one while any is left. So there
 * are min(steps, unknown) entries at most, none is 0, and their sum is `unknown`.
 */
export function decodingCounts(schedule: MaskSchedule, unknown: number, steps: number): number[] {
  const counts: number[] = [];
  let hidden = unknown;
  for (let step = 1; hidden > 0; step++) {
    const share = step < steps ? hiddenShare(schedule, step / steps, unknown) : 0;
    const left = Math.max(0, Math.min(hidden - 1, Math.floor(share * unknown)));
    counts.push(hidden - left);
    hidden = left;
  }
  return counts;
}
