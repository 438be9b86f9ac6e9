/**
 * @file `moving-mnist`: digits that move in a square, made from MNIST's IDX files. Two published motions:
 * `tfds` (TensorFlow Datasets, after Srivastava et al. 2015): 28×28 digits, each with a direction and a
 * speed as a share of the free range a frame, reflected exactly, merged by the brighter pixel; and `svg`
 * (Denton and Fergus 2018): digits resized to 32×32, whole-pixel velocities of −4 to 4, clamped and turned
 * at the walls (or drawn anew there, when `stochastic`), added and clipped.
 */

import { createHash } from "node:crypto";
import { join } from "node:path";
import { canonicalJson } from "../config/hash.ts";
import { UserError } from "../config/errors.ts";
import { closed, type Static, Type } from "../config/schema.ts";
import { Random } from "../runtime/random.ts";
import { readIdx } from "./containers/arrays.ts";
import type { Dataset, Sample } from "./dataset.ts";
import { firstThere } from "./layouts/find.ts";
import { existing, type Split } from "./listing.ts";
import { resizeBilinear } from "./resize.ts";

export const schema = closed(
  {
    type: Type.Literal("moving-mnist"),
    path: Type.String({
      minLength: 1,
      description:
        "Folder of train-images-idx3-ubyte and t10k-images-idx3-ubyte (with labels; .gz or not).",
    }),
    motion: Type.Enum(["tfds", "svg"], { default: "tfds", description: "Whose motion." }),
    stochastic: Type.Boolean({
      default: false,
      description: "svg: draw a new velocity at each wall, so that futures differ.",
    }),
    digits: Type.Integer({ minimum: 1, default: 2, description: "Digits of a clip." }),
    frames: Type.Integer({ minimum: 1, default: 20, description: "Frames of a clip." }),
    height: Type.Integer({
      minimum: 32,
      default: 64,
      description: "Pixel rows; as many as columns.",
    }),
    width: Type.Integer({ minimum: 32, default: 64, description: "Pixel columns." }),
    fps: Type.Number({ exclusiveMinimum: 0, default: 10, description: "Frames a second." }),
    size: Type.Integer({ minimum: 1, default: 10_000, description: "Clips of a training epoch." }),
    validation_size: Type.Integer({
      minimum: 1,
      default: 1000,
      description: "Held-out clips: digits of MNIST's test set, always the same ones.",
    }),
    infinite: Type.Boolean({
      default: true,
      description: "Draw new training clips in every epoch instead of repeating them.",
    }),
  },
  { description: "Moving MNIST, made from MNIST's IDX files. A single digit is the label." },
);

export type MovingMnistConfig = Static<typeof schema>;

const DIGIT = 28;

/** A point that runs on a line, reflected into [0, 1]. */
export function reflected(position: number): number {
  const within = ((position % 2) + 2) % 2;
  return Math.min(2 - within, within);
}

export interface SvgState {
  readonly x: number;
  readonly y: number;
  readonly dx: number;
  readonly dy: number;
}

/** Top left corners of SVG's motion. @param redraw a new velocity where one is drawn at walls */
export function svgPath(
  start: SvgState,
  frames: number,
  side: number,
  digit: number,
  redraw?: (axis: "x" | "y", away: 1 | -1) => readonly [dx: number, dy: number],
): { x: number; y: number }[] {
  let { x, y, dx, dy } = start;
  const path: { x: number; y: number }[] = [];
  const turn = (axis: "x" | "y", away: 1 | -1): void => {
    if (redraw) {
      [dx, dy] = redraw(axis, away);
    } else if (axis === "x") {
      dx = -dx;
    } else {
      dy = -dy;
    }
  };
  for (let t = 0; t < frames; t++) {
    if (y < 0) {
      y = 0;
      turn("y", 1);
    } else if (y >= side - digit) {
      y = side - digit - 1;
      turn("y", -1);
    }
    if (x < 0) {
      x = 0;
      turn("x", 1);
    } else if (x >= side - digit) {
      x = side - digit - 1;
      turn("x", -1);
    }
    path.push({ x, y });
    y += dy;
    x += dx;
  }
  return path;
}

interface Digits {
  /** [n, 28, 28] */
  readonly images: Uint8Array;
  readonly labels: Uint8Array;
  readonly count: number;
}

function readDigits(path: string, split: Split): Digits {
  const name = split === "train" ? "train" : "t10k";
  const find = (kind: "images" | "labels"): string => {
    const idx = kind === "images" ? "idx3" : "idx1";
    const names = [`${name}-${kind}-${idx}-ubyte`, `${name}-${kind}.${idx}-ubyte`];
    const found = firstThere(path, [...names, ...names.map((file) => `${file}.gz`)]);
    if (found === undefined) {
      throw new UserError(`${path} has no ${names[0]} (or ${names[0]}.gz)`, "Put MNIST's four IDX files there."); // biome-ignore format: one call
    }
    return found;
  };
  const read = (kind: "images" | "labels") => {
    const file = find(kind);
    try {
      return readIdx(file);
    } catch (error) {
      throw new UserError(`${file} ${(error as Error).message}`);
    }
  };
  const [images, labels] = [read("images"), read("labels")];
  const [count, height, width] = images.shape;
  if (height !== DIGIT || width !== DIGIT || labels.shape[0] !== count || !count) {
    throw new UserError(`${join(path, name)}*: expected 28×28 digits and as many labels`);
  }
  return { images: images.data, labels: labels.data, count };
}

