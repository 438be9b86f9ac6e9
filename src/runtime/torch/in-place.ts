/**
 * @file Lets fused kernels write new states where the old ones lie. That is right when the kernel reads the
 * old value element for element and nobody looks at it afterwards. Parameters that the optimizer joins
 * into vectors lie end to end (native/torch/program.cc), so that a whole vector is one state here.
 */

import { sizeOf } from "../tensors.ts";
import type { Instruction, Plan, Slot } from "./plan.ts";

const VIEWS = new Set(["Reshape", "Transpose", "Slice", "ConcatStates"]);

/** A slot's place in a state: which, and from which of its values on. */
interface Target {
  readonly instruction: Instruction;
  readonly output: number;
  readonly input: number;
}

/** The plan with, for each output of a fused kernel, the input whose memory it takes over (or -1). */
export function writeInPlace(plan: Plan): Plan {
  const { instructions } = plan;
  const producer = new Map<number, Instruction>();
  const place = new Map<Instruction, number>();
  const consumers = new Map<number, Instruction[]>();
  for (const [k, instruction] of instructions.entries()) {
    place.set(instruction, k);
    for (const slot of instruction.outputs) {
      producer.set(slot.id, instruction);
    }
    for (const slot of instruction.inputs) {
      consumers.set(slot.id, [...(consumers.get(slot.id) ?? []), instruction]);
    }
  }
  const results = new Set(plan.outputs.map(({ slot }) => slot.id));
  const nexts = new Map(
    plan.states.flatMap(({ slot, next }) => (next ? [[next.id, slot] as const] : [])),
  );

  /** Whether a slot and all views of it are last looked at by an instruction. */
  const endsWith = (slot: Slot, last: Instruction): boolean =>
    !results.has(slot.id) &&
    !nexts.has(slot.id) &&
    (consumers.get(slot.id) ?? []).every((each) =>
      VIEWS.has(each.op)
        ? each.outputs.every((view) => endsWith(view, last))
        : place.get(each)! <= place.get(last)!,
    );

  /** The states that a slot is made of, in order, where it is nothing else. */
  const statesOf = (slot: Slot): Slot[] | undefined => {
    const made = producer.get(slot.id);
    if (!made) {
      return plan.states.some((state) => state.slot.id === slot.id) ? [slot] : undefined;
    }
    return made.op === "ConcatStates"
      ? [...made.inputs]
      : made.op === "Reshape"
        ? statesOf(made.inputs[0]!)
        : undefined;
  };

  /** The states that an output becomes, by where in it their values begin. */
  const becomes = (slot: Slot): Map<number, Slot> => {
    const found = new Map<number, Slot>();
    const visit = (at: Slot, offset: number): void => {
      const state = nexts.get(at.id);
      if (state) {
        found.set(offset, state);
      }
      for (const each of consumers.get(at.id) ?? []) {
        if (each.op === "Reshape") {
          visit(each.outputs[0]!, offset);
        } else if (each.op === "Slice" && at.shape.length === 1 && each.ints[2] === 1) {
          visit(each.outputs[0]!, offset + each.ints[0]!);
        }
      }
    };
    visit(slot, 0);
    return found;
  };

  const targets: Target[] = [];
  for (const instruction of instructions) {
    if (instruction.op !== "Fused") {
      continue;
    }
    const taken = new Set<number>();
    for (const [output, slot] of instruction.outputs.entries()) {
      const next = becomes(slot);
      const input = instruction.inputs.findIndex((candidate, k) => {
        const states = statesOf(candidate);
        if (
          !states ||
          taken.has(k) ||
          candidate.type !== slot.type ||
          sizeOf(candidate.shape) !== sizeOf(slot.shape)
        ) {
          return false;
        }
        let offset = 0;
        return states.every((state) => {
          const right = next.get(offset)?.id === state.id && endsWith(state, instruction);
          offset += sizeOf(state.shape);
          return right;
        });
      });
      if (input >= 0) {
        taken.add(input);
        targets.push({ instruction, output, input });
      }
    }
  }
  return {
    ...plan,
    instructions: instructions.map((instruction) => {
      const own = targets.filter((target) => target.instruction === instruction);
      if (own.length === 0) {
        return instruction;
      }
      const over = instruction.outputs.map(
        (_, output) => own.find((target) => target.output === output)?.input ?? -1,
      );
      return { ...instruction, ints: [...instruction.ints, ...over] };
    }),
  };
}
