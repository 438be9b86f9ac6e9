/**
 * @file Lowers a graph to instructions for libtorch: a rule a kernel, and with precision "bf16" the choice
 * of types. The policy is that of PyTorch's autocast: products, convolutions and attention take bfloat16
 * operands and give bfloat16; norms, softmax, losses, sums and the optimizer compute in float32.
 * Element-wise arithmetic stays in bfloat16 where all its large operands are.
 */

import type { GraphNode, Shape, Value } from "../graph.ts";
import { type PoolWindow, poolPads } from "../resampling.ts";
import { SCAN } from "../scan.ts";
import { sizeOf } from "../tensors.ts";
import {
  type Attributes,
  type Planner,
  plannerFor,
  type Rule,
  type Slot,
  type Type,
  typeOf,
} from "./plan.ts";

const POINTWISE = [
  ..."Abs Neg Square Sign Floor Ceil Round Relu Relu6 Exp Expm1 Log Log1p Sqrt Rsqrt Reciprocal".split(
    " ",
  ),
  ..."Sigmoid Softplus Tanh Erf Sin Cos Tan Asin Acos Atan Sinh Cosh Elu Selu Silu Gelu".split(" "),
  ..."LeakyRelu Step ClipByValue LogicalNot IsNan IsInf IsFinite Add Sub Multiply RealDiv Pow".split(
    " ",
  ),
  ..."Maximum Minimum Mod SquaredDifference FloorDiv Equal NotEqual Less LessEqual Greater".split(
    " ",
  ),
  ..."GreaterEqual LogicalAnd LogicalOr EluGrad SiluGrad GeluGrad Prelu Select Cast".split(" "),
];

/** Kernels of element-wise arithmetic. */
export const POINTWISE_OPS: ReadonlySet<string> = new Set(POINTWISE);

/** Numbers that an element-wise kernel carries. */
function pointwiseFloats({ op, attrs }: GraphNode): number[] {
  switch (op) {
    case "LeakyRelu":
      return [attrs["alpha"] as number];
    case "Step":
      return [(attrs["alpha"] as number | undefined) ?? 0];
    case "ClipByValue":
      return [attrs["clipValueMin"] as number, attrs["clipValueMax"] as number];
    default:
      return [];
  }
}

/** Whether a product of [m, k] and [k, n] is worth bfloat16; small ones often carry exact integers. */
function isLargeProduct(node: GraphNode): boolean {
  const [a, b] = node.inputs;
  const { transposeA, transposeB } = node.attrs as { transposeA: boolean; transposeB: boolean };
  const m = a!.shape.at(transposeA ? -1 : -2)!;
  const k = a!.shape.at(transposeA ? -2 : -1)!;
  const n = b!.shape.at(transposeB ? -2 : -1)!;
  const constant = [a!, b!].some((value) => value.node.op === "Constant");
  return !constant && k >= 64 && Math.max(m, n) >= 64;
}

/** Whether operand `index` of a node is taken as bfloat16. */
function takesNarrow(planner: Planner, node: GraphNode, index: number): boolean {
  switch (node.op) {
    case "BatchMatMul":
      return isLargeProduct(node);
    case "Conv":
    case "ConvInputGrad":
    case "ConvFilterGrad":
    case "Attention":
    case "AttentionGrad":
      return true;
    case "LayerNormGrad":
    case "GroupNormGrad":
      return index === 3; // dy: its statistics are summed in float32 whatever it is stored in
    case "Reshape":
    case "Transpose":
    case "Slice":
    case "DepthToSpace3d":
    case "SpaceToDepth3d":
      return isNarrow(planner, node.outputs[0]!);
    default:
      return false;
  }
}

const narrowness = new WeakMap<Planner, Map<Value, boolean>>();

/** Whether everything that uses a value takes it as bfloat16, so that it may be stored so. */
function isNarrow(planner: Planner, value: Value): boolean {
  let known = narrowness.get(planner);
  if (!known) {
    known = new Map();
    narrowness.set(planner, known);
  }
  const found = known.get(value);
  if (found !== undefined) {
    return found;
  }
  const uses = planner.consumers.get(value) ?? [];
  const narrow =
    planner.precision === "bf16" &&
    value.dtype === "float32" &&
    uses.length > 0 &&
    !planner.isKept(value) &&
    uses.every(({ node, index }) => takesNarrow(planner, node, index));
  known.set(value, narrow);
  return narrow;
}

