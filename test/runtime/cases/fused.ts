/**
 * @file Cases of kernels that only some engines have: there the kernel runs, elsewhere the composition that
 * stands behind it.
 */

import * as tf from "@tensorflow/tfjs-core";
import { checkpoint } from "../../../src/runtime/checkpoint.ts";
import { fusedAdamW, sumOfSquares } from "../../../src/runtime/optimizer-kernels.ts";
import { cachedAttention, cacheWrite } from "../../../src/runtime/ops.ts";
import { bool, float32, int32 } from "../../../src/runtime/tensors.ts";
import { hasKernel } from "../../../src/runtime/tracing.ts";
import { adamwUpdate } from "../../../src/trainers/optimizers.ts";
import { type KernelCase, normals, type Tensors, uniforms } from "../case.ts";

const asCache = (x: tf.Tensor | undefined): tf.Tensor4D => x as tf.Tensor4D;

function written(name: string, rows: number, position: number): KernelCase {
  return {
    name: `cacheWrite: ${name}`,
    inputs: {
      cache: normals(`cache ${name}`, [2, 3, 6, 4]),
      rows: normals(`rows ${name}`, [2, rows, 3, 4]),
      position: int32([1], [position]),
    },
    run: ({ cache, rows: given, position: at }: Tensors) => {
      const turned = tf.transpose(given!, [0, 2, 1, 3]); // [B, h, n, d]
      return cacheWrite(asCache(cache), asCache(turned), at as tf.Tensor1D);
    },
  };
}

function attended(name: string, queries: number, position: number): KernelCase {
  return {
    name: `cachedAttention: ${name}`,
    inputs: {
      query: normals(`cached q ${name}`, [2, 3, queries, 4]),
      keys: normals(`cached k ${name}`, [2, 3, 7, 4]),
      values: normals(`cached v ${name}`, [2, 3, 7, 5]),
      position: int32([1], [position]),
    },
    run: ({ query, keys, values, position: at }: Tensors) =>
      cachedAttention(asCache(query), asCache(keys), asCache(values), at as tf.Tensor1D),
  };
}

const SIZES = [[3, 5], [2, 2, 2], [37]] as const;

/** One update of three tensors by the kernel, or by the composition that the optimizer falls back on. */
function update(name: string, averaged: boolean, changes: boolean, decayed: boolean): KernelCase {
  const total = SIZES.reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0);
  const tensors = SIZES.flatMap((shape, i) => [
    [`g${i}`, normals(`adamw g${i}`, shape)],
    [`p${i}`, normals(`adamw p${i}`, shape)],
  ]);
  return {
    name: `adamw: ${name}`,
    inputs: {
      ...Object.fromEntries(tensors as [string, ReturnType<typeof normals>][]),
      m: normals("adamw m", [total], 0.1),
      v: uniforms("adamw v", [total], 0.001, 0.1),
      average: normals("adamw average", [total]),
      rate: float32([], [0.01]),
      epsilon: float32([], [1e-6]),
      keep: float32([], [0.999]),
      scale: float32([], [0.7]),
      averageRate: float32([], [0.05]),
      changes: bool([], [changes]),
    },
    run: (t: Tensors) => {
      const gradients = SIZES.map((_, i) => t[`g${i}`]!);
      const parameters = SIZES.map((_, i) => t[`p${i}`]!);
      const scalar = (key: string) => t[key] as tf.Scalar;
      const options = { beta1: 0.9, beta2: 0.99, decayed };
      if (hasKernel("TesseraAdamW")) {
        const { vectors, parameters: next } = fusedAdamW(
          {
            rate: scalar("rate"),
            epsilon: scalar("epsilon"),
            keep: scalar("keep"),
            scale: scalar("scale"),
            averageRate: scalar("averageRate"),
            changes: t["changes"]!,
            vectors: averaged ? [t["m"]!, t["v"]!, t["average"]!] : [t["m"]!, t["v"]!],
            gradients,
            parameters,
          },
          { ...options, averaged },
        );
        return [...vectors, ...next, sumOfSquares(gradients)];
      }
      const flat = (all: readonly tf.Tensor[]) =>
        tf.concat1d(all.map((x) => tf.reshape(x, [-1]) as tf.Tensor1D));
      const all = flat(gradients);
      const g = changes ? tf.mul(all, t["scale"]!) : tf.zerosLike(all);
      const one = tf.scalar(1);
      const next = adamwUpdate(
        { p: flat(parameters), m: t["m"], v: t["v"], g } as Parameters<typeof adamwUpdate>[0],
        {
          rate: changes ? scalar("rate") : tf.scalar(0),
          epsilon: scalar("epsilon"),
          keep: changes ? scalar("keep") : one,
        },
        options,
        decayed,
      );
      const moved = tf.add(t["average"]!, tf.mul(tf.sub(next.p, t["average"]!), t["averageRate"]!));
      let start = 0;
      const parts = SIZES.map((shape) => {
        const size = shape.reduce((a: number, b: number) => a * b, 1);
        start += size;
        return tf.reshape(tf.slice1d(next.p, start - size, size), [...shape]);
      });
      const states = averaged ? [next.m, next.v, moved] : [next.m, next.v];
      return [...states, ...parts, tf.sum(tf.square(all))];
    },
  };
}

export const fusedCases: readonly KernelCase[] = [
  {
    name: "checkpoint: one part after another, two inputs",
    inputs: { x: normals("checkpoint x", [3, 4]), y: normals("checkpoint y", [4, 4], 0.5) },
    run: ({ x, y }: Tensors) => {
      const part = (a: tf.Tensor, b: tf.Tensor) =>
        tf.tanh(tf.matMul(tf.sigmoid(a as tf.Tensor2D), b as tf.Tensor2D));
      const first = checkpoint(part, [x!, y!], []);
      return checkpoint((a) => tf.mul(part(a!, y!), a!), [first], []);
    },
    gradients: ["x"],
  },
  written("one row", 1, 2),
  written("the first of all", 1, 0),
  written("several rows up to the end", 3, 3),
  attended("one query", 1, 4),
  attended("the first place", 1, 0),
  attended("several queries, later keys hidden", 3, 2),
  attended("everything filled", 2, 5),
  update("an average, decay", true, true, true),
  update("no average, no decay", false, true, false),
  update("a gradient that is not finite", true, false, true),
];
