/** @file Cases of element-wise kernels: ranks, layouts, broadcasts, integers, special values. */

import * as tf from "@tensorflow/tfjs-core";
import { gelu, silu, stopGradient } from "../../../src/runtime/ops.ts";
import { bool, float32, type HostTensor } from "../../../src/runtime/tensors.ts";
import { afterConvolution, integers, type KernelCase, normals, uniforms } from "../case.ts";

type Unary = (x: tf.Tensor) => tf.Tensor;

interface UnaryFamily {
  readonly op: Unary;
  /** Where the function is defined and smooth. Default [-3, 3]. */
  readonly domain?: readonly [number, number];
  readonly differentiable?: boolean;
  /** Also on int32 tensors, where TensorFlow.js takes them. */
  readonly integers?: boolean;
  readonly tolerance?: number;
  readonly relativeTo?: "each" | "unit";
  /** Special values to leave out, where engines may differ and no model depends on it. */
  readonly without?: readonly number[];
}

const SPECIAL = [0, -0, 1, -1, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-6, -1e-6, 6, 88, -88, 1e30, -1e30];
const INFINITE = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN];

const unary: { readonly [name: string]: UnaryFamily } = {
  Abs: { op: tf.abs, integers: true },
  Neg: { op: tf.neg, integers: true },
  Square: { op: tf.square, integers: true },
  Sign: { op: tf.sign, integers: true, without: [Number.NaN] },
  Floor: { op: tf.floor },
  Ceil: { op: tf.ceil },
  Round: { op: tf.round },
  Relu: { op: tf.relu, integers: true },
  Relu6: { op: tf.relu6, domain: [-3, 9], integers: true },
  ClipByValue: { op: (x) => tf.clipByValue(x, -1, 2), integers: true },
  Identity: { op: tf.clone, integers: true },
  ZerosLike: { op: tf.zerosLike, integers: true },
  OnesLike: { op: (x) => tf.onesLike(x), integers: true },
  Exp: { op: tf.exp, integers: true },
  // expm1 and log1p pass through tanh and atanh of float32: 2e-5 at the far ends.
  Expm1: { op: tf.expm1, tolerance: 2e-5 },
  Log: { op: tf.log, domain: [0.01, 5] },
  Log1p: { op: tf.log1p, domain: [-0.9, 5], tolerance: 2e-5 },
  Sqrt: { op: tf.sqrt, domain: [0.01, 5] },
  Rsqrt: { op: tf.rsqrt, domain: [0.01, 5] },
  Reciprocal: { op: tf.reciprocal, domain: [0.2, 5] },
  Sigmoid: { op: tf.sigmoid },
  Softplus: { op: tf.softplus },
  Tanh: { op: tf.tanh },
  // The reference's erf is an approximation with an absolute error of 1.5e-7; so is what follows near 0.
  Erf: { op: tf.erf, relativeTo: "unit" },
  // Engines reduce large angles differently.
  Sin: { op: tf.sin, without: [1e30, -1e30] },
  Cos: { op: tf.cos, without: [1e30, -1e30] },
  Tan: { op: tf.tan, domain: [-1.2, 1.2], without: [1e30, -1e30] },
  Asin: { op: tf.asin, domain: [-0.9, 0.9] },
  Acos: { op: tf.acos, domain: [-0.9, 0.9] },
  Atan: { op: tf.atan },
  Sinh: { op: tf.sinh },
  Cosh: { op: tf.cosh },
  Elu: { op: tf.elu, relativeTo: "unit" },
  LeakyRelu: { op: (x) => tf.leakyRelu(x, 0.2) },
  Step: { op: (x) => tf.step(x), without: [Number.NaN] },
  "Step with a slope": { op: (x) => tf.step(x, 0.3), without: [Number.NaN] },
  IsNan: { op: tf.isNaN, differentiable: false },
  IsInf: { op: tf.isInf, differentiable: false },
  IsFinite: { op: tf.isFinite, differentiable: false },
  "Cast to int32": {
    op: (x) => tf.cast(x, "int32"),
    without: [1e30, -1e30],
    differentiable: false,
  },
  "Cast to bool": { op: (x) => tf.cast(x, "bool"), differentiable: false, integers: true },
  "Cast to float32": { op: (x) => tf.cast(x, "float32"), integers: true },
  Softsign: { op: (x) => tf.div(x, tf.add(tf.abs(x), 1)) },
  Selu: { op: tf.selu, relativeTo: "unit" },
};

