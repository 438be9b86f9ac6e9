/**
 * @file How the variables of a network written here come out of somebody else's weight file. A
 * *layout* is one way of naming and arranging them (torchvision's, TensorFlow's, ...): a recipe for
 * each variable, saying which tensors it needs and how its values follow from them.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../../config/errors.ts";
import { sizeOf } from "../../runtime/tensors.ts";
import { permuted, type Weights } from "../../runtime/weight-files/weights.ts";
import type { Scope } from "../scope.ts";

/** A tensor as recipes see it. */
export interface Ingredient {
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

/** One variable from tensors of a file. */
export interface Recipe {
  /** Names of the tensors it takes, in order. */
  readonly needs: readonly string[];
  /** Values for a variable of `shape`; undefined when the ingredients do not fit it. */
  make(ingredients: readonly Ingredient[], shape: readonly number[]): Float32Array | undefined;
}

/** One convention of naming and arranging a network's variables. */
export interface WeightLayout {
  /** For messages, e.g. "torchvision". */
  readonly name: string;
  /** The recipe for a variable by its name relative to the network's scope. */
  recipe(variable: string): Recipe | undefined;
}

/** Axes of PyTorch's convolution kernels, [out, in, ...sides], in our order [...sides, in, out]. */
export const torchKernel = { 2: [2, 3, 1, 0], 3: [2, 3, 4, 1, 0] } as const;

const withoutOnes = (shape: readonly number[]): string => shape.filter((side) => side !== 1).join();

/** A tensor as it is, or with its axes permuted; sides of 1 may be more or fewer than the variable's. */
export function take(name: string, perm?: readonly number[]): Recipe {
  return {
    needs: [name],
    make([tensor], shape) {
      const { shape: own, values } = tensor!;
      if (perm !== undefined && perm.length !== own.length) {
        return undefined;
      }
      const arranged = perm ? perm.map((axis) => own[axis]!) : own;
      if (withoutOnes(arranged) !== withoutOnes(shape)) {
        return undefined;
      }
      return perm ? permuted(values, own, perm) : values;
    },
  };
}

/** The names of a batch norm's tensors. Without `gamma` the scale is 1. */
export interface BatchNormNames {
  readonly gamma?: string;
  readonly beta: string;
  readonly mean: string;
  readonly variance: string;
  readonly epsilon: number;
}

/** What a batch norm in inference multiplies each channel by: gamma / sqrt(variance + epsilon). */
function rates(norm: BatchNormNames, [variance, gamma]: readonly Ingredient[]): Float64Array {
  return Float64Array.from(
    variance!.values,
    (value, c) => (gamma ? gamma.values[c]! : 1) / Math.sqrt(value + norm.epsilon),
  );
}

/**
 * A convolution kernel with the batch norm behind it multiplied in; the output channel is the last
 * axis once `perm` is applied. Folded in float64, rounded once.
 */
export function foldedKernel(
  kernel: string,
  norm: BatchNormNames,
  perm?: readonly number[],
): Recipe {
  const plain = take(kernel, perm);
  return {
    needs: [kernel, norm.variance, ...(norm.gamma ? [norm.gamma] : [])],
    make([tensor, ...statistics], shape) {
      const values = plain.make([tensor!], shape);
      const channels = shape.at(-1)!;
      const rate = rates(norm, statistics);
      return values && rate.length === channels
        ? values.map((value, i) => value * rate[i % channels]!)
        : undefined;
    },
  };
}

/** The bias that a batch norm leaves behind a folded kernel: beta - mean · rate. */
export function foldedBias(norm: BatchNormNames): Recipe {
  return {
    needs: [norm.beta, norm.mean, norm.variance, ...(norm.gamma ? [norm.gamma] : [])],
    make([beta, mean, ...statistics], shape) {
      const rate = rates(norm, statistics);
      return beta!.values.length === sizeOf(shape) && rate.length === sizeOf(shape)
        ? beta!.values.map((value, c) => value - mean!.values[c]! * rate[c]!)
        : undefined;
    },
  };
}

/** The file holds the network's own variables under their own names (what `weights convert` writes). */
export const ownLayout: WeightLayout = { name: "Tessera", recipe: (variable) => take(variable) };

/**
 * Give each variable of `scope` its values from a weight file in the first of `layouts` that the
 * file follows. Tensors that the network does not use are ignored.
 * @param network what the weights are of, for messages
 * @returns the layout's name
 * @throws UserError when a tensor is missing, has another shape or holds a value that is not finite
 */
export function assignWeights(
  scope: Scope,
  weights: Weights,
  layouts: readonly WeightLayout[],
  network: string,
): string {
  const variables = Array.from(scope.variables(), ([name, variable]) => ({
    name: name.slice(scope.prefix.length),
    variable,
  }));
  const needsOf = (layout: WeightLayout): string[] =>
    variables.flatMap(({ name }) => layout.recipe(name)?.needs ?? [name]);
  const lacks = layouts
    .map((layout) => ({
      layout,
      missing: needsOf(layout).filter((need) => !weights.tensors.has(need)),
    }))
    .sort((a, b) => a.missing.length - b.missing.length);
  const fit = lacks.find(({ missing }) => missing.length === 0);
  if (!fit) {
    const names = layouts.map(({ name }) => name).join(", ");
    const partly = lacks.find(({ layout, missing }) => missing.length < needsOf(layout).length);
    const { missing } = partly ?? lacks[0]!;
    const more = missing.length > 3 ? ` and ${missing.length - 3} more` : "";
    throw new UserError(
      partly
        ? `${weights.source} does not hold all weights of ${network}: by ${partly.layout.name}'s names ${missing.slice(0, 3).join(", ")}${more} are missing`
        : `${weights.source} does not hold the weights of ${network}: it follows none of the namings ${names}`,
      `the file holds ${weights.tensors.size} tensors, e.g. ${[...weights.tensors.keys()].slice(0, 3).join(", ")}; \`tessera weights list\` says which files ${network} takes`,
    );
  }
  for (const { name, variable } of variables) {
    const values = cook(fit.layout.recipe(name)!, weights, variable.shape, network);
    const tensor = tf.tensor(values, variable.shape, "float32");
    variable.assign(tensor);
    tensor.dispose();
  }
  return fit.layout.name;
}

function cook(
  recipe: Recipe,
  weights: Weights,
  shape: readonly number[],
  network: string,
): Float32Array {
  const ingredients = recipe.needs.map((need) => {
    const tensor = weights.tensors.get(need)!;
    const { data } = tensor.read();
    const values = data instanceof Float32Array ? data : Float32Array.from(data);
    const wrong = values.findIndex((value) => !Number.isFinite(value));
    if (wrong >= 0) {
      throw new UserError(
        `the tensor "${need}" of ${weights.source} holds ${values[wrong]} at place ${wrong}, so no score on it means anything`,
        "the file is damaged, or its training diverged: get it again and compare its checksum",
      );
    }
    return { shape: tensor.shape, values };
  });
  const values = recipe.make(ingredients, shape);
  if (!values) {
    const found = recipe.needs.map(
      (need, i) => `"${need}" is [${ingredients[i]!.shape.join(", ")}]`,
    );
    throw new UserError(
      `${weights.source} is not a weight file of ${network}: ${found.join(", ")}, which does not make a variable of [${shape.join(", ")}]`,
      "`tessera weights list` says which files fit",
    );
  }
  return values;
}
