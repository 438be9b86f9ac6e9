/** @file The formula weights and inputs of the conformance goldens, and what they say of a tensor. */

import { expect } from "vitest";
import { devices, openDevice } from "../../../src/runtime/registry.ts";
import { float32, type HostTensor, sizeOf } from "../../../src/runtime/tensors.ts";
import { permuted } from "../../../src/runtime/weight-files/weights.ts";
import { mulberry } from "../../eval/golden.ts";

/** `count` values of 2·mulberry(seed)/2³² - 1, times `scale`, plus `offset`, rounded to float32. */
export function sym(seed: number, count: number, scale = 1, offset = 0): Float32Array {
  const out = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    out[i] = offset + scale * ((2 * mulberry(seed, i)) / 2 ** 32 - 1);
  }
  return out;
}

/** `count` values of mulberry(seed)/2³² times `scale`. */
export function uniform(seed: number, count: number, scale = 1): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => (scale * mulberry(seed, i)) / 2 ** 32);
}

/** A named host tensor of such values. */
export const tensor = (
  name: string,
  shape: readonly number[],
  values: Float32Array,
): [string, HostTensor] => [name, float32(shape, values)];

/** What a golden says of a tensor; shape and places are channel-first. */
export interface Stats {
  readonly shape: number[];
  readonly mean: number;
  readonly l2: number;
  readonly max: number;
  readonly sample_index: number[];
  readonly sample: number[];
}

/** Hold a channel-last tensor against a golden, errors relative to its largest value. */
export function expectStats(found: HostTensor, golden: Stats, tolerance: number): void {
  const { shape } = found;
  const rank = shape.length;
  const perm = [0, rank - 1, ...Array.from({ length: rank - 2 }, (_, i) => i + 1)];
  expect(perm.map((axis) => shape[axis])).toEqual(golden.shape);
  const values = permuted(found.data as Float32Array, shape, perm);
  let sum = 0;
  let squares = 0;
  let max = Number.NEGATIVE_INFINITY;
  for (const value of values) {
    sum += value;
    squares += value * value;
    max = Math.max(max, value);
  }
  const near = (got: number, want: number, size: number): void =>
    expect(Math.abs(got - want) / size).toBeLessThan(tolerance);
  near(sum / sizeOf(shape), golden.mean, Math.abs(golden.mean));
  near(Math.sqrt(squares), golden.l2, golden.l2);
  near(max, golden.max, Math.abs(golden.max));
  golden.sample_index.forEach((at, i) => near(values[at]!, golden.sample[i]!, golden.max));
}

/** Devices that can be opened here and are fast enough for a published network; the others say why not. */
export const fastDevices: readonly Type[] = await openable();

type Type = keyof typeof devices;

async function openable(): Promise<Type[]> {
  const found: Type[] = [];
  for (const type of (Object.keys(devices) as Type[]).filter((one) => one !== "reference")) {
    try {
      (await openDevice({ type })).dispose();
      found.push(type);
    } catch (error) {
      process.stderr.write(`not tested on ${type}: ${(error as Error).message}\n`);
    }
  }
  return found;
}
