/** @file The first stage: a tokenizer learns to reconstruct clips. */

import { existsSync, readdirSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import type { Dataset } from "../data/dataset.ts";
import { Loader, stack } from "../data/loader.ts";
import type { Ranks } from "../runtime/collective.ts";
import { Random } from "../runtime/random.ts";
import { float32, type HostTensor, type HostTensors, uint8 } from "../runtime/tensors.ts";
import { type AdversarialConfig, buildAdversary } from "../tokenizers/adversarial.ts";
import type { TrainingConfig } from "../tokenizers/autoencoder.ts";
import { inflate, type Init } from "../tokenizers/inflation.ts";
import { buildPerceptual } from "../tokenizers/perceptual.ts";
import type { QuantizerConfig } from "../tokenizers/quantizers/registry.ts";
import { buildSemantic } from "../tokenizers/semantic.ts";
import {
  buildSoundAdversary,
  type SoundAdversarialConfig,
} from "../tokenizers/sound-adversarial.ts";
import type { ClipShape, Tokenizer } from "../tokenizers/tokenizer.ts";
import { latestCheckpoint, readCheckpoint } from "./checkpoint.ts";
import type { StageOptions } from "./options.ts";
import { ALONE, rowsOfRank, samplesOfRank } from "./ranks.ts";
import type { Finding, Metrics, Task } from "./step.ts";

/**
 * Pixels as models see them.
 * @param bytes [B, T, H, W, 3] integers in [0, 255]
 * @returns float32 in [-1, 1]
 */
export function toPixels(bytes: tf.Tensor): tf.Tensor5D {
  return tf.sub(tf.mul(tf.cast(bytes, "float32"), 1 / 127.5), 1) as tf.Tensor5D;
}

/** What a tokenizer reads, from the input of a compiled function: pixels of bytes, or sound as it is. */
export function toModel({ modality }: Tokenizer, input: tf.Tensor): tf.Tensor5D {
  return modality === "audio" ? (input as tf.Tensor5D) : toPixels(input);
}

/**
 * The i-th `size` waveforms of a batch as the input of an audio tokenizer, [size, N, 1, 1, 1]; where
 * there are fewer, silence takes their place.
 */
export function soundInput(
  audio: Float32Array | undefined,
  samples: number,
  size: number,
  i = 0,
): HostTensor {
  if (audio === undefined) {
    throw new UserError(
      "the tokenizer reads sound, and the data set has none",
      "set dataset.audio_rate",
    );
  }
  const part = new Float32Array(size * samples);
  part.set(audio.subarray(i * size * samples, (i + 1) * size * samples));
  return float32([size, samples, 1, 1, 1], part);
}

/**
 * The items of a held-out batch: the same in every run and at every step, and spread over the split,
 * as a folder's items are sorted by class.
 */
export function heldOutRows(size: number, batch: number, index: number): Uint32Array {
  const order = new Random(0, "validation/order").permutation(size);
  return order.subarray(index * batch, (index + 1) * batch);
}

/** Tokenizers of clips and of sound have critics of their own; the rest they share. */
type PixelTraining = Omit<TrainingConfig, "adversarial">;

/**
 * The training of a tokenizer, with what its config adds to the tokenizer's own loss; with several ranks, one
 * rank's share of each batch.
 */
export function tokenizerTask(
  tokenizer: Tokenizer,
  options: StageOptions,
  train: Dataset,
  validation: Dataset,
  seed: number,
  given: Partial<PixelTraining> & {
    readonly type?: string;
    readonly quantizer?: QuantizerConfig;
    readonly adversarial?: AdversarialConfig | SoundAdversarialConfig;
  } = {},
  ranks: Ranks = ALONE,
): Task {
  const { adversarial, ...others } = given;
  const config: PixelTraining = { l1_weight: 0, l2_weight: 1, image_share: 0, ...others };
  const audio = tokenizer.modality === "audio";
  const whole = options.batch / options.accumulate;
  const size = samplesOfRank(options, ranks);
  const { frames, height, width, samples = 0 } = tokenizer.clip;
  const loader = new Loader(train, {
    batch: options.batch / ranks.world,
    seed,
    ...ranks,
    parts: options.accumulate,
  });
  let position: number | undefined;
  const held = Math.min(whole, validation.size);
  const perceptual = config.perceptual && buildPerceptual(config.perceptual);
  const game =
    adversarial &&
    ("scales" in adversarial
      ? buildSoundAdversary(adversarial, seed)
      : buildAdversary(adversarial, tokenizer.clip, seed));

  const semantic = given.quantizer?.type === "spae" ? buildSemantic(given.quantizer) : undefined;

  /** Pixel and perceptual losses of made clips: what the adaptive weight is measured against. */
  const rest = (made: tf.Tensor5D, real: tf.Tensor5D): tf.Scalar => {
    const error = tf.mul(tf.sub(made, real), 0.5);
    const pixels = tf.add<tf.Scalar>(
      tf.mul(tf.mean(tf.square(error)), config.l2_weight),
      tf.mul(tf.mean(tf.abs(error)), config.l1_weight),
    );
    const seen = perceptual && tf.mul(perceptual(made, real), config.perceptual!.weight);
    return seen ? tf.add(pixels, seen) : pixels;
  };

  return {
    stage: "tokenizer",
    scope: tokenizer.scope,
    options,

    start() {
      if (config.init) {
        startFrom(tokenizer, config.init);
      }
    },

    async batches(step) {
      /** The noise of a micro-batch, drawn for all ranks. */
      const noise = (i: number, length?: number): HostTensors =>
        rowsOfRank(
          tokenizer.inputs(whole, seed, step * options.accumulate + i, length),
          whole,
          ranks,
        );
      if (position !== step) {
        const perEpoch = loader.batchesPerEpoch;
        loader.resume({ epoch: Math.floor(step / perEpoch), batch: step % perEpoch });
      }
      position = step + 1;
      const batch = await loader.next();
      if (audio) {
        return Array.from({ length: options.accumulate }, (_, i) => ({
          clips: soundInput(batch.audio, samples, size, i),
          step: float32([], [step]),
          ...noise(i),
        }));
      }
      const loaded = batch.clips;
      const images = isImageStep(step, config.image_share);
      const clips = images
        ? singleFrames(loaded, tokenizer.clip, seed, step, options, ranks)
        : loaded;
      const shape = [size, images ? 1 : frames, height, width, 3];
      const length = clips.length / options.accumulate;
      return Array.from(
        { length: options.accumulate },
        (_, i): HostTensors => ({
          clips: uint8(shape, clips.subarray(i * length, (i + 1) * length)),
          step: float32([], [step]),
          ...noise(i, shape[1]),
        }),
      );
    },

    loss(inputs, training) {
      const real = toModel(tokenizer, inputs["clips"]!);
      const step = inputs["step"] as tf.Scalar;
      const drawn = training ? inputs : {};
      const noise = semantic ? { ...drawn, semantic_targets: semantic(real) } : drawn;
      const own = tokenizer.loss(real, step, training, noise);
      const made = own.reconstruction;
      let { loss } = own;
      let metrics = own.metrics;
      if (perceptual) {
        const distance = perceptual(made, real);
        loss = tf.add(loss, tf.mul(distance, config.perceptual!.weight));
        metrics = { ...metrics, perceptual: distance };
      }
      if (game && training) {
        const share = game.generator(made, step, (x) => rest(x, real), real);
        loss = tf.add(loss, share.loss);
        metrics = { ...metrics, ...share.metrics };
      }
      return { loss, metrics, ...(game && training && { made }) };
    },

    ...(game && {
      adversary: {
        scope: game.scope,
        optimizer: {
          beta1: adversarial!.beta1,
          beta2: adversarial!.beta2,
          epsilon: options.epsilon,
          weight_decay: 0,
          clip_norm: options.clip_norm,
        },
        lrRatio: adversarial!.lr_ratio,
        loss: (inputs, made, training) =>
          game.critic(
            toModel(tokenizer, inputs["clips"]!),
            made,
            inputs["step"] as tf.Scalar,
            training,
          ),
      },
    }),

    watch: (step, metrics) => findCollapse(step, metrics, tokenizer.remedy, options.steps),

    validationBatches: Math.min(options.validate_batches, Math.floor(validation.size / held)),
    async validationBatch(index) {
      const rows = heldOutRows(validation.size, held, index);
      const batch = stack(await Promise.all(Array.from(rows, (row) => validation.get(row, 0))));
      return {
        clips: audio
          ? soundInput(batch.audio, samples, held)
          : uint8([held, frames, height, width, 3], batch.clips),
        // Schedules of the loss are over: held-out losses of all steps are comparable.
        step: float32([], [options.steps]),
      };
    },
  };
}

/** Image steps are spread evenly: a step is one when the count that is due grows with it. */
export function isImageStep(step: number, share: number): boolean {
  return Math.floor((step + 1) * share) > Math.floor(step * share);
}

/** One random frame of each clip: [B, T, H, W, 3] bytes to [B, 1, H, W, 3]. */
function singleFrames(
  clips: Uint8Array,
  { frames, height, width }: ClipShape,
  seed: number,
  step: number,
  { batch, accumulate }: StageOptions,
  { rank, world }: Ranks,
): Uint8Array {
  const frame = height * width * 3;
  const random = new Random(seed, "tokenizer/frames", step);
  const places = Array.from({ length: batch }, () => random.int(frames)); // of all ranks' clips
  const size = batch / accumulate / world;
  const chosen = new Uint8Array((batch / world) * frame);
  for (let i = 0; i < batch / world; i++) {
    const part = Math.floor(i / size);
    const place = places[(part * world + rank) * size + (i % size)]!;
    const at = (i * frames + place) * frame;
    chosen.set(clips.subarray(at, at + frame), i * frame);
  }
  return chosen;
}

/** The lowest share of log(codes) that a batch may use before we speak of collapse. */
const COLLAPSED = 0.1;

/**
 * A collapsed codebook: the tokens of a batch are nearly all equal. The first twentieth of a training
 * is left out: untrained encoders give like tokens.
 */
export function findCollapse(
  step: number,
  metrics: Metrics,
  remedy: string,
  steps: number,
): Finding | undefined {
  const { usage, perplexity } = metrics;
  if (usage === undefined || usage >= COLLAPSED || step < Math.min(200, 0.05 * steps)) {
    return undefined;
  }
  return {
    event: "codebook-collapse",
    message: `the codebook has collapsed: a batch uses ${perplexity!.toFixed(1)} codes evenly, ${(100 * usage).toFixed(0)} % of the entropy that it could have`,
    remedy,
  };
}

/** The checkpoint folders of the runs in an experiment's folder whose training has saved something. */
function runsBelow(folder: string): string[] {
  if (!existsSync(folder) || !statSync(folder).isDirectory()) {
    return [];
  }
  return readdirSync(folder)
    .sort()
    .map((run) => join(folder, run, "checkpoints", "tokenizer"))
    .filter((checkpoints) => existsSync(join(checkpoints, "latest.json")));
}

/** Give a tokenizer the weights that its config starts from. */
function startFrom(tokenizer: Tokenizer, { checkpoint, inflation }: Init): void {
  const runs = runsBelow(checkpoint);
  if (runs.length > 1) {
    throw new UserError(
      `tokenizer.init.checkpoint: ${checkpoint} has ${runs.length} runs`,
      `name one of them, e.g. ${dirname(dirname(runs[0]!))}`,
    );
  }
  const folders = [checkpoint, join(checkpoint, "checkpoints", "tokenizer"), ...runs];
  const warnings: string[] = [];
  const found =
    existsSync(checkpoint) && statSync(checkpoint).isFile()
      ? readCheckpoint(checkpoint)
      : folders
          .map((folder) => latestCheckpoint(folder, (text) => warnings.push(text)))
          .find((one) => one !== undefined);
  if (!found) {
    throw new UserError(
      `tokenizer.init.checkpoint: there is no checkpoint at ${checkpoint}`,
      warnings[0] ??
        "give a run's folder, its checkpoints/tokenizer folder, or a .safetensors file",
    );
  }
  inflate(tokenizer.scope, found.tensors, inflation);
}
