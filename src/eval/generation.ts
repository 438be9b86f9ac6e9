/**
 * @file Clips made by a transformer, whatever its objective: a request says the task and gives the
 * samples that the conditions are taken from (their pixels, class, caption, sound), and gets clips and
 * sound back. Suites, samples and `tessera generate` all go this way.
 */

import { UserError } from "../config/errors.ts";
import type { Sample } from "../data/dataset.ts";
import { type DiffusionObjective, isDiffusion } from "../objectives/diffusion.ts";
import { taskParts } from "../objectives/multimodal/layouts.ts";
import { isMultimodal, type MultimodalObjective } from "../objectives/multimodal/objective.ts";
import type { Objective, SampleOptions } from "../objectives/objective.ts";
import { applyVariant, layoutOf, variantEncoder } from "../objectives/variants.ts";
import {
  isSuperResolution,
  type SuperResolution,
} from "../objectives/super-resolution/objective.ts";
import type { Device } from "../runtime/device.ts";
import { float32, int32, sizeOf, uint8 } from "../runtime/tensors.ts";
import { enlargeClip, reduceClip } from "../tokenizers/low-resolution.ts";
import type { Tokenizer } from "../tokenizers/tokenizer.ts";
import { toBytes } from "./clips.ts";
import { tokenizerFunctions } from "./tokenize.ts";

/** What a condition can be taken from: any part that the task reads must be there. */
export type Source = Partial<Pick<Sample, "clip" | "caption" | "audio">> & {
  /** Class; -1 for none. */
  readonly label: number;
};

export interface ClipRequest {
  /** A task of the objective; left out, the objective samples by class. */
  readonly task?: string;
  readonly sources: readonly Source[];
  readonly seed: number;
  readonly onProgress?: (done: number, total: number) => void;
}

/** What was made for each source. */
export interface Made {
  /** [T, H, W, 3] bytes; an image has one frame. Absent for tasks that make sound only. */
  readonly clips?: readonly Uint8Array[];
  /** What a task was shown, [T, H, W, 3]: the padded clip. Absent without a visual condition. */
  readonly shown?: readonly Uint8Array[];
  /** Waveforms. */
  readonly audio?: readonly Float32Array[];
}

/** The tasks that an objective can be asked for; empty when it samples by class. */
export function tasksOf(objective: Objective): readonly string[] {
  return objective.tasks?.names ?? [];
}

/**
 * Clips of an objective that samples by class: pixels [B, T, H, W, 3], not clipped, by way of ids or of
 * latents.
 */
export function pixelSampler(
  device: Device,
  tokenizer: Tokenizer,
  objective: Objective,
): (options: Pick<SampleOptions, "labels" | "seed" | "onProgress">) => Promise<Float32Array> {
  const { decode, decodeCodes } = tokenizerFunctions(device, tokenizer);
  const { grid, factors, width } = tokenizer;
  if (isDiffusion(objective)) {
    const sample = objective.latentSampler(device);
    return async (options) =>
      decodeCodes(float32([options.labels.length, ...grid, width], await sample(options)));
  }
  const sample = objective.sampler(device);
  return async (options) =>
    decode(int32([options.labels.length, ...grid, factors.length], await sample(options)));
}

/**
 * A function that makes clips; what it needs is compiled at its first use.
 * Requests of one number of sources share compiled functions.
 */
