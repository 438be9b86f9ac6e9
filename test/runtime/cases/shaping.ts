/** @file Cases of kernels that move, select or count values. */

import * as tf from "@tensorflow/tfjs-core";
import { depthToSpace3d, embedding, spaceToDepth3d } from "../../../src/runtime/ops.ts";
import { bool, float32, type HostTensor, int32 } from "../../../src/runtime/tensors.ts";
import { afterConvolution, integers, type KernelCase, normals, type Tensors } from "../case.ts";

const image = (label: string): HostTensor => normals(label, [2, 3, 4, 5]);
const clip = (label: string): HostTensor => normals(label, [1, 2, 3, 4, 5]);

/** A case on one image and one clip, each as given and after a convolution. */
function bothLayouts(name: string, op: (x: tf.Tensor) => tf.Tensor | tf.Tensor[]): KernelCase {
  return {
    name: `${name}: layouts`,
    inputs: { image: image(`${name} image`), clip: clip(`${name} clip`) },
    run: ({ image: x, clip: y }: Tensors) =>
      [x!, y!, afterConvolution(x!), afterConvolution(y!)].flatMap(op),
    gradients: ["image", "clip"],
  };
}

const ones = (rank: number) => Array.from({ length: rank }, () => 1);

const tiles = (x: tf.Tensor): tf.Tensor[] => {
  const one = tf.slice(x, [0, 0, 0], [-1, -1, 1]);
  return [
    tf.tile(x, [2, ...ones(x.shape.length - 2), 2]),
    tf.tile(one, [1, 1, 4, ...ones(x.shape.length - 3)]),
  ];
};

