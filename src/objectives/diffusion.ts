/**
 * @file Diffusion over a tokenizer's continuous latents (latent diffusion, Rombach et al. 2022) as
 * W.A.L.T does it (Gupta et al. 2023, §3).
 *
 * Latents are normalised with the mean and deviation of each channel over the training latents, which
 * are kept as state beside the weights. The loss is the mean squared error of v over the latents that
 * are not given, so a network that predicts 0 pays about 1.
 *
 * - *Self-conditioning* (Chen et al. 2023): with a probability the network sees its own estimate of x
 *   from a first pass, through which no gradient flows; sampling always shows it the last estimate.
 * - *Frame conditioning*: the tasks FP and CFP give the first latent frames as further channels, with a
 *   channel that says which. Only causal tokenizers have latents that depend on given frames alone.
 * - *Guidance*: `label_dropout` hides class and given frames together.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import {
  buildDiffusionTransformer,
  checkWindows,
  type DiffusionTransformerConfig,
  timeFeatures,
  TIME_FEATURES,
} from "../models/diffusion-transformer.ts";
import { ones, type Scope, zeros } from "../models/scope.ts";
import type { Device } from "../runtime/device.ts";
import { sumOverRanks } from "../runtime/collective.ts";
import { stopGradient } from "../runtime/ops.ts";
import { Random } from "../runtime/random.ts";
import { bool, float32, int32, sizeOf } from "../runtime/tensors.ts";
import { taskLabels } from "./conditioning.ts";
import {
  buildDiffusionSampler,
  diffusionSamplingSchema,
  type LatentSampleOptions,
  networkInput,
} from "./diffusion-sampler.ts";
import { noiseSchedule, noiseScheduleSchema } from "../models/noise-schedule.ts";
import type { Objective, TaskMixture, TokenSpace } from "./objective.ts";
import { networkLabel } from "./sampling.ts";
import { type ClipGeometry, latentOfFrame, type TaskName } from "./tasks.ts";
import { keptLabels } from "./tokens.ts";

export const diffusionSchema = closed(
  {
    type: Type.Literal("diffusion", {
      description: "Diffusion over continuous latents (W.A.L.T).",
    }),
    noise_schedule: noiseScheduleSchema,
    noise_steps: Type.Integer({
      minimum: 2,
      default: 1000,
      description: "Steps of the noise schedule.",
    }),
    zero_terminal_snr: Type.Boolean({
      default: true,
      description:
        "End the schedule in pure noise. false keeps DDPM's last step, in which a rest of the signal is left that sampling does not know.",
    }),
    image_share: Type.Number({
      minimum: 0,
      maximum: 1,
      default: 0,
      description:
        "Share of the training samples that are images: first latent frames by themselves, which pass windows over time unmixed. Needs a causal tokenizer.",
    }),
    self_conditioning: Type.Number({
      minimum: 0,
      maximum: 1,
      default: 0.9,
      description:
        "Probability that training shows the network its own estimate; 0 trains and samples without.",
    }),
    label_dropout: Type.Number({
      minimum: 0,
      maximum: 1,
      default: 0.1,
      description:
        "Probability that training hides a sample's label and its given frames, for guidance.",
    }),
    tasks: Type.Array(
      Type.Object(
        {
          task: Type.Enum(["CG", "FP", "CFP"], {
            description: "CG by class; FP from the first frames; CFP from both.",
          }),
          weight: Type.Number({
            exclusiveMinimum: 0,
            default: 1,
            description: "How often it is drawn, relative to the other tasks.",
          }),
        },
        { additionalProperties: false, description: "A task of a mixture." },
      ),
      { default: [], description: "Tasks drawn by weight for each sample; none is by class." },
    ),
    condition_frames: Type.Integer({
      minimum: 1,
      default: 1,
      description:
        "Frames that FP and CFP are given: 1 + n·k, with n frames to a latent frame (a causal tokenizer).",
    }),
    sampling: diffusionSamplingSchema,
  },
  { description: "Predict the velocity of noised latents; sample with DDIM." },
);
export type DiffusionConfig = Static<typeof diffusionSchema>;

/** Latent frames that hold nothing but the given frames. */
export function givenLatents(
  clip: ClipGeometry,
  grid: readonly [number, number, number],
  frames: number,
): number {
  const latents = latentOfFrame({ clip, grid });
  let given = 0;
  while (given < grid[0] && latents.lastIndexOf(given) < frames) {
    given++;
  }
  return given;
}

interface Problem {
  readonly path: string;
  readonly message: string;
  readonly hint: string;
}

