/**
 * @file Pixels of `moving-shapes` scenes: a drifting periodic texture, the shape by its signed
 * distance (one pixel of anti-aliasing), and the occluder. Integer blends throughout, so that the
 * bytes are the same on every machine.
 */

import type { Random } from "../../runtime/random.ts";
import {
  backgrounds,
  colours,
  cosTurns,
  type Scene,
  type ShapeName,
  sinTurns,
  type Texture,
} from "./scene.ts";

/** Colour of the bar, which no shape and no background has. */
const BAR = [150, 150, 150] as const;

/** A soft step: 0 below, 1 above, linear over `1 / steepness` around 1/2. */
const soft = (value: number, steepness: number): number =>
  Math.min(1, Math.max(0, (value - 0.5) * steepness + 0.5));
const triangle = (value: number): number => 1 - Math.abs(2 * (value - Math.floor(value)) - 1);

/** One periodic octave of value noise on a lattice of `cells` × `cells`. */
function valueNoise(side: number, cells: number, random: Random): Float64Array {
  const lattice = Float64Array.from({ length: cells * cells }, () => random.uniform());
  const low = new Int32Array(side);
  const mix = new Float64Array(side);
  for (let i = 0; i < side; i++) {
    const u = (i * cells) / side;
    const f = u - Math.floor(u);
    low[i] = Math.floor(u);
    mix[i] = f * f * (3 - 2 * f);
  }
  const out = new Float64Array(side * side);
  for (let y = 0; y < side; y++) {
    const top = low[y]! * cells;
    const bottom = ((low[y]! + 1) % cells) * cells;
    for (let x = 0; x < side; x++) {
      const left = low[x]!;
      const right = (left + 1) % cells;
      const a = lattice[top + left]!;
      const c = lattice[bottom + left]!;
      const upper = a + (lattice[top + right]! - a) * mix[x]!;
      const lower = c + (lattice[bottom + right]! - c) * mix[x]!;
      out[y * side + x] = upper + (lower - upper) * mix[y]!;
    }
  }
  return out;
}

/** The mixing weights (0..255) of the two shades on a periodic tile, [side, side]. */
function textureTile(texture: Texture, side: number, random: Random): Uint8Array {
  const tile = new Uint8Array(side * side);
  const cycles = Math.min(4, Math.max(1, Math.round(side / 8)));
  const steepness = Math.max(2, side / cycles / 2);
  const fill = (weight: (x: number, y: number) => number): void => {
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) {
        tile[y * side + x] = Math.round(255 * weight((x + 0.5) / side, (y + 0.5) / side));
      }
    }
  };
  switch (texture) {
    case "plain":
      break;
    case "striped": {
      const [a, b] = [
        [cycles, 0],
        [0, cycles],
        [cycles, cycles],
        [cycles, -cycles],
      ][random.int(4)] as [number, number];
      fill((x, y) => soft(triangle(a * x + b * y), steepness));
      break;
    }
    case "checkered": {
      const half = Math.max(1, cycles / 2);
      const wave = (u: number): number => soft(triangle(Math.round(half) * u), steepness) * 2 - 1;
      const row = Float64Array.from({ length: side }, (_, i) => wave((i + 0.5) / side));
      for (let y = 0; y < side; y++) {
        for (let x = 0; x < side; x++) {
          tile[y * side + x] = Math.round(127.5 * (1 + row[x]! * row[y]!));
        }
      }
      break;
    }
    case "dotted":
      fill((x, y) => {
        const u = triangle(cycles * x) - 1;
        const v = triangle(cycles * y) - 1;
        return soft(1.1 - Math.sqrt(u * u + v * v), steepness / 2);
      });
      break;
    case "cloudy": {
      const coarse = valueNoise(side, Math.min(4, side), random);
      const fine = valueNoise(side, Math.min(8, side), random);
      for (let i = 0; i < tile.length; i++) {
        tile[i] = Math.round(255 * soft((2 * coarse[i]! + fine[i]!) / 3, 1.8));
      }
      break;
    }
  }
  return tile;
}

/**
 * Signed distance in units of the radius: negative inside, exact near the edge.
 * @param x, y position in the shape's own axes over its radius
 */
function signedDistance(shape: ShapeName, x: number, y: number): number {
  switch (shape) {
    case "circle":
      return Math.sqrt(x * x + y * y) - 0.95;
    case "ring":
      return Math.abs(Math.sqrt(x * x + y * y) - 0.72) - 0.26;
    case "square":
      return Math.max(Math.abs(x), Math.abs(y)) - 0.8;
    case "diamond":
      // |x| / 0.6 + |y| <= 1, scaled so that the gradient has length one.
      return (Math.abs(x) / 0.6 + Math.abs(y) - 1) * 0.5144957554275265;
    case "triangle": {
      const slope = 0.8660254037844386 * Math.abs(x) - 0.5 * y;
      return Math.max(slope, y) - 0.5;
    }
    case "cross": {
      const [a, b] = [Math.abs(x), Math.abs(y)];
      return Math.min(Math.max(a - 0.95, b - 0.32), Math.max(a - 0.32, b - 0.95));
    }
  }
}

