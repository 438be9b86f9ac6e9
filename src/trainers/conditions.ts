/**
 * @file The conditions of tasks as tokens: clips are padded by the task's rule and encoded by the
 * frozen tokenizer. For training they are cached beside the clips' own tokens, a file a task
 * (tokens/train.FP.arrow), rows in the same order; they depend on nothing but clip and task, so a
 * resumed run and a cache made again see the same bytes.
 */

import type { Dataset } from "../data/dataset.ts";
import type { TaskConditions, TaskMixture } from "../objectives/objective.ts";
import { padClip, type TaskLayout, type TaskName, usesPixels } from "../objectives/tasks.ts";
import { tokenCount } from "../models/transformer.ts";
import type { Device } from "../runtime/device.ts";
import { sizeOf, uint8 } from "../runtime/tensors.ts";
import type { Tokenizer } from "../tokenizers/tokenizer.ts";
import type { RunContext } from "./context.ts";
import { toPixels } from "./tokenizer-stage.ts";
import { cacheTokens, readTokens, type TokenCache, tokensPath } from "./tokens.ts";

/** Where the tasks of a mixture lie on a tokenizer's clips. */
export function taskLayout(tokenizer: Tokenizer, tasks: TaskMixture): TaskLayout {
  const { frames, height, width } = tokenizer.clip;
  return {
    clip: { frames, height, width, causal: tokenizer.causal },
    grid: tokenizer.grid,
    conditionFrames: tasks.conditionFrames,
  };
}

/** FP and CFP show the same frames: their conditions are one. */
const cacheName = (task: TaskName): TaskName => (task === "CFP" ? "FP" : task);

/** The caches that a mixture needs, by task. */
export function conditionNames(tasks: TaskMixture | undefined): TaskName[] {
  return [...new Set((tasks?.names ?? []).filter(usesPixels).map(cacheName))];
}

/** Make sure that the condition caches of a split exist. */
export async function cacheConditions(
  run: Pick<RunContext, "dir" | "device" | "stop">,
  tokenizer: Tokenizer,
  tasks: TaskMixture,
  dataset: Dataset,
  options: { readonly batch: number; readonly clips: number },
  onProgress: (task: TaskName, done: number) => void,
): Promise<void> {
  const layout = taskLayout(tokenizer, tasks);
  for (const task of conditionNames(tasks)) {
    await cacheTokens(
      run,
      tokenizer,
      dataset,
      { ...options, variant: { name: task, apply: (clip) => padClip(task, clip, layout) } },
      (done) => onProgress(task, done),
    );
  }
}

/** The condition caches of a split, by task. */
export type ConditionCaches = ReadonlyMap<TaskName, TokenCache>;

/** Read the condition caches of a split. */
export function readConditions(
  dir: string,
  split: "train" | "validation",
  tasks: TaskMixture | undefined,
): ConditionCaches {
  const read = new Map(
    conditionNames(tasks).map((task) => [task, readTokens(tokensPath(dir, split, task))]),
  );
  return new Map(
    (tasks?.names ?? []).flatMap((task) => {
      const cache = read.get(cacheName(task));
      return cache ? [[task, cache] as const] : [];
    }),
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
    const cache = caches.get(mixture.names[tasks[i]!]!);
    if (cache) {
      ids.set(cache.ids.subarray(row * length, (row + 1) * length), i * length);
    }
  }
  return { tasks, ids };
}

/** Encodes the conditions of clips that are at hand: for samples, evaluation and `tessera generate`. */
export function conditionEncoder(device: Device, tokenizer: Tokenizer, mixture: TaskMixture) {
  const layout = taskLayout(tokenizer, mixture);
  const encode = device.compile("conditions-encode", (inputs) => ({
    ids: tokenizer.encode(toPixels(inputs["clips"]!)).ids,
  }));
  const { frames, height, width } = tokenizer.clip;
  const shape = [frames, height, width, 3];
  const values = sizeOf(shape);

  /**
   * @param clips [B, T, H, W, 3] bytes; what a task does not give has no influence
   * @param tasks [B] indices into the mixture
   */
  return async (
    clips: Uint8Array,
    tasks: Int32Array,
  ): Promise<{ readonly conditions: TaskConditions; readonly padded: Uint8Array }> => {
    const size = tasks.length;
    const padded = new Uint8Array(size * values);
    for (const [i, task] of tasks.entries()) {
      const name = mixture.names[task]!;
      if (usesPixels(name)) {
        padded.set(padClip(name, clips.subarray(i * values, (i + 1) * values), layout), i * values);
      }
    }
    const { ids } = await encode({ clips: uint8([size, ...shape], padded) });
    const length = tokenCount({ grid: tokenizer.grid }) * tokenizer.factors.length;
    return {
      conditions: { tasks, ids: (ids!.data as Int32Array).slice(0, size * length) },
      padded,
    };
  };
}