function unaryCases(name: string, family: UnaryFamily): KernelCase[] {
  const { op, domain = [-3, 3], differentiable = true, without = [], tolerance = 1e-5 } = family;
  const values = [...SPECIAL, ...(name.startsWith("Cast to int32") ? [] : INFINITE)];
  const shapes = { scalar: [], one: [1], rows: [3, 5], wide: [2, 3, 1, 4], clip: [1, 2, 3, 4, 5] };
  const inputs: { [key: string]: HostTensor } = Object.fromEntries(
    Object.entries(shapes).map(([key, shape]) => [
      key,
      uniforms(`${name} ${key}`, shape, ...domain),
    ]),
  );
  const apply = (x: { readonly [key: string]: tf.Tensor }) => [
    ...Object.keys(shapes).map((key) => op(x[key]!)),
    op(afterConvolution(x["clip"]!)),
    op(afterConvolution(x["wide"]!)),
  ];
  const special = values.filter((v) => !without.some((w) => Object.is(w, v)));
  return [
    {
      name: `${name}: shapes and layouts`,
      inputs,
      run: apply,
      ...(differentiable ? { gradients: Object.keys(shapes) } : {}),
      tolerance,
    },
    {
      name: `${name}: special values`,
      inputs: { x: float32([special.length], special), none: float32([0, 3], []) },
      run: ({ x, none }) => [op(x!), op(none!)],
      tolerance,
      relativeTo: family.relativeTo ?? "each",
    },
    ...(family.integers
      ? [
          {
            name: `${name}: integers`,
            inputs: { x: integers(name, [4, 3], -5, 6) },
            run: ({ x }: { readonly [key: string]: tf.Tensor }) => op(x!),
            tolerance,
          },
        ]
      : []),
  ];
}

type Binary = (a: tf.Tensor, b: tf.Tensor) => tf.Tensor;

interface BinaryFamily {
  /** TensorFlow.js's gradient does not sum over what was broadcast. */
  readonly sameShapes?: boolean;
  readonly op: Binary;
  readonly a?: readonly [number, number];
  readonly b?: readonly [number, number];
  readonly differentiable?: boolean;
  readonly integers?: boolean;
}

const binary: { readonly [name: string]: BinaryFamily } = {
  Add: { op: tf.add, integers: true },
  Sub: { op: tf.sub, integers: true },
  Multiply: { op: tf.mul, integers: true },
  RealDiv: { op: tf.div, b: [0.5, 3], integers: true },
  FloorDiv: { op: tf.floorDiv, b: [0.5, 3], differentiable: false, integers: true },
  Maximum: { op: tf.maximum, sameShapes: true, integers: true },
  Minimum: { op: tf.minimum, sameShapes: true, integers: true },
  Pow: { op: tf.pow, a: [0.5, 2] },
  Mod: { op: tf.mod, b: [0.5, 3], integers: true },
  SquaredDifference: { op: tf.squaredDifference, sameShapes: true, integers: true },
  Equal: { op: tf.equal, differentiable: false, integers: true },
  NotEqual: { op: tf.notEqual, differentiable: false, integers: true },
  Less: { op: tf.less, differentiable: false, integers: true },
  LessEqual: { op: tf.lessEqual, differentiable: false, integers: true },
  Greater: { op: tf.greater, differentiable: false, integers: true },
  GreaterEqual: { op: tf.greaterEqual, differentiable: false, integers: true },
};

const PAIRS: readonly (readonly [readonly number[], readonly number[]])[] = [
  [[], []],
  [[3, 4], [4]],
  [[], [2, 3]],
  [
    [2, 1, 5],
    [3, 1],
  ],
  [[2, 3, 4, 5], [5]],
  [
    [2, 3, 4, 5],
    [4, 1],
  ],
  [
    [1, 2, 3, 4, 5],
    [2, 1, 1, 5],
  ],
  [[1, 2, 3, 4, 5], []],
];

