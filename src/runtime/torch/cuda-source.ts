/**
 * @file CUDA C++ for a group of element-wise instructions over the same number of elements. A thread takes
 * V neighbouring elements, so that tensors of full size are read and written 16 bytes at a time; operands
 * that broadcast are read through an index computed from the element's number, all sizes being constants.
 * Arithmetic is in float32 or int32 whatever the tensors are stored in.
 */

import type { Shape } from "../graph.ts";
import { sizeOf } from "../tensors.ts";
import type { Instruction, Slot, Type } from "./plan.ts";

const STORED = { f32: "float", bf16: "bf16", i32: "int", bool: "bool8", u8: "bool8" } as const;
const COMPUTED = { f32: "float", bf16: "float", i32: "int", bool: "bool", u8: "int" } as const;

/** What every kernel begins with; the emulation on a processor has its own. */
const PRELUDE = `#ifndef TESSERA_EMULATED
typedef unsigned char bool8;
typedef unsigned short bf16;
#define FORCE __device__ __forceinline__
FORCE unsigned short narrow(float x) { unsigned short y; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x)); return y; }
#endif
FORCE float toFloat(float x) { return x; }
FORCE float widen(unsigned short x) { return __uint_as_float(((unsigned)x) << 16); }
template <typename T, int V> struct alignas(sizeof(T) * V) Pack { T v[V]; };
FORCE float tMax(float a, float b) { return a > b || a != a ? a : b; }
FORCE float tMin(float a, float b) { return a < b || a != a ? a : b; }
FORCE int tMax(int a, int b) { return a > b ? a : b; }
FORCE int tMin(int a, int b) { return a < b ? a : b; }
FORCE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
FORCE float normalCdf(float x) { return 0.5f * (1.0f + erff(x * 0.70710678118654752f)); }
FORCE float geluGrad(float x, float d) { return d * (normalCdf(x) + x * 0.39894228040143268f * expf(-0.5f * x * x)); }
FORCE float siluGrad(float x, float d) { float s = sigmoid(x); return d * s * (1.0f + x * (1.0f - s)); }
FORCE int intPow(int a, int b) { return (int)rint(pow((double)a, (double)b)); }
FORCE int intMod(int a, int b) { int r = a % b; return r != 0 && ((r < 0) != (b < 0)) ? r + b : r; }
`;

/** A number as a float32 literal. */
function literal(x: number, type: Type): string {
  if (type === "i32" || type === "bool" || type === "u8") {
    return type === "bool" ? (x ? "true" : "false") : String(Math.trunc(x));
  }
  if (Number.isNaN(x)) {
    return "__int_as_float(0x7fffffff)";
  }
  if (!Number.isFinite(x)) {
    return x > 0 ? "__int_as_float(0x7f800000)" : "__int_as_float(0xff800000)";
  }
  const text = Math.fround(x).toPrecision(9);
  return `${/[.e]/.test(text) ? text : `${text}.0`}f`;
}

const UNARY: { readonly [op: string]: string } = {
  Abs: "fabsf(A)",
  Neg: "(-A)",
  Square: "(A * A)",
  Sign: "(float)((A > 0.0f) - (A < 0.0f))",
  Floor: "floorf(A)",
  Ceil: "ceilf(A)",
  Round: "rintf(A)",
  Relu: "(A > 0.0f || A != A ? A : 0.0f)",
  Relu6: "(A < 0.0f ? 0.0f : A > 6.0f ? 6.0f : A)",
  Exp: "expf(A)",
  Expm1: "expm1f(A)",
  Log: "logf(A)",
  Log1p: "log1pf(A)",
  Sqrt: "sqrtf(A)",
  Rsqrt: "(1.0f / sqrtf(A))",
  Reciprocal: "(1.0f / A)",
  Sigmoid: "sigmoid(A)",
  Softplus: "(A > 30.0f ? A : log1pf(expf(A)))",
  Tanh: "tanhf(A)",
  Erf: "erff(A)",
  Sin: "sinf(A)",
  Cos: "cosf(A)",
  Tan: "tanf(A)",
  Asin: "asinf(A)",
  Acos: "acosf(A)",
  Atan: "atanf(A)",
  Sinh: "sinhf(A)",
  Cosh: "coshf(A)",
  Elu: "(A > 0.0f ? A : expm1f(A))",
  Selu: "(1.0507009873554805f * (A > 0.0f ? A : 1.6732632423543772f * expm1f(A)))",
  Silu: "(A * sigmoid(A))",
  Gelu: "(A * normalCdf(A))",
  LogicalNot: "(!A)",
  IsNan: "(A != A)",
  IsInf: "(isinf(A) != 0)",
  IsFinite: "(isfinite(A) != 0)",
};

