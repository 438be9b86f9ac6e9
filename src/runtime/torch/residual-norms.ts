/**
 * @file The layer norms of a pre-norm transformer with its residual stream. Forward, a norm adds what comes into
 * the stream itself and keeps the sum; backward, its gradient adds the stream's, gives the sum in float32 and, for
 * the products before, in bfloat16, and adds up its rows, which is the gradient of a bias. Each tensor is read and
 * written once.
 */

import { sizeOf } from "../tensors.ts";
import type { Instruction, Plan, Slot } from "./plan.ts";

/** Channels that the kernels of native/torch/norms.cc take. */
const fitsKernel = (channels: number): boolean => channels % 4 === 0 && channels <= 4096;

export function addInNorms(plan: Plan): Plan {
  const consumers = new Map<number, Instruction[]>();
  const producer = new Map<number, Instruction>();
  const place = new Map<number, number>();
  const index = new Map<Instruction, number>();
  for (const [k, instruction] of plan.instructions.entries()) {
    index.set(instruction, k);
    for (const slot of instruction.inputs) {
      consumers.set(slot.id, [...(consumers.get(slot.id) ?? []), instruction]);
    }
    for (const slot of instruction.outputs) {
      place.set(slot.id, k);
      producer.set(slot.id, instruction);
    }
  }
  const kept = new Set([
    ...plan.outputs.map(({ slot }) => slot.id),
    ...plan.states.flatMap(({ next }) => (next ? [next.id] : [])),
  ]);
  const dropped = new Set<Instruction>();
  const changed = new Map<Instruction, Instruction>();
  const before = (slot: Slot, k: number): boolean => (place.get(slot.id) ?? -1) < k;

  /** What made a slot, seen through views. */
  const source = (slot: Slot): Instruction | undefined => {
    const made = producer.get(slot.id);
    return made?.op === "Reshape" ? source(made.inputs[0]!) : made;
  };

  const forward = (norm: Instruction): void => {
    const [x, scale, shift] = norm.inputs as [Slot, Slot, Slot];
    const channels = x.shape.at(-1)!;
    const add = source(x);
    if (norm.inputs.length !== 3 || !fitsKernel(channels) || add?.op !== "Add") {
      return;
    }
    const [sum] = add.outputs as [Slot];
    const [a, b] = add.inputs.toSorted(
      (p, q) => Number(q.type === "f32") - Number(p.type === "f32"),
    ) as [Slot, Slot];
    const k = index.get(add)!;
    const fits =
      !changed.has(add) &&
      sum.type === "f32" &&
      a.type === "f32" &&
      (b.type === "f32" || b.type === "bf16") &&
      [a, b, x].every((slot) => sizeOf(slot.shape) === sizeOf(sum.shape)) &&
      a.shape.at(-1) === channels &&
      before(scale, k) &&
      before(shift, k);
    if (!fits) {
      return;
    }
    const [y, ...stats] = norm.outputs as [Slot, ...Slot[]];
    const where = `${norm.where} of a sum`;
    const inputs = [a, scale, shift, b];
    changed.set(add, { ...norm, ints: [1], inputs, outputs: [y, sum, ...stats], where });
    dropped.add(norm);
  };

  const backward = (norm: Instruction): void => {
    const [dx, dscale, dshift] = norm.outputs as [Slot, Slot, Slot];
    const channels = dx.shape.at(-1)!;
    const uses = consumers.get(dx.id) ?? [];
    const [add] = uses;
    const own =
      norm.inputs.length === 5 &&
      fitsKernel(channels) &&
      uses.length === 1 &&
      add!.op === "Add" &&
      !kept.has(dx.id) &&
      dx.type === "f32";
    if (!own) {
      return;
    }
    const [sum] = add!.outputs as [Slot];
    const other = add!.inputs.find((slot) => slot.id !== dx.id);
    const fits =
      other?.type === "f32" &&
      sum.type === "f32" &&
      sizeOf(other.shape) === sizeOf(dx.shape) &&
      before(other, index.get(norm)!);
    if (!fits) {
      return;
    }
    dropped.add(add!);
    const cast = (consumers.get(sum.id) ?? []).find(
      (each) =>
        each.op === "Cast" && each.outputs[0]!.type === "bf16" && !kept.has(each.outputs[0]!.id),
    );
    if (cast) {
      dropped.add(cast);
    }
    // The sum over rows, of either copy.
    const copies = [sum, ...(cast ? cast.outputs : [])];
    const rows = copies
      .flatMap(({ id }) => consumers.get(id) ?? [])
      .find(
        ({ op, inputs, ints }) =>
          op === "Sum" &&
          inputs[0]!.shape.length === 2 &&
          inputs[0]!.shape[1] === channels &&
          ints.join() === "0,0",
      );
    if (rows) {
      dropped.add(rows);
    }
    changed.set(norm, {
      ...norm,
      ints: [1, Number(Boolean(cast)), Number(Boolean(rows))],
      inputs: [...norm.inputs, other],
      outputs: [sum, dscale, dshift, ...(cast?.outputs ?? []), ...(rows?.outputs ?? [])],
      where: `${norm.where} and the stream's${rows ? ", summed" : ""}`,
    });
  };

  for (const instruction of plan.instructions) {
    if (instruction.op === "LayerNorm") {
      forward(instruction);
    } else if (instruction.op === "LayerNormGrad") {
      backward(instruction);
    }
  }
  return {
    ...plan,
    instructions: plan.instructions
      .filter((instruction) => !dropped.has(instruction))
      .map((instruction) => changed.get(instruction) ?? instruction),
  };
}
