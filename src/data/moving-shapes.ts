/**
 * @file `moving-shapes`: the procedural audio-visual data set. Needs no files, knows its factors
 * exactly, and has futures that its past does not tell (see shapes/scene.ts for the world and its
 * entropy).
 *
 * Clip `index` of a split is a pure function of (seed, split, index), and of the visit and the run's
 * seed too when `infinite`. The splits draw from different random streams; factors are continuous,
 * so no clip of one is met in the other. Item i has class i modulo the number of classes: an epoch
 * is balanced exactly when its size is a multiple of that number.
 */

import { createHash } from "node:crypto";
import canonicalize from "canonicalize";
import { closed, type Static, Type } from "../config/schema.ts";
import type { Dataset, Sample } from "./dataset.ts";
import { WorkerPool } from "./pool.ts";
import { type RenderTask, renderSample } from "./shapes/sample.ts";
import { colours, motionClasses, shapeNames, sizes, speeds, textureNames } from "./shapes/scene.ts";

/** Changes whenever the bytes of any clip change. */
const GENERATOR = "moving-shapes-1";

const colourNames = Object.keys(colours) as (keyof typeof colours)[];
const sizeNames = Object.keys(sizes) as (keyof typeof sizes)[];
const speedNames = Object.keys(speeds) as (keyof typeof speeds)[];

/** A non-empty subset of a list of names, all by default. */
function subset<const Name extends string>(names: readonly Name[], description: string) {
  return Type.Array(Type.Enum([...names]), {
    description,
    default: [...names],
    minItems: 1,
    uniqueItems: true,
  });
}

export const schema = closed(
  {
    type: Type.Literal("moving-shapes"),
    frames: Type.Integer({
      minimum: 1,
      default: 17,
      description: "Frames of a clip; 1 makes images.",
    }),
    height: Type.Integer({ minimum: 8, default: 32, description: "Pixel rows." }),
    width: Type.Integer({ minimum: 8, default: 32, description: "Pixel columns." }),
    fps: Type.Number({
      exclusiveMinimum: 0,
      default: 8,
      description: "Frames a second. Sets the duration of the sound and of written videos.",
    }),
    size: Type.Integer({ minimum: 1, default: 4800, description: "Clips of a training epoch." }),
    validation_size: Type.Integer({
      minimum: 1,
      default: 480,
      description: "Clips of the validation split, which is the same in every run of one seed.",
    }),
    infinite: Type.Boolean({
      default: false,
      description:
        "Draw new training clips in every epoch (and by every run seed) instead of repeating them.",
    }),
    seed: Type.Integer({
      minimum: 0,
      default: 0,
      description:
        "Seed of the world. Apart from the run's seed, so that runs of several seeds share their data.",
    }),
    motions: subset(motionClasses, "Motion classes to draw from: the labels, in this order."),
    shapes: subset(shapeNames, "Shapes to draw from."),
    colours: subset(colourNames, "Shape colours to draw from."),
    textures: subset(textureNames, "Background textures to draw from."),
    sizes: subset(sizeNames, "Sizes of the shape to draw from."),
    speeds: subset(speedNames, "Speeds to draw from: how far the shape goes in the clip."),
    occlusion: Type.Number({
      minimum: 0,
      maximum: 1,
      default: 0.3,
      description: "Probability that a grey bar hides a part of the clip.",
    }),
    stochastic: Type.Boolean({
      default: true,
      description: "Let paths branch at random near mid-clip, so that the future has three modes.",
    }),
    moving_background: Type.Boolean({ default: true, description: "Let backgrounds drift." }),
    audio_rate: Type.Integer({
      minimum: 0,
      default: 0,
      description: "Samples a second of the mono sound track; 0 makes none.",
    }),
    workers: Type.Integer({
      minimum: 0,
      default: 0,
      description: "Threads that render; 0 renders in the main thread.",
      semantic: false,
    }),
  },
  { description: "Procedural clips: one shape in motion over a drifting texture, with sound." },
);

export type MovingShapesConfig = Static<typeof schema>;

/** Open one split. @param seed the run's seed, used only when `infinite` */
export function open(
  config: MovingShapesConfig,
  split: "train" | "validation",
  seed: number,
): Promise<Dataset> {
  const endless = config.infinite && split === "train";
  const stream = `moving-shapes/${split}${endless ? `/run${seed}` : ""}`;
  const { workers, ...content } = config;
  const pool = workers > 0 ? new WorkerPool(workers) : undefined;
  return Promise.resolve({
    type: "moving-shapes",
    split,
    size: split === "train" ? config.size : config.validation_size,
    frames: config.frames,
    height: config.height,
    width: config.width,
    fps: config.fps,
    audioRate: config.audio_rate,
    classes: config.motions,
    fingerprint: createHash("sha256")
      .update(canonicalize([GENERATOR, stream, content])!)
      .digest("hex"),
    get: async (index, visit) => {
      const task: RenderTask = { config, stream, index, visit: endless ? visit : 0 };
      if (pool) {
        return pool.run<Sample>("render", task);
      }
      // A turn of the event loop, so that rendering ahead fills the time a device computes.
      await new Promise<void>((resolve) => {
        setImmediate(resolve);
      });
      return renderSample(task);
    },
    close: async () => {
      await pool?.close();
    },
  } satisfies Dataset);
}
