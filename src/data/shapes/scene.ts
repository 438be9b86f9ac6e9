/**
 * @file The scenes of `moving-shapes`: what is drawn at random for one clip, and the exact path that
 * follows from it. In the spirit of Moving MNIST (Srivastava et al. 2015) and CLEVRER (Yi et al.
 * 2020): a world small enough that its entropy is known.
 *
 * Entropy of the factors with all values allowed (`factorBits` computes it for any choice):
 * motion log2 12 = 3.58, shape log2 6 = 2.58, colour log2 8 = 3, size log2 3 = 1.58, speed
 * log2 3 = 1.58, texture log2 5 = 2.32, background log2 6 = 2.58 bits; and, unknown to the past of
 * the clip, the branch: one of three futures, log2 3 = 1.58 bits. The rest (start, tilt, phases,
 * occluder, background drift, branch time) is continuous or many-valued nuisance.
 *
 * Bytes must be the same on every machine, so only operations that IEEE 754 rounds exactly are used
 * (+ - * / sqrt): `Math.sin` and its kin may differ in the last bit between engines.
 */

import type { Random } from "../../runtime/random.ts";

export const motionClasses = [
  "left",
  "right",
  "up",
  "down",
  "diagonal-up",
  "diagonal-down",
  "clockwise",
  "counterclockwise",
  "grow",
  "shrink",
  "bounce",
  "zigzag",
] as const;
export const shapeNames = ["circle", "square", "triangle", "cross", "ring", "diamond"] as const;
export const colours = {
  red: [220, 40, 40],
  orange: [240, 140, 30],
  yellow: [240, 220, 50],
  green: [50, 190, 70],
  cyan: [70, 215, 225],
  blue: [60, 100, 235],
  purple: [165, 65, 205],
  white: [245, 245, 245],
} as const;
export const textureNames = ["plain", "striped", "checkered", "dotted", "cloudy"] as const;
/** Two shades a background, dark enough that every shape colour stands out. */
export const backgrounds = {
  grey: [48, 50, 54, 92, 95, 100],
  brown: [58, 40, 28, 104, 78, 56],
  olive: [48, 52, 24, 90, 96, 50],
  teal: [20, 54, 58, 44, 96, 100],
  navy: [20, 26, 58, 48, 58, 104],
  maroon: [58, 20, 30, 102, 46, 58],
} as const;
/** Radius over the clip's shorter side. */
export const sizes = { small: 0.12, medium: 0.165, large: 0.21 } as const;
/** Way travelled in the clip over the free way of the shorter side. */
export const speeds = { slow: 0.4, medium: 0.6, fast: 0.85 } as const;

export type Motion = (typeof motionClasses)[number];
export type ShapeName = (typeof shapeNames)[number];
export type Colour = keyof typeof colours;
export type Texture = (typeof textureNames)[number];
export type Background = keyof typeof backgrounds;
export type Size = keyof typeof sizes;
export type Speed = keyof typeof speeds;
/** What happens at the branch: nothing, or one of two turns. */
export type Branch = -1 | 0 | 1;

/** What scenes may be made of. */
export interface World {
  readonly frames: number;
  readonly height: number;
  readonly width: number;
  readonly motions: readonly Motion[];
  readonly shapes: readonly ShapeName[];
  readonly colours: readonly Colour[];
  readonly textures: readonly Texture[];
  readonly sizes: readonly Size[];
  readonly speeds: readonly Speed[];
  /** Probability that a bar hides part of the clip. */
  readonly occlusion: number;
  /** Whether the branch is drawn; else every path goes on as it began. */
  readonly stochastic: boolean;
  readonly moving_background: boolean;
}

export interface Occluder {
  readonly axis: "vertical" | "horizontal";
  /** First pixel column or row, and how many. */
  readonly start: number;
  readonly extent: number;
}

