/**
 * @file Reads the shape of a `moving-shapes` clip off its pixels: where it is in each frame, how large,
 * of which colour, and numbers that tell its outline and its path. Shapes are bright and backgrounds
 * dark (shapes/scene.ts), so brightness separates them; the grey bar is told by its colour.
 *
 * Outline and path become features for a linear classifier (factor-reader.ts); the colour needs none.
 */

import { colours } from "../data/shapes/scene.ts";

/** Frames of a path are resampled to this many points. */
const POINTS = 9;
/** Rings of the radial profile, in equivalent radii (that of a disc of equal area). */
const RINGS = 8;
const RING_WIDTH = 0.25;
/** Angular harmonics of the outline. */
const HARMONICS = [2, 3, 4, 5, 6, 8] as const;

const palette = Object.values(colours);
/** The bar's colour (shapes/render.ts) and how near to it a pixel is taken for it. */
const BAR = 150;
const BAR_DISTANCE = 45;
/** A pixel whose largest channel is below DARK is background, above BRIGHT all shape. */
const DARK = 112;
const BRIGHT = 180;

export interface ClipSize {
  readonly frames: number;
  readonly height: number;
  readonly width: number;
}

/** What is read off one clip. */
export interface ShapeTrack {
  /** Votes of the shape's pixels for each colour, in the palette's order; they sum to 1 or 0. */
  readonly colour: Float64Array;
  /** The path: positions, sizes and their changes. */
  readonly motion: Float64Array;
  /** The outline, mean over frames. */
  readonly shape: Float64Array;
  /** Mean area over frames in pixels: 0 when there is no shape. */
  readonly area: number;
  /** Height of the centre by frame, in pixels from the top. */
  readonly y: readonly number[];
  /** Area by frame. */
  readonly areas: readonly number[];
}

/** How much a pixel belongs to the shape: 0 to 1. */
function shapeness(red: number, green: number, blue: number): number {
  const peak = Math.max(red, green, blue);
  if (peak <= DARK) {
    return 0;
  }
  const bar = Math.hypot(red - BAR, green - BAR, blue - BAR);
  if (bar < BAR_DISTANCE) {
    return 0;
  }
  return Math.min(1, (peak - DARK) / (BRIGHT - DARK));
}

/** The index of the nearest colour of the palette. */
function nearestColour(red: number, green: number, blue: number): number {
  let best = 0;
  let least = Number.POSITIVE_INFINITY;
  for (const [i, [r, g, b]] of palette.entries()) {
    const distance = (red - r) ** 2 + (green - g) ** 2 + (blue - b) ** 2;
    if (distance < least) {
      [best, least] = [i, distance];
    }
  }
  return best;
}

/**
 * Read a clip.
 * @param clip [T, H, W, 3] bytes
 */
export function trackShape(clip: Uint8Array, { frames, height, width }: ClipSize): ShapeTrack {
  const colour = new Float64Array(palette.length);
  const outline = new Float64Array(RINGS + HARMONICS.length);
  const xs: number[] = [];
  const ys: number[] = [];
  const areas: number[] = [];
  const alpha = new Float64Array(height * width);
  let seen = 0;
  for (let t = 0; t < frames; t++) {
    let [mass, sumX, sumY] = [0, 0, 0];
    for (let i = 0; i < height * width; i++) {
      const at = (t * height * width + i) * 3;
      const [red, green, blue] = [clip[at]!, clip[at + 1]!, clip[at + 2]!];
      const a = shapeness(red, green, blue);
      alpha[i] = a;
      if (a > 0) {
        mass += a;
        sumX += a * ((i % width) + 0.5);
        sumY += a * (Math.floor(i / width) + 0.5);
        colour[nearestColour(red, green, blue)]! += a * a;
      }
    }
    areas.push(mass);
    const last = xs.length - 1;
    xs.push(mass > 1 ? sumX / mass : last < 0 ? width / 2 : xs[last]!);
    ys.push(mass > 1 ? sumY / mass : last < 0 ? height / 2 : ys[last]!);
    if (mass > 1) {
      addOutline(outline, alpha, width, xs[t]!, ys[t]!, mass);
      seen++;
    }
  }
  const votes = colour.reduce((sum, vote) => sum + vote, 0);
  return {
    colour: votes > 0 ? colour.map((vote) => vote / votes) : colour,
    motion: pathFeatures(xs, ys, areas, Math.min(height, width)),
    shape: outlineFeatures(outline, Math.max(1, seen)),
    area: areas.reduce((sum, area) => sum + area, 0) / frames,
    y: ys,
    areas,
  };
}

