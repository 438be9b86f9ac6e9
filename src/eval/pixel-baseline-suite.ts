/**
 * @file Suite `pixel-baseline`: the models that visual tokens stand against. They read pixels and answer in a
 * fixed label space by heads of their own, one a task, as video models did before generative ones:
 *
 * - multi-task: one 3D CNN with a head for activity recognition (the class) and one for localisation (the
 *   shape's centre in each frame, by a soft argmax over the feature map);
 * - multi-modal: the same CNN beside log spectra of the sound and a bag of the caption's words, fused before
 *   the class.
 *
 * It is trained here, from nothing, on the training split; it knows nothing of the tokenizer.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import { Scope } from "../models/scope.ts";
import { softmaxCrossEntropy } from "../runtime/ops.ts";
import { Random } from "../runtime/random.ts";
import { float32, type HostTensors, int32, uint8 } from "../runtime/tensors.ts";
import { clipKeys, clipSampling } from "./clips.ts";
import { buildNetwork, modalities, tasks } from "./pixel-baseline/network.ts";
import { meanCentres, meanDistance, readTable, SOUND, type Table } from "./pixel-baseline/table.ts";
import { chanceLevel } from "./probe.ts";
import { score } from "./protocols.ts";
import { adamW } from "./recognition/learn.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";

export const schema = closed(
  {
    type: Type.Literal("pixel-baseline"),
    reads: Type.Array(Type.Enum([...modalities]), {
      default: ["video"],
      minItems: 1,
      uniqueItems: true,
      description: "What the model is given.",
    }),
    tasks: Type.Array(Type.Enum([...tasks]), {
      default: ["recognise", "locate"],
      minItems: 1,
      uniqueItems: true,
      description:
        "Heads that are trained together: recognise the class, locate the shape in each frame (procedural clips, video only).",
    }),
    ...clipKeys,
    train_clips: Type.Integer({
      minimum: 16,
      default: 960,
      description: "Training clips; all of the split when it has fewer.",
    }),
    width: Type.Integer({ minimum: 8, default: 32, description: "Channels of the network." }),
    steps: Type.Integer({ minimum: 1, default: 400, description: "Optimizer steps." }),
    batch: Type.Integer({ minimum: 1, default: 16, description: "Clips of a step." }),
    lr: Type.Number({ exclusiveMinimum: 0, default: 0.003, description: "Peak learning rate." }),
  },
  { description: "Task-specific heads over pixels, sound and captions: models without tokens." },
);
export type PixelBaselineConfig = Static<typeof schema>;

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: PixelBaselineConfig, name: string): Suite {
  if (config.tasks.includes("locate") && !config.reads.includes("video")) {
    throw new UserError(
      `suite ${name}: nothing but video can be located in`,
      "add video to `reads`, or leave locate out of `tasks`",
    );
  }
  return { type: config.type, run: (context) => run(config, name, context) };
}

async function run(
  config: PixelBaselineConfig,
  name: string,
  context: EvalContext,
): Promise<Score[]> {
  const { device } = context;
  const [train, judged] = [await context.dataset("train"), await context.dataset(config.split)];
  const { frames, height, width, classes } = train;
  if (config.tasks.includes("recognise") && classes.length < 2) {
    throw new UserError(`suite ${name}: clips of ${train.type} have no classes to recognise`);
  }
  if (config.reads.includes("audio") && train.audioRate === 0) {
    throw new UserError(
      `suite ${name}: the clips have no sound to read`,
      "set dataset.audio_rate, or leave audio out of `reads`",
    );
  }
  const vocabulary: string[] = [];
  const fitted = await readTable(config, train, config.train_clips, vocabulary);
  const held = await readTable(config, judged, config.clips, vocabulary);
  const words = Math.max(1, vocabulary.length);

  device.activate();
  const scope = Scope.root(config.seed);
  const slots = Scope.root(config.seed);
  const network = buildNetwork(config, classes.length, words, scope);
  const update = adamW(scope, slots);
  const step = device.compile(`eval/${name}/train`, (inputs) => {
    const loss = update(
      () => {
        const { logits, centres } = network(inputs);
        const parts: tf.Scalar[] = [];
        if (logits) {
          parts.push(tf.mean(softmaxCrossEntropy(logits, inputs["labels"] as tf.Tensor1D)));
        }
        if (centres) {
          const error = tf.sub(centres, inputs["centres"]!);
          parts.push(tf.mul<tf.Scalar>(tf.mean(tf.square(error)), 10));
        }
        return tf.addN(parts);
      },
      inputs["rate"]!,
      inputs["step"]!,
      0.01,
    );
    return { loss };
  });
  const answer = device.compile(`eval/${name}/answer`, (inputs) => {
    const { logits, centres } = network(inputs);
    return {
      ...(logits && { classes: tf.cast(tf.argMax(logits, 1), "int32") }),
      ...(centres && { centres }),
    };
  });
  const batchOf = (table: Table, rows: readonly number[]): HostTensors => {
    const pick = (values: Float32Array): Float32Array => {
      const length = values.length / table.samples.length;
      const out = new Float32Array(rows.length * length);
      rows.forEach((row, i) =>
        out.set(values.subarray(row * length, (row + 1) * length), i * length),
      );
      return out;
    };
    const size = rows.length;
    const clips = new Uint8Array(size * frames * height * width * 3);
    rows.forEach((row, i) => clips.set(table.samples[row]!.clip, (i * clips.length) / size));
    const { reads, tasks: asked } = config;
    return {
      ...(reads.includes("video") && { clips: uint8([size, frames, height, width, 3], clips) }),
      ...(reads.includes("audio") && {
        sound: float32([size, SOUND.times * SOUND.bands], pick(table.sound)),
      }),
      ...(reads.includes("caption") && { words: float32([size, words], pick(table.words)) }),
      ...(asked.includes("recognise") && {
        labels: int32(
          [size],
          rows.map((row) => table.labels[row]!),
        ),
      }),
      ...(asked.includes("locate") && {
        centres: float32([size, frames, 2], pick(table.centres)),
      }),
    };
  };
  const warm = Math.max(1, Math.round(config.steps / 10));
  for (let i = 0; i < config.steps; i++) {
    const random = new Random(config.seed, `eval/${name}/rows`, i);
    const rows = Array.from({ length: config.batch }, () => random.int(fitted.samples.length));
    const at =
      i < warm
        ? (i + 1) / warm
        : 0.5 * (1 + Math.cos((Math.PI * (i - warm)) / (config.steps - warm)));
    const { loss } = await step({
      ...batchOf(fitted, rows),
      rate: float32([], [config.lr * at]),
      step: float32([], [i + 1]),
    });
    if ((i + 1) % 50 === 0) {
      context.progress(`loss ${loss!.data[0]!.toFixed(3)}`, i + 1, config.steps);
    }
  }

  let [right, distance] = [0, 0];
  const n = held.samples.length;
  for (let from = 0; from < n; from += config.batch) {
    const rows = Array.from({ length: config.batch }, (_, i) => Math.min(from + i, n - 1));
    const made = await answer(batchOf(held, rows));
    for (let i = 0; i < Math.min(config.batch, n - from); i++) {
      right += Number(made["classes"]?.data[i] === held.labels[from + i]);
      distance += made["centres"]
        ? meanDistance(
            (made["centres"].data as Float32Array).subarray(i * frames * 2, (i + 1) * frames * 2),
            held.centres.subarray((from + i) * frames * 2, (from + i + 1) * frames * 2),
            width,
            height,
          )
        : 0;
    }
  }
  scope.dispose();
  slots.dispose();

  const { type: _t, split, clips: _c, seed, ...own } = config;
  const choices = {
    ...own,
    split,
    clips: n,
    sampling: clipSampling,
    sampling_seed: seed,
    dataset: judged.fingerprint,
  };
  const scores: Score[] = [];
  if (config.tasks.includes("recognise")) {
    const share = right / n;
    const std = 100 * Math.sqrt((share * (1 - share)) / n);
    const chance = 100 * chanceLevel(fitted.labels, held.labels, classes.length);
    scores.push(
      score(
        { name: `${name}/recognise`, value: 100 * share, unit: "%", better: "higher", n, std },
        "pixel-baseline",
        { ...choices, answer: "class" },
      ),
      score(
        { name: `${name}/recognise/chance`, value: chance, unit: "%", better: "none", n },
        "pixel-baseline",
        { ...choices, answer: "the most frequent class" },
      ),
    );
  }
  if (config.tasks.includes("locate")) {
    const mean = meanCentres(fitted.centres, frames);
    const plain = held.samples.reduce((sum, _, i) => {
      const truth = held.centres.subarray(i * frames * 2, (i + 1) * frames * 2);
      return sum + meanDistance(mean, truth, width, height);
    }, 0);
    scores.push(
      score(
        { name: `${name}/locate`, value: distance / n, unit: "pixels", better: "lower", n },
        "pixel-baseline",
        { ...choices, answer: "centre" },
      ),
      score(
        { name: `${name}/locate/mean`, value: plain / n, unit: "pixels", better: "none", n },
        "pixel-baseline",
        { ...choices, answer: "the mean centre of the training clips by frame" },
      ),
    );
  }
  return scores;
}
