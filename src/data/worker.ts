/** @file The tasks of the worker threads (see pool.ts). Pixels and sound are moved, not copied. */

import { Tinypool } from "tinypool";
import type { Sample } from "./dataset.ts";
import type { ClipTask, DecodedClip } from "./decode.ts";
import type { Probed, ProbeTask } from "./probe.ts";
import type { SoundLook } from "./sound.ts";
import { type RenderTask, renderSample } from "./shapes/sample.ts";

/** One clip of `moving-shapes`. */
export function render(task: RenderTask): Sample {
  return moved(renderSample(task));
}

/** What is in a media file. */
export async function probe(task: ProbeTask): Promise<Probed> {
  const [{ loadAv }, { probePixels, probeSource }] = await Promise.all([
    import("./av.ts"),
    import("./probe.ts"),
  ]);
  const { source } = task;
  return source.kind === "pixels" ? probePixels(source) : probeSource(await loadAv(), task);
}

/** One clip of a media file, or why there is none. */
export async function decode(task: ClipTask): Promise<DecodedClip | { readonly problem: string }> {
  const [{ loadAv }, { copyClip, decodeClip, needsNoFfmpeg }, { MediaError }] = await Promise.all([
    import("./av.ts"),
    import("./decode.ts"),
    import("./probe.ts"),
  ]);
  try {
    return moved(needsNoFfmpeg(task) ? copyClip(task) : decodeClip(await loadAv(), task));
  } catch (error) {
    if (error instanceof MediaError) {
      return { problem: error.message };
    }
    throw error;
  }
}

/** Close the videos that this thread keeps open. A thread that ends need not. */
export async function closeFiles(): Promise<void> {
  const { closeVideos } = await import("./open-video.ts");
  closeVideos();
}

/** How long a file's sound is. */
export async function lookSound({ file }: { readonly file: string }): Promise<SoundLook> {
  const [{ loadAv }, { lookAtSound }] = await Promise.all([
    import("./av.ts"),
    import("./sound.ts"),
  ]);
  return lookAtSound(await loadAv(), { kind: "media", file });
}

/** A span of a file's sound, counted from its beginning. */
export async function readSound(task: {
  readonly file: string;
  readonly start: number;
  readonly samples: number;
  readonly rate: number;
}): Promise<{ readonly audio: Float32Array } | { readonly problem: string }> {
  const [{ loadAv }, { decodeSound, lookAtSound }, { MediaError }] = await Promise.all([
    import("./av.ts"),
    import("./sound.ts"),
    import("./probe.ts"),
  ]);
  const av = await loadAv();
  const source = { kind: "media", file: task.file } as const;
  let begin = begins.get(task.file);
  if (begin === undefined) {
    begin = lookAtSound(av, source).begin ?? 0;
    begins.set(task.file, begin);
  }
  try {
    const { start, samples, rate } = task;
    return { audio: decodeSound(av, source, { start: start + begin, samples, rate, begin }) };
  } catch (error) {
    if (error instanceof MediaError) {
      return { problem: error.message };
    }
    throw error;
  }
}

/** When the sound of a file begins on its own clock. */
const begins = new Map<string, number>();

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
