/**
 * @file Networks that turn clips into features for distances between sets: published weights given by
 * the user behind a protocol's preprocessing, or the stand-in that comes with the framework.
 */

import * as tf from "@tensorflow/tfjs-core";
import { UserError } from "../../config/errors.ts";
import { openI3d } from "../../models/features/i3d.ts";
import { inceptionSide, openInceptionV3 } from "../../models/features/inception-v3.ts";
import { openVideoMae } from "../../models/features/videomae.ts";
import type { Device } from "../../runtime/device.ts";
import { float32, type HostTensor, uint8 } from "../../runtime/tensors.ts";
import { toBytes, toFloats } from "../clips.ts";
import { type FeatureNetworkName, openFeatureNetwork } from "../networks/registry.ts";
import { type FoundWeights, openFound } from "../networks/published.ts";
import { normalise } from "../tokenize.ts";
import { FeatureCache } from "./feature-cache.ts";
import type { Resize, Rounding, VideoProtocol } from "./video-protocols.ts";

/** A network with all that stands before it. */
export interface Extractor {
  readonly network: string;
  readonly dimensions: number;
  /** SHA-256 of the weight file. */
  readonly sha256: string;
  /** Rows of features of one clip: 1, or its number of frames. */
  readonly rows: number;
  /**
   * Features of a full batch, [B · rows, dimensions] row-major.
   * @param clips [B, T, H, W, 3] bytes, or real numbers in 0..255
   */
  extract(clips: HostTensor): Promise<Float32Array>;
  /** The pixels that a tokenizer decoded, about [-1, 1], as `extract` takes them. */
  prepare(shape: readonly number[], decoded: Float32Array): HostTensor;
  /** Where features of real clips are kept between runs; absent where they are cheap. */
  readonly cache?: FeatureCache;
  dispose(): void;
}

/** Decoded pixels under a rounding; throws a UserError where they are not finite. */
export function rounded(
  shape: readonly number[],
  decoded: Float32Array,
  rounding: Rounding,
): HostTensor {
  switch (rounding) {
    case "round":
      return uint8(shape, toBytes(decoded));
    case "truncate":
      return uint8(shape, Uint8Array.from(toFloats(decoded), Math.floor));
    case "none":
      return float32(shape, toFloats(decoded));
  }
}

/** Pictures [N, H, W, C] to a square of `side` under one of the conventions; traceable. */
export function resized(pictures: tf.Tensor4D, side: number, resize: Resize): tf.Tensor4D {
  const [, height, width] = pictures.shape;
  if (resize !== "half-pixel-crop") {
    return height === side && width === side
      ? pictures
      : tf.image.resizeBilinear(pictures, [side, side], false, resize === "half-pixel");
  }
  const scale = side / Math.min(height, width);
  const target: [number, number] =
    height < width ? [side, Math.ceil(width * scale)] : [Math.ceil(height * scale), side];
  const whole =
    target[0] === height && target[1] === width
      ? pictures
      : tf.image.resizeBilinear(pictures, target, false, true);
  const [top, left] = target.map((length) => Math.floor((length - side) / 2)) as [number, number];
  return tf.slice(whole, [0, top, left, 0], [-1, side, side, -1]);
}

/**
 * A batch [B, ...] through `run` in equal parts of at most `most` clips, features one after the other:
 * a published network needs more memory a clip than a tokenizer.
 */
async function inParts(
  clips: HostTensor,
  most: number,
  run: (part: HostTensor) => Promise<Float32Array>,
): Promise<Float32Array> {
  const [batch, ...rest] = clips.shape as [number, ...number[]];
  let part = Math.min(most, batch);
  while (batch % part !== 0) {
    part -= 1;
  }
  const values = clips.data.length / batch;
  const found: Float32Array[] = [];
  for (let from = 0; from < batch; from += part) {
    const data = clips.data.subarray(from * values, (from + part) * values);
    found.push(await run({ ...clips, shape: [part, ...rest], data }));
  }
  const out = new Float32Array(found.length * found[0]!.length);
  found.forEach((features, i) => out.set(features, i * features.length));
  return out;
}

