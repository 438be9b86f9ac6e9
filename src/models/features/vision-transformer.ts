/**
 * @file The frozen pre-norm transformer (Dosovitskiy et al. 2021) that CLIP and VideoMAE share, and
 * the recipes of its parts. Variables of block i: "block<i>/norm1/{scale,shift}",
 * "block<i>/attention/{query,key,value,output}/{kernel,bias}", "block<i>/norm2/...",
 * "block<i>/mlp/{in,out}/{kernel,bias}".
 */

import * as tf from "@tensorflow/tfjs-core";
import { attention, gelu, layerNorm } from "../../runtime/ops.ts";
import type { Scope } from "../scope.ts";
import { frozenDense } from "./parts.ts";
import { type Ingredient, type Recipe } from "./recipes.ts";

export interface VisionTransformerOptions {
  readonly width: number;
  readonly depth: number;
  readonly heads: number;
  /** Width of the hidden layer of the MLP. */
  readonly hidden: number;
  /** CLIP's x · sigmoid(1.702 x), or the exact GELU. */
  readonly activation: "quick-gelu" | "gelu";
  readonly epsilon: number;
  /** Token i sees tokens up to i. Default false. */
  readonly causal?: boolean;
}

/** Layer normalisation with frozen "scale" and "shift" of [width]. */
export function frozenLayerNorm(
  scope: Scope,
  width: number,
  epsilon: number,
): (x: tf.Tensor) => tf.Tensor {
  const scale = scope.state("scale", [width]) as tf.Tensor1D;
  const shift = scope.state("shift", [width]) as tf.Tensor1D;
  return (x) => layerNorm(x, scale, shift, epsilon);
}

/** Tokens [B, N, width] through all blocks. */
export function frozenTransformer(
  scope: Scope,
  options: VisionTransformerOptions,
): (x: tf.Tensor3D) => tf.Tensor3D {
  const { depth } = options;
  const blocks = Array.from({ length: depth }, (_, i) => block(scope.child(`block${i}`), options));
  return (x) => blocks.reduce((y, apply) => apply(y), x);
}

function block(
  scope: Scope,
  { width, heads, hidden, activation, epsilon, causal = false }: VisionTransformerOptions,
): (x: tf.Tensor3D) => tf.Tensor3D {
  const inner = scope.child("attention");
  const map = (name: string) => frozenDense(inner.child(name), { inputs: width, outputs: width });
  const [query, key, value, output] = [map("query"), map("key"), map("value"), map("output")];
  const [norm1, norm2] = [
    frozenLayerNorm(scope.child("norm1"), width, epsilon),
    frozenLayerNorm(scope.child("norm2"), width, epsilon),
  ];
  const mlp = scope.child("mlp");
  const into = frozenDense(mlp.child("in"), { inputs: width, outputs: hidden });
  const out = frozenDense(mlp.child("out"), { inputs: hidden, outputs: width });
  const activate = (x: tf.Tensor): tf.Tensor =>
    activation === "gelu" ? gelu(x) : tf.mul(x, tf.sigmoid(tf.mul(x, 1.702)));
  return (x) => {
    const [b, n] = x.shape;
    const split = (y: tf.Tensor): tf.Tensor4D =>
      tf.transpose(tf.reshape(y, [b, n, heads, width / heads]), [0, 2, 1, 3]); // [B, h, N, d]
    const normal = norm1(x);
    const mixed = attention(split(query(normal)), split(key(normal)), split(value(normal)), {
      causal,
    });
    const joined = tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [b, n, width]);
    const y = tf.add(x, output(joined)) as tf.Tensor3D;
    return tf.add(y, out(activate(into(norm2(y)))));
  };
}

/**
 * One of `parts` equal parts of the rows of a PyTorch matrix [parts · outputs, inputs], turned to
 * [inputs, outputs]; of a vector, the part itself. For the joint "in_proj" and "qkv".
 */
export function rowsOf(name: string, part: number, parts: number): Recipe {
  return {
    needs: [name],
    make([tensor], shape) {
      const { values } = tensor as Ingredient;
      const count = values.length / parts;
      const own = values.subarray(part * count, (part + 1) * count);
      const outputs = shape.at(-1)!;
      if (own.length !== shape.reduce((product, side) => product * side, 1)) {
        return undefined;
      }
      if (shape.length === 1) {
        return own;
      }
      const inputs = shape[0]!;
      return Float32Array.from(
        own,
        (_, i) => own[(i % outputs) * inputs + Math.floor(i / outputs)]!,
      );
    },
  };
}

/** Zeros that stand in no file: the bias that a published network leaves out. */
export const zeroRecipe: Recipe = {
  needs: [],
  make: (_, shape) => new Float32Array(shape.reduce((product, side) => product * side, 1)),
};
