/**
 * @file Sampling of a diffusion: DDIM without added noise (Song et al. 2021, eq. 12 with η = 0), so that
 * what is made follows from the starting noise, which comes from the host. A step is one compiled
 * function; given latent frames replace the network's estimate of them at every step and stand in the
 * result as they came.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import {
  type DiffusionTransformer,
  TIME_FEATURES,
  timeFeatures,
} from "../models/diffusion-transformer.ts";
import type { Device } from "../runtime/device.ts";
import { Random } from "../runtime/random.ts";
import { scan } from "../runtime/scan.ts";
import { float32, type HostTensor, type HostTensors, int32, sizeOf } from "../runtime/tensors.ts";
import { ddimStep, type NoiseSchedule, samplerSteps, signalOf } from "../models/noise-schedule.ts";
import {
  checkGuidance,
  drawProperties,
  guidanceScale,
  guidedLabels,
  needsBoth,
} from "./sampling.ts";
import { taskLabels } from "./conditioning.ts";
import type { TaskName } from "./tasks.ts";

const { guidance_schedule, guidance_power } = drawProperties;
export const diffusionSamplingSchema = closed(
  {
    steps: Type.Integer({ minimum: 1, default: 50, description: "Steps of DDIM." }),
    guidance: Type.Number({
      minimum: 0,
      default: 1,
      description:
        "Classifier-free guidance scale s: v = unconditional + s * (conditional - unconditional). 1 is plain conditional sampling, 0 ignores the label; other values cost twice the time.",
    }),
    guidance_schedule,
    guidance_power,
  },
  { description: "How new latents are made." },
);
export type DiffusionSampling = Static<typeof diffusionSamplingSchema>;

export interface LatentSampleOptions {
  /** One label a sample; -1 for none. */
  readonly labels: Int32Array;
  readonly seed: number;
  /** Index into the objective's tasks; left out, the samples are made by class. */
  readonly task?: number;
  /** Latents [B, t, h, w, C] whose first frames FP and CFP are given. */
  readonly codes?: Float32Array;
  readonly onProgress?: (done: number, total: number) => void;
}

/** What the sampler knows of its objective. */
export interface DiffusionNetwork {
  readonly transformer: Pick<DiffusionTransformer, "predict" | "nullClass">;
  readonly selfConditioned: boolean;
  /** Whether the network has channels for given frames, and how many are given. */
  readonly framed: boolean;
  readonly given: number;
  readonly mean: tf.Variable;
  readonly deviation: tf.Variable;
  readonly schedule: NoiseSchedule;
  readonly names: readonly TaskName[];
  readonly grid: readonly [number, number, number];
  readonly width: number;
}