/** The type to store a float32 result in, whose operands are of given slots. */
function storage(planner: Planner, value: Value, operands: readonly Slot[]): Type {
  const type = typeOf(value);
  if (planner.precision !== "bf16" || type !== "f32") {
    return type;
  }
  if (isNarrow(planner, value)) {
    return "bf16";
  }
  const size = sizeOf(value.shape);
  const large = operands.filter(
    (slot) => (slot.type === "f32" || slot.type === "bf16") && sizeOf(slot.shape) === size,
  );
  return size > 1 && large.length > 0 && large.every((slot) => slot.type === "bf16")
    ? "bf16"
    : "f32";
}

const pointwise: Rule = (planner, node) => {
  const inputs = node.inputs.map((value) => planner.get(value));
  const type = storage(planner, node.outputs[0]!, inputs);
  planner.result(node, node.op, inputs, [type], { floats: pointwiseFloats(node) });
};

/** A kernel on float32 (or integers) that gives the graph's own types. */
function plain(attributes: (node: GraphNode) => Attributes = () => ({})): Rule {
  return (planner, node) => {
    const inputs = node.inputs.map((value) => planner.wide(value));
    planner.result(node, node.op, inputs, node.outputs.map(typeOf), attributes(node));
  };
}

/** A kernel that moves values and keeps the type they are stored in. */
function moving(attributes: (node: GraphNode) => Attributes): Rule {
  return (planner, node) => {
    const inputs = node.inputs.map((value) => planner.get(value));
    planner.result(node, node.op, inputs, [inputs[0]!.type], attributes(node));
  };
}

/** A kernel that reads bfloat16 as it is and gives float32. */
function reducing(attributes: (node: GraphNode) => Attributes): Rule {
  return (planner, node) => {
    const inputs = node.inputs.map((value) => planner.get(value));
    planner.result(node, node.op, inputs, node.outputs.map(typeOf), attributes(node));
  };
}

const axes = ({ attrs }: GraphNode): Attributes => ({
  ints: [Number(attrs["keepDims"] ?? false), ...(attrs["axes"] as number[])],
});

const reduction: Rule = (planner, node) => {
  const [x] = node.inputs;
  const square = x!.node;
  const all = (node.attrs["axes"] as number[]).length === x!.shape.length;
  // Σ x²: no squares in memory.
  const same = square.op === "Multiply" && square.inputs[0] === square.inputs[1];
  if (node.op === "Sum" && all && same && sizeOf(x!.shape) > 1024 && sizeOf(x!.shape) < 2 ** 31) {
    planner.result(node, "SquareSum", [planner.as(square.inputs[0]!, "f32")], ["f32"]);
    return;
  }
  // The gradient of a bias adds up what the products beside it take: the bfloat16 copy, half the bytes.
  const uses = planner.consumers.get(x!) ?? [];
  const rows =
    node.op === "Sum" && x!.shape.length === 2 && (node.attrs["axes"] as number[])[0] === 0;
  const beside = uses.some(
    ({ node: other }) => other.op === "BatchMatMul" && isLargeProduct(other),
  );
  if (planner.precision === "bf16" && rows && !all && beside && x!.dtype === "float32") {
    planner.result(node, "Sum", [planner.as(x!, "bf16")], ["f32"], axes(node));
    return;
  }
  reducing(axes)(planner, node);
};