/** What does not fit between objective, model and the tokenizer's latents, in the words of a config. */
export function checkDiffusion(
  config: DiffusionConfig,
  model: DiffusionTransformerConfig | undefined,
  grid: readonly [number, number, number],
  clip: ClipGeometry,
): Problem[] {
  const problems: Problem[] = model
    ? checkWindows(model, grid).map((problem) => ({ ...problem, path: `model.${problem.path}` }))
    : [];
  if (config.sampling.steps > config.noise_steps) {
    problems.push({
      path: "objective.sampling.steps",
      message: `${config.sampling.steps} steps are more than the ${config.noise_steps} of the schedule`,
      hint: "sample in fewer steps, or raise objective.noise_steps",
    });
  }
  if (config.image_share > 0 && !clip.causal) {
    problems.push({
      path: "objective.image_share",
      message: "images are first latent frames, and this tokenizer's see later ones",
      hint: "use a causal tokenizer (magvit2), or objective.image_share=0",
    });
  }
  if (config.tasks.some(({ task }) => task !== "CG")) {
    const { condition_frames: frames } = config;
    const given = givenLatents(clip, grid, frames);
    const latents = latentOfFrame({ clip, grid });
    if (!clip.causal) {
      problems.push({
        path: "objective.tasks",
        message:
          "FP and CFP need latents that do not depend on later frames, and this tokenizer is not causal",
        hint: "use a causal tokenizer (magvit2), or the task CG alone",
      });
    } else if (given >= grid[0]) {
      problems.push({
        path: "objective.condition_frames",
        message: `${frames} given frames leave nothing to predict of ${clip.frames}`,
        hint: "give fewer frames than a clip has",
      });
    } else if (latents[frames - 1] !== given - 1) {
      problems.push({
        path: "objective.condition_frames",
        message: `${frames} given frames end inside a latent frame`,
        hint: `give ${latents.lastIndexOf(given - 1) + 1} or ${latents.lastIndexOf(given) + 1} frames`,
      });
    }
  }
  return problems;
}

/** A built diffusion objective. */
export interface DiffusionObjective extends Objective {
  readonly type: "diffusion";
  /** Channels of a latent. */
  readonly width: number;
  /** Latent frames that FP and CFP are given. */
  readonly given: number;
  /** States [C] that latents are normalised with: mean and deviation of the training latents. */
  readonly mean: tf.Variable;
  readonly deviation: tf.Variable;
  /** New latents, B·t·h·w·C, as the tokenizer decodes them. */
  latentSampler(device: Device): (options: LatentSampleOptions) => Promise<Float32Array>;
}

/** Whether an objective is a diffusion. */
export function isDiffusion(objective: Objective): objective is DiffusionObjective {
  return objective.type === "diffusion";
}