const INTEGER_UNARY: { readonly [op: string]: string } = {
  Abs: "(A < 0 ? -A : A)",
  Sign: "((A > 0) - (A < 0))",
  Floor: "A",
  Ceil: "A",
  Round: "A",
  Relu: "(A > 0 ? A : 0)",
  Relu6: "(A < 0 ? 0 : A > 6 ? 6 : A)",
  IsNan: "false",
  IsInf: "false",
  IsFinite: "true",
};

const BINARY: { readonly [op: string]: string } = {
  Add: "(A + B)",
  Sub: "(A - B)",
  Multiply: "(A * B)",
  RealDiv: "(A / B)",
  Pow: "powf(A, B)",
  Maximum: "tMax(A, B)",
  Minimum: "tMin(A, B)",
  Mod: "(A - floorf(A / B) * B)",
  SquaredDifference: "((A - B) * (A - B))",
  EluGrad: "(A * (tMin(B, 0.0f) + 1.0f))",
  SiluGrad: "siluGrad(A, B)",
  GeluGrad: "geluGrad(A, B)",
  Prelu: "(A < 0.0f ? A * B : A)",
};

const COMPARISON: { readonly [op: string]: string } = {
  Equal: "==",
  NotEqual: "!=",
  Less: "<",
  LessEqual: "<=",
  Greater: ">",
  GreaterEqual: ">=",
  LogicalAnd: "&&",
  LogicalOr: "||",
};

interface Operand {
  readonly text: string;
  readonly type: Type;
}

const isInteger = (type: Type) => type === "i32" || type === "bool" || type === "u8";

function inType({ text, type }: Operand, to: Type): string {
  const [from, want] = [COMPUTED[type], COMPUTED[to]];
  if (from === want) {
    return text;
  }
  return want === "bool" ? `(${text} != 0)` : `(${want})(${text})`;
}

/** One instruction as an expression of its operands. */
function expression({ op, outputs, floats }: Instruction, operands: readonly Operand[]): string {
  const { type } = outputs[0]!;
  const fill = (template: string, as: Type) =>
    template
      .replaceAll(/\bA\b/g, operands[0] ? inType(operands[0], as) : "")
      .replaceAll(/\bB\b/g, operands[1] ? inType(operands[1], as) : "");
  const [a, b, c] = operands;
  switch (op) {
    case "Reshape":
      return a!.text;
    case "Cast":
      return inType(a!, type);
    case "LeakyRelu":
      return fill(`(A > 0.0f ? A : ${literal(floats[0]!, "f32")} * A)`, "f32");
    case "Step":
      return fill(`(A > 0.0f ? 1.0f : ${literal(floats[0]!, "f32")})`, "f32");
    case "ClipByValue": {
      const [low, high] = floats.map((x) => literal(x, type));
      return fill(`(A < ${low} ? ${low} : A > ${high} ? ${high} : A)`, type);
    }
    case "Select":
      return `(${inType(a!, "bool")} ? ${inType(b!, type)} : ${inType(c!, type)})`;
    case "FloorDiv":
      return isInteger(a!.type) && isInteger(b!.type)
        ? `(int)floor((double)${a!.text} / (double)${b!.text})`
        : `(int)floorf(${inType(a!, "f32")} / ${inType(b!, "f32")})`;
  }
  const comparison = COMPARISON[op];
  if (comparison !== undefined) {
    const as: Type = [a!, b!].every((x) => isInteger(x.type)) ? "i32" : "f32";
    return `(${inType(a!, as)} ${comparison} ${inType(b!, as)})`;
  }
  const unary = UNARY[op];
  if (unary !== undefined) {
    if (op === "LogicalNot") {
      return fill(unary, "bool");
    }
    const integer = isInteger(a!.type)
      ? (INTEGER_UNARY[op] ?? (isInteger(type) ? unary : undefined))
      : undefined;
    return integer ? fill(integer, "i32") : fill(unary, "f32");
  }
  const binary = BINARY[op];
  if (binary === undefined) {
    throw new Error(`"${op}" is not element-wise`);
  }
  if (isInteger(type)) {
    const own = { Pow: "intPow(A, B)", Mod: "intMod(A, B)" }[op] ?? binary;
    return fill(own, "i32");
  }
  return fill(binary, "f32");
}