const concat: Rule = (planner, node) => {
  const [y] = node.outputs;
  const axis = node.attrs["axis"] as number;
  // Vectors laid end to end: the parts may have any shape, and states may lie so already.
  if (y!.shape.length === 1) {
    const sources = node.inputs.map((value) =>
      value.node.op === "Reshape" ? value.node.inputs[0]! : value,
    );
    if (sources.every((value) => value.node.op === "State")) {
      planner.result(
        node,
        "ConcatStates",
        sources.map((value) => planner.get(value)),
        [typeOf(y!)],
        { ints: [0] },
      );
    } else {
      planner.result(
        node,
        "Join",
        sources.map((value) => planner.get(value)),
        [typeOf(y!)],
      );
    }
    return;
  }
  const parts = node.inputs.map((value) => planner.get(value));
  const type = parts.every((slot) => slot.type === parts[0]!.type) ? parts[0]!.type : typeOf(y!);
  planner.result(node, "Concat", parts, [type], { ints: [axis] });
};

/** A transposed join is a join of transposed parts: one copy less. */
const transpose: Rule = (planner, node) => {
  const [x] = node.inputs;
  const perm = node.attrs["perm"] as number[];
  const { node: source } = x!;
  if (source.op === "Concat" && planner.soleConsumer(x!) === node && x!.shape.length > 1) {
    const parts = source.inputs.map((value) => {
      const slot = planner.get(value);
      const shape = perm.map((axis) => value.shape[axis]!);
      return planner.emit("Transpose", [slot], [{ shape, type: slot.type }], { ints: perm })[0]!;
    });
    const type = parts.every((slot) => slot.type === parts[0]!.type) ? parts[0]!.type : typeOf(x!);
    const axis = perm.indexOf(source.attrs["axis"] as number);
    planner.result(node, "Concat", parts, [type], { ints: [axis] });
    return;
  }
  moving(() => ({ ints: perm }))(planner, node);
};

/** A product, with the bias that follows it where only that uses it. */
const matMul: Rule = (planner, node) => {
  const narrow = planner.precision === "bf16" && isLargeProduct(node);
  const operands = node.inputs.map((value) => planner.as(value, narrow ? "bf16" : "f32"));
  const { transposeA, transposeB } = node.attrs as { transposeA: boolean; transposeB: boolean };
  const attributes = { ints: [Number(transposeA), Number(transposeB)] };
  const type = narrow ? "bf16" : "f32";
  const [y] = node.outputs;
  const next = planner.soleConsumer(y!);
  if (next?.op === "Add" && operands.every((slot) => slot.shape.length === 2)) {
    const bias = next.inputs[0] === y ? next.inputs[1]! : next.inputs[0]!;
    const fits = bias.shape.length === 1 && bias.shape[0] === y!.shape[1] && planner.has(bias);
    if (fits && next.outputs[0]!.shape.length === 2) {
      planner.result(next, "Linear", [...operands, planner.as(bias, type)], [type], attributes);
      return;
    }
  }
  planner.result(node, "BatchMatMul", operands, [type], attributes);
};

/** An addition, unless the product before it has taken it along. */
const add: Rule = (planner, node) => {
  if (!planner.has(node.outputs[0]!)) {
    pointwise(planner, node);
  }
};

// --- convolutions ---

interface ConvNode {
  readonly strides: readonly number[];
  readonly pads: readonly (readonly [number, number])[];
  readonly dilations?: readonly number[];
  readonly groups?: number;
}

/** The zeros that the library adds itself (equal on both sides), and those laid around before. */
function splitPads(pads: ConvNode["pads"]): { inside: number[]; around: [number, number][] } {
  const even = pads.map(([before, after]) => before === after);
  return {
    inside: pads.map(([before], i) => (even[i] ? before : 0)),
    around: pads.map(([before, after], i) => (even[i] ? [0, 0] : [before, after])),
  };
}

function paddedShape(shape: Shape, around: readonly (readonly [number, number])[]): number[] {
  return shape.map((side, i) =>
    i >= 1 && i <= 3 ? side + around[i - 1]![0] + around[i - 1]![1] : side,
  );
}

/** The input with one-sided zeros laid around; forward and backward pass share it. */
function padded(planner: Planner, x: Slot, around: readonly (readonly [number, number])[]): Slot {
  if (around.every(([before, after]) => before === 0 && after === 0)) {
    return x;
  }
  const ints = [0, 0, ...around.flat(), 0, 0];
  return planner.once(`pad ${x.id} ${ints.join()}`, () =>
    planner.emit("PadV2", [x], [{ shape: paddedShape(x.shape, around), type: x.type }], {
      ints,
      floats: [0],
    }),
  )[0]!;
}

