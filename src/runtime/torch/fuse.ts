/**
 * @file Fuses chains of element-wise instructions: each group becomes one kernel that reads its inputs and
 * writes what is needed elsewhere once (cuda-source.ts writes it).
 *
 * Instructions over the same number of elements belong together when no path leaves the group and comes
 * back. A stage number sees to that: it rises wherever a value passes through something that is not
 * element-wise over that many elements, so instructions of equal stage can never wait for each other
 * through the outside.
 */

import { sizeOf } from "../tensors.ts";
import { fusedSource } from "./cuda-source.ts";
import { POINTWISE_OPS } from "./lowering.ts";
import type { Instruction, Plan, Slot } from "./plan.ts";

/** Up to here unrelated instructions of one stage share a kernel: launching costs more than running. */
const SMALL = 1 << 14;
/** Tensors that one kernel may read and write. */
const MOST_TENSORS = 40;
const MOST_INSTRUCTIONS = 160;

const isReshape = (instruction: Instruction) => instruction.op === "Reshape";
const isPointwise = (instruction: Instruction) => POINTWISE_OPS.has(instruction.op);

/** The plan with groups of element-wise instructions as "Fused" ones. */
export function fuse(plan: Plan): Plan {
  const { instructions } = plan;
  const producer = new Map<number, number>();
  const consumers = new Map<number, number[]>();
  for (const [k, { inputs, outputs }] of instructions.entries()) {
    for (const slot of outputs) {
      producer.set(slot.id, k);
    }
    for (const slot of new Set(inputs.map(({ id }) => id))) {
      consumers.set(slot, [...(consumers.get(slot) ?? []), k]);
    }
  }
  const kept = new Set([
    ...plan.outputs.map(({ slot }) => slot.id),
    ...plan.states.flatMap(({ next }) => (next ? [next.id] : [])),
  ]);
  const count = instructions.map(({ outputs }) => sizeOf(outputs[0]!.shape));
  const literal = (slot: Slot) => {
    const at = producer.get(slot.id);
    return at !== undefined && instructions[at]!.op === "Fill";
  };

  // Which instructions may be fused, and their stages.
  const fusible: boolean[] = [];
  const stage: number[] = [];
  for (const [k, instruction] of instructions.entries()) {
    const from = instruction.inputs.map((slot) => producer.get(slot.id));
    fusible[k] =
      count[k]! > 0 &&
      (isPointwise(instruction) ||
        // A view of an element-wise result goes along with it.
        (isReshape(instruction) && from[0] !== undefined && fusible[from[0]] === true));
    stage[k] = from.reduce<number>((most, at) => {
      if (at === undefined || instructions[at]!.op === "Fill") {
        return most;
      }
      const inside = fusible[k] && fusible[at] && count[at] === count[k];
      return Math.max(most, inside || !fusible[k] ? stage[at]! : stage[at]! + 1);
    }, 0);
  }
  // A cheap result that only a later group uses is computed there.
  for (let k = instructions.length - 1; k >= 0; k--) {
    const [output] = instructions[k]!.outputs;
    if (!fusible[k] || kept.has(output!.id)) {
      continue;
    }
    const uses = consumers.get(output!.id) ?? [];
    const inside = uses.length > 0 && uses.every((at) => fusible[at] && count[at] === count[k]);
    const own = instructions[k]!.inputs.every((slot) => {
      const at = producer.get(slot.id);
      return (
        at === undefined ||
        !fusible[at] ||
        count[at] !== count[k] ||
        (!kept.has(slot.id) && consumers.get(slot.id)!.length === 1)
      );
    });
    if (inside && own) {
      stage[k] = Math.max(stage[k]!, Math.min(...uses.map((at) => stage[at]!)));
    }
  }

  const groups = grouped(instructions, fusible, stage, count, producer);
  const unitOf = new Map<number, number>();
  const units: number[][] = [];
  for (const members of groups) {
    for (const k of members) {
      unitOf.set(k, units.length);
    }
    units.push(members);
  }
  for (const k of instructions.keys()) {
    if (!unitOf.has(k)) {
      unitOf.set(k, units.length);
      units.push([k]);
    }
  }
  const made = ordered(units, unitOf, instructions, producer).flatMap((unit) => {
    const members = units[unit]!;
    if (!fusible[members[0]!] || members.every((k) => isReshape(instructions[k]!))) {
      return members.map((k) => instructions[k]!);
    }
    const inside = new Set(members);
    const needed = (slot: Slot) =>
      kept.has(slot.id) || (consumers.get(slot.id) ?? []).some((at) => !inside.has(at));
    const body = members.map((k) => instructions[k]!);
    return fusedSource(body, needed, (slot) =>
      literal(slot) ? instructions[producer.get(slot.id)!]!.floats[0] : undefined,
    );
  });
  return { ...plan, instructions: withoutUnusedFills(made, kept) };
}

