/**
 * @file The small language model on a device: trained on texts (AdamW, a tenth of warm-up, cosine to 0),
 * then frozen and asked how probable answers are. Equal seeds give equal models on one device.
 */

import * as tf from "@tensorflow/tfjs-core";
import { buildTextNetwork, pad } from "../../models/text-lm.ts";
import { Scope } from "../../models/scope.ts";
import type { Device } from "../../runtime/device.ts";
import { Random } from "../../runtime/random.ts";
import { float32, int32 } from "../../runtime/tensors.ts";
import { adamW } from "../recognition/learn.ts";

/** A text whose end is to be judged. */
export interface Question {
  readonly prompt: readonly number[];
  readonly answer: readonly number[];
}

export interface Verdict {
  /** ln p(answer | prompt). */
  readonly logProbability: number;
  /** Whether the answer is what the model says when it always takes the most probable word. */
  readonly greedy: boolean;
}

/** A language model that is not trained any more. */
export interface FrozenLm {
  judge(questions: readonly Question[]): Promise<Verdict[]>;
  /** Mean -ln p of a word of texts like those it learned from, in nats; left out where not known. */
  readonly textLoss?: number;
  /** Which model it is, where it is one from outside. */
  readonly fingerprint?: string;
  dispose(): void;
}

/** One that writes as well. */
export interface WritingLm extends FrozenLm {
  /** What the model says after each prompt when it always takes the most probable word: `count` words. */
  write(prompts: readonly Prompt[]): Promise<number[][]>;
}

export interface Prompt {
  readonly prompt: readonly number[];
  readonly count: number;
}

export interface LmOptions {
  readonly width: number;
  readonly depth: number;
  readonly heads: number;
  readonly steps: number;
  readonly batch: number;
  readonly lr: number;
  readonly seed: number;
}

const decay = 0.01;

/**
 * Train a model and freeze it.
 * @param text a text of `context` ids drawn from the random stream
 */
export async function trainFrozenLm(
  device: Device,
  options: LmOptions,
  { vocabulary, context }: { readonly vocabulary: number; readonly context: number },
  text: (random: Random) => Int32Array,
  progress: (step: number, loss: number) => void,
): Promise<WritingLm> {
  const { steps, batch, lr, seed } = options;
  const scope = Scope.root(seed);
  const slots = Scope.root(seed);
  const network = buildTextNetwork(options, vocabulary, context, scope);
  const update = adamW(scope, slots);
  const step = device.compile("eval/in-context/train", (given) => ({
    loss: update(
      () => tf.mean<tf.Scalar>(network.read(given["ids"] as tf.Tensor2D).loss),
      given["rate"]!,
      given["step"]!,
      decay,
    ),
  }));
  const read = device.compile("eval/in-context/read", (given) => {
    const { loss, greedy } = network.read(given["ids"] as tf.Tensor2D);
    return { loss, greedy };
  });
  const guess = device.compile("eval/in-context/guess", (given) => ({
    best: network.read(given["ids"] as tf.Tensor2D).best,
  }));
  const texts = (stream: string, number: number) => {
    const random = new Random(seed, `in-context/${stream}`, number);
    const ids = new Int32Array(batch * context);
    for (let i = 0; i < batch; i++) {
      ids.set(text(random), i * context);
    }
    return int32([batch, context], ids);
  };
  const warm = Math.max(1, Math.round(steps / 10));
  for (let i = 0; i < steps; i++) {
    const at =
      i < warm ? (i + 1) / warm : 0.5 * (1 + Math.cos((Math.PI * (i - warm)) / (steps - warm)));
    const { loss } = await step({
      ids: texts("train", i),
      rate: float32([], [lr * at]),
      step: float32([], [i + 1]),
    });
    progress(i + 1, loss!.data[0]!);
  }
  slots.dispose();
  const held = (await read({ ids: texts("held-out", 0) }))["loss"]!.data as Float32Array;
  const textLoss = held.reduce((sum, value) => sum + value, 0) / held.length;

  return {
    textLoss,
    async judge(questions) {
      const verdicts: Verdict[] = [];
      for (let from = 0; from < questions.length; from += batch) {
        const some = questions.slice(from, from + batch);
        const ids = new Int32Array(batch * context).fill(pad);
        some.forEach(({ prompt, answer }, i) => ids.set([...prompt, ...answer], i * context));
        const { loss, greedy } = await read({ ids: int32([batch, context], ids) });
        some.forEach(({ prompt, answer }, i) => {
          const start = i * context + prompt.length;
          const places = answer.map((_, k) => start + k);
          verdicts.push({
            logProbability: -places.reduce((sum, place) => sum + loss!.data[place]!, 0),
            greedy: places.every((place) => greedy!.data[place] === 1),
          });
        });
      }
      return verdicts;
    },
    async write(prompts) {
      const written: number[][] = [];
      for (let from = 0; from < prompts.length; from += batch) {
        const some = prompts.slice(from, from + batch);
        const ids = new Int32Array(batch * context).fill(pad);
        some.forEach(({ prompt }, i) => ids.set(prompt, i * context));
        const longest = Math.max(...some.map(({ count }) => count));
        for (let k = 0; k < longest; k++) {
          const { best } = await guess({ ids: int32([batch, context], ids.slice()) });
          some.forEach(({ prompt, count }, i) => {
            const at = i * context + prompt.length + k;
            if (k < count) {
              ids[at] = best!.data[at]!;
            }
          });
        }
        some.forEach(({ prompt, count }, i) => {
          const start = i * context + prompt.length;
          written.push(Array.from(ids.subarray(start, start + count)));
        });
      }
      return written;
    },
    dispose: () => scope.dispose(),
  };
}
