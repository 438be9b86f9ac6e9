/**
 * @file Super-resolution in token space (VideoPoet, Kondratyuk et al. 2024, §3.4): a masked transformer
 * predicts the tokens of a clip from those of its small version and from its caption.
 *
 * - *Noise augmentation*: a random subset of the small clip's tokens is drawn anew, so that the network
 *   does not trust every one of them; its share is uniform in [0, `noise`].
 * - *Condition dropout*: small clip and caption are hidden independently of each other, so that sampling
 *   can guide by both with a scale of its own.
 * - *Teacher and student forcing*: the small tokens of training are the true clip's (teacher), or partly
 *   the output of the generator that makes small clips from captions (student, for `student_share` of the
 *   samples): a share of them, uniform in [0, `remade`], is hidden and filled in by the generator in a few
 *   passes. What is left ties them to the large clip that is to be predicted; a small clip made of nothing
 *   has no large one to learn.
 *
 * The generators are masked transformers over the small tokens and the caption and learn beside the main
 * network, without a gradient between them. The student learns from the first; a second one (of another
 * size or seed) is there to ask what the training on the first is worth for it.
 *
 * The loss is the main network's cross entropy of hidden tokens (nats a token) plus the generators'.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../../config/errors.ts";
import type { Scope } from "../../models/scope.ts";
import {
  buildWindowTransformer,
  type WindowTransformer,
  type WindowTransformerConfig,
} from "../../models/window-transformer.ts";
import { tokenCount } from "../../models/transformer.ts";
import type { Device } from "../../runtime/device.ts";
import { stopGradient } from "../../runtime/ops.ts";
import { Random } from "../../runtime/random.ts";
import { bool, float32, type HostTensor, type HostTensors, int32 } from "../../runtime/tensors.ts";
import type { Tokenizer } from "../../tokenizers/tokenizer.ts";
import { drawMasks } from "../masked.ts";
import type { Objective, TaskMixture, TokenSpace } from "../objective.ts";
import { draw } from "../sampling.ts";
import { weightedMean, tokenHits, tokenNats } from "../tokens.ts";
import { checkSuperResolution, type SuperResolutionConfig, superTasks } from "./config.ts";
import { buildCascade, type Cascade } from "./sampler.ts";

/** A built objective of super-resolution. */
export interface SuperResolution extends Objective {
  readonly type: "super-resolution";
  readonly tasks: TaskMixture;
  /** The tokenizer of small clips. */
  readonly low: Tokenizer;
  readonly factor: number;
  /** How many generators of small clips there are. */
  readonly generators: number;
  /** Make tokens of small and of large clips. */
  cascade(device: Device): Cascade;
}

/** Whether an objective is one of super-resolution. */
export function isSuperResolution(objective: Objective): objective is SuperResolution {
  return objective.type === "super-resolution";
}

