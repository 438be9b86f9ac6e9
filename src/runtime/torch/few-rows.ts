/**
 * @file Decoding token after token: products of a few rows with weights that stay as they are cost the reading
 * of the weights and little else, if few kernels are started. The layer norm before such a product and the GELU
 * or the residual after it become part of it (native/torch/decode.cc), its weights are turned once so that
 * every output reads a run of memory, and attention puts its own keys and values into the cache.
 */

import { sizeOf } from "../tensors.ts";
import type { Instruction, Plan, Slot } from "./plan.ts";

/** More rows than this are better served by the library's products. */
const MOST_ROWS = 8;
/** float32 of the rows in a multiprocessor's shared memory. */
const MOST_VALUES = 40 * 1024;

/** Slots that depend on constants, unassigned states and what is given alone. */
function stillSlots(plan: Plan, given: readonly number[]): Set<number> {
  const still = new Set<number>([
    ...given,
    ...plan.constants.map(({ slot }) => slot.id),
    ...plan.states.filter(({ next }) => !next).map(({ slot }) => slot.id),
  ]);
  for (const { op, inputs, outputs } of plan.instructions) {
    if (op === "Fill" || (inputs.length > 0 && inputs.every(({ id }) => still.has(id)))) {
      for (const { id } of outputs) {
        still.add(id);
      }
    }
  }
  return still;
}

/** @param given slots that stay as they are besides: what a loop captures */
export function fewRows(plan: Plan, given: readonly number[] = []): Plan {
  const still = stillSlots(plan, given);
  const producer = new Map<number, Instruction>();
  const place = new Map<number, number>();
  const consumers = new Map<number, Instruction[]>();
  for (const [k, instruction] of plan.instructions.entries()) {
    for (const { id } of instruction.outputs) {
      producer.set(id, instruction);
      place.set(id, k);
    }
    for (const { id } of instruction.inputs) {
      consumers.set(id, [...(consumers.get(id) ?? []), instruction]);
    }
  }
  const kept = new Set([
    ...plan.outputs.map(({ slot }) => slot.id),
    ...plan.states.flatMap(({ next }) => (next ? [next.id] : [])),
  ]);
  /** The only instruction that uses a slot. */
  const only = ({ id }: Slot): Instruction | undefined => {
    const uses = consumers.get(id) ?? [];
    return uses.length === 1 && !kept.has(id) ? uses[0] : undefined;
  };
  let slots = plan.slots;
  const dropped = new Set<Instruction>();
  const changed = new Map<Instruction, readonly Instruction[]>();

  /** What made a slot, through views that nobody else looks at. */
  const source = (slot: Slot, views: Instruction[]): Instruction | undefined => {
    const made = producer.get(slot.id);
    if (made?.op === "Reshape" && only(made.outputs[0]!)) {
      views.push(made);
      return source(made.inputs[0]!, views);
    }
    return made && only(made.outputs[0]!) ? made : undefined;
  };

  const product = (instruction: Instruction, k: number): void => {
    const [x, weight, bias] = instruction.inputs as [Slot, Slot, Slot | undefined];
    const [y] = instruction.outputs as [Slot];
    const [transposeA, transposeB] = instruction.ints;
    const [rows, inner] = x.shape as [number, number];
    const width = y.shape[1]!;
    const fits =
      weight.shape.length === 2 &&
      x.shape.length === 2 &&
      !transposeA &&
      y.type === "bf16" &&
      rows <= MOST_ROWS &&
      rows * inner <= MOST_VALUES &&
      inner % 256 === 0 &&
      still.has(weight.id) &&
      (!bias || still.has(bias.id)) &&
      !still.has(x.id);
    if (!fits) {
      return;
    }
    const made: Instruction[] = [];
    let turned = weight;
    if (!transposeB) {
      turned = { id: slots++, shape: [width, inner], type: weight.type };
      made.push({
        op: "Turned",
        inputs: [weight],
        outputs: [turned],
        ints: [],
        floats: [],
        text: "",
        where: `Turned [${turned.shape.join(", ")}]`,
      });
    }
    // Before: a layer norm of just these rows.
    const views: Instruction[] = [];
    const before = source(x, views);
    const norm = before?.op === "LayerNorm" && before.inputs[0]!.shape.at(-1) === inner;
    if (norm) {
      for (const each of [before, ...views]) {
        dropped.add(each);
      }
    }
    // Behind: GELU, or what is added to the result.
    let output = y;
    let end: "gelu" | "residual" | undefined;
    let residual: Slot | undefined;
    let next = only(y);
    const behind: Instruction[] = [];
    while (next?.op === "Reshape" && only(next.outputs[0]!)) {
      behind.push(next);
      next = only(next.outputs[0]!);
    }
    if (next?.op === "Gelu") {
      end = "gelu";
    } else if (next?.op === "Add") {
      const last = behind.at(-1)?.outputs[0] ?? y;
      residual = next.inputs.find(({ id }) => id !== last.id);
      const whole = residual && sizeOf(residual.shape) === sizeOf(y.shape);
      if (whole && (place.get(residual!.id) ?? -1) < k) {
        end = "residual";
      }
    }
    if (end) {
      output = next!.outputs[0]!;
      for (const each of [next!, ...behind]) {
        dropped.add(each);
      }
    }
    made.push({
      op: "FewRows",
      inputs: [
        norm ? before.inputs[0]! : x,
        turned,
        ...(bias ? [bias] : []),
        ...(norm ? before.inputs.slice(1, 3) : []),
        ...(end === "residual" ? [residual!] : []),
      ],
      outputs: [output],
      ints: [
        rows,
        inner,
        Number(Boolean(bias)),
        Number(norm),
        Number(end === "gelu"),
        Number(end === "residual"),
      ],
      floats: norm ? before.floats : [],
      text: "",
      where: `FewRows [${rows}, ${inner}, ${width}]${norm ? " after a norm" : ""}${end ? `, ${end}` : ""}`,
    });
    changed.set(instruction, made);
  };

  const attention = (instruction: Instruction): void => {
    const [query, keys, values, position] = instruction.inputs as [Slot, Slot, Slot, Slot];
    const writes = [keys, values].map((slot) => producer.get(slot.id));
    const fits =
      query.shape[2] === 1 &&
      writes.every(
        (write, i) =>
          write?.op === "CacheWrite" &&
          write.ints[0] === 1 &&
          write.inputs[2]!.id === position.id &&
          consumers.get([keys, values][i]!.id)!.length === 1,
      );
    if (!fits) {
      return;
    }
    const [key, value] = writes as [Instruction, Instruction];
    dropped.add(key);
    dropped.add(value);
    changed.set(instruction, [
      {
        ...instruction,
        op: "CachedStep",
        inputs: [query, ...key.inputs.slice(0, 2), ...value.inputs.slice(0, 2), position],
        outputs: [instruction.outputs[0]!, keys, values],
      },
    ]);
  };

  for (const [k, instruction] of plan.instructions.entries()) {
    if (instruction.op === "Linear" || instruction.op === "BatchMatMul") {
      product(instruction, k);
    } else if (instruction.op === "CachedAttention") {
      attention(instruction);
    }
  }
  return {
    ...plan,
    slots,
    instructions: plan.instructions
      .filter((instruction) => !dropped.has(instruction))
      .flatMap((instruction) => changed.get(instruction) ?? [instruction]),
  };
}
