/**
 * @file What a launcher asks while it works: whether a running trial should stop early, whether one
 * that has not begun should begin at all, and which trial a search wants next.
 */

import type { SweepFolder, TrialRow } from "./folder.ts";
import type { Journal } from "./journal.ts";
import type { Ending } from "./outcome.ts";

export interface Guide {
  /** A new trial; "wait" while others must end first; "done" when there is none. */
  ask(busy: number): TrialRow | "wait" | "done";
  /** Why a running trial should stop now. */
  prune(trial: TrialRow): string | undefined;
  /** Is there no use in starting this trial? */
  skip(trial: TrialRow): boolean;
  ended(trial: TrialRow, ending: Ending): void;
}

/** The guide of a sweep: its search and its pruner. */
export function guideOf(_folder: SweepFolder, _journal: Journal): Guide {
  return {
    ask: () => "done",
    prune: () => undefined,
    skip: () => false,
    ended: () => undefined,
  };
}
