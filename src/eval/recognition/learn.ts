/**
 * @file A network that reads clips as tokens or as pixels, its pre-training by masked prediction
 * (BEVT, Wang et al. 2022; MaskFeat) and its training as a classifier, on a device.
 */

import * as tf from "@tensorflow/tfjs-core";
import { dense } from "../../models/layers.ts";
import { normal, Scope } from "../../models/scope.ts";
import type { Compiled, Device } from "../../runtime/device.ts";
import { embedding, softmaxCrossEntropy } from "../../runtime/ops.ts";
import { Random } from "../../runtime/random.ts";
import { bool, float32, type HostTensor, type HostTensors, int32 } from "../../runtime/tensors.ts";
import { attentiveClassifier, selfAttentionBlock } from "./attentive.ts";

/** What the network sees of a clip, N positions each. */
export type Reads =
  /** Real vectors of `values` numbers. */
  | { readonly kind: "vectors"; readonly values: number }
  /** Sub-ids, one of `factors[f]` each. */
  | { readonly kind: "ids"; readonly factors: readonly number[] }
  /** Bytes of pixels, `values` a position. */
  | { readonly kind: "pixels"; readonly values: number }
  /** Bytes of whole clips [T, H, W, 3], through a network that learns too. */
  | { readonly kind: "clips"; readonly through: Front };

/** A network before the reader. */
export interface Front {
  readonly scope: Scope;
  readonly shape: readonly [frames: number, height: number, width: number, channels: 3];
  /** Width D of what it gives. */
  readonly values: number;
  /** Its learning rate over the reader's. */
  readonly rate: number;
  /** [B, T, H, W, 3] in [-1, 1] to [B, t, h, w, D], with a gradient. */
  codes(clips: tf.Tensor5D): tf.Tensor5D;
}

/** What masked prediction is asked for at each position. */
export type Target =
  | { readonly kind: "ids"; readonly factors: readonly number[] }
  | { readonly kind: "vectors"; readonly values: number };

export interface NetworkOptions {
  readonly positions: number;
  readonly reads: Reads;
  readonly width: number;
  readonly heads: number;
  /** Blocks of self-attention before the attentive pooling. */
  readonly depth: number;
  readonly classes: number;
  readonly seed: number;
}

export interface TrainOptions {
  readonly steps: number;
  readonly batch: number;
  readonly rate: number;
  readonly decay: number;
  readonly seed: number;
}

/** Rows of equal shape: one clip's values after another. */
export interface Rows {
  readonly dtype: "float32" | "int32" | "uint8";
  /** Shape of one clip. */
  readonly shape: readonly number[];
  readonly data: Float32Array | Int32Array | Uint8Array;
}

/** The rows of some clips as a batch. */
export function gatherRows(rows: Rows, indices: ArrayLike<number>): HostTensor {
  const size = rows.shape.reduce((product, side) => product * side, 1);
  const shape = [indices.length, ...rows.shape];
  const length = indices.length * size;
  const data =
    rows.dtype === "float32"
      ? new Float32Array(length)
      : rows.dtype === "int32"
        ? new Int32Array(length)
        : new Uint8Array(length);
  for (let i = 0; i < indices.length; i++) {
    data.set(rows.data.subarray(indices[i]! * size, (indices[i]! + 1) * size) as never, i * size);
  }
  return { dtype: rows.dtype, shape, data };
}

/**
 * AdamW (Loshchilov & Hutter 2019) with the gradient's norm bounded; no decay of vectors.
 * @param front a network before it that learns at a share of the rate
 */
export function adamW(
  scope: Scope,
  slots: Scope,
  front?: Front,
): (loss: () => tf.Scalar, rate: tf.Tensor, step: tf.Tensor, decay: number) => tf.Scalar {
  const own = [...scope.trainable().values()];
  const variables = [...own, ...(front?.scope.trainable().values() ?? [])];
  const moments = variables.map((variable, i) => ({
    share: i < own.length ? 1 : front!.rate,
    first: slots.state(`first${i}`, variable.shape),
    second: slots.state(`second${i}`, variable.shape),
  }));
  const [beta1, beta2, most] = [0.9, 0.999, 1];
  return (loss, rate, step, decay) => {
    const { value, grads } = tf.variableGrads(loss, variables);
    // A variable that this loss does not see has no gradient, and stays as it is.
    const seen = variables.flatMap((variable, i) => {
      const gradient = grads[variable.name] as tf.Tensor | null;
      return gradient ? [{ variable, gradient, ...moments[i]! }] : [];
    });
    const squares = tf.addN(seen.map(({ gradient }) => tf.sum(tf.square(gradient))));
    const factor = tf.minimum(1, tf.div(most, tf.add(tf.sqrt(squares), 1e-6)));
    const [correct1, correct2] = [beta1, beta2].map((beta) => tf.sub(1, tf.pow(beta, step)));
    for (const { variable, gradient, first, second, share } of seen) {
      const bounded = tf.mul(gradient, factor);
      const m = tf.add(tf.mul(first, beta1), tf.mul(bounded, 1 - beta1));
      const v = tf.add(tf.mul(second, beta2), tf.mul(tf.square(bounded), 1 - beta2));
      first.assign(m);
      second.assign(v);
      const way = tf.div(tf.div(m, correct1!), tf.add(tf.sqrt(tf.div(v, correct2!)), 1e-8));
      const full = variable.shape.length > 1 ? tf.add(way, tf.mul(variable, decay)) : way;
      variable.assign(tf.sub(variable, tf.mul(share === 1 ? rate : tf.mul(rate, share), full)));
    }
    return value;
  };
}

