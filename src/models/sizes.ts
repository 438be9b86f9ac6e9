/** @file The sizes that every transformer has: one schema for all of `configs/models`. */

import { Type } from "../config/schema.ts";

/**
 * Config keys of a transformer's sizes.
 * @param what the positions are of, in the description of their embeddings
 * @param depth what a block is, where there is more to say
 */
export function sizeProperties(what: "token" | "latent", depth = "Number of blocks.") {
  return {
    width: Type.Integer({
      minimum: 1,
      default: 128,
      description: "Width D of the residual stream.",
    }),
    depth: Type.Integer({ minimum: 1, default: 4, description: depth }),
    heads: Type.Integer({
      minimum: 1,
      default: 4,
      description: "Attention heads of a block; must divide the width.",
    }),
    mlp_ratio: Type.Number({
      exclusiveMinimum: 0,
      default: 4,
      description: "Hidden width of the MLP as a multiple of the width; the product is rounded.",
    }),
    positions: Type.Union(
      [Type.Literal("learned"), Type.Literal("factorised"), Type.Literal("sinusoidal")],
      {
        default: "learned",
        description: `Position embeddings: one learned vector a ${what}; the sum of three learned vectors (frame, row, column); or fixed sinusoids of frame, row and column with a learned gain a channel.`,
      },
    ),
  };
}

/** Whether the output heads share the input embeddings, for transformers over ids. */
export const tieProperty = {
  tie_weights: Type.Boolean({
    default: true,
    description: "Output heads share their weights with the input embeddings.",
  }),
};
