/** @file Steps of matrix products: operands may be transposed, sliced or repeated without being copied. */

import type { GraphNode, Value } from "../graph.ts";
import { sizeOf } from "../tensors.ts";
import type { Epilogue } from "./items.ts";
import type { Lowering, Rule } from "./lowering.ts";
import { broadcastTo, collapse, denseStrides, isDense, transposed, type View } from "./views.ts";

/** A stack of matrices as the kernel takes it. */
interface Stack {
  readonly view: View;
  readonly transposed: boolean;
  /** Distance between rows as stored. */
  readonly row: number;
  /** Distance between matrices; 0 repeats one. */
  readonly distance: number;
}

/** How a view's last two axes run as a matrix, or undefined. */
function matrixOf(view: View): { transposed: boolean; row: number } | undefined {
  const [rows, columns] = view.shape.slice(-2) as [number, number];
  const [down, right] = view.strides.slice(-2) as [number, number];
  if ((right === 1 || columns === 1) && (down >= columns || rows === 1)) {
    return { transposed: false, row: rows === 1 ? columns : down };
  }
  if ((down === 1 || rows === 1) && (right >= rows || columns === 1)) {
    return { transposed: true, row: columns === 1 ? rows : right };
  }
  return undefined;
}

/** A view as a stack of `batch`-shaped matrices, copied only where it must be. */
function stackOf(lowering: Lowering, value: Value, batch: readonly number[]): Stack {
  const attempt = (view: View): Stack | undefined => {
    const wide = broadcastTo(view, [...batch, ...view.shape.slice(-2)]);
    const matrix = matrixOf(wide);
    const { dims, strides } = collapse(batch, wide.strides.slice(0, -2));
    if (!matrix || dims.length > 1 || view.pixels) {
      return undefined;
    }
    return { view, transposed: matrix.transposed, row: matrix.row, distance: strides[0]![0] ?? 0 };
  };
  const found = attempt(lowering.get(value)) ?? attempt(lowering.dense(value));
  if (found) {
    return found;
  }
  // Broadcast along some batch axes only: written out.
  const wide = broadcastTo(lowering.get(value), [...batch, ...value.shape.slice(-2)]);
  const copy = attempt(lowering.materialised(wide));
  return copy!;
}

const ACTIVATIONS = { silu: 1, gelu: 2 } as const;

/** y = a b, [batch, m, k] times [batch, k, n]. */
export function product(
  lowering: Lowering,
  shape: { m: number; n: number; k: number; batch: number },
  a: Stack,
  b: Stack,
  flip: { a: boolean; b: boolean },
  target: View,
  epilogue?: Epilogue,
): void {
  const { m, n, k, batch } = shape;
  const bias = epilogue?.bias && lowering.dense(epilogue.bias);
  const activation = epilogue?.activation ? ACTIVATIONS[epilogue.activation] : 0;
  // Matrices that share the second operand are one tall matrix.
  const tall =
    batch > 1 &&
    b.distance === 0 &&
    !(flip.a !== a.transposed) &&
    a.distance === m * a.row &&
    isDense({ ...target, shape: [batch * m, n], strides: denseStrides([batch * m, n]) });
  const [rows, count] = tall ? [m * batch, 1] : [m, batch];
  const ints = [
    rows,
    n,
    k,
    Number(flip.a !== a.transposed),
    Number(flip.b !== b.transposed),
    a.row,
    b.row,
    n,
    count,
    tall ? 0 : a.distance,
    tall ? 0 : b.distance,
    tall ? 0 : m * n,
    activation,
    Number(bias !== undefined),
    0,
  ];
  const inputs = bias ? [a.view, b.view, bias] : [a.view, b.view];
  lowering.builder.step("Gemm", inputs, [target], ints, [1]);
}

/** Rows up to which weights are packed before a loop: above, a product packs them in passing. */
const PACKED_ROWS = 256;

/** The columns of a panel of packed weights are a multiple of this on every processor. */
const PANEL = 32;

/**
 * In a loop's body: rows times a matrix that is the same in every turn, which is packed before the first.
 * @returns whether that is what this product is
 */
function packedProduct(
  lowering: Lowering,
  shape: { readonly m: number; readonly n: number; readonly k: number },
  a: Stack,
  b: Value,
  transposed: boolean,
  target: View,
  epilogue?: Epilogue,
): boolean {
  const { m, n, k } = shape;
  if (m > PACKED_ROWS || a.transposed || !isDense(target) || k === 0) {
    return false;
  }
  const size = [Math.ceil(n / PANEL) * PANEL * k];
  const packed = lowering.beforehand(b, `packed ${transposed}`, size, (outer, given) => {
    const out = outer.scratch(size, "float32");
    const strides = transposed ? [1, k] : [n, 1];
    outer.builder.step("PackMatrix", [given], [out], [k, n, ...strides]);
    return out;
  });
  if (!packed) {
    return false;
  }
  const bias = epilogue?.bias && lowering.dense(epilogue.bias);
  const activation = epilogue?.activation ? ACTIVATIONS[epilogue.activation] : 0;
  const ints = [m, n, k, a.row, activation, Number(bias !== undefined)];
  const inputs = bias ? [a.view, packed, bias] : [a.view, packed];
  lowering.builder.step("PackedGemm", inputs, [target], ints);
  return true;
}

