/**
 * @file The gradient of a layer norm with what is added to it: in a pre-norm transformer the residual
 * stream's gradient, whose sum is then needed in float32 and, by the products before, in bfloat16. One
 * kernel reads and writes each of these once.
 */

import { sizeOf } from "../tensors.ts";
import type { Instruction, Plan } from "./plan.ts";

export function addInNorms(plan: Plan): Plan {
  const consumers = new Map<number, Instruction[]>();
  const place = new Map<number, number>();
  for (const [k, instruction] of plan.instructions.entries()) {
    for (const slot of instruction.inputs) {
      consumers.set(slot.id, [...(consumers.get(slot.id) ?? []), instruction]);
    }
    for (const slot of instruction.outputs) {
      place.set(slot.id, k);
    }
  }
  const kept = new Set([
    ...plan.outputs.map(({ slot }) => slot.id),
    ...plan.states.flatMap(({ next }) => (next ? [next.id] : [])),
  ]);
  const dropped = new Set<Instruction>();
  const changed = new Map<Instruction, Instruction>();
  for (const [k, norm] of plan.instructions.entries()) {
    const [dx, dscale, dshift] = norm.outputs;
    const channels = dx?.shape.at(-1) ?? 0;
    if (
      norm.op !== "LayerNormGrad" ||
      norm.inputs.length !== 5 ||
      channels % 4 !== 0 ||
      channels > 4096
    ) {
      continue;
    }
    const uses = consumers.get(dx!.id) ?? [];
    const add = uses[0];
    if (uses.length !== 1 || add!.op !== "Add" || kept.has(dx!.id) || dx!.type !== "f32") {
      continue;
    }
    const [sum] = add!.outputs;
    const other = add!.inputs.find((slot) => slot.id !== dx!.id);
    const fits =
      other?.type === "f32" &&
      sum!.type === "f32" &&
      sizeOf(other.shape) === sizeOf(dx!.shape) &&
      (place.get(other.id) ?? -1) < k;
    if (!fits) {
      continue;
    }
    const cast = (consumers.get(sum!.id) ?? []).find(
      (each) =>
        each.op === "Cast" && each.outputs[0]!.type === "bf16" && !kept.has(each.outputs[0]!.id),
    );
    dropped.add(add!);
    if (cast) {
      dropped.add(cast);
    }
    changed.set(norm, {
      ...norm,
      ints: [1],
      inputs: [...norm.inputs, other],
      outputs: [sum!, dscale!, dshift!, ...(cast ? [cast.outputs[0]!] : [])],
    });
  }
  return {
    ...plan,
    instructions: plan.instructions
      .filter((instruction) => !dropped.has(instruction))
      .map((instruction) => changed.get(instruction) ?? instruction),
  };
}
