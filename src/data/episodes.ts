/**
 * @file Few-shot episodes (Vinyals et al. 2016): some classes of a split, a few labelled clips of each to
 * learn from and others to be asked about. An episode is a pure function of (seed, number).
 */

import { UserError } from "../config/errors.ts";
import { Random } from "../runtime/random.ts";
import type { Dataset } from "./dataset.ts";

export interface EpisodeRule {
  /** Classes of an episode. */
  readonly ways: number;
  /** Labelled clips of each. */
  readonly shots: number;
  /** Clips of each to be asked about. */
  readonly queries: number;
}

export interface EpisodeItem {
  /** Index in the data set. */
  readonly index: number;
  /** Which of the episode's classes, 0 <= way < ways. */
  readonly way: number;
}

export interface Episode {
  /** Labels of the data set by way. */
  readonly classes: readonly number[];
  readonly support: readonly EpisodeItem[];
  readonly query: readonly EpisodeItem[];
}

/** What episodes are made from. */
export type Labelled = Pick<Dataset, "type" | "split" | "size" | "labelOf">;

/** @throws UserError when the split has too few classes or clips, or labels only its clips tell */
export function episode(
  dataset: Labelled,
  { ways, shots, queries }: EpisodeRule,
  seed: number,
  number: number,
): Episode {
  const byClass = new Map<number, number[]>();
  if (!dataset.labelOf) {
    throw new UserError(
      `${dataset.type} tells labels only with its clips: no episodes can be made`,
    );
  }
  for (let index = 0; index < dataset.size; index++) {
    const label = dataset.labelOf(index);
    const list = byClass.get(label) ?? [];
    list.push(index);
    byClass.set(label, list);
  }
  const enough = [...byClass]
    .filter(([label, items]) => label >= 0 && items.length >= shots + queries)
    .sort(([a], [b]) => a - b);
  if (enough.length < ways) {
    throw new UserError(
      `${dataset.split} has ${enough.length} classes of ${shots + queries} clips and more, an episode takes ${ways}`,
    );
  }
  const random = new Random(seed, "data/episodes", number);
  const chosen = Array.from(random.permutation(enough.length).subarray(0, ways), (i) => enough[i]!);
  const support: EpisodeItem[] = [];
  const query: EpisodeItem[] = [];
  for (const [way, [, items]] of chosen.entries()) {
    const order = random.permutation(items.length);
    for (let i = 0; i < shots + queries; i++) {
      (i < shots ? support : query).push({ index: items[order[i]!]!, way });
    }
  }
  return { classes: chosen.map(([label]) => label), support, query };
}
