/** @file The evaluation suites by `type`. A new one is a file with `schema` and `build`, and a line here. */

import { component, type Static } from "../config/schema.ts";
import * as audit from "./audit-suite.ts";
import * as clipsim from "./clipsim-suite.ts";
import * as codebook from "./codebook-suite.ts";
import * as compression from "./compression-suite.ts";
import * as consistency from "./consistency-suite.ts";
import * as efficiency from "./efficiency-suite.ts";
import * as factors from "./factors-suite.ts";
import * as fad from "./fad-suite.ts";
import * as fid from "./fid-suite.ts";
import * as frechet from "./frechet-suite.ts";
import * as fvd from "./fvd-suite.ts";
import * as heldOut from "./held-out-suite.ts";
import * as inContextGeneration from "./in-context-generation-suite.ts";
import * as inContext from "./in-context-suite.ts";
import * as inceptionScore from "./inception-score-suite.ts";
import * as leak from "./leak-suite.ts";
import * as pixelBaseline from "./pixel-baseline-suite.ts";
import * as probe from "./probe-suite.ts";
import * as pyramid from "./pyramid-suite.ts";
import * as rate from "./rate-suite.ts";
import * as recognition from "./recognition-suite.ts";
import * as reconstruction from "./reconstruction.ts";
import * as sound from "./sound-suite.ts";
import type { Suite } from "./suite.ts";
import * as superResolution from "./super-resolution-suite.ts";

export const suites = {
  reconstruction,
  codebook,
  rate,
  compression,
  frechet,
  fvd,
  factors,
  fid,
  "inception-score": inceptionScore,
  clipsim,
  fad,
  recognition,
  probe,
  "in-context": inContext,
  "held-out": heldOut,
  leak,
  "pixel-baseline": pixelBaseline,
  "in-context-generation": inContextGeneration,
  "super-resolution": superResolution,
  "token-consistency": consistency,
  pyramid,
  sound,
  efficiency,
  audit,
} as const;

export const suiteSchema = component("evals", suites, "What is measured at the end of a run.");

export type SuiteConfig = Static<typeof suiteSchema>;

/**
 * Build a suite.
 * @param name its key under `evals`: its scores are named `<name>/<quantity>`, so two suites of one
 *   type can stand side by side
 */
export function buildSuite(config: SuiteConfig, name: string = config.type): Suite {
  switch (config.type) {
    case "reconstruction":
      return reconstruction.build(config, name);
    case "codebook":
      return codebook.build(config, name);
    case "rate":
      return rate.build(config, name);
    case "compression":
      return compression.build(config, name);
    case "frechet":
      return frechet.build(config, name);
    case "fvd":
      return fvd.build(config, name);
    case "factors":
      return factors.build(config, name);
    case "fid":
      return fid.build(config, name);
    case "inception-score":
      return inceptionScore.build(config, name);
    case "clipsim":
      return clipsim.build(config, name);
    case "fad":
      return fad.build(config, name);
    case "recognition":
      return recognition.build(config, name);
    case "probe":
      return probe.build(config, name);
    case "held-out":
      return heldOut.build(config, name);
    case "pixel-baseline":
      return pixelBaseline.build(config, name);
    case "leak":
      return leak.build(config, name);
    case "in-context":
      return inContext.build(config, name);
    case "in-context-generation":
      return inContextGeneration.build(config, name);
    case "efficiency":
      return efficiency.build(config, name);
    case "audit":
      return audit.build(config, name);
    case "super-resolution":
      return superResolution.build(config, name);
    case "token-consistency":
      return consistency.build(config, name);
    case "pyramid":
      return pyramid.build(config, name);
    case "sound":
      return sound.build(config, name);
  }
}
