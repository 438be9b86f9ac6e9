/** @file The vectors of a text encoder as inputs of the language model. */

import { float32, type HostTensors, int32 } from "../../runtime/tensors.ts";
import type { TextVectors } from "./words.ts";

/**
 * The vectors of a batch's texts as inputs of the model: a row of zeros, then each sample's.
 * @param texts [B, L] rows of the encoder's table, -1 pads
 * @param rows [B, S] what each slot reads
 */
export function vectorInputs(
  vectors: TextVectors,
  texts: Int32Array,
  size: number,
  rows: Int32Array,
): HostTensors {
  const { width } = vectors;
  const table = new Float32Array((texts.length + 1) * width);
  table.set(vectors.rows(texts), width);
  return {
    text_vectors: float32([texts.length + 1, width], table),
    text_rows: int32([size, rows.length / size], rows),
  };
}
