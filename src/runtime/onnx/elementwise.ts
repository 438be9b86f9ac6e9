/** @file ONNX lowering of element-wise kernels, casts and choices. */

import type { GraphNode, Value } from "../graph.ts";
import { type Layout, type Lowering, permute, type Rule, shapeIn, toFirst } from "./lowering.ts";
import { ELEMENT_TYPES } from "./model.ts";

/** An operand so that it broadcasts against a result of `rank` axes in `layout`. */
export function operand(lowering: Lowering, value: Value, rank: number, layout: Layout): string {
  if (layout === "last" || value.node.op === "Fill") {
    return lowering.get(value);
  }
  if (value.shape.length === rank) {
    return lowering.get(value, layout);
  }
  const padded = [...Array.from({ length: rank - value.shape.length }, () => 1), ...value.shape];
  const perm = toFirst(rank);
  if (padded.filter((side) => side !== 1).length <= 1) {
    return lowering.reshape(lowering.get(value), permute(padded, perm)); // no values change places
  }
  return lowering.transpose(lowering.reshape(lowering.get(value), padded), perm);
}

type Emit = (lowering: Lowering, inputs: readonly string[], node: GraphNode) => string;

/** A rule that computes in the layout its operands are in. */
function pointwise(emit: Emit): Rule {
  return (lowering, node) => {
    const [output] = node.outputs;
    const layout = lowering.layoutOf(output!.shape, node.inputs);
    const names = node.inputs.map((v) => operand(lowering, v, output!.shape.length, layout));
    let name = emit(lowering, names, node);
    // Repeated values came as scalars: what they alone would have broadcast is expanded here.
    const shapes = node.inputs.map((v) => (v.node.op === "Fill" ? v.shape.map(() => 1) : v.shape));
    const side = (axis: number) => Math.max(...shapes.map((shape) => shape.at(axis) ?? 1));
    const rank = output!.shape.length;
    if (output!.shape.some((size, i) => size !== side(i - rank))) {
      name = lowering.g.op("Expand", [name, lowering.g.ints(shapeIn(layout, output!.shape))]);
    }
    lowering.set(output!, name, layout);
  };
}

const named = (op: string): Rule => pointwise(({ g }, inputs) => g.op(op, inputs));

/** As `named`; truth values, which ONNX does not calculate with, count as 0 and 1. */
const numeric = (op: string): Rule =>
  pointwise(({ g }, inputs, node) =>
    g.op(
      op,
      inputs.map((name, i) =>
        node.inputs[i]!.dtype === "bool" ? g.op("Cast", [name], { to: ELEMENT_TYPES.int32 }) : name,
      ),
    ),
  );

/** Natural constants are float32 scalars; integer kernels get theirs by type. */
function scalarLike(lowering: Lowering, node: GraphNode, value: number): string {
  return node.outputs[0]!.dtype === "int32"
    ? lowering.g.constant("int32", [], Int32Array.of(value))
    : lowering.g.scalar(value);
}

function isSmall(g: Lowering["g"], x: string): string {
  return g.op("Less", [g.op("Abs", [x]), g.scalar(0.5)]);
}

/** floor(a / b), by float64 for int32, where ONNX Div would truncate. */
function floorDiv(lowering: Lowering, [a, b]: readonly string[], node: GraphNode): string {
  const { g } = lowering;
  if (node.inputs[0]!.dtype !== "int32") {
    return g.op("Floor", [g.op("Div", [a!, b!])]);
  }
  const wide = [a!, b!].map((x) => g.op("Cast", [x], { to: 11 }));
  return g.op("Floor", [g.op("Div", wide)]);
}

