/**
 * @file Noise schedules of diffusion: z_t = α_t x + σ_t ε with α² + σ² = 1 and t = 0..T-1, where the
 * last step is pure noise (zero terminal SNR; Lin et al. 2024, "Common diffusion noise schedules and
 * sample steps are flawed"): sampling starts from noise, so training has to know it.
 *
 * Networks predict v = α ε - σ x (Salimans & Ho 2022), from which x = α z - σ v and ε = σ z + α v at
 * every step, the last one too, where ε would say nothing about x.
 */

import * as tf from "@tensorflow/tfjs-core";
import { Type } from "../config/schema.ts";

export const noiseScheduleSchema = Type.Union([Type.Literal("linear"), Type.Literal("cosine")], {
  default: "linear",
  description:
    "Noise over time: DDPM's linear variances, rescaled to zero terminal SNR (W.A.L.T), or the cosine of Nichol & Dhariwal 2021.",
});
export type NoiseScheduleName = "linear" | "cosine";

/** What is left of the signal and what has been added as noise, by step. */
export interface NoiseSchedule {
  readonly alpha: Float64Array;
  readonly sigma: Float64Array;
}

/**
 * The schedule of `steps` steps (at least 2).
 * @param zeroTerminal false leaves a rest of the signal in the last step, as DDPM does, though sampling
 *   starts from pure noise: what zero terminal SNR mends
 */
export function noiseSchedule(
  name: NoiseScheduleName,
  steps: number,
  zeroTerminal = true,
): NoiseSchedule {
  const alpha = name === "linear" ? linear(steps, zeroTerminal) : cosine(steps);
  if (zeroTerminal) {
    alpha[steps - 1] = 0; // exactly, not up to rounding
  }
  return { alpha, sigma: alpha.map((a) => Math.sqrt(1 - a * a)) };
}

/** β from 1e-4 to 0.02 at 1000 steps (Ho et al. 2020), then Lin et al. 2024, algorithm 1. */
function linear(steps: number, rescaled: boolean): Float64Array {
  const scale = 1000 / steps;
  let product = 1;
  const roots = Float64Array.from({ length: steps }, (_, t) => {
    const beta = scale * (1e-4 + ((0.02 - 1e-4) * t) / (steps - 1));
    product *= 1 - Math.min(beta, 0.999);
    return Math.sqrt(product);
  });
  if (!rescaled) {
    return roots;
  }
  const [first, last] = [roots[0]!, roots[steps - 1]!];
  return roots.map((root) => ((root - last) * first) / (first - last));
}

function cosine(steps: number): Float64Array {
  const offset = 0.008;
  const at = (t: number) => Math.cos((((t / steps + offset) / (1 + offset)) * Math.PI) / 2);
  return Float64Array.from({ length: steps }, (_, t) => at(t + 1) / at(0));
}

/**
 * The steps that a sampler of `count` steps visits, from the last one down, evenly spaced so that the
 * pure noise is among them ("trailing", Lin et al. 2024, §3.3).
 */
export function samplerSteps(steps: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => Math.round(steps - (i * steps) / count) - 1);
}

/** Signal and noise of a step and of the one after it; scalars or tensors that broadcast. */
export interface Levels {
  readonly alpha: tf.Tensor;
  readonly sigma: tf.Tensor;
  readonly nextAlpha: tf.Tensor;
  readonly nextSigma: tf.Tensor;
}

/** The estimate of x from v: α z - σ v. */
export function signalOf(z: tf.Tensor5D, v: tf.Tensor5D, alpha: tf.Tensor, sigma: tf.Tensor) {
  return tf.sub(tf.mul(alpha, z), tf.mul(sigma, v)) as tf.Tensor5D;
}

/** The next z when v was predicted and x was decided on (the estimate, or what is given). */
export function ddimStep(z: tf.Tensor5D, v: tf.Tensor5D, x: tf.Tensor5D, at: Levels): tf.Tensor5D {
  const noise = tf.add(tf.mul(at.sigma, z), tf.mul(at.alpha, v)); // ε = σ z + α v
  return tf.add(tf.mul(at.nextAlpha, x), tf.mul(at.nextSigma, noise)) as tf.Tensor5D;
}