/** How the elements of a broadcast operand are found: runs of axes, last first, and their strides. */
interface Run {
  size: number;
  stride: number;
}

function runsOf(operand: Shape, result: Shape): Run[] {
  const runs: Run[] = [];
  let stride = 1;
  for (let back = 1; back <= result.length; back++) {
    const size = result.at(-back)!;
    const own = operand.at(-back) ?? 1;
    const step = own === 1 ? 0 : stride;
    stride *= own;
    if (size === 1) {
      continue;
    }
    const last = runs.at(-1);
    if (
      last &&
      (step === 0 ? last.stride === 0 : last.stride !== 0 && step === last.stride * last.size)
    ) {
      last.size *= size;
    } else {
      runs.push({ size, stride: step });
    }
  }
  return runs;
}

/** The index of an operand's element for element number `i` of the result. */
function indexOf(runs: readonly Run[], i: string): string {
  const terms: string[] = [];
  let inner = 1;
  runs.forEach(({ size, stride }, k) => {
    if (stride !== 0) {
      const over = inner === 1 ? i : `${i} / ${inner}u`;
      const within = k === runs.length - 1 ? `(${over})` : `(${over}) % ${size}u`;
      terms.push(stride === 1 ? within : `(${within}) * ${stride}u`);
    }
    inner *= size;
  });
  return terms.length > 0 ? terms.join(" + ") : "0u";
}

