/** @file The names of runs. */

/** The name of a run's folder: the first digits of its config's hash, and its seed. */
export function runId(hash: string, seed: number): string {
  return `${hash.slice(0, 12)}-s${seed}`;
}