/** A function that makes latents; its step is compiled once for each number of samples. */
export function buildDiffusionSampler(
  device: Device,
  config: { readonly sampling: DiffusionSampling; readonly label_dropout: number },
  network: DiffusionNetwork,
): (options: LatentSampleOptions) => Promise<Float32Array> {
  const { sampling } = config;
  checkGuidance(sampling, config.label_dropout);
  const { transformer, framed, mean, deviation, schedule, names, grid, width } = network;
  const { nullClass } = transformer;
  const both = needsBoth(sampling, nullClass > 0 || framed);
  const blind = sampling.guidance === 0 && sampling.guidance_schedule === "constant";
  const steps = samplerSteps(schedule.alpha.length, sampling.steps);
  const frame = grid[1] * grid[2] * width;
  const length = sizeOf(grid) * width;

  /** One step: the latents and the estimate of what is behind them, to those of the next level. */
  const step = (
    { z, estimate }: { readonly z: tf.Tensor5D; readonly estimate: tf.Tensor5D },
    turn: { readonly [name: string]: tf.Tensor },
    inputs: { readonly [name: string]: tf.Tensor },
  ) => {
    const { alpha, sigma, nextAlpha, nextSigma, scale } = turn as { [name: string]: tf.Scalar };
    const known = inputs["known"] as tf.Tensor5D | undefined;
    const codes = inputs["codes"] as tf.Tensor5D | undefined;
    const given = codes && (tf.div(tf.sub(codes, mean), deviation) as tf.Tensor5D);
    const shown = known && blind ? tf.zerosLike(known) : known;
    const seen = networkInput(z, estimate, given ?? z, shown, network);
    const time = turn["time"] as tf.Tensor2D;
    const labels = inputs["labels"] as tf.Tensor1D;
    let v: tf.Tensor5D;
    if (both) {
      const hidden = known && tf.zerosLike(known);
      const unseen = networkInput(z, estimate, given ?? z, hidden, network);
      const all = transformer.predict(tf.concat([seen, unseen]), tf.tile(time, [2, 1]), labels);
      const [conditional, free] = tf.split(all, 2) as [tf.Tensor5D, tf.Tensor5D];
      v = tf.add(free, tf.mul(scale!, tf.sub(conditional, free)));
    } else {
      v = transformer.predict(seen, time, labels);
    }
    let x = signalOf(z, v, alpha!, sigma!);
    if (known && given) {
      x = tf.add(tf.mul(given, known), tf.mul(x, tf.sub(1, known)));
    }
    const levels = { alpha: alpha!, sigma: sigma!, nextAlpha: nextAlpha!, nextSigma: nextSigma! };
    return { z: ddimStep(z, v, x, levels), estimate: x };
  };
  /** Several steps in one call, as many as the turns that it is given. */
  const run = device.compile("diffusion/steps", (inputs) => {
    const { z, estimate, labels, known, codes, ...turns } = inputs;
    const beside = { labels: labels!, ...(known && { known }), ...(codes && { codes }) };
    const { carry } = scan(
      turns["alpha"]!.shape[0]!,
      { carry: { z: z!, estimate: estimate! }, slices: turns },
      (_, given, turn) => ({
        carry: step(given as unknown as Parameters<typeof step>[0], turn, beside),
      }),
    );
    return {
      z: carry["z"]!,
      estimate: carry["estimate"]!,
      codes: tf.add(tf.mul(carry["estimate"]!, deviation), mean),
    };
  });

  return async ({ labels, seed, task, codes, onProgress }) => {
    const size = labels.length;
    const chosen = taskOf(task);
    const shows = chosen !== undefined && chosen !== "CG";
    if (shows && codes?.length !== size * length) {
      throw new RangeError(`the task ${chosen} needs the latents of ${size} clips`);
    }
    const told = chosen === undefined ? labels : taskLabels(labels, new Int32Array(size), [chosen]);
    const shape = [size, ...grid, width];
    const known = new Float32Array(size * grid[0]);
    for (let b = 0; shows && b < size; b++) {
      known.fill(1, b * grid[0], b * grid[0] + network.given);
    }
    const shared: HostTensors = {
      labels: int32([both ? 2 * size : size], guidedLabels(told, sampling, nullClass, both)),
      ...(framed && {
        known: float32([size, grid[0], 1, 1, 1], known),
        codes: float32(shape, shows ? codes! : new Float32Array(size * length)),
      }),
    };
    const noise = new Random(seed, "diffusion/start").normals(size * length);
    let state: HostTensors = {
      z: float32(shape, noise),
      estimate: float32(shape, new Float32Array(size * length)),
    };
    const together = device.loops ? steps.length : 1;
    for (let first = 0; first < steps.length; first += together) {
      const turns = steps.slice(first, first + together);
      const each = (of: (t: number, place: number) => number): HostTensor =>
        float32(
          [together],
          Float32Array.from(turns, (t, k) => of(t, first + k)),
        );
      const after = (place: number, levels: ArrayLike<number>, last: number): number =>
        place + 1 < steps.length ? levels[steps[place + 1]!]! : last;
      const { alpha, sigma } = schedule;
      state = await run({
        ...shared,
        z: state["z"]!,
        estimate: state["estimate"]!,
        time: float32(
          [together, size, TIME_FEATURES],
          timeFeatures(turns.flatMap((t) => Array<number>(size).fill(t))),
        ),
        alpha: each((t) => alpha[t]!),
        sigma: each((t) => sigma[t]!),
        nextAlpha: each((_, place) => after(place, alpha, 1)),
        nextSigma: each((_, place) => after(place, sigma, 0)),
        scale: each((_, place) => guidanceScale(sampling, place + 1, steps.length)),
      });
      onProgress?.(first + together, steps.length);
    }
    const made = Float32Array.from(state.codes!.data as Float32Array);
    for (let b = 0; shows && b < size; b++) {
      const [from, to] = [b * length, b * length + network.given * frame];
      made.set(codes!.subarray(from, to), from); // not even rounded
    }
    return made;
  };

  /** What is asked for; without tasks, and with CG when none is named, samples are made by class. */
  function taskOf(index: number | undefined): TaskName | undefined {
    if (index !== undefined) {
      return names[index];
    }
    if (names.length > 0 && !names.includes("CG")) {
      throw new UserError(
        `this transformer needs a task and its condition: it was trained on ${names.join(", ")}`,
        "name one of them; only a model trained on CG can sample from a class alone",
      );
    }
    return names.length > 0 ? "CG" : undefined;
  }
}

/**
 * What the network sees of a step: the noised latents, the last estimate, the given frames and a
 * channel that says which they are.
 * @param frames [B, t, 1, 1, 1], 1 where latent frames are given
 */
export function networkInput(
  z: tf.Tensor5D,
  estimate: tf.Tensor5D,
  x: tf.Tensor5D,
  frames: tf.Tensor5D | undefined,
  { selfConditioned, framed }: { readonly selfConditioned: boolean; readonly framed: boolean },
): tf.Tensor5D {
  const parts: tf.Tensor5D[] = [z];
  if (selfConditioned) {
    parts.push(estimate);
  }
  if (framed && frames) {
    const [batch, t, h, w] = z.shape;
    parts.push(tf.mul(x, frames), tf.mul(tf.ones([batch, t, h, w, 1]), frames));
  }
  return parts.length === 1 ? z : tf.concat(parts, 4);
}