/** The group as one instruction. */
export function fusedSource(
  body: readonly Instruction[],
  needed: (slot: Slot) => boolean,
  literalOf: (slot: Slot) => number | undefined,
): Instruction {
  const count = sizeOf(body[0]!.outputs[0]!.shape);
  const inside = new Map<number, Operand>();
  const inputs: Slot[] = [];
  const outputs = body.flatMap((each) => each.outputs.filter(needed));
  const produced = new Set(body.flatMap((each) => each.outputs.map(({ id }) => id)));
  const outside = body.flatMap((each) =>
    each.inputs.filter((slot) => !produced.has(slot.id) && literalOf(slot) === undefined),
  );
  const full = [...outside, ...outputs].filter((slot) => sizeOf(slot.shape) === count);
  const narrow = full.some((slot) => slot.type === "bf16");
  const width = narrow && count % 8 === 0 ? 8 : count % 4 === 0 ? 4 : 1;
  const loads: string[] = [];
  const reads: string[] = [];
  const lines: string[] = [];
  const known = new Map<string, Operand>();

  const parameter = (slot: Slot): number => {
    const at = inputs.findIndex(({ id }) => id === slot.id);
    if (at >= 0) {
      return at;
    }
    inputs.push(slot);
    return inputs.length - 1;
  };
  const stored = (type: Type, text: string) =>
    type === "bf16"
      ? `widen(${text})`
      : type === "bool"
        ? `(${text} != 0)`
        : type === "u8"
          ? `(int)${text}`
          : text;

  /** A value from outside as the element `e` of this thread sees it. */
  const load = (slot: Slot, result: Shape): Operand => {
    const x = literalOf(slot);
    if (x !== undefined) {
      return { text: literal(x, slot.type), type: slot.type };
    }
    const p = parameter(slot);
    const size = sizeOf(slot.shape);
    const runs = size === count ? [] : runsOf(slot.shape, result);
    const key = size === count || size === 1 ? `${p}` : `${p} ${JSON.stringify(runs)}`;
    const found = known.get(key);
    if (found) {
      return found;
    }
    const name = `x${known.size}`;
    const type = STORED[slot.type];
    const vector = `const Pack<${type}, ${width}>*`;
    if (size === 1) {
      loads.push(`const ${COMPUTED[slot.type]} ${name} = ${stored(slot.type, `in${p}[0]`)};`);
      const operand = { text: name, type: slot.type };
      known.set(key, operand);
      return operand;
    }
    const [last] = runs;
    if (size === count) {
      loads.push(`const auto ${name}v = *(${vector})(in${p} + i);`);
      reads.push(`const ${COMPUTED[slot.type]} ${name} = ${stored(slot.type, `${name}v.v[e]`)};`);
    } else if (last!.size % width === 0 && last!.stride === 0) {
      loads.push(
        `const ${COMPUTED[slot.type]} ${name} = ${stored(slot.type, `in${p}[${indexOf(runs, "i")}]`)};`,
      );
    } else if (last!.size % width === 0 && last!.stride === 1) {
      loads.push(`const auto ${name}v = *(${vector})(in${p} + (${indexOf(runs, "i")}));`);
      reads.push(`const ${COMPUTED[slot.type]} ${name} = ${stored(slot.type, `${name}v.v[e]`)};`);
    } else {
      reads.push(
        `const ${COMPUTED[slot.type]} ${name} = ${stored(slot.type, `in${p}[${indexOf(runs, "(i + e)")}]`)};`,
      );
    }
    const operand = { text: name, type: slot.type };
    known.set(key, operand);
    return operand;
  };

  for (const [k, instruction] of body.entries()) {
    const [output] = instruction.outputs;
    const operands = instruction.inputs.map(
      (slot) => inside.get(slot.id) ?? load(slot, output!.shape),
    );
    lines.push(`const ${COMPUTED[output!.type]} t${k} = ${expression(instruction, operands)};`);
    inside.set(output!.id, { text: `t${k}`, type: output!.type });
  }
  const stores = outputs.map((slot, o) => {
    const { text } = inside.get(slot.id)!;
    const value =
      slot.type === "bf16" ? `narrow(${text})` : slot.type === "bool" ? `(bool8)(${text})` : text;
    return `y${o}.v[e] = ${value};`;
  });
  const parameters = [
    ...inputs.map((slot, p) => `const ${STORED[slot.type]}* __restrict__ in${p}`),
    ...outputs.map((slot, o) => `${STORED[slot.type]}* out${o}`),
  ];
  // Where results are rounded to bfloat16 anyway, so are the hardware's approximate functions precise enough.
  const fast = narrow && !full.some((slot) => slot.type === "f32");
  const source = `${fast ? "// fast\n" : ""}${PRELUDE}
extern "C" __global__ void fused(${parameters.join(", ")}) {
  const unsigned i = (blockIdx.x * blockDim.x + threadIdx.x) * ${width}u;
  if (i >= ${count}u) return;
  ${loads.join("\n  ")}
  ${outputs.map((slot, o) => `Pack<${STORED[slot.type]}, ${width}> y${o};`).join("\n  ")}
  #pragma unroll
  for (unsigned e = 0; e < ${width}u; e++) {
    ${[...reads, ...lines, ...stores].join("\n    ")}
  }
  ${outputs.map((slot, o) => `*(Pack<${STORED[slot.type]}, ${width}>*)(out${o} + i) = y${o};`).join("\n  ")}
}
`;
  const ops = body.map(({ op }) => op).filter((op) => op !== "Reshape");
  return {
    op: "Fused",
    inputs,
    outputs,
    ints: [count, width],
    floats: [],
    text: source,
    where: `Fused ${ops.slice(0, 6).join("+")}${ops.length > 6 ? `+${ops.length - 6}` : ""} [${count}]`,
  };
}