function convolution(planner: Planner, node: GraphNode): void {
  const type: Type = planner.precision === "bf16" ? "bf16" : "f32";
  const { strides, pads, dilations = [1, 1, 1], groups = 1 } = node.attrs as unknown as ConvNode;
  const { inside, around } = splitPads(pads);
  const attributes = { ints: [...strides, ...inside, ...dilations, groups] };
  const [first, second] = node.inputs.map((value) => planner.as(value, type)) as [Slot, Slot];
  const [y] = node.outputs;
  if (node.op === "Conv") {
    planner.result(node, "Conv", [padded(planner, first, around), second], [type], attributes);
  } else if (node.op === "ConvFilterGrad") {
    planner.result(
      node,
      "ConvFilterGrad",
      [padded(planner, first, around), second],
      [type],
      attributes,
    );
  } else {
    const shape = paddedShape(y!.shape, around);
    const [whole] = planner.emit("ConvInputGrad", [first, second], [{ shape, type }], attributes);
    if (shape.every((side, i) => side === y!.shape[i])) {
      planner.set(y!, whole!);
      return;
    }
    const begin = [0, ...around.map(([before]) => before), 0];
    const ints = [...begin, ...y!.shape, ...begin.map(() => 1)];
    planner.result(node, "Slice", [whole!], [type], { ints });
  }
}

// --- norms and attention ---

const groupNormAttributes = ({ attrs }: GraphNode): Attributes => ({
  ints: [attrs["groups"] as number, Number(attrs["activation"] === "silu")],
  floats: [attrs["epsilon"] as number],
});

/** What identifies one norm: its operands and attributes. */
const normKey = (node: GraphNode) =>
  `norm ${node.inputs
    .slice(0, 3)
    .map((value) => value.id)
    .join()} ${JSON.stringify(node.attrs)}`;

/** A norm leaves its statistics for its gradient, where there is one. */
function norm(attributes: (node: GraphNode) => Attributes): Rule {
  return (planner, node) => {
    const inputs = node.inputs.map((value, i) =>
      i === 0 || i === 3 ? planner.get(value) : planner.wide(value),
    );
    const [y] = node.outputs;
    // A gradient is stored as the input is, a result as narrow as its uses allow.
    const own = storage(planner, y!, inputs.slice(0, 1));
    const { ints = [], floats = [] } = attributes(node);
    const where = `${node.op} [${y!.shape.join(", ")}]`;
    if (!node.op.endsWith("Grad")) {
      const outputs = planner.once(normKey(node), () => [
        planner.slot(y!.shape, own),
        planner.opaque(),
      ]);
      planner.push({ op: node.op, inputs, outputs, ints, floats, text: "", where });
      planner.set(y!, outputs[0]!);
      return;
    }
    const [, stats] = planner.made(normKey(node));
    const types = node.outputs.map((_, i): Type => (i === 0 ? own : "f32"));
    planner.result(node, node.op, stats ? [...inputs, stats] : inputs, types, attributes(node));
  };
}

const attentionAttributes = ({ attrs }: GraphNode): Attributes => ({
  ints: [Number(attrs["causal"] ?? false)],
  floats: [attrs["scale"] as number],
});

/** What identifies one attention: its operands and attributes. */
const attentionKey = (node: GraphNode) =>
  `attention ${node.inputs
    .slice(0, 3)
    .map((value) => value.id)
    .join()} ${JSON.stringify(node.attrs)}`;