export interface Scene {
  readonly motion: Motion;
  readonly shape: ShapeName;
  readonly colour: Colour;
  readonly size: Size;
  readonly speed: Speed;
  readonly texture: Texture;
  readonly background: Background;
  /** Drift of the background in 1/256 pixel a frame: (x, y). */
  readonly drift: readonly [number, number];
  readonly occluder: Occluder | undefined;
  readonly branch: Branch;
  /** First frame that differs between branches. */
  readonly branchFrame: number;
  /** The shape's rotation in turns. */
  readonly tilt: number;
  /** Centre (pixels; pixel (i, j) covers [j, j+1) × [i, i+1)) and radius by frame. */
  readonly x: readonly number[];
  readonly y: readonly number[];
  readonly radius: readonly number[];
  /** When something clicks, in frames from the clip's start: contacts, reversals, turns. */
  readonly clicks: readonly number[];
}

/** sin(2π·turns) from a polynomial of exact operations; error below 1e-7. */
export function sinTurns(turns: number): number {
  let x = turns - Math.floor(turns + 0.5); // [-0.5, 0.5)
  if (x > 0.25) {
    x = 0.5 - x;
  } else if (x < -0.25) {
    x = -0.5 - x;
  }
  const a = x * 6.283185307179586;
  const s = a * a;
  return (
    a *
    (1 -
      (s / 6) * (1 - (s / 20) * (1 - (s / 42) * (1 - (s / 72) * (1 - (s / 110) * (1 - s / 156))))))
  );
}

/** cos(2π·turns), as exact as `sinTurns`. */
export function cosTurns(turns: number): number {
  return sinTurns(turns + 0.25);
}

const fraction = (value: number): number => value - Math.floor(value);
/** Triangle wave of period 1: 0 at 0, 1 at 1/2. */
const triangle = (value: number): number => 1 - Math.abs(2 * fraction(value) - 1);

/** Bits of each discrete factor of a world; `branch` is what the past cannot tell of the future. */
export function factorBits(world: World): { readonly [factor: string]: number } {
  const p = world.occlusion;
  return {
    motion: Math.log2(world.motions.length),
    shape: Math.log2(world.shapes.length),
    colour: Math.log2(world.colours.length),
    size: Math.log2(world.sizes.length),
    speed: Math.log2(world.speeds.length),
    texture: Math.log2(world.textures.length),
    background: Math.log2(Object.keys(backgrounds).length),
    occluded: p > 0 && p < 1 ? -p * Math.log2(p) - (1 - p) * Math.log2(1 - p) : 0,
    branch: world.stochastic ? Math.log2(3) : 0,
  };
}

/** A path relative to an unknown start: offsets in pixels at progress `p`, and a radius factor. */
type Path = (p: number, branch: number) => readonly [dx: number, dy: number, scale: number];

interface Drawn {
  readonly path: Path;
  /** Progress values at which something clicks. */
  readonly contacts: readonly number[];
  /** Progress at which the branch starts. */
  readonly branchAt: number;
}

/**
 * The path of a motion. Every path has three futures: at `branchAt` it turns one way, the other, or
 * not at all, and nothing before tells which.
 * @param travel pixels that a straight motion covers in the clip
 */
