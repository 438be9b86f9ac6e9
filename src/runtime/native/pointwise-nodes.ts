/**
 * @file The element-wise nodes and the instructions that they become. Instructions work on float32 (".f") or
 * int32 (".i"); truth values are integers 0 and 1.
 */

import type { GraphNode } from "../graph.ts";
import { sizeOf } from "../tensors.ts";

/** A register of an expression, or a number that is the same for all elements. */
export type Operand = { readonly reg: number } | { readonly number: number };
export type Kind = "f" | "i";

/** Makes instructions; `as` converts an operand first where its kind differs. */
export interface Emitter {
  op(name: string, kind: Kind, ...operands: readonly Operand[]): Operand;
  as(operand: Operand, kind: Kind): Operand;
  kindOf(operand: Operand): Kind;
}

type Rule = (emit: Emitter, operands: readonly Operand[], node: GraphNode) => Operand;

const resultKind = (node: GraphNode): Kind => (node.outputs[0]!.dtype === "float32" ? "f" : "i");

/** The same operation for the node's own element type. */
const typed =
  (name: string): Rule =>
  (emit, operands, node) => {
    const kind = resultKind(node);
    return emit.op(`${name}.${kind}`, kind, ...operands.map((x) => emit.as(x, kind)));
  };

const float =
  (name: string): Rule =>
  (emit, operands) =>
    emit.op(`${name}.f`, "f", ...operands.map((x) => emit.as(x, "f")));

/** A function of floats that gives truth values. */
const asks =
  (name: string): Rule =>
  (emit, operands) =>
    emit.op(`${name}.f`, "i", ...operands.map((x) => emit.as(x, "f")));

/** Compares floats where one of the two is one, else integers. */
const compares =
  (name: string): Rule =>
  (emit, operands) => {
    const kind: Kind = operands.some((x) => emit.kindOf(x) === "f") ? "f" : "i";
    return emit.op(`${name}.${kind}`, "i", ...operands.map((x) => emit.as(x, kind)));
  };

const logical =
  (name: string): Rule =>
  (emit, operands) =>
    emit.op(`${name}.i`, "i", ...operands.map((x) => emit.as(x, "i")));

/** Rounding leaves integers alone. */
const rounding =
  (name: string): Rule =>
  (emit, operands, node) =>
    resultKind(node) === "i" ? operands[0]! : emit.op(`${name}.f`, "f", operands[0]!);

const attr = (node: GraphNode, name: string, otherwise = 0): number =>
  (node.attrs[name] as number | undefined) ?? otherwise;

const clip =
  (bounds: (node: GraphNode) => readonly [number, number]): Rule =>
  (emit, [x], node) => {
    const kind = resultKind(node);
    const [low, high] = bounds(node);
    return emit.op(`Clip.${kind}`, kind, emit.as(x!, kind), { number: low }, { number: high });
  };

export const POINTWISE: { readonly [op: string]: Rule } = {
  ...Object.fromEntries(["Abs", "Neg", "Square", "Sign", "Relu"].map((op) => [op, typed(op)])),
  ...Object.fromEntries(["Floor", "Ceil", "Round"].map((op) => [op, rounding(op)])),
  ...Object.fromEntries(
    [
      "Exp",
      "Expm1",
      "Log",
      "Log1p",
      "Sqrt",
      "Rsqrt",
      "Reciprocal",
      "Sigmoid",
      "Softplus",
      "Tanh",
      "Erf",
      "Sin",
      "Cos",
      "Tan",
      "Asin",
      "Acos",
      "Atan",
      "Sinh",
      "Cosh",
      "Asinh",
      "Acosh",
      "Atanh",
      "Elu",
      "Selu",
      "Silu",
      "Gelu",
      "EluGrad",
      "Prelu",
      "SiluGrad",
      "GeluGrad",
      "Atan2",
    ].map((op) => [op, float(op)]),
  ),
  ...Object.fromEntries(
    [
      "Add",
      "Sub",
      "Multiply",
      "RealDiv",
      "Maximum",
      "Minimum",
      "Pow",
      "Mod",
      "SquaredDifference",
    ].map((op) => [op, typed(op)]),
  ),
  ...Object.fromEntries(["IsNan", "IsInf", "IsFinite"].map((op) => [op, asks(op)])),
  ...Object.fromEntries(
    ["Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual"].map((op) => [
      op,
      compares(op),
    ]),
  ),
  ...Object.fromEntries(
    ["LogicalNot", "LogicalAnd", "LogicalOr", "LogicalXor"].map((op) => [op, logical(op)]),
  ),
  FloorDiv: (emit, operands) => {
    const kind: Kind = operands.some((x) => emit.kindOf(x) === "f") ? "f" : "i";
    return emit.op(`FloorDiv.${kind}`, "i", ...operands.map((x) => emit.as(x, kind)));
  },
  LeakyRelu: (emit, [x], node) => emit.op("Prelu.f", "f", x!, { number: attr(node, "alpha", 0.2) }),
  Step: (emit, [x], node) => emit.op("Step.f", "f", x!, { number: attr(node, "alpha") }),
  Relu6: clip(() => [0, 6]),
  ClipByValue: clip((node) => [attr(node, "clipValueMin"), attr(node, "clipValueMax")]),
  Select: (emit, [condition, yes, no], node) => {
    const kind = resultKind(node);
    const choices = [emit.as(yes!, kind), emit.as(no!, kind)];
    return emit.op("Select", kind, emit.as(condition!, "i"), ...choices);
  },
  Cast: (emit, [x], node) => {
    const to = node.outputs[0]!.dtype;
    if (to === "bool") {
      return node.inputs[0]!.dtype === "bool"
        ? x!
        : emit.op(emit.kindOf(x!) === "f" ? "float to bool" : "int to bool", "i", x!);
    }
    return emit.as(x!, to === "float32" ? "f" : "i");
  },
};

export function isPointwise(node: GraphNode): boolean {
  return POINTWISE[node.op] !== undefined;
}

/** A sum or mean of all of a float32 tensor's values: it can end an element-wise loop. */
export function isTotal(node: GraphNode): boolean {
  if (node.op !== "Sum" && node.op !== "Mean") {
    return false;
  }
  const [x] = node.inputs;
  const axes = node.attrs["axes"] as readonly number[];
  return (
    x!.dtype === "float32" &&
    sizeOf(x!.shape) > 0 &&
    x!.shape.every((side, axis) => side === 1 || axes.includes(axis))
  );
}
