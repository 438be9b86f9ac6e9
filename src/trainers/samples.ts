/**
 * @file Pictures and clips to look at: held-out clips beside their reconstructions after the
 * tokenizer's stage, generated clips after the transformer's. They go into samples/ and TensorBoard.
 */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../config/errors.ts";
import { contactSheet, encodePng, type Frames, writeContactSheet } from "../data/image.ts";
import { stack } from "../data/loader.ts";
import { playable } from "../data/playable.ts";
import { type Sound, writeGif, writeMp4 } from "../data/video.ts";
import { clipGenerator } from "../eval/generation.ts";
import type { Objective, TaskMixture } from "../objectives/objective.ts";
import { writeFileAtomic } from "../runtime/files.ts";
import { type HostTensor, uint8 } from "../runtime/tensors.ts";
import { hostReconstructor } from "../tokenizers/host.ts";
import type { ClipShape, Tokenizer } from "../tokenizers/tokenizer.ts";
import type { RunContext } from "./context.ts";
import { EventWriter } from "./logging/tensorboard.ts";
import { heldOutRows } from "./tokenizer-stage.ts";

/** Frames of a clip in a picture, evenly spaced. */
const COLUMNS = 8;
/** White pixels between two pictures. */
const GAP = 2;
/** Small clips are enlarged by a whole factor up to about this many pixels a side. */
const SIDE = 128;

interface Named {
  /** File name without extension. */
  readonly name: string;
  readonly caption: string;
  /** Clips that stand side by side: [T, H, W, 3] each. */
  readonly clips: readonly Uint8Array[];
  /** Sound that was made, for the film. */
  readonly audio?: Float32Array;
}

/**
 * Write reconstruction-<i>: an original beside its reconstruction.
 * @param step the tokenizer's last step
 */
export async function reconstructionSamples(
  run: RunContext,
  tokenizer: Tokenizer,
  count: number,
  step: number,
): Promise<void> {
  const done = join(run.dir, "samples", "reconstruction.png");
  const dataset = await run.dataset("validation");
  const shown = Math.min(count, dataset.size);
  if (existsSync(done) || shown === 0 || tokenizer.modality === "audio") {
    return;
  }
  const rows = Array.from(heldOutRows(dataset.size, shown, 0));
  const batch = stack(await Promise.all(rows.map((row) => dataset.get(row, 0))));
  const { frames, height, width } = tokenizer.clip;
  const reconstruct = hostReconstructor(run.device, tokenizer, "samples-reconstruct");
  const clips = uint8([shown, frames, height, width, 3], batch.clips);
  const decoded = toClips(await reconstruct(clips));
  const originals = toClips(clips);
  const samples = rows.map((_, i) => ({
    name: `reconstruction-${String(i).padStart(2, "0")}`,
    caption: batch.captions[i]!,
    clips: [originals[i]!, decoded[i]!],
  }));
  await writeSamples(run, tokenizer.clip, dataset.fps, samples, "tokenizer", step);
  await writeSheet(done, samples, tokenizer.clip);
}

/**
 * Write generated-<i>-<class>: new clips, classes taken in turn. A transformer with tasks does each in
 * turn on held-out clips, and files show what it was given, what it made, and the original.
 * @param step the transformer's last step
 */
export async function generationSamples(
  run: RunContext,
  { tokenizer, objective }: { readonly tokenizer: Tokenizer; readonly objective: Objective },
  count: number,
  step: number,
): Promise<void> {
  const done = join(run.dir, "samples", "generated.png");
  if (existsSync(done) || count === 0) {
    return;
  }
  if (objective.tasks !== undefined) {
    const samples = await taskSamples(run, { tokenizer, objective }, objective.tasks, count);
    const { fps } = await run.dataset("validation");
    await writeSamples(run, tokenizer.clip, fps, samples, "transformer", step);
    await writeSheet(done, samples, tokenizer.clip);
    return;
  }
  const { classes, fps } = await run.dataset("validation");
  const labels = Int32Array.from({ length: count }, (_, i) =>
    classes.length > 0
      ? Math.floor((i * Math.max(classes.length, count)) / count) % classes.length
      : -1,
  );
  const clips = await generateClips(run, { tokenizer, objective }, labels, run.seed);
  const samples = clips.map((clip, i) => {
    const label = classes[labels[i]!];
    const suffix = label === undefined ? "" : `-${label.replace(/[^A-Za-z0-9]+/g, "-")}`;
    return {
      name: `generated-${String(i).padStart(2, "0")}${suffix}`,
      caption: label ?? "",
      clips: [clip],
    };
  });
  await writeSamples(run, tokenizer.clip, fps, samples, "transformer", step);
  await writeSheet(done, samples, tokenizer.clip);
}

/** Each task in turn on held-out clips. */
async function taskSamples(
  run: RunContext,
  networks: { readonly tokenizer: Tokenizer; readonly objective: Objective },
  tasks: TaskMixture,
  count: number,
): Promise<Named[]> {
  const { tokenizer, objective } = networks;
  const dataset = await run.dataset("validation");
  const rows = Array.from(heldOutRows(dataset.size, Math.min(count, dataset.size), 0));
  const sources = await Promise.all(rows.map((row) => dataset.get(row, 0)));
  const generate = clipGenerator(run.device, tokenizer, objective);
  const samples: Named[] = [];
  for (const [index, task] of tasks.names.entries()) {
    const own = [...sources.keys()].filter((i) => i % tasks.names.length === index);
    if (own.length === 0) {
      continue;
    }
    const made = await generate({ task, sources: own.map((i) => sources[i]!), seed: run.seed });
    for (const [k, i] of own.entries()) {
      const clip = made.clips?.[k];
      const still = clip && stretched(clip, tokenizer.clip);
      samples.push({
        name: `generated-${String(i).padStart(2, "0")}-${task}`,
        caption: `${task}: ${sources[i]!.caption} (${[
          ...(made.shown ? ["given"] : []),
          ...(still ? ["made"] : []),
          "original",
          ...(made.audio ? ["sound made"] : []),
        ].join(" | ")})`,
        clips: [
          ...(made.shown ? [made.shown[k]!] : []),
          ...(still ? [still] : []),
          sources[i]!.clip,
        ],
        ...(made.audio && { audio: made.audio[k]! }),
      });
    }
  }
  return samples.toSorted((a, b) => (a.name < b.name ? -1 : 1));
}

