/** @file Sampling under fixed noise gives the same ids on every device that is here. */

import { describe, expect, test } from "vitest";
import { Scope } from "../../src/models/scope.ts";
import { buildTransformer, type TransformerConfig } from "../../src/models/transformer.ts";
import { buildCausalSampler, type CausalSampling } from "../../src/objectives/causal-sampler.ts";
import { buildMaskedSampler, type MaskedSampling } from "../../src/objectives/masked-sampler.ts";
import type { Device } from "../../src/runtime/device.ts";
import { device, TESTED } from "../runtime/harness.ts";

const MODEL: TransformerConfig = {
  type: "transformer",
  width: 32,
  depth: 2,
  heads: 2,
  mlp_ratio: 2,
  positions: "learned",
  tie_weights: true,
};
const SPACE = { grid: [2, 3, 3] as const, factors: [8, 4], classes: 3 };
const LABELS = Int32Array.from([0, 2, 1]);

const guidance = { guidance: 1.5, guidance_schedule: "constant", guidance_power: 1 } as const;
const MASKED: MaskedSampling = {
  ...guidance,
  steps: 4,
  schedule: "cosine",
  temperature: 1,
  top_k: 0,
  top_p: 1,
  choice_temperature: 2,
  order: "confidence",
};
const CAUSAL: CausalSampling = { ...guidance, cache: true, temperature: 1, top_k: 5, top_p: 1 };

async function sampled(on: Device, kind: "masked" | "causal"): Promise<number[]> {
  on.activate();
  const scope = Scope.root(7).child("t");
  const transformer = buildTransformer(MODEL, SPACE, { mask: kind === "masked" }, scope);
  const sample =
    kind === "masked"
      ? buildMaskedSampler(on, transformer, MASKED)
      : buildCausalSampler(on, transformer, CAUSAL);
  const ids = await sample({ labels: LABELS, seed: 11 });
  scope.dispose();
  return [...ids];
}

describe.each(["masked", "causal"] as const)("%s decoding", (kind) => {
  test.each(TESTED)("on %s", async (type) => {
    const want = await sampled(await device("reference"), kind);
    expect(new Set(want).size).toBeGreaterThan(3);
    expect(await sampled(await device(type), kind)).toEqual(want);
  });
});