export const elementwiseRules: { readonly [op: string]: Rule } = {
  Abs: named("Abs"),
  Neg: named("Neg"),
  Exp: named("Exp"),
  Log: named("Log"),
  Sqrt: named("Sqrt"),
  Sigmoid: named("Sigmoid"),
  Tanh: named("Tanh"),
  Erf: named("Erf"),
  Relu: named("Relu"),
  Sign: named("Sign"),
  Floor: named("Floor"),
  Ceil: named("Ceil"),
  Round: pointwise(({ g }, [x], node) =>
    g.op(node.inputs[0]!.dtype === "int32" ? "Identity" : "Round", [x!]),
  ),
  Sin: named("Sin"),
  Cos: named("Cos"),
  Tan: named("Tan"),
  Asin: named("Asin"),
  Acos: named("Acos"),
  Atan: named("Atan"),
  Sinh: named("Sinh"),
  Cosh: named("Cosh"),
  Reciprocal: named("Reciprocal"),
  Softplus: named("Softplus"),
  Elu: named("Elu"),
  LogicalNot: named("Not"),
  IsNan: named("IsNaN"),
  IsInf: named("IsInf"),
  IsFinite: pointwise(({ g }, [x]) =>
    g.op("Not", [g.op("Or", [g.op("IsNaN", [x!]), g.op("IsInf", [x!])])]),
  ),
  Square: pointwise(({ g }, [x]) => g.op("Mul", [x!, x!])),
  Rsqrt: pointwise(({ g }, [x]) => g.op("Reciprocal", [g.op("Sqrt", [x!])])),
  Relu6: pointwise((lowering, [x], node) =>
    lowering.g.op("Clip", [x!, scalarLike(lowering, node, 0), scalarLike(lowering, node, 6)]),
  ),
  // Near 0, log(1 + x) = 2 artanh(x / (2 + x)) and exp(x) - 1 = 2 t / (1 - t), t = tanh(x / 2).
  Log1p: pointwise(({ g }, [x]) => {
    const ratio = g.op("Div", [x!, g.op("Add", [x!, g.scalar(2)])]);
    const near = g.op("Mul", [g.op("Atanh", [ratio]), g.scalar(2)]);
    const far = g.op("Log", [g.op("Add", [x!, g.scalar(1)])]);
    return g.op("Where", [isSmall(g, x!), near, far]);
  }),
  Expm1: pointwise(({ g }, [x]) => {
    const t = g.op("Tanh", [g.op("Mul", [x!, g.scalar(0.5)])]);
    const near = g.op("Div", [g.op("Mul", [t, g.scalar(2)]), g.op("Sub", [g.scalar(1), t])]);
    const far = g.op("Sub", [g.op("Exp", [x!]), g.scalar(1)]);
    return g.op("Where", [isSmall(g, x!), near, far]);
  }),
  Selu: pointwise(({ g }, [x]) => g.op("Selu", [x!])),
  Prelu: pointwise(({ g }, [x, alpha]) =>
    g.op("Where", [g.op("Less", [x!, g.scalar(0)]), g.op("Mul", [x!, alpha!]), x!]),
  ),
  // By the result y of elu: 1 where y >= 0, y + 1 elsewhere.
  EluGrad: pointwise(({ g }, [dy, y]) => {
    const slope = g.op("Add", [g.op("Min", [y!, g.scalar(0)]), g.scalar(1)]);
    return g.op("Mul", [dy!, slope]);
  }),
  LeakyRelu: pointwise(({ g }, [x], node) =>
    g.op("LeakyRelu", [x!], { alpha: { float: node.attrs["alpha"] as number } }),
  ),
  ClipByValue: pointwise((lowering, [x], node) => {
    const { clipValueMin, clipValueMax } = node.attrs as {
      clipValueMin: number;
      clipValueMax: number;
    };
    return lowering.g.op("Clip", [
      x!,
      scalarLike(lowering, node, clipValueMin),
      scalarLike(lowering, node, clipValueMax),
    ]);
  }),
  // 1 where x > 0, alpha elsewhere.
  Step: pointwise(({ g }, [x], node) => {
    const positive = g.op("Greater", [x!, g.scalar(0)]);
    const alpha = (node.attrs["alpha"] as number | undefined) ?? 0;
    return alpha === 0
      ? g.op("Cast", [positive], { to: ELEMENT_TYPES.float32 })
      : g.op("Where", [positive, g.scalar(1), g.scalar(alpha)]);
  }),

  Add: numeric("Add"),
  Sub: numeric("Sub"),
  Multiply: numeric("Mul"),
  RealDiv: named("Div"),
  Pow: named("Pow"),
  Maximum: numeric("Max"),
  Minimum: numeric("Min"),
  FloorDiv: pointwise((lowering, inputs, node) =>
    lowering.g.op("Cast", [floorDiv(lowering, inputs, node)], { to: ELEMENT_TYPES.int32 }),
  ),
  // The remainder has the divisor's sign, as in TensorFlow.
  Mod: pointwise((lowering, [a, b], node) => {
    const { g } = lowering;
    return node.outputs[0]!.dtype === "int32"
      ? g.op("Mod", [a!, b!])
      : g.op("Sub", [a!, g.op("Mul", [floorDiv(lowering, [a!, b!], node), b!])]);
  }),
  SquaredDifference: pointwise(({ g }, [a, b]) => {
    const difference = g.op("Sub", [a!, b!]);
    return g.op("Mul", [difference, difference]);
  }),

  Equal: named("Equal"),
  NotEqual: pointwise(({ g }, inputs) => g.op("Not", [g.op("Equal", inputs)])),
  Less: numeric("Less"),
  LessEqual: numeric("LessOrEqual"),
  Greater: numeric("Greater"),
  GreaterEqual: numeric("GreaterOrEqual"),
  LogicalAnd: named("And"),
  LogicalOr: named("Or"),
  // ONNX Runtime chooses between no truth values: there c ? t : e is (c and t) or (not c and e).
  Select: pointwise(({ g }, [c, t, e], node) =>
    node.outputs[0]!.dtype === "bool"
      ? g.op("Or", [g.op("And", [c!, t!]), g.op("And", [g.op("Not", [c!]), e!])])
      : g.op("Where", [c!, t!, e!]),
  ),

  Cast: (lowering, node) => {
    const [x] = node.inputs;
    const [output] = node.outputs;
    const layout = lowering.layoutOf(output!.shape, node.inputs);
    const to = ELEMENT_TYPES[output!.dtype];
    // Pixels go straight from uint8 to float32.
    const pixels =
      x!.node.op === "Input" && x!.node.attrs["type"] === "uint8" && output!.dtype === "float32";
    const name = pixels
      ? lowering.once(`uint8 ${x!.id}`, () => lowering.get(x!))
      : lowering.get(x!, layout);
    lowering.set(output!, lowering.g.op("Cast", [name], { to }), pixels ? "last" : layout);
  },

  Silu: pointwise(({ g }, [x]) => g.op("Microsoft:QuickGelu", [x!], { alpha: { float: 1 } })),
  SiluGrad: pointwise(({ g }, [x, dy]) => siluGrad(g, x!, dy!)),
  Gelu: pointwise(({ g }, [x]) => g.op("Gelu", [x!])),
  // d gelu = Φ(x) + x φ(x)
  GeluGrad: pointwise(({ g }, [x, dy]) => {
    const half = g.op("Mul", [
      g.op("Erf", [g.op("Mul", [x!, g.scalar(Math.SQRT1_2)])]),
      g.scalar(0.5),
    ]);
    const cdf = g.op("Add", [half, g.scalar(0.5)]);
    const bell = g.op("Exp", [g.op("Mul", [g.op("Mul", [x!, x!]), g.scalar(-0.5)])]);
    const slope = g.op("Mul", [g.op("Mul", [bell, g.scalar(1 / Math.sqrt(2 * Math.PI))]), x!]);
    return g.op("Mul", [dy!, g.op("Add", [cdf, slope])]);
  }),
};

/**
 * dy · σ (1 + x (1 - σ)), written s + σ (1 - s) with s = silu(x).
 * @param s silu(x) where it exists already
 */
export function siluGrad(g: Lowering["g"], x: string, dy: string, s?: string): string {
  const sigma = g.op("Sigmoid", [x]);
  const value = s ?? g.op("Mul", [x, sigma]);
  const slope = g.op("Add", [value, g.op("Mul", [sigma, g.op("Sub", [g.scalar(1), value])])]);
  return g.op("Mul", [dy, slope]);
}
