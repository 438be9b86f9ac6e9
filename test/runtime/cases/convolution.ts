/**
 * @file Cases of convolutions: padding, strides, kernels, channels and clip lengths, each computed
 * alone and inside a differentiated step, which takes a faster and less exact way.
 */

import * as tf from "@tensorflow/tfjs-core";
import { conv3d, type Pad, silu } from "../../../src/runtime/ops.ts";
import type { HostTensor } from "../../../src/runtime/tensors.ts";
import { afterConvolution, type KernelCase, normals, type Tensors, uniforms } from "../case.ts";

type Three = readonly [number, number, number];

export interface Geometry {
  /** [B, T, H, W, Cin] */
  readonly x: readonly [number, number, number, number, number];
  /** [kt, kh, kw] */
  readonly kernel: Three;
  readonly out: number;
  readonly strides: Three;
  readonly pads: readonly [Pad, Pad, Pad];
}

/** Products of float32 summed in another order: exact rounding differs by a few units in the last place. */
const EXACT = 2e-5;
/** Fast algorithms over time (Cook-Toom) lose about a digit. */
const FAST = 1e-4;

const PADDINGS = ["valid", "same", "causal", "wide"] as const;

function padsOf(kind: (typeof PADDINGS)[number], [kt, kh, kw]: Three): [Pad, Pad, Pad] {
  const around = (k: number): Pad => [Math.floor((k - 1) / 2), Math.ceil((k - 1) / 2)];
  return {
    valid: [
      [0, 0],
      [0, 0],
      [0, 0],
    ] satisfies [Pad, Pad, Pad],
    same: [around(kt), around(kh), around(kw)] satisfies [Pad, Pad, Pad],
    causal: [[kt - 1, 0], around(kh), around(kw)] satisfies [Pad, Pad, Pad],
    wide: [
      [kt, 1],
      [kh + 1, 0],
      [1, kw],
    ] satisfies [Pad, Pad, Pad],
  }[kind];
}

/** Every (taps, padding, stride over time, frames); the other sides take turns. */
function geometries(kt: number, padding: (typeof PADDINGS)[number]): Geometry[] {
  const found: Geometry[] = [];
  const channels = [
    [3, 4],
    [1, 2],
    [16, 16],
    [5, 16],
    [32, 16],
    [2, 1],
  ] as const;
  const squares = [
    [3, 3, 1, 1],
    [1, 1, 1, 1],
    [4, 2, 2, 1],
    [2, 3, 1, 2],
    [3, 3, 2, 2],
    [1, 4, 1, 2],
    [1, 1, 2, 2],
  ] as const;
  let turn = kt + 5 * PADDINGS.indexOf(padding);
  for (const frames of [1, 2, 5, 9, 17]) {
    for (const stride of [1, 2]) {
      const [kh, kw, sh, sw] = squares[turn % squares.length]!;
      const small = frames >= 9 ? 4 : 6; // the reference is slow
      const [ci, co] = channels[turn % small]!;
      const pads = padsOf(padding, [kt, kh, kw]);
      const [h, w] = [4 + (turn % 2), 4 + (turn % 3)];
      turn += 1;
      if (frames + pads[0][0] + pads[0][1] >= kt) {
        found.push({
          x: [frames === 2 ? 2 : 1, frames, h, w, ci],
          kernel: [kt, kh, kw],
          out: co,
          strides: [stride, sh, sw],
          pads,
        });
      }
    }
  }
  return found;
}

function label({ x, kernel, out, strides }: Geometry): string {
  return `${x.join("x")} * ${kernel.join("x")}x${out} / ${strides.join("x")}`;
}

/** Several convolutions in one function. */
export function convolutions(
  name: string,
  list: readonly Geometry[],
  gradients: boolean,
): KernelCase {
  const inputs: { [name: string]: HostTensor } = {};
  list.forEach(({ x, kernel, out }, i) => {
    inputs[`x${i}`] = normals(`${name} x${i}`, x);
    inputs[`k${i}`] = uniforms(`${name} k${i}`, [...kernel, x[4], out], -0.5, 0.5);
  });
  return {
    name: `${name}${gradients ? ", differentiated" : ""}: ${label(list[0]!)} ...`,
    inputs,
    run: (given: Tensors) =>
      list.map(({ strides, pads }, i) =>
        conv3d(given[`x${i}`] as tf.Tensor5D, given[`k${i}`] as tf.Tensor5D, { strides, pads }),
      ),
    ...(gradients ? { gradients: Object.keys(inputs) } : {}),
    tolerance: gradients ? FAST : EXACT,
  };
}

const image = (label: string, channels: number) => normals(label, [2, 6, 5, channels]);

