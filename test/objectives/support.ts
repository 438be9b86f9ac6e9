/** @file Small transformers for the tests of models and objectives. */

import type { TokenizerConfig } from "../../src/tokenizers/registry.ts";
import * as tf from "@tensorflow/tfjs-core";
import type { TransformerConfig } from "../../src/models/transformer.ts";
import type { HostTensors } from "../../src/runtime/tensors.ts";
import type { CausalSampling } from "../../src/objectives/causal-sampler.ts";
import type { MaskedSampling } from "../../src/objectives/masked-sampler.ts";
import type { MaskedConfig } from "../../src/objectives/masked.ts";
import type { TokenBatch, TokenSpace } from "../../src/objectives/objective.ts";
import type { Scope } from "../../src/models/scope.ts";
import { Random } from "../../src/runtime/random.ts";

export const tinyModel: TransformerConfig = {
  type: "transformer",
  width: 16,
  depth: 2,
  heads: 2,
  mlp_ratio: 2,
  positions: "learned",
  tie_weights: true,
};

export const maskedSampling: MaskedSampling = {
  steps: 4,
  schedule: "cosine",
  order: "confidence",
  choice_temperature: 1,
  temperature: 1,
  top_k: 0,
  top_p: 1,
  guidance: 1,
  guidance_schedule: "constant",
  guidance_power: 4,
};

/** The keys of a masked objective that is MaskGIT by class, besides its masks and sampling. */
export const withoutTasks = {
  tasks: [],
  conditioning: "commit",
  condition_frames: 1,
  prompts: "each",
  refine_weight: 1,
  mask_weight: 1,
  reconstruct_weight: 0,
} satisfies Partial<MaskedConfig>;

export const causalSampling: CausalSampling = {
  cache: true,
  temperature: 1,
  top_k: 0,
  top_p: 1,
  guidance: 1,
  guidance_schedule: "constant",
  guidance_power: 4,
};

/** Host tensors as TensorFlow.js tensors, uint8 as int32. */
export function toTensors(inputs: HostTensors): { [name: string]: tf.Tensor } {
  return Object.fromEntries(
    Object.entries(inputs).map(([name, { data, shape, dtype }]) => [
      name,
      tf.tensor(data, [...shape], dtype === "uint8" ? "int32" : dtype),
    ]),
  );
}

/** Add noise to every variable: initial biases are 0, and small weights hide mistakes. */
export function shake(scope: Scope, amount = 0.3): void {
  for (const [name, variable] of scope.variables()) {
    const noise = new Random(9, name).normals(variable.size).map((x) => amount * x);
    variable.assign(tf.add(variable, tf.tensor(noise, variable.shape)));
  }
}

/** Random tokens of a space. */
export function randomBatch(space: TokenSpace, size: number, seed: number): TokenBatch {
  const random = new Random(seed, "batch");
  const { factors, grid, classes } = space;
  const count = size * grid[0] * grid[1] * grid[2] * factors.length;
  return {
    ids: Int32Array.from({ length: count }, (_, i) => random.int(factors[i % factors.length]!)),
    labels: Int32Array.from({ length: size }, () => (classes ? random.int(classes) : -1)),
    size,
  };
}

/** A tokenizer of linear patches without quantization: pixels as they are, in `width` numbers a patch. */
export const linearPatches = (width: number): Extract<TokenizerConfig, { type: "patches" }> => ({
  type: "patches",
  patch_size: 4,
  temporal_patch_size: 1,
  linear: true,
  l1_weight: 0,
  l2_weight: 1,
  image_share: 0,
  quantizer: { type: "none", width, kl_weight: 0 },
});

/** The one value of a scalar. */
export const item = (x: tf.Tensor): number => x.dataSync()[0]!;
