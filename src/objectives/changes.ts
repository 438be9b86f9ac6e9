/** @file Which changed clips an objective's tasks are shown, told from its config alone. */

import { taskParts } from "./multimodal/layouts.ts";
import type { ObjectiveConfig } from "./registry.ts";
import { type ClipVariant, variantOf } from "./tasks.ts";

/** Changes of clips whose tokens an objective trains on besides the clips' own. */
export interface ClipChanges {
  readonly names: readonly ClipVariant[];
  /** Frames that FP and CFP are given. */
  readonly conditionFrames: number;
}

/** The changes that a config's tasks need; none without tasks. */
export function clipChanges(config: ObjectiveConfig | undefined): ClipChanges {
  const named = (variants: readonly (ClipVariant | undefined)[]): ClipVariant[] => [
    ...new Set(variants.filter((variant) => variant !== undefined)),
  ];
  switch (config?.type) {
    case "masked":
      return {
        names: named(config.tasks.map(({ task }) => variantOf(task))),
        conditionFrames: config.condition_frames,
      };
    case "multimodal":
      return { names: named(config.tasks.map(({ task }) => taskParts[task].variant)), conditionFrames: 1 }; // biome-ignore format: one value
    default:
      return { names: [], conditionFrames: 1 };
  }
}