function withoutUnusedFills(
  instructions: readonly Instruction[],
  kept: ReadonlySet<number>,
): Instruction[] {
  const used = new Set(instructions.flatMap(({ inputs }) => inputs.map(({ id }) => id)));
  return instructions.filter(
    ({ op, outputs }) => op !== "Fill" || used.has(outputs[0]!.id) || kept.has(outputs[0]!.id),
  );
}

/** Members of each group in their order. */
function grouped(
  instructions: readonly Instruction[],
  fusible: readonly boolean[],
  stage: readonly number[],
  count: readonly number[],
  producer: ReadonlyMap<number, number>,
): number[][] {
  const parent = instructions.map((_, k) => k);
  const root = (k: number): number => {
    let at = k;
    while (parent[at] !== at) {
      parent[at] = parent[parent[at]!]!;
      at = parent[at]!;
    }
    return at;
  };
  const tensors = new Map<number, Set<number>>();
  const size = new Map<number, number>();
  for (const [k, { inputs, outputs }] of instructions.entries()) {
    tensors.set(k, new Set([...inputs, ...outputs].map(({ id }) => id)));
    size.set(k, 1);
  }
  const join = (a: number, b: number): void => {
    const [x, y] = [root(a), root(b)];
    if (x === y) {
      return;
    }
    const all = new Set([...tensors.get(x)!, ...tensors.get(y)!]);
    const members = size.get(x)! + size.get(y)!;
    if (
      members > MOST_INSTRUCTIONS ||
      (all.size > MOST_TENSORS && all.size > members + MOST_TENSORS / 2)
    ) {
      return;
    }
    parent[y] = x;
    tensors.set(x, all);
    size.set(x, members);
  };
  const shared = new Map<string, number>();
  for (const [k, { inputs }] of instructions.entries()) {
    if (!fusible[k]) {
      continue;
    }
    const key = `${stage[k]} ${count[k]}`;
    for (const slot of inputs) {
      const at = producer.get(slot.id);
      if (at !== undefined && fusible[at] && stage[at] === stage[k] && count[at] === count[k]) {
        join(at, k);
      }
      if (sizeOf(slot.shape) === count[k]) {
        // Readers of the same tensor read it once.
        const name = `${key} ${slot.id}`;
        const other = shared.get(name);
        if (other !== undefined) {
          join(other, k);
        }
        shared.set(name, k);
      }
    }
    if (count[k]! <= SMALL) {
      const other = shared.get(key);
      if (other !== undefined) {
        join(other, k);
      }
      shared.set(key, k);
    }
  }
  const members = new Map<number, number[]>();
  for (const k of instructions.keys()) {
    if (fusible[k]) {
      members.set(root(k), [...(members.get(root(k)) ?? []), k]);
    }
  }
  return [...members.values()];
}

/** Units in an order that defines before use, as close to the first one as can be. */
function ordered(
  units: readonly (readonly number[])[],
  unitOf: ReadonlyMap<number, number>,
  instructions: readonly Instruction[],
  producer: ReadonlyMap<number, number>,
): number[] {
  const order: number[] = [];
  const state = units.map(() => 0);
  const needs = units.map((members) => [
    ...new Set(
      members.flatMap((k) =>
        instructions[k]!.inputs.flatMap((slot) => {
          const at = producer.get(slot.id);
          return at === undefined ? [] : [unitOf.get(at)!];
        }),
      ),
    ),
  ]);
  // By the last member: a group runs when the instruction that ends it would have.
  const byPlace = units.map((members, unit) => ({ unit, place: members.at(-1)! }));
  byPlace.sort((a, b) => a.place - b.place);
  for (const { unit } of byPlace) {
    const stack = [unit];
    while (stack.length > 0) {
      const top = stack.at(-1)!;
      if (state[top] === 2) {
        stack.pop();
        continue;
      }
      const waiting = needs[top]!.filter((other) => other !== top && state[other] !== 2);
      if (waiting.length === 0) {
        state[top] = 2;
        order.push(top);
        stack.pop();
        continue;
      }
      if (state[top] === 1) {
        if (waiting.some((other) => state[other] === 1)) {
          throw new Error("fused groups wait for each other");
        }
      }
      state[top] = 1;
      stack.push(...waiting);
    }
  }
  return order;
}
