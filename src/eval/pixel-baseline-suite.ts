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
import type { Dataset, Sample } from "../data/dataset.ts";
import { conv, dense, groupNorm, type Layer, sequence } from "../models/layers.ts";
import { fanIn, Scope } from "../models/scope.ts";
import { wordsOf } from "../models/text-lm.ts";
import { gelu, softmaxCrossEntropy } from "../runtime/ops.ts";
import { Random } from "../runtime/random.ts";
import { float32, type HostTensors, int32, uint8 } from "../runtime/tensors.ts";
import { logSpectra } from "../tokenizers/spectral-audio.ts";
import { chooseClips, clipKeys, clipSampling } from "./clips.ts";
import { chanceLevel } from "./probe.ts";
import { score } from "./protocols.ts";
import { adamW } from "./recognition/learn.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";
import { normalise } from "./tokenize.ts";

const modalities = ["video", "audio", "caption"] as const;
const tasks = ["recognise", "locate"] as const;

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

/** Samples of a clip's sound in a window, frames and bands that the model sees. */
const SOUND = { window: 256, times: 8, bands: 32 } as const;

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

/** Clips on the host, as the model reads them. */
interface Table {
  readonly samples: readonly Sample[];
  readonly labels: Int32Array;
  /** [clips, times · bands] */
  readonly sound: Float32Array;
  /** [clips, words] */
  readonly words: Float32Array;
  /** [clips, T, 2]: (x, y) in halves of the frame's sides from its middle. */
  readonly centres: Float32Array;
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
  const fitted = await read(config, train, config.train_clips, vocabulary);
  const held = await read(config, judged, config.clips, vocabulary);
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

/** Distance of two paths [T, 2] in pixels, the mean over frames. */
function meanDistance(a: Float32Array, b: Float32Array, width: number, height: number): number {
  let sum = 0;
  for (let t = 0; t < a.length; t += 2) {
    sum += Math.hypot(((a[t]! - b[t]!) * width) / 2, ((a[t + 1]! - b[t + 1]!) * height) / 2);
  }
  return sum / (a.length / 2);
}

function meanCentres(centres: Float32Array, frames: number): Float32Array {
  const length = frames * 2;
  const count = centres.length / length;
  const mean = new Float32Array(length);
  centres.forEach((value, i) => (mean[i % length]! += value / count));
  return mean;
}

/** The network: inputs by name to logits [B, classes] and centres [B, T, 2]. */
function buildNetwork(
  { reads, tasks: asked, width: channels }: PixelBaselineConfig,
  classes: number,
  words: number,
  scope: Scope,
) {
  const stage = (name: string, inputs: number, stride: number): Layer =>
    sequence([
      conv(scope.child(`${name}/conv`), {
        inputs,
        outputs: channels,
        strides: [1, stride, stride],
        bias: false,
        init: fanIn(2),
      }),
      groupNorm(scope.child(`${name}/norm`), { channels, groups: 8, activation: "silu" }),
    ]);
  const video = reads.includes("video")
    ? sequence([stage("stage0", 3, 2), stage("stage1", channels, 2), stage("stage2", channels, 1)])
    : undefined;
  const embed = (name: (typeof modalities)[number], inputs: number) =>
    reads.includes(name) ? dense(scope.child(name), { inputs, outputs: channels }) : undefined;
  const sound = embed("audio", SOUND.times * SOUND.bands);
  const text = embed("caption", words);
  // Means over space of each half of the clip, so that the order of time is not lost.
  const parts = (video ? 2 : 0) + Number(Boolean(sound)) + Number(Boolean(text));
  const recognise = asked.includes("recognise")
    ? {
        fuse: dense(scope.child("recognise/fuse"), { inputs: parts * channels, outputs: channels }),
        head: dense(scope.child("recognise/head"), { inputs: channels, outputs: classes }),
      }
    : undefined;
  const locate = asked.includes("locate")
    ? conv(scope.child("locate/head"), { inputs: channels, outputs: 1, kernel: [1, 1, 1] })
    : undefined;

  return (inputs: { readonly [name: string]: tf.Tensor }) => {
    const map = video?.(normalise(inputs["clips"]!)); // [B, T, h, w, C]
    let logits: tf.Tensor2D | undefined;
    if (recognise) {
      const seen: tf.Tensor[] = [];
      if (map) {
        const [b, t, h, w] = map.shape;
        const half = Math.max(1, Math.floor(t / 2));
        const mean = (from: number, count: number): tf.Tensor =>
          tf.mean(
            tf.reshape(tf.slice(map, [0, from], [b, count]), [b, count * h * w, channels]),
            1,
          );
        seen.push(mean(0, half), mean(t - half, half));
      }
      if (sound) {
        seen.push(gelu(sound(inputs["sound"]!)));
      }
      if (text) {
        seen.push(gelu(text(inputs["words"]!)));
      }
      const all = seen.length === 1 ? seen[0]! : tf.concat(seen, 1);
      logits = recognise.head(gelu(recognise.fuse(all))) as tf.Tensor2D;
    }
    let centres: tf.Tensor3D | undefined;
    if (locate && map) {
      const [b, t, h, w] = map.shape;
      const weights = tf.softmax(tf.reshape(locate(map), [b, t, h * w])); // over space
      const axis = (n: number, side: number, of: (i: number) => number): tf.Tensor1D =>
        tf.tensor1d(Float32Array.from({ length: n }, (_, i) => (2 * (of(i) + 0.5)) / side - 1));
      const x = tf.sum(
        tf.mul(
          weights,
          axis(h * w, w, (i) => i % w),
        ),
        2,
      );
      const y = tf.sum(
        tf.mul(
          weights,
          axis(h * w, h, (i) => Math.floor(i / w)),
        ),
        2,
      );
      centres = tf.stack([x, y], 2) as tf.Tensor3D; // [B, T, 2]
    }
    return { logits, centres };
  };
}

/** Clips of a split with what the model reads beside pixels; words of the first split name the vocabulary. */
async function read(
  config: PixelBaselineConfig,
  dataset: Dataset,
  count: number,
  vocabulary: string[],
): Promise<Table> {
  const indices = Array.from(chooseClips(dataset.size, count, config.seed));
  const samples = await Promise.all(indices.map((index) => dataset.get(index, 0)));
  if (vocabulary.length === 0) {
    vocabulary.push(...new Set(samples.flatMap(({ caption }) => wordsOf(caption))));
    vocabulary.sort();
  }
  const { frames, height, width } = dataset;
  const words = new Float32Array(samples.length * Math.max(1, vocabulary.length));
  const sound = new Float32Array(samples.length * SOUND.times * SOUND.bands);
  const centres = new Float32Array(samples.length * frames * 2);
  for (const [i, { caption, audio, factors }] of samples.entries()) {
    for (const word of config.reads.includes("caption") ? wordsOf(caption) : []) {
      const at = vocabulary.indexOf(word);
      if (at >= 0) {
        words[i * vocabulary.length + at] = 1;
      }
    }
    if (config.reads.includes("audio") && audio) {
      sound.set(bands(audio), i * SOUND.times * SOUND.bands);
    }
    if (config.tasks.includes("locate")) {
      const [x, y] = [factors?.["x"], factors?.["y"]] as (readonly number[] | undefined)[];
      if (x?.length !== frames || y?.length !== frames) {
        throw new UserError(
          `suite pixel-baseline: clips of ${dataset.type} do not say where their shape is`,
          "leave locate out of `tasks`",
        );
      }
      for (let t = 0; t < frames; t++) {
        centres[(i * frames + t) * 2] = (2 * x[t]!) / width - 1;
        centres[(i * frames + t) * 2 + 1] = (2 * y[t]!) / height - 1;
      }
    }
  }
  const labels = Int32Array.from(samples, ({ label }) => label);
  return { samples, labels, sound, words, centres };
}

/** Log spectra averaged over times and bands, about zero: [times · bands]. */
function bands(wave: Float32Array): Float32Array {
  const spectra = logSpectra(wave, wave.length, SOUND.window);
  const out = new Float32Array(SOUND.times * SOUND.bands);
  const bins = spectra[0]!.length;
  for (const [t, spectrum] of spectra.entries()) {
    const time = Math.floor((t * SOUND.times) / spectra.length);
    const share = Math.max(1, spectra.length / SOUND.times) * Math.max(1, bins / SOUND.bands);
    spectrum.forEach((value, k) => {
      const band = Math.floor((k * SOUND.bands) / bins);
      out[time * SOUND.bands + band]! += value / share;
    });
  }
  const mean = out.reduce((sum, v) => sum + v, 0) / out.length;
  return out.map((v) => v - mean);
}
