/** @file The tasks of the worker threads (see pool.ts). Pixels and sound are moved, not copied. */

import { Tinypool } from "tinypool";
import type { Sample } from "./dataset.ts";
import type { ClipTask, DecodedClip } from "./decode.ts";
import type { Probed, ProbeTask } from "./probe.ts";
import { type RenderTask, renderSample } from "./shapes/sample.ts";

/** One clip of `moving-shapes`. */
export function render(task: RenderTask): Sample {
  return moved(renderSample(task));
}

/** What is in a media file. */
export async function probe(task: ProbeTask): Promise<Probed> {
  const [{ loadAv }, { probeSource }] = await Promise.all([
    import("./av.ts"),
    import("./probe.ts"),
  ]);
  return probeSource(await loadAv(), task);
}

/** One clip of a media file, or why there is none. */
export async function decode(task: ClipTask): Promise<DecodedClip | { readonly problem: string }> {
  const [{ loadAv }, { decodeClip }, { MediaError }] = await Promise.all([
    import("./av.ts"),
    import("./decode.ts"),
    import("./probe.ts"),
  ]);
  try {
    return moved(decodeClip(await loadAv(), task));
  } catch (error) {
    if (error instanceof MediaError) {
      return { problem: error.message };
    }
    throw error;
  }
}

/** In a thread, mark a clip so that the pool transfers its buffers; else give it as it is. */
function moved<T extends { readonly clip: Uint8Array; readonly audio?: Float32Array }>(
  value: T,
): T {
  if (!Tinypool.isWorkerThread) {
    return value;
  }
  const buffers = [value.clip.buffer, ...(value.audio ? [value.audio.buffer] : [])];
  // The pool unwraps the object on the other side: its type is the clip's again.
  return Tinypool.move({
    [Tinypool.transferableSymbol]: buffers,
    [Tinypool.valueSymbol]: value,
  } as unknown as ArrayBuffer) as unknown as T;
}