/** The protocol's network, ready. The device must be active. */
export function openVideoExtractor(
  device: Device,
  protocol: VideoProtocol,
  found: FoundWeights,
): Extractor {
  const weights = openFound(found);
  let network: { features(clips: tf.Tensor5D): tf.Tensor2D; dispose(): void; dimensions: number };
  try {
    if (protocol.network === "i3d") {
      const i3d = openI3d(weights, protocol.bn_epsilon);
      const dispose = () => i3d.scope.dispose();
      network = { features: (clips) => i3d.logits(clips), dispose, dimensions: 400 };
    } else {
      const mae = openVideoMae(weights);
      const dispose = () => mae.scope.dispose();
      network = { features: (clips) => mae.features(clips), dispose, dimensions: 1408 };
    }
  } finally {
    weights.close();
  }
  const { resize, range, rounding } = protocol;
  const run = device.compile(`eval/fvd/${protocol.network}`, ({ clips }) => {
    const [b, t, h, w, c] = clips!.shape as [number, number, number, number, number];
    const flat = tf.reshape(tf.cast(clips!, "float32"), [b * t, h, w, c]) as tf.Tensor4D;
    const square = resized(flat, 224, resize);
    const ranged = range === "0..1" ? tf.div(square, 255) : tf.sub(tf.div(square, 127.5), 1);
    return { features: network.features(tf.reshape(ranged, [b, t, 224, 224, c])) };
  });
  return {
    network: protocol.network,
    dimensions: network.dimensions,
    sha256: found.sha256,
    rows: 1,
    extract: (clips) =>
      inParts(clips, protocol.network === "i3d" ? 4 : 1, async (part) => {
        const { features } = await run({ clips: part });
        return features!.data as Float32Array;
      }),
    prepare: (shape, decoded) => rounded(shape, decoded, rounding),
    cache: new FeatureCache(network.dimensions, {
      network: protocol.network,
      sha256: found.sha256,
      bn_epsilon: protocol.bn_epsilon ?? null,
      resize,
      range,
      device: device.info.description,
    }),
    dispose: () => network.dispose(),
  };
}

/** Inception's features of every frame, resized as the convention says. */
export function openFrameExtractor(
  device: Device,
  convention: "tf-original" | "pytorch-fid",
  frames: number,
  found: FoundWeights,
): Extractor {
  const weights = openFound(found);
  let inception: ReturnType<typeof openInceptionV3>;
  try {
    inception = openInceptionV3(weights);
  } finally {
    weights.close();
  }
  const run = device.compile(`eval/fid/${convention}`, ({ clips }) => {
    const [b, t, h, w, c] = clips!.shape as [number, number, number, number, number];
    const flat = tf.reshape(tf.cast(clips!, "float32"), [b * t, h, w, c]) as tf.Tensor4D;
    const legacy = convention === "tf-original";
    const square = resized(flat, inceptionSide, legacy ? "tf1-legacy" : "half-pixel");
    const ranged = legacy ? tf.div(tf.sub(square, 128), 128) : tf.sub(tf.div(square, 127.5), 1);
    return { features: inception.features(ranged as tf.Tensor4D) };
  });
  return {
    network: "inception-fid",
    dimensions: 2048,
    sha256: found.sha256,
    rows: frames,
    extract: (clips) =>
      inParts(clips, 1, async (part) => {
        const { features } = await run({ clips: part });
        return features!.data as Float32Array;
      }),
    prepare: (shape, decoded) => rounded(shape, decoded, "round"),
    cache: new FeatureCache(2048 * frames, {
      network: "inception-fid",
      sha256: found.sha256,
      convention,
      device: device.info.description,
    }),
    dispose: () => inception.scope.dispose(),
  };
}

/** The stand-in that comes with the framework: cheap, so nothing is kept between runs. */
export function openStandIn(device: Device, name: FeatureNetworkName): Extractor {
  const network = openFeatureNetwork(name);
  const run = device.compile(`eval/features/${name}`, ({ clips }) => ({
    features: network.features(normalise(clips!)),
  }));
  return {
    network: name,
    dimensions: network.dimensions,
    sha256: network.sha256,
    rows: 1,
    async extract(clips) {
      const { features } = await run({ clips });
      return features!.data as Float32Array;
    },
    prepare: (shape, decoded) => rounded(shape, decoded, "round"),
    dispose: () => network.dispose(),
  };
}

/** Throws a UserError when clips do not have the frames that a protocol takes. */
export function checkFrames(protocol: VideoProtocol, name: string, frames: number): void {
  const { least, most } = protocol.frames;
  if (frames < least || (most !== undefined && frames > most)) {
    const takes =
      most === undefined
        ? `at least ${least}`
        : least === most
          ? `${least}`
          : `${least} to ${most}`;
    throw new UserError(
      `fvd:${name} takes clips of ${takes} frames, the data set gives ${frames}`,
      "set dataset.frames, or choose another protocol: `tessera eval --list` explains them",
    );
  }
}