export function clipGenerator(
  device: Device,
  tokenizer: Tokenizer,
  objective: Objective,
): (request: ClipRequest) => Promise<Made> {
  const encode = variantEncoder(device, tokenizer, objective.tasks?.conditionFrames ?? 1);
  const { frames, height, width } = tokenizer.clip;
  const values = frames * height * width * 3;

  /** The sources' clips one behind the other; black where a source has none. */
  const clipsOf = (sources: readonly Source[]): Uint8Array => {
    const all = new Uint8Array(sources.length * values);
    sources.forEach(({ clip }, i) => clip && all.set(clip, i * values));
    return all;
  };
  const split = (bytes: Uint8Array, size: number): Uint8Array[] => {
    const length = bytes.length / size;
    return Array.from({ length: size }, (_, i) => bytes.slice(i * length, (i + 1) * length));
  };
  async function decode(ids: Int32Array, size: number): Promise<Uint8Array[]> {
    const shape = [size, ...tokenizer.grid, tokenizer.factors.length];
    return split(
      toBytes(await tokenizerFunctions(device, tokenizer).decode(int32(shape, ids))),
      size,
    );
  }

  if (isMultimodal(objective)) {
    return multimodal(objective);
  }
  if (isDiffusion(objective)) {
    return diffusion(objective);
  }
  if (isSuperResolution(objective)) {
    return cascade(objective);
  }
  const sample = objective.sampler(device);
  return async ({ task, sources, seed, onProgress }) => {
    const labels = Int32Array.from(sources, ({ label }) => label);
    const options = { labels, seed, ...(onProgress && { onProgress }) };
    if (task === undefined) {
      return { clips: await decode(await sample(options), sources.length) };
    }
    const index = taskIndex(objective, task);
    const variant = objective.tasks!.variants[index];
    const { ids, shown } = await encode(
      clipsOf(sources),
      sources.map(() => variant),
    );
    const conditions = { tasks: new Int32Array(sources.length).fill(index), ids };
    const made = await sample({ ...options, conditions });
    return {
      clips: await decode(made, sources.length),
      ...(variant && { shown: split(shown, sources.length) }),
    };
  };

  function diffusion(model: DiffusionObjective): (request: ClipRequest) => Promise<Made> {
    const sampleLatents = model.latentSampler(device);
    const functions = tokenizerFunctions(device, tokenizer);
    const layout = layoutOf(tokenizer, model.tasks?.conditionFrames ?? 1);
    return async ({ task, sources, seed, onProgress }) => {
      const size = sources.length;
      const labels = Int32Array.from(sources, ({ label }) => label);
      let shown: Uint8Array | undefined;
      let given: { task: number; codes?: Float32Array } | undefined;
      if (task !== undefined) {
        given = { task: taskIndex(model, task) };
        if (task !== "CG") {
          // The first latents see the given frames alone, so what stands behind them does not matter.
          shown = clipsOf(sources);
          for (let i = 0; i < size; i++) {
            const clip = shown.subarray(i * values, (i + 1) * values);
            clip.set(applyVariant("FP", clip, layout));
          }
          const { codes } = await functions.encode(uint8([size, frames, height, width, 3], shown));
          given = { ...given, codes };
        }
      }
      const progress = onProgress && { onProgress };
      const made = await sampleLatents({ labels, seed, ...given, ...progress });
      const codes = float32([size, ...tokenizer.grid, model.width], made);
      return {
        clips: split(toBytes(await functions.decodeCodes(codes)), size),
        ...(shown && { shown: split(shown, size) }),
      };
    };
  }

  function cascade(model: SuperResolution): (request: ClipRequest) => Promise<Made> {
    const { low, factor } = model;
    const makes = model.cascade(device);
    return async ({ task, sources, seed, onProgress }) => {
      if (task === undefined) {
        throw new UserError(
          "super-resolution needs a task",
          `name one of ${tasksOf(model).join(", ")}`,
        );
      }
      const size = sources.length;
      const texts = captionIds(model, sources);
      const progress = onProgress && { onProgress };
      let shown: Uint8Array[] | undefined;
      let tokens: Int32Array;
      if (tasksOf(model)[taskIndex(model, task)] === "SR") {
        const reduced = sources.map(({ clip }) =>
          reduceClip(clip ?? new Uint8Array(values), tokenizer.clip, factor),
        );
        shown = reduced.map((clip) => enlargeClip(clip, tokenizer.clip, factor));
        const { frames: t, height: h, width: w } = low.clip;
        const all = new Uint8Array(reduced.flatMap((clip) => [...clip]));
        tokens = (await tokenizerFunctions(device, low).encode(uint8([size, t, h, w, 3], all))).ids;
      } else {
        tokens = await makes.small({ generator: 0, texts, size, seed, ...progress });
      }
      const made = await makes.large({ low: tokens, texts, size, seed, ...progress });
      return { clips: await decode(made, size), ...(shown && { shown }) };
    };
  }

  function multimodal(model: MultimodalObjective): (request: ClipRequest) => Promise<Made> {
    const generate = model.generator(device);
    const { text, audio } = model.space;
    const tokens = sizeOf(tokenizer.grid) * tokenizer.factors.length;
    return async ({ task, sources, seed, onProgress }) => {
      if (task === undefined) {
        throw new UserError(
          "a multi-modal model needs a task",
          `name one of ${tasksOf(model).join(", ")}`,
        );
      }
      const index = taskIndex(model, task);
      const parts = taskParts[task as keyof typeof taskParts];
      const size = sources.length;
      const variant = parts.variant ?? (parts.visual ? "none" : undefined);
      const { ids, shown } = await encode(
        clipsOf(sources),
        sources.map(() => variant),
      );
      if (parts.text) {
        await text?.vectors?.prepare(sources.map(({ caption }) => caption ?? ""));
      }
      const materials = sources.map(({ caption, audio: wave }, i) => {
        const visual = ids.subarray(i * tokens, (i + 1) * tokens);
        return {
          ...(variant && (parts.variant ? { variant: visual } : { video: visual })),
          ...(parts.text && text && { text: text.encode(caption ?? "", model.sizes.text) }),
          ...(parts.audio && audio && wave && { audio: audio.encode(wave) }),
        };
      });
      const progress = onProgress && { onProgress };
      const made = await generate({ task: index, materials, seed, ...progress });
      const codes = made.audio && made.audio.length / size;
      const image = parts.output === "image";
      return {
        ...(made.visual && {
          clips: (await decode(filled(made.visual, size), size)).map((clip) =>
            image ? clip.slice(0, height * width * 3) : clip,
          ),
        }),
        ...(parts.visual && { shown: split(shown, size) }),
        ...(codes &&
          audio && {
            audio: sources.map((_, i) =>
              audio.decode(made.audio!.subarray(i * codes, (i + 1) * codes)),
            ),
          }),
      };
    };

    /** Images hold the first latent frame's tokens: later ones, which it does not see, repeat it. */
    function filled(visual: Int32Array, size: number): Int32Array {
      const length = visual.length / size;
      if (length === tokens) {
        return visual;
      }
      return Int32Array.from({ length: size * tokens }, (_, i) => {
        const b = Math.floor(i / tokens);
        return visual[b * length + ((i % tokens) % length)]!;
      });
    }
  }
}

/** Captions as the networks of super-resolution read them: [B, L], -1 behind their ends. */
export function captionIds(
  { space: { text }, textLength = 0 }: SuperResolution,
  sources: readonly Pick<Source, "caption">[],
): Int32Array {
  const texts = new Int32Array(sources.length * textLength).fill(-1);
  for (const [i, { caption }] of sources.entries()) {
    if (text && caption) {
      texts.set(text.encode(caption, textLength), i * textLength);
    }
  }
  return texts;
}

/** The index of a task by name. */
function taskIndex(objective: Objective, task: string): number {
  const names = tasksOf(objective);
  const index = names.indexOf(task);
  if (index < 0) {
    throw new UserError(
      names.length === 0
        ? `the run was trained by class, not on tasks, so it cannot do ${task}`
        : `the run was not trained for the task ${task}`,
      names.length === 0
        ? "leave the task out, or train with objective.tasks"
        : `its tasks are ${names.join(", ")}`,
    );
  }
  return index;
}
