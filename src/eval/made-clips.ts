/** @file What the suites share that judge made clips by the factors of `moving-shapes`. */

import { UserError } from "../config/errors.ts";
import type { Dataset } from "../data/dataset.ts";
import { Random } from "../runtime/random.ts";
import type { EvalContext } from "./suite.ts";

/** @throws UserError where a data set has no factors that could be read off its clips */
export function checkMovingShapes({ type }: Dataset, suite: string, name: string): void {
  if (type !== "moving-shapes") {
    throw new UserError(
      `the suite ${suite} reads the factors of moving-shapes only, the data set is ${type}`,
      `switch it off with evals.${name}=null`,
    );
  }
}

interface Asked<S> {
  readonly task: string | undefined;
  /** What each clip is made from. */
  readonly given: readonly S[];
  readonly seed: number;
  /** Name of the random stream; batches differ by their first clip. */
  readonly stream: string;
}

/** Clips and sound of a task for all of `given`, in full batches: one shape, one compilation. */
export async function makeAll<S>(
  generate: (asked: { task?: string; sources: readonly S[]; seed: number }) => Promise<{
    readonly clips?: readonly Uint8Array[] | undefined;
    readonly audio?: readonly Float32Array[] | undefined;
  }>,
  { task, given, seed, stream }: Asked<S>,
  { batch, progress }: Pick<EvalContext, "batch" | "progress">,
  title: string,
): Promise<{ clips: Uint8Array[]; sound: Float32Array[] }> {
  const clips: Uint8Array[] = [];
  const sound: Float32Array[] = [];
  for (let from = 0; from < given.length; from += batch) {
    // The last batch is filled up with its last source.
    const sources = Array.from(
      { length: batch },
      (_, i) => given[Math.min(from + i, given.length - 1)]!,
    );
    const key = new Random(seed, stream, from).uint32();
    const made = await generate({ ...(task !== undefined && { task }), sources, seed: key });
    const kept = Math.min(batch, given.length - from);
    clips.push(...(made.clips?.slice(0, kept) ?? []));
    sound.push(...(made.audio?.slice(0, kept) ?? []));
    progress(title, Math.min(from + batch, given.length), given.length);
  }
  return { clips, sound };
}
