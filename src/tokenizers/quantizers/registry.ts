/** @file The quantizers by name. */

import { component, type Static } from "../../config/schema.ts";
import type { Scope } from "../../models/scope.ts";
import * as bsq from "./bsq.ts";
import * as fsq from "./fsq.ts";
import * as gumbel from "./gumbel.ts";
import * as ibq from "./ibq.ts";
import * as lfq from "./lfq.ts";
import * as none from "./none.ts";
import type { Quantizer } from "./quantizer.ts";
import * as rvq from "./rvq.ts";
import * as spae from "./spae.ts";
import * as vq from "./vq.ts";

export const quantizers = { vq, lfq, bsq, fsq, rvq, gumbel, ibq, spae, none } as const;

export const quantizerSchema = component(
  "quantizers",
  quantizers,
  "How latents become tokens: learned codebooks (vq, rvq, gumbel, ibq), signs (lfq, bsq), rounding (fsq), a pyramid of words (spae), or not at all (none).",
);

export type QuantizerConfig = Static<typeof quantizerSchema>;

/** Builds the quantizer that `config.type` names, with its variables (if any) in `scope`. */
export function buildQuantizer(config: QuantizerConfig, scope: Scope): Quantizer {
  switch (config.type) {
    case "vq":
      return vq.build(config, scope);
    case "lfq":
      return lfq.build(config);
    case "bsq":
      return bsq.build(config);
    case "fsq":
      return fsq.build(config);
    case "rvq":
      return rvq.build(config, scope);
    case "gumbel":
      return gumbel.build(config, scope);
    case "ibq":
      return ibq.build(config, scope);
    case "spae":
      return spae.build(config, scope);
    case "none":
      return none.build(config);
  }
}