/** Attention leaves its log-sum-exp and seeds for the gradient, where there is one. */
const attention: Rule = (planner, node) => {
  const type: Type = planner.precision === "bf16" ? "bf16" : "f32";
  const inputs = node.inputs.map((value) => planner.as(value, type));
  const key = attentionKey(node);
  const uses = planner.consumers.get(node.inputs[0]!) ?? [];
  const trained = uses.some(
    ({ node: other }) => other.op === "AttentionGrad" && attentionKey(other) === key,
  );
  if (!trained) {
    planner.result(node, "Attention", inputs, [type], attentionAttributes(node));
    return;
  }
  const [y] = node.outputs;
  const made = planner.once(key, () => {
    const outputs = [
      planner.slot(y!.shape, type),
      ...Array.from({ length: 3 }, () => planner.opaque()), // log-sum-exp, seed, offset
    ];
    const { ints = [], floats = [] } = attentionAttributes(node);
    planner.push({
      op: "Attention",
      inputs,
      outputs,
      ints,
      floats,
      text: "kept",
      where: "Attention",
    });
    return outputs;
  });
  planner.set(y!, made[0]!);
};

const attentionGrad: Rule = (planner, node) => {
  const type: Type = planner.precision === "bf16" ? "bf16" : "f32";
  const inputs = node.inputs.map((value) => planner.as(value, type));
  const left = planner.made(attentionKey(node));
  planner.result(
    node,
    "AttentionGrad",
    [...inputs, ...left],
    [type, type, type],
    attentionAttributes(node),
  );
};

/** Written where the cache lies, if it is a state that becomes just this and nothing else reads. */
const cacheWrite: Rule = (planner, node) => {
  const [cache, rows, position] = node.inputs;
  const [y] = node.outputs;
  const state = planner.graph.states.find(({ value }) => value === cache);
  const own = state?.next === y && planner.soleUse(cache!) === node;
  const inputs = [planner.get(cache!), planner.get(rows!), planner.get(position!)];
  planner.result(node, "CacheWrite", inputs, [inputs[0]!.type], { ints: [Number(own)] });
};

const cachedAttention: Rule = (planner, node) => {
  const inputs = node.inputs.map((value) => planner.get(value));
  const narrow = isNarrow(planner, node.outputs[0]!);
  const floats = [node.attrs["scale"] as number];
  planner.result(node, "CachedAttention", inputs, [narrow ? "bf16" : "f32"], { floats });
};

const crossEntropyAttributes = ({ attrs }: GraphNode): Attributes => ({
  floats: [(attrs["smoothing"] as number | undefined) ?? 0],
});

/** Pools: size, stride, and what is laid before and after, for each axis. */
const pool = (node: GraphNode): Attributes => ({
  ints: (node.attrs["windows"] as PoolWindow[]).flatMap((axis) => {
    return [axis.size, axis.stride, ...poolPads(axis)];
  }),
});

const block = ({ attrs }: GraphNode): Attributes => ({ ints: attrs["block"] as number[] });
const axisOnly = ({ attrs }: GraphNode): Attributes => ({ ints: [attrs["axis"] as number] });
const paddings = ({ attrs }: GraphNode) => (attrs["paddings"] as [number, number][]).flat();

/** A loop, its body a plan of its own: loops.ts. What goes in and out is as the graph has it. */
const scan: Rule = (planner, node) => {
  const { count, carries, slices } = node.attrs as {
    count: number;
    carries: number;
    slices: number;
  };
  const inner = plannerFor(node.body!, planner.precision);
  inner.lower(TORCH_RULES);
  const inputs = node.inputs.map((value) => planner.as(value, typeOf(value)));
  const attributes = { ints: [count, carries, slices], body: inner.finish() };
  planner.result(node, "Scan", inputs, node.outputs.map(typeOf), attributes);
};

/** A sum over the ranks of a data-parallel training; its place in the trace orders it among others. */
const allReduce: Rule = (planner, node) => {
  const x = planner.wide(node.inputs[0]!);
  planner.result(node, "AllReduce", [x], ["f32"], { ints: [node.outputs[0]!.id] });
};

/** Means over ranks in two instructions, so that others can run in between. */
const allReduceMean: Rule = (planner, node) => {
  const inputs = node.inputs.map((value) => planner.get(value));
  const specs = node.outputs.map(({ shape }) => ({ shape, type: "f32" as const }));
  const ints = [inputs.length, node.outputs[0]!.id];
  const begun = planner.emit("AllReduceBegin", inputs, specs, { ints });
  planner.result(
    node,
    "AllReduceEnd",
    begun,
    specs.map(({ type }) => type),
  );
};

