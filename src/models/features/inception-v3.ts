/**
 * @file InceptionV3 (Szegedy et al. 2016) as the Fréchet inception distance takes it: the TensorFlow
 * graph of 2015-12-05, whose pool3 has 2048 features (Heusel et al. 2017). It differs from
 * torchvision's: average pools leave the padding out, the pool branch of Mixed_7c takes maxima, and
 * there are 1008 classes.
 */

import * as tf from "@tensorflow/tfjs-core";
import type { Weights } from "../../runtime/weight-files/weights.ts";
import { Scope } from "../scope.ts";
import { frozenConv2d, type Layer2D } from "./parts.ts";
import {
  assignWeights,
  foldedBias,
  foldedKernel,
  ownLayout,
  take,
  torchKernel,
  type WeightLayout,
} from "./recipes.ts";

/** Length of the features. */
export const inceptionFeatures = 2048;
/** Classes of the 2015 graph. */
export const inceptionClasses = 1008;
/** The side that pictures are resized to. */
export const inceptionSide = 299;

const epsilon = 1e-3;

type Side = number | readonly [number, number];

export interface InceptionV3 {
  readonly scope: Scope;
  /** Pictures [N, H, W, 3] in [-1, 1] to each stage's output by name, and "pool3" [N, 2048]. */
  endpoints(pictures: tf.Tensor4D): { readonly [endpoint: string]: tf.Tensor };
  /** Pictures [N, 299, 299, 3] in [-1, 1] to [N, 2048]. */
  features(pictures: tf.Tensor4D): tf.Tensor2D;
  /** Features [N, 2048] to logits [N, 1008], without the bias, as inception scores take them. */
  logits(features: tf.Tensor2D): tf.Tensor2D;
}

/** Build the network's variables in `scope`, all zeros; `loadInceptionV3` fills them. */
export function buildInceptionV3(scope: Scope): InceptionV3 {
  /** A convolution with ReLU; its width in comes from the one before or is given. */
  const conv = (
    name: string,
    inputs: number,
    outputs: number,
    side: Side,
    options: { stride?: number; pad?: Side } = {},
  ): Layer2D => {
    const inner = name.split(".").reduce((at, part) => at.child(part), scope);
    const both = (value: Side): readonly [number, number] =>
      typeof value === "number" ? [value, value] : value;
    return frozenConv2d(inner, {
      inputs,
      outputs,
      kernel: both(side),
      stride: options.stride ?? 1,
      pad: both(options.pad ?? 0),
    });
  };
  const stages: [name: string, layer: Layer2D][] = [
    ["Conv2d_1a_3x3", conv("Conv2d_1a_3x3", 3, 32, 3, { stride: 2 })],
    ["Conv2d_2a_3x3", conv("Conv2d_2a_3x3", 32, 32, 3)],
    ["Conv2d_2b_3x3", conv("Conv2d_2b_3x3", 32, 64, 3, { pad: 1 })],
    ["maxpool1_64", maxPool],
    ["Conv2d_3b_1x1", conv("Conv2d_3b_1x1", 64, 80, 1)],
    ["Conv2d_4a_3x3", conv("Conv2d_4a_3x3", 80, 192, 3)],
    ["maxpool2_192", maxPool],
  ];
  let channels = 192;
  const add = (name: string, branches: readonly Layer2D[], outputs: number): void => {
    stages.push([
      name,
      (x) =>
        tf.concat(
          branches.map((branch) => branch(x)),
          3,
        ),
    ]);
    channels = outputs;
  };
  for (const [m, width] of [
    ["Mixed_5b", 32],
    ["Mixed_5c", 64],
    ["Mixed_5d", 64],
  ] as const) {
    add(
      m,
      [
        conv(`${m}.branch1x1`, channels, 64, 1),
        chain(
          conv(`${m}.branch5x5_1`, channels, 48, 1),
          conv(`${m}.branch5x5_2`, 48, 64, 5, { pad: 2 }),
        ),
        chain(
          conv(`${m}.branch3x3dbl_1`, channels, 64, 1),
          conv(`${m}.branch3x3dbl_2`, 64, 96, 3, { pad: 1 }),
          conv(`${m}.branch3x3dbl_3`, 96, 96, 3, { pad: 1 }),
        ),
        chain(averagePool, conv(`${m}.branch_pool`, channels, width, 1)),
      ],
      224 + width,
    );
  }
  add(
    "Mixed_6a",
    [
      conv("Mixed_6a.branch3x3", channels, 384, 3, { stride: 2 }),
      chain(
        conv("Mixed_6a.branch3x3dbl_1", channels, 64, 1),
        conv("Mixed_6a.branch3x3dbl_2", 64, 96, 3, { pad: 1 }),
        conv("Mixed_6a.branch3x3dbl_3", 96, 96, 3, { stride: 2 }),
      ),
      maxPool,
    ],
    480 + channels,
  );
  const row = { pad: [0, 3] } as const;
  const column = { pad: [3, 0] } as const;
  for (const [m, q] of [
    ["Mixed_6b", 128],
    ["Mixed_6c", 160],
    ["Mixed_6d", 160],
    ["Mixed_6e", 192],
  ] as const) {
    add(
      m,
      [
        conv(`${m}.branch1x1`, channels, 192, 1),
        chain(
          conv(`${m}.branch7x7_1`, channels, q, 1),
          conv(`${m}.branch7x7_2`, q, q, [1, 7], row),
          conv(`${m}.branch7x7_3`, q, 192, [7, 1], column),
        ),
        chain(
          conv(`${m}.branch7x7dbl_1`, channels, q, 1),
          conv(`${m}.branch7x7dbl_2`, q, q, [7, 1], column),
          conv(`${m}.branch7x7dbl_3`, q, q, [1, 7], row),
          conv(`${m}.branch7x7dbl_4`, q, q, [7, 1], column),
          conv(`${m}.branch7x7dbl_5`, q, 192, [1, 7], row),
        ),
        chain(averagePool, conv(`${m}.branch_pool`, channels, 192, 1)),
      ],
      768,
    );
  }
  add(
    "Mixed_7a",
    [
      chain(
        conv("Mixed_7a.branch3x3_1", channels, 192, 1),
        conv("Mixed_7a.branch3x3_2", 192, 320, 3, { stride: 2 }),
      ),
      chain(
        conv("Mixed_7a.branch7x7x3_1", channels, 192, 1),
        conv("Mixed_7a.branch7x7x3_2", 192, 192, [1, 7], row),
        conv("Mixed_7a.branch7x7x3_3", 192, 192, [7, 1], column),
        conv("Mixed_7a.branch7x7x3_4", 192, 192, 3, { stride: 2 }),
      ),
      maxPool,
    ],
    512 + channels,
  );
  for (const [m, pool] of [
    ["Mixed_7b", averagePool],
    ["Mixed_7c", maxPoolSame],
  ] as const) {
    const sides = (name: string): Layer2D => {
      const [a, b] = [
        conv(`${m}.${name}a`, 384, 384, [1, 3], { pad: [0, 1] }),
        conv(`${m}.${name}b`, 384, 384, [3, 1], { pad: [1, 0] }),
      ];
      return (x) => tf.concat([a(x), b(x)], 3);
    };
    add(
      m,
      [
        conv(`${m}.branch1x1`, channels, 320, 1),
        chain(conv(`${m}.branch3x3_1`, channels, 384, 1), sides("branch3x3_2")),
        chain(
          conv(`${m}.branch3x3dbl_1`, channels, 448, 1),
          conv(`${m}.branch3x3dbl_2`, 448, 384, 3, { pad: 1 }),
          sides("branch3x3dbl_3"),
        ),
        chain(pool, conv(`${m}.branch_pool`, channels, 192, 1)),
      ],
      inceptionFeatures,
    );
  }
  const kernel = scope
    .child("fc")
    .state("kernel", [inceptionFeatures, inceptionClasses]) as tf.Tensor2D;
  const endpoints = (pictures: tf.Tensor4D): { readonly [endpoint: string]: tf.Tensor } => {
    const found: { [endpoint: string]: tf.Tensor } = {};
    let x = pictures;
    for (const [name, layer] of stages) {
      x = layer(x);
      found[name] = x;
    }
    found["pool3"] = tf.mean(x, [1, 2]);
    return found;
  };
  return {
    scope,
    endpoints,
    features(pictures) {
      const [, height, width] = pictures.shape;
      if (height !== inceptionSide || width !== inceptionSide) {
        throw new RangeError(
          `InceptionV3 takes pictures of ${inceptionSide} x ${inceptionSide}, got ${height} x ${width}`,
        );
      }
      return endpoints(pictures)["pool3"] as tf.Tensor2D;
    },
    logits: (features) => tf.matMul(features, kernel),
  };
}

