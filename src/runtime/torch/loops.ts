/**
 * @file Loops ("Scan"). An instruction's inputs are the first carries, what is given slice by slice [count, ...]
 * and captured values; its outputs the last carries and the stacked outputs. Its numbers: turns, carries,
 * slices, then for each carry whether its first value may be written over.
 *
 * The body is a plan of its own: its states are the carries, its inputs the turn's number [1], the slices and
 * the captured values. What a turn computes of captured values alone (narrow copies of weights) is moved out
 * here; native/torch/loops.cc runs the rest, on CUDA as one captured graph that is replayed for every turn.
 */

import { fewRows } from "./few-rows.ts";
import { type Instruction, type Plan, type Slot, withoutDead } from "./plan.ts";

/** The plan with all that its loops repeat for nothing in front of them. */
export function outOfLoops(plan: Plan): Plan {
  if (plan.instructions.every(({ body }) => !body)) {
    return plan;
  }
  let { slots } = plan;
  const constants = [...plan.constants];
  const instructions: Instruction[] = [];
  for (const instruction of plan.instructions) {
    if (!instruction.body) {
      instructions.push(instruction);
      continue;
    }
    const [, carries, slices] = instruction.ints as [number, number, number];
    const own = carries + slices;
    const inner = withoutDead(outOfLoops(instruction.body));
    const captured = inner.inputs.slice(1 + slices).map(({ slot }) => slot);
    const body = fewRows(
      inner,
      captured.map(({ id }) => id),
    );
    /** Slots of the body that do not depend on the turn, as slots of this plan. */
    const outside = new Map<number, Slot>(
      captured.map(({ id }, i) => [id, instruction.inputs[own + i]!]),
    );
    for (const { slot, data } of body.constants) {
      const copy = { ...slot, id: slots++ };
      constants.push({ slot: copy, data });
      outside.set(slot.id, copy);
    }
    const rest: Instruction[] = [];
    for (const each of body.instructions) {
      const still =
        !each.body &&
        !each.op.startsWith("AllReduce") &&
        each.inputs.every(({ id }) => outside.has(id));
      if (!still) {
        rest.push(each);
        continue;
      }
      const outputs = each.outputs.map((slot) => ({ ...slot, id: slots++ }));
      each.outputs.forEach(({ id }, i) => outside.set(id, outputs[i]!));
      const inputs = each.inputs.map(({ id }) => outside.get(id)!);
      instructions.push({ ...each, inputs, outputs });
      if (each.op === "Fill") {
        rest.push(each); // a literal, in either part
      }
    }
    const used = new Set([
      ...rest.flatMap(({ inputs }) => inputs.map(({ id }) => id)),
      ...body.outputs.map(({ slot }) => slot.id),
      ...body.states.flatMap(({ next }) => (next ? [next.id] : [])),
    ]);
    const made = new Set(rest.flatMap(({ outputs }) => outputs.map(({ id }) => id)));
    const constant = new Set(body.constants.map(({ slot }) => slot.id));
    const needed = [...outside].filter(
      ([id]) => used.has(id) && !made.has(id) && !constant.has(id),
    );
    const slotOf = new Map(
      [...captured, ...body.instructions.flatMap(({ outputs }) => outputs)].map((slot) => [
        slot.id,
        slot,
      ]),
    );
    instructions.push({
      ...instruction,
      inputs: [...instruction.inputs.slice(0, own), ...needed.map(([, slot]) => slot)],
      body: {
        ...body,
        instructions: rest,
        constants: body.constants.filter(({ slot }) => used.has(slot.id)),
        inputs: [
          ...body.inputs.slice(0, 1 + slices),
          ...needed.map(([id]) => ({ slot: slotOf.get(id)! })),
        ],
      },
    });
  }
  return withoutDead({ ...plan, slots, constants, instructions });
}

/** Loops whose first carries are states that they alone read and whose next values they make: written in place. */
export function carryInPlace(plan: Plan): Plan {
  const uses = new Map<number, number>();
  for (const { id } of [
    ...plan.instructions.flatMap(({ inputs }) => inputs),
    ...plan.outputs.map(({ slot }) => slot),
    ...plan.states.flatMap(({ next }) => (next ? [next] : [])),
  ]) {
    uses.set(id, (uses.get(id) ?? 0) + 1);
  }
  const nexts = new Map(plan.states.map(({ slot, next }) => [slot.id, next?.id]));
  return {
    ...plan,
    instructions: plan.instructions.map((instruction) => {
      if (!instruction.body) {
        return instruction;
      }
      const [count, carries, slices] = instruction.ints as [number, number, number];
      const over = instruction.inputs.slice(0, carries).map(({ id }, i) => {
        const own = nexts.has(id) && nexts.get(id) === instruction.outputs[i]!.id;
        return Number(own && uses.get(id) === 1);
      });
      return { ...instruction, ints: [count, carries, slices, ...over] };
    }),
  };
}
