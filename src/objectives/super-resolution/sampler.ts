/**
 * @file Sampling of super-resolution: small tokens from a caption by one of the generators (or given, or
 * partly given), then large tokens from them, both by parallel decoding.
 *
 * Two scales guide (Brooks et al. 2023, "InstructPix2Pix", eq. 3, with the small clip as the picture):
 * logits = l(∅, ∅) + s_low (l(low, ∅) − l(∅, ∅)) + s_text (l(low, text) − l(low, ∅)). Passes whose weight
 * is 0 are not made.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../../config/errors.ts";
import type { Beside, WindowTransformer } from "../../models/window-transformer.ts";
import type { Device } from "../../runtime/device.ts";
import { int32 } from "../../runtime/tensors.ts";
import { decide, type DecodingConfig, emptyCanvas, parallelDecoder } from "../parallel-decoding.ts";
import { draw, type DrawConfig } from "../sampling.ts";

type Sampling = DecodingConfig &
  Pick<DrawConfig, "temperature" | "top_k" | "top_p"> & {
    readonly low_guidance: number;
    readonly text_guidance: number;
    readonly generator_steps: number;
  };

export interface SmallRequest {
  /** Which generator. */
  readonly generator: number;
  /** [B, L] word ids, -1 behind the ends; all -1 for none. */
  readonly texts: Int32Array;
  readonly size: number;
  readonly seed: number;
  /** Tokens that are given: [B, M, F] and which of them, [B, M]. */
  readonly condition?: { readonly ids: Int32Array; readonly known: Uint8Array };
  readonly onProgress?: (done: number, total: number) => void;
}

export interface LargeRequest {
  /** [B, M, F] sub-ids of the small clips. */
  readonly low: Int32Array;
  readonly texts: Int32Array;
  readonly size: number;
  readonly seed: number;
  readonly onProgress?: (done: number, total: number) => void;
}

export interface Cascade {
  /** [B, M, F] sub-ids of small clips. */
  small(request: SmallRequest): Promise<Int32Array>;
  /** [B, N, F] sub-ids of large clips. */
  large(request: LargeRequest): Promise<Int32Array>;
}

/** A pass of the network: what it is shown, and its weight in the sum. */
interface Pass {
  readonly low: boolean;
  readonly text: boolean;
  readonly weight: number;
}

/** The passes of two scales whose weights are not 0; at least one. */
export function guidancePasses(lowScale: number, textScale: number, text: boolean): Pass[] {
  const all: Pass[] = text
    ? [
        { low: true, text: true, weight: textScale },
        { low: true, text: false, weight: lowScale - textScale },
        { low: false, text: false, weight: 1 - lowScale },
      ]
    : [
        { low: true, text: false, weight: lowScale },
        { low: false, text: false, weight: 1 - lowScale },
      ];
  // With both scales equal to 1 the first pass alone is left.
  return all.filter(({ weight }) => Math.abs(weight) > 1e-12);
}

/** Functions over trained networks; each is compiled once for a number of samples. */
export function buildCascade(
  device: Device,
  { sampling }: { readonly sampling: Sampling },
  {
    main,
    generators,
    text,
  }: {
    readonly main: WindowTransformer;
    readonly generators: readonly WindowTransformer[];
    readonly text: { readonly length: number } | undefined;
  },
): Cascade {
  const factors = main.space.factors.length;
  const ofLarge = guidancePasses(sampling.low_guidance, sampling.text_guidance, text !== undefined);
  const ofSmall = guidancePasses(1, sampling.text_guidance, text !== undefined);

  /** The decoding of a network, by guided logits. */
  const decoderOf = (name: string, network: WindowTransformer, passes: readonly Pass[]) =>
    parallelDecoder(device, name, sampling, (shown, uniforms, _, inputs) => {
      const [size] = shown.ids.shape;
      const flag = (key: "low" | "text") =>
        tf.tensor1d(
          passes.flatMap((pass) => Array<boolean>(size).fill(!pass[key])),
          "bool",
        );
      const again = <T extends tf.Tensor>(x: T): T =>
        tf.tile(x, [passes.length, ...Array<number>(x.rank - 1).fill(1)]) as T;
      const beside: Beside = {
        ...(inputs["low"] && {
          low: { ids: again(inputs["low"] as tf.Tensor3D), hidden: flag("low") },
        }),
        ...(inputs["texts"] && {
          text: { ids: again(inputs["texts"] as tf.Tensor2D), hidden: flag("text") },
        }),
      };
      const all = network.predict(again(shown.ids), again(shown.undecided), beside);
      const noise = tf.unstack(uniforms) as tf.Tensor1D[];
      const draws = all.map((logits, f) => {
        const parts = tf.split(logits, passes.length, 0);
        const sum = parts
          .map((part, i) => (passes[i]!.weight === 1 ? part : tf.mul(part, passes[i]!.weight)))
          .reduce((a, b) => tf.add(a, b));
        return draw(sum as tf.Tensor2D, noise[f]!, sampling);
      });
      return {
        ids: draws.map((each) => each.ids),
        logProbs: tf.addN(draws.map((each) => each.logProbs)), // [B·N]
      };
    });
  const enlarge = decoderOf("super/large", main, ofLarge);
  const make = generators.map((network, i) => decoderOf(`super/small${i}`, network, ofSmall));

  const textInput = (size: number, texts: Int32Array) =>
    text ? { texts: int32([size, text.length], texts) } : {};

  return {
    async small(request) {
      const { generator, size, texts, condition } = request;
      const network = generators[generator];
      if (network === undefined) {
        throw new UserError(
          `the run has ${generators.length} generators of small clips, so none is number ${generator}`,
          "train with objective.generators, or enlarge given clips",
        );
      }
      const canvas = emptyCanvas(size, network.space.grid, factors);
      for (let i = 0; condition && i < condition.known.length; i++) {
        if (condition.known[i]) {
          decide(canvas, i, condition.ids);
        }
      }
      return make[generator]!(canvas, {
        seed: request.seed,
        stream: "super/small",
        steps: sampling.generator_steps,
        beside: textInput(size, texts),
        ...(request.onProgress && { onProgress: request.onProgress }),
      });
    },
    async large(request) {
      const { size, low, texts } = request;
      const [t, h, w] = main.space.low!;
      const canvas = emptyCanvas(size, main.space.grid, factors);
      return enlarge(canvas, {
        seed: request.seed,
        stream: "super/large",
        steps: sampling.steps,
        beside: { low: int32([size, t * h * w, factors], low), ...textInput(size, texts) },
        ...(request.onProgress && { onProgress: request.onProgress }),
      });
    },
  };
}
