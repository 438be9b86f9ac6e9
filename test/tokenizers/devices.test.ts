/** @file The compiled device gives a tokenizer the losses, ids and statistics of the reference. */

import * as tf from "@tensorflow/tfjs-core";
import { describe, expect, it } from "vitest";
import { Scope } from "../../src/models/scope.ts";
import { openDevice } from "../../src/runtime/registry.ts";
import { float32, type HostTensors } from "../../src/runtime/tensors.ts";
import { buildTokenizer, type TokenizerConfig } from "../../src/tokenizers/registry.ts";
import { lfqConfig, magvit2Config, magvitConfig, sym, vqConfig, worstError } from "./helpers.ts";

const ema = { ...vqConfig, groups: 2, learn: "ema", restart_below: 0.5 } as const;
const patched = {
  ...magvit2Config,
  channel_multipliers: [2],
  temporal_strides: [],
  spatial_strides: [],
  patch_size: 4,
  temporal_patch_size: 2,
  output_norm: false,
};
const anneal = { ...lfqConfig, bits: 6, entropy_group_bits: 4, entropy_anneal_factor: 3 };
const cases: readonly (readonly [string, TokenizerConfig])[] = [
  ["magvit2 with signs", { ...magvit2Config, quantizer: anneal }],
  ["magvit with a codebook learned by gradient", magvitConfig],
  ["patched magvit2 with averaged codebooks", { ...patched, quantizer: ema }],
];

/** Two training losses with their gradients (statistics move in between), then ids and states. */
async function trace(config: TokenizerConfig, type: "cpu" | "reference"): Promise<HostTensors> {
  const device = await openDevice({ type, threads: 1 });
  const frames = config.type === "magvit" ? 4 : 5;
  const tokenizer = buildTokenizer(config, { frames, height: 8, width: 8 }, Scope.root(1));
  const parameters = [...tokenizer.scope.trainable().values()];
  const train = device.compile("train", ({ clips, step }) => {
    const { value, grads } = tf.variableGrads(
      () => tokenizer.loss(clips as tf.Tensor5D, step as tf.Scalar, true).loss,
      parameters,
    );
    const norms = parameters.map((p) => tf.sum(tf.square(grads[p.name]!)) as tf.Scalar);
    return { loss: value, gradients: tf.stack(norms) };
  });
  const read = device.compile("read", ({ clips }) => {
    const { ids, codes } = tokenizer.encode(clips as tf.Tensor5D);
    const states = [...tokenizer.scope.states().values()].map((v) => tf.reshape(v, [-1]));
    const state = states.length > 0 ? tf.concat(states) : tf.scalar(0);
    return { ids: tf.cast(ids, "float32"), pixels: tokenizer.decode(codes), state };
  });
  const shape = [2, frames, 8, 8, 3];
  const clips = float32(shape, Float32Array.from(sym(9, 2 * frames * 192)));
  const first = await train({ clips, step: float32([], [0]) });
  const second = await train({ clips, step: float32([], [1]) });
  const { ids, pixels, state } = await read({ clips });
  device.dispose();
  return { ...second, first: first["loss"]!, ids: ids!, pixels: pixels!, state: state! };
}

describe("a tokenizer on the compiled device", () => {
  it.each(cases)("equals the reference: %s", async (_, config) => {
    const expected = await trace(config, "reference");
    const actual = await trace(config, "cpu");
    for (const [name, { data }] of Object.entries(expected)) {
      const scale = Math.max(1, ...Array.from(data, Math.abs));
      expect(worstError(actual[name]!.data, data) / scale).toBeLessThan(1e-3);
    }
  });
});