/** Every kernel this device runs. */
export const TORCH_RULES: { readonly [op: string]: Rule } = {
  ...Object.fromEntries(POINTWISE.map((op) => [op, pointwise])),
  Add: add,
  Reshape: moving(() => ({})),
  Transpose: transpose,
  Concat: concat,
  Slice: moving(({ attrs }) => {
    const { begin, size, steps } = attrs as { begin: number[]; size: number[]; steps: number[] };
    return { ints: [...begin, ...size, ...steps] };
  }),
  Reverse: moving(({ attrs }) => ({ ints: attrs["axes"] as number[] })),
  Tile: (planner, node) => {
    const [x] = node.inputs;
    const [y] = node.outputs;
    const uses = planner.consumers.get(y!) ?? [];
    // One value for all: element-wise kernels broadcast it themselves.
    const alone = sizeOf(x!.shape) === 1 && !planner.isKept(y!);
    if (alone && uses.every(({ node: { op } }) => POINTWISE_OPS.has(op) && op !== "Cast")) {
      planner.set(y!, planner.get(x!));
      return;
    }
    moving(({ attrs }) => ({ ints: attrs["reps"] as number[] }))(planner, node);
  },
  PadV2: moving((node) => ({
    ints: paddings(node),
    floats: [(node.attrs["constantValue"] as number | undefined) ?? 0],
  })),
  MirrorPad: moving((node) => ({ ints: paddings(node), text: node.attrs["mode"] as string })),
  GatherV2: moving(axisOnly),
  GatherNd: moving(() => ({})),
  ScatterNd: plain(),
  OneHot: plain(({ attrs }) => ({
    ints: [attrs["depth"] as number],
    floats: [attrs["onValue"] as number, attrs["offValue"] as number],
  })),
  UnsortedSegmentSum: reducing(({ attrs }) => ({ ints: [attrs["numSegments"] as number] })),
  DepthToSpace3d: moving(block),
  SpaceToDepth3d: moving(block),
  Sum: reduction,
  Mean: reduction,
  Max: reducing(axes),
  Min: reducing(axes),
  Prod: plain(axes),
  All: plain(axes),
  Any: plain(axes),
  ArgMax: reducing(axisOnly),
  ArgMin: reducing(axisOnly),
  Cumsum: plain(({ attrs }) => ({
    ints: [attrs["axis"] as number, Number(attrs["exclusive"]), Number(attrs["reverse"])],
  })),
  TopK: plain(({ attrs }) => ({ ints: [attrs["k"] as number] })),
  Softmax: reducing(() => ({})),
  BatchMatMul: matMul,
  Einsum: plain(({ attrs }) => ({ text: attrs["equation"] as string })),
  AxisProduct: plain(axisOnly),
  SoftmaxCrossEntropy: reducing(crossEntropyAttributes),
  SoftmaxCrossEntropyGrad: (planner, node) => {
    const inputs = node.inputs.map((value) => planner.get(value));
    planner.result(node, node.op, inputs, [inputs[0]!.type], crossEntropyAttributes(node));
  },
  Conv: convolution,
  ConvInputGrad: convolution,
  ConvFilterGrad: convolution,
  MaxPool: plain(pool),
  MaxPoolGrad: plain(pool),
  GroupNorm: norm(groupNormAttributes),
  GroupNormGrad: norm(groupNormAttributes),
  LayerNorm: norm(({ attrs }) => ({ floats: [attrs["epsilon"] as number] })),
  LayerNormGrad: norm(({ attrs }) => ({ floats: [attrs["epsilon"] as number] })),
  Attention: attention,
  AttentionGrad: attentionGrad,
  CacheWrite: cacheWrite,
  CachedAttention: cachedAttention,
  AllReduce: allReduce,
  AllReduceMean: allReduceMean,
  Scan: scan,
};

/** Kernels of Tessera's that not every device has; this one does. */
export const TORCH_FEATURES: ReadonlySet<string> = new Set([
  "TesseraCacheWrite",
  "TesseraCachedAttention",
  SCAN,
]);
