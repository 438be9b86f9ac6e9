/**
 * @file A cluster of element-wise nodes as one step: loads, instructions on registers, stores and sums. See
 * native/cpu/exec/pointwise.cc for how it runs.
 */

import type { GraphNode, Shape, Value } from "../graph.ts";
import { sizeOf } from "../tensors.ts";
import type { Item } from "./items.ts";
import { besides } from "./items.ts";
import type { Lowering } from "./lowering.ts";
import { type Emitter, isTotal, type Kind, type Operand, POINTWISE } from "./pointwise-nodes.ts";
import { flatRoot } from "./uses.ts";
import { broadcastTo, collapse, type View } from "./views.ts";

interface Load {
  readonly view?: View;
  /** Of an immediate. */
  readonly number?: number;
  readonly kind: Kind;
  readonly ints: readonly number[];
  readonly reg: number;
  readonly dense: boolean;
}

interface Instruction {
  readonly name: string;
  readonly result: number;
  readonly operands: readonly number[];
}

/** Bytes of registers that stay in the first-level cache beside what streams through. */
const CACHE = 28 * 1024;

const DENSE = 0;
const SCALAR = 1;
const STRIDED = 2;
const IMMEDIATE = 3;

/** Collects one cluster's expression. Registers are virtual until `encode`. */
class Expression implements Emitter {
  readonly loads: Load[] = [];
  readonly instructions: Instruction[] = [];
  readonly kinds: Kind[] = [];
  readonly #known = new Map<string, number>();

  constructor(readonly shape: Shape) {}

  #register(kind: Kind): number {
    return this.kinds.push(kind) - 1;
  }

  kindOf(operand: Operand): Kind {
    // A bare number takes what it is used as.
    return "reg" in operand ? this.kinds[operand.reg]! : "i";
  }

  as(operand: Operand, kind: Kind): Operand {
    if (!("reg" in operand)) {
      return { number: kind === "i" ? Math.trunc(operand.number) : operand.number };
    }
    if (this.kinds[operand.reg] === kind) {
      return operand;
    }
    return this.op(kind === "f" ? "int to float" : "float to int", kind, operand);
  }

  op(name: string, kind: Kind, ...operands: readonly Operand[]): Operand {
    const operandKind: Kind =
      name === "Select" ? kind : name.endsWith(".f") || name.startsWith("float") ? "f" : "i";
    const registers = operands.map((operand, i) =>
      "reg" in operand
        ? operand.reg
        : this.immediate(operand.number, name === "Select" && i === 0 ? "i" : operandKind),
    );
    const key = `${name} ${registers.join()}`;
    let result = this.#known.get(key);
    if (result === undefined) {
      result = this.#register(kind);
      this.#known.set(key, result);
      this.instructions.push({ name, result, operands: registers });
    }
    return { reg: result };
  }

  immediate(number: number, kind: Kind): number {
    const key = `number ${Object.is(number, -0) ? "-0" : number} ${kind}`;
    let reg = this.#known.get(key);
    if (reg === undefined) {
      reg = this.#register(kind);
      this.#known.set(key, reg);
      const ints = [kind === "f" ? 0 : 1, IMMEDIATE];
      this.loads.push({ number, kind, ints, reg, dense: false });
    }
    return reg;
  }

  /** An operand in memory, of as many values as the expression's shape has. */
  load(view: View, identity: string): Operand {
    const known = this.#known.get(identity);
    if (known !== undefined) {
      return { reg: known };
    }
    const kind: Kind = view.dtype === "float32" ? "f" : "i";
    const reg = this.#register(kind);
    this.#known.set(identity, reg);
    const element = view.dtype === "bool" || view.pixels ? 1 : 0;
    const { dims, strides } = collapse(view.shape, view.strides);
    const steps = strides[0]!;
    const count = sizeOf(this.shape);
    const dense = dims.length === 0 ? count === 1 : dims.length === 1 && steps[0] === 1;
    const ints = dense
      ? [element, DENSE]
      : steps.every((stride) => stride === 0)
        ? [element, SCALAR]
        : [element, STRIDED];
    const axes = ints[1] === STRIDED ? [dims.length, ...dims, ...steps] : [];
    this.loads.push({ view, kind, ints: [...ints, -1, ...axes], reg, dense });
    return { reg };
  }
}

/** Emit a cluster. */
export function emitCluster(lowering: Lowering, item: Item): void {
  const { nodes } = item;
  const head = nodes[0]!;
  const shape = isTotal(head) ? head.inputs[0]!.shape : head.outputs[0]!.shape;
  const members = new Set(nodes);
  const expression = new Expression(shape);
  const registers = new Map<GraphNode, Operand>();
  const sums: { value: Value; operand: Operand; factor: number }[] = [];
  const stores: { value: Value; operand: Operand }[] = [];

  for (const node of nodes) {
    const own = isTotal(node) ? node.inputs[0]!.shape : node.outputs[0]!.shape;
    const operands = node.inputs.map((input) => {
      const flat = flatRoot(input);
      if (members.has(flat.node) && besides(input, own) && !isTotal(flat.node)) {
        return registers.get(flat.node)!;
      }
      return operandOf(lowering, expression, input, own);
    });
    if (isTotal(node)) {
      const factor = node.op === "Mean" ? 1 / sizeOf(own) : 1;
      sums.push({ value: node.outputs[0]!, operand: operands[0]!, factor });
      continue;
    }
    const operand = POINTWISE[node.op]!(expression, operands, node);
    registers.set(node, operand);
    const [value] = node.outputs;
    if (lowering.isRead(value!, members)) {
      stores.push({ value: value!, operand });
    }
  }
  encode(lowering, expression, stores, sums);
}

