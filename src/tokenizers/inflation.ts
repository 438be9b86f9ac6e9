/**
 * @file Starting a video tokenizer from a trained image tokenizer: "inflation" of its 2D kernels along
 * time (Carreira & Zisserman 2017; MAGVIT, Yu et al., CVPR 2023, §3.1 and table 6; MAGVIT-v2 §3.2).
 *
 * - `central`: the 2D kernel becomes the middle slice of the 3D kernel, zeros elsewhere. A network
 *   whose norms take single frames then does to every frame what the image network does.
 * - `average`: every slice is the 2D kernel over their number. Equal frames give equal results.
 * - `causal`: the 2D kernel becomes the last slice, which sees the present frame: `central` for
 *   convolutions that look back.
 *
 * What is no kernel is copied. Where channels stand for frames (patches of several frames, up-sampling
 * in time through channels) inputs are treated as slices are, and outputs are repeated.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import { type Static, Type } from "../config/schema.ts";
import type { Scope } from "../models/scope.ts";
import { type HostTensor, sizeOf } from "../runtime/tensors.ts";

/** The config key `init` of tokenizers. */
export const initSchema = Type.Object(
  {
    checkpoint: Type.String({
      description:
        "A finished run's folder, its checkpoints/tokenizer folder, a checkpoint file, or the folder of an experiment that was run once: the averaged weights are taken.",
    }),
    inflation: Type.Union(
      [
        Type.Literal("none"),
        Type.Literal("central"),
        Type.Literal("average"),
        Type.Literal("causal"),
      ],
      {
        default: "none",
        description:
          "How kernels of single frames become kernels over time: in the middle slice, spread over all, or in the last slice (for causal networks). `none` takes equal shapes only.",
      },
    ),
  },
  {
    additionalProperties: false,
    description: "Start from the weights of a trained tokenizer instead of random ones.",
  },
);

export type Init = Static<typeof initSchema>;
type Inflation = Init["inflation"];

/** Which of `count` slices hold a kernel, and with what weight. */
function slices(count: number, inflation: Inflation): Float32Array {
  const weights = new Float32Array(count);
  if (inflation === "average") {
    return weights.fill(1 / count);
  }
  weights[inflation === "central" ? Math.floor(count / 2) : count - 1] = 1;
  return weights;
}

/** Where channels may stand for frames: the inputs of patches, and outputs that become positions. */
const frameInputs = /encoder\/stem\/kernel$/;
const frameOutputs = /(\/up|decoder\/head)\/(kernel|bias)$/;

/**
 * A tensor of an image network in the shape that a video network has for it; undefined where the two
 * do not fit.
 */
export function inflateTensor(
  name: string,
  source: HostTensor,
  target: readonly number[],
  inflation: Inflation,
): Float32Array | undefined {
  const { shape } = source;
  const data = Float32Array.from(source.data);
  if (shape.length === target.length && shape.every((side, i) => side === target[i])) {
    return data;
  }
  if (inflation === "none" || shape.length !== target.length) {
    return undefined;
  }
  if (target.length === 1 && frameOutputs.test(name) && target[0]! % shape[0]! === 0) {
    return Float32Array.from({ length: target[0]! }, (_, i) => data[i % shape[0]!]!);
  }
  if (target.length !== 5) {
    return undefined;
  }
  const [kt, kh, kw, inputs, outputs] = shape as [number, number, number, number, number];
  const [t, h, w, wide, many] = target as [number, number, number, number, number];
  const fits =
    (wide === inputs || (frameInputs.test(name) && wide % inputs === 0)) &&
    (many === outputs || (frameOutputs.test(name) && many % outputs === 0));
  if (!fits || h !== kh || w !== kw || (kt !== 1 && kt !== t)) {
    return undefined;
  }
  const inTime = kt === t ? undefined : slices(t, inflation);
  const inPatch = slices(wide / inputs, inflation);
  const values = new Float32Array(sizeOf(target));
  let at = 0;
  for (let a = 0; a < t; a++) {
    const slice = inTime ? 0 : a;
    for (let place = 0; place < kh * kw; place++) {
      for (let i = 0; i < wide; i++) {
        const weight = (inTime?.[a] ?? 1) * inPatch[Math.floor(i / inputs)]!;
        const row = ((slice * kh * kw + place) * inputs + (i % inputs)) * outputs;
        for (let o = 0; o < many; o++) {
          values[at++] = weight * data[row + (o % outputs)]!;
        }
      }
    }
  }
  return values;
}

/**
 * Give a tokenizer the weights of a checkpoint.
 * @param tensors of the checkpoint, "ema/<name>" for parameters and "model/<name>" for statistics
 * @returns the names of variables that the checkpoint does not have; they stay as they are
 * @throws UserError when a tensor does not fit, or nothing does
 */
export function inflate(
  scope: Scope,
  tensors: ReadonlyMap<string, HostTensor>,
  inflation: Inflation,
): string[] {
  const trainable = scope.trainable();
  const missing: string[] = [];
  let taken = 0;
  for (const [name, variable] of scope.variables()) {
    const source =
      (trainable.has(name) ? tensors.get(`ema/${name}`) : undefined) ??
      tensors.get(`model/${name}`);
    if (!source) {
      missing.push(name);
      continue;
    }
    const values = inflateTensor(name, source, variable.shape, inflation);
    if (!values) {
      throw new UserError(
        `tokenizer.init: "${name}" is [${source.shape.join(", ")}] in the checkpoint and [${variable.shape.join(", ")}] here`,
        inflation === "none"
          ? "set init.inflation to central, average or causal, or use the checkpoint's own tokenizer config"
          : "the two tokenizers must agree in everything but time: channels, blocks, patches and quantizer",
      );
    }
    const tensor = tf.tensor(values, variable.shape);
    variable.assign(tensor);
    tensor.dispose();
    taken += 1;
  }
  if (taken === 0) {
    throw new UserError(
      "tokenizer.init: the checkpoint holds no variable of this tokenizer",
      "give the checkpoint of a tokenizer stage, of a tokenizer with the same kind of network",
    );
  }
  return missing;
}
