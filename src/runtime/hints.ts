/** @file What a device would like to be asked for. Devices set it when they become the active one. */

export interface Hints {
  /** Values of a vector that the optimizer's parameters are packed into (trainers/packing.ts). */
  readonly packSize: number;
}

/** On a processor: 1 MiB of float32, so that a chain of operations runs from a core's cache. */
const PROCESSOR: Hints = { packSize: 1 << 18 };

let active = PROCESSOR;

export const activeHints = (): Hints => active;

/** Undefined restores what suits a processor. */
export function setHints(hints?: Hints): void {
  active = hints ?? PROCESSOR;
}
