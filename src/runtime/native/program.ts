/**
 * @file Builds the flat program that the addon runs: steps over tensors in buffers. Buffers that live only
 * within a call share one arena (arena.ts).
 */

import type { DType } from "../graph.ts";
import type { HostTensor } from "../tensors.ts";
import { planArena } from "./arena.ts";
import type { View } from "./views.ts";
import { widthOf } from "./views.ts";

/** Where a buffer's memory comes from; in the order of the addon's `Place`. */
export const PLACES = ["arena", "constant", "input", "state", "next", "output"] as const;
export type Place = (typeof PLACES)[number];

export interface Buffer {
  readonly place: Place;
  /** Which constant, input, state or output. */
  readonly slot: number;
  readonly bytes: number;
}

export interface Step {
  readonly kind: string;
  readonly inputs: readonly View[];
  readonly outputs: readonly View[];
  readonly ints: readonly number[];
  readonly numbers: readonly number[];
  /** The node that it computes, for profiles. */
  readonly label: string;
  /** Inputs whose buffer the first output may take over, when this step is its last reader. */
  readonly inPlace: readonly View[];
  /** A loop's body. */
  readonly body?: ProgramBuilder;
}

/** What the addon's `create` takes. */
export interface Plan {
  readonly arena: number;
  readonly threads: number;
  readonly profile: boolean;
  readonly tensors: Float64Array;
  readonly constants: readonly HostTensor["data"][];
  readonly ops: Int32Array;
  readonly numbers: Float64Array;
  readonly labels: readonly string[];
  /** The bodies of loops, in the order of their steps. */
  readonly bodies: readonly Plan[];
}

export class ProgramBuilder {
  readonly steps: Step[] = [];
  readonly #constants: HostTensor["data"][] = [];
  label = "";

  /** Memory that lives as long as steps use it. */
  scratch(bytes: number): Buffer {
    return { place: "arena", slot: 0, bytes };
  }

  constant(data: HostTensor["data"]): Buffer {
    this.#constants.push(data);
    return { place: "constant", slot: this.#constants.length - 1, bytes: data.byteLength };
  }

  step(
    kind: string,
    inputs: readonly View[],
    outputs: readonly View[],
    ints: readonly number[] = [],
    numbers: readonly number[] = [],
    inPlace: readonly View[] = [],
  ): void {
    this.steps.push({ kind, inputs, outputs, ints, numbers, label: this.label, inPlace });
  }

  /** A step that runs another program several times. */
  loop(
    inputs: readonly View[],
    outputs: readonly View[],
    ints: readonly number[],
    body: ProgramBuilder,
  ): void {
    const rest = { numbers: [], label: this.label, inPlace: [], body };
    this.steps.push({ kind: "Scan", inputs, outputs, ints, ...rest });
  }

  /**
   * The finished plan.
   * @param codes the addon's step names, whose indices are codes
   */
  finish(codes: readonly string[], threads: number, profile: boolean): Plan {
    const arena = planArena(this.steps);
    const rows: number[] = [];
    const ids = new Map<Buffer, Map<number, number>>();
    const tensor = (view: View): number => {
      const bytes = view.offset * widthOf(view);
      const known = ids.get(view.buffer) ?? new Map<number, number>();
      ids.set(view.buffer, known);
      let id = known.get(bytes);
      if (id === undefined) {
        id = rows.length / 3;
        known.set(bytes, id);
        const { place, slot } = view.buffer;
        const start = place === "arena" ? (arena.offsets.get(view.buffer) ?? 0) : 0;
        rows.push(PLACES.indexOf(place), slot, start + bytes);
      }
      return id;
    };
    const words: number[] = [];
    const numbers: number[] = [];
    for (const step of this.steps) {
      const code = codes.indexOf(step.kind);
      if (code < 0) {
        throw new Error(`the native engine has no step "${step.kind}": build it again`);
      }
      const { inputs, outputs, ints } = step;
      words.push(code, inputs.length, outputs.length, ints.length, step.numbers.length);
      for (const view of [...inputs, ...outputs]) {
        words.push(tensor(view));
      }
      for (const int of ints) {
        words.push(int);
      }
      numbers.push(...step.numbers);
    }
    return {
      arena: arena.bytes,
      threads,
      profile,
      tensors: Float64Array.from(rows),
      constants: this.#constants,
      ops: Int32Array.from(words),
      numbers: Float64Array.from(numbers),
      labels: this.steps.map((step) => step.label),
      bodies: this.steps.flatMap(({ body }) =>
        body ? [body.finish(codes, threads, profile)] : [],
      ),
    };
  }
}

/** Number of an element type as steps take it. */
export function elementCode(dtype: DType): number {
  return ["float32", "int32", "bool"].indexOf(dtype);
}
