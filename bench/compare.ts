/**
 * @file Two sides of one workload, measured in turns: ours some repetitions, theirs as many, and so on,
 * so that what else the machine does hits both alike. While one runs the other sleeps.
 *
 * Before anything is timed, both must compute the same from the same weights and batch.
 */

import type { Peer } from "./peer.ts";
import type { Outcome, Workload } from "./workloads.ts";

/** Largest relative difference of an outcome of the first repetition, by its name. */
const TOLERANCES: { readonly [name: string]: number } = { loss: 1e-4, grad_norm: 1e-3 };

/**
 * The same for later repetitions. Adam divides a gradient by its own size, so where a gradient is all
 * but zero its rounding decides the direction of the first updates.
 */
const LATER_TOLERANCES: typeof TOLERANCES = { loss: 1e-2 };

/** The two sides compute different things. */
export class Mismatch extends Error {}

/** Repetitions of the check; all but the first are also the trial that picks a variant. */
export const CHECKED = 3;

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
  /** Seconds of our first repetition: trace, preparation of the device, and one step. */
  readonly first: number;
  /** The peer's fastest variant, and the trial times of all. */
  readonly variant: string;
  readonly trials: { readonly [variant: string]: number };
  /** Our first outcome and theirs. */
  readonly outcomes: readonly [Outcome, Outcome];
  /** How many times as fast as the peer. */
  readonly ratio: number;
  /** The same for each round by itself. */
  readonly rounds: readonly number[];
}

export interface Plan {
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
 */
export async function compare(
  workload: Workload,
  peer: Peer,
  variants: readonly string[],
  plan: Plan,
  say: (line: string) => void,
): Promise<Comparison> {
  const { seconds: firsts, outcomes: ours } = await turn(workload, CHECKED);
  say(`ours: first step ${firsts[0]!.toFixed(2)} s, ${describe(ours[0]!)}`);

  const trials: { [variant: string]: number } = {};
  let theirFirst: Outcome = {};
  for (const variant of variants) {
    const { parameters } = await peer.ask("choose", { variant });
    if (parameters !== workload.parameters) {
      throw new Mismatch(`${workload.parameters} parameters here, ${parameters} in the twin`);
    }
    const { seconds, outcomes } = await peer.ask("run", { count: CHECKED });
    outcomes.forEach((theirs, i) => {
      checkOutcome(ours[i]!, theirs, i === 0 ? TOLERANCES : LATER_TOLERANCES, i);
    });
    theirFirst = outcomes[0]!;
    trials[variant] = Math.min(...seconds.slice(1));
    say(`theirs: ${variant}: ${trials[variant].toFixed(3)} s, ${describe(theirFirst)}`);
  }
  const variant = variants.toSorted((a, b) => trials[a]! - trials[b]!)[0]!;
  if (variant !== variants.at(-1)) {
    await peer.ask("choose", { variant });
  }
  await peer.ask("run", { count: 1 }); // a variant's first step also allocates

  const mine: Sample = { seconds: [], turns: [], idle: 0 };
  const others: Sample = { seconds: [], turns: [], idle: 0 };
  for (let round = 0; round < plan.rounds; round++) {
    // Who goes first takes turns too.
    for (const side of round % 2 === 0
      ? (["ours", "theirs"] as const)
      : (["theirs", "ours"] as const)) {
      if (side === "ours") {
        record(mine, (await turn(workload, plan.repetitions)).seconds);
      } else {
        const before = process.cpuUsage();
        const { seconds, idle_cpu } = await peer.ask("run", { count: plan.repetitions });
        const { user, system } = process.cpuUsage(before);
        record(others, seconds);
        mine.idle += (user + system) / 1e6;
        others.idle += idle_cpu;
      }
    }
  }
  return {
    ours: mine,
    theirs: others,
    first: firsts[0]!,
    variant,
    trials,
    outcomes: [ours[0]!, theirFirst],
    ratio: quantile(others.seconds) / quantile(mine.seconds),
    rounds: mine.turns.map((seconds, i) => others.turns[i]! / seconds),
  };
}

async function turn(
  workload: Workload,
  count: number,
): Promise<{ seconds: number[]; outcomes: Outcome[] }> {
  const seconds: number[] = [];
  const outcomes: Outcome[] = [];
  for (let i = 0; i < count; i++) {
    const begin = performance.now();
    outcomes.push(await workload.run());
    seconds.push((performance.now() - begin) / 1000);
  }
  return { seconds, outcomes };
}

function record(sample: Sample, seconds: readonly number[]): void {
  sample.seconds.push(...seconds);
  sample.turns.push(quantile(seconds));
}

function checkOutcome(
  ours: Outcome,
  theirs: Outcome,
  tolerances: typeof TOLERANCES,
  index: number,
): void {
  for (const [name, tolerance] of Object.entries(tolerances)) {
    const [a, b] = [ours[name], theirs[name]];
    if (a === undefined || b === undefined) {
      continue;
    }
    // Written so that NaN fails.
    if (!(Math.abs(a - b) <= tolerance * Math.max(Math.abs(a), Math.abs(b)))) {
      throw new Mismatch(
        `${name} of repetition ${index + 1} is ${a} here and ${b} in the twin: more than ${tolerance} apart, so the two do not compute the same`,
      );
    }
  }
}

function describe(outcome: Outcome): string {
  return Object.keys(TOLERANCES)
    .filter((name) => outcome[name] !== undefined)
    .map((name) => `${name} ${outcome[name]!.toPrecision(7)}`)
    .join(", ");
}
