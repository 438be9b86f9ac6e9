/** @file Pareto fronts: the configurations that no other one beats in both of two scores. */

export interface Placed {
  readonly x: number;
  readonly y: number;
}

/**
 * Indices of the points that are not dominated, by increasing x. A point dominates another when it is
 * at least as good in both and better in one.
 * @param better which side is better on each axis
 */
export function paretoFront(
  points: readonly Placed[],
  better: { readonly x: "lower" | "higher"; readonly y: "lower" | "higher" },
): number[] {
  const [sx, sy] = [better.x === "lower" ? 1 : -1, better.y === "lower" ? 1 : -1];
  return points
    .map((_, i) => i)
    .filter((i) => {
      const [x, y] = [sx * points[i]!.x, sy * points[i]!.y];
      return !points.some((other) => {
        const [ox, oy] = [sx * other.x, sy * other.y];
        return ox <= x && oy <= y && (ox < x || oy < y);
      });
    })
    .sort((a, b) => points[a]!.x - points[b]!.x);
}

/** Pairs of scores that are read against each other, where both are there. */
export const tradeoffs: readonly {
  readonly title: string;
  readonly x: readonly string[];
  readonly y: readonly string[];
}[] = [
  {
    title: "Rate against distortion",
    x: ["rate/adaptive_bpp", "rate/nominal_bpp"],
    y: ["reconstruction/psnr", "reconstruction/lpips"],
  },
  {
    title: "Bits of a clip against generation",
    x: ["rate/nominal_bits_per_clip"],
    y: ["frechet/generation", "fvd/generation"],
  },
  {
    title: "Reconstruction against generation",
    x: ["reconstruction/psnr"],
    y: ["frechet/generation", "fvd/generation"],
  },
];