/** An operand from outside of the cluster: a number, or a load. */
function operandOf(lowering: Lowering, expression: Expression, input: Value, own: Shape): Operand {
  const number = lowering.splat(input);
  if (number !== undefined) {
    return { number: input.dtype === "float32" ? Math.fround(number) : number };
  }
  const view = lowering.streamed(input);
  // Members' shapes may differ by reshapes: broadcasting goes by the node's own one.
  const wide = broadcastTo(view, own);
  const { dims, strides } = collapse(wide.shape, wide.strides);
  const identity = `load ${lowering.bufferId(view.buffer)} ${view.offset} ${dims.join()} ${strides.join()}`;
  return expression.load(wide, identity);
}

function encode(
  lowering: Lowering,
  expression: Expression,
  stores: readonly { value: Value; operand: Operand }[],
  sums: readonly { value: Value; operand: Operand; factor: number }[],
): void {
  const { loads, instructions } = expression;
  const count = sizeOf(expression.shape);
  const needed = (operand: Operand, value: Value): number => {
    const kind: Kind = value.dtype === "float32" ? "f" : "i";
    if ("reg" in operand) {
      return operand.reg;
    }
    return expression.immediate(operand.number, kind);
  };
  const storeRegs = stores.map(({ value, operand }) => needed(operand, value));
  const sumRegs = sums.map(({ value, operand }) => needed(operand, value));

  // Last use of each virtual register; what is stored or summed lives to the end.
  const lastUse = new Map<number, number>();
  instructions.forEach(({ operands }, i) => {
    for (const reg of operands) {
      lastUse.set(reg, i);
    }
  });
  for (const reg of [...storeRegs, ...sumRegs]) {
    lastUse.set(reg, instructions.length);
  }
  const slots = new Map<number, number>();
  let used = 0;
  for (const load of loads) {
    slots.set(load.reg, used++);
  }
  const fixed = used;
  const free: number[] = [];
  const codes: number[] = [];
  instructions.forEach(({ name, result, operands }, i) => {
    for (const reg of new Set(operands)) {
      if (lastUse.get(reg) === i && slots.get(reg)! >= fixed) {
        free.push(slots.get(reg)!);
      }
    }
    const slot = free.pop() ?? used++;
    slots.set(result, slot);
    const code = lowering.instructions.indexOf(name);
    if (code < 0) {
      throw new Error(`the native engine has no instruction "${name}": build it again`);
    }
    const [a, b = a, c = a] = operands.map((reg) => slots.get(reg)!);
    codes.push(code, slot, a!, b!, c!);
    if (!lastUse.has(result)) {
      free.push(slot);
    }
  });

  const touched = used - loads.filter((load) => load.dense).length + 1;
  const fitting = Math.floor(CACHE / (4 * touched) / 64) * 64;
  const block = Math.max(64, Math.min(4096, fitting, Math.ceil(count / 64) * 64));
  const outputs = stores.map(({ value }) => lowering.alloc(value));
  const totals = sums.map(({ value }) => lowering.alloc(value));
  const inputs = loads.flatMap((load) => (load.view ? [load.view] : []));
  const ints = [
    count,
    block,
    used,
    loads.length,
    ...loads.flatMap((load) => [
      load.ints[0]!,
      load.ints[1]!,
      slots.get(load.reg)!,
      ...load.ints.slice(3),
    ]),
    instructions.length,
    ...codes,
    stores.length,
    ...stores.flatMap(({ value }, i) => [
      value.dtype === "bool" ? 1 : 0,
      slots.get(storeRegs[i]!)!,
    ]),
    sums.length,
    ...sumRegs.map((reg) => slots.get(reg)!),
  ];
  const numbers = [
    ...loads.flatMap((load) => (load.number === undefined ? [] : [load.number])),
    ...sums.map(({ factor }) => factor),
  ];
  // A result may be written over an operand that is read element by element beside it, and only so.
  const inPlace = loads
    .filter(
      ({ view, dense }) =>
        view &&
        dense &&
        view.offset === 0 &&
        loads.every(
          (other) => other.view?.buffer !== view.buffer || (other.dense && other.view.offset === 0),
        ),
    )
    .map(({ view }) => view!);
  lowering.builder.step(
    "Pointwise",
    inputs,
    [...outputs, ...totals],
    ints,
    numbers,
    stores.length > 0 ? inPlace : [],
  );
}
