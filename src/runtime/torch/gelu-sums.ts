/**
 * @file The gradient of GELU with the sums over its rows, the gradient of the bias before it: the kernel that makes
 * it adds it up (native/torch/gelu.cc).
 */

import type { Instruction, Plan } from "./plan.ts";

export function sumInGelu(plan: Plan): Plan {
  const consumers = new Map<number, Instruction[]>();
  for (const instruction of plan.instructions) {
    for (const slot of instruction.inputs) {
      consumers.set(slot.id, [...(consumers.get(slot.id) ?? []), instruction]);
    }
  }
  const dropped = new Set<Instruction>();
  const changed = new Map<Instruction, Instruction>();
  for (const gelu of plan.instructions) {
    const [dx] = gelu.outputs;
    const large =
      gelu.op === "GeluGrad" &&
      dx!.shape.length === 2 &&
      dx!.shape[1]! % 8 === 0 &&
      [...gelu.inputs, dx!].every(
        ({ type, shape }) => type === "bf16" && shape.join() === dx!.shape.join(),
      );
    const sum =
      large &&
      consumers
        .get(dx!.id)
        ?.find(
          ({ op, ints, outputs }) =>
            op === "Sum" && ints.join() === "0,0" && outputs[0]!.type === "f32",
        );
    if (sum) {
      dropped.add(sum);
      const outputs = [dx!, sum.outputs[0]!];
      changed.set(gelu, { ...gelu, op: "GeluGradSums", outputs, where: `${gelu.where}, summed` });
    }
  }
  return {
    ...plan,
    instructions: plan.instructions
      .filter((instruction) => !dropped.has(instruction))
      .map((instruction) => changed.get(instruction) ?? instruction),
  };
}
