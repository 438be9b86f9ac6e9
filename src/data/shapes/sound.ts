/**
 * @file The sound of `moving-shapes`: a tone whose pitch rises with the shape's height and falls
 * with its size, whose overtones tell the shape, and a click at every contact, reversal and turn.
 * Exact operations only (see scene.ts), rounded once to float32.
 */

import { type Scene, type ShapeName, sinTurns } from "./scene.ts";

/** Amplitudes of the first five harmonics. */
const timbres: { readonly [shape in ShapeName]: readonly number[] } = {
  circle: [1],
  square: [1, 0, 0.33, 0, 0.2],
  triangle: [1, 0, 0.11, 0, 0.04],
  cross: [0.7, 0.7],
  ring: [0.5, 0, 0, 0.6],
  diamond: [0.8, 0.4, 0.27, 0.2],
};

/** Number of samples of a clip: T frames last T / fps seconds. */
export function soundLength(frames: number, fps: number, rate: number): number {
  return Math.round((frames * rate) / fps);
}

/**
 * The pitch at frame `t` in Hz: 220 at the floor to 660 at the top, a small shape up to a
 * quarter higher than a large one.
 */
export function pitch(scene: Scene, height: number, side: number, t: number): number {
  const rise = 1 - scene.y[t]! / height;
  return (220 + 440 * rise) * (1.25 - scene.radius[t]! / side);
}

/**
 * The mono waveform of a scene in [-1, 1].
 * @param rate samples a second; harmonics above 0.45 of it are left out
 */
export function soundScene(
  scene: Scene,
  clip: { readonly height: number; readonly width: number },
  fps: number,
  rate: number,
): Float32Array {
  const frames = scene.x.length;
  const side = Math.min(clip.height, clip.width);
  const out = new Float32Array(soundLength(frames, fps, rate));
  const pitches = scene.x.map((_, t) => pitch(scene, clip.height, side, t));
  const timbre = timbres[scene.shape];
  const total = timbre.reduce((sum, amplitude) => sum + amplitude, 0);
  const fade = Math.max(1, Math.round(0.005 * rate)); // 5 ms against clicks at the ends
  let phase = 0;
  for (let n = 0; n < out.length; n++) {
    // Frame t shows the world at time t / fps; after the last frame the pitch stands.
    const u = Math.min((n * fps) / rate, frames - 1);
    const t = Math.min(Math.floor(u), frames - 1);
    const next = Math.min(t + 1, frames - 1);
    const frequency = pitches[t]! + (pitches[next]! - pitches[t]!) * (u - t);
    phase += frequency / rate;
    phase -= Math.floor(phase);
    let value = 0;
    for (let k = 0; k < timbre.length; k++) {
      if (timbre[k] !== 0 && (k + 1) * frequency < 0.45 * rate) {
        value += timbre[k]! * sinTurns((k + 1) * phase);
      }
    }
    const envelope = Math.min(1, (n + 1) / fade, (out.length - n) / fade);
    out[n] = 0.4 * envelope * (value / total);
  }
  for (const click of scene.clicks) {
    addClick(out, Math.round((click * rate) / fps), rate);
  }
  return out;
}

/** A struck 1.8 kHz tone (or 0.3 of the rate, when that is lower) that dies in about 20 ms. */
function addClick(out: Float32Array, start: number, rate: number): void {
  const step = Math.min(1800 / rate, 0.3);
  const decay = 1 - Math.min(0.5, 200 / rate);
  let level = 0.5;
  for (let n = start, phase = 0.25; n < out.length && level > 0.002; n++, phase += step) {
    out[n] = Math.max(-1, Math.min(1, out[n]! + level * sinTurns(phase)));
    level *= decay;
  }
}