/** Build the transformer and its diffusion objective in `scope`. */
export function buildDiffusion(
  config: DiffusionConfig,
  model: DiffusionTransformerConfig,
  space: TokenSpace,
  scope: Scope,
): DiffusionObjective {
  const { grid, classes, clip, latentWidth: width } = space;
  if (width === undefined) {
    throw new RangeError("diffusion needs to know the width of the latents");
  }
  const names = config.tasks.map(({ task }) => task) as TaskName[];
  const framed = names.some((name) => name !== "CG");
  if (clip) {
    const [problem] = checkDiffusion(config, model, grid, clip);
    if (problem) {
      throw new UserError(`${problem.path}: ${problem.message}`, problem.hint);
    }
  } else if (framed) {
    throw new RangeError("tasks need to know the clips behind the latents");
  }
  const given = framed ? givenLatents(clip!, grid, config.condition_frames) : 0;
  const selfConditioned = config.self_conditioning > 0;
  const channels = width * (1 + Number(selfConditioned) + Number(framed)) + Number(framed);
  const transformer = buildDiffusionTransformer(
    model,
    { grid, width, classes },
    channels,
    scope.child("transformer"),
  );
  const mean = scope.state("latents/mean", [width], zeros);
  const deviation = scope.state("latents/deviation", [width], ones);
  const schedule = noiseSchedule(
    config.noise_schedule,
    config.noise_steps,
    config.zero_terminal_snr,
  );
  const network = { transformer, selfConditioned, framed, mean, deviation };
  const length = sizeOf(grid) * width;

  const total = config.tasks.reduce((sum, { weight }) => sum + weight, 0);
  const tasks: TaskMixture | undefined =
    names.length === 0
      ? undefined
      : {
          names,
          // Given frames are the first latents of the clip itself: nothing else is encoded.
          variants: names.map(() => undefined),
          conditionFrames: config.condition_frames,
          draw(size, seed, step, training) {
            const random = new Random(seed, `diffusion/tasks/${training ? "train" : "held"}`, step);
            return Int32Array.from({ length: size }, () => {
              let level = random.uniform() * total;
              const chosen = config.tasks.findIndex(({ weight }) => (level -= weight) < 0);
              return chosen < 0 ? names.length - 1 : chosen;
            });
          },
        };

  return {
    type: config.type,
    scope,
    space,
    width,
    given,
    mean,
    deviation,
    ...(tasks && { tasks }),

    inputs(batch, seed, step, training) {
      const { size, codes, conditions } = batch;
      if (codes?.length !== size * length) {
        throw new RangeError("a batch of a diffusion objective needs its latents");
      }
      const split = training ? "train" : "held";
      const random = new Random(seed, `diffusion/time/${split}`, step);
      // Times are spread over the batch (Kingma et al. 2021, appendix I.1): a less noisy loss.
      const start = random.uniform();
      const times = Array.from({ length: size }, (_, b) =>
        Math.floor(((start + b / size) % 1) * config.noise_steps),
      );
      const shape = [size, 1, 1, 1, 1];
      const flags = (rate: number): boolean[] =>
        Array.from({ length: size }, () => random.uniform() < rate);
      const shown = flags(config.self_conditioning);
      const dropped = flags(training ? config.label_dropout : 0);
      // Held-out losses are of whole clips, so that runs with and without images can be compared.
      const images = training && config.image_share > 0 ? flags(config.image_share) : undefined;
      const labels = conditions ? taskLabels(batch.labels, conditions.tasks, names) : batch.labels;
      const known = new Float32Array(size * grid[0]);
      if (framed) {
        for (let b = 0; b < size; b++) {
          if (names[conditions?.tasks[b] ?? -1] !== "CG" && conditions && !images?.[b]) {
            known.fill(1, b * grid[0], b * grid[0] + given);
          }
        }
      }
      const noise = new Random(seed, `diffusion/noise/${split}`, step).normals(codes.length);
      const pick = (values: Float64Array) => times.map((t) => values[t]!);
      return {
        codes: float32([size, ...grid, width], codes),
        noise: float32([size, ...grid, width], noise),
        alpha: float32(shape, pick(schedule.alpha)),
        sigma: float32(shape, pick(schedule.sigma)),
        time: float32([size, TIME_FEATURES], timeFeatures(times)),
        labels: int32(
          [size],
          labels.map((label) => networkLabel(label, classes)),
        ),
        ...(training && { dropped: bool([size], dropped) }),
        ...(images && { images: float32([size], images.map(Number)) }),
        ...(selfConditioned && { shown: float32(shape, shown.map(Number)) }),
        ...(framed && { known: float32([size, grid[0], 1, 1, 1], known) }),
      };
    },

    loss(inputs) {
      const { alpha, sigma, noise, known, shown, dropped } = inputs as {
        readonly [name: string]: tf.Tensor5D;
      };
      const time = inputs.time as tf.Tensor2D;
      const images = inputs["images"] as tf.Tensor1D | undefined;
      const labels = keptLabels(inputs, space);
      const x = tf.div(tf.sub(inputs.codes!, mean), deviation) as tf.Tensor5D;
      const z = tf.add(tf.mul(alpha!, x), tf.mul(sigma!, noise!)) as tf.Tensor5D;
      const target = tf.sub(tf.mul(alpha!, noise!), tf.mul(sigma!, x));
      // Hidden conditions give no frames, so all their latents are to be predicted.
      const kept = dropped && tf.reshape(tf.sub(1, tf.cast(dropped, "float32")), [-1, 1, 1, 1, 1]);
      const frames = known && ((kept ? tf.mul(known, kept) : known) as tf.Tensor5D);
      const run = (estimate: tf.Tensor5D): tf.Tensor5D =>
        transformer.predict(networkInput(z, estimate, x, frames, network), time, labels, images);
      let estimate = tf.zerosLike(x);
      if (shown) {
        const first = tf.sub(tf.mul(alpha!, z), tf.mul(sigma!, run(estimate)));
        estimate = stopGradient(tf.mul(first, shown) as tf.Tensor5D);
      }
      const error = tf.square(tf.sub(run(estimate), target)) as tf.Tensor5D; // [B, t, h, w, C]
      if (!frames && !images) {
        return { loss: tf.mean(error) as tf.Scalar, metrics: {} };
      }
      let weight: tf.Tensor = frames ? tf.sub(1, frames) : tf.ones([x.shape[0], grid[0], 1, 1, 1]); // [B, t, 1, 1, 1]
      if (images) {
        // Of an image the first latent frame counts and nothing behind it.
        const first = tf.reshape(
          tf.tensor1d(Float32Array.from({ length: grid[0] }, (_, t) => Number(t === 0))),
          [1, grid[0], 1, 1, 1],
        );
        const image = tf.reshape(images, [-1, 1, 1, 1, 1]);
        weight = tf.mul(weight, tf.add(tf.mul(image, tf.sub(first, 1)), 1));
      }
      const each = length / grid[0];
      const total = sumOverRanks(tf.sum<tf.Scalar>(tf.mul(error, weight)));
      const counted = sumOverRanks(tf.sum<tf.Scalar>(weight));
      const loss = tf.div<tf.Scalar>(total, tf.mul(counted, each));
      return { loss, metrics: frames ? { given_share: tf.mean(frames) as tf.Scalar } : {} };
    },

    sampler() {
      throw new UserError(
        "a diffusion makes latents, not ids",
        "generate clips from the run: `tessera generate RUN`",
      );
    },

    latentSampler: (device) =>
      buildDiffusionSampler(device, config, { ...network, schedule, names, given, grid, width }),
  };
}