/** Blend the shape of frame `t` into `frame` [H, W, 3]. */
function drawShape(
  frame: Uint8Array,
  height: number,
  width: number,
  scene: Scene,
  t: number,
): void {
  const [cx, cy, radius] = [scene.x[t]!, scene.y[t]!, scene.radius[t]!];
  const [r, g, b] = colours[scene.colour];
  const cos = cosTurns(scene.tilt) / radius;
  const sin = sinTurns(scene.tilt) / radius;
  const reach = radius + 1;
  const left = Math.max(0, Math.floor(cx - reach));
  const right = Math.min(width - 1, Math.ceil(cx + reach));
  const top = Math.max(0, Math.floor(cy - reach));
  const bottom = Math.min(height - 1, Math.ceil(cy + reach));
  for (let i = top; i <= bottom; i++) {
    const dy = i + 0.5 - cy;
    for (let j = left; j <= right; j++) {
      const dx = j + 0.5 - cx;
      const distance = signedDistance(scene.shape, dx * cos + dy * sin, dy * cos - dx * sin);
      const cover = Math.round(256 * (0.5 - distance * radius));
      if (cover <= 0) {
        continue;
      }
      const a = cover > 256 ? 256 : cover;
      const at = (i * width + j) * 3;
      frame[at] = (frame[at]! * (256 - a) + r * a + 128) >> 8;
      frame[at + 1] = (frame[at + 1]! * (256 - a) + g * a + 128) >> 8;
      frame[at + 2] = (frame[at + 2]! * (256 - a) + b * a + 128) >> 8;
    }
  }
}

/** The texture of one frame, moved by (ox, oy) in 1/256 pixel, through the table of shades. */
function drawBackground(
  frame: Uint8Array,
  height: number,
  width: number,
  tile: Uint8Array,
  shades: Uint8Array,
  ox: number,
  oy: number,
): void {
  const side = Math.max(height, width);
  const [fx, fy] = [ox & 255, oy & 255];
  const wrap = (value: number): number => ((value % side) + side) % side;
  const [ix, iy] = [wrap(ox >> 8), wrap(oy >> 8)];
  const row = new Int32Array(width + 1);
  let at = 0;
  for (let i = 0; i < height; i++) {
    const upper = wrap(i + iy) * side;
    const lower = wrap(i + iy + 1) * side;
    let x = ix;
    for (let j = 0; j <= width; j++) {
      row[j] = tile[upper + x]! * (256 - fy) + tile[lower + x]! * fy; // 8.8 fixed point
      x = x + 1 === side ? 0 : x + 1;
    }
    for (let j = 0; j < width; j++) {
      const shade = ((row[j]! * (256 - fx) + row[j + 1]! * fx + 0x8000) >> 16) * 3;
      frame[at] = shades[shade]!;
      frame[at + 1] = shades[shade + 1]!;
      frame[at + 2] = shades[shade + 2]!;
      at += 3;
    }
  }
}

function drawBar(frame: Uint8Array, height: number, width: number, scene: Scene): void {
  if (!scene.occluder) {
    return;
  }
  const { axis, start, extent } = scene.occluder;
  const [top, bottom] = axis === "horizontal" ? [start, start + extent] : [0, height];
  const [left, right] = axis === "vertical" ? [start, start + extent] : [0, width];
  for (let i = top; i < bottom; i++) {
    for (let j = left; j < right; j++) {
      frame.set(BAR, (i * width + j) * 3);
    }
  }
}

/**
 * Render a scene.
 * @param random the clip's own stream, after `drawScene` took its numbers
 * @returns [T, H, W, 3] RGB bytes
 */
export function renderScene(
  scene: Scene,
  shape: { readonly frames: number; readonly height: number; readonly width: number },
  random: Random,
): Uint8Array {
  const { frames, height, width } = shape;
  const tile = textureTile(scene.texture, Math.max(height, width), random);
  const [phaseX, phaseY] = [random.int(256 * height), random.int(256 * width)];
  const [r0, g0, b0, r1, g1, b1] = backgrounds[scene.background];
  const shades = new Uint8Array(256 * 3);
  for (let k = 0; k < 256; k++) {
    shades[k * 3] = Math.round(r0 + ((r1 - r0) * k) / 255);
    shades[k * 3 + 1] = Math.round(g0 + ((g1 - g0) * k) / 255);
    shades[k * 3 + 2] = Math.round(b0 + ((b1 - b0) * k) / 255);
  }
  const [dx, dy] = scene.drift;
  const size = height * width * 3;
  const clip = new Uint8Array(frames * size);
  const still = dx === 0 && dy === 0;
  const scenery = new Uint8Array(size);
  if (still) {
    drawBackground(scenery, height, width, tile, shades, phaseX, phaseY);
  }
  for (let t = 0; t < frames; t++) {
    const frame = clip.subarray(t * size, (t + 1) * size);
    if (still) {
      frame.set(scenery);
    } else {
      drawBackground(frame, height, width, tile, shades, phaseX - t * dx, phaseY - t * dy);
    }
    drawShape(frame, height, width, scene, t);
    drawBar(frame, height, width, scene);
  }
  return clip;
}
