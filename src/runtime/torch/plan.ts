/**
 * @file The instructions a graph becomes for the libtorch executor (native/torch/plan.h), and the planner
 * that the lowering rules write them with.
 *
 * A slot holds one tensor. Its type may be narrower than the graph's: with precision "bf16", operands of
 * products, convolutions and attention are bfloat16 (rules in lowering.ts), everything else that needs
 * range or accuracy stays float32.
 */

import { type Graph, type GraphNode, liveNodes, type Shape, type Value } from "../graph.ts";
import type { HostTensor } from "../tensors.ts";

/** Element types on the device. */
export type Type = "f32" | "bf16" | "i32" | "bool" | "u8";

export interface Slot {
  readonly id: number;
  readonly shape: Shape;
  readonly type: Type;
  /** Of a shape and type that only the library knows. */
  readonly opaque?: boolean;
}

/** One call of a native kernel. What `ints`, `floats` and `text` mean is the kernel's own. */
export interface Instruction {
  readonly op: string;
  readonly inputs: readonly Slot[];
  readonly outputs: readonly Slot[];
  readonly ints: readonly number[];
  readonly floats: readonly number[];
  readonly text: string;
  /** What a person knows it by: the graph's kernel and shape. */
  readonly where: string;
  /** Depends on nothing that changes from call to call: computed once, kept until a state is written. */
  readonly fixed?: boolean;
  /** One turn of a loop: loops.ts says how it is given its values. */
  readonly body?: Plan;
}

export interface Plan {
  readonly name: string;
  readonly instructions: readonly Instruction[];
  readonly inputs: readonly { readonly slot: Slot }[];
  readonly constants: readonly { readonly slot: Slot; readonly data: HostTensor["data"] }[];
  readonly states: readonly { readonly slot: Slot; readonly next?: Slot }[];
  readonly outputs: readonly { readonly slot: Slot; readonly type: Type }[];
  readonly slots: number;
}

export type Precision = "fp32" | "tf32" | "bf16";

/** Emits the instructions of one graph node. */
export type Rule = (planner: Planner, node: GraphNode) => void;

const TYPES = { float32: "f32", int32: "i32", bool: "bool" } as const;

/** Type of a graph value that nothing narrows. */
export const typeOf = (value: Value): Type => TYPES[value.dtype];

export interface Attributes {
  readonly ints?: readonly number[];
  readonly floats?: readonly number[];
  readonly text?: string;
  readonly body?: Plan;
}

export class Planner {
  readonly instructions: Instruction[] = [];
  readonly constants: { slot: Slot; data: HostTensor["data"] }[] = [];
  readonly consumers = new Map<Value, { readonly node: GraphNode; readonly index: number }[]>();
  readonly #slots = new Map<Value, Slot>();
  readonly #memo = new Map<string, readonly Slot[]>();
  readonly #kept: ReadonlySet<Value>;
  #count = 0;
  #where = "";

