/**
 * @file The ten conditional tasks of MAGVIT (Yu et al. 2023, §3.2 and table 12): which pixels of a
 * clip are given, how the rest is padded, and which tokens therefore carry a condition.
 *
 * | task | given | padding |
 * | --- | --- | --- |
 * | FP, CFP | the first frames (CFP: and the class) | the last given frame repeated |
 * | FI | the first and the last frame | linear interpolation between them |
 * | OPC | a centred rectangle of half the sides | edge pixels repeated |
 * | OPV, OPH | a centred vertical, horizontal strip of half the width, height | edge pixels repeated |
 * | OPD | a vertical strip of half the width that moves left to right | zeros |
 * | IPC | all but a centred rectangle of half the sides | zeros |
 * | IPD | all but such a rectangle that moves left to right | zeros |
 * | CG | the class | - |
 *
 * Regions are laid out in whole tokens and move from one latent frame to the next, so that shares of
 * pixels and of tokens agree with the paper's table. A token is *inside* the condition when its block
 * of pixels holds a given one.
 */

import { type Static, Type } from "../config/schema.ts";

export const taskNames = [
  "FP",
  "FI",
  "OPC",
  "OPV",
  "OPH",
  "OPD",
  "IPC",
  "IPD",
  "CG",
  "CFP",
] as const;
export type TaskName = (typeof taskNames)[number];

/** One entry of a task mixture. */
export const taskEntrySchema = Type.Object(
  {
    task: Type.Enum([...taskNames], { description: "Name of the task, as in MAGVIT." }),
    weight: Type.Number({
      exclusiveMinimum: 0,
      default: 1,
      description: "How often it is drawn, relative to the other tasks.",
    }),
  },
  { additionalProperties: false, description: "A task of a mixture." },
);
export type TaskEntry = Static<typeof taskEntrySchema>;

/** What can be done to a clip before it is encoded as a condition. */
export type ClipVariant = TaskName | "flow";

/** The variant whose tokens a task is shown: FP and CFP show the same frames. */
export const variantOf = (task: TaskName): ClipVariant | undefined =>
  task === "CG" ? undefined : task === "CFP" ? "FP" : task;

/** The clips and tokens that tasks are laid out on. */
export interface ClipGeometry {
  readonly frames: number;
  readonly height: number;
  readonly width: number;
  /** Whether the first latent frame is the first frame alone, as with causal tokenizers. */
  readonly causal: boolean;
}

export interface TaskLayout {
  readonly clip: ClipGeometry;
  readonly grid: readonly [number, number, number];
  /** Frames that FP and CFP are given. */
  readonly conditionFrames: number;
}

/** Whether a task is told the class. */
export const usesClass = (task: TaskName): boolean => task === "CG" || task === "CFP";
/** Whether a task is given pixels. */
export const usesPixels = (task: TaskName): boolean => task !== "CG";

/** The latent frame of each frame: [T]. */
export function latentOfFrame({ clip, grid }: Pick<TaskLayout, "clip" | "grid">): Int32Array {
  const { frames, causal } = clip;
  const latents = grid[0];
  return Int32Array.from({ length: frames }, (_, frame) => {
    if (latents === 1) {
      return 0;
    }
    return causal
      ? Math.ceil((frame * (latents - 1)) / (frames - 1))
      : Math.floor((frame * latents) / frames);
  });
}

/** Rows or columns [start, end) in tokens. */
type Span = readonly [number, number];
interface Region {
  readonly rows: Span;
  readonly columns: Span;
}

/** The rectangle of a painting task in a latent frame, in tokens. */
function rectangle(task: TaskName, layout: TaskLayout, latent: number): Region {
  const [t, h, w] = layout.grid;
  const half = { rows: Math.max(1, Math.floor(h / 2)), columns: Math.max(1, Math.floor(w / 2)) };
  const centred = (side: number, extent: number): Span => {
    const start = Math.floor((side - extent) / 2);
    return [start, start + extent];
  };
  const moved = Math.round((w - half.columns) * (t > 1 ? latent / (t - 1) : 0));
  const moving: Span = [moved, moved + half.columns];
  switch (task) {
    case "OPV":
      return { rows: [0, h], columns: centred(w, half.columns) };
    case "OPH":
      return { rows: centred(h, half.rows), columns: [0, w] };
    case "OPD":
      return { rows: [0, h], columns: moving };
    case "IPD":
      return { rows: centred(h, half.rows), columns: moving };
    default:
      return { rows: centred(h, half.rows), columns: centred(w, half.columns) };
  }
}

const painting = { OPC: "in", OPV: "in", OPH: "in", OPD: "in", IPC: "out", IPD: "out" } as const;

/** Whether a painting task gives the inside or the outside of its rectangle; undefined for others. */
const givenSide = (task: TaskName): "in" | "out" | undefined =>
  (painting as { readonly [name in TaskName]?: "in" | "out" })[task];

const within = (at: number, [start, end]: Span): boolean => at >= start && at < end;

