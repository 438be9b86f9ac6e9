/** @file The tokenizers by name. */

import { UserError } from "../config/errors.ts";
import { component, type Static } from "../config/schema.ts";
import type { Scope } from "../models/scope.ts";
import type { Problem } from "./cnn.ts";
import * as cvivit from "./cvivit.ts";
import * as magvit from "./magvit.ts";
import * as magvit2 from "./magvit2.ts";
import * as onnx from "./onnx.ts";
import * as patches from "./patches.ts";
import * as soundstream from "./soundstream.ts";
import type { ClipShape, Tokenizer } from "./tokenizer.ts";
import * as vqgan from "./vqgan.ts";

export type { Problem } from "./cnn.ts";

export const tokenizers = { magvit, magvit2, vqgan, cvivit, patches, soundstream, onnx } as const;

export const tokenizerSchema = component(
  "tokenizers",
  tokenizers,
  "How clips become tokens and tokens become clips.",
);

export type TokenizerConfig = Static<typeof tokenizerSchema>;

/** Everything about a valid config that does not fit together or does not fit the clips. */
export function checkTokenizer(config: TokenizerConfig, clip: ClipShape): Problem[] {
  const problems = checkType(config, clip);
  if (
    imageShare(config) > 0 &&
    checkType(config, { ...clip, frames: 1 }).length > problems.length
  ) {
    problems.push({
      path: "image_share",
      message: "this tokenizer does not take single frames, so it cannot learn from images as well",
      hint: "use a causal tokenizer (magvit2, cvivit, patches), or image_share=0",
    });
  }
  const side = "diffusion_decoder" in config ? (config.diffusion_decoder?.patch_size ?? 1) : 1;
  if (clip.height % side !== 0 || clip.width % side !== 0) {
    problems.push({
      path: "diffusion_decoder.patch_size",
      message: `blocks of ${side} do not fit clips of ${clip.height}×${clip.width}`,
      hint: "use a patch_size that divides both sides",
    });
  }
  return problems;
}

const imageShare = (config: TokenizerConfig): number =>
  "image_share" in config ? config.image_share : 0;

function checkType(config: TokenizerConfig, clip: ClipShape): Problem[] {
  switch (config.type) {
    case "magvit":
      return magvit.check(config, clip);
    case "magvit2":
      return magvit2.check(config, clip);
    case "vqgan":
      return vqgan.check(config, clip);
    case "cvivit":
      return cvivit.check(config, clip);
    case "patches":
      return patches.check(config, clip);
    case "soundstream":
      return soundstream.check(config, clip);
    case "onnx":
      return onnx.check(config, clip);
  }
}

/**
 * Builds a tokenizer for clips of one shape, its variables in `scope`.
 * @throws UserError with all problems when the config does not fit the clips
 */
export function buildTokenizer(config: TokenizerConfig, clip: ClipShape, scope: Scope): Tokenizer {
  const problems = checkTokenizer(config, clip);
  if (problems.length > 0) {
    throw new UserError(
      problems.map(({ path, message }) => `tokenizer.${path}: ${message}`).join("\n"),
      problems.map(({ hint }) => hint).join("\n"),
    );
  }
  switch (config.type) {
    case "magvit":
      return magvit.build(config, clip, scope);
    case "magvit2":
      return magvit2.build(config, clip, scope);
    case "vqgan":
      return vqgan.build(config, clip, scope);
    case "cvivit":
      return cvivit.build(config, clip, scope);
    case "patches":
      return patches.build(config, clip, scope);
    case "soundstream":
      return soundstream.build(config, clip, scope);
    case "onnx":
      return onnx.build(config, clip, scope);
  }
}