/** Add one frame's radial profile and angular harmonics. */
function addOutline(
  outline: Float64Array,
  alpha: Float64Array,
  width: number,
  x: number,
  y: number,
  mass: number,
): void {
  const radius = Math.sqrt(mass / Math.PI);
  const rings = new Float64Array(RINGS);
  const real = new Float64Array(HARMONICS.length);
  const imaginary = new Float64Array(HARMONICS.length);
  for (const [i, a] of alpha.entries()) {
    if (a === 0) {
      continue;
    }
    const dx = (i % width) + 0.5 - x;
    const dy = Math.floor(i / width) + 0.5 - y;
    const r = Math.hypot(dx, dy) / radius;
    const ring = Math.floor(r / RING_WIDTH);
    if (ring < RINGS) {
      rings[ring]! += a;
    }
    const angle = Math.atan2(dy, dx);
    for (const [k, harmonic] of HARMONICS.entries()) {
      real[k]! += a * r * r * Math.cos(harmonic * angle);
      imaginary[k]! += a * r * r * Math.sin(harmonic * angle);
    }
  }
  rings.forEach((ring, i) => (outline[i]! += ring / mass));
  HARMONICS.forEach((_, k) => {
    outline[RINGS + k]! += Math.hypot(real[k]!, imaginary[k]!) / mass;
  });
}

/** Means over frames and their pairwise products: a quadratic classifier from a linear one. */
function outlineFeatures(outline: Float64Array, frames: number): Float64Array {
  const means = [...outline].map((value) => value / frames);
  const products = means.flatMap((a, i) => means.slice(i).map((b) => a * b));
  return Float64Array.from([...means, ...products]);
}

/** Positions relative to the first, sizes, turns and reversals of a path. */
function pathFeatures(
  xs: readonly number[],
  ys: readonly number[],
  areas: readonly number[],
  side: number,
): Float64Array {
  const at = (values: readonly number[], point: number): number => {
    const u = (point / (POINTS - 1)) * (values.length - 1);
    const low = Math.floor(u);
    const high = Math.min(values.length - 1, low + 1);
    return values[low]! + (values[high]! - values[low]!) * (u - low);
  };
  const points = Array.from({ length: POINTS }, (_, i) => i);
  const x = points.map((p) => at(xs, p) / side);
  const y = points.map((p) => at(ys, p) / side);
  const first = Math.max(1, areas[0]!);
  const size = points.map((p) => Math.log(Math.max(0.1, at(areas, p) / first)));
  const vx = x.slice(1).map((value, i) => value - x[i]!);
  const vy = y.slice(1).map((value, i) => value - y[i]!);
  const turns = vx.slice(1).map((value, i) => vx[i]! * vy[i + 1]! - vy[i]! * value);
  const speed = vx.map((value, i) => Math.hypot(value, vy[i]!));
  const length = speed.reduce((sum, value) => sum + value, 0);
  const reversals = (v: readonly number[]): number =>
    v.slice(1).filter((value, i) => value * v[i]! < -1e-5).length;
  const bends = (v: readonly number[]): number =>
    v.slice(1).reduce((sum, value, i) => sum + Math.abs(value - v[i]!), 0);
  const spread = (v: readonly number[]): number => Math.max(...v) - Math.min(...v);
  const net = Math.hypot(x.at(-1)! - x[0]!, y.at(-1)! - y[0]!);
  return Float64Array.from([
    ...x.slice(1).map((value) => value - x[0]!),
    ...y.slice(1).map((value) => value - y[0]!),
    ...size.slice(1),
    ...turns,
    turns.reduce((sum, turn) => sum + turn, 0) / (length * length + 1e-3),
    reversals(vx),
    reversals(vy),
    bends(vx),
    bends(vy),
    spread(x),
    spread(y),
    length,
    net,
    net / (length + 1e-2),
    spread(size),
    Math.abs(size.at(-1)!),
  ]);
}