function drawPath(motion: Motion, speed: Speed, travel: number, random: Random): Drawn {
  const branchAt = 0.4 + 0.2 * random.uniform();
  const side = random.int(2) === 0 ? -1 : 1;
  const phase = random.uniform();
  const after = (p: number): number => Math.max(0, p - branchAt);
  const straight = (ux: number, uy: number): Drawn => ({
    // Turning right of the way it goes is (-uy, ux) on a screen whose y points down.
    path: (p, b) => [
      travel * (ux * p - uy * b * after(p)),
      travel * (uy * p + ux * b * after(p)),
      1,
    ],
    contacts: [],
    branchAt,
  });
  const diagonal = 0.7071067811865476;
  switch (motion) {
    case "left":
      return straight(-1, 0);
    case "right":
      return straight(1, 0);
    case "up":
      return straight(0, -1);
    case "down":
      return straight(0, 1);
    case "diagonal-up":
      return straight(side * diagonal, -diagonal);
    case "diagonal-down":
      return straight(side * diagonal, diagonal);
    case "clockwise":
    case "counterclockwise": {
      const turns = (motion === "clockwise" ? 1 : -1) * { slow: 0.5, medium: 0.75, fast: 1 }[speed];
      const orbit = 0.28 * (travel / speeds[speed]);
      return {
        path: (p, b) => {
          const r = orbit * (1 + (b > 0 ? 0.7 : 0.6) * b * (after(p) / (1 - branchAt)));
          return [r * cosTurns(phase + turns * p), r * sinTurns(phase + turns * p), 1];
        },
        contacts: [],
        branchAt,
      };
    }
    case "grow":
    case "shrink": {
      const range = { slow: 0.3, medium: 0.45, fast: 0.6 }[speed];
      return {
        path: (p, b) => [
          0.6 * travel * b * after(p),
          0,
          motion === "grow" ? 1 - range + range * p : 1 - range * p,
        ],
        contacts: [],
        branchAt,
      };
    }
    case "bounce": {
      // Parabolas between contacts with the floor; the turn comes with a contact near mid-clip.
      const bounces = { slow: 1.5, medium: 2.5, fast: 3.5 }[speed];
      const contacts: number[] = [];
      for (let k = 0; k <= bounces + 1; k++) {
        const p = (k - phase) / bounces;
        if (p > 0 && p < 1) {
          contacts.push(p);
        }
      }
      const turn = contacts.find((p) => p >= 0.35) ?? contacts.at(-1) ?? branchAt;
      const height = 0.75 * (travel / speeds[speed]);
      return {
        path: (p, b) => {
          const f = fraction(phase + bounces * p);
          return [0.8 * travel * b * Math.max(0, p - turn), -height * 4 * f * (1 - f), 1];
        },
        contacts,
        branchAt: turn,
      };
    }
    case "zigzag": {
      const cycles = { slow: 1, medium: 1.5, fast: 2 }[speed];
      const contacts: number[] = [];
      for (let k = 0; k <= 2 * (cycles + 1); k++) {
        const p = (k / 2 - phase) / cycles;
        if (p > 0 && p < 1) {
          contacts.push(p);
        }
      }
      const reach = 0.6 * (travel / speeds[speed]);
      return {
        path: (p, b) => [reach * triangle(phase + cycles * p), 0.8 * travel * b * after(p), 1],
        contacts,
        branchAt,
      };
    }
  }
}

const keysOf = <K extends string>(record: { readonly [key in K]: unknown }): K[] =>
  Object.keys(record) as K[];

/**
 * Draw one scene.
 * @param motion the class, given so that classes can be balanced exactly
 * @param random the clip's own stream; the same stream gives the same scene
 */