/** Which pixels a task is given: [T, H, W] of 0 and 1. */
export function conditionPixels(task: TaskName, layout: TaskLayout): Uint8Array {
  const { frames, height, width } = layout.clip;
  const [, h, w] = layout.grid;
  const given = new Uint8Array(frames * height * width);
  const latents = latentOfFrame(layout);
  const side = givenSide(task);
  for (let frame = 0; frame < frames; frame++) {
    const plane = given.subarray(frame * height * width, (frame + 1) * height * width);
    if (side === undefined) {
      plane.fill(Number(givesFrame(task, layout, frame)));
      continue;
    }
    const { rows, columns } = rectangle(task, layout, latents[frame]!);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const inside =
          within(Math.floor((y * h) / height), rows) &&
          within(Math.floor((x * w) / width), columns);
        plane[y * width + x] = Number(inside === (side === "in"));
      }
    }
  }
  return given;
}

/** Whether a task that gives whole frames gives this one. */
function givesFrame(task: TaskName, { clip, conditionFrames }: TaskLayout, frame: number): boolean {
  switch (task) {
    case "FP":
    case "CFP":
      return frame < conditionFrames;
    case "FI":
      return frame === 0 || frame === clip.frames - 1;
    default:
      return false;
  }
}

/** Which tokens hold a given pixel: [N] of 0 and 1, in (t, h, w) order. */
export function conditionTokens(task: TaskName, layout: TaskLayout): Uint8Array {
  const { frames, height, width } = layout.clip;
  const [t, h, w] = layout.grid;
  const pixels = conditionPixels(task, layout);
  const latents = latentOfFrame(layout);
  const inside = new Uint8Array(t * h * w);
  for (let frame = 0, i = 0; frame < frames; frame++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        if (pixels[i]) {
          const row = latents[frame]! * h + Math.floor((y * h) / height);
          inside[row * w + Math.floor((x * w) / width)] = 1;
        }
      }
    }
  }
  return inside;
}

/**
 * The clip as a task shows it: given pixels as they are, the others padded by the task's rule.
 * @param clip [T, H, W, C] bytes, C of any size; not changed
 */
export function padClip(task: TaskName, clip: Uint8Array, layout: TaskLayout): Uint8Array {
  const { frames, height, width } = layout.clip;
  const channels = clip.length / (frames * height * width);
  const plane = height * width * channels;
  const side = givenSide(task);
  if (side === undefined) {
    return padFrames(task, clip, layout, plane);
  }
  const padded = clip.slice();
  const latents = latentOfFrame(layout);
  const given = conditionPixels(task, layout);
  const edge = task === "OPC" || task === "OPV" || task === "OPH";
  const [, h, w] = layout.grid;
  for (let frame = 0; frame < frames; frame++) {
    const { rows, columns } = rectangle(task, layout, latents[frame]!);
    // The rectangle in pixels: the smallest and the largest given row and column.
    const [top, bottom] = pixelSpan(rows, h, height);
    const [left, right] = pixelSpan(columns, w, width);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        if (given[(frame * height + y) * width + x]) {
          continue;
        }
        const to = frame * plane + (y * width + x) * channels;
        const sourceY = Math.min(bottom - 1, Math.max(top, y));
        const sourceX = Math.min(right - 1, Math.max(left, x));
        const from = frame * plane + (sourceY * width + sourceX) * channels;
        for (let c = 0; c < channels; c++) {
          padded[to + c] = edge ? clip[from + c]! : 0;
        }
      }
    }
  }
  return padded;
}

/** The first pixel of a span of tokens and the one behind its last. */
function pixelSpan([start, end]: Span, tokens: number, pixels: number): Span {
  const first = (token: number): number => Math.ceil((token * pixels) / tokens);
  return [first(start), first(end)];
}

function padFrames(
  task: TaskName,
  clip: Uint8Array,
  { clip: { frames }, conditionFrames }: TaskLayout,
  plane: number,
): Uint8Array {
  const padded = clip.slice();
  if (task === "FP" || task === "CFP") {
    const last = clip.subarray((conditionFrames - 1) * plane, conditionFrames * plane);
    for (let frame = conditionFrames; frame < frames; frame++) {
      padded.set(last, frame * plane);
    }
  } else if (task === "FI") {
    const end = (frames - 1) * plane;
    for (let frame = 1; frame < frames - 1; frame++) {
      const share = frame / (frames - 1);
      for (let i = 0; i < plane; i++) {
        const value = clip[i]! * (1 - share) + clip[end + i]! * share;
        padded[frame * plane + i] = Math.floor(value + 0.5);
      }
    }
  } else {
    padded.fill(0);
  }
  return padded;
}

/**
 * The prompt of each task of a mixture, as an index into the prompt embeddings.
 * @param sharing "magvit" gives the six painting tasks one prompt, as the published code does
 *   (in-painting uses the out-painting prompt there), and CFP the prompt of FP
 */
export function taskPrompts(
  tasks: readonly TaskName[],
  sharing: "each" | "magvit",
): { readonly prompts: Int32Array; readonly count: number } {
  const groupOf = (task: TaskName): string => {
    if (sharing === "each") {
      return task;
    }
    return givenSide(task) !== undefined ? "painting" : task === "CFP" ? "FP" : task;
  };
  const groups = [...new Set(tasks.map(groupOf))];
  return {
    prompts: Int32Array.from(tasks, (task) => groups.indexOf(groupOf(task))),
    count: groups.length,
  };
}
