/**
 * @file What depends only on constants and on states that the function does not assign (a network's weights
 * while it decodes: their bfloat16 copies, transposed filters) is computed once and kept until somebody
 * writes one of those states.
 */

import type { Instruction, Plan, Slot } from "./plan.ts";

/** Mark the fixed instructions, put them first, and apply a pass to them and to the rest apart. */
export function separate(plan: Plan, pass: (plan: Plan) => Plan): Plan {
  const still = new Set<number>([
    ...plan.constants.map(({ slot }) => slot.id),
    ...plan.states.filter(({ next }) => !next).map(({ slot }) => slot.id),
  ]);
  const fixed: Instruction[] = [];
  const rest: Instruction[] = [];
  for (const instruction of plan.instructions) {
    const own =
      instruction.inputs.length > 0 &&
      !instruction.op.startsWith("AllReduce") && // other ranks take part at every call
      instruction.inputs.every((slot) => still.has(slot.id));
    // A repeated value is a literal in either part.
    if (instruction.op === "Fill") {
      still.add(instruction.outputs[0]!.id);
      rest.push(instruction);
      fixed.push(instruction);
    } else if (own) {
      for (const slot of instruction.outputs) {
        still.add(slot.id);
      }
      fixed.push(instruction);
    } else {
      rest.push(instruction);
    }
  }
  if (fixed.every(({ op }) => op === "Fill")) {
    return pass(plan);
  }
  const usedLater = new Set(rest.flatMap(({ inputs }) => inputs.map(({ id }) => id)));
  const kept: { slot: Slot; type: Slot["type"] }[] = fixed.flatMap(({ op, outputs }) =>
    op === "Fill"
      ? []
      : outputs.filter((slot) => usedLater.has(slot.id)).map((slot) => ({ slot, type: slot.type })),
  );
  const results = plan.outputs.filter(({ slot }) => still.has(slot.id));
  const before = pass({
    ...plan,
    instructions: fixed,
    outputs: [...kept, ...results],
  }).instructions;
  const after = pass({ ...plan, instructions: rest }).instructions;
  const made = new Set(before.flatMap(({ outputs }) => outputs.map(({ id }) => id)));
  return {
    ...plan,
    instructions: [
      ...before.map((instruction) => ({ ...instruction, fixed: true })),
      ...after.filter(({ op, outputs }) => op !== "Fill" || !made.has(outputs[0]!.id)),
    ],
  };
}