export function drawScene(world: World, motion: Motion, random: Random): Scene {
  const { frames, height, width } = world;
  const side = Math.min(height, width);
  const shape = random.choice(world.shapes);
  const colour = random.choice(world.colours);
  const size = random.choice(world.sizes);
  const speed = random.choice(world.speeds);
  const texture = random.choice(world.textures);
  const background = random.choice(keysOf(backgrounds));
  const driftStep = [0, 2, 4][random.int(3)]! * side; // 1/256 pixel: 0, 1/128 or 1/64 side a frame
  const [driftX, driftY] = [random.int(3) - 1, random.int(3) - 1];
  const tilt = (random.uniform() - 0.5) * 0.12;

  // Below about three pixels across no shape can be told from another.
  const radius = Math.max(sizes[size] * side, 1.5);
  const free = Math.max(0, side - 2 * radius - 1);
  const { path, contacts, branchAt } = drawPath(motion, speed, speeds[speed] * free, random);
  const progress = Array.from({ length: frames }, (_, t) => (frames > 1 ? t / (frames - 1) : 0));
  const branch = ((random.int(3) - 1) * (world.stochastic ? 1 : 0)) as Branch;

  // The start is drawn so that every future stays in view: it must not tell which one comes.
  const futures = progress.flatMap((p) => [-1, 0, 1].map((b) => path(p, b)));
  const place = (axis: 0 | 1, length: number): { start: number; scale: number } => {
    const offsets = futures.map((point) => point[axis]);
    const [low, high] = [Math.min(...offsets), Math.max(...offsets)];
    const room = Math.max(0, length - 2 * radius - 1);
    const scale = high - low > room ? room / (high - low) : 1;
    const slack = room - (high - low) * scale;
    return { start: radius + 0.5 - low * scale + slack * random.uniform(), scale };
  };
  const across = place(0, width);
  const along = place(1, height);
  const points = progress.map((p) => path(p, branch));

  let occluder: Occluder | undefined;
  const hidden = random.uniform() < world.occlusion;
  const axis = random.int(2) === 0 ? "vertical" : "horizontal";
  const extent = Math.max(1, Math.round((0.1 + 0.08 * random.uniform()) * side));
  const room = (axis === "vertical" ? width : height) - extent;
  const start = Math.round((0.2 + 0.6 * random.uniform()) * room);
  if (hidden) {
    occluder = { axis, start, extent };
  }
  const last = Math.max(0, frames - 1);
  const turn = branch === 0 || contacts.includes(branchAt) ? [] : [branchAt];
  return {
    motion,
    shape,
    colour,
    size,
    speed,
    texture,
    background,
    drift: world.moving_background ? [driftX * driftStep, driftY * driftStep] : [0, 0],
    occluder,
    branch,
    branchFrame: Math.min(last, Math.floor(branchAt * last) + 1),
    tilt,
    x: points.map((point) => across.start + across.scale * point[0]),
    y: points.map((point) => along.start + along.scale * point[1]),
    radius: points.map((point) => radius * point[2]),
    clicks: frames > 1 ? [...contacts, ...turn].sort((a, b) => a - b).map((p) => p * last) : [],
  };
}

const motionPhrases: { readonly [motion in Motion]: string } = {
  left: "moves left",
  right: "moves right",
  up: "moves up",
  down: "moves down",
  "diagonal-up": "rises diagonally",
  "diagonal-down": "falls diagonally",
  clockwise: "circles clockwise",
  counterclockwise: "circles counterclockwise",
  grow: "grows",
  shrink: "shrinks",
  bounce: "bounces",
  zigzag: "zigzags",
};

/** The words of the two turns, by motion. */
function turnPhrase(motion: Motion, branch: Branch): string {
  const [negative, positive] =
    motion === "clockwise" || motion === "counterclockwise"
      ? ["spirals in", "spirals out"]
      : motion === "grow" || motion === "shrink" || motion === "bounce"
        ? ["drifts left", "drifts right"]
        : motion === "zigzag"
          ? ["drifts up", "drifts down"]
          : ["turns to its left", "turns to its right"];
  return branch < 0 ? negative! : positive!;
}

/** A sentence about a scene, e.g. "a large red circle moves left quickly over a striped grey background". */
export function describe(scene: Scene): string {
  const adverb = { slow: " slowly", medium: "", fast: " quickly" }[scene.speed];
  const bar = scene.occluder ? `, behind a ${scene.occluder.axis} bar` : "";
  const turn = scene.branch === 0 ? "" : `, then ${turnPhrase(scene.motion, scene.branch)}`;
  return (
    `a ${scene.size} ${scene.colour} ${scene.shape} ${motionPhrases[scene.motion]}${adverb}` +
    ` over a ${scene.texture} ${scene.background} background${bar}${turn}`
  );
}
