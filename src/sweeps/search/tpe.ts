/**
 * @file Samplers as ask/tell: given what has been tried and what came of it, propose a point.
 *
 * TPE (Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization"; the choices of Watanabe
 * 2023, "Tree-Structured Parzen Estimator"): the trials are split into the best γ and the rest, each
 * side gives a density a dimension (a mixture of truncated normals on the unit interval and a flat
 * prior; smoothed counts for choices), candidates are drawn from the good density, and the one with
 * the largest ratio of densities is proposed.
 */

import type { Json } from "../../config/tree.ts";
import { Random } from "../../runtime/random.ts";
import type { Dimension, Space } from "../schema.ts";
import { fromUnit } from "../space.ts";

/** A tried point on the unit cube, and its result; smaller is better. Running trials have none. */
export interface Observation {
  readonly unit: readonly number[];
  readonly value: number | undefined;
}

const CANDIDATES = 24;

/**
 * Propose the n-th point.
 * @param n its number: proposals are a function of the seed, n and the observations
 * @returns one number in [0, 1) a dimension of the space
 */
export function propose(
  space: Space,
  sampler: "random" | "tpe",
  n: number,
  seed: number,
  startup: number,
  observations: readonly Observation[],
): number[] {
  const random = new Random(seed, "sweeps/search", n);
  const dimensions = Object.values(space);
  const told = observations
    .filter((o): o is Observation & { value: number } => o.value !== undefined)
    .toSorted((a, b) => a.value - b.value);
  if (sampler === "random" || told.length < startup) {
    return dimensions.map(() => random.uniform());
  }
  // γ(n) = min(⌈n/10⌉, 25), and at least two to have a width to speak of.
  const good = Math.max(2, Math.min(Math.ceil(told.length / 10), 25));
  const above = told.slice(0, good);
  // Trials that still run count as bad: the next proposal goes elsewhere.
  const pending = observations.filter(({ value }) => value === undefined);
  const below = [...told.slice(good), ...pending];
  return dimensions.map((dimension, d) => {
    const [l, g] = [above, below].map((side) =>
      densityOf(
        dimension,
        side.map(({ unit }) => unit[d]!),
      ),
    ) as [Density, Density];
    let best = 0;
    let ratio = Number.NEGATIVE_INFINITY;
    for (let i = 0; i < CANDIDATES; i++) {
      const u = l.draw(random);
      const value = Math.log(l.at(u)) - Math.log(g.at(u));
      if (value > ratio) {
        [best, ratio] = [u, value];
      }
    }
    return best;
  });
}

/** The values of a point. */
export function valuesOf(space: Space, unit: readonly number[]): { [key: string]: Json } {
  return Object.fromEntries(
    Object.entries(space).map(([key, dimension], d) => [key, fromUnit(dimension, unit[d]!)]),
  );
}

interface Density {
  draw(random: Random): number;
  at(u: number): number;
}

function densityOf(dimension: Dimension, points: readonly number[]): Density {
  return "choice" in dimension
    ? countedDensity(dimension.choice.length, points)
    : parzenDensity(points);
}

/** Choices with one added to each count. */
function countedDensity(size: number, points: readonly number[]): Density {
  const weights = Array.from({ length: size }, () => 1);
  for (const u of points) {
    weights[Math.min(size - 1, Math.floor(u * size))]! += 1;
  }
  const total = points.length + size;
  return {
    draw(random) {
      let left = random.uniform() * total;
      const chosen = weights.findIndex((weight) => (left -= weight) < 0);
      return ((chosen < 0 ? size - 1 : chosen) + 0.5) / size;
    },
    at: (u) => (weights[Math.min(size - 1, Math.floor(u * size))]! / total) * size,
  };
}

/** Truncated normals at the points, as wide as the gap to their neighbours, and a flat prior. */
function parzenDensity(points: readonly number[]): Density {
  const sorted = points.toSorted((a, b) => a - b);
  const least = 1 / Math.min(100, points.length + 1);
  const kernels = sorted.map((mu, i) => {
    const gap = Math.max(mu - (sorted[i - 1] ?? 0), (sorted[i + 1] ?? 1) - mu);
    const sigma = Math.min(1, Math.max(gap, least / 2));
    const mass = cdf((1 - mu) / sigma) - cdf(-mu / sigma);
    return { mu, sigma, mass };
  });
  const total = kernels.length + 1;
  return {
    draw(random) {
      const kernel = kernels[random.int(total)];
      if (kernel === undefined) {
        return random.uniform();
      }
      for (let i = 0; i < 100; i++) {
        const u = kernel.mu + kernel.sigma * random.normal();
        if (u >= 0 && u < 1) {
          return u;
        }
      }
      return kernel.mu;
    },
    at(u) {
      const sum = kernels.reduce((s, { mu, sigma, mass }) => {
        const z = (u - mu) / sigma;
        return s + Math.exp(-0.5 * z * z) / (sigma * Math.sqrt(2 * Math.PI) * mass);
      }, 1);
      return sum / total;
    },
  };
}

/** The standard normal distribution function, to 7.5e-8 (Abramowitz and Stegun 26.2.17). */
function cdf(x: number): number {
  const t = 1 / (1 + 0.2316419 * Math.abs(x));
  const tail =
    (Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI)) *
    t *
    (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  return x >= 0 ? 1 - tail : tail;
}