function binaryCases(name: string, family: BinaryFamily): KernelCase[] {
  const { op, a = [-2, 2], b = [-2, 2], differentiable = true, sameShapes = false } = family;
  const inputs: { [key: string]: HostTensor } = {};
  PAIRS.forEach(([left, right], i) => {
    inputs[`a${i}`] = uniforms(`${name} a${i}`, left, ...a);
    inputs[`b${i}`] = uniforms(`${name} b${i}`, right, ...b);
  });
  const signs = float32([6], [-7, -7, 7, 7, 5.5, -5.5]);
  const against = float32([6], [3, -3, 3, -3, -2, 2]);
  return [
    {
      name: `${name}: broadcasts and layouts`,
      inputs,
      run: (x) => [
        ...PAIRS.map((_, i) => op(x[`a${i}`]!, x[`b${i}`]!)),
        op(afterConvolution(x["a4"]!), x["b4"]!),
        op(afterConvolution(x["a5"]!), x["b5"]!),
        op(afterConvolution(x["a6"]!), x["b6"]!),
        op(afterConvolution(x["a7"]!), x["b7"]!),
        op(afterConvolution(x["a6"]!), x["a6"]!),
      ],
      ...(differentiable && !sameShapes ? { gradients: Object.keys(inputs) } : {}),
    },
    ...(sameShapes
      ? [
          {
            name: `${name}: gradients of equal shapes`,
            inputs: {
              x: uniforms(`${name} sx`, [2, 3, 4, 5], -2, 2),
              y: uniforms(`${name} sy`, [2, 3, 4, 5], -2, 2),
            },
            run: ({ x, y }: { readonly [key: string]: tf.Tensor }) => [
              op(x!, y!),
              op(afterConvolution(x!), y!),
            ],
            gradients: ["x", "y"],
          },
        ]
      : []),
    {
      name: `${name}: signs and no values`,
      inputs: { signs, against, none: float32([0, 3], []), row: float32([3], [1, 2, 3]) },
      run: ({ signs: x, against: y, none, row }) => [op(x!, y!), op(x!, x!), op(none!, row!)],
    },
    ...(family.integers
      ? [
          {
            name: `${name}: integers`,
            inputs: {
              x: integers(`${name} x`, [4, 3], -9, 10),
              y: integers(`${name} y`, [3], 1, 5),
              z: integers(`${name} z`, [4, 1], -5, 0),
            },
            run: ({ x, y, z }: { readonly [key: string]: tf.Tensor }) => [
              op(x!, y!),
              op(x!, z!),
              op(x!, tf.scalar(2, "int32")),
            ],
          },
        ]
      : []),
  ];
}

const truth = bool([4, 3], Uint8Array.from([1, 0, 1, 1, 0, 0, 0, 1, 1, 0, 1, 0]));
const row = bool([3], Uint8Array.from([1, 0, 0]));