const matMul: Rule = (lowering, node, item) => {
  const [a, b] = node.inputs as [Value, Value];
  const { transposeA, transposeB } = node.attrs as { transposeA: boolean; transposeB: boolean };
  const [y] = node.outputs;
  const batch = y!.shape.slice(0, -2);
  const [m, n] = y!.shape.slice(-2) as [number, number];
  const k = a.shape.at(transposeA ? -2 : -1)!;
  const result = item.epilogue?.result ?? y!;
  const target = lowering.alloc(result);
  const left = stackOf(lowering, a, batch);
  const rows = sizeOf(batch) * m;
  const even = sizeOf(batch) === 1 || left.distance === m * left.row;
  const plain = b.shape.length === 2 || sizeOf(b.shape.slice(0, -2)) === 1;
  if (
    !transposeA &&
    even &&
    plain &&
    packedProduct(lowering, { m: rows, n, k }, left, b, transposeB, target, item.epilogue)
  ) {
    return;
  }
  product(
    lowering,
    { m, n, k, batch: sizeOf(batch) },
    left,
    stackOf(lowering, b, batch),
    { a: transposeA, b: transposeB },
    target,
    item.epilogue,
  );
};

/** The letters of one operand, each once; a letter that comes twice takes the diagonal. */
function lettered(view: View, term: string): { view: View; letters: string[] } {
  const letters = [...new Set(term)];
  const shape = letters.map((letter) => view.shape[term.indexOf(letter)]!);
  const strides = letters.map((letter) =>
    Array.from(term).reduce(
      (sum, other, axis) => sum + (other === letter ? view.strides[axis]! : 0),
      0,
    ),
  );
  return { view: { ...view, shape, strides }, letters };
}

/** Sum a view over axes, by a dense copy. */
function summed(lowering: Lowering, view: View, keep: readonly boolean[]): View {
  if (keep.every(Boolean)) {
    return view;
  }
  const axes = keep.flatMap((kept, axis) => (kept ? [axis] : []));
  const dropped = keep.flatMap((kept, axis) => (kept ? [] : [axis]));
  const moved = lowering.materialised(transposed(view, [...axes, ...dropped]));
  const shape = axes.map((axis) => view.shape[axis]!);
  const n = sizeOf(dropped.map((axis) => view.shape[axis]!));
  const out = lowering.scratch(shape, "float32");
  lowering.builder.step("Reduce", [moved], [out], [0, 0, sizeOf(shape), n, 1], [1]);
  return out;
}

/** Letters shared by all are a batch, letters left out are summed over: one product of stacks. */
const einsum: Rule = (lowering, node) => {
  const [terms, result] = (node.attrs["equation"] as string).split("->") as [string, string];
  const names = terms.split(",");
  const [y] = node.outputs;
  const operands = node.inputs.map((value, i) => {
    const { view, letters } = lettered(floats(lowering, value), names[i]!);
    const others = names.filter((_, j) => j !== i).join("") + result;
    const keep = letters.map((letter) => others.includes(letter));
    return {
      view: summed(lowering, view, keep),
      letters: letters.filter((_, axis) => keep[axis]),
    };
  });
  const target = lowering.alloc(y!);
  const [a, b] = operands as [(typeof operands)[0], (typeof operands)[0] | undefined];
  if (!b) {
    const view = transposed(
      a.view,
      Array.from(result).map((letter) => a.letters.indexOf(letter)),
    );
    lowering.copy(view, target);
    return;
  }
  const both = a.letters.filter((letter) => b.letters.includes(letter));
  const batch = both.filter((letter) => result.includes(letter));
  const inner = both.filter((letter) => !result.includes(letter));
  const left = a.letters.filter((letter) => !both.includes(letter));
  const right = b.letters.filter((letter) => !both.includes(letter));
  const side = (letter: string): number =>
    a.letters.includes(letter)
      ? a.view.shape[a.letters.indexOf(letter)]!
      : b.view.shape[b.letters.indexOf(letter)]!;
  const count = (letters: readonly string[]): number => sizeOf(letters.map(side));
  const arranged = (operand: typeof a, order: readonly string[]): View =>
    lowering.materialised(
      transposed(
        operand.view,
        order.map((letter) => operand.letters.indexOf(letter)),
      ),
    );
  const [m, n, k] = [count(left), count(right), count(inner)];
  const stack = (view: View, row: number, distance: number): Stack => ({
    view,
    transposed: false,
    row,
    distance,
  });
  const letters = [...batch, ...left, ...right];
  const natural = letters.join("") === result;
  const out = natural ? target : lowering.scratch(letters.map(side), "float32");
  product(
    lowering,
    { m, n, k, batch: count(batch) },
    stack(arranged(a, [...batch, ...left, ...inner]), k, m * k),
    stack(arranged(b, [...batch, ...inner, ...right]), n, k * n),
    { a: false, b: false },
    out,
  );
  if (!natural) {
    const view = { ...out, shape: letters.map(side), strides: denseStrides(letters.map(side)) };
    lowering.copy(
      transposed(
        view,
        Array.from(result).map((letter) => letters.indexOf(letter)),
      ),
      target,
    );
  }
};

function floats(lowering: Lowering, value: Value): View {
  if (value.dtype !== "float32") {
    throw new Error("tf.einsum is compiled for float32: cast its operands");
  }
  return lowering.get(value);
}

export const productRules: { readonly [op: string]: Rule } = {
  BatchMatMul: matMul,
  Einsum: einsum,

  AxisProduct: (lowering, node: GraphNode) => {
    const [x, matrix] = node.inputs;
    const axis = node.attrs["axis"] as number;
    const [o, n] = matrix!.shape as [number, number];
    const ints = [sizeOf(x!.shape.slice(0, axis)), o, n, sizeOf(x!.shape.slice(axis + 1))];
    const given = [lowering.dense(x!), lowering.dense(matrix!)];
    lowering.builder.step("AxisProduct", given, [lowering.alloc(node.outputs[0]!)], ints);
  },
};
