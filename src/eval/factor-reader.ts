/**
 * @file Reads motion, shape and colour off clips of `moving-shapes`: the colour by votes of the shape's
 * pixels, motion and shape by logistic regression on what shape-track.ts measures, fitted on real
 * training clips. How well it reads real clips stands beside everything it says of generated ones.
 *
 * The pitch that a clip's sound should have follows from the shape's height and size (shapes/sound.ts),
 * so whether sound and picture belong together is a correlation of two curves.
 */

import type { Sample } from "../data/dataset.ts";
import { colours, motionClasses, shapeNames } from "../data/shapes/scene.ts";
import { logSpectra } from "../tokenizers/spectral-audio.ts";
import { fitProbe, type Probe, type ProbeData } from "./probe.ts";
import { type ClipSize, type ShapeTrack, trackShape } from "./shape-track.ts";

export const factorNames = ["motion", "shape", "colour"] as const;
export type FactorName = (typeof factorNames)[number];

const valuesOf: { readonly [name in FactorName]: readonly string[] } = {
  motion: motionClasses,
  shape: shapeNames,
  colour: Object.keys(colours),
};

/** What is read off a clip. */
export type ReadFactors = { readonly [name in FactorName]: string };

export interface FactorReader {
  read(clip: Uint8Array): ReadFactors;
}

/** The class of highest score. */
function classify(probe: Probe, features: Float64Array): number {
  const { classes, dimensions, weights, mean, scale } = probe;
  let [best, top] = [0, Number.NEGATIVE_INFINITY];
  for (let k = 0; k < classes; k++) {
    let logit = weights[k * (dimensions + 1) + dimensions]!;
    for (let i = 0; i < dimensions; i++) {
      logit += weights[k * (dimensions + 1) + i]! * (features[i]! - mean[i]!) * scale[i]!;
    }
    if (logit > top) {
      [best, top] = [k, logit];
    }
  }
  return best;
}

/**
 * Fit a reader.
 * @param samples real clips with their factors
 */
export function fitFactorReader(samples: readonly Sample[], size: ClipSize): FactorReader {
  const tracks = samples.map(({ clip }) => trackShape(clip, size));
  const fit = (name: "motion" | "shape"): Probe => {
    const data: ProbeData = {
      dimensions: tracks[0]![name].length,
      features: Float64Array.from(tracks.flatMap((track) => [...track[name]])),
      labels: Int32Array.from(samples, ({ factors }) =>
        valuesOf[name].indexOf(String(factors![name])),
      ),
    };
    return fitProbe(data, valuesOf[name].length);
  };
  const probes = { motion: fit("motion"), shape: fit("shape") };
  const colourOf = ({ colour }: ShapeTrack): number => colour.indexOf(Math.max(...colour));
  return {
    read(clip) {
      const track = trackShape(clip, size);
      return {
        motion: valuesOf.motion[classify(probes.motion, track.motion)]!,
        shape: valuesOf.shape[classify(probes.shape, track.shape)]!,
        colour: valuesOf.colour[colourOf(track)]!,
      };
    },
  };
}

/**
 * The pitch of each frame of a clip's sound in Hz, by parabolic interpolation: the lowest peak of its
 * spectrum that is at least a third as loud as the loudest, between the lowest and the highest
 * fundamental that the world has (overtones can be as loud as the fundamental).
 * @param rate samples a second
 */
export function pitchCurve(wave: Float32Array, rate: number, frames: number): Float64Array {
  const window = 2 ** Math.round(Math.log2(rate / 10));
  const spectra = logSpectra(wave, wave.length, window);
  const binWidth = rate / window;
  const [low, high] = [Math.floor(180 / binWidth), Math.ceil(880 / binWidth)];
  const pitches = spectra.map((spectrum) => {
    const end = Math.min(high, spectrum.length - 2);
    let peak = low;
    for (let k = low; k <= end; k++) {
      peak = spectrum[k]! > spectrum[peak]! ? k : peak;
    }
    const loud = spectrum[peak]! - Math.log(3);
    for (let k = low; k < peak; k++) {
      if (
        spectrum[k]! >= loud &&
        spectrum[k]! >= spectrum[k - 1]! &&
        spectrum[k]! >= spectrum[k + 1]!
      ) {
        peak = k;
      }
    }
    const [a, b, c] = [spectrum[peak - 1]!, spectrum[peak]!, spectrum[peak + 1]!];
    const shift = (0.5 * (a - c)) / (a - 2 * b + c || 1);
    return (peak + Math.min(1, Math.max(-1, shift))) * binWidth;
  });
  return Float64Array.from({ length: frames }, (_, t) => {
    const at = (t / Math.max(1, frames)) * (pitches.length - 1) + 0.5;
    return pitches[Math.min(pitches.length - 1, Math.round(at))]!;
  });
}

/** The pitch of each frame that the picture calls for, in Hz (shapes/sound.ts, `pitch`). */
export function expectedPitch(clip: Uint8Array, size: ClipSize): Float64Array {
  const { y, areas } = trackShape(clip, size);
  const side = Math.min(size.height, size.width);
  return Float64Array.from(y, (height, t) => {
    const radius = Math.sqrt(areas[t]! / Math.PI);
    return (220 + 440 * (1 - height / size.height)) * (1.25 - radius / side);
  });
}

/** Median absolute difference of two pitch curves, in semitones. */
export function pitchError(a: Float64Array, b: Float64Array): number {
  const differences = [...a].map((value, i) => Math.abs(12 * Math.log2(value / b[i]!)));
  const sorted = differences.toSorted((x, y) => x - y);
  return sorted[Math.floor(sorted.length / 2)]!;
}