/** An image as a clip that stands still. */
function stretched(clip: Uint8Array, { frames, height, width }: ClipShape): Uint8Array {
  if (clip.length === frames * height * width * 3) {
    return clip;
  }
  const still = new Uint8Array(frames * height * width * 3);
  for (let t = 0; t < frames; t++) {
    still.set(clip, t * clip.length);
  }
  return still;
}

/**
 * New clips from a trained run, by class.
 * @param labels one class a clip; -1 without classes
 * @returns a clip [T, H, W, 3] for each label
 */
export async function generateClips(
  run: Pick<RunContext, "device">,
  { tokenizer, objective }: { readonly tokenizer: Tokenizer; readonly objective: Objective },
  labels: Int32Array,
  seed: number,
): Promise<readonly Uint8Array[]> {
  const generate = clipGenerator(run.device, tokenizer, objective);
  const sources = Array.from(labels, (label) => ({ label }));
  return (await generate({ sources, seed })).clips!;
}

/**
 * Clips as bytes.
 * @param pixels [B, T, H, W, 3]: float32 in about [-1, 1], clipped, or uint8 as they are
 */
function toClips(pixels: HostTensor): Uint8Array[] {
  const [count = 0] = pixels.shape;
  const length = pixels.data.length / count;
  const bytes =
    pixels.data instanceof Uint8Array
      ? pixels.data
      : Uint8ClampedArray.from(pixels.data, (value) => (value + 1) * 127.5); // rounds and clips
  return Array.from({ length: count }, (_, i) =>
    Uint8Array.from(bytes.subarray(i * length, (i + 1) * length)),
  );
}

async function writeSamples(
  run: RunContext,
  shape: ClipShape,
  fps: number,
  samples: readonly Named[],
  stage: "tokenizer" | "transformer",
  step: number,
): Promise<void> {
  const board = new EventWriter(join(run.dir, "tensorboard", stage), step);
  const captions = samples.map(({ name, caption }) => [name, caption] as const);
  // Read by the report: names of files say little of what was asked for.
  writeFileAtomic(
    join(run.dir, "samples", `${stage}-captions.json`),
    `${JSON.stringify(Object.fromEntries(captions), null, 2)}\n`,
  );
  for (const { name, caption, clips, audio } of samples) {
    const sheet = contactSheet(toFrames(clips, shape), { columns: COLUMNS });
    const png = await encodePng(sheet.data, sheet.width, sheet.height);
    board.image(step, `samples/${name}`, { width: sheet.width, height: sheet.height, png });
    if (caption !== "") {
      board.text(step, `samples/${name}`, caption);
    }
    if (shape.frames > 1) {
      // Sound lasts as long as the film, so its rate follows from its length.
      const rate = Math.round(((audio?.length ?? 0) * fps) / shape.frames);
      const sound = audio && playable({ samples: audio, rate });
      await writeFilm(run, join(run.dir, "samples", name), sideBySide(clips, shape), fps, sound);
    }
  }
}

/** An MP4, or a GIF where there is no encoder. */
async function writeFilm(
  run: RunContext,
  path: string,
  film: Frames,
  fps: number,
  sound?: Sound,
): Promise<void> {
  try {
    await writeMp4(`${path}.mp4`, film, fps, sound);
  } catch (error) {
    if (!(error instanceof UserError)) {
      throw error;
    }
    run.warn(`${error.message}; samples become GIF files`);
    await writeGif(`${path}.gif`, film, fps);
  }
}

/** One picture of all samples. It is written last and so says that all others are there. */
function writeSheet(path: string, samples: readonly Named[], shape: ClipShape): Promise<void> {
  const rows = samples.flatMap(({ clips }) => toFrames(clips, shape));
  return writeContactSheet(path, rows, { columns: COLUMNS });
}

function toFrames(clips: readonly Uint8Array[], { frames, height, width }: ClipShape): Frames[] {
  return clips.map((data) => ({ data, frames, height, width }));
}

/** Clips beside each other, enlarged by a whole factor so that small ones can be seen. */
function sideBySide(clips: readonly Uint8Array[], { frames, height, width }: ClipShape): Frames {
  const scale = Math.max(1, Math.floor(SIDE / Math.max(height, width)));
  const outWidth = (clips.length * (width + GAP) - GAP) * scale;
  const outHeight = height * scale;
  const data = new Uint8Array(frames * outHeight * outWidth * 3).fill(255);
  for (const [i, clip] of clips.entries()) {
    const left = i * (width + GAP) * scale;
    for (let t = 0; t < frames; t++) {
      for (let y = 0; y < outHeight; y++) {
        for (let x = 0; x < width * scale; x++) {
          const from = ((t * height + Math.floor(y / scale)) * width + Math.floor(x / scale)) * 3;
          const to = ((t * outHeight + y) * outWidth + left + x) * 3;
          data[to] = clip[from]!;
          data[to + 1] = clip[from + 1]!;
          data[to + 2] = clip[from + 2]!;
        }
      }
    }
  }
  return { data, frames, height: outHeight, width: outWidth };
}
