/**
 * @file Parts that the published feature networks share: convolutions with bias in the padding of
 * the framework that each was trained in. Their variables are made as state: no optimizer changes them.
 */

import * as tf from "@tensorflow/tfjs-core";
import { conv3d, type Pad } from "../../runtime/ops.ts";
import { sizeOf } from "../../runtime/tensors.ts";
import { samePad } from "../layers.ts";
import type { Scope } from "../scope.ts";

/** Pictures [N, H, W, C] to [N, H', W', C']. */
export type Layer2D = (x: tf.Tensor4D) => tf.Tensor4D;
/** Clips [B, T, H, W, C] to [B, T', H', W', C']. */
export type Layer3D = (x: tf.Tensor5D) => tf.Tensor5D;

export interface FrozenConv2DOptions {
  readonly inputs: number;
  readonly outputs: number;
  /** Sides (h, w). */
  readonly kernel: readonly [number, number];
  /** Default 1. */
  readonly stride?: number;
  /** Zeros on both ends of (h, w). Default none. */
  readonly pad?: readonly [number, number];
  /** Default true. */
  readonly relu?: boolean;
}

/** 2D convolution, bias, ReLU. Variables "kernel" [kh, kw, inputs, outputs] and "bias". */
export function frozenConv2d(scope: Scope, options: FrozenConv2DOptions): Layer2D {
  const { inputs, outputs, kernel: sides, stride = 1, pad = [0, 0], relu = true } = options;
  const kernel = scope.state("kernel", [...sides, inputs, outputs]) as tf.Tensor4D;
  const bias = scope.state("bias", [outputs]);
  const pads: [[number, number], [number, number], [number, number], [number, number]] = [
    [0, 0],
    [pad[0], pad[0]],
    [pad[1], pad[1]],
    [0, 0],
  ];
  return (x) => {
    const y = tf.add(tf.conv2d(x, kernel, stride, pads), bias) as tf.Tensor4D;
    return relu ? tf.relu(y) : y;
  };
}

export interface FrozenConv3DOptions {
  readonly inputs: number;
  readonly outputs: number;
  /** Sides (t, h, w). */
  readonly kernel: readonly [number, number, number];
  /** Default 1. */
  readonly strides?: readonly [number, number, number];
  /** Default true. */
  readonly relu?: boolean;
}

/** 3D convolution under TensorFlow's SAME padding, bias, ReLU. Variables "kernel" and "bias". */
export function frozenConv3d(scope: Scope, options: FrozenConv3DOptions): Layer3D {
  const { inputs, outputs, kernel: sides, strides = [1, 1, 1], relu = true } = options;
  const kernel = scope.state("kernel", [...sides, inputs, outputs]) as tf.Tensor5D;
  const bias = scope.state("bias", [outputs]);
  return (x) => {
    const pad = (axis: 0 | 1 | 2): Pad => samePad(x.shape[axis + 1]!, sides[axis], strides[axis]);
    const pads = [pad(0), pad(1), pad(2)] as const;
    const y = tf.add(conv3d(x, kernel, { strides, pads }), bias) as tf.Tensor5D;
    return relu ? tf.relu(y) : y;
  };
}

/** A linear map of the last axis, with ReLU where asked. Variables "kernel" [inputs, outputs], "bias". */
export function frozenDense(
  scope: Scope,
  options: { readonly inputs: number; readonly outputs: number; readonly relu?: boolean },
): (x: tf.Tensor) => tf.Tensor {
  const { inputs, outputs, relu = false } = options;
  const kernel = scope.state("kernel", [inputs, outputs]) as tf.Tensor2D;
  const bias = scope.state("bias", [outputs]);
  return (x) => {
    const rows = tf.reshape(x, [sizeOf(x.shape) / inputs, inputs]); // [M, inputs]
    const y = tf.add(tf.matMul(rows, kernel), bias); // [M, outputs]
    return tf.reshape(relu ? tf.relu(y) : y, [...x.shape.slice(0, -1), outputs]);
  };
}