export class RecognitionNetwork {
  readonly #scope: Scope;
  readonly #slots = Scope.root(0);
  readonly #trunk: (inputs: tf.Tensor, hidden?: tf.Tensor) => tf.Tensor3D;
  readonly #classify: (tokens: tf.Tensor3D) => tf.Tensor2D;
  #evaluate: Compiled | undefined;

  constructor(
    readonly device: Device,
    readonly options: NetworkOptions,
  ) {
    const { positions, reads, width, depth, classes, heads, seed } = options;
    const scope = Scope.root(seed);
    this.#scope = scope;
    const trunk = scope.child("trunk");
    const places = trunk.param("positions", [positions, width], normal(0.02));
    const embed = embedder(trunk.child("embed"), reads, width);
    const blocks = Array.from({ length: depth }, (_, i) =>
      selfAttentionBlock(trunk.child(`block${i}`), { width, heads }),
    );
    const mask = trunk.param("mask", [width], normal(0.02));
    this.#trunk = (inputs, hidden) => {
      let x = embed(inputs); // [B, N, width]
      if (hidden) {
        const there = tf.cast(tf.expandDims(hidden, 2), "float32"); // [B, N, 1]
        x = tf.add(tf.mul(x, tf.sub(1, there)), tf.mul(there, mask));
      }
      x = tf.add(x, places);
      return blocks.reduce((y, block) => block(y), x as tf.Tensor3D);
    };
    this.#classify = attentiveClassifier(scope.child("head"), { width, heads, classes });
  }

  /** Learn to predict what stands at hidden positions; the trunk keeps what it learned. */
  async pretrain(
    inputs: Rows,
    targets: Rows,
    target: Target,
    { steps, batch, rate, decay, seed }: TrainOptions,
    share: number,
    progress: (step: number, loss: number) => void,
  ): Promise<void> {
    const { positions, width } = this.options;
    const predict = predictor(this.#scope.child("predict"), target, width);
    const update = adamW(this.#scope, this.#slots.child("pretrain"));
    const step = this.device.compile("eval/recognition/pretrain", (given) => ({
      loss: update(
        () => {
          const errors = predict(
            this.#trunk(given["inputs"]!, given["hidden"]!),
            given["targets"]!,
          );
          const there = tf.cast(given["hidden"]!, "float32");
          return tf.div(tf.sum(tf.mul(errors, there)), tf.sum(there)) as tf.Scalar;
        },
        given["rate"]!,
        given["step"]!,
        decay,
      ),
    }));
    const count = inputs.data.length / inputs.shape.reduce((product, side) => product * side, 1);
    const hiddenCount = Math.max(1, Math.round(share * positions));
    await this.#loop(
      step,
      steps,
      batch,
      rate,
      count,
      `${seed}`,
      seed,
      progress,
      (indices, random) => {
        const hidden = new Uint8Array(indices.length * positions);
        for (let i = 0; i < indices.length; i++) {
          for (const place of random.permutation(positions).subarray(0, hiddenCount)) {
            hidden[i * positions + place] = 1;
          }
        }
        return {
          inputs: gatherRows(inputs, indices),
          targets: gatherRows(targets, indices),
          hidden: bool([indices.length, positions], hidden),
        };
      },
    );
  }

  /** Learn to classify. @param wholeReader false leaves the blocks as they are */
  async train(
    inputs: Rows,
    labels: Int32Array,
    { steps, batch, rate, decay, seed }: TrainOptions,
    wholeReader: boolean,
    progress: (step: number, loss: number) => void,
  ): Promise<void> {
    const learned = wholeReader ? this.#scope : this.#scope.child("head");
    const { reads } = this.options;
    const front = reads.kind === "clips" ? reads.through : undefined;
    const update = adamW(learned, this.#slots.child("train"), front);
    const step = this.device.compile("eval/recognition/train", (given) => ({
      loss: update(
        () => {
          const logits = this.#classify(this.#trunk(given["inputs"]!));
          return tf.mean(softmaxCrossEntropy(logits, given["labels"] as tf.Tensor1D));
        },
        given["rate"]!,
        given["step"]!,
        decay,
      ),
    }));
    await this.#loop(
      step,
      steps,
      batch,
      rate,
      labels.length,
      "train",
      seed,
      progress,
      (indices) => ({
        inputs: gatherRows(inputs, indices),
        labels: int32(
          [indices.length],
          Int32Array.from(indices, (index) => labels[index]!),
        ),
      }),
    );
  }

  /** Cosine schedule with a tenth of warm-up; batches drawn without replacement, epoch by epoch. */
  async #loop(
    step: Compiled,
    steps: number,
    batch: number,
    rate: number,
    count: number,
    stream: string,
    seed: number,
    progress: (step: number, loss: number) => void,
    inputsOf: (indices: Uint32Array, random: Random) => HostTensors,
  ): Promise<void> {
    const size = Math.min(batch, count);
    const warm = Math.max(1, Math.round(steps / 10));
    let order: Uint32Array = new Uint32Array(0);
    let epoch = 0;
    for (let i = 0; i < steps; i++) {
      if (order.length < size) {
        order = new Random(seed, `recognition/${stream}/order`, epoch++).permutation(count);
      }
      const indices = order.subarray(0, size);
      order = order.subarray(size);
      const at =
        i < warm ? (i + 1) / warm : 0.5 * (1 + Math.cos((Math.PI * (i - warm)) / (steps - warm)));
      const { loss } = await step({
        ...inputsOf(indices, new Random(seed, `recognition/${stream}/mask`, i)),
        rate: float32([], [rate * at]),
        step: float32([], [i + 1]),
      });
      progress(i + 1, loss!.data[0]!);
    }
  }

  /** Class probabilities of clips, [n, classes]. */
  async probabilities(inputs: Rows, count: number, batch: number): Promise<Float32Array> {
    const { classes } = this.options;
    this.#evaluate ??= this.device.compile("eval/recognition/evaluate", (given) => ({
      p: tf.softmax(this.#classify(this.#trunk(given["inputs"]!))),
    }));
    const out = new Float32Array(count * classes);
    for (let from = 0; from < count; from += batch) {
      // The last batch is filled up with its last clip: one shape, one compilation.
      const indices = Array.from({ length: batch }, (_, i) => Math.min(from + i, count - 1));
      const { p } = await this.#evaluate({ inputs: gatherRows(inputs, indices) });
      const rows = Math.min(batch, count - from);
      out.set((p!.data as Float32Array).subarray(0, rows * classes), from * classes);
    }
    return out;
  }

  dispose(): void {
    this.#scope.dispose();
    this.#slots.dispose();
  }
}

