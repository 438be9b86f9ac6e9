/** @file The quantizers by name. */

import { component, type Static } from "../../config/schema.ts";
import type { Scope } from "../../models/scope.ts";
import * as lfq from "./lfq.ts";
import type { Quantizer } from "./quantizer.ts";
import * as vq from "./vq.ts";

export const quantizers = { vq, lfq } as const;

export const quantizerSchema = component(
  "quantizers",
  quantizers,
  "How latents become tokens: a learned codebook (vq) or signs (lfq).",
);

export type QuantizerConfig = Static<typeof quantizerSchema>;

/** Builds the quantizer that `config.type` names, with its variables (if any) in `scope`. */
export function buildQuantizer(config: QuantizerConfig, scope: Scope): Quantizer {
  return config.type === "vq" ? vq.build(config, scope) : lfq.build(config);
}
