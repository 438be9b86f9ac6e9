/**
 * @file Order of sets that are read shard by shard. Shards come in a random order, are dealt out to
 * the ranks in turn, and each rank's clips pass through a shuffle buffer: the next clip is drawn from
 * the buffer at random and the place is filled with the next of the shards. The whole order is
 * computed from (seed, visit, rank) before any clip is read, so a resumed run needs no state.
 */

import { UserError } from "../config/errors.ts";
import { Random } from "../runtime/random.ts";
import type { Dataset } from "./dataset.ts";

/** The shards of one rank in their order, as ranges of indices. */
function sharesOf(
  { size, shards }: Dataset,
  order: Uint32Array,
  rank: number,
  world: number,
): (readonly [first: number, end: number])[] {
  const { starts } = shards!;
  return Array.from(order)
    .filter((_, i) => i % world === rank)
    .map((shard) => [starts[shard]!, starts[shard + 1] ?? size] as const);
}

/** The order of one pass for one rank. */
export function shardOrder(
  dataset: Dataset,
  seed: number,
  visit: number,
  rank: number,
  world: number,
): Uint32Array {
  const { starts, buffer } = dataset.shards!;
  const order = dealOrder(starts.length, seed, visit, world);
  const random = new Random(seed, `data/shuffle/${rank}/${world}`, visit);
  const out: number[] = [];
  const held: number[] = [];
  for (const [first, end] of sharesOf(dataset, order, rank, world)) {
    for (let index = first; index < end; index++) {
      if (held.length < buffer) {
        held.push(index);
        continue;
      }
      const place = random.int(held.length);
      out.push(held[place]!);
      held[place] = index;
    }
  }
  while (held.length > 0) {
    const place = random.int(held.length);
    out.push(held[place]!);
    held[place] = held.at(-1)!;
    held.pop();
  }
  return Uint32Array.from(out);
}

/** Which shard belongs to whom is the same in all epochs, so that a rank's files stay its own. */
function dealOrder(count: number, seed: number, visit: number, world: number): Uint32Array {
  const dealt = new Random(seed, "data/shards").permutation(count);
  const rounds = Math.ceil(count / world);
  const turn = new Random(seed, "data/shard-order", visit).permutation(rounds);
  // Whole rounds change places: each rank keeps its shards. A last, partial round stays last.
  const full = Math.floor(count / world);
  const rows = [...Array.from(turn).filter((row) => row < full), ...(full < rounds ? [full] : [])];
  return Uint32Array.from(
    rows.flatMap((row) => Array.from(dealt.subarray(row * world, (row + 1) * world))),
  );
}

/** Clips of the rank that has fewest. @returns at least 1 */
export function smallestShare(dataset: Dataset, seed: number, world: number): number {
  const { starts } = dataset.shards!;
  const order = dealOrder(starts.length, seed, 0, world);
  if (starts.length < world) {
    throw new UserError(
      `${starts.length} shards are too few for ${world} processes`,
      "Make more shards, or set dataset.shuffle=global.",
    );
  }
  const counts = Array.from({ length: world }, (_, rank) =>
    sharesOf(dataset, order, rank, world).reduce((sum, [first, end]) => sum + end - first, 0),
  );
  return Math.min(...counts);
}
