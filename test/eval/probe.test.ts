/** @file The linear probe: it finds what is linear, invents nothing, and always ends at the same place. */

import { describe, expect, it } from "vitest";
import {
  chanceLevel,
  fitProbe,
  fitProbeWith,
  type ProbeData,
  probeAccuracy,
} from "../../src/eval/probe.ts";
import { Random } from "../../src/runtime/random.ts";

/** Clusters: the class moves feature `class` by `shift`; the rest is noise. */
function clusters(
  n: number,
  classes: number,
  dimensions: number,
  shift: number,
  step: number,
): ProbeData {
  const random = new Random(3, "test/clusters", step);
  const labels = Int32Array.from({ length: n }, (_, i) => i % classes);
  const features = Float64Array.from({ length: n * dimensions }, (_, at) => {
    const hit = at % dimensions === labels[Math.floor(at / dimensions)];
    return random.normal() + (hit ? shift : 0);
  });
  return { features, labels, dimensions };
}

describe("linear probe", () => {
  it("reads linear classes on clips it has not seen", () => {
    const probe = fitProbe(clusters(400, 5, 12, 4, 0), 5);
    expect(probeAccuracy(probe, clusters(300, 5, 12, 4, 1)).top1).toBeGreaterThan(0.93);
  });

  it("stays at chance on noise", () => {
    const probe = fitProbe(clusters(400, 5, 12, 0, 0), 5);
    const { top1, loss } = probeAccuracy(probe, clusters(1000, 5, 12, 0, 1));
    expect(top1).toBeLessThan(0.28);
    expect(loss).toBeLessThan(Math.log(5) + 0.05);
  });

  it("ends at the optimum: every partial derivative is 0, from any start", () => {
    const data = clusters(90, 3, 4, 1, 0);
    const zero = fitProbeWith(data, 3, 0.01);
    const start = Float64Array.from(new Random(1, "start").normals(3 * 5));
    const other = fitProbeWith(data, 3, 0.01, start);
    // Biases have no penalty, so a common shift of all of them is free; the weights are unique.
    for (let k = 0; k < 3; k++) {
      for (let i = 0; i < 4; i++) {
        expect(other.weights[k * 5 + i]).toBeCloseTo(zero.weights[k * 5 + i]!, 2);
      }
    }
    expect(fitProbeWith(data, 3, 0.01)).toEqual(zero);
  });

  it("does not depend on the features' units, and ignores constant ones", () => {
    const data = clusters(200, 4, 6, 2, 0);
    const scaled: ProbeData = {
      ...data,
      features: data.features.map((v, i) => (i % 6 === 5 ? 7 : v * 1000 + 3)),
    };
    const plain: ProbeData = {
      ...data,
      features: data.features.map((v, i) => (i % 6 === 5 ? 0 : v)),
    };
    expect(probeAccuracy(fitProbe(scaled, 4), scaled).top1).toBeCloseTo(
      probeAccuracy(fitProbe(plain, 4), plain).top1,
      9,
    );
  });

  it("refuses clips without a class, NaN and too few clips", () => {
    const data = clusters(40, 4, 3, 1, 0);
    expect(() => fitProbe({ ...data, labels: new Int32Array(40).fill(-1) }, 4)).toThrow(/label -1/);
    expect(() => fitProbe({ ...data, features: data.features.map(() => Number.NaN) }, 4)).toThrow(
      /finite/,
    );
    expect(() => fitProbe(clusters(6, 2, 3, 1, 0), 2)).toThrow(/at least 10/);
  });

  it("knows what guessing gets", () => {
    expect(chanceLevel(Int32Array.of(0, 1, 2, 3), Int32Array.of(0, 1, 2, 3), 4)).toBe(0.25);
    expect(chanceLevel(Int32Array.of(1, 1, 0), Int32Array.of(1, 1, 1, 0), 2)).toBe(0.75);
  });
});