/** Open one split. @param seed the run's seed, for the clips of endless training */
export function open(config: MovingMnistConfig, split: Split, seed: number): Promise<Dataset> {
  const { frames, height, width, fps } = config;
  if (height !== width) {
    throw new UserError("moving-mnist's clips are squares: dataset.height and width must be equal");
  }
  const digits = readDigits(existing(config.path, "dataset.path"), split);
  const endless = config.infinite && split === "train";
  const { path: _, ...content } = config;
  const stream = `moving-mnist/${split}${endless ? `/run${seed}` : ""}`;
  const fingerprint = createHash("sha256")
    .update(canonicalJson(["moving-mnist-1", stream, content]))
    .update(digits.images)
    .digest("hex");
  const size = split === "train" ? config.size : config.validation_size;
  return Promise.resolve({
    type: "moving-mnist",
    split,
    size,
    frames,
    height,
    width,
    fps,
    audioRate: 0,
    classes: config.digits === 1 ? Array.from({ length: 10 }, (_v, i) => String(i)) : [],
    fingerprint,
    sampling: { split: split === "train" ? "train digits" : "test digits", motion: config.motion, stochastic: config.stochastic }, // biome-ignore format: one value
    get: (index, visit) =>
      Promise.resolve(draw(config, digits, stream, index, endless ? visit * size + index : index)),
    close: () => Promise.resolve(),
  } satisfies Dataset);
}

function draw(
  config: MovingMnistConfig,
  digits: Digits,
  stream: string,
  index: number,
  step: number,
): Sample {
  const { frames, height: side } = config;
  const random = new Random(config.infinite ? 1 : 0, stream, step);
  const grey = new Uint8Array(frames * side * side);
  const chosen: number[] = [];
  for (let d = 0; d < config.digits; d++) {
    const which = random.int(digits.count);
    chosen.push(digits.labels[which]!);
    const image = digits.images.subarray(which * DIGIT * DIGIT, (which + 1) * DIGIT * DIGIT);
    if (config.motion === "tfds") {
      moveTfds(grey, image, side, frames, random);
    } else {
      moveSvg(grey, image, side, frames, random, config.stochastic);
    }
  }
  const clip = new Uint8Array(grey.length * 3);
  for (const [i, value] of grey.entries()) {
    clip.fill(value, i * 3, i * 3 + 3);
  }
  return {
    id: `${stream}/${step}`,
    clip,
    label: config.digits === 1 ? chosen[0]! : -1,
    caption: `the digits ${chosen.join(" and ")} move`,
    factors: { digits: chosen, index },
  };
}

/** Half to even, as NumPy and TensorFlow round. */
function roundHalfEven(value: number): number {
  const low = Math.floor(value);
  const part = value - low;
  return part < 0.5 || (part === 0.5 && low % 2 === 0) ? low : low + 1;
}

function moveTfds(
  grey: Uint8Array,
  image: Uint8Array,
  side: number,
  frames: number,
  random: Random,
): void {
  const [x0, y0] = [random.uniform(), random.uniform()];
  const angle = random.uniform() * 2 * Math.PI;
  const [vx, vy] = [0.1 * Math.cos(angle), 0.1 * Math.sin(angle)];
  for (let t = 0; t < frames; t++) {
    const left = roundHalfEven(reflected(x0 + vx * t) * (side - DIGIT));
    const top = roundHalfEven(reflected(y0 + vy * t) * (side - DIGIT));
    for (let i = 0; i < DIGIT; i++) {
      for (let j = 0; j < DIGIT; j++) {
        const to = (t * side + top + i) * side + left + j;
        grey[to] = Math.max(grey[to]!, image[i * DIGIT + j]!);
      }
    }
  }
}

function moveSvg(
  grey: Uint8Array,
  image: Uint8Array,
  side: number,
  frames: number,
  random: Random,
  stochastic: boolean,
): void {
  const digit = 32;
  const sized = resizeBilinear(image, [DIGIT, DIGIT, 1], [digit, digit], "bilinear-antialias");
  const free = Math.max(1, side - digit);
  const start = {
    x: random.int(free),
    y: random.int(free),
    dx: random.int(9) - 4,
    dy: random.int(9) - 4,
  };
  // At a wall: away from it by 1 to 4, along it by −4 to 4.
  const redraw = (axis: "x" | "y", away: 1 | -1): [number, number] => {
    const [off, along] = [away * (1 + random.int(4)), random.int(9) - 4];
    return axis === "x" ? [off, along] : [along, off];
  };
  const path = svgPath(start, frames, side, digit, stochastic ? redraw : undefined);
  for (const [t, { x, y }] of path.entries()) {
    for (let i = 0; i < digit; i++) {
      for (let j = 0; j < digit; j++) {
        const to = (t * side + y + i) * side + x + j;
        grey[to] = Math.min(255, grey[to]! + Math.round(sized[i * digit + j]!));
      }
    }
  }
}
