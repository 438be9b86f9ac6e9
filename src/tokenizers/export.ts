/**
 * @file Our tokenizers as ONNX files: encoder.onnx (clips to ids and codes), decoder.onnx (ids to clips)
 * and the config that reads them back as an external tokenizer (onnx.ts).
 */

import type * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import { exportOnnx } from "../runtime/onnx/export.ts";
import type { OnnxConfig } from "./onnx.ts";
import type { Tokenizer } from "./tokenizer.ts";

export interface ExportedTokenizer {
  readonly encoder: Uint8Array;
  readonly decoder: Uint8Array;
  /** Without the files' paths. */
  readonly config: Omit<OnnxConfig, "encoder" | "decoder">;
}

/**
 * Both networks with their present weights. The compiled cpu device must be active.
 * @param batch clips that the files take at a time
 */
export function exportTokenizer(tokenizer: Tokenizer, batch: number): ExportedTokenizer {
  if (tokenizer.external || tokenizer.modality === "audio" || tokenizer.continuous) {
    throw new UserError(
      tokenizer.external
        ? "this tokenizer is external already"
        : "tokenizers of sound and of continuous latents are not exported",
      "export a tokenizer of clips with discrete tokens",
    );
  }
  const { frames, height, width } = tokenizer.clip;
  const { grid, factors } = tokenizer;
  const encoder = exportOnnx(
    "encoder",
    ({ clips }) => {
      const { ids, codes } = tokenizer.encode(clips as tf.Tensor5D);
      return { ids, codes };
    },
    [{ name: "clips", shape: [batch, frames, height, width, 3], dtype: "float32" }],
  );
  const decoder = exportOnnx(
    "decoder",
    ({ ids }) => ({ pixels: tokenizer.decode(tokenizer.lookup(ids as tf.Tensor5D)) }),
    [{ name: "ids", shape: [batch, ...grid, factors.length], dtype: "int32" }],
  );
  return {
    encoder,
    decoder,
    config: {
      type: "onnx",
      grid: [...grid],
      factors: [...factors],
      causal: tokenizer.causal,
      layout: "BTHWC",
      range: [-1, 1],
      ids_layout: "channels-last",
      batch,
      encoder_ids: "output0",
      encoder_codes: "output1",
      code_width: tokenizer.width,
    },
  };
}
