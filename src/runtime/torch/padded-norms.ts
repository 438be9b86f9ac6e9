/**
 * @file Group norms that write straight into the frames of a causally padded clip, and read their gradient
 * straight from it: one pass less over the largest tensors of a 3D CNN, each way. A group norm by frames is
 * [B·T, 1, H, W, C]; the padded clip is [B, T + n, H, W, C] with n empty frames in front.
 */

import type { Instruction, Plan, Slot } from "./plan.ts";

/** Whether the CUDA kernels of native/torch/norms.cc take these sizes; others go through PyTorch's. */
function fits(x: Slot, groups: number): boolean {
  const channels = x.shape.at(-1)!;
  const width = x.type === "bf16" && channels % 8 === 0 ? 8 : 4;
  const lanes = channels / width;
  return (
    channels % width === 0 &&
    lanes <= 256 &&
    256 % lanes === 0 &&
    channels <= 1024 &&
    channels % groups === 0 &&
    x.shape[0]! <= 65_535
  );
}

/** The empty frames in front, where a padding does nothing else. */
function frontFrames({ op, ints, floats }: Instruction): number {
  const only = op === "PadV2" && ints.length === 10 && floats[0] === 0;
  return only && ints.every((n, i) => i === 2 || n === 0) ? ints[2]! : 0;
}

export function padInNorms(plan: Plan): Plan {
  const consumers = new Map<number, Instruction[]>();
  const producer = new Map<number, Instruction>();
  for (const instruction of plan.instructions) {
    for (const slot of instruction.inputs) {
      consumers.set(slot.id, [...(consumers.get(slot.id) ?? []), instruction]);
    }
    for (const slot of instruction.outputs) {
      producer.set(slot.id, instruction);
    }
  }
  const kept = new Set([
    ...plan.outputs.map(({ slot }) => slot.id),
    ...plan.states.flatMap(({ next }) => (next ? [next.id] : [])),
  ]);
  const only = (slot: Slot): Instruction | undefined => {
    const uses = consumers.get(slot.id) ?? [];
    return uses.length === 1 && !kept.has(slot.id) ? uses[0] : undefined;
  };
  const dropped = new Set<Instruction>();
  const changed = new Map<Instruction, Instruction>();
  for (const instruction of plan.instructions) {
    if (instruction.op === "GroupNorm" && fits(instruction.inputs[0]!, instruction.ints[0]!)) {
      const [y, stats] = instruction.outputs;
      const reshape = only(y!);
      const pad = reshape?.op === "Reshape" ? only(reshape.outputs[0]!) : undefined;
      const frames = reshape?.outputs[0]!.shape;
      if (!reshape || !pad || !frames || frames.length !== 5 || y!.shape[1] !== 1) {
        continue;
      }
      const front = frontFrames(pad);
      if (front > 0 && frames[0]! * frames[1]! === y!.shape[0]) {
        const ints = [...instruction.ints, frames[1]!, frames[1]! + front, front];
        changed.set(instruction, { ...instruction, ints, outputs: [pad.outputs[0]!, stats!] });
        dropped.add(reshape);
        dropped.add(pad);
      }
    }
    if (instruction.op === "GroupNormGrad" && fits(instruction.inputs[0]!, instruction.ints[0]!)) {
      const [x, scale, shift, dy, ...stats] = instruction.inputs;
      const reshape = producer.get(dy!.id);
      const cut = reshape?.op === "Reshape" ? producer.get(reshape.inputs[0]!.id) : undefined;
      if (!cut || cut.op !== "Slice" || cut.inputs[0]!.shape.length !== 5 || x!.shape[1] !== 1) {
        continue;
      }
      const whole = cut.inputs[0]!.shape;
      const [begin, size] = [cut.ints.slice(0, 5), cut.ints.slice(5, 10)];
      const front = begin[1]!;
      const timeOnly = [0, 2, 3, 4].every(
        (axis) => begin[axis] === 0 && size[axis] === whole[axis],
      );
      const onlyHere = only(dy!) === instruction && only(cut.outputs[0]!) === reshape;
      if (
        timeOnly &&
        onlyHere &&
        front + size[1]! === whole[1] &&
        whole[0]! * size[1]! === x!.shape[0]
      ) {
        const ints = [...instruction.ints, size[1]!, whole[1]!, front];
        changed.set(instruction, {
          ...instruction,
          ints,
          inputs: [x!, scale!, shift!, cut.inputs[0]!, ...stats],
        });
        dropped.add(reshape!);
        dropped.add(cut);
      }
    }
  }
  return {
    ...plan,
    instructions: plan.instructions
      .filter((instruction) => !dropped.has(instruction))
      .map((instruction) => changed.get(instruction) ?? instruction),
  };
}
