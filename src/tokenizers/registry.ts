/** @file The tokenizers by name. */

import { UserError } from "../config/errors.ts";
import { component, type Static } from "../config/schema.ts";
import type { Scope } from "../models/scope.ts";
import type { Problem } from "./cnn.ts";
import * as magvit from "./magvit.ts";
import * as magvit2 from "./magvit2.ts";
import type { ClipShape, Tokenizer } from "./tokenizer.ts";

export type { Problem } from "./cnn.ts";

export const tokenizers = { magvit, magvit2 } as const;

export const tokenizerSchema = component(
  "tokenizers",
  tokenizers,
  "How clips become tokens and tokens become clips.",
);

export type TokenizerConfig = Static<typeof tokenizerSchema>;

/** Everything about a valid config that does not fit together or does not fit the clips. */
export function checkTokenizer(config: TokenizerConfig, clip: ClipShape): Problem[] {
  return config.type === "magvit" ? magvit.check(config, clip) : magvit2.check(config, clip);
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
  return config.type === "magvit"
    ? magvit.build(config, clip, scope)
    : magvit2.build(config, clip, scope);
}