export const convolutionCases: readonly KernelCase[] = [
  ...[1, 2, 3, 4].flatMap((kt) =>
    PADDINGS.flatMap((padding) => {
      const list = geometries(kt, padding);
      return [false, true].map((gradients) =>
        convolutions(`conv3d ${padding} ${kt}`, list, gradients),
      );
    }),
  ),
  {
    name: "a chain of convolutions in both layouts",
    inputs: {
      x: normals("chain x", [2, 5, 4, 6, 3]),
      a: uniforms("chain a", [3, 3, 3, 3, 16], -0.3, 0.3),
      b: uniforms("chain b", [1, 1, 1, 16, 16], -0.3, 0.3),
      c: uniforms("chain c", [3, 3, 3, 16, 16], -0.3, 0.3),
      d: uniforms("chain d", [1, 1, 1, 16, 5], -0.3, 0.3),
    },
    run: ({ x, a, b, c, d }) => {
      const same = { pads: padsOf("causal", [3, 3, 3]) };
      let y = conv3d(x as tf.Tensor5D, a as tf.Tensor5D, same);
      y = tf.add(y, conv3d(silu(y), b as tf.Tensor5D));
      y = conv3d(silu(y), c as tf.Tensor5D, same);
      const last = tf.reshape(tf.reshape(y, [-1, 16]), y.shape) as tf.Tensor5D;
      return [conv3d(y, d as tf.Tensor5D), conv3d(last, d as tf.Tensor5D)];
    },
    gradients: ["x", "a", "b", "c", "d"],
    tolerance: FAST,
  },
  {
    name: "one input, many convolutions",
    inputs: {
      x: normals("fan x", [1, 4, 4, 4, 3]),
      a: uniforms("fan a", [3, 3, 3, 3, 4], -0.3, 0.3),
    },
    run: ({ x, a }) =>
      PADDINGS.flatMap((padding) => [
        conv3d(x as tf.Tensor5D, a as tf.Tensor5D, { pads: padsOf(padding, [3, 3, 3]) }),
        conv3d(x as tf.Tensor5D, a as tf.Tensor5D, {
          pads: padsOf(padding, [3, 3, 3]),
          strides: [2, 1, 2],
        }),
      ]),
    gradients: ["x", "a"],
    tolerance: FAST,
  },
  {
    name: "tf.conv3d",
    inputs: {
      x: normals("tf3", [1, 4, 5, 4, 3]),
      k: uniforms("tf3 k", [2, 3, 3, 3, 4], -0.3, 0.3),
    },
    run: ({ x, k }) => [
      tf.conv3d(x as tf.Tensor5D, k as tf.Tensor5D, 1, "same"),
      tf.conv3d(x as tf.Tensor5D, k as tf.Tensor5D, [2, 1, 2], "valid"),
      tf.conv3d(x as tf.Tensor5D, k as tf.Tensor5D, [1, 2, 2], "same"),
    ],
    gradients: ["x", "k"],
    tolerance: FAST,
  },
  {
    name: "tf.conv2d",
    inputs: {
      x: image("tf2", 3),
      k: uniforms("tf2 k", [3, 2, 3, 4], -0.3, 0.3),
      y: image("tf2 y", 16),
      l: uniforms("tf2 l", [3, 3, 16, 16], -0.3, 0.3),
      p: uniforms("tf2 p", [1, 1, 16, 7], -0.3, 0.3),
    },
    run: ({ x, k, y, l, p }) => [
      tf.conv2d(x as tf.Tensor4D, k as tf.Tensor4D, 1, "same"),
      tf.conv2d(x as tf.Tensor4D, k as tf.Tensor4D, [2, 1], "valid"),
      tf.conv2d(x as tf.Tensor4D, k as tf.Tensor4D, 2, "same"),
      tf.conv2d(x as tf.Tensor4D, k as tf.Tensor4D, 1, [
        [0, 0],
        [1, 2],
        [0, 3],
        [0, 0],
      ]),
      tf.conv2d(y as tf.Tensor4D, l as tf.Tensor4D, 1, "same"),
      tf.conv2d(y as tf.Tensor4D, p as tf.Tensor4D, 1, "valid"),
      tf.conv2d(afterConvolution(y!) as tf.Tensor4D, p as tf.Tensor4D, 1, "valid"),
    ],
    gradients: ["x", "k", "y", "l", "p"],
    tolerance: FAST,
  },
  {
    name: "tf.conv1d",
    inputs: { x: normals("tf1", [2, 9, 3]), k: uniforms("tf1 k", [3, 3, 4], -0.3, 0.3) },
    run: ({ x, k }) => [
      tf.conv1d(x as tf.Tensor3D, k as tf.Tensor3D, 1, "same"),
      tf.conv1d(x as tf.Tensor3D, k as tf.Tensor3D, 2, "valid"),
    ],
    gradients: ["x", "k"],
    tolerance: FAST,
  },
  {
    name: "tf.conv2dTranspose",
    inputs: { x: normals("tr2", [1, 3, 4, 4]), k: uniforms("tr2 k", [3, 3, 2, 4], -0.3, 0.3) },
    run: ({ x, k }) =>
      tf.conv2dTranspose(x as tf.Tensor4D, k as tf.Tensor4D, [1, 6, 8, 2], 2, "same"),
    gradients: ["x", "k"],
    tolerance: FAST,
  },
  {
    name: "tf.conv3dTranspose", // TensorFlow.js has no gradient of it
    inputs: {
      x: normals("tr3", [1, 2, 3, 2, 4]),
      k: uniforms("tr3 k", [2, 3, 2, 2, 4], -0.3, 0.3),
    },
    run: ({ x, k }) =>
      tf.conv3dTranspose(x as tf.Tensor5D, k as tf.Tensor5D, [1, 4, 6, 4, 2], 2, "same"),
    tolerance: EXACT,
  },
];
