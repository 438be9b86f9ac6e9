/**
 * @file Where the collectives of a data-parallel function run. Every rank must meet the others in one order,
 * so they follow each other as they were traced, whatever other passes have moved. The means of gradients
 * begin as soon as their gradients are there and end before somebody looks at them; in between the device
 * goes on with the backward pass.
 */

import type { Instruction, Plan } from "./plan.ts";

const COLLECTIVES = new Set(["AllReduce", "AllReduceBegin"]);

/** The place of a collective in the trace; it is the last of an instruction's numbers. */
const sequenceOf = ({ ints }: Instruction): number => ints.at(-1)!;

/** Whether an instruction writes over values that others may still want. */
function writesInPlace({ op, ints }: Instruction): boolean {
  switch (op) {
    case "CacheWrite":
      return ints[0] === 1;
    case "Scan":
      return ints.slice(3).includes(1);
    case "Fused":
      return ints.slice(2).some((k) => k >= 0);
    default:
      return false;
  }
}

export function orderCollectives(plan: Plan): Plan {
  const { instructions } = plan;
  const collectives = [...instructions.keys()]
    .filter((k) => COLLECTIVES.has(instructions[k]!.op))
    .sort((a, b) => sequenceOf(instructions[a]!) - sequenceOf(instructions[b]!));
  if (collectives.length === 0) {
    return plan;
  }
  const producer = new Map<number, number>();
  const consumers = new Map<number, number[]>(); // by instruction: those that wait for it
  for (const [k, { outputs }] of instructions.entries()) {
    for (const { id } of outputs) {
      producer.set(id, k);
    }
  }
  const waiting = instructions.map(() => 0);
  const needs = (k: number, before: number): void => {
    consumers.set(before, [...(consumers.get(before) ?? []), k]);
    waiting[k]! += 1;
  };
  for (const [k, { inputs }] of instructions.entries()) {
    const from = inputs.flatMap(({ id }) => producer.get(id) ?? []);
    for (const before of new Set(from)) {
      needs(k, before);
    }
  }
  for (const [i, k] of collectives.slice(1).entries()) {
    needs(k, collectives[i]!);
  }
  // What writes in place stays behind all that stood before it.
  for (const [k, instruction] of instructions.entries()) {
    if (writesInPlace(instruction)) {
      for (let before = 0; before < k; before++) {
        needs(k, before);
      }
    }
  }
  const rank = instructions.map((instruction, k) => {
    if (instruction.op === "AllReduceBegin") {
      return -1; // as early as can be
    }
    // As late as can be.
    return instruction.op === "AllReduceEnd" ? Math.min(...(consumers.get(k) ?? [k])) - 0.5 : k;
  });
  const ready = [...instructions.keys()].filter((k) => waiting[k] === 0);
  const order: Instruction[] = [];
  while (ready.length > 0) {
    const k = ready.reduce((best, other) => (rank[other]! < rank[best]! ? other : best));
    ready.splice(ready.indexOf(k), 1);
    order.push(instructions[k]!);
    for (const next of consumers.get(k) ?? []) {
      waiting[next]! -= 1;
      if (waiting[next] === 0) {
        ready.push(next);
      }
    }
  }
  if (order.length !== instructions.length) {
    throw new Error("the collectives of a function wait for each other");
  }
  return { ...plan, instructions: order };
}