function chain(...layers: readonly Layer2D[]): Layer2D {
  return (x) => layers.reduce((y, layer) => layer(y), x);
}

const maxPool: Layer2D = (x) => tf.maxPool(x, 3, 2, "valid");
const maxPoolSame: Layer2D = (x) => tf.maxPool(x, 3, 1, "same");
/** TensorFlow's SAME average: padding counts in no mean. */
const averagePool: Layer2D = (x) => tf.avgPool(x, 3, 1, "same");

/** pytorch-fid's and torch-fidelity's names, which are torchvision's. */
const torchLayout: WeightLayout = {
  name: "pytorch-fid",
  recipe(variable) {
    if (variable === "fc/kernel") {
      return take("fc.weight", [1, 0]);
    }
    const [, path, part] = /^(.+)\/(kernel|bias)$/.exec(variable) ?? [];
    const name = path?.replaceAll("/", ".");
    const norm = {
      gamma: `${name}.bn.weight`,
      beta: `${name}.bn.bias`,
      mean: `${name}.bn.running_mean`,
      variance: `${name}.bn.running_var`,
      epsilon,
    };
    return part === "kernel"
      ? foldedKernel(`${name}.conv.weight`, norm, torchKernel[2])
      : foldedBias(norm);
  },
};

/** Fill the variables from pytorch-fid's or torch-fidelity's file, or a converted one. */
export function loadInceptionV3(inception: InceptionV3, weights: Weights): string {
  return assignWeights(inception.scope, weights, [ownLayout, torchLayout], "InceptionV3 (FID)");
}

/** Build and fill. The device that the variables shall belong to must be active. */
export function openInceptionV3(weights: Weights): InceptionV3 {
  const inception = buildInceptionV3(Scope.blank(0));
  loadInceptionV3(inception, weights);
  return inception;
}