/** What is read, as [B, N, width]. */
function embedder(scope: Scope, reads: Reads, width: number): (x: tf.Tensor) => tf.Tensor {
  if (reads.kind === "ids") {
    const tables = reads.factors.map(
      (size, f) =>
        scope.param(`table${f}`, [size, width], normal(0.5 / Math.sqrt(width))) as tf.Tensor2D,
    );
    return (ids) => {
      const [b, n] = ids.shape as [number, number];
      const parts = tf.split(ids, tables.length, 2); // [B, N, 1] each
      return tf.addN(
        parts.map((part, f) =>
          tf.reshape(embedding(tables[f]!, tf.reshape(part, [b * n])), [b, n, width]),
        ),
      );
    };
  }
  const signed = (bytes: tf.Tensor): tf.Tensor =>
    tf.sub(tf.div(tf.cast(bytes, "float32"), 127.5), 1);
  if (reads.kind === "clips") {
    const { through } = reads;
    const { values } = through;
    const map = dense(scope, { inputs: values, outputs: width });
    return (x) => {
      const made = through.codes(signed(x) as tf.Tensor5D); // [B, t, h, w, D]
      return map(tf.reshape(made, [made.shape[0], -1, values]));
    };
  }
  const map = dense(scope, { inputs: reads.values, outputs: width });
  return (x) => map(reads.kind === "pixels" ? signed(x) : x);
}

/** Error at each position, [B, N]: cross-entropy of sub-ids, or mean squared error of vectors. */
function predictor(
  scope: Scope,
  target: Target,
  width: number,
): (tokens: tf.Tensor3D, targets: tf.Tensor) => tf.Tensor {
  if (target.kind === "vectors") {
    const map = dense(scope, { inputs: width, outputs: target.values });
    return (tokens, targets) => tf.mean(tf.squaredDifference(map(tokens), targets), 2);
  }
  const maps = target.factors.map((outputs, f) =>
    dense(scope.child(`factor${f}`), { inputs: width, outputs }),
  );
  return (tokens, targets) => {
    const [b, n] = tokens.shape;
    const ids = tf.split(targets, maps.length, 2);
    return tf.addN(
      maps.map((map, f) => {
        const logits = tf.reshape(map(tokens), [b * n, target.factors[f]!]) as tf.Tensor2D;
        const labels = tf.reshape(ids[f]!, [b * n]) as tf.Tensor1D;
        return tf.reshape(softmaxCrossEntropy(logits, labels), [b, n]);
      }),
    );
  };
}
