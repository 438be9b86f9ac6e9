/**
 * @file How a language model reads text: as words of the captions, as tokens of byte-pair encoding, or as
 * the vectors of a frozen text encoder, which a learned linear map takes to the model's width (VideoPoet,
 * Kondratyuk et al. 2024, §3.1, with T5 XL).
 */

import { UserError } from "../../config/errors.ts";
import { closed, type Static, Type } from "../../config/schema.ts";
import type { Bpe } from "../../tokenizers/text/bpe.ts";
import type { TextTokenizer } from "./words.ts";

export const textSchema = closed(
  {
    as: Type.Union(
      [Type.Literal("words"), Type.Literal("bpe"), Type.Literal("file"), Type.Literal("encoder")],
      {
        default: "words",
        description:
          "words: the words of the training captions; bpe: byte-level byte-pair encoding learned from them; file: a Hugging Face tokenizer.json; encoder: vectors of a frozen text encoder.",
      },
    ),
    size: Type.Integer({
      minimum: 256,
      default: 512,
      description: "bpe and our own encoder: tokens of the vocabulary, bytes included.",
    }),
    file: Type.Union([Type.String({ minLength: 1 }), Type.Null()], {
      default: null,
      description: "file: path of the tokenizer.json (byte-level BPE).",
    }),
    folder: Type.Union([Type.String({ minLength: 1 }), Type.Null()], {
      default: null,
      description:
        "encoder: a local folder with a T5 or CLIP text encoder as @huggingface/transformers reads it (ONNX); null trains a small encoder of our own on the captions.",
    }),
    width: Type.Integer({
      minimum: 8,
      default: 64,
      description: "Our own encoder: width of its vectors.",
    }),
    depth: Type.Integer({ minimum: 1, default: 2, description: "Our own encoder: blocks." }),
    heads: Type.Integer({
      minimum: 1,
      default: 4,
      description: "Our own encoder: attention heads of a block; must divide the width.",
    }),
    steps: Type.Integer({
      minimum: 0,
      default: 400,
      description: "Our own encoder: steps of masked-word training on the captions.",
    }),
  },
  { description: "How text is read; as words when left out." },
);

export type TextConfig = Static<typeof textSchema>;

/** Faults of a config, in the words of the config. */
export function checkText({
  as,
  file,
  width,
  heads,
}: TextConfig): { path: string; message: string; hint: string }[] {
  if (as === "file" && file === null) {
    return [
      {
        path: "file",
        message: "no tokenizer.json is named",
        hint: "give its path, or use `as: bpe`",
      },
    ];
  }
  return as === "encoder" && width % heads !== 0
    ? [
        {
          path: "heads",
          message: `${heads} heads do not divide the width ${width}`,
          hint: "change heads or width",
        },
      ]
    : [];
}

/** Byte-pair encoding as a language model takes it. */
export function bpeTokenizer(bpe: Bpe): TextTokenizer {
  return {
    size: bpe.size,
    encode(text, limit) {
      const ids = bpe.encode(text);
      if (ids.length > limit) {
        throw new UserError(
          `the text has ${ids.length} tokens, the model takes at most ${limit}`,
          "shorten it, or train with a larger objective.text_length",
        );
      }
      return ids;
    },
    decode: (ids) => bpe.decode(ids),
  };
}

/** A frozen text encoder. */
export interface TextEncoder {
  readonly width: number;
  /** The vectors [n, width] of a text, one a token. */
  embed(text: string): Promise<Float32Array>;
}

/**
 * A text encoder as a language model takes it: ids are rows of a table of all texts embedded so far.
 * @param open called when the first new text comes
 */
export function vectorTokenizer(
  width: number,
  open: () => Promise<TextEncoder>,
): TextTokenizer & { readonly vectors: NonNullable<TextTokenizer["vectors"]> } {
  const known = new Map<string, Int32Array>();
  const table: Float32Array[] = [];
  let opened: Promise<TextEncoder> | undefined;
  return {
    // All texts share one id of the vocabulary: what a slot holds, its vector says.
    size: 1,
    encode(text, limit) {
      const ids = known.get(text);
      if (!ids) {
        throw new RangeError(`the text ${JSON.stringify(text)} has not been embedded`);
      }
      if (ids.length > limit) {
        throw new UserError(
          `the text has ${ids.length} tokens, the model takes at most ${limit}`,
          "shorten it, or train with a larger objective.text_length",
        );
      }
      return ids;
    },
    decode(ids) {
      const found = [...known].find(([, rows]) => rows[0] === ids[0] && ids.length > 0);
      return found?.[0] ?? "";
    },
    vectors: {
      width,
      async prepare(texts) {
        for (const text of texts) {
          if (known.has(text)) {
            continue;
          }
          const encoder = await (opened ??= open());
          const made = await encoder.embed(text);
          const count = made.length / width;
          known.set(
            text,
            Int32Array.from({ length: count }, (_, i) => table.length + i),
          );
          for (let i = 0; i < count; i++) {
            table.push(standardised(made.subarray(i * width, (i + 1) * width)));
          }
        }
      },
      rows(ids) {
        const out = new Float32Array(ids.length * width);
        for (let i = 0; i < ids.length; i++) {
          if (ids[i]! >= 0) {
            out.set(table[ids[i]!]!, i * width);
          }
        }
        return out;
      },
    },
  };
}

/** A vector with mean 0 and variance 1: encoders differ in scale by orders of magnitude. */
function standardised(values: Float32Array): Float32Array {
  const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
  const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length;
  return values.map((v) => (v - mean) / Math.sqrt(variance + 1e-12));
}