  constructor(
    readonly graph: Graph,
    readonly precision: Precision,
    readonly nodes: readonly GraphNode[],
  ) {
    for (const node of nodes) {
      for (const [index, value] of node.inputs.entries()) {
        const uses = this.consumers.get(value) ?? [];
        uses.push({ node, index });
        this.consumers.set(value, uses);
      }
    }
    this.#kept = new Set([
      ...graph.outputs.map((output) => output.value),
      ...graph.states.flatMap((state) => (state.next ? [state.next] : [])),
    ]);
  }

  /** Whether a value is an output or a state's next value. */
  isKept(value: Value): boolean {
    return this.#kept.has(value);
  }

  /** The only node that uses a value, if there is one and the value is nothing's result. */
  soleConsumer(value: Value): GraphNode | undefined {
    const uses = this.consumers.get(value) ?? [];
    return uses.length === 1 && !this.isKept(value) ? uses[0]!.node : undefined;
  }

  /** The only node that uses a value, whether or not the value is something's result too. */
  soleUse(value: Value): GraphNode | undefined {
    const uses = this.consumers.get(value) ?? [];
    return uses.length === 1 ? uses[0]!.node : undefined;
  }

  slot(shape: Shape, type: Type): Slot {
    return { id: this.#count++, shape, type };
  }

  opaque(): Slot {
    return { ...this.slot([], "f32"), opaque: true };
  }

  get count(): number {
    return this.#count;
  }

  /** Whether a value has been computed already. */
  has(value: Value): boolean {
    return this.#slots.has(value);
  }

  set(value: Value, slot: Slot): void {
    this.#slots.set(value, slot);
  }

  /** The slot of a value in the type it was computed in. Constants are made where first used. */
  get(value: Value): Slot {
    const known = this.#slots.get(value);
    if (known) {
      return known;
    }
    const { node } = value;
    const slot = this.slot(value.shape, typeOf(value));
    if (node.op === "Fill") {
      const floats = [node.attrs["value"] as number];
      this.push({
        op: "Fill",
        inputs: [],
        outputs: [slot],
        ints: [],
        floats,
        text: "",
        where: "Fill",
      });
    } else if (node.op === "Constant") {
      this.constants.push({ slot, data: node.data!.data });
    } else {
      throw new Error(`value %${value.id} of ${node.op} was used before it was computed`);
    }
    this.#slots.set(value, slot);
    return slot;
  }

  /** A slot's values in another type, made once. */
  convert(slot: Slot, type: Type): Slot {
    return slot.type === type
      ? slot
      : this.once(`cast ${slot.id} ${type}`, () =>
          this.emit("Cast", [slot], [{ shape: slot.shape, type }]),
        )[0]!;
  }

  /** A value's slot in a type. */
  as(value: Value, type: Type): Slot {
    return this.convert(this.get(value), type);
  }

  /** A value as float32 where it is bfloat16, unchanged otherwise. */
  wide(value: Value): Slot {
    const slot = this.get(value);
    return slot.type === "bf16" ? this.convert(slot, "f32") : slot;
  }

  /** Slots that several nodes share, made once. */
  once(key: string, make: () => readonly Slot[]): readonly Slot[] {
    let found = this.#memo.get(key);
    if (!found) {
      found = make();
      this.#memo.set(key, found);
    }
    return found;
  }

  /** What `once` has made under a key. */
  made(key: string): readonly Slot[] {
    return this.#memo.get(key) ?? [];
  }

  push(instruction: Instruction): void {
    this.instructions.push(instruction);
  }

  emit(
    op: string,
    inputs: readonly Slot[],
    specs: readonly { readonly shape: Shape; readonly type: Type }[],
    { ints = [], floats = [], text = "", body }: Attributes = {},
  ): Slot[] {
    const outputs = specs.map(({ shape, type }) => this.slot(shape, type));
    const where = this.#where || op;
    this.push({ op, inputs, outputs, ints, floats, text, where, ...(body && { body }) });
    return outputs;
  }

  /** Emit one instruction for a node's outputs in given types. */
  result(
    node: GraphNode,
    op: string,
    inputs: readonly Slot[],
    types: readonly Type[],
    attributes?: Attributes,
  ): void {
    const specs = node.outputs.map((value, i) => ({ shape: value.shape, type: types[i]! }));
    for (const [i, slot] of this.emit(op, inputs, specs, attributes).entries()) {
      this.set(node.outputs[i]!, slot);
    }
  }

  /** Lower every node with a table of rules. */
  lower(rules: { readonly [op: string]: Rule }): void {
    for (const { value } of [...this.graph.inputs, ...this.graph.states]) {
      this.set(value, this.slot(value.shape, typeOf(value)));
    }
    for (const node of this.nodes) {
      if (["Input", "State", "Constant", "Fill"].includes(node.op)) {
        continue;
      }
      const rule = rules[node.op];
      if (!rule) {
        throw new Error(`the kernel "${node.op}" has no form for the device "torch" yet`);
      }
      this.#where = `${node.op} [${node.outputs[0]?.shape.join(", ") ?? ""}]`;
      rule(this, node);
    }
    this.#where = "";
  }

  finish(): Plan {
    const { graph } = this;
    return {
      name: graph.name,
      states: graph.states.map(({ value, next }) => ({
        slot: this.get(value),
        ...(next ? { next: this.convert(this.get(next), typeOf(next)) } : {}),
      })),
      outputs: graph.outputs.map(({ value }) => ({
        slot: this.get(value),
        type: typeOf(value),
      })),
      inputs: graph.inputs.map(({ value }) => ({ slot: this.get(value) })),
      constants: this.constants,
      instructions: this.instructions,
      slots: this.#count,
    };
  }
}

/**
 * A planner for a graph, its nodes in the order of the trace: then a layer's weight gradient comes beside
 * its input gradient, and what the layer kept is given up.
 */
export function plannerFor(graph: Graph, precision: Precision): Planner {
  const place = ({ outputs }: GraphNode) => outputs[0]!.id;
  const nodes = liveNodes(graph).toSorted((a, b) => place(a) - place(b));
  return new Planner(graph, precision, nodes);
}

/** The plan without instructions whose results nobody uses: rules may leave some behind. */
export function withoutDead(plan: Plan): Plan {
  const used = new Set([
    ...plan.outputs.map(({ slot }) => slot.id),
    ...plan.states.flatMap(({ next }) => (next ? [next.id] : [])),
  ]);
  const live: Instruction[] = [];
  for (const instruction of plan.instructions.toReversed()) {
    if (instruction.outputs.some((slot) => used.has(slot.id))) {
      live.push(instruction);
      for (const slot of instruction.inputs) {
        used.add(slot.id);
      }
    }
  }
  return { ...plan, instructions: live.toReversed() };
}

/** Instructions with, for each, the slots that nobody needs afterwards. */
export function lastUses(plan: Plan): Slot[][] {
  const kept = new Set([
    ...plan.outputs.map(({ slot }) => slot.id),
    ...plan.states.flatMap(({ next }) => (next ? [next.id] : [])),
  ]);
  const seen = new Set<number>(kept);
  const frees: Slot[][] = plan.instructions.map(() => []);
  for (let k = plan.instructions.length - 1; k >= 0; k--) {
    const { inputs, outputs } = plan.instructions[k]!;
    for (const slot of [...inputs, ...outputs]) {
      if (!seen.has(slot.id)) {
        seen.add(slot.id);
        frees[k]!.push(slot);
      }
    }
  }
  return frees;
}
