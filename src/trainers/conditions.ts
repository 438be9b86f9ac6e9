/**
 * @file The conditions of tasks as tokens: clips are changed by the task's rule and encoded by the
 * frozen tokenizer. For training they are cached beside the clips' own tokens, a file a change
 * (tokens/train.FP.arrow), rows in the same order; they depend on nothing but clip and rule, so a
 * resumed run and a cache made again see the same bytes.
 */

import type { Dataset } from "../data/dataset.ts";
import type { TaskConditions, TaskMixture } from "../objectives/objective.ts";
import type { ClipVariant } from "../objectives/tasks.ts";
import { applyVariant, layoutOf } from "../objectives/variants.ts";
import type { Tokenizer } from "../tokenizers/tokenizer.ts";
import type { RunContext } from "./context.ts";
import { cacheTokens, readTokens, rowOf, type TokenCache, tokensPath } from "./tokens.ts";

/** The changes of clips that a mixture needs the tokens of. */
export function variantNames(tasks: TaskMixture | undefined): ClipVariant[] {
  return [...new Set((tasks?.variants ?? []).filter((variant) => variant !== undefined))];
}

/** Make sure that the condition caches of a split exist. */
export async function cacheConditions(
  run: Pick<RunContext, "dir" | "device" | "stop">,
  tokenizer: Tokenizer,
  tasks: TaskMixture,
  dataset: Dataset,
  options: { readonly batch: number; readonly clips: number },
  onProgress: (variant: ClipVariant, done: number) => void,
): Promise<void> {
  const layout = layoutOf(tokenizer, tasks.conditionFrames);
  for (const name of variantNames(tasks)) {
    const apply = (clip: Uint8Array) => applyVariant(name, clip, layout);
    await cacheTokens(run, tokenizer, dataset, { ...options, variant: { name, apply } }, (done) =>
      onProgress(name, done),
    );
  }
}

/** The condition caches of a split, by change. */
export type ConditionCaches = ReadonlyMap<ClipVariant, TokenCache>;

/** Read the condition caches of a split. */
export function readConditions(
  dir: string,
  split: "train" | "validation",
  tasks: TaskMixture | undefined,
): ConditionCaches {
  return new Map(
    variantNames(tasks).map((name) => [name, readTokens(tokensPath(dir, split, name))]),
  );
}

/** The conditions of some rows, each for its own task. */
export function conditionBatch(
  mixture: TaskMixture,
  caches: ConditionCaches,
  tasks: Int32Array,
  rows: Uint32Array,
  length: number,
): TaskConditions {
  const ids = new Int32Array(rows.length * length);
  for (const [i, row] of rows.entries()) {
    const variant = mixture.variants[tasks[i]!];
    const cache = variant && caches.get(variant);
    if (cache) {
      ids.set(rowOf(cache, row), i * length);
    }
  }
  return { tasks, ids };
}