const others: readonly KernelCase[] = [
  {
    name: "LogicalAnd, LogicalOr, LogicalNot, LogicalXor",
    inputs: { truth, row },
    run: ({ truth: x, row: y }) => [
      tf.logicalAnd(x!, y!),
      tf.logicalOr(x!, y!),
      tf.logicalNot(x!),
      tf.logicalXor(x!, y!),
    ],
  },
  {
    name: "casts of bools",
    inputs: { truth },
    run: ({ truth: x }) => [
      tf.cast(x!, "float32"),
      tf.cast(x!, "int32"),
      tf.mul(tf.cast(x!, "float32"), 3),
    ],
  },
  {
    name: "truth values in arithmetic and choices",
    inputs: { truth, row, f: normals("truth f", [4, 3]), i: integers("truth i", [4, 3], -5, 5) },
    run: ({ truth: x, row: y, f, i }) => [
      tf.mul(x!, f!),
      tf.sub(i!, x!),
      tf.maximum(i!, x!),
      tf.less(x!, y!),
      tf.greaterEqual(x!, y!),
      tf.where(x!, tf.logicalNot(x!), x!),
      tf.argMax(x!, 0),
      tf.mean(x!),
      tf.round(i!),
    ],
  },
  {
    name: "comparisons of bools",
    inputs: { truth, row },
    run: ({ truth: x, row: y }) => [tf.equal(x!, y!), tf.notEqual(x!, y!)],
  },
  {
    name: "types meet: int32 with float32",
    inputs: { x: integers("meet", [4, 3], -9, 10), y: normals("meet y", [3]) },
    run: ({ x, y }) => [tf.add(x!, y!), tf.mul(y!, x!), tf.greater(x!, y!), tf.maximum(x!, y!)],
  },
  {
    name: "Select",
    inputs: {
      truth,
      rows: bool([4], Uint8Array.from([1, 0, 0, 1])),
      a: normals("a", [4, 3]),
      b: normals("b", [4, 3]),
      c: normals("c", [3]),
      i: integers("i", [4, 3], 0, 9),
    },
    run: ({ truth: x, rows, a, b, c, i }) => [
      tf.where(x!, a!, b!),
      tf.where(x!, a!, c!),
      tf.where(x!, i!, tf.zerosLike(i!)),
      tf.where(tf.expandDims(rows!, 1), a!, b!),
    ],
    gradients: ["a", "b", "c"],
  },
  {
    name: "Select in the convolution's layout",
    inputs: { x: normals("sx", [2, 3, 4, 5]), y: normals("sy", [5]) },
    run: ({ x, y }) => {
      const first = afterConvolution(x!);
      const mask = stopGradient(tf.greater(first, 0));
      return tf.where(mask, first, tf.mul(first, y!));
    },
    gradients: ["x", "y"],
  },
  {
    name: "AddN",
    inputs: { a: normals("n a", [2, 3]), b: normals("n b", [2, 3]), c: normals("n c", [2, 3]) },
    run: ({ a, b, c }) => [tf.addN([a!, b!, c!]), tf.addN([a!])],
    gradients: ["a", "b", "c"],
  },
  {
    name: "Prelu",
    inputs: { x: normals("prelu", [2, 3, 4]), alpha: uniforms("alpha", [4], 0, 1) },
    run: ({ x, alpha }) => tf.prelu(x!, alpha!),
    gradients: ["x", "alpha"],
  },
  {
    name: "uint8 pixels",
    inputs: {
      clip: {
        dtype: "uint8",
        shape: [1, 2, 3, 4, 3],
        data: new Uint8Array(72).map((_, i) => i * 3),
      },
    },
    run: ({ clip }) => [
      tf.sub(tf.div(tf.cast(clip!, "float32"), 127.5), 1),
      tf.add(clip!, tf.scalar(1, "int32")),
    ],
  },
  {
    name: "constants compared and cast",
    inputs: { x: normals("compared", [2, 3]) },
    run: ({ x }) => {
      const [a, b] = [tf.tensor1d([1, 2, 3]), tf.tensor1d([3, 2, 1])];
      return [
        tf.add(x!, tf.cast(tf.equal(a, b), "float32")),
        tf.add(x!, tf.cast(tf.cast(tf.greater(a, b), "int32"), "float32")),
        tf.mul(tf.cast(x!, "int32"), tf.cast(tf.lessEqual(a, b), "int32")),
        tf.add(x!, tf.cast(tf.cast(a, "bool"), "float32")),
      ];
    },
    gradients: ["x"],
  },
  ...(["Silu", "Gelu"] as const).map((name) => ({
    name,
    inputs: {
      x: normals(name, [3, 7], 3),
      clip: normals(`${name} clip`, [1, 2, 3, 4, 5], 3),
      edge: float32([7], [0, -0, 30, -30, 1e-6, 5, -5]),
    },
    run: ({ x, clip, edge }: { readonly [key: string]: tf.Tensor }) =>
      [x!, clip!, afterConvolution(clip!), edge!].map((v) => (name === "Silu" ? silu(v) : gelu(v))),
    gradients: ["x", "clip", "edge"],
  })),
];

export const elementwiseCases: readonly KernelCase[] = [
  ...Object.entries(unary).flatMap(([name, family]) => unaryCases(name, family)),
  ...Object.entries(binary).flatMap(([name, family]) => binaryCases(name, family)),
  ...others,
];