/** Build the networks in `scope`. */
export function buildSuperResolution(
  config: SuperResolutionConfig,
  model: WindowTransformerConfig,
  space: TokenSpace,
  scope: Scope,
): SuperResolution {
  const { low, text: words, grid, factors } = space;
  if (low === undefined) {
    throw new RangeError("super-resolution needs the tokenizer of small clips");
  }
  const [problem] = checkSuperResolution(config, model, grid, low.grid);
  if (problem) {
    throw new UserError(`${problem.path}: ${problem.message}`, problem.hint);
  }
  const textLength = config.text_length;
  const text =
    textLength > 0 && words ? { text: { size: words.size, length: textLength } } : undefined;
  const main = buildWindowTransformer(
    model,
    { grid, factors, low: low.grid, ...text },
    scope.child("transformer"),
  );
  const generators = config.generators.map((sizes, i) =>
    buildWindowTransformer(
      { ...model, ...sizes, windows: [[0, 0, 0]] },
      { grid: low.grid, factors, ...text },
      scope.child(`generator${i}`),
    ),
  );
  const [N, M, F] = [tokenCount({ grid }), tokenCount({ grid: low.grid }), factors.length];
  const student = config.student_share > 0 ? generators[0] : undefined;

  const names = superTasks.slice(0, generators.length > 0 ? 2 : 1); // captions need a generator
  const tasks: TaskMixture = {
    names,
    variants: names.map(() => undefined),
    conditionFrames: 1,
    draw: (size) => new Int32Array(size), // all of training is SR
  };

  return {
    type: config.type,
    scope,
    space,
    tasks,
    low,
    factor: config.factor,
    generators: generators.length,
    ...(text && { textLength }),

    inputs(batch, seed, step, training) {
      const { size, low: small, texts } = batch;
      if (small?.length !== size * M * F) {
        throw new RangeError("a batch of super-resolution needs the tokens of small clips");
      }
      const split = training ? "train" : "held";
      const stream = (name: string) => new Random(seed, `super/${name}/${split}`, step);
      const flags = (rate: number, name: string) => {
        const random = stream(name);
        return bool(
          [size],
          Array.from({ length: size }, () => random.uniform() < rate),
        );
      };
      const inputs: { [name: string]: HostTensor } = {
        ids: int32([size, N, F], batch.ids),
        masked: bool([size, N], drawMasks(size, N, config.mask_schedule, stream("mask"))),
        low: int32([size, M, F], small),
        low_hidden: flags(training ? config.low_dropout : 0, "low"),
        text_hidden: flags(training ? config.text_dropout : 0, "text"),
        ...(text && { texts: int32([size, textLength], texts!) }),
      };
      if (generators.length > 0) {
        inputs["low_masked"] = bool(
          [size, M],
          drawMasks(size, M, config.mask_schedule, stream("low-mask")),
        );
      }
      // Held-out losses see true small clips, so that those of teacher and student can be compared.
      if (training && student) {
        Object.assign(inputs, studentInputs(size, stream("student")));
      }
      if (training && config.noise > 0) {
        const random = stream("noise");
        const noisy = new Uint8Array(size * M);
        const ids = new Int32Array(size * M * F);
        for (let b = 0; b < size; b++) {
          const level = config.noise * random.uniform();
          for (let m = 0; m < M; m++) {
            noisy[b * M + m] = Number(random.uniform() < level);
            for (let f = 0; f < F; f++) {
              ids[(b * M + m) * F + f] = random.int(factors[f]!);
            }
          }
        }
        Object.assign(inputs, { noisy: bool([size, M], noisy), noise: int32([size, M, F], ids) });
      }
      return inputs;
    },

    loss(inputs) {
      const ids = inputs["ids"] as tf.Tensor3D; // [B, N, F]
      const masked = inputs["masked"] as tf.Tensor2D;
      const truth = inputs["low"] as tf.Tensor3D; // [B, M, F]
      const textOf = (): { text?: { ids: tf.Tensor2D; hidden: tf.Tensor1D } } =>
        text
          ? {
              text: {
                ids: inputs["texts"] as tf.Tensor2D,
                hidden: inputs["text_hidden"] as tf.Tensor1D,
              },
            }
          : {};
      const shown = noised(remake(truth, inputs, textOf()), inputs);
      const beside = {
        low: { ids: shown, hidden: inputs["low_hidden"] as tf.Tensor1D },
        ...textOf(),
      };
      const own = hiddenLoss(main, ids, masked, beside);
      const losses = generators.map((network) =>
        hiddenLoss(network, truth, inputs["low_masked"] as tf.Tensor2D, textOf()),
      );
      const wrong = tf.cast(tf.any(tf.notEqual(shown, truth), 2), "float32");
      return {
        loss: tf.addN([own.loss, ...losses.map(({ loss }) => loss)]),
        metrics: {
          super_loss: own.loss,
          accuracy: own.accuracy,
          low_changed: tf.mean(wrong) as tf.Scalar,
          ...Object.fromEntries(losses.map(({ loss }, i) => [`generator${i}_loss`, loss])),
        },
      };
    },

    sampler() {
      throw new UserError(
        "super-resolution makes clips from small clips or captions, not from a class",
        "name the task: SR or T2V",
      );
    },

    cascade: (device) => buildCascade(device, config, { main, generators, text: text?.text }),
  };

  /** Which small tokens the generator makes in which pass, and its uniform numbers. */
  function studentInputs(size: number, random: Random): HostTensors {
    const passes = config.student_passes;
    const turn = new Int32Array(size * M).fill(passes); // never
    for (let b = 0; b < size; b++) {
      const chosen = random.uniform() < config.student_share;
      const count = Math.round(config.remade * random.uniform() * M);
      const order = random.permutation(M);
      for (let i = 0; chosen && i < count; i++) {
        turn[b * M + order[i]!] = Math.floor((i * passes) / count);
      }
    }
    return {
      turn: int32([size, M], turn),
      student_noise: float32([passes * F, size * M], random.uniforms(passes * F * size * M)),
    };
  }

  /** The small tokens with the generator's in place of those whose turn comes. */
  function remake(
    truth: tf.Tensor3D,
    inputs: { readonly [name: string]: tf.Tensor },
    beside: Parameters<WindowTransformer["predict"]>[2],
  ): tf.Tensor3D {
    const turn = inputs["turn"] as tf.Tensor2D | undefined;
    if (turn === undefined || student === undefined) {
      return truth;
    }
    const uniforms = tf.unstack(inputs["student_noise"]!) as tf.Tensor1D[];
    let low = truth;
    for (let pass = 0; pass < config.student_passes; pass++) {
      const hidden = tf.logicalAnd(
        tf.greaterEqual(turn, pass),
        tf.less(turn, config.student_passes),
      ) as tf.Tensor2D;
      const logits = student.predict(low, hidden, beside).map((each) => stopGradient(each));
      const drawn = logits.map(
        (each, f) =>
          draw(each, uniforms[pass * F + f]!, { temperature: 1, top_k: 0, top_p: 1 }).ids,
      );
      const made = tf.reshape<tf.Rank.R3>(tf.stack(drawn, 1), truth.shape); // [B, M, F]
      const now = tf.tile(tf.expandDims(tf.equal(turn, pass), 2), [1, 1, F]);
      low = tf.where(now, made, low);
    }
    return low;
  }
}

function noised(
  low: tf.Tensor3D,
  { noisy, noise }: { readonly [name: string]: tf.Tensor },
): tf.Tensor3D {
  return noisy && noise
    ? tf.where<tf.Tensor3D>(
        tf.tile(tf.expandDims(noisy, 2), [1, 1, low.shape[2]]),
        noise as tf.Tensor3D,
        low,
      )
    : low;
}

/** Mean cross entropy of the hidden tokens, and the share of them whose likeliest ids are right. */
function hiddenLoss(
  network: WindowTransformer,
  ids: tf.Tensor3D,
  masked: tf.Tensor2D,
  beside: Parameters<WindowTransformer["predict"]>[2],
): { loss: tf.Scalar; accuracy: tf.Scalar } {
  const logits = network.predict(ids, masked, beside);
  const hidden = tf.reshape<tf.Rank.R1>(tf.cast(masked, "float32"), [-1]);
  return {
    loss: weightedMean(tokenNats(logits, ids, 0), hidden),
    accuracy: weightedMean(tokenHits(logits, ids), hidden),
  };
}
