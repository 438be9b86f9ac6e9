/**
 * @file Suite `inception-score`: how clear and how varied generated clips are to a classifier, with
 * the score of as many real clips beside it. Needs published weights.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import { c3dClip, openC3d } from "../models/features/c3d.ts";
import {
  inceptionClasses,
  inceptionSide,
  openInceptionV3,
} from "../models/features/inception-v3.ts";
import type { Device } from "../runtime/device.ts";
import { type HostTensor, uint8 } from "../runtime/tensors.ts";
import { ClipStream, chooseClips, clipKeys, toBytes } from "./clips.ts";
import { resized } from "./distribution/extractors.ts";
import { inceptionScore } from "./distribution/inception-score.ts";
import { generate } from "./distribution/judge.ts";
import { type FoundWeights, findWeights, missingWeights, openFound } from "./networks/published.ts";
import { clipChoices, score } from "./protocols.ts";
import type { EvalContext, Score, Suite } from "./suite.ts";

export const schema = closed(
  {
    type: Type.Literal("inception-score"),
    classifier: Type.Union([Type.Literal("c3d-ucf101"), Type.Literal("inception")], {
      default: "c3d-ucf101",
      description: "C3D for clips of 16 frames, InceptionV3 for single frames.",
    }),
    ...clipKeys,
    splits: Type.Integer({
      minimum: 1,
      default: 10,
      description: "Parts that the clips are cut into; the score is the mean over them.",
    }),
    weights: Type.Array(Type.String(), {
      default: [],
      description: "The weight files; none looks into the folder weights ($TESSERA_WEIGHTS).",
      semantic: false,
    }),
  },
  { description: "Inception score of generated and of real clips, on published weights." },
);

export type InceptionScoreConfig = Static<typeof schema>;

interface Classifier {
  readonly classes: number;
  /** Logits of a batch, one or more rows a clip. @param clips [B, T, H, W, 3] uint8 */
  logits(clips: HostTensor, size: number): Promise<Float32Array>;
  dispose(): void;
}

/** @param name the suite's name in the experiment; scores start with it */
export function build(config: InceptionScoreConfig, name: string): Suite {
  return { type: config.type, run: (context) => run(config, name, context) };
}

async function run(
  config: InceptionScoreConfig,
  name: string,
  context: EvalContext,
): Promise<Score[]> {
  const network = config.classifier === "inception" ? "inception-fid" : "c3d-ucf101";
  const { frames } = context.tokenizer.clip;
  if (network === "c3d-ucf101" && frames !== c3dClip.frames) {
    throw new UserError(
      `the video inception score takes clips of ${c3dClip.frames} frames, the data set gives ${frames}`,
      "set dataset.frames=16, or use classifier: inception",
    );
  }
  const found = findWeights(network, config.weights);
  if (!found) {
    context.warn(missingWeights(network));
    return [];
  }
  context.device.activate();
  const classifier = openClassifier(context.device, config.classifier, found);
  try {
    const dataset = await context.dataset(config.split);
    const chosen = chooseClips(dataset.size, config.clips, config.seed);
    const stream = new ClipStream(dataset, chosen, context.batch);
    const real: Float32Array[] = [];
    const labels: number[] = [];
    for await (const { clips, size, labels: own } of stream) {
      real.push(await classifier.logits(clips, size));
      labels.push(...own);
      context.progress("real clips", labels.length, chosen.length);
    }
    const generated: Float32Array[] = [];
    let done = 0;
    if (context.objective) {
      for await (const batch of generate(context, context.objective, labels, config.seed)) {
        generated.push(
          await classifier.logits(uint8(batch.shape, toBytes(batch.pixels)), batch.size),
        );
        done += batch.size;
        context.progress("generated clips", done, chosen.length);
      }
    }
    const choices = {
      ...clipChoices(stream, config.seed),
      weights_sha256: found.sha256,
      splits: config.splits,
    };
    const of = (quantity: string, parts: readonly Float32Array[], of: string): Score => {
      const { mean, deviation } = inceptionScore(joined(parts), classifier.classes, config.splits);
      const better = quantity === "real" ? "none" : "higher";
      return score(
        { name: `${name}/${quantity}`, value: mean, std: deviation, better, n: chosen.length },
        `inception-score:${config.classifier}`,
        { ...choices, of },
      );
    };
    return [
      ...(generated.length > 0
        ? [of("generation", generated, "as many generated clips, labels as the real clips have")]
        : []),
      of("real", real, "the real clips"),
    ];
  } finally {
    classifier.dispose();
  }
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const out = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

function openClassifier(
  device: Device,
  kind: InceptionScoreConfig["classifier"],
  found: FoundWeights,
): Classifier {
  const weights = openFound(found);
  try {
    if (kind === "c3d-ucf101") {
      const c3d = openC3d(weights);
      const run = device.compile("eval/inception-score/c3d", ({ clips }) => {
        const [b, t, h, w, c] = clips!.shape as [number, number, number, number, number];
        const flat = tf.reshape(tf.cast(clips!, "float32"), [b * t, h, w, c]) as tf.Tensor4D;
        const { height, width } = c3dClip;
        const square = tf.image.resizeBilinear(
          tf.div(flat, 255) as tf.Tensor4D,
          [height, width],
          true,
        );
        return { logits: c3d.logits(tf.reshape(square, [b, t, height, width, c])) };
      });
      return {
        classes: 101,
        logits: (clips, size) => each(clips, size, 101, run),
        dispose: () => c3d.scope.dispose(),
      };
    }
    const inception = openInceptionV3(weights);
    const run = device.compile("eval/inception-score/inception", ({ clips }) => {
      const [b, t, h, w, c] = clips!.shape as [number, number, number, number, number];
      const flat = tf.reshape(tf.cast(clips!, "float32"), [b * t, h, w, c]) as tf.Tensor4D;
      const square = resized(flat, inceptionSide, "tf1-legacy");
      const features = inception.features(tf.div(tf.sub(square, 128), 128));
      return { logits: inception.logits(features) };
    });
    return {
      classes: inceptionClasses,
      logits: (clips, size) => each(clips, size, inceptionClasses * clips.shape[1]!, run),
      dispose: () => inception.scope.dispose(),
    };
  } finally {
    weights.close();
  }
}

/** Clip by clip, which bounds memory. @param width logits of one clip */
async function each(
  clips: HostTensor,
  size: number,
  width: number,
  run: ReturnType<Device["compile"]>,
): Promise<Float32Array> {
  const values = clips.data.length / clips.shape[0]!;
  const out = new Float32Array(size * width);
  for (let i = 0; i < size; i++) {
    const data = clips.data.subarray(i * values, (i + 1) * values) as Uint8Array;
    const { logits } = await run({ clips: uint8([1, ...clips.shape.slice(1)], data) });
    out.set(logits!.data as Float32Array, i * width);
  }
  return out;
}