export const shapingCases: readonly KernelCase[] = [
  bothLayouts("Reshape to rows", (x) => tf.reshape(x, [-1, 5])),
  bothLayouts("Reshape that keeps the images", (x) => tf.reshape(x, [2, 1, 3, 4, 5])),
  bothLayouts("Reshape that keeps the channels", (x) => tf.reshape(x, [2, 4, 3, 5])),
  bothLayouts("Transpose", (x) =>
    tf.transpose(x, x.shape.length === 4 ? [0, 3, 1, 2] : [0, 4, 1, 3, 2]),
  ),
  bothLayouts("Slice", (x) => {
    const begin = x.shape.map((side) => (side > 2 ? 1 : 0));
    return tf.slice(
      x,
      begin,
      x.shape.map((side) => (side > 2 ? side - 2 : -1)),
    );
  }),
  bothLayouts("Slice of channels", (x) => [
    tf.slice(x, [...x.shape.slice(0, -1).map(() => 0), 2]),
    tf.slice(x, [0], [1]),
  ]),
  bothLayouts("Concat of frames", (x) => tf.concat([x, tf.neg(x)], 1)),
  bothLayouts("Concat of channels", (x) => tf.concat([x, tf.ones(x.shape), x], -1)),
  bothLayouts("SplitV of channels", (x) => tf.split(x, [2, 3], -1)),
  bothLayouts("SplitV of rows", (x) => tf.split(x, 3, x.shape.length - 3)),
  bothLayouts("Unpack", (x) => tf.unstack(x, 2)),
  bothLayouts("Pack", (x) => tf.stack([x, x], 1)),
  {
    name: "Tile: layouts",
    inputs: { image: image("tile image"), clip: clip("tile clip") },
    run: ({ image: x, clip: y }) =>
      [x!, y!, afterConvolution(x!), afterConvolution(y!)].flatMap(tiles),
    gradients: ["image"], // TensorFlow.js has the gradient up to rank 4
  },
  bothLayouts("PadV2", (x) => [
    tf.pad(
      x,
      x.shape.map((_, i) => [i % 2, i]),
    ),
    tf.pad(
      x,
      x.shape.map((_, i) => [Number(i === 1), 0]),
      -2.5,
    ),
  ]),
  bothLayouts("Reverse", (x) => [tf.reverse(x, [1, -1]), tf.reverse(x, 2)]),
  bothLayouts("GatherV2 of channels and rows", (x) => [
    tf.gather(x, tf.tensor1d([3, 0, 3], "int32"), -1),
    tf.gather(x, tf.tensor1d([1, 1], "int32"), 2),
  ]),
  bothLayouts("squeeze and expandDims", (x) => [tf.expandDims(x, 1), tf.expandDims(x, -1)]),
  {
    name: "MirrorPad",
    inputs: { image: image("mirror"), row: normals("mirror row", [2, 5]) },
    run: ({ image: x, row }) => [
      tf.mirrorPad(
        row!,
        [
          [1, 1],
          [0, 3],
        ] as [number, number][],
        "reflect",
      ),
      tf.mirrorPad(
        x!,
        [
          [0, 0],
          [2, 1],
          [0, 3],
          [0, 0],
        ] as [number, number][],
        "reflect",
      ),
      tf.mirrorPad(
        afterConvolution(x!),
        [
          [0, 0],
          [2, 1],
          [0, 3],
          [1, 0],
        ] as [number, number][],
        "reflect",
      ),
    ],
    gradients: ["image", "row"],
  },
  {
    name: "StridedSlice",
    inputs: { x: normals("strided", [5, 6, 7]), image: image("strided image") },
    run: ({ x, image: y }) => [
      tf.stridedSlice(x!, [1, 0, 6], [5, 6, 0], [2, 3, -2]),
      tf.stridedSlice(x!, [0, 4, 0], [5, 0, 3], [1, -1, 1], 0, 2),
      tf.stridedSlice(x!, [1, 2], [3, 4], [1, 1], 0, 0, 0, 0, 1),
      tf.stridedSlice(x!, [0, 1], [1, 5], [1, 2], 1, 1, 1),
      tf.stridedSlice(x!, [4, 0, 6], [0, 6, -8], [-1, 1, -1], 0, 1),
      tf.stridedSlice(afterConvolution(y!), [0, 0, 3, 4], [2, 3, 0, 0], [1, 2, -1, -3]),
    ],
  },
  {
    name: "small ranks: reshape, expandDims, slice, transpose, tile, pad, reverse",
    inputs: { s: float32([], [2.5]), v: normals("v", [5]), m: normals("m", [2, 3]) },
    run: ({ s, v, m }) => [
      tf.reshape(s!, [1, 1]),
      tf.expandDims(v!, 0),
      tf.squeeze(tf.slice(v!, 2, 1)),
      tf.slice(v!, 1, 3),
      tf.transpose(m!),
      tf.tile(v!, [3]),
      tf.tile(m!, [2, 1]),
      tf.pad(v!, [[2, 0]]),
      tf.reverse(v!),
      tf.broadcastTo(s!, [2, 2]),
      tf.broadcastTo(v!, [2, 5]),
    ],
    gradients: ["s", "v", "m"],
  },
  {
    name: "integers and bools are moved too",
    inputs: {
      i: integers("moved", [2, 3, 4, 2], -9, 9),
      b: bool([2, 3], Uint8Array.from([1, 0, 0, 1, 1, 0])),
    },
    run: ({ i, b }) => [
      tf.transpose(i!, [3, 0, 1, 2]),
      tf.concat([i!, i!], 2),
      tf.stack([i!, i!]),
      ...tf.split(i!, 2, 2),
      tf.pad(
        i!,
        [
          [0, 0],
          [1, 0],
          [0, 0],
          [0, 0],
        ] as [number, number][],
        7,
      ),
      tf.tile(i!, [1, 2, 1, 1]),
      tf.reverse(i!, 3),
      tf.gather(i!, tf.tensor1d([1, 0], "int32"), 3),
      tf.reshape(b!, [6]),
      tf.concat([b!, b!], 0),
      tf.slice(b!, [0, 1], [2, 2]),
      tf.transpose(b!),
      tf.tile(b!, [2, 1]),
      tf.gather(b!, tf.tensor1d([1, 0, 1], "int32")),
    ],
  },
  {
    name: "no values",
    inputs: { none: float32([0, 3], []), some: normals("some", [2, 3]) },
    run: ({ none, some }) => [
      tf.concat([none!, some!, none!], 0),
      tf.concat([none!, none!], 0),
      tf.reshape(none!, [3, 0]),
      tf.slice(some!, [1, 0], [0, 3]),
      tf.transpose(none!),
      tf.tile(none!, [2, 1]),
      tf.pad(none!, [
        [1, 0],
        [0, 0],
      ] as [number, number][]),
    ],
  },
  {
    name: "GatherV2 by ids of any rank",
    inputs: {
      table: normals("table", [6, 4]),
      flat: int32([5], [5, 0, 0, 3, 5]),
      grid: int32([2, 2, 1], [1, 2, 3, 5]),
      one: int32([], [4]),
      none: int32([0], []),
    },
    run: ({ table, flat, grid, one, none }) => [
      tf.gather(table!, flat!),
      tf.gather(table!, grid!),
      tf.gather(table!, one!),
      tf.gather(table!, none!),
      embedding(table as tf.Tensor2D, grid!),
      tf.gather(table!, tf.minimum(flat!, tf.scalar(3, "int32")), 1),
    ],
    gradients: ["table"],
  },
  {
    name: "GatherNd",
    inputs: {
      x: normals("gather nd", [3, 4, 2]),
      image: normals("gather nd image", [2, 3, 4, 5]),
      i: integers("gather nd i", [3, 4], -9, 9),
    },
    run: ({ x, image, i }) => {
      const pairs = tf.tensor2d([0, 1, 2, 3, 2, 0], [3, 2], "int32");
      return [
        tf.gatherND(x!, pairs),
        tf.gatherND(i!, pairs),
        tf.gatherND(x!, tf.tensor2d([2, 0], [2, 1], "int32")),
        tf.gatherND(afterConvolution(image!), tf.tensor2d([1, 2, 3], [1, 3], "int32")),
      ];
    },
  },
  {
    name: "ScatterNd",
    inputs: {
      x: normals("scatter nd", [3, 2]),
      i: integers("scatter nd i", [3], -9, 9),
      places: int32([3, 1], [4, 0, 4]),
    },
    run: ({ x, i, places }) => [
      tf.scatterND(places!, x!, [6, 2]),
      tf.scatterND(places!, i!, [5]),
      tf.scatterND(tf.tensor2d([0, 1, 1, 1, 0, 1], [3, 2], "int32"), i!, [2, 2]),
    ],
  },
  {
    name: "OneHot",
    inputs: {
      ids: int32([2, 3], [0, 1, 2, 3, 4, 9]),
      flat: int32([2], [-1, 2]),
      pick: int32([], [1]),
    },
    run: ({ ids, flat, pick }) => [
      tf.oneHot(ids!, 5),
      tf.oneHot(flat!, 3, 2, -1),
      tf.oneHot(ids!, 5, 1, 0, "float32"),
      tf.oneHot(ids!, 5, 1, 0, "bool"),
      tf.oneHot(pick!, 3),
    ],
  },
  {
    name: "UnsortedSegmentSum",
    inputs: {
      x: normals("segments", [6, 2, 3]),
      i: integers("segment values", [6], -9, 9),
      ids: int32([6], [0, 2, 2, 5, 0, 0]),
    },
    run: ({ x, i, ids }) => [
      tf.unsortedSegmentSum(x!, ids as tf.Tensor1D, 7),
      tf.unsortedSegmentSum(tf.reshape(x!, [6, 6]), ids as tf.Tensor1D, 6),
      tf.unsortedSegmentSum(i!, ids as tf.Tensor1D, 6),
    ],
    gradients: ["x"],
  },
  {
    name: "UnsortedSegmentSum of many segments",
    inputs: { x: normals("many", [300, 2]), ids: integers("many ids", [300], 0, 60_000) },
    run: ({ x, ids }) => tf.unsortedSegmentSum(x!, ids as tf.Tensor1D, 60_000),
  },
  {
    name: "spaceToDepth3d and depthToSpace3d",
    inputs: { x: normals("blocks", [2, 4, 6, 4, 3]), y: normals("depth", [2, 2, 3, 2, 24]) },
    run: ({ x, y }) => [
      spaceToDepth3d(x as tf.Tensor5D, [2, 3, 2]),
      spaceToDepth3d(afterConvolution(x!) as tf.Tensor5D, [1, 2, 2]),
      depthToSpace3d(y as tf.Tensor5D, [2, 2, 2]),
      depthToSpace3d(afterConvolution(y!) as tf.Tensor5D, [1, 2, 4]),
      depthToSpace3d(spaceToDepth3d(x as tf.Tensor5D, [2, 2, 1]), [2, 2, 1]),
    ],
    gradients: ["x", "y"],
  },
];
