/** @file The tasks of the worker threads (see pool.ts). Pixels and sound are moved, not copied. */

import { Tinypool } from "tinypool";
import type { Sample } from "./dataset.ts";
import { type RenderTask, renderSample } from "./moving-shapes.ts";

/** One clip of `moving-shapes`. */
export function render(task: RenderTask): Sample {
  return moved(renderSample(task));
}

/** Mark a sample so that the pool transfers its buffers. */
function moved(sample: Sample): Sample {
  const buffers = [sample.clip.buffer, ...(sample.audio ? [sample.audio.buffer] : [])];
  // The pool unwraps the object on the other side: its type is the sample's again.
  return {
    [Tinypool.transferableSymbol]: buffers,
    [Tinypool.valueSymbol]: sample,
  } as unknown as Sample;
}
