/**
 * @file Two sides of one workload, measured in turns: ours some repetitions, theirs as many, and so on,
 * so that what else the machine does hits both alike. While one runs the other sleeps. Before anything
 * is timed, both must compute the same from the same weights and batch.
 */

import { checkOutcome, describeCheck, Mismatch } from "./check.ts";
import type { Peer } from "./peer.ts";
import type { Outcome, Workload } from "./workloads.ts";

/** What one side took. */
export interface Sample {
  /** Seconds of each repetition. */
  readonly seconds: number[];
  /** The median of each turn. */
  readonly turns: number[];
  /** Processor seconds taken while the other side had its turns. */
  idle: number;
}

export interface Comparison {
  readonly ours: Sample;
  readonly theirs: Sample;
  /** The peer's fastest variant. */
  readonly variant: string;
  /** How many times as fast as the peer: ratio of the medians. */
  readonly ratio: number;
  /** The same of the fastest repetitions, which other processes disturb least. */
  readonly best: number;
  /** The same for each round by itself. */
  readonly rounds: readonly number[];
}

export interface Plan {
  /** 0 checks only. */
  readonly rounds: number;
  readonly repetitions: number;
}

/** The value in the middle, or `q` of the way from the least to the largest. */
export function quantile(values: readonly number[], q = 0.5): number {
  const sorted = values.toSorted((a, b) => a - b);
  const at = q * (sorted.length - 1);
  const low = sorted[Math.floor(at)]!;
  return low + (at - Math.floor(at)) * (sorted[Math.ceil(at)]! - low);
}

/**
 * Check, pick the peer's fastest variant, and measure.
 * @param say takes a line about what is going on
 * @returns undefined when only checked
 * @throws Mismatch
 */
export async function compare(
  workload: Workload,
  peer: Peer,
  variants: readonly string[],
  plan: Plan,
  say: (line: string) => void,
): Promise<Comparison | undefined> {
  // All but the first are also the trial that picks a variant, where there is a choice.
  const checked = await takeTurn(workload, variants.length > 1 ? 3 : 2, true);
  const [first, ...later] = checked.seconds.map((seconds) => `${seconds.toFixed(2)} s`);
  say(`ours: the first repetition with trace and session took ${first}, then ${later.join(", ")}`);
  const { variant, chosen } = await fastestVariant(workload, peer, variants, checked.outcomes, say);
  if (plan.rounds === 0) {
    return undefined;
  }
  if (variant !== chosen) {
    await peer.ask("choose", { variant });
  }
  // Not timed: what a decoding without checks, or a variant chosen again, prepares on its first run.
  await workload.run(false);
  await peer.ask("run", { count: 1, check: false });

  const ours: Sample = { seconds: [], turns: [], idle: 0 };
  const theirs: Sample = { seconds: [], turns: [], idle: 0 };
  for (let round = 0; round < plan.rounds; round++) {
    // Who goes first takes turns too.
    for (const own of round % 2 === 0 ? [true, false] : [false, true]) {
      if (own) {
        record(ours, (await takeTurn(workload, plan.repetitions, false)).seconds);
        continue;
      }
      const before = process.cpuUsage();
      const turn = await peer.ask("run", { count: plan.repetitions, check: false });
      const { user, system } = process.cpuUsage(before);
      record(theirs, turn.seconds);
      ours.idle += (user + system) / 1e6;
      theirs.idle += turn.idle_cpu;
    }
  }
  return {
    ours,
    theirs,
    variant,
    ratio: quantile(theirs.seconds) / quantile(ours.seconds),
    best: quantile(theirs.seconds, 0) / quantile(ours.seconds, 0),
    rounds: ours.turns.map((seconds, i) => theirs.turns[i]! / seconds),
  };
}

/** Check every variant of the twin; the fastest, and the one that the twin holds now. */
async function fastestVariant(
  workload: Workload,
  peer: Peer,
  variants: readonly string[],
  outcomes: readonly Outcome[],
  say: (line: string) => void,
): Promise<{ variant: string; chosen: string }> {
  let best = { variant: "", seconds: Number.POSITIVE_INFINITY };
  for (const variant of variants) {
    const { parameters } = await peer.ask("choose", { variant });
    if (parameters !== workload.parameters) {
      throw new Mismatch(`${workload.parameters} parameters here, ${parameters} in the twin`);
    }
    const turn = await peer.ask("run", { count: outcomes.length, check: true });
    turn.outcomes.forEach((theirs, i) => checkOutcome(outcomes[i]!, theirs, i));
    const seconds = Math.min(...turn.seconds.slice(1));
    best = seconds < best.seconds ? { variant, seconds } : best;
    say(`twin, ${variant}: ${seconds.toFixed(3)} s`);
    say(`  ours and its ${describeCheck(outcomes[0]!, turn.outcomes[0]!)}`);
  }
  return { variant: best.variant, chosen: variants.at(-1)! };
}

async function takeTurn(
  workload: Workload,
  count: number,
  check: boolean,
): Promise<{ seconds: number[]; outcomes: Outcome[] }> {
  const seconds: number[] = [];
  const outcomes: Outcome[] = [];
  for (let i = 0; i < count; i++) {
    const begin = performance.now();
    outcomes.push(await workload.run(check));
    seconds.push((performance.now() - begin) / 1000);
  }
  return { seconds, outcomes };
}

function record(sample: Sample, seconds: readonly number[]): void {
  sample.seconds.push(...seconds);
  sample.turns.push(quantile(seconds));
}
