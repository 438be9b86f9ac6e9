/**
 * @file The network of the pixel baseline: one 3D CNN over pixels, dense layers over sound and words, and a head a
 * task, for the class and for the shape's centre in each frame.
 */

import * as tf from "@tensorflow/tfjs-core";
import { conv, dense, groupNorm, type Layer, sequence } from "../../models/layers.ts";
import { fanIn, type Scope } from "../../models/scope.ts";
import { gelu } from "../../runtime/ops.ts";
import { normalise } from "../tokenize.ts";
import { SOUND } from "./table.ts";

export const modalities = ["video", "audio", "caption"] as const;
export const tasks = ["recognise", "locate"] as const;

export interface NetworkConfig {
  readonly reads: readonly (typeof modalities)[number][];
  readonly tasks: readonly (typeof tasks)[number][];
  readonly width: number;
}

/** The network: inputs by name to logits [B, classes] and centres [B, T, 2]. */
export function buildNetwork(
  { reads, tasks: asked, width: channels }: NetworkConfig,
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
